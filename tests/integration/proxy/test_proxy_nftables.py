"""nftables mode in the kernel: increments, recovery, restarts, and switching modes, which leaves nothing of the old one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_table import CASES, node_object, objects, six, slice_of
from proxy_world import FakeApi, World, endpoint_slice, eventually, node, service

from nsk8s.kernel import nftwire
from nsk8s.net import chainset

pytestmark = pytest.mark.root

A, B = World.PODS["a"], World.PODS["b"]
NFT = ("--proxy-mode", "nftables")
BOTH = "10.244.0.0/16,fd00:10:244::/48"


@pytest.fixture
def world() -> Iterator[World]:
    with World.answering("ab") as world:
        yield world


@pytest.fixture
def api(world: World) -> Iterator[FakeApi]:
    with world.api() as api:
        yield api


def table(world: World, family: str = "ip") -> str:
    """The table as nft lists it, sorted: the order of creation does not count."""
    listed = world.sh("node", f"nft -s list table {family} kube-proxy 2>/dev/null || true")
    blocks = [" ".join(b.split()) for b in listed.replace("elements = {", "elements = {\n").split("\n\t}\n")]
    return "\n".join(sorted(" ".join(sorted(b.replace(",", " , ").split())) if "elements" in b else b for b in blocks))


def test_after_increments_the_kernel_holds_what_a_fresh_start_writes(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(node_object())
    for index, each in enumerate(CASES, 1):
        api.put(*objects(index, each))
    first = world.proxy(api, tmp_path, *NFT, clusters=BOTH)
    eventually(lambda: "node-hints" in world.sh("node", "nft list map ip6 kube-proxy service-ips 2>/dev/null || true"))
    wanted = table(world), table(world, "ip6")
    for each in CASES[::3]:  # every third loses its endpoints, and gets them back
        api.put(*(slice_of(each, v, ()) for v in (False, True)))
    eventually(lambda: table(world) != wanted[0])
    for each in CASES[::3]:
        api.put(*(slice_of(each, v) for v in (False, True)))
    for each in CASES[1::3]:
        api.delete("Service", each.name, "default")
    eventually(lambda: "service-ips" in table(world) and CASES[1].name + "/tcp" not in table(world, "ip6"))
    for index, each in enumerate(CASES, 1):
        api.put(objects(index, each)[0])
    eventually(lambda: (table(world), table(world, "ip6")) == wanted)
    world.stop(first)
    world.sh("node", "nft flush ruleset")
    world.proxy(api, tmp_path, *NFT, clusters=BOTH)
    eventually(lambda: (table(world), table(world, "ip6")) == wanted)


def handles(world: World) -> set[str]:
    """Every rule with its chain and its handle: a rule that is written anew has another one."""
    listed = json.loads(world.sh("node", "nft -j list table ip kube-proxy"))["nftables"]
    return {f"{r['chain']} {r['handle']}" for each in listed if (r := each.get("rule"))}


def test_what_is_heard_after_the_start_writes_only_what_it_changes(world: World, api: FakeApi, tmp_path: Path) -> None:
    """Without this a ServiceCIDR that comes after the first sync has 10,000 Services written twice: half a minute in which no
    other change is heard."""
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path, *NFT)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    before = handles(world)
    cidr = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}}
    api.put({**cidr, "spec": {"cidrs": ["10.96.0.0/16"]}})
    eventually(lambda: "10.96.0.0/16" in world.sh("node", "nft list chain ip kube-proxy cluster-ips-check"))
    beaten = node("node1", World.NODE, "10.244.1.0/24")
    beaten["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]
    api.put(beaten)
    api.put(service("other", "10.96.0.51"), endpoint_slice("other", (B, "node1")))
    eventually(lambda: world.ask("b", "10.96.0.51", 80, timeout_s=0.3).startswith("b"))
    gone, new = before - handles(world), handles(world) - before
    assert {rule.split()[0] for rule in gone} == {"cluster-ips-check"}
    assert {rule.split()[0].partition("-")[0] for rule in new} == {"cluster", "service", "endpoint"}
    assert all("/other/" in rule for rule in new if not rule.startswith("cluster-ips-check"))
    metrics = world.sh("node", "curl -s 127.0.0.1:10249/metrics")
    assert 'sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1\n' in metrics


@pytest.mark.parametrize("damage", ["flush ruleset", "delete table ip kube-proxy", "flush table ip kube-proxy"])
def test_someone_takes_the_rules_away(world: World, api: FakeApi, tmp_path: Path, damage: str) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    config = tmp_path / "config.yaml"
    config.write_text("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n"
                      "clusterCIDR: 10.244.0.0/16\nnftables: {syncPeriod: 1s, minSyncPeriod: 100ms}\n")  # fmt: skip
    process = world.proxy(api, tmp_path, "--config", str(config))
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    before = table(world)
    with world.paused(process):
        world.sh("node", f"nft {damage}")
        assert table(world) != before
    eventually(lambda: table(world) == before)
    assert world.ask("b", "10.96.0.50", 80) == f"a {B}"


def test_a_restart_keeps_what_affinity_remembers_and_removes_what_is_stale(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.50", sessionAffinity="ClientIP"), endpoint_slice("web", (A, "node1"), (B, "node1")))
    first = world.proxy(api, tmp_path, *NFT)
    eventually(lambda: world.ask("node", "10.96.0.50", 80, timeout_s=0.3)[0] in "ab")
    chosen = world.ask("node", "10.96.0.50", 80).split()[0]
    first.kill()
    first.wait()
    world.sh("node", "nft add chain ip kube-proxy service-STALE/x; nft add set ip kube-proxy affinity-STALE/x '{ type ipv4_addr; }'")
    world.proxy(api, tmp_path, *NFT)
    eventually(lambda: "STALE" not in world.sh("node", "nft list table ip kube-proxy"))
    assert {world.ask("node", "10.96.0.50", 80).split()[0] for _ in range(8)} == {chosen}
    # Another time-out means another set: the memory goes, the service stays.
    api.put(service("web", "10.96.0.50", sessionAffinity="ClientIP",
                    sessionAffinityConfig={"clientIP": {"timeoutSeconds": 77}}))  # fmt: skip
    eventually(lambda: "timeout 1m17s" in world.sh("node", "nft list table ip kube-proxy"))
    assert world.ask("node", "10.96.0.50", 80).split()[0] in "ab"


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_switching_modes_leaves_nothing_of_the_old_one(world: World, api: FakeApi, tmp_path: Path, variant: str) -> None:
    def saved() -> str:
        nft = world.sh("node", "iptables-nft-save; ip6tables-nft-save")
        legacy = world.sh("node", "for f in ip ip6; do [ -z \"$(cat /proc/net/${f}_tables_names 2>&1)\" ] || ${f}tables-legacy-save; done")
        return nft + legacy

    world.sh("node", f"iptables-{variant} -t nat -N OTHERS; iptables-{variant} -A INPUT -s 192.0.2.1 -j DROP")
    before = chainset.parse(world.sh("node", f"iptables-{variant}-save"))
    web = service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050})
    web["spec"]["clusterIPs"].append("fd00:10:96::50")
    api.put(web, endpoint_slice("web", (A, "node1")))
    first = world.proxy(api, tmp_path, "--iptables", variant)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    eventually(lambda: "fd00:10:96::50" in saved())
    assert world.stop(first) == 0
    second = world.proxy(api, tmp_path, *NFT)
    eventually(lambda: "KUBE-" not in saved())
    assert world.ask("outside", World.NODE, 30050).startswith("a")
    after = chainset.parse(world.sh("node", f"iptables-{variant}-save"))
    assert {t: after.tables[t] for t in before.tables} == dict(before.tables), "others' rules stay"
    assert world.sh("node", "cat /proc/sys/net/ipv4/conf/all/route_localnet").strip() == "0"
    assert world.stop(second) == 0
    world.proxy(api, tmp_path, "--iptables", variant)
    eventually(lambda: "kube-proxy" not in world.sh("node", "nft list tables"))
    assert world.ask("outside", World.NODE, 30050).startswith("a")


def test_connections_go_on_while_the_mode_is_switched(world: World, api: FakeApi, tmp_path: Path) -> None:
    """The new mode's rules are there before the old one's go."""
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    first = world.proxy(api, tmp_path)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    world.stop(first)
    world.proxy(api, tmp_path, *NFT)

    def is_switched() -> bool:
        assert world.ask("b", "10.96.0.50", 80) == f"a {B}"
        return "KUBE-" not in world.sh("node", "iptables-nft-save")

    eventually(is_switched)
    assert world.ask("b", "10.96.0.50", 80) == f"a {B}"


def test_clean_up_deletes_the_tables(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    process = world.proxy(api, tmp_path, *NFT)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    assert world.stop(process) == 0
    assert "kube-proxy" in world.sh("node", "nft list tables"), "rules stay when kube-proxy ends"
    assert world.component("node", "nsk8s.proxy.main", "--cleanup").wait(60) == 0
    assert "kube-proxy" not in world.sh("node", "nft list tables")


def test_proxy_mode_metrics_and_counting_of_failures(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path, *NFT)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    get = "curl -s --noproxy '*' -m 3 127.0.0.1:10249"
    assert world.sh("node", f"{get}/proxyMode") == "nftables"
    metrics = world.sh("node", f"{get}/metrics")
    assert 'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1' in metrics
    assert "kubeproxy_sync_proxy_rules_nftables_sync_failures_total" in metrics
    assert "iptables" not in metrics, "metrics of the other mode"


BASE = """add table {f} kube-proxy
add chain {f} kube-proxy mark-for-masquerade
add map {f} kube-proxy service-ips {{ type {t} . inet_proto . inet_service : verdict ; }}
add map {f} kube-proxy service-nodeports {{ type inet_proto . inet_service : verdict ; }}
add set {f} kube-proxy cluster-ips {{ type {t} ; }}
add chain {f} kube-proxy service-X/a
add chain {f} kube-proxy endpoint-X/a
add rule {f} kube-proxy service-X/a numgen random mod 1 vmap {{ 0 : goto endpoint-X/a }}
"""
CHANGE = """add chain {f} kube-proxy endpoint-X/b
add chain {f} kube-proxy external-X/a
flush chain {f} kube-proxy service-X/a
add rule {f} kube-proxy service-X/a {f} daddr {vip} {f} saddr != {net} jump mark-for-masquerade
add rule {f} kube-proxy service-X/a numgen random mod 2 vmap {{ 0 : goto endpoint-X/a , 1 : goto endpoint-X/b }}
add rule {f} kube-proxy endpoint-X/b {f} saddr {ip} jump mark-for-masquerade
add rule {f} kube-proxy endpoint-X/b meta l4proto tcp dnat to {to}
add rule {f} kube-proxy endpoint-X/a meta l4proto udp dnat to {to}
add rule {f} kube-proxy external-X/a jump mark-for-masquerade
add rule {f} kube-proxy external-X/a goto service-X/a
add element {f} kube-proxy service-ips {{ {vip} . tcp . 80 : goto service-X/a }}
add element {f} kube-proxy service-ips {{ {vip} . udp . 53 : drop }}
add element {f} kube-proxy service-ips {{ {vip} . sctp . 53 comment "default/dns:dns-sctp" : goto external-X/a }}
add element {f} kube-proxy service-nodeports {{ udp . 30053 comment "default/dns:dns" : drop }}
add element {f} kube-proxy service-nodeports {{ tcp . 30080 : goto external-X/a }}
add element {f} kube-proxy cluster-ips {{ {vip} }}
"""
BACK = """flush chain {f} kube-proxy service-X/a
flush chain {f} kube-proxy endpoint-X/b
delete element {f} kube-proxy service-ips {{ {vip} . udp . 53 : drop }}
delete element {f} kube-proxy cluster-ips {{ {vip} }}
add rule {f} kube-proxy service-X/a numgen random mod 1 vmap {{ 0 : goto endpoint-X/a }}
delete chain {f} kube-proxy endpoint-X/b
"""
WIRE = "import sys; from nsk8s.kernel import nftwire; w = nftwire.encode(sys.stdin.read()); nftwire.Channel().send(w, RuntimeError)"


@pytest.mark.parametrize(("family", "net"), [
    ("ip", "10.244.0.0/16"), ("ip", "10.128.0.0/9"), ("ip", "10.1.2.3/32"), ("ip6", "fd00:10:244::/48"), ("ip6", "fd00:10::/37"),
])  # fmt: skip
def test_what_goes_over_netlink_is_what_nft_would_write(world: World, family: str, net: str) -> None:
    words = {"f": family, "t": "ipv4_addr", "vip": "10.96.0.1", "net": net, "ip": "10.244.1.2", "to": "10.244.1.2:8080"}
    if family == "ip6":
        words |= {"t": "ipv6_addr", "vip": "fd00:96::1", "ip": "fd00::2", "to": "[fd00::2]:8080"}

    def run(script: str, *, by: str) -> str:
        program = "nft -f -" if by == "nft" else f'{sys.executable} -c "{WIRE}"'
        world.sh("a", f"{program} <<'END'\n{script.format(**words)}END")
        return world.sh("a", "nft list ruleset")

    lists = {}
    for by in ("nft", "wire"):
        run(BASE, by="nft")
        lists[by] = (run(CHANGE, by=by), run(BACK, by=by))
        world.sh("a", "nft flush ruleset")
    assert lists["wire"] == lists["nft"]
    assert "goto endpoint-X/b" in lists["nft"][0]
    run(BASE, by="nft")
    with pytest.raises(AssertionError, match="No such file or directory: add rule"):
        run("add element {f} kube-proxy cluster-ips {{ {vip} }}\nadd rule {f} kube-proxy service-X/a goto nowhere\n", by="wire")
    assert words["vip"] not in world.sh("a", "nft list ruleset"), "all or nothing"


def refusal(channel: nftwire.Channel, script: str) -> str:
    """Send a script as a small change is sent; what the kernel says against it, empty when it takes it."""
    wire = nftwire.encode(script)
    assert wire is not None
    try:
        channel.send(wire, RuntimeError)
    except RuntimeError as e:
        return str(e)
    return ""


def test_one_socket_serves_changes_and_errors_and_follows_its_caller(world: World) -> None:
    channel = nftwire.Channel()

    def send(script: str) -> str:
        return refusal(channel, script)

    for where in ("node", "a"):
        world.sh(where, "nft add table ip kube-proxy")
        for chain in ("one", "two"):
            assert world.in_node(lambda c=chain: send(f"add chain ip kube-proxy {c}\n"), where) == ""
        held = channel._socket
        assert world.in_node(lambda: send("flush chain ip kube-proxy one\nadd rule ip kube-proxy one jump two\n"), where) == ""
        assert channel._socket is held, "closing it would wait for what the change has replaced"
        nonsense = "add chain ip kube-proxy three\nadd rule ip kube-proxy one jump nowhere\n"
        said = world.in_node(lambda script=nonsense: send(script), where)
        assert said == "No such file or directory: add rule ip kube-proxy one jump nowhere"
        assert world.in_node(lambda: send("add chain ip kube-proxy four\n"), where) == ""
        listed = world.sh(where, "nft list chains ip")
        assert [w for w in ("one", "two", "three", "four") if f"chain {w} " in listed] == ["one", "two", "four"]


def test_a_map_name_that_is_taken_spoils_one_transaction_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"f": "ip", "t": "ipv4_addr"}
    world.sh("a", f"nft -f - <<'END'\n{BASE.format(**words)}add chain ip kube-proxy service-X/b\nEND")
    channel = nftwire.Channel()
    monkeypatch.setattr(nftwire, "_map_numbers", iter([1 << 24, 1 << 24, (1 << 24) + 1]))

    def send(chain: str) -> str:
        script = f"add rule ip kube-proxy {chain} numgen random mod 1 vmap {{ 0 : goto endpoint-X/a }}\n"
        return refusal(channel, f"flush chain ip kube-proxy {chain}\n{script}")

    assert world.in_node(lambda: send("service-X/a"), "a") == ""
    before = world.sh("a", "nft list ruleset")
    assert "add rule ip kube-proxy service-X/b numgen" in world.in_node(lambda: send("service-X/b"), "a")
    assert world.sh("a", "nft list ruleset") == before
    assert world.in_node(lambda: send("service-X/b"), "a") == ""
    assert world.sh("a", "nft list ruleset").count("vmap { 0 : goto endpoint-X/a }") == 2


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_health_check_node_ports_answer_in_both_families(world: World, api: FakeApi, tmp_path: Path, mode: str) -> None:
    api.put(node_object())
    index, each = next((i, c) for i, c in enumerate(CASES, 1) if c.name == "lb-local")
    service_object, *slices = objects(index, each)
    service_object["spec"]["healthCheckNodePort"] = 32100
    api.put(service_object, *slices)
    world.proxy(api, tmp_path, "--proxy-mode", mode, clusters=BOTH)

    def code(address: str) -> str:
        get = f"curl -g -s -o /dev/null -w '%{{http_code}}' --noproxy '*' -m 3 http://{address}:32100/"
        return world.sh("outside", get, check=False)

    eventually(lambda: (code(world.NODE), code(f"[{six(world.NODE)}]")) == ("200", "200"))
    api.put(*(slice_of(each, v, ()) for v in (False, True)))
    eventually(lambda: (code(world.NODE), code(f"[{six(world.NODE)}]")) == ("503", "503"))


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_a_service_with_the_longest_names_hinders_nobody(world: World, api: FakeApi, tmp_path: Path, mode: str) -> None:
    long = service("s" * 63, "10.96.0.70", namespace="n" * 63, type="NodePort", port_fields={"name": "p" * 63, "nodePort": 30070})
    long["spec"] |= {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}
    api.put(long, service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path, "--proxy-mode", mode)
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    assert world.ask("b", "10.96.0.70", 80) == "refused"
    served = endpoint_slice("s" * 63, (A, "node1"), namespace="n" * 63)
    served["ports"][0]["name"] = "p" * 63
    api.put(served)
    eventually(lambda: world.ask("outside", world.NODE, 30070, timeout_s=0.3).startswith("a"))
