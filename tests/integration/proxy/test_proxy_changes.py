"""kube-proxy while things change: endpoints, flushed tables, restarts, stale UDP flows, clean-up, health."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proxy_world import FakeApi, World, endpoint_slice, eventually, node, service

from nsk8s.net import chainset
from nsk8s.net.chainset import ChainSet

pytestmark = pytest.mark.root

A, B, R = World.PODS["a"], World.PODS["b"], World.PODS["r"]


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        for pod in "ab":
            world.echo(pod, 8080, pod)
        yield world


@pytest.fixture
def api(world: World) -> Iterator[FakeApi]:
    with world.api() as api:
        yield api


def saved(world: World) -> ChainSet:
    return chainset.parse(world.sh("node", "iptables-nft-save"))


def get(world: World, where: str, url: str) -> tuple[int, str]:
    out = world.sh(where, f"curl -s -o - -w '\\n%{{http_code}}' --noproxy '*' -m 3 {url}", check=False)
    body, _, code = out.rpartition("\n")
    return int(code or 0), body


def metric(world: World, name: str) -> float:
    _, text = get(world, "node", "http://127.0.0.1:10249/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"kubeproxy_{name}"))


def test_rules_follow_endpoints_within_a_second(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    names = {A: "a", B: "b"}

    def change(ip: str) -> float:
        took = programmed(world, api, ip)
        assert world.ask("node", "10.96.0.50", 80).split()[0] == names[ip]
        return took

    # minSyncPeriod 1 s after the last sync, and the asking itself
    least_of(6, lambda i: max(change(B), change(A), change(B)), below_s=1.5)
    chains = saved(world).tables["nat"]
    assert sum(n.startswith("KUBE-SEP-") for n in chains) == 1, "chains of removed endpoints stay"
    api.delete("EndpointSlice", "web-1", "default")
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3) == "refused")
    api.delete("Service", "web", "default")
    eventually(lambda: "10.96.0.50" not in world.sh("node", "iptables-nft-save"))
    assert not [n for n in saved(world).tables["nat"] if n.startswith(("KUBE-SVC-", "KUBE-SEP-"))]


def programmed(world: World, api: FakeApi, ip: str) -> float:
    """How long it takes, in seconds, until the service's rules lead to another endpoint."""
    started = time.monotonic()
    api.put(endpoint_slice("web", (ip, "node1")))
    eventually(lambda: f"--to-destination {ip}:8080" in world.sh("node", "iptables-nft-save -t nat"))
    return time.monotonic() - started


def least_of(tries: int, measure: Callable[[int], float], *, below_s: float) -> None:
    """A machine that is busy makes everything slower and nothing quicker: what waits by design is quick at no try."""
    taken: list[float] = []
    while not taken or taken[-1] >= below_s:
        assert len(taken) < tries, f"{taken} s, and never less than {below_s}"
        taken.append(measure(len(taken)))


def test_an_isolated_change_is_programmed_at_once(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path)
    eventually(lambda: saved(world).rules("nat", "KUBE-MARK-MASQ"))

    def change(i: int) -> float:
        time.sleep(1.2)  # let minSyncPeriod pass: the next change is then alone
        return programmed(world, api, (B, A)[i % 2])

    least_of(8, change, below_s=0.5)


def test_partial_sync_leaves_other_services_alone(world: World, api: FakeApi, tmp_path: Path) -> None:
    """Counters tell: a chain that was not named keeps them."""
    api.put(service("one", "10.96.0.51"), endpoint_slice("one", (A, "node1")))
    api.put(service("two", "10.96.0.52"), endpoint_slice("two", (A, "node1")))
    world.proxy(api, tmp_path)
    eventually(lambda: world.ask("b", "10.96.0.51", 80, timeout_s=0.3).startswith("a"))
    before = world.sh("node", "iptables-nft-save -c -t nat | grep -- '-A KUBE-SVC.*default/one ->'")
    assert int(before[1 : before.index(":")]) > 0
    api.put(endpoint_slice("two", (B, "node1")))
    eventually(lambda: f"{B}:8080" in world.sh("node", "iptables-nft-save -t nat"))
    assert world.sh("node", "iptables-nft-save -c -t nat | grep -- '-A KUBE-SVC.*default/one ->'") == before
    assert metric(world, "sync_partial_proxy_rules_duration_seconds_count") >= 1
    assert metric(world, "sync_full_proxy_rules_duration_seconds_count") == 1


