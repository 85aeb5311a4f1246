"""iptables mode's rules: the full dump against literal text, packets walked through it, and what each sync sends."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from proxy_rules_kit import CONTEXT, HOST, NODE_IP, Kit, ep, service, slice_of

from nsk8s.net import chainset
from nsk8s.net.trace import ACCEPT, DROP, REJECT, Host, Packet, Verdict, outcomes, trace
from nsk8s.proxy import rules
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nftables import NftablesProxier
from nsk8s.proxy.rules import LocalDetector

OUTSIDE, POD, NODE2 = "203.0.113.10", "10.244.1.5", "192.168.56.12"


def from_pod(dst: str, port: int = 80, src: str = POD, protocol: str = "tcp") -> Packet:
    return Packet(src, dst, port, protocol, interface="cni0")


def from_outside(dst: str, port: int = 80, src: str = OUTSIDE) -> Packet:
    return Packet(src, dst, port, interface="eth0")


def from_node(dst: str, port: int = 80, src: str = NODE_IP) -> Packet:
    return Packet(src, dst, port)


def table_of_services() -> Kit:
    kit = Kit()
    kit.put(service("svc1", "172.30.0.41", ns="ns1"), slice_of("svc1", ep("10.180.0.1"), ns="ns1"))
    kit.put(service("svc2", "172.30.0.42", ns="ns2", type="LoadBalancer", vips=("1.2.3.4",), node_port=3001,
                    externalIPs=["192.168.99.22"], externalTrafficPolicy="Local", healthCheckNodePort=30000,
                    loadBalancerSourceRanges=["203.0.113.0/25"]),
            slice_of("svc2", ep("10.180.0.2"), ns="ns2"))  # fmt: skip
    kit.put(service("svc3", "172.30.0.43", ns="ns3", type="NodePort", node_port=3002),
            slice_of("svc3", ep("10.180.0.3"), ns="ns3"))  # fmt: skip
    kit.put(service("svc4", "172.30.0.44", ns="ns4", sessionAffinity="ClientIP"),
            slice_of("svc4", ep("10.180.0.4"), ep("10.180.0.5", "node1"), ns="ns4"))  # fmt: skip
    kit.put(service("svc6", "172.30.0.46", ns="ns6", internalTrafficPolicy="Local", protocol="UDP"),
            slice_of("svc6", ep("10.180.0.6"), ns="ns6", protocol="UDP"))  # fmt: skip
    return kit.put(service("svc7", "172.30.0.47", ns="ns7", node_port=3007, type="NodePort"))


def test_the_full_dump() -> None:
    assert table_of_services().sync() == (Path(__file__).parent / "proxy_full_sync.golden").read_text()


def test_jumps_come_in_upstreams_order() -> None:
    kit = table_of_services()
    kit.sync()
    order = {hook: [chainset.target(r) for r in kit.held.rules("filter", hook)] for hook in ("INPUT", "FORWARD", "OUTPUT")}
    assert order == {
        "INPUT": ["KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES"],
        "FORWARD": ["KUBE-PROXY-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"],
        "OUTPUT": ["KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"],
    }


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (from_pod("172.30.0.41"), Verdict(ACCEPT, "10.180.0.1:80")),
        (from_pod("172.30.0.41", src="10.180.0.1"), Verdict(ACCEPT, "10.180.0.1:80", masq=True)),  # hairpin
        (from_node("172.30.0.41"), Verdict(ACCEPT, "10.180.0.1:80", masq=True)),
        (from_outside("172.30.0.41"), Verdict(ACCEPT, "10.180.0.1:80", masq=True)),
        (from_pod("172.30.0.41", 81), Verdict(ACCEPT, "172.30.0.41:81")),  # an unmatched port is routed like any packet
        (from_pod("172.30.0.99"), Verdict(ACCEPT, "172.30.0.99:80")),
        (from_pod("172.30.0.41", protocol="udp"), Verdict(ACCEPT, "172.30.0.41:80")),
        # external Local without a local endpoint: pods and the node get through, outsiders are dropped
        (from_outside(NODE_IP, 3001), Verdict(DROP)),
        (from_pod(NODE_IP, 3001), Verdict(ACCEPT, "10.180.0.2:80")),
        (from_node(NODE_IP, 3001), Verdict(ACCEPT, "10.180.0.2:80", masq=True)),
        (from_outside("192.168.99.22"), Verdict(DROP)),
        (from_pod("192.168.99.22"), Verdict(ACCEPT, "10.180.0.2:80")),
        # source ranges: who is in none of them is dropped by KUBE-PROXY-FIREWALL, from anywhere
        (from_outside("1.2.3.4", src="198.51.100.9"), Verdict(DROP)),
        (from_pod("1.2.3.4"), Verdict(DROP)),
        (from_node("1.2.3.4"), Verdict(DROP)),
        (from_outside(NODE_IP, 3002), Verdict(ACCEPT, "10.180.0.3:80", masq=True)),
        (from_outside(NODE_IP, 3002, src=NODE2), Verdict(ACCEPT, "10.180.0.3:80", masq=True)),
        (from_pod(NODE_IP, 3002), Verdict(ACCEPT, "10.180.0.3:80", masq=True)),
        (from_node("127.0.0.1", 3002, src="127.0.0.1"), Verdict(ACCEPT, "10.180.0.3:80", masq=True)),
        (from_outside("127.0.0.1", 9999), Verdict(DROP)),  # KUBE-FIREWALL: route_localnet opens no door
        (from_pod("172.30.0.46", protocol="udp"), Verdict(DROP)),  # internal Local, endpoint elsewhere
        (from_pod("172.30.0.47"), Verdict(REJECT)),
        (from_node("172.30.0.47"), Verdict(REJECT)),
        (from_outside(NODE_IP, 3007), Verdict(REJECT)),
        (from_outside(NODE_IP, 30000), Verdict(ACCEPT, f"{NODE_IP}:30000")),
    ],
    ids=str,
)
def test_where_packets_go(packet: Packet, verdict: Verdict) -> None:
    kit = table_of_services()
    kit.sync()
    assert trace(kit.held, packet, HOST) == verdict


def test_a_source_range_with_the_nodes_address_lets_a_bound_vip_in() -> None:
    kit = Kit().put(
        service("lb", "10.96.0.9", type="LoadBalancer", vips=("1.2.3.4",), node_port=3001,
                loadBalancerSourceRanges=[f"{NODE_IP}/32"]),
        slice_of("lb", ep("10.244.1.9", "node1")),
    )  # fmt: skip
    kit.sync()
    bound = Host(HOST.addresses | {"1.2.3.4"})
    assert trace(kit.held, from_node("1.2.3.4", src="1.2.3.4"), bound) == Verdict(ACCEPT, "10.244.1.9:80", masq=True)
    assert trace(kit.held, from_outside("1.2.3.4"), HOST) == Verdict(DROP)
    assert trace(kit.held, from_outside(NODE_IP, 3001), HOST).action == ACCEPT, "ranges never touch node ports"


def test_affinity_remembers_the_client_whatever_the_dice_say() -> None:
    kit = table_of_services()
    kit.sync()
    chances = outcomes(kit.held, from_pod("172.30.0.44"), HOST)
    assert chances == {Verdict(ACCEPT, "10.180.0.4:80"): 0.5, Verdict(ACCEPT, "10.180.0.5:80"): 0.5}
    known = Host(HOST.addresses, frozenset({("KUBE-SEP-C6EBXVWJJZMIWKLZ", POD)}))
    assert trace(kit.held, from_pod("172.30.0.44"), known) == Verdict(ACCEPT, "10.180.0.5:80")


def test_affinity_in_nftables_mode_remembers_in_sets() -> None:
    kit = Kit(mode="nftables").put(
        service("s", "10.96.0.1", sessionAffinity="ClientIP"), slice_of("s", ep("10.244.1.8"), ep("10.244.1.9"))
    )
    kit.sync()
    assert {v.to: c for v, c in kit.outcomes(from_pod("10.96.0.1"), HOST).items()} == {"10.244.1.8:80": 0.5, "10.244.1.9:80": 0.5}
    second = next(n for n in kit.table.sets if n.startswith("affinity-") and "10.244.1.9" in n)
    known = Host(HOST.addresses, frozenset({(second, POD)}))
    assert {v.to for v in kit.outcomes(from_pod("10.96.0.1"), known)} == {"10.244.1.9:80"}
    kit.put(service("s", "10.96.0.1"))
    kit.sync()
    assert not [n for n in kit.table.sets if n.startswith("affinity-")]


@pytest.mark.parametrize(
    ("change", "pod", "node", "outside"),
    [
        ({"masquerade_all": True}, True, True, True),
        ({}, False, True, True),
        ({"detector": LocalDetector()}, False, False, False),
        ({"detector": LocalDetector.by_interface("cni0")}, False, True, True),
        ({"detector": LocalDetector.by_interface("cni+")}, False, True, True),
        ({"masquerade_bit": 3}, False, True, True),
    ],
)  # fmt: skip
def test_who_is_masqueraded_to_a_cluster_ip(change: dict, pod: bool, node: bool, outside: bool) -> None:
    kit = Kit(dataclasses.replace(CONTEXT, **change)).put(service("s", "10.96.0.1"), slice_of("s", ep("10.244.2.2")))
    kit.sync()
    seen = [trace(kit.held, p("10.96.0.1"), HOST).masq for p in (from_pod, from_node, from_outside)]
    assert seen == [pod, node, outside]


def test_node_port_addresses() -> None:
    def jumps(**change: object) -> tuple[str, ...]:
        return rules.node_port_jumps(dataclasses.replace(CONTEXT, **change), change.pop("addresses", None))  # type: ignore[arg-type]

    end = "-j KUBE-NODEPORTS"
    assert jumps()[0].endswith(f"-m addrtype --dst-type LOCAL {end}")
    assert jumps(localhost_node_ports=False)[0].endswith(f"LOCAL ! -d 127.0.0.0/8 {end}")
    assert jumps(ipv6=True)[0].endswith(f"LOCAL ! -d ::1/128 {end}")
    some = ["127.0.0.1", "192.168.56.11"]
    assert [r.split("-d ")[1] for r in rules.node_port_jumps(CONTEXT, some)] == [f"{a} {end}" for a in some]
    closed = dataclasses.replace(CONTEXT, localhost_node_ports=False)
    assert len(rules.node_port_jumps(closed, some)) == 1


# ── what a sync sends ───────────────────────────────────────────────────────────────────────────────────────────────────


def sent(text: str) -> tuple[set[str], set[str]]:
    """(chains named, chains deleted) of a restore text."""
    lines = text.splitlines()
    deleted = {line[3:] for line in lines if line.startswith("-X ")}
    return {line[1:].split()[0] for line in lines if line.startswith(":")} - deleted, deleted


def test_a_partial_sync_sends_only_what_changed() -> None:
    kit = table_of_services()
    full = kit.sync()
    assert kit.sync() == ""
    kit.put(slice_of("svc1", ep("10.180.0.1"), ep("10.180.0.9"), ns="ns1"))
    named, deleted = sent(kit.sync())
    assert len(named) == 2
    assert "KUBE-SVC-XPGD46QRK7WJZT7O" in named
    assert "KUBE-SEP-SXIVWICOYRO3J4NJ" not in named, "the endpoint that was there keeps its chain, and its counters"
    assert not deleted
    kit.delete("Service", "svc1")
    named, deleted = sent(kit.sync())
    assert named == {"KUBE-SERVICES"}
    assert len(deleted) == 3
    kit.put(service("svc1", "172.30.0.41", ns="ns1"), slice_of("svc1", ep("10.180.0.1"), ns="ns1"))
    kit.sync()
    assert kit.held == chainset.apply(chainset.ChainSet(), full), "the same as if written from nothing"


def test_no_sync_counts_rules_as_upstream() -> None:
    kit = table_of_services()
    kit.sync()
    before = kit.metrics.get("sync_proxy_rules_iptables_total", table="nat", ip_family="IPv4")
    kit.put(service("new", "10.96.1.1"), slice_of("new", ep("10.180.1.1")))
    kit.sync()
    assert kit.metrics.get("sync_proxy_rules_iptables_total", table="nat", ip_family="IPv4") == before + 5
    kit.put(slice_of("new", ep("10.180.1.1"), ep("10.180.1.2")))
    kit.sync()
    assert kit.metrics.get("sync_proxy_rules_iptables_total", table="nat", ip_family="IPv4") == before + 8


def test_a_failed_sync_makes_the_next_one_full_and_nothing_is_lost() -> None:
    kit = table_of_services()
    kit.sync()
    kit.put(slice_of("svc1", ep("10.180.0.7"), ns="ns1"))
    kit.iptables.fail_next = True
    kit.sync(ok=False)
    assert trace(kit.held, from_pod("172.30.0.41"), HOST).to == "10.180.0.1:80"
    named, deleted = sent(kit.sync())
    assert {"KUBE-POSTROUTING", "KUBE-PROXY-CANARY"} <= named
    assert deleted == {"KUBE-SEP-SXIVWICOYRO3J4NJ"}
    assert trace(kit.held, from_pod("172.30.0.41"), HOST).to == "10.180.0.7:80"
    assert kit.metrics.get("sync_proxy_rules_iptables_partial_restore_failures_total", ip_family="IPv4") == 1


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError(), RuntimeError("a mistake of ours")])
def test_whatever_a_sync_fails_of_nothing_is_forgotten(mode: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit(mode=mode).put(service("s", "10.96.0.1"), slice_of("s", ep("10.244.1.8")))
    kit.sync()
    kit.put(slice_of("s", ep("10.244.1.9")))

    async def failing(_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(kit.nft, "run", failing)
        patch.setattr(kit.iptables, "restore", failing)
        kit.sync(ok=False)
    assert kit.proxier.has_work
    kit.sync()
    assert {v.to for v in kit.outcomes(from_pod("10.96.0.1"), HOST)} == {"10.244.1.9:80"}


def test_a_large_cluster_has_no_comments_on_endpoint_rules() -> None:
    kit = Kit()
    for s in range(11):
        kit.put(service(f"s{s}", f"10.96.1.{s}"), slice_of(f"s{s}", *(ep(f"10.200.{s}.{i}") for i in range(100))))
    text = kit.sync()
    endpoint_lines = [line for line in text.splitlines() if line.startswith("-A KUBE-SEP-") or " -j KUBE-SEP-" in line]
    assert endpoint_lines
    assert not [line for line in endpoint_lines if "comment" in line]
    assert "--comment" in text


def test_unchanged_objects_ask_for_nothing() -> None:
    kit = Kit()
    first = service("s", "10.96.0.1")
    assert kit.proxier.service_changed(None, first)
    again = {**first, "metadata": {**first["metadata"], "annotations": {"x": "y"}}}
    assert not kit.proxier.service_changed(first, again)
    one = slice_of("s", ep("10.244.2.2"))
    assert kit.proxier.slice_changed(None, one)
    assert not kit.proxier.slice_changed(one, {**one, "metadata": {**one["metadata"], "annotations": {"x": "y"}}})


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_metrics_count_changes_and_what_is_pending(mode: str) -> None:
    kit = Kit(mode=mode)
    family = {"ip_family": "IPv4"}

    def seen(kind: str) -> tuple[float, float]:
        return tuple(kit.metrics.get(f"sync_proxy_rules_{kind}_changes_{n}") for n in ("pending", "total"))  # type: ignore[return-value]

    kit.put(service("a", "10.96.0.1"), service("b", "10.96.0.2"), slice_of("a", ep("10.244.1.9")))
    kit.put(slice_of("a", ep("10.244.1.8")))
    assert (seen("service"), seen("endpoint")) == ((2, 2), (1, 2))
    kit.sync()
    assert (seen("service"), seen("endpoint")) == ((0, 2), (0, 2))
    kit.proxier.note_queued()
    assert kit.metrics.get("sync_proxy_rules_last_queued_timestamp_seconds", **family) > 0
    kit.put(slice_of("a", ep("10.244.1.7")))
    (kit.nft if mode == "nftables" else kit.iptables).fail_next = True
    kit.sync(ok=False)
    failures = f"sync_proxy_rules_{'nftables_sync' if mode == 'nftables' else 'iptables_restore'}_failures_total"
    assert kit.metrics.get(failures, **family) == 1


def test_on_older_kernels_a_chain_lies_empty_for_a_second_before_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("nsk8s.proxy.nftables.time.monotonic", lambda: now)
    kit = Kit(mode="nftables").put(service("s", "10.96.0.1"), slice_of("s", ep("10.244.1.8"), ep("10.244.1.9")))
    kit.proxier._stale_s = 1.0  # type: ignore[attr-defined]
    kit.sync()
    gone = next(n for n in kit.table.chains if "10.244.1.9" in n)
    kit.put(slice_of("s", ep("10.244.1.8")))
    kit.sync()
    assert kit.table.rules(gone) == (), "emptied at once"
    assert kit.proxier.wants_another_s == 1.0
    kit.put(slice_of("s", ep("10.244.1.8"), ep("10.244.1.9")))  # it comes back before it went
    kit.sync()
    assert len(kit.table.rules(gone)) == 2
    kit.put(slice_of("s", ep("10.244.1.8")))
    kit.sync()
    now += 1.1
    kit.nft.fail_next = True
    kit.sync()
    failures = kit.metrics.get("sync_proxy_rules_nftables_cleanup_failures_total", ip_family="IPv4")
    assert (failures, gone in kit.table.chains) == (1, True)
    kit.sync()
    now += 1.1
    kit.sync()
    assert gone not in kit.table.chains
    assert kit.proxier.wants_another_s == 0


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_longest_names_are_written(mode: str) -> None:
    """One comment that the program refuses would keep every Service's rules from being written."""
    ns, name, port = "n" * 63, "s" * 63, "p" * 63
    kit = Kit(mode=mode).put(service(name, "10.96.0.1", ns=ns, port=port, type="NodePort", node_port=30001))
    kit.sync()
    kit.put(slice_of(name, ep("10.244.1.9", "node1"), ns=ns, port=port))
    kit.sync()
    assert kit.outcomes(from_outside(NODE_IP, 30001), HOST) == {Verdict(ACCEPT, "10.244.1.9:80", masq=True): 1.0}
    comments = re.findall(r'comment "([^"\n]+)"', kit.dump())
    assert max(map(len, comments)) <= (128 if mode == "nftables" else 255)


