"""The rules in the kernel, asked with real packets: what arrives is what the policies mean."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from typing import Any

import pytest
import raw_sctp
from policy_net import Answer, Key, PolicyNet, inside
from policy_table import RECIPES, SUBNETS, addresses, generated, policy, world

from nsk8s.networkpolicy import render

QUICK, ALL = 110, 500


@pytest.fixture(scope="module")
def net() -> Iterator[PolicyNet]:
    with PolicyNet() as made:
        yield made


def compare(net: PolicyNet, policies: list[dict[str, Any]], family: int) -> None:
    asked = world(*policies)
    for node, cidrs in SUBNETS.items():
        net.load(node, render.table(asked, node, cidrs))
    wanted: Answer = {}

    def is_allowed(key: Key) -> bool:
        source, destination, protocol, port = key
        if key not in wanted:
            wanted[key] = asked.allowed(*addresses(source, destination, family), protocol, port)
        return wanted[key]

    found = net.ask(family, is_allowed)
    assert {k: v for k, v in found.items() if v != is_allowed(k)} == {}, policies


@pytest.mark.timeout(120)
def test_packets_of_upstreams_recipes_arrive_or_not(net: PolicyNet) -> None:
    for i, (policies, _, _) in enumerate(RECIPES.values()):
        compare(net, policies, i % 2)
        if i % 5 == 0:
            compare(net, policies, 1 - i % 2)


@pytest.mark.timeout(120)
def test_packets_of_generated_policies_arrive_or_not(net: PolicyNet) -> None:
    for seed in range(QUICK):
        compare(net, generated(seed), seed % 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_packets_of_many_more_generated_policies_arrive_or_not(net: PolicyNet) -> None:
    for seed in range(QUICK, ALL):
        compare(net, generated(seed), seed // 2 % 2)


def test_nothing_is_forwarded_before_policies_are_known(net: PolicyNet) -> None:
    for node in SUBNETS:
        net.load(node, render.held(["10.244.0.0/16", "fd00:244::/32"]))
    for family in (0, 1):
        assert not any(net.ask(family).values())
    net.clear()
    for family in (0, 1):
        assert all(net.ask(family, lambda key: True).values())


def test_a_pod_that_is_not_known_yet_is_held(net: PolicyNet) -> None:
    from dataclasses import replace

    asked = world(policy("z", podSelector={"matchLabels": {"pod": "nobody"}}))
    without = replace(asked, pods=tuple(p for p in asked.pods if (p.namespace, p.name) != ("x", "a")))
    for node, cidrs in SUBNETS.items():
        net.load(node, render.table(without, node, cidrs))
    for family in (0, 1):
        found = net.ask(family, lambda key: "x/a" not in key)
        assert all(arrived == ("x/a" not in key) for key, arrived in found.items()), found
    net.clear()


SCTP_80 = {"port": 80, "protocol": "SCTP"}


def arrives(net: PolicyNet, source: str, destination: str, port: int, family: int, wanted: bool) -> bool:
    """Whether an SCTP association (tests/raw_sctp.py) can be opened; one that should be is waited for."""
    asker, server = (net.namespace(n) for n in (source, destination))
    address = addresses(source, destination, family)[1]
    held = inside(server, lambda: raw_sctp.Server(destination, {80, 81}))
    client = inside(asker, lambda: raw_sctp.Wire(raw_sctp.family_of(address)))
    try:
        association = raw_sctp.Association(client, address, port, addresses(source, destination, family)[0])
        association.begin()
        deadline = time.monotonic() + (20 if wanted else 0.25)
        while not association.answer and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([client, *held.wires], [], [], left)
            for wire in ready:
                if wire is client:
                    for heard in client.heard():
                        association.hear(heard)
                else:
                    held.read(wire)
        return association.answer == f"{destination} {addresses(source, destination, family)[0]}"
    finally:
        for wire in (client, *held.wires):
            wire.close()


def test_sctp_ports(net: PolicyNet) -> None:
    """A port of one protocol says nothing of the others', and a rule without ports lets SCTP through too."""
    named = {"ports": [{"port": 81, "endPort": 90, "protocol": "SCTP"}]}
    for family, (rule, let_in) in enumerate((({"ports": [SCTP_80]}, {80}), (named, {81}))):
        asked = world(policy("x", podSelector={"matchLabels": {"pod": "a"}}, ingress=[rule]))
        for node, cidrs in SUBNETS.items():
            net.load(node, render.table(asked, node, cidrs))
        for source in ("y/a", "x/b", "outside"):
            for port in (80, 81):
                assert arrives(net, source, "x/a", port, family, port in let_in) is (port in let_in), (source, port)
        assert arrives(net, "y/a", "x/b", 80, family, True)
        assert not any(v for k, v in net.ask(family).items() if k[1] == "x/a"), "TCP and UDP of the same numbers"
    net.clear()
