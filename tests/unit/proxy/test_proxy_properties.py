"""Any services, any endpoints, any changes, both modes and families: flows land where they may, and only there."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy_rules_kit import Kit
from proxy_table import POD_CIDR, of_family, six

from nsk8s.net.trace import DROP, REJECT, Host, Packet
from nsk8s.proxy.nftrules import disjoint
from nsk8s.proxy.rules import Context, LocalDetector

NODE, POD, OUTSIDE = "192.168.77.11", "10.244.1.5", "203.0.113.10"
MODES = [(mode, ipv6) for mode in ("iptables", "nftables") for ipv6 in (False, True)]
LEAVING = {"ready": False, "serving": True, "terminating": True}
SHARED_EXTERNAL = "198.51.100.250"
"""Several services may claim it: the first by name has it."""

_endpoint = st.builds(
    lambda last, node, conditions: {
        "addresses": [f"10.244.{1 if node == 'node1' else 2}.{last}"], "nodeName": node, "conditions": conditions, "hints": {},
    },
    st.integers(10, 99), st.sampled_from(["node1", "node2"]),
    st.fixed_dictionaries({k: st.booleans() for k in ("ready", "serving", "terminating")}),
)  # fmt: skip
_service = st.fixed_dictionaries({
    "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
    "externalTrafficPolicy": st.sampled_from(["Local", "Cluster"]),
    "internalTrafficPolicy": st.sampled_from(["Local", "Cluster"]),
    "sessionAffinity": st.sampled_from(["None", "None", "ClientIP"]),
    "timeout": st.sampled_from([10800, 60]),
    "ranges": st.booleans(),
    "external": st.booleans(),
    "protocols": st.sampled_from([("TCP",), ("UDP",), ("TCP", "UDP")]),
    "endpoints": st.lists(_endpoint, max_size=6, unique_by=lambda e: e["addresses"][0]),
})  # fmt: skip
_world = st.dictionaries(st.integers(1, 5), _service, max_size=4)


def objects(i: int, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """A dual-stack service s<i> and its slices."""
    exposed = wanted["type"] != "ClusterIP"
    ports = [
        {"name": p.lower(), "port": 80, "protocol": p, **({"nodePort": 30000 + i} if exposed else {})} for p in wanted["protocols"]
    ]
    spec = {
        **{k: wanted[k] for k in ("type", "internalTrafficPolicy", "sessionAffinity")}, "ports": ports,
        "clusterIPs": [f"10.96.0.{i}", six(f"10.96.0.{i}")],
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": wanted["timeout"]}},
    }  # fmt: skip
    if exposed or wanted["external"]:
        spec["externalTrafficPolicy"] = wanted["externalTrafficPolicy"]
    if wanted["external"]:
        spec["externalIPs"] = [SHARED_EXTERNAL, six(SHARED_EXTERNAL)]
    if wanted["ranges"]:
        spec["loadBalancerSourceRanges"] = ["203.0.113.0/24", six("203.0.113.0/24")]
    vips = [f"198.51.100.{i}", six(f"198.51.100.{i}")] if wanted["type"] == "LoadBalancer" else []
    made: list[dict[str, Any]] = [{
        "kind": "Service", "metadata": {"namespace": "ns", "name": f"s{i}"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": v} for v in vips]}},
    }]  # fmt: skip
    for ipv6 in (False, True):
        made.append({
            "kind": "EndpointSlice", "addressType": "IPv6" if ipv6 else "IPv4",
            "metadata": {"namespace": "ns", "name": f"s{i}-{ipv6}", "labels": {"kubernetes.io/service-name": f"s{i}"}},
            "ports": [{"name": p.lower(), "port": 8080, "protocol": p} for p in wanted["protocols"]],
            "endpoints": [{**e, "addresses": [of_family(e["addresses"][0], ipv6)]} for e in wanted["endpoints"]],
        })  # fmt: skip
    return made


def kit(mode: str, ipv6: bool) -> Kit:
    detector = LocalDetector.by_cidr(six(POD_CIDR) if ipv6 else POD_CIDR)
    return Kit(Context(ipv6=ipv6, detector=detector, node_ip=of_family(NODE, ipv6), localhost_node_ports=False), mode=mode)


def move(made: Kit, before: dict, after: dict) -> None:
    for i in before.keys() - after.keys():
        made.delete("Service", f"s{i}").delete("EndpointSlice", f"s{i}-False").delete("EndpointSlice", f"s{i}-True")
    for i, wanted in after.items():
        made.put(*objects(i, wanted))


def held(made: Kit) -> object:
    if made.mode == "nftables":
        return made.table.chains, made.table.sets, made.table.elements
    tables = {t: dict(c) for t, c in made.held.tables.items()}
    return (tables, dict(made.ipvs.held)) if made.mode == "ipvs" else tables


@pytest.mark.parametrize(("mode", "ipv6"), [*MODES, ("ipvs", False)])
@settings(max_examples=40, deadline=None)
@given(worlds=st.lists(_world, min_size=2, max_size=4), failing=st.integers(0, 3))
def test_whatever_happened_before_the_rules_are_those_of_a_fresh_start(
    mode: str, ipv6: bool, worlds: list[dict], failing: int
) -> None:
    made = kit(mode, ipv6)
    before: dict = {}
    for step, world in enumerate(worlds):
        move(made, before, world)
        before = world
        if step == failing:
            kernel: Any = made.nft if mode == "nftables" else made.ipvs if mode == "ipvs" and step % 2 else made.iptables
            kernel.fail_next = True
            made.sync(ok=None)  # it may have had nothing to write
            kernel.fail_next = False
        made.sync()
    fresh = kit(mode, ipv6)
    move(fresh, {}, worlds[-1])
    fresh.sync()
    assert held(made) == held(fresh)
    assert made.sync() == "", "nothing is left to do"


@pytest.mark.parametrize(("mode", "ipv6"), MODES)
@settings(max_examples=40, deadline=None)
@given(before=_world, after=_world)
def test_every_flow_lands_on_a_valid_endpoint_and_shares_are_fair(mode: str, ipv6: bool, before: dict, after: dict) -> None:
    """After a change no flow reaches what was removed: exactly the endpoints that policy allows, each with its share."""
    made = kit(mode, ipv6)
    move(made, {}, before)
    made.sync()
    move(made, before, after)
    made.sync()
    host = Host(frozenset({of_family(NODE, ipv6), of_family("10.244.1.1", ipv6)}))

    def check(address: str, port: int, protocol: str, endpoints: list, otherwise: str, interface: str = "cni0") -> None:
        source = POD if interface == "cni0" else OUTSIDE
        packet = Packet(of_family(source, ipv6), of_family(address, ipv6), port, protocol, interface=interface)
        shares: dict[str, float] = {}
        for verdict, chance in made.outcomes(packet, host).items():
            shares[verdict.to or verdict.action] = shares.get(verdict.to or verdict.action, 0) + chance
        ips = [of_family(e["addresses"][0], ipv6) for e in endpoints]
        fair = {f"[{ip}]:8080" if ipv6 else f"{ip}:8080": pytest.approx(1 / len(ips)) for ip in ips}
        assert shares == (fair or {otherwise: pytest.approx(1)}), (address, port, protocol, interface)

    for i, wanted in after.items():
        ready = [e for e in wanted["endpoints"] if e["conditions"]["ready"]]
        draining = [e for e in wanted["endpoints"] if e["conditions"] == LEAVING]
        cluster = ready or draining
        local = [e for e in ready if e["nodeName"] == "node1"] or [e for e in draining if e["nodeName"] == "node1"]
        exposed = wanted["type"] != "ClusterIP"
        internal = local if wanted["internalTrafficPolicy"] == "Local" else cluster
        external = local if wanted["externalTrafficPolicy"] == "Local" else cluster
        otherwise = DROP if cluster else REJECT
        ranged = wanted["ranges"] and wanted["type"] == "LoadBalancer" and (cluster or mode == "nftables")
        for protocol in map(str.lower, wanted["protocols"]):
            check(f"10.96.0.{i}", 80, protocol, internal, otherwise)
            if exposed:
                check(NODE, 30000 + i, protocol, external, otherwise, "eth0")
                check(NODE, 30000 + i, protocol, cluster, otherwise)
            if wanted["type"] == "LoadBalancer":
                check(f"198.51.100.{i}", 80, protocol, external, otherwise, "eth0")
                check(f"198.51.100.{i}", 80, protocol, [] if ranged else cluster, DROP if ranged else otherwise)


def test_two_services_with_one_external_ip_the_first_has_it_and_the_second_inherits_it() -> None:
    one = {"type": "ClusterIP", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
           "timeout": 60, "ranges": False, "external": True, "protocols": ("TCP",),
           "endpoints": [{"addresses": ["10.244.1.10"], "nodeName": "node1", "conditions": {"ready": True}, "hints": {}}]}  # fmt: skip
    two = {**one, "endpoints": [{**one["endpoints"][0], "addresses": ["10.244.1.20"]}]}
    made = kit("nftables", False)
    move(made, {}, {1: one, 2: two})
    made.sync()
    packet = Packet(POD, SHARED_EXTERNAL, 80, interface="cni0")
    host = Host(frozenset({NODE}))
    assert {v.to for v in made.outcomes(packet, host)} == {"10.244.1.10:8080"}
    move(made, {1: one, 2: two}, {2: two})
    made.sync()
    assert {v.to for v in made.outcomes(packet, host)} == {"10.244.1.20:8080"}
    move(made, {2: two}, {1: one, 2: two})
    made.sync()
    assert {v.to for v in made.outcomes(packet, host)} == {"10.244.1.10:8080"}


_cidr = st.builds(lambda n, length: str(ip_network((n << 24, length), strict=False)), st.integers(0, 15), st.integers(0, 8))


@given(st.lists(_cidr, max_size=12))
def test_of_source_ranges_those_inside_others_are_left_out(ranges: list[str]) -> None:
    networks = [ip_network(r) for r in ranges]
    wanted = [
        n for i, n in enumerate(networks)
        if not any(i != j and n.subnet_of(o) and (n != o or j < i) for j, o in enumerate(networks))
    ]  # fmt: skip
    assert disjoint(ranges) == [str(n) for n in wanted]


def test_a_thousand_source_ranges_are_no_work() -> None:
    ranges = [f"10.{i // 256}.{i % 256}.0/24" for i in range(4000)]
    assert disjoint(ranges) == ranges
