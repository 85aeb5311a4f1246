"""What NetworkPolicies mean, by hand and against the rules that are written for them (walked by the tracer)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from policy_table import OUTSIDE, PODS, PORTS, PROTOCOLS, RECIPES, SUBNETS, addresses, generated, policy, world

from nsk8s.net import nftset, nfttrace
from nsk8s.net.nftset import NftTable
from nsk8s.net.trace import ACCEPT, Host, Packet
from nsk8s.networkpolicy import render
from nsk8s.networkpolicy.agent import replacing
from nsk8s.networkpolicy.model import EGRESS, INGRESS, Pod, Policy, World

HOST = Host()


def tables(of: World) -> dict[str, NftTable]:
    return {node: render.table(of, node, cidrs) for node, cidrs in SUBNETS.items()}


def node_of(address: str) -> str:
    return next((p.node for p in PODS.values() if address in p.ips), "")


def passes(rules: dict[str, NftTable], source: str, destination: str, protocol: str, port: int, *, sent_on: bool = False) -> bool:
    """Through every node on the way. `sent_on`: what IPVS sends on comes by another hook, and must fare the same."""
    for node in dict.fromkeys((node_of(source), node_of(destination))):
        if node:
            packet = Packet(
                source, destination, port, protocol,
                "cni0" if node_of(source) == node else "eth0", out="cni0" if node_of(destination) == node else "eth0",
            )  # fmt: skip
            forwarded = nfttrace.trace(rules[node], packet, HOST).action
            if sent_on:
                assert nfttrace.trace(rules[node], replace(packet, interface=""), HOST).action == forwarded
                own = Host(frozenset({source}))
                assert nfttrace.trace(rules[node], replace(packet, interface=""), own).action == ACCEPT, "a node always may"
            if forwarded != ACCEPT:
                return False
    return True


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_upstream_mean_what_upstream_says(recipe: str) -> None:
    policies, may, may_not = RECIPES[recipe]
    asked = world(*policies)
    rules = tables(asked)
    for wanted, lines in ((True, may), (False, may_not)):
        for line in lines:
            source, destination, protocol, port = line.split()
            for family in (0,) if "10.244" in str(policies) or "203.0" in str(policies) else (0, 1):
                packet = (*addresses(source, destination, family), protocol, int(port))
                assert asked.allowed(*packet) == wanted, line
                assert source == destination or passes(rules, *packet, sent_on=True) == wanted, line


@pytest.mark.parametrize("block", range(6))
def test_the_rules_of_generated_policies_do_what_the_policies_mean(block: int) -> None:
    everybody = [*PODS, "outside"]
    decided = {True: 0, False: 0}
    for seed in range(block * 20, block * 20 + 20):
        asked = world(*generated(seed))
        rules = tables(asked)
        for source in everybody:
            for destination in everybody:
                if source == destination:
                    continue
                for protocol, port in ((p, n) for p in PROTOCOLS for n in PORTS):
                    packet = (*addresses(source, destination, seed % 2), protocol, port)
                    wanted = asked.allowed(*packet)
                    decided[wanted] += 1
                    assert passes(rules, *packet) == wanted, (seed, source, destination, protocol, port, generated(seed))
    assert min(decided.values()) > 100


def test_a_table_can_be_written_in_the_order_it_is_written_in() -> None:
    for seed in range(60):
        for wanted in tables(world(*generated(seed))).values():
            assert nftset.apply(None, replacing(wanted)) == wanted
            assert nftset.apply(wanted, replacing(wanted)) == wanted


def test_no_policy_leaves_no_rule() -> None:
    table = render.table(world(), "node1", SUBNETS["node1"])
    assert all(not c.rules for c in table.chains.values())
    assert not table.sets


def test_an_address_that_is_no_known_pods_is_held_while_there_is_a_policy() -> None:
    asked = world(policy("z", podSelector={"matchLabels": {"pod": "a"}}))
    rules = tables(asked)["node1"]
    known, stranger = PODS["x/a"].ips, ("10.244.1.99", "fd00:244:1::99")
    for family in (0, 1):
        for source, destination in ((stranger, known), (known, stranger), (OUTSIDE, stranger)):
            inside = source is not OUTSIDE
            packet = Packet(source[family], destination[family], 80, "tcp", "cni0" if inside else "eth0", out="cni0")
            assert nfttrace.trace(rules, packet, HOST).action != ACCEPT
        assert nfttrace.trace(rules, Packet(OUTSIDE[family], known[family], 80, "tcp", "eth0", out="cni0"), HOST).action == ACCEPT
        # Whatever the bridge is called.
        assert nfttrace.trace(rules, Packet(stranger[family], OUTSIDE[family], 80, "tcp", "br1", out="eth0"), HOST).action != ACCEPT
        assert nfttrace.trace(rules, Packet(OUTSIDE[family], stranger[family], 80, "tcp", "eth0", out="br1"), HOST).action != ACCEPT
        # Another node's pod is not behind this one's bridge.
        invented = PODS["x/b"].ips[family]
        assert nfttrace.trace(rules, Packet(invented, OUTSIDE[family], 80, "tcp", "cni0", out="eth0"), HOST).action != ACCEPT
    # Also by an address of no subnet: an invented one, a link-local one.
    for source, destination in (("198.51.100.1", known[0]), ("fe80::5", "fe80::6"), (known[1], "fe80::6"), (known[0], "224.0.0.251")):
        assert nfttrace.trace(rules, Packet(source, destination, 80, "udp", "cni0", out="cni0"), HOST).action != ACCEPT


def test_before_anything_is_known_no_pod_is_reached() -> None:
    rules = render.held(["10.244.0.0/16", "fd00:244::/32"], bridge="other")
    for family in (0, 1):
        for source, destination in ((PODS["x/a"].ips, OUTSIDE), (OUTSIDE, PODS["x/a"].ips)):
            packet = Packet(source[family], destination[family], 80, "tcp", "eth1", out="eth0")
            assert nfttrace.trace(rules, packet, HOST).action != ACCEPT
        assert nfttrace.trace(rules, Packet(OUTSIDE[family], OUTSIDE[family], 80, "tcp", "eth1", out="eth0"), HOST).action == ACCEPT


def test_a_pod_reaches_itself_by_way_of_a_service_and_its_own_node_reaches_it() -> None:
    asked = replace(world(policy(policyTypes=["Ingress", "Egress"])), nodes={"node1": ("192.168.56.11",), "node2": ("192.168.56.12",)})
    (ip, _) = PODS["x/a"].ips
    assert asked.allowed(ip, ip, "tcp", 80)
    assert nfttrace.trace(tables(asked)["node1"], Packet(ip, ip, 80, "tcp", "cni0", out="cni0"), HOST).action == ACCEPT
    assert asked.allowed("192.168.56.11", ip, "tcp", 80)
    assert asked.allowed(ip, "192.168.56.11", "tcp", 10250)
    assert not asked.allowed("192.168.56.12", ip, "tcp", 80)
    assert not asked.allowed(ip, "192.168.56.12", "tcp", 10250)


def test_ports_are_of_one_protocol_and_rules_without_ports_of_all() -> None:
    some, every = world(policy(ingress=[{"ports": [{"protocol": "TCP"}]}])), world(policy(ingress=[{}]))
    source, destination = addresses("y/a", "x/b")
    assert not some.allowed(source, destination, "icmp")
    assert every.allowed(source, destination, "icmp")
    assert not passes(tables(some), source, destination, "icmp", 0)
    assert passes(tables(every), source, destination, "icmp", 0)


def test_pods_under_the_same_policies_share_a_chain() -> None:
    table = render.table(world(policy(ingress=[{"ports": [{"port": 80}]}])), "node1", SUBNETS["node1"])
    chains = [n for n, c in table.chains.items() if not c.base]
    assert len(chains) == 1
    assert table.chains[chains[0]].comment == "x/p"
    assert table.chains[chains[0]].rules == ("meta l4proto tcp th dport 80 accept", "drop")


def _object(**changes: Any) -> dict[str, Any]:
    spec = {"nodeName": "node1", "containers": [{"ports": [{"name": "web", "containerPort": 80}, {"containerPort": 81}]}]}
    status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00:0::1"}]}
    return {
        "metadata": {"namespace": "x", "name": "a", "labels": {"l": "1"}},
        "spec": {**spec, **changes.get("spec", {})}, "status": {**status, **changes.get("status", {})},
    }  # fmt: skip


def test_a_pod_is_read_from_its_object() -> None:
    pod = Pod.of(_object())
    assert pod is not None
    assert pod.ips == ("10.0.0.1", "fd00::1")
    assert pod.ports == (("web", "tcp", 80),)
    assert pod.node == "node1"
    sidecar = {"initContainers": [{"restartPolicy": "Always", "ports": [{"name": "m", "containerPort": 9, "protocol": "UDP"}]},
                                  {"ports": [{"name": "n", "containerPort": 8}]}]}  # fmt: skip
    read = Pod.of(_object(spec=sidecar))
    assert read is not None
    assert read.numbers("m", "udp") == [9]
    assert read.numbers("n", "tcp") == []


@pytest.mark.parametrize("gone", [
    {"spec": {"hostNetwork": True}}, {"status": {"phase": "Succeeded"}}, {"status": {"phase": "Failed"}},
    {"status": {"podIP": "", "podIPs": []}}, {"status": {"podIP": "x", "podIPs": [{"ip": "x"}]}},
])  # fmt: skip
def test_a_pod_without_an_address_of_its_own_is_none(gone: dict[str, Any]) -> None:
    assert Pod.of(_object(**gone)) is None


def test_the_younger_pod_has_an_address_that_two_claim() -> None:
    old, young = (Pod("x", n, {}, ("10.0.0.1",), "node1", created=f"2026-01-0{d}T00:00:00Z") for n, d in (("b", 1), ("a", 2)))
    for pods in ((old, young), (young, old)):
        assert World(pods=pods).by_address["10.0.0.1"] is young


@pytest.mark.parametrize(("spec", "directions"), [
    ({}, (True, False)), ({"ingress": []}, (True, False)), ({"egress": []}, (True, False)), ({"egress": [{}]}, (True, True)),
    ({"policyTypes": ["Egress"], "ingress": [{}]}, (False, True)), ({"policyTypes": ["Ingress"], "egress": [{}]}, (True, False)),
])  # fmt: skip
def test_policy_types_default_as_upstream(spec: dict[str, Any], directions: tuple[bool, bool]) -> None:
    read = Policy.of(policy(**spec))
    assert tuple(read.rules(d) is not None for d in (INGRESS, EGRESS)) == directions


@pytest.mark.parametrize("spec", [
    {"ingress": [{"from": [{"ipBlock": {"cidr": "nonsense"}}]}]}, {"ingress": [{"from": [{}]}]}, {"ingress": [3]},
    {"ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}, {"ingress": [{"ports": [{"protocol": "ICMP"}]}]},
    {"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]}]},
    {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}},
])  # fmt: skip
def test_what_is_malformed_allows_nothing(spec: dict[str, Any]) -> None:
    asked = world(policy(**spec))
    source, destination = addresses("x/b", "x/a")
    assert not asked.allowed(source, destination, "tcp", 80)
    assert not passes(tables(asked), source, destination, "tcp", 80)


def test_exceptions_that_overlap_are_one() -> None:
    """nft refuses overlapping intervals."""
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/16"]}
    table = render.table(world(policy(ingress=[{"from": [{"ipBlock": block}]}])), "node1", SUBNETS["node1"])
    (rules,) = (c.rules for c in table.chains.values() if not c.base)
    assert rules == ("ip saddr 10.0.0.0/8 ip saddr != { 10.0.0.0/15 } accept", "drop")


def test_a_long_name_is_cut_to_what_the_kernel_keeps() -> None:
    many = world(*(policy(name="n" * 50 + str(i)) for i in range(9)))
    for table in tables(many).values():
        assert all(len(c.comment.encode()) <= 127 for c in (*table.chains.values(), *table.sets.values()))


def test_a_namespace_not_yet_heard_of_is_found_by_no_selector() -> None:
    other = {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]}
    asked = world(policy(ingress=[{"from": [{"namespaceSelector": other}]}]))
    unheard = replace(asked, namespaces={n: v for n, v in asked.namespaces.items() if n != "y"})
    for of, wanted in ((asked, True), (unheard, False)):
        packet = (*addresses("y/a", "x/b"), "tcp", 80)
        assert of.allowed(*packet) == wanted
        assert passes(tables(of), *packet) == wanted