_EVERY_MODE = {
    "sync_proxy_rules_duration_seconds", "sync_full_proxy_rules_duration_seconds", "sync_partial_proxy_rules_duration_seconds",
    "network_programming_duration_seconds", "sync_proxy_rules_last_timestamp_seconds",
    "sync_proxy_rules_last_queued_timestamp_seconds", "sync_proxy_rules_endpoint_changes_pending",
    "sync_proxy_rules_endpoint_changes_total", "sync_proxy_rules_service_changes_pending",
    "sync_proxy_rules_service_changes_total", "proxy_healthz_total", "proxy_livez_total",
    "conntrack_reconciler_sync_duration_seconds", "conntrack_reconciler_deleted_entries_total",
}  # fmt: skip


@pytest.mark.parametrize(("mode", "own"), [
    ("iptables", {
        "sync_proxy_rules_no_local_endpoints_total", "sync_proxy_rules_iptables_total", "sync_proxy_rules_iptables_last",
        "sync_proxy_rules_iptables_restore_failures_total", "sync_proxy_rules_iptables_partial_restore_failures_total",
    }),
    ("nftables", {
        "sync_proxy_rules_no_local_endpoints_total", "sync_proxy_rules_nftables_sync_failures_total",
        "sync_proxy_rules_nftables_cleanup_failures_total",
    }),
    ("userspace", set()),
])  # fmt: skip
def test_metrics_are_called_as_upstreams(mode: str, own: set[str]) -> None:
    """All of upstream's (pkg/proxy/metrics) but those of nfacct's counters, in each mode those that it has."""
    named = {line.split()[2].removeprefix("kubeproxy_") for line in Metrics(mode).render().splitlines() if line.startswith("# TYPE")}
    assert named == _EVERY_MODE | own


