"""userspace mode without sockets: whose turn it is, what is written when, what is told."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import pytest
from proxy_rules_kit import Kit, ep, service, slice_of

from nsk8s.net import chainset
from nsk8s.proxy.cleanup import IPTABLES, USERSPACE, removal
from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.roundrobin import RoundRobin
from nsk8s.proxy.services import PortName

NAME = PortName("ns", "svc", "", "TCP")
ONE, TWO, THREE = (Endpoint(f"10.244.1.{i}", 80) for i in (1, 2, 3))


def balancer(*endpoints: Endpoint, affinity_s: int = 0) -> RoundRobin:
    made = RoundRobin(lambda order: order.sort())
    made.set(NAME, endpoints, affinity_s)
    return made


def test_endpoints_take_turns() -> None:
    made = balancer(ONE, TWO, THREE)
    assert [made.next(NAME, "c", 0) for _ in range(4)] == [ONE, TWO, THREE, ONE]
    made.set(NAME, (ONE, TWO, THREE), 0)
    assert made.next(NAME, "c", 0) == TWO, "nothing changed, so the turn goes on"
    made.set(NAME, (THREE,), 0)
    assert [made.next(NAME, "c", 0) for _ in range(2)] == [THREE, THREE]
    made.set(NAME, (), 0)
    assert made.next(NAME, "c", 0) is None
    made.forget(NAME)
    assert made.next(NAME, "c", 0) is None


def test_a_client_keeps_its_endpoint_as_long_as_it_comes_and_it_answers() -> None:
    made = balancer(ONE, TWO, affinity_s=10)
    assert [made.next(NAME, c, 0) for c in "abab"] == [ONE, TWO, ONE, TWO]
    assert made.next(NAME, "a", 9) == ONE
    assert made.next(NAME, "a", 18) == ONE, "each visit counts anew"
    assert made.next(NAME, "b", 18) == ONE, "b was away for too long, and it is ONE's turn"
    assert made.next(NAME, "a", 19, afresh=True) == TWO, "its endpoint did not answer"
    assert made.next(NAME, "a", 20) == TWO
    made.set(NAME, (ONE, THREE), 10)
    assert made.next(NAME, "a", 21) == ONE, "TWO is gone"
    assert made.next(NAME, "b", 21) == ONE, "b's is still there"
    made.forget_idle_clients(40)
    assert made._states[NAME].clients == {}
    made.set(NAME, (ONE, THREE), 0)
    assert [made.next(NAME, "a", 41) for _ in range(2)] == [THREE, ONE]


def test_a_port_keeps_its_socket_and_one_that_goes_gives_it_back() -> None:
    kit = Kit(mode="userspace").put(service("svc", "10.96.0.9", type="NodePort", node_port=30080), slice_of("svc", ep("10.244.1.2")))
    kit.sync()
    assert kit.sockets.open == {40001: "tcp"}
    assert kit.sockets.claimed == {("tcp", 30080)}
    text = kit.put(slice_of("svc", ep("10.244.1.3"))).sync()
    assert text == "", "endpoints are no concern of the rules"
    held = next(iter(kit.proxier._held.values()))  # type: ignore[attr-defined]
    assert held.proxy.next_endpoint("c", False).ip == "10.244.1.3"
    text = kit.put(service("svc", "10.96.0.10", type="NodePort", node_port=30081)).sync()
    assert kit.sockets.open == {40001: "tcp"}
    assert kit.sockets.claimed == {("tcp", 30081)}
    assert "-d 10.96.0.10/32 -j REDIRECT --to-ports 40001" in text
    kit.delete("Service", "svc").sync()
    assert (kit.sockets.open, kit.sockets.claimed) == ({}, set())
    assert kit.held.rules("nat", "KUBE-PORTALS-CONTAINER") == ()


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_node_port_that_goes_over_to_another_service_is_let_go_first(names: str) -> None:
    old, new = names
    kit = Kit(mode="userspace").put(service(old, "10.96.0.9", type="NodePort", node_port=30080))
    kit.sync()
    kit.put(service(new, "10.96.0.10", type="NodePort", node_port=30080))
    kit.put(service(old, "10.96.0.9", type="NodePort", node_port=30081)).sync()
    assert kit.sockets.claimed == {("tcp", 30080), ("tcp", 30081)}
    (to,) = [r for r in kit.held.rules("nat", "KUBE-NODEPORT-CONTAINER") if "--dport 30080" in r]
    assert f"ns/{new}:" in to
    kit.delete("Service", old)
    kit.put(service(new, "10.96.0.10", type="NodePort", node_port=30081)).sync()
    assert kit.sockets.claimed == {("tcp", 30081)}


def test_a_node_port_that_is_taken_is_tried_again_at_the_next_sync(caplog: pytest.LogCaptureFixture) -> None:
    kit = Kit(mode="userspace")
    kit.sockets.taken.add(30080)
    kit.put(service("svc", "10.96.0.9", type="NodePort", node_port=30080)).sync()
    assert "cannot open node port 30080: Address already in use" in caplog.text
    assert kit.held.rules("nat", "KUBE-NODEPORT-HOST") == ()
    kit.sockets.taken.clear()
    kit.put(service("another", "10.96.0.10")).sync()
    assert len(kit.held.rules("nat", "KUBE-NODEPORT-HOST")) == 1


def test_what_a_service_asks_for_in_vain_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    kit = Kit(mode="userspace")
    kit.put(service("svc", "10.96.0.9", type="NodePort", node_port=30080, externalTrafficPolicy="Local", internalTrafficPolicy="Local"))
    kit.put(service("other", "10.96.0.10", protocol="SCTP"))
    for _ in range(2):
        kit.proxier.force_full_sync()
        kit.sync()
    lines = [r.message for r in caplog.records]
    told = "service ns/svc:p80: userspace mode takes no notice of externalTrafficPolicy Local, internalTrafficPolicy Local"
    assert lines.count(told) == 1
    assert "service ns/other:p80: userspace mode does not proxy SCTP" in lines


@pytest.mark.parametrize("damage", ["a rule", "a jump", "a chain", "nothing"])
def test_damage_is_seen(damage: str) -> None:
    kit = Kit(mode="userspace").put(service("svc", "10.96.0.9"), slice_of("svc", ep("10.244.1.2")))
    kit.sync()
    tables = {t: dict(chains) for t, chains in kit.held.tables.items()}
    nat = tables["nat"]
    if damage == "a rule":
        nat["KUBE-PORTALS-HOST"] = chainset.Chain()
    elif damage == "a jump":
        nat["OUTPUT"] = chainset.Chain(nat["OUTPUT"].rules[:-1], "ACCEPT")
    elif damage == "a chain":
        nat["PREROUTING"] = chainset.Chain((), "ACCEPT")
        del nat["KUBE-PORTALS-CONTAINER"]
    kit.iptables.held = chainset.ChainSet(tables)
    assert asyncio.run(kit.proxier.is_intact()) == (damage == "nothing")


def test_each_mode_takes_the_others_rules_away_and_leaves_its_own() -> None:
    objects = service("svc", "10.96.0.9"), slice_of("svc", ep("10.244.1.2"))
    old, new = Kit(mode="userspace").put(*objects), Kit(mode="iptables").put(*objects)
    old.sync()
    new.iptables.held = old.iptables.held
    new.sync()
    assert new.proxier.seen == {"userspace"}
    both = new.held
    left = chainset.apply(both, removal(chainset.render(both), (USERSPACE,)))
    fresh = Kit(mode="iptables").put(*objects)
    fresh.sync()
    assert not fresh.proxier.seen
    assert left.tables["nat"] == fresh.held.tables["nat"]
    assert set(left.tables["filter"]) == set(fresh.held.tables["filter"])
    left = chainset.apply(both, removal(chainset.render(both), (IPTABLES,)))
    assert left.tables["nat"] == old.held.tables["nat"]
    assert all(not name.startswith("KUBE-") for name in chainset.apply(both, removal(chainset.render(both))).tables["nat"])


def test_other_modes_do_not_load_its_code() -> None:
    code = "import sys, nsk8s.proxy.main, nsk8s.proxy.server; print([m for m in sys.modules if m.endswith(('.userspace', '.portals', '.proxysocket', 'proxy.ipvs', '.ipvsrules', '.ipvsledger', 'kernel.ipvs', '.ipset'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
