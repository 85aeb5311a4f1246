"""Topology aware routing: endpoints shared out to the zones."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsk8s.controllers import topology

HALF = 0.5 + 1e-9


def endpoints(**zones: int) -> list[dict[str, Any]]:
    return [
        {"addresses": [f"{zone}{i}"], "zone": zone, "conditions": {"ready": True}} for zone, count in zones.items() for i in range(count)
    ]


def hinted(found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(e["hints"]["forZones"][0]["name"] for e in found if "hints" in e)


def node(zone: str, cpu: str, *, ready: str = "True", **labels: str) -> dict[str, Any]:
    marks = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {
        "metadata": {"name": "n", "labels": {**marks, **labels}},
        "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]},
    }


def test_shares_are_those_of_ready_workers_cpus() -> None:
    control_plane = node("c", "8", **{"node-role.kubernetes.io/control-plane": ""})
    assert topology.shares([node("a", "2"), node("b", "1"), node("a", "1000m"), node("b", "9", ready="False"), control_plane]) == {
        "a": 0.75, "b": 0.25,
    }  # fmt: skip
    assert topology.shares([node("a", "2"), node("a", "2")]) == {}, "one zone"
    assert topology.shares([node("a", "2"), node("b", "2"), node("", "2")]) == {}, "a node without a zone"
    assert topology.shares([node("a", "2"), node("b", "0")]) == {}, "a node that has no CPU to tell of"


@pytest.mark.parametrize(
    ("have", "by_zone", "wanted"),
    [
        ({"a": 3, "b": 3}, {"a": 0.5, "b": 0.5}, {"a": 3, "b": 3}),
        ({"a": 5, "b": 1}, {"a": 0.5, "b": 0.5}, {"a": 3, "b": 3}),
        ({"a": 6}, {"a": 0.5, "b": 0.5}, {"a": 3, "b": 3}),
        ({"a": 3, "b": 3, "c": 3}, {"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 4, "b": 2, "c": 3}),
    ],
)
def test_endpoints_stay_in_their_zone_as_far_as_shares_allow(
    have: dict[str, int], by_zone: dict[str, float], wanted: dict[str, int]
) -> None:
    found = endpoints(**have)
    assert topology.add_hints(found, by_zone, "IPv4") == ""
    assert hinted(found) == wanted
    at_home = Counter(e["zone"] for e in found if e["hints"]["forZones"][0]["name"] == e["zone"])
    assert at_home == {z: min(n, wanted[z]) for z, n in have.items()}


def test_why_there_are_none() -> None:
    halves = {"a": 0.5, "b": 0.5}
    found = endpoints(a=2, b=2)
    assert topology.add_hints(found, halves, "IPv4") == ""
    assert topology.add_hints(found, {}, "IPv4").startswith("Insufficient Node information")
    assert hinted(found) == {}, "and those of before are gone"
    assert topology.add_hints(endpoints(a=1), halves, "IPv6") == "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv6"
    assert "without exceeding overload threshold (3 endpoints, 2 zones)" in topology.add_hints(endpoints(a=2, b=1), halves, "IPv4")
    lost = endpoints(a=2, b=2)
    del lost[0]["zone"]
    assert "do not have a zone" in topology.add_hints(lost, halves, "IPv4")
    lost[0]["conditions"]["ready"] = False
    assert topology.add_hints([*lost, *endpoints(b=1)], halves, "IPv4") == "", "one that is not ready needs none"
    assert "hints" not in lost[0]


@given(st.lists(st.integers(0, 12), min_size=2, max_size=4), st.lists(st.integers(1, 8), min_size=4, max_size=4))
@example([0, 0, 0, 8], [1, 1, 1, 7])  # the third zone would get its first endpoint of 0.4 that is too much elsewhere: it gets none
def test_endpoints_are_moved_as_long_as_whole_ones_are_left_over(counts: list[int], cpus: list[int]) -> None:
    """As upstream's: no zone that has too many and none that has too few are left half an endpoint or more apart from their
    share at once, unless by less than one each; and nobody is moved past their share by more than a half."""
    names = "abcd"[: len(counts)]
    total = sum(cpus[: len(counts)])
    by_zone = {z: cpus[i] / total for i, z in enumerate(names)}
    before = dict(zip(names, counts, strict=True))
    found = endpoints(**before)
    if topology.add_hints(found, by_zone, "IPv4"):
        assert hinted(found) == {}
        return
    given_to = hinted(found)
    assert sum(given_to.values()) == len(found)
    desired = {z: max(share * len(found), ceil(share * len(found) / 1.2)) for z, share in by_zone.items()}
    too_many = {z: given_to[z] - desired[z] for z in names}
    over, under = max(too_many.values()), -min(too_many.values())
    assert over < HALF or under < HALF or (over < 2 * HALF and under < 2 * HALF), too_many
    for zone in names:
        low, high = sorted((before[zone], desired[zone]))
        assert low - HALF <= given_to[zone] <= high + HALF, (zone, before, given_to, desired)


def test_the_annotation() -> None:
    def service(**notes: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {f"service.kubernetes.io/{k.replace('_', '-')}": v for k, v in notes.items()}}}

    assert topology.wants_hints(service(topology_mode="Auto"))
    assert topology.wants_hints(service(topology_aware_hints="auto"))
    assert not topology.wants_hints(service(topology_mode="Disabled"))
    assert not topology.wants_hints(service())