# ── what all services share ─────────────────────────────────────────────────────────────────────────────────────────────


def written(text: str) -> set[str]:
    """The chains, sets and maps that an nft script is about."""
    return {line.split()[4] for line in text.splitlines()}


def test_a_service_cidr_heard_late_is_written_without_the_services() -> None:
    kit = Kit(mode="nftables").put(service("s", "10.96.0.1"), slice_of("s", ep("10.244.1.8")))
    kit.sync()
    assert isinstance(kit.proxier, NftablesProxier)
    assert kit.proxier.service_cidrs_changed({"10.96.0.0/16", "fd00:10:96::/108"})
    assert kit.proxier.has_work
    text = kit.sync()
    assert text == (
        "flush chain ip kube-proxy cluster-ips-check\n"
        'add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of '
        'ClusterIPs"\n'
        'add rule ip kube-proxy cluster-ips-check ip daddr { 10.96.0.0/16 } drop comment "Drop traffic to unallocated ClusterIPs"\n'
    )
    assert not kit.proxier.service_cidrs_changed({"10.96.0.0/16"}), "the same again, as after a relist"
    assert kit.metrics.count("sync_full_proxy_rules_duration_seconds", ip_family="IPv4") == 1
    fresh = Kit(mode="nftables").put(*kit.objects.values())
    assert isinstance(fresh.proxier, NftablesProxier)
    fresh.proxier.service_cidrs_changed({"10.96.0.0/16"})
    fresh.sync()
    assert kit.dump() == fresh.dump()
    assert kit.proxier.service_cidrs_changed(())
    assert written(kit.sync()) == {"cluster-ips-check"}
    assert "10.96.0.0/16" not in kit.dump()


