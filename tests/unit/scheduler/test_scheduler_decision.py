"""Which node a pod gets, and in which words none is found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api.meta import Object
from nsk8s.scheduler import preemption
from nsk8s.scheduler.cache import Cache
from nsk8s.scheduler.config import default_profile, profiles
from nsk8s.scheduler.framework import NodeInfo, PodInfo, Reject, Unschedulable, pick_node, pod_requests
from nsk8s.scheduler.plugins.tainttoleration import matches

PROFILE = default_profile()
CONTROL_PLANE = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}


def node(name: str, *, taints: list[Object] | None = None, labels: dict[str, str] | None = None, **allocatable: str) -> Object:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": {"taints": taints} if taints else {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", **allocatable}},
    }


_uids = iter(range(10**9))


def pod(requests: dict[str, str] | None = None, *, owner: str = "", labels: dict[str, str] | None = None, **spec: Any) -> PodInfo:
    uid = f"u{next(_uids)}"
    metadata: Object = {"name": uid, "namespace": "default", "uid": uid, "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [{"kind": "ReplicaSet", "uid": owner, "controller": True}]
    container: Object = {"name": "app", "resources": {"requests": requests or {}}, "ports": spec.pop("ports", [])}
    return PodInfo.of({"metadata": metadata, "spec": {"containers": [container], **spec}})


def cluster(*nodes: Object) -> Cache:
    cache = Cache()
    for n in nodes:
        cache.set_node(n)
    return cache


def pick(cache: Cache, wanted: PodInfo) -> str | Unschedulable:
    return pick_node(wanted, cache.snapshot(), PROFILE.filters, PROFILE.scores)


def message(cache: Cache, wanted: PodInfo) -> str:
    verdict = pick(cache, wanted)
    assert isinstance(verdict, Unschedulable)
    return verdict.message


def place(cache: Cache, wanted: PodInfo, where: str) -> PodInfo:
    cache.assume(wanted, where)
    return wanted


def test_the_message_is_upstreams_word_for_word() -> None:
    cache = cluster(node("cp", taints=[CONTROL_PLANE]), node("n1"), node("n2"), node("n3"))
    wanted = pod({"cpu": "5"})
    verdict = pick(cache, wanted)
    assert isinstance(verdict, Unschedulable)
    assert verdict.message == (
        "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 3 Insufficient cpu."
    )
    assert preemption.plan(wanted, cache.snapshot(), PROFILE.filters, verdict.rejects) == (
        "0/4 nodes are available: 4 Preemption is not helpful for scheduling."
    )


def test_each_plugin_gives_its_own_reason() -> None:
    cordoned = node("n1")
    cordoned["spec"]["unschedulable"] = True
    assert "1 node(s) were unschedulable." in message(cluster(cordoned), pod())
    assert "1 node(s) didn't match Pod's node affinity/selector." in message(cluster(node("n1")), pod(nodeSelector={"a": "b"}))
    assert "1 node(s) didn't match the requested node name." in message(cluster(node("n1")), pod(nodeName="other"))
    assert "1 Too many pods." in message(cluster(node("n1", pods="0")), pod())
    both = message(cluster(node("n1")), pod({"cpu": "5", "memory": "9Gi", "example.com/gpu": "1"}))
    assert both == "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory."
    busy = cluster(node("n1"))
    place(busy, pod(ports=[{"hostPort": 80, "containerPort": 80}]), "n1")
    other_ip = [{"hostPort": 80, "hostIP": "10.0.0.1", "containerPort": 80}]
    assert "1 node(s) didn't have free ports for the requested pod ports." in message(busy, pod(ports=other_ip))
    assert pick(busy, pod(ports=[{"hostPort": 80, "protocol": "UDP", "containerPort": 80}])) == "n1"
    assert message(cluster(), pod()) == "no nodes available to schedule pods"


def test_a_broken_selector_makes_a_pod_unschedulable_and_nothing_crashes() -> None:
    terms = [{"matchExpressions": [{"key": "a", "operator": "Nonsense"}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    assert "Nonsense" in message(cluster(node("n1")), pod(affinity=affinity))


@pytest.mark.parametrize(("count", "workers"), [(50, 3), (7, 3), (500, 20)])
def test_equal_pods_are_spread_evenly(count: int, workers: int) -> None:
    cache = cluster(node("cp", taints=[CONTROL_PLANE]), *(node(f"n{i}") for i in range(workers)))
    place(cache, pod({"cpu": "100m", "memory": "70Mi"}), "n0")  # the DNS pod must not tip the balance
    for _ in range(count):
        wanted = pod(owner="rs")
        where = pick(cache, wanted)
        assert isinstance(where, str)
        cache.assume(wanted, where)
    sizes = Counter({n.name: n.owners[("default", "rs")] for n in cache.snapshot().nodes})
    assert sizes["cp"] == 0
    workers_only = [sizes[f"n{i}"] for i in range(workers)]
    assert max(workers_only) - min(workers_only) <= 1


def test_zones_are_spread_before_nodes() -> None:
    zones = {"topology.kubernetes.io/zone": "a"}, {"topology.kubernetes.io/zone": "b"}
    cache = cluster(node("a1", labels=zones[0]), node("a2", labels=zones[0]), node("b1", labels=zones[1]))
    where = Counter[str]()
    for _ in range(8):
        wanted = pod(owner="rs")
        found = pick(cache, wanted)
        assert isinstance(found, str)
        cache.assume(wanted, found)
        where[found] += 1
    assert where["b1"] >= 3


def test_the_emptier_node_is_preferred() -> None:
    cache = cluster(node("n1"), node("n2"))
    place(cache, pod({"cpu": "2", "memory": "4Gi"}), "n1")
    assert {pick(cache, pod({"cpu": "1"})) for _ in range(4)} == {"n2"}


def test_preferred_taints_and_affinity_weigh() -> None:
    cache = cluster(node("n1", taints=[{"key": "x", "effect": "PreferNoSchedule"}]), node("n2"))
    assert {pick(cache, pod()) for _ in range(4)} == {"n2"}
    preferred = [{"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]}}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    cache = cluster(node("n1"), node("n2", labels={"disk": "fast"}))
    assert {pick(cache, pod(affinity=affinity)) for _ in range(4)} == {"n2"}


def _anti(key: str = "kubernetes.io/hostname", *, kind: str = "podAntiAffinity", app: str = "web") -> Object:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_pod_anti_affinity_both_ways_and_affinity_of_the_first() -> None:
    cache = cluster(node("n1"), node("n2"))
    first = place(cache, pod(labels={"app": "web"}, affinity=_anti()), "n1")
    assert pick(cache, pod(labels={"app": "web"})) == "n2", "an existing pod keeps others away"
    place(cache, pod(labels={"app": "web"}), "n2")
    assert "1 node(s) didn't satisfy existing pods anti-affinity rules" in message(
        cache, pod(labels={"app": "web"}, nodeSelector={"kubernetes.io/hostname": "n1"})
    )
    assert "2 node(s) didn't match pod anti-affinity rules" in message(cache, pod(labels={"app": "other"}, affinity=_anti()))
    cache.remove_pod(first.uid)
    near = _anti(kind="podAffinity")
    assert pick(cache, pod(labels={"app": "x"}, affinity=near)) == "n2"
    alone = cluster(node("n1"))
    assert pick(alone, pod(labels={"app": "web"}, affinity=near)) == "n1", "the first of a group may go anywhere"
    assert "1 node(s) didn't match pod affinity rules" in message(alone, pod(labels={"app": "x"}, affinity=near))


def test_topology_spread_constraints_are_kept() -> None:
    constraint = {
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }  # fmt: skip
    cache = cluster(node("n1"), node("n2", cpu="1"))
    place(cache, pod(labels={"app": "web"}), "n1")
    assert pick(cache, pod(labels={"app": "web"}, topologySpreadConstraints=[constraint])) == "n2"
    full = pod({"cpu": "2"}, labels={"app": "web"}, topologySpreadConstraints=[constraint])
    assert message(cache, full) == (
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints."
    )
    missing = {**constraint, "topologyKey": "rack"}
    assert "2 node(s) didn't match pod topology spread constraints (missing required label)." in message(
        cache, pod(labels={"app": "web"}, topologySpreadConstraints=[missing])
    )


def test_what_a_pod_requests() -> None:
    def container(cpu: str, **more: Any) -> Object:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [container("100m"), container("200m")],
        "initContainers": [container("50m", restartPolicy="Always"), container("1")],
        "overhead": {"cpu": "10m"},
    }
    assert pod_requests(spec) == {"cpu": 1060}, "the sidecar runs while the big init container does"
    assert pod_requests({"containers": [{"resources": {"limits": {"cpu": "2"}}}]}) == {"cpu": 2000}
    assert pod_requests({"containers": [{}]}, nonzero=True) == {"cpu": 100, "memory": 200 * 2**20}
    assert pod_requests({"containers": [container("nonsense")]}) == {"cpu": 0}


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "j", "operator": "Exists"}, False),
        ({}, False),
    ],
)
def test_tolerations(toleration: Object, expected: bool) -> None:
    assert matches(toleration, {"key": "k", "value": "v", "effect": "NoSchedule"}) is expected


def test_preemption_takes_the_least_important_and_the_fewest() -> None:
    cache = cluster(node("n1"), node("n2"))
    place(cache, pod({"cpu": "2"}, priority=5), "n1")
    small = place(cache, pod({"cpu": "1"}, priority=1), "n1")
    place(cache, pod({"cpu": "4"}, priority=50), "n2")
    vip = pod({"cpu": "2"}, priority=10)
    verdict = pick(cache, vip)
    assert isinstance(verdict, Unschedulable)
    plan = preemption.plan(vip, cache.snapshot(), PROFILE.filters, verdict.rejects)
    assert plan == preemption.Plan("n1", (small,))
    never = pod({"cpu": "2"}, priority=10, preemptionPolicy="Never")
    assert preemption.plan(never, cache.snapshot(), PROFILE.filters, verdict.rejects) == (
        "not eligible due to preemptionPolicy=Never."
    )
    humble = pod({"cpu": "2"}, priority=0)
    assert preemption.plan(humble, cache.snapshot(), PROFILE.filters, verdict.rejects) == (
        "0/2 nodes are available: 2 No preemption victims found for incoming pod."
    )


def test_room_made_by_preemption_is_kept_for_whom_it_was_made() -> None:
    cache = cluster(node("n1"))
    vip = pod({"cpu": "3"}, priority=10)
    cache.nominate(vip, "n1")
    assert isinstance(pick(cache, pod({"cpu": "2"}, priority=1)), Unschedulable)
    assert pick(cache, pod({"cpu": "2"}, priority=99)) == "n1"
    assert pick(cache, vip) == "n1"
    cache.put_pod({**vip.pod, "spec": {**vip.spec, "nodeName": "n1"}})
    assert not cache.snapshot().nominated


@given(st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 5), st.integers(0, 3)), max_size=40))
def test_sums_of_a_node_are_those_of_its_pods(steps: list[tuple[str, int, int]]) -> None:
    pool = [pod({"cpu": f"{100 * i}m"}, owner=f"o{i % 2}", ports=[{"hostPort": 80 + i}] if i else []) for i in range(6)]
    info = NodeInfo("n")
    present: set[int] = set()
    for action, i, _ in steps:
        if action == "add" and i not in present:
            info.add(pool[i])
            present.add(i)
        elif action == "remove":
            info.remove(pool[i].uid)
            present.discard(i)
    fresh = NodeInfo("n")
    for i in present:
        fresh.add(pool[i])
    assert {k: v for k, v in info.requested.items() if v} == {k: v for k, v in fresh.requested.items() if v}
    assert (info.nonzero_cpu, info.nonzero_memory) == (fresh.nonzero_cpu, fresh.nonzero_memory)
    assert (info.ports, info.owners) == (fresh.ports, fresh.owners)


def test_the_cache_counts_assumed_pods_until_told_otherwise() -> None:
    cache = cluster(node("n1"))
    wanted = pod({"cpu": "3"})
    cache.assume(wanted, "n1")
    assert isinstance(pick(cache, pod({"cpu": "3"})), Unschedulable)
    cache.forget(wanted.uid)
    assert pick(cache, pod({"cpu": "3"})) == "n1"
    cache.assume(wanted, "n1")
    cache.put_pod({**wanted.pod, "spec": {**wanted.spec, "nodeName": "n1"}})
    cache.forget(wanted.uid)  # confirmed: no longer ours to forget
    assert isinstance(pick(cache, pod({"cpu": "3"})), Unschedulable)
    cache.remove_node("n1")
    assert pick(cache, pod()) == Unschedulable("no nodes available to schedule pods")


def test_configuration_switches_plugins_and_refuses_what_it_does_not_know() -> None:
    found = profiles({"kind": "KubeSchedulerConfiguration", "profiles": [
        {"schedulerName": "mine", "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [
            {"name": "NodeResourcesFit", "weight": 7}]}, "filter": {"disabled": [{"name": "TaintToleration"}]}}},
    ]})["mine"]  # fmt: skip
    assert [(p.name, p.weight) for p in found.scores] == [("NodeResourcesFit", 7)]
    assert "TaintToleration" not in [p.name for p in found.filters]
    for broken in ({"extenders": []}, {"profiles": [{"pluginConfig": [1]}]},
                   {"profiles": [{"plugins": {"filter": {"enabled": [{"name": "Nope"}]}}}]}):  # fmt: skip
        with pytest.raises(Exception, match="KubeSchedulerConfiguration"):
            profiles(broken)


def test_rejects_know_whether_removing_pods_could_help() -> None:
    cache = cluster(node("n1"))
    place(cache, pod({"cpu": "3"}), "n1")
    verdict = pick(cache, pod({"cpu": "2"}))
    assert isinstance(verdict, Unschedulable)
    assert verdict.rejects == {"n1": Reject(("Insufficient cpu",), resolvable=True)}
