"""Which rules are missed, though nobody wrote them: those that upstream would have written with the last change."""

from __future__ import annotations

import asyncio

import pytest
from proxy_rules_kit import Kit, ep, service, slice_of

from nsk8s.net import chainset
from nsk8s.proxy import names, rules

SEP = {s: names.endpoint_chain(f"ns/{s}:p80", "tcp", f"{ip}:80") for s, ip in (("s", "10.0.0.1"), ("t", "10.0.0.2"))}


@pytest.fixture(params=[False, True], ids=["small", "large"])
def kit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kit:
    """Services s and t, with an endpoint each, written; a large cluster's chains are listed one by one."""
    monkeypatch.setattr(rules, "LARGE_CLUSTER_ENDPOINTS", 0 if request.param else 1000)
    made = Kit().put(service("s", "10.96.0.1"), slice_of("s", ep("10.0.0.1")), service("t", "10.96.0.2"), slice_of("t", ep("10.0.0.2")))
    made.sync()
    assert made.proxier.is_large is request.param
    return made


def damage(kit: Kit, table: str, text: str) -> None:
    kit.iptables.held = chainset.apply(kit.held, f"*{table}\n{text}\nCOMMIT\n")


def is_lost(kit: Kit) -> bool:
    return asyncio.run(kit.proxier.lost_rules())


def change(kit: Kit) -> None:
    kit.put(slice_of("s", ep("10.0.0.1"), ep("10.0.0.3")))


@pytest.mark.parametrize(
    ("table", "text", "lost"),
    [
        ("nat", ":KUBE-SERVICES - [0:0]", True),
        ("nat", "-A KUBE-MARK-MASQ -j LOG", True),
        ("filter", "-A KUBE-FORWARD -j DROP", True),
        ("filter", ":KUBE-FORWARD - [0:0]", True),
        ("nat", f":{SEP['s']} - [0:0]", True),
        ("nat", f":{SEP['t']} - [0:0]", False),  # of a Service that did not change
        ("nat", "-A POSTROUTING -j LOG", False),
        ("nat", ":OTHERS - [0:0]", False),
    ],
)
def test_a_change_makes_it_look(kit: Kit, table: str, text: str, lost: bool) -> None:
    damage(kit, table, text)
    assert not is_lost(kit), "nothing has changed"
    change(kit)
    assert not is_lost(kit), "not before it is written"
    kit.sync()
    assert is_lost(kit) is lost
    kit.proxier.force_full_sync()
    kit.sync()
    assert not is_lost(kit)


def test_what_is_as_it_was_written_is_not_missed(kit: Kit) -> None:
    for change_it in (
        lambda: change(kit),
        lambda: kit.put(service("u", "10.96.0.3", node_port=30001, type="NodePort"), slice_of("u", ep("10.0.0.4"), ep("10.0.0.5"))),
        lambda: kit.put(service("u", "10.96.0.3", sessionAffinity="ClientIP")),
        lambda: kit.delete("EndpointSlice", "t-x"),
        lambda: kit.delete("Service", "s"),
    ):
        change_it()
        kit.sync()
        assert not is_lost(kit)


def test_while_a_sync_is_at_work_nothing_is_missed_and_nothing_forgotten(kit: Kit) -> None:
    change(kit)
    kit.sync()
    damage(kit, "nat", ":KUBE-SERVICES - [0:0]")
    kit.proxier.writes += 1
    assert not is_lost(kit)
    kit.proxier.writes += 1
    assert is_lost(kit)