def test_a_service_cidr_that_comes_while_a_sync_fails_is_not_forgotten() -> None:
    kit = Kit(mode="nftables").put(service("s", "10.96.0.1"), slice_of("s", ep("10.244.1.8")))
    kit.sync()
    assert isinstance(kit.proxier, NftablesProxier)
    kit.proxier.service_cidrs_changed({"10.96.0.0/16"})
    kit.nft.fail_next = True
    kit.sync(ok=False)
    kit.sync()
    assert "ip daddr { 10.96.0.0/16 } drop" in kit.dump()


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_what_a_node_says_is_written_where_it_matters(mode: str) -> None:
    """A heartbeat is nothing; a zone concerns Services with hints; the node's address those with source ranges."""
    kit = Kit(mode=mode, context=dataclasses.replace(CONTEXT, node_ip="192.168.56.11"))
    kit.put(service("plain", "10.96.0.1"), slice_of("plain", ep("10.244.1.8"), ep("10.244.2.8")))
    kit.put(service("hints", "10.96.0.2"), slice_of("hints", ep("10.244.1.9", zones=("east",)), ep("10.244.2.9", zones=("west",))))
    kit.put(service("lb", "10.96.0.3", type="LoadBalancer", vips=("1.2.3.4",), loadBalancerSourceRanges=["192.168.56.12/32"]),
            slice_of("lb", ep("10.244.1.7")))  # fmt: skip
    kit.sync()

    def hears(zone: str, ip: str = NODE_IP) -> str:
        context = dataclasses.replace(CONTEXT, node_ip=ip)
        changed = kit.proxier.node_changed(zone=zone, context=context, node_ips=(ip,))
        assert kit.proxier.has_work == changed
        return kit.sync() if changed else "nothing to do"

    def services(text: str) -> set[str]:
        names = {n for n in ("plain", "hints", "lb") for line in text.splitlines() if f"ns/{n}" in line}
        return names | {line for line in text.splitlines() if line.startswith(("add table", ":KUBE-SERVICES", ":KUBE-MARK"))}

    assert hears("") == "nothing to do"
    assert services(hears("west")) == {"hints"}
    assert services(hears("west", "192.168.56.12")) == ({"lb"})
    kit.proxier.force_full_sync()
    now = kit.dump()
    kit.sync()
    assert kit.dump() == now, "a full sync has nothing to add"