@pytest.mark.parametrize("flush", ["-t nat -F; iptables-nft -t nat -X; iptables-nft -t mangle -F; iptables-nft -t mangle -X; "
                                   "iptables-nft -t filter -F; iptables-nft -t filter -X"])  # fmt: skip
def test_someone_flushes_the_tables(world: World, api: FakeApi, tmp_path: Path, flush: str) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    process = world.proxy(api, tmp_path, "--iptables-sync-period", "2s")
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    before = saved(world)
    with world.paused(process):
        world.sh("node", f"iptables-nft {flush}")
        assert world.ask("b", "10.96.0.50", 80, timeout_s=0.3) != f"a {B}"
    eventually(lambda: saved(world) == before)
    assert world.ask("b", "10.96.0.50", 80) == f"a {B}"


def test_the_next_change_brings_back_what_upstream_writes_with_it(world: World, api: FakeApi, tmp_path: Path) -> None:
    """Upstream writes the shared chains anew with every sync, and those of the Service that changed."""
    one, two = (endpoint_slice("web", *((ip, "node1") for ip in ips)) for ips in ((A,), (A, B)))
    api.put(service("web", "10.96.0.50"), service("other", "10.96.0.51"), one)
    world.proxy(api, tmp_path, "--iptables-min-sync-period", "10ms")
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    eventually(lambda: saved(world).rules("filter", "KUBE-SERVICES"))
    before = saved(world)
    sep = next(n for n in before.tables["nat"] if n.startswith("KUBE-SEP-"))
    damages = ("-t nat -F KUBE-SERVICES", "-t filter -I KUBE-FORWARD -j DROP", f"-t nat -F {sep}")
    for done, damage in enumerate(damages, 1):
        world.sh("node", f"iptables-nft {damage}")
        api.put(two)
        eventually(lambda: f"{B}:8080" in world.sh("node", "iptables-nft-save -t nat"))
        api.put(one)
        eventually(lambda: saved(world) == before)
        eventually(lambda done=done: metric(world, "sync_full_proxy_rules_duration_seconds_count") == 1 + done)


