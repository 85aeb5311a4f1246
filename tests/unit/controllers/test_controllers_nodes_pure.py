"""Nodes: taints, evictions, silence, subnets; pods nobody cleans up."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any

import pytest
from controllers_objects import NOW, ago, node, pod
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.controllers import taints
from nsk8s.controllers.context import Settings
from nsk8s.controllers.main import CONTROLLERS, chosen, duration, networks
from nsk8s.controllers.nodeipam import CidrSet, make_sets, mask_sizes, node_cidrs, preferred_index
from nsk8s.controllers.nodelifecycle import EvictionLimiter, silent_conditions
from nsk8s.controllers.podgc import is_out_of_service, surplus
from nsk8s.errors import Nsk8sError


def keys(found: list[Object]) -> set[tuple[str, str]]:
    return {(t["key"].removeprefix("node.kubernetes.io/"), t["effect"]) for t in found}


def test_taints_follow_conditions_and_leave_the_users_alone() -> None:
    mine = {"key": "mine", "effect": "NoExecute", "value": "x"}
    n = node("n", ready="Unknown", taints=[mine, {"key": taints.NOT_READY, "effect": "NoSchedule"}])
    n["status"]["conditions"].append({"type": "DiskPressure", "status": "True"})
    n["spec"]["unschedulable"] = True
    found = taints.wanted_taints(n, evict=True, now=NOW)
    assert found[0] == mine
    assert keys(found) == {
        ("mine", "NoExecute"), ("unreachable", "NoSchedule"), ("unreachable", "NoExecute"), ("disk-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    }  # fmt: skip
    assert all(t["timeAdded"] == ago(0) for t in found[1:])
    n["spec"]["taints"] = found
    assert taints.wanted_taints(n, evict=None, now=NOW + timedelta(hours=1)) == found, "nothing new: nothing written"
    n["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    n["spec"]["unschedulable"] = False
    assert taints.wanted_taints(n, evict=None, now=NOW) == [mine]


def test_the_no_execute_taint_waits_its_turn_and_changes_with_the_condition() -> None:
    n = node("n", ready="False")
    assert keys(taints.wanted_taints(n, evict=None, now=NOW)) == {("not-ready", "NoSchedule")}
    n["spec"]["taints"] = taints.wanted_taints(n, evict=True, now=NOW)
    assert taints.has_no_execute(n)
    n["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert not taints.has_no_execute(n)
    assert keys(taints.wanted_taints(n, evict=None, now=NOW)) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    assert keys(taints.wanted_taints(n, evict=False, now=NOW)) == {("unreachable", "NoSchedule")}


def test_a_node_that_never_spoke_gets_no_taint_of_ours() -> None:
    n = node("n")
    n["status"] = {}
    assert taints.wanted_taints(n, evict=True, now=NOW) == []


@pytest.mark.parametrize(
    ("tolerations", "expected"),
    [
        ([], 0.0),
        ([{"key": "k", "operator": "Exists"}], None),
        ([{"operator": "Exists"}], None),
        ([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}], 300.0),
        ([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}, {"key": "k", "value": "v", "tolerationSeconds": 5}], 5.0),
        ([{"key": "k", "operator": "Exists", "tolerationSeconds": -7}], 0.0),
        ([{"key": "k", "value": "other"}], 0.0),
    ],
)
def test_how_long_taints_are_tolerated(tolerations: list[Object], expected: float | None) -> None:
    assert taints.tolerated_s(tolerations, [{"key": "k", "value": "v", "effect": "NoExecute"}]) == expected


def test_eviction_counts_from_when_the_taint_was_put_on() -> None:
    n = node("n", taints=[{"key": "k", "effect": "NoExecute", "timeAdded": ago(40)}])
    p = pod("p")
    p["spec"]["tolerations"] = [{"key": "k", "operator": "Exists", "tolerationSeconds": 60}]
    assert taints.evict_at(p, n, NOW) == NOW + timedelta(seconds=20), "a new controller does not start the clock anew"
    del n["spec"]["taints"][0]["timeAdded"]
    assert taints.evict_at(p, n, NOW) == NOW + timedelta(seconds=60)
    n["spec"]["taints"][0]["effect"] = "NoSchedule"
    assert taints.evict_at(p, n, NOW) is None


def test_silence_marks_what_was_known_and_what_never_was() -> None:
    n = node("n")
    n["status"]["conditions"][0] |= {"reason": "KubeletReady", "lastHeartbeatTime": "then"}
    found = {c["type"]: c for c in silent_conditions(n, NOW)}
    assert found["Ready"] == {
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastHeartbeatTime": "then",
        "message": "Kubelet stopped posting node status.", "lastTransitionTime": ago(0),
    }  # fmt: skip
    assert found["DiskPressure"]["message"] == "Kubelet never posted node status."
    assert set(found) == {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"}


@pytest.mark.parametrize(
    ("ready", "silent", "state"),
    [(3, 0, "Normal"), (3, 1, "Normal"), (1, 2, "Normal"), (0, 1, "FullDisruption"), (2, 3, "PartialDisruption"),
     (5, 3, "Normal"), (0, 0, "Normal")],
)  # fmt: skip
def test_zone_states(ready: int, silent: int, state: str) -> None:
    assert taints.zone_state(ready, silent, 0.55) == state


def test_one_node_at_once_the_next_ten_seconds_later() -> None:
    limiter = EvictionLimiter()
    assert limiter.wait_s("z", 0.1, 0.0) == 0
    assert limiter.wait_s("z", 0.1, 4.0) == pytest.approx(6.0)
    assert limiter.wait_s("other", 0.1, 4.0) == 0
    assert limiter.wait_s("z", 0.0, 5.0) is None
    assert limiter.wait_s("z", 0.1, 10.0) == 0


def test_subnets_by_address() -> None:
    first = (ipaddress.ip_address("192.168.56.10"), ipaddress.ip_address("192.168.57.10"))
    cidrs = CidrSet(ipaddress.ip_network("10.244.0.0/16"), 24)
    assert str(cidrs.allocate(preferred_index(node("cp", address="192.168.56.10"), first))) == "10.244.0.0/24"
    assert str(cidrs.allocate(preferred_index(node("n2", address="192.168.56.12"), first))) == "10.244.2.0/24"
    assert str(cidrs.allocate(preferred_index(node("n1", address="192.168.56.11"), first))) == "10.244.1.0/24"
    assert str(cidrs.allocate(preferred_index(node("far", address="192.168.56.9"), first))) == "10.244.3.0/24"
    assert str(cidrs.allocate(preferred_index(node("n1", address="192.168.56.11"), first))) == "10.244.4.0/24", "taken"
    assert preferred_index(node("n", address="nonsense"), first) is None
    assert preferred_index(node("rack b", address="192.168.57.13"), first) == 3, "hosts are numbered through all racks"
    assert preferred_index(node("n", address="192.168.56.11"), ()) is None


operations = st.lists(st.one_of(st.none(), st.integers(0, 20), st.integers(0, 7).map(lambda i: -1 - i)), max_size=60)


@given(operations)
def test_subnets_never_overlap_and_are_used_again(steps: list[int | None]) -> None:
    cidrs = CidrSet(ipaddress.ip_network("10.0.0.0/21"), 24)
    held: list[Any] = []
    for step in steps:
        if step is not None and step < 0:
            if held:
                cidrs.release(held.pop(-step % len(held)))
            continue
        got = cidrs.allocate(step)
        if got is None:
            assert len(held) == cidrs.size
            continue
        assert got.subnet_of(cidrs.network)
        assert not any(got.overlaps(h) for h in held)
        held.append(got)


def test_service_ranges_and_foreign_sizes_are_kept_out() -> None:
    settings = Settings(cluster_cidrs=networks("10.0.0.0/22"), service_cluster_ip_ranges=networks("10.0.1.0/25"))
    (cidrs,) = make_sets(settings)
    assert cidrs.occupy(ipaddress.ip_network("10.0.2.0/23"))
    assert not cidrs.occupy(ipaddress.ip_network("192.168.0.0/24"))
    assert [str(cidrs.allocate()), cidrs.allocate()] == ["10.0.0.0/24", None]
    with pytest.raises(Nsk8sError, match="does not fit"):
        CidrSet(ipaddress.ip_network("10.0.0.0/24"), 16)


V4, V6 = "10.244.0.0/16", "fd00:10:244::/56"


@pytest.mark.parametrize(
    ("clusters", "given", "sizes"),
    [
        (V4, (0, 0, 0), (24, 64)), (V4, (25, 0, 0), (25, 25)), (V6, (72, 0, 0), (72, 72)), (V6, (0, 0, 72), (24, 72)),
        (f"{V4},{V6}", (0, 0, 0), (24, 64)), (f"{V6},{V4}", (0, 26, 60), (26, 60)),
    ],
)  # fmt: skip
def test_mask_sizes(clusters: str, given: tuple[int, int, int], sizes: tuple[int, int]) -> None:
    assert mask_sizes(networks(clusters), *given) == sizes


@pytest.mark.parametrize(
    ("clusters", "given", "why"),
    [
        (f"{V4},{V6}", (24, 0, 0), "usage of --node-cidr-mask-size is not allowed with dual-stack clusters"),
        (V4, (24, 24, 0), "is not allowed if --node-cidr-mask-size is set"),
        (V4, (0, 0, 64), "--node-cidr-mask-size-ipv6 is not allowed for a single-stack IPv4 cluster"),
        (V6, (0, 24, 0), "--node-cidr-mask-size-ipv4 is not allowed for a single-stack IPv6 cluster"),
        (f"{V4},10.0.0.0/16", (0, 0, 0), "different IP families"),
        (f"{V4},{V6},10.0.0.0/16", (0, 0, 0), "more than the two"),
    ],
)
def test_mask_sizes_that_cannot_be(clusters: str, given: tuple[int, int, int], why: str) -> None:
    with pytest.raises(Nsk8sError, match=why):
        mask_sizes(networks(clusters), *given)


def test_a_subnet_of_each_family() -> None:
    first = (ipaddress.ip_address("192.168.56.10"),)
    ranges = networks("10.96.0.0/16,fd00:10:96::/112")
    sets = make_sets(Settings(cluster_cidrs=networks(f"{V4},{V6}"), service_cluster_ip_ranges=ranges))
    two = preferred_index(node("n2", address="192.168.56.12"), first)
    assert [str(pods.allocate(two)) for pods in sets] == ["10.244.2.0/24", "fd00:10:244:2::/64"]
    assert [pods.size for pods in sets] == [256, 256]
    assert not sets[1].occupy(ipaddress.ip_network("fd00:10:244:2::/64")), "recovered from podCIDRs, it is taken"


def test_node_cidrs_survive_nonsense() -> None:
    assert node_cidrs({"spec": {"podCIDRs": ["junk", "10.0.0.0/24"]}}) == [ipaddress.ip_network("10.0.0.0/24")]
    assert node_cidrs({}) == []


def test_pod_gc_takes_the_oldest_ended() -> None:
    ended = [pod(f"p{i}", phase="Succeeded", age=i) for i in range(5)]
    assert [meta.name(p) for p in surplus(ended, 3)] == ["p4", "p3"]
    assert surplus(ended, 0) == []
    out = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
    assert is_out_of_service(node("n", ready="Unknown", taints=[out]))
    assert not is_out_of_service(node("n", taints=[out]))


def test_which_controllers_run() -> None:
    assert chosen("*") == list(CONTROLLERS)
    assert chosen("*,-node-ipam-controller,-podgc") == [
        c for c in CONTROLLERS if c not in ("node-ipam-controller", "pod-garbage-collector-controller")
    ]
    assert chosen("deployment,replicaset-controller") == ["deployment-controller", "replicaset-controller"]
    with pytest.raises(Nsk8sError, match="no controller 'nope'"):
        chosen("*,-nope")
    assert list(CONTROLLERS)[-1] == "garbage-collector-controller", "it takes the others' informers"


def test_durations() -> None:
    assert [duration(t) for t in ("15s", "1m30s", "500ms", "1.5h")] == [15, 90, 0.5, 5400]
    for broken in ("", "15", "s", "1m30"):
        with pytest.raises(ValueError):
            duration(broken)