def test_a_change_of_endpoints_does_not_put_the_shared_chains_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would be work for every Service there is."""
    kit = table_of_services()
    kit.sync()
    total = kit.metrics.get("sync_proxy_rules_iptables_total", table="nat", ip_family="IPv4")
    monkeypatch.setattr(rules, "nat_table", None)
    kit.put(slice_of("svc1", ep("10.180.0.9"), ns="ns1"))
    named, deleted = sent(kit.sync())
    assert (len(named), len(deleted)) == (2, 1)
    assert kit.metrics.get("sync_proxy_rules_iptables_total", table="nat", ip_family="IPv4") == total
    assert kit.metrics.get("sync_proxy_rules_no_local_endpoints_total", traffic_policy="internal", ip_family="IPv4") == 1
    monkeypatch.undo()
    kit.delete("Service", "svc6")
    kit.sync()
    assert kit.metrics.get("sync_proxy_rules_no_local_endpoints_total", traffic_policy="internal", ip_family="IPv4") == 0


def test_the_longest_names_do_not_make_nft_refuse_everybodys_rules() -> None:
    kit = Kit(mode="nftables").put(service("s" * 63, "10.96.0.1", ns="n" * 63, port="p" * 15))
    comments = [line.split('comment "')[1].split('"')[0] for line in kit.sync().splitlines() if "nnn" in line and "comment" in line]
    assert [len(c) for c in comments] == [128]


def many(last: int, monkeypatch: pytest.MonkeyPatch) -> Kit:
    """Twelve Services with one endpoint each, whose address ends in `last`, written a few at a time."""
    monkeypatch.setattr("nsk8s.proxy.nftables.LINES_AT_ONCE", 10)
    kit = Kit(mode="nftables")
    for i in range(12):
        kit.put(service(f"s{i:02}", f"10.96.1.{i}"), slice_of(f"s{i:02}", ep(f"10.244.{i}.{last}")))
    return kit


def test_many_services_are_written_in_several_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = many(8, monkeypatch)
    kit.sync()
    assert len(kit.nft.texts) > 4
    monkeypatch.undo()
    whole = Kit(mode="nftables").put(*kit.objects.values())
    whole.sync()
    assert len(whole.nft.texts) == 1
    assert kit.dump() == whole.dump()


def test_no_packet_meets_half_of_a_service_between_those(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart that finds other endpoints: after each transaction every Service leads to the old one or to the new one."""
    old, new = many(8, monkeypatch), many(9, monkeypatch)
    old.sync()
    new.nft.held = old.nft.held
    seen = []
    run = new.nft.run

    async def and_look(script: str) -> None:
        await run(script)
        seen.append([next(iter(new.outcomes(from_pod(f"10.96.1.{i}"), HOST))).to[-4:] for i in range(12)])

    monkeypatch.setattr(new.nft, "run", and_look)
    new.sync()
    assert len(seen) > 4
    for before, after in itertools.pairwise(seen):
        assert set(after) <= {"8:80", "9:80"}
        assert all(was in (now, "8:80") for was, now in zip(before, after, strict=True)), "none goes back to the old one"
    assert set(seen[-1]) == {"9:80"}
    fresh = many(9, monkeypatch)
    fresh.sync()
    assert new.dump() == fresh.dump()


def test_a_transaction_in_the_middle_that_fails_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = many(8, monkeypatch)
    run = kit.nft.run

    async def failing(script: str) -> None:
        kit.nft.fail_next = len(kit.nft.texts) == 2
        await run(script)

    monkeypatch.setattr(kit.nft, "run", failing)
    kit.sync(ok=False)
    kit.delete("Service", "s03")
    kit.sync()
    fresh = many(8, monkeypatch).delete("Service", "s03")
    fresh.sync()
    assert kit.dump() == fresh.dump()