def test_a_restart_changes_no_rule_and_removes_stale_chains(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    first = world.proxy(api, tmp_path)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    before = saved(world)
    first.kill()
    first.wait()
    assert world.ask("b", "10.96.0.50", 80).startswith("a"), "rules stay when kube-proxy is killed"
    world.sh("node", "iptables-nft -t nat -N KUBE-SEP-STALESTALESTALE1; iptables-nft -t nat -N OTHERS")
    world.proxy(api, tmp_path)
    eventually(lambda: "KUBE-SEP-STALESTALESTALE1" not in saved(world).tables["nat"])
    after = saved(world)
    assert "OTHERS" in after.tables["nat"]
    assert after.only(("KUBE-", "INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING")) == before.only(
        ("KUBE-", "INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING")
    )


def test_stale_udp_flows_are_cut_and_serving_ones_kept(world: World, api: FakeApi, tmp_path: Path) -> None:
    for pod in "ab":
        world.echo(pod, 5353, pod, udp=True)
    api.put(service("dns", "10.96.0.53", port=53, protocol="UDP"),
            endpoint_slice("dns", (A, "node1"), port=5353, protocol="UDP"))  # fmt: skip
    world.proxy(api, tmp_path)
    eventually(lambda: world.ask("node", "10.96.0.53", 53, udp=True, source_port=4000, timeout_s=0.3).startswith("a"))
    before = metric(world, "conntrack_reconciler_deleted_entries_total")  # what was asked before there were rules is cut, too
    # One more, to an address that nobody translates: it must not be touched.
    world.ask("node", A, 5353, udp=True, source_port=4001)
    api.put(endpoint_slice("dns", (B, "node1"), port=5353, protocol="UDP"))
    eventually(lambda: world.ask("node", "10.96.0.53", 53, udp=True, source_port=4000, timeout_s=0.3).startswith("b"))
    flows = world.sh("node", "conntrack -L -p udp 2>/dev/null")
    assert "sport=4001 dport=5353" in flows
    assert metric(world, "conntrack_reconciler_deleted_entries_total") == before + 1
    # Terminating but serving: the flow goes on, though the rules prefer the other one.
    draining = {"addresses": [B], "nodeName": "node1", "conditions": {"ready": False, "serving": True, "terminating": True}}
    ready = {"addresses": [A], "nodeName": "node1", "conditions": {"ready": True}}
    api.put(endpoint_slice("dns", draining, ready, port=5353, protocol="UDP"))
    eventually(lambda: f"{A}:5353" in world.sh("node", "iptables-nft-save -t nat"))
    assert world.ask("node", "10.96.0.53", 53, udp=True, source_port=4000).startswith("b")
    assert world.ask("node", "10.96.0.53", 53, udp=True, source_port=4002).startswith("a")


def test_cleanup_leaves_only_what_others_made(world: World, api: FakeApi, tmp_path: Path) -> None:
    world.sh("node", "iptables-nft -t nat -N OTHERS; iptables-nft -A INPUT -s 192.0.2.1 -j DROP")
    before = saved(world)
    api.put(service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050}), endpoint_slice("web", (A, "node1")))
    process = world.proxy(api, tmp_path)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    assert world.stop(process) == 0
    assert saved(world) != before
    assert world.component("node", "nsk8s.proxy.main", "--cleanup").wait(60) == 0
    after = saved(world)
    for table, chains in before.tables.items():
        assert after.tables[table] == chains
    assert not [n for chains in after.tables.values() for n in chains if n.startswith("KUBE-")]


def test_health_check_node_port_healthz_and_metrics(world: World, api: FakeApi, tmp_path: Path) -> None:
    lb = service("lb", "10.96.0.60", type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32100,
                 port_fields={"nodePort": 30060})  # fmt: skip
    api.put(lb, endpoint_slice("lb", (A, "node1"), (A, "node1"), (R, "node2")))
    world.proxy(api, tmp_path)
    eventually(lambda: get(world, "outside", f"{World.NODE}:32100")[0] == 200)
    _, body = get(world, "outside", f"{World.NODE}:32100")
    wanted = {"service": {"namespace": "default", "name": "lb"}, "localEndpoints": 1, "serviceProxyHealthy": True}
    assert json.loads(body) == wanted
    assert "health check node port" in world.sh("node", "iptables-nft -S KUBE-NODEPORTS")
    assert get(world, "outside", f"{World.NODE}:10256/healthz")[0] == 200
    assert get(world, "outside", f"{World.NODE}:10256/livez")[0] == 200
    assert get(world, "outside", f"{World.NODE}:10249/metrics")[0] == 0, "metrics are for the node only"
    assert get(world, "node", "127.0.0.1:10249/proxyMode") == (200, "iptables")
    api.put(endpoint_slice("lb", (R, "node2")))
    eventually(lambda: get(world, "outside", f"{World.NODE}:32100")[0] == 503)
    assert metric(world, "sync_proxy_rules_no_local_endpoints_total") == 1
    leaving = node("node1", world.NODE, "10.244.1.0/24")
    leaving["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
    api.put(leaving)
    eventually(lambda: get(world, "outside", f"{World.NODE}:10256/healthz")[0] == 503)
    assert get(world, "outside", f"{World.NODE}:10256/livez")[0] == 200
    api.delete("Service", "lb", "default")
    eventually(lambda: get(world, "outside", f"{World.NODE}:32100")[0] == 0)


def test_a_zone_label_turns_topology_hints_on(world: World, api: FakeApi, tmp_path: Path) -> None:
    def hinted(ip: str, zone: str) -> dict:
        return {"addresses": [ip], "nodeName": "x", "conditions": {"ready": True}, "hints": {"forZones": [{"name": zone}]}}

    api.put(service("web", "10.96.0.50"), endpoint_slice("web", hinted(A, "east"), hinted(B, "west")))
    world.proxy(api, tmp_path)
    eventually(lambda: len([n for n in saved(world).tables.get("nat", {}) if n.startswith("KUBE-SEP-")]) == 2)
    api.put(node("node1", world.NODE, "10.244.1.0/24", **{"topology.kubernetes.io/zone": "west"}))
    eventually(lambda: len([n for n in saved(world).tables["nat"] if n.startswith("KUBE-SEP-")]) == 1)
    assert world.ask("node", "10.96.0.50", 80).startswith("b")


def test_node_port_addresses_and_no_localhost(world: World, api: FakeApi, tmp_path: Path) -> None:
    world.sh("node", "ip addr add 192.168.77.99/24 dev eth0")
    api.put(service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050}), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path, "--nodeport-addresses", f"{World.NODE}/32")
    eventually(lambda: world.ask("outside", World.NODE, 30050, timeout_s=0.3).startswith("a"))
    assert world.ask("outside", "192.168.77.99", 30050) == "refused"
    assert world.ask("node", "127.0.0.1", 30050) == "refused"
    assert world.sh("node", "cat /proc/sys/net/ipv4/conf/all/route_localnet").strip() == "0"
    assert "KUBE-FIREWALL" not in world.sh("node", "iptables-nft-save")


def test_localhost_node_ports_are_not_open_to_neighbours(world: World, api: FakeApi, tmp_path: Path) -> None:
    """route_localnet lets martians in; KUBE-FIREWALL keeps them out."""
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path)
    eventually(lambda: "KUBE-FIREWALL" in saved(world).tables.get("filter", {}))
    world.echo("node", 9999, "secret")
    world.sh("outside", "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip addr del 127.0.0.1/8 dev lo; "
             f"ip route add 127.0.0.5 via {World.NODE}")  # fmt: skip
    assert world.ask("outside", "127.0.0.5", 9999, timeout_s=0.5) == "timeout"


def test_it_refuses_the_machines_own_namespace(tmp_path: Path) -> None:
    for module in ("nsk8s.proxy.main", "nsk8s.nodenetwork.main"):
        code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
        argv = [sys.executable, "-c", code, "--cluster-cidr", "10.244.0.0/16"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "own network namespace" in done.stderr


def test_a_real_witness_reads_the_legacy_rules(world: World, api: FakeApi, tmp_path: Path) -> None:
    """libiptc, through python-iptables: the kernel holds what we meant."""
    iptc = pytest.importorskip("iptc")
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1"), (B, "node1")))
    world.proxy(api, tmp_path, env={"NSK8S_IPTABLES": "legacy"})
    eventually(lambda: "KUBE-SVC" in world.sh("node", "! grep -q nat /proc/net/ip_tables_names || iptables-legacy-save -t nat"))

    def look() -> dict[str, list[dict]]:
        table = iptc.Table(iptc.Table.NAT)
        table.refresh()
        return {c.name: [iptc.easy.decode_iptc_rule(r) for r in c.rules] for c in table.chains}

    chains = world.in_node(look)
    svc = next(n for n in chains if n.startswith("KUBE-SVC-"))
    assert chains["KUBE-SERVICES"][0]["dst"] == "10.96.0.50/32"
    assert chains["KUBE-SERVICES"][0]["target"] == svc
    assert [r["target"][:9] for r in chains[svc]] == ["KUBE-MARK", "KUBE-SEP-", "KUBE-SEP-"]
    assert float(chains[svc][1]["statistic"]["probability"]) == pytest.approx(0.5)
    assert [chains[r["target"]][1]["target"]["DNAT"]["to-destination"] for r in chains[svc][1:]] == [f"{A}:8080", f"{B}:8080"]
    assert "KUBE" not in world.sh("node", "iptables-nft-save 2>/dev/null"), "never mixed"


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_settings_that_the_kernel_sees(world: World, api: FakeApi, tmp_path: Path, mode: str) -> None:
    """Local traffic told by the bridge it comes from, another mark, conntrack's times and its tolerance."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        f"mode: {mode}\n{mode}: {{masqueradeBit: 15}}\ndetectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: cni0}}\n"
        "conntrack: {tcpEstablishedTimeout: 2h, tcpCloseWaitTimeout: 30m, udpTimeout: 44s, udpStreamTimeout: 55s, tcpBeLiberal: true}\n"
    )
    world.sh("node2", f"ip route add 10.96.0.0/16 via {World.NODE}")
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path, "--config", str(config))
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3) == f"a {B}")
    assert world.ask("r", "10.96.0.50", 80) == "a 10.244.1.1", "another node's pod is not this bridge's"
    rules = world.sh("node", "iptables-save" if mode == "iptables" else "nft list table ip kube-proxy")
    assert ("0x8000" if mode == "iptables" else "0x00008000") in rules
    assert "INVALID" not in rules
    assert ("-i cni0" if mode == "iptables" else 'iifname != "cni0"') in rules
    values = world.sh("node", "cd /proc/sys/net/netfilter; cat nf_conntrack_tcp_timeout_established nf_conntrack_tcp_timeout_close_wait "
                      "nf_conntrack_udp_timeout nf_conntrack_udp_timeout_stream nf_conntrack_tcp_be_liberal")  # fmt: skip
    assert values.split() == ["7200", "1800", "44", "55", "1"]


def test_a_deleted_node_serves_on_and_asks_for_no_more_traffic(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050}), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path, "--proxy-mode", "nftables")
    eventually(lambda: world.ask("outside", world.NODE, 30050, timeout_s=0.3).startswith("a"))
    assert json.loads(get(world, "node", "127.0.0.1:10256/healthz")[1])["status"]["IPv4"]["healthy"]
    api.delete("Node", "node1")
    code, body = eventually(lambda: (found := get(world, "node", "127.0.0.1:10256/healthz"))[0] == 503 and found)
    assert (code, json.loads(body)["nodeEligible"], json.loads(body)["healthy"]) == (503, False, True)
    assert get(world, "node", "127.0.0.1:10256/livez")[0] == 200
    api.put(endpoint_slice("web", (B, "node1")))
    eventually(lambda: world.ask("outside", world.NODE, 30050, timeout_s=0.3).startswith("b"))
    shown = json.loads(get(world, "node", "127.0.0.1:10249/configz")[1])["kubeproxy.config.k8s.io"]
    assert (shown["mode"], shown["nodePortAddresses"]) == ("nftables", ["primary"])
    assert get(world, "node", "127.0.0.1:10249/what")[0] == 404


def test_a_health_check_port_answers_where_node_ports_do(world: World, api: FakeApi, tmp_path: Path) -> None:
    lb = service("lb", "10.96.0.60", type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32100,
                 port_fields={"nodePort": 30060})  # fmt: skip
    api.put(lb, endpoint_slice("lb", (A, "node1")))
    world.proxy(api, tmp_path, "--nodeport-addresses", "127.0.0.0/8")
    eventually(lambda: get(world, "node", "127.0.0.1:32100")[0] == 200)
    assert get(world, "outside", f"{World.NODE}:32100")[0] == 0
    assert world.ask("node", "127.0.0.1", 30060).startswith("a")
    assert world.ask("outside", World.NODE, 30060) == "refused", "nobody listens there"
