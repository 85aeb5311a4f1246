"""DaemonSets, StatefulSets and ControllerRevisions."""

from __future__ import annotations

from typing import Any

from controllers_objects import NOW, node, pod

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.controllers import daemonset, history, statefulset
from nsk8s.controllers.history import HASH_LABEL


def names(pods: list[Object]) -> list[str]:
    return [meta.name(p) for p in pods]


NO_SCHEDULE = {"key": "dedicated", "effect": "NoSchedule"}
NO_EXECUTE = {"key": "dedicated", "effect": "NoExecute"}
NODES = [node("n1"), node("n2"), node("n3", taints=[NO_SCHEDULE]), node("n4", taints=[NO_EXECUTE])]


def agent(name: str, where: str, hashed: str = "new", **more: Any) -> Object:
    return pod(name, node=where, labels={HASH_LABEL: hashed}, **more)


def test_one_daemon_pod_where_it_fits() -> None:
    spec = daemonset.daemon_spec({"spec": {}})
    placed = daemonset.by_node([
        agent("a", "n2"), agent("b", "n2", ready=False), agent("c", "n3"), agent("d", "n4"), agent("e", "gone"),
    ])  # fmt: skip
    step = daemonset.decide(spec, NODES, placed, "new", surge=False)
    assert step.create == ["n1"]
    assert names(step.delete) == ["b", "d", "e"], "the double, the one a taint throws out, the one whose node is gone"
    assert daemonset.new_status({"spec": {}, "metadata": {}}, spec, NODES, placed, "new", NOW) == {
        "currentNumberScheduled": 1, "numberMisscheduled": 2, "desiredNumberScheduled": 2, "numberReady": 1,
        "observedGeneration": 0, "updatedNumberScheduled": 1, "numberAvailable": 1, "numberUnavailable": 1,
    }  # fmt: skip


def test_a_failed_daemon_pod_is_replaced_and_an_unscheduled_one_counts_where_it_is_meant_to_go() -> None:
    spec = daemonset.daemon_spec({"spec": {}})
    waiting = agent("w", "", phase="Pending", ready=None)
    waiting["spec"] = daemonset.pin(spec, "n2")
    placed = daemonset.by_node([agent("f", "n1", phase="Failed", ready=False), waiting])
    step = daemonset.decide(spec, NODES[:2], placed, "new", surge=False)
    assert (step.create, names(step.delete), names(step.failed)) == ([], ["f"], ["f"])
    assert daemonset.decide(spec, NODES[:2], daemonset.by_node([agent("f", "n1", deleting=True), waiting]), "new", surge=False).create == []


def test_daemon_pods_tolerate_what_a_node_goes_through_and_keep_their_own_affinity() -> None:
    own = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}}
    spec = daemonset.daemon_spec({"spec": {"affinity": own, "hostNetwork": True}})
    assert ("node.kubernetes.io/network-unavailable", "NoSchedule") in {(t["key"], t["effect"]) for t in spec["tolerations"]}
    (term,) = daemonset.pin(spec, "n1")["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["key"] == "disk"
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]
    unready = node("n1", disk="x", taints=[
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
    ])  # fmt: skip
    assert daemonset.fits(spec, unready) == (True, True)
    assert daemonset.fits(spec, node("n2")) == (False, False)


def daemons(**rolling: Any) -> Object:
    return {"metadata": {}, "spec": {"updateStrategy": {"rollingUpdate": rolling}}}


def test_a_daemon_update_takes_down_no_more_than_allowed() -> None:
    placed = daemonset.by_node([agent("a", "n1", "old"), agent("b", "n2", "old"), agent("c", "n3", "old")])
    step = daemonset.rolling(daemons(), ["n1", "n2", "n3"], placed, "new", NOW)
    assert (step.create, names(step.delete)) == ([], ["a"])
    placed = daemonset.by_node([agent("x", "n1", ready=False), agent("b", "n2", "old"), agent("c", "n3", "old")])
    assert names(daemonset.rolling(daemons(), ["n1", "n2", "n3"], placed, "new", NOW).delete) == []
    placed["n2"] = [agent("b", "n2", "old", ready=False)]
    assert names(daemonset.rolling(daemons(), ["n1", "n2", "n3"], placed, "new", NOW).delete) == ["b"], "it serves nobody anyway"
    placed = daemonset.by_node([agent("a", "n1", "old"), agent("b", "n2", "old")])
    assert len(daemonset.rolling(daemons(maxUnavailable="100%"), ["n1", "n2"], placed, "new", NOW).delete) == 2


def test_a_surge_starts_the_new_pod_first() -> None:
    surge = daemons(maxSurge=1, maxUnavailable=0)
    placed = daemonset.by_node([agent("a", "n1", "old"), agent("b", "n2", "old")])
    step = daemonset.rolling(surge, ["n1", "n2"], placed, "new", NOW)
    assert (step.create, step.delete) == (["n1"], [])
    placed["n1"].append(agent("x", "n1", ready=False))
    step = daemonset.rolling(surge, ["n1", "n2"], placed, "new", NOW)
    assert (step.create, step.delete) == ([], [])
    placed["n1"][1] = agent("x", "n1")
    assert names(daemonset.rolling(surge, ["n1", "n2"], placed, "new", NOW).delete) == ["a"]
    assert daemonset.decide({}, NODES[:2], placed, "new", surge=True).delete == []


def stateful(replicas: int = 3, **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default", "uid": "s"},
        "spec": {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                 "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "app"}]}}, **spec},
    }  # fmt: skip


def member(number: int, revision: str = "r1", **more: Any) -> Object:
    return pod(f"db-{number}", labels={HASH_LABEL: revision}, **more)


def step_of(wanted: Object, pods: list[Object], current: str = "r1", update: str = "r1") -> tuple[list[int], list[str]]:
    step = statefulset.decide(wanted, pods, current, update, NOW)
    return [n for n, _ in step.create], names(step.delete)


def test_one_after_the_other() -> None:
    assert step_of(stateful(), []) == ([0], [])
    assert step_of(stateful(), [member(0, ready=False)]) == ([], [])
    assert step_of(stateful(), [member(0)]) == ([1], [])
    assert step_of(stateful(), [member(1), member(2)]) == ([0], []), "a hole is filled first"
    assert step_of(stateful(), [member(0, phase="Failed", ready=False), member(1), member(2)]) == ([], ["db-0"])
    assert step_of(stateful(1), [member(0), member(1), member(2)]) == ([], ["db-2"])
    assert step_of(stateful(1), [member(0), member(1), member(2, deleting=True)]) == ([], [])
    assert step_of(stateful(1), [member(0), member(1, ready=False), member(2)]) == ([], ["db-2"])
    assert step_of(stateful(1), [member(0), member(1, ready=False), member(2, ready=False)]) == ([], []), "two are not well: wait"
    assert step_of(stateful(0), [member(0, ready=False)]) == ([], ["db-0"])
    assert step_of(stateful(minReadySeconds=90), [member(0, ready_for=60)]) == ([], [])


def test_all_at_once() -> None:
    parallel = stateful(podManagementPolicy="Parallel")
    assert step_of(parallel, []) == ([0, 1, 2], [])
    assert step_of({**parallel, "spec": {**parallel["spec"], "replicas": 0}}, [member(0), member(1, ready=False)]) == (
        [], ["db-1", "db-0"],
    )  # fmt: skip


def test_an_update_goes_from_the_last_to_the_partition() -> None:
    pods = [member(0), member(1), member(2)]
    assert step_of(stateful(), pods, "r1", "r2") == ([], ["db-2"])
    assert step_of(stateful(), [member(0), member(1), member(2, "r2", ready=False)], "r1", "r2") == ([], [])
    assert step_of(stateful(), [member(0), member(1), member(2, "r2")], "r1", "r2") == ([], ["db-1"])
    part = stateful(updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})
    assert step_of(part, [member(0), member(1), member(2, "r2")], "r1", "r2") == ([], [])
    assert statefulset.decide(part, [member(0), member(2, "r2")], "r1", "r2", NOW).create == [(1, "r1")], "below: the old one"
    assert statefulset.decide(part, [member(0), member(1)], "r1", "r2", NOW).create == [(2, "r2")]
    assert step_of(stateful(updateStrategy={"type": "OnDelete"}), pods, "r1", "r2") == ([], [])


def test_ordinals_may_start_elsewhere_and_foreign_names_are_not_counted() -> None:
    wanted = stateful(2, ordinals={"start": 5})
    assert step_of(wanted, [member(5), pod("db-x"), pod("other-1")]) == ([6], [])
    assert statefulset.ordinal(wanted, pod("db-6-7")) == -1


def test_a_member_has_its_name_everywhere_and_its_own_claims() -> None:
    wanted = stateful(volumeClaimTemplates=[{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}])
    made = statefulset.make_pod(wanted, wanted["spec"]["template"], 4, "db-abc")
    assert (made["metadata"]["name"], made["spec"]["hostname"], made["spec"]["subdomain"]) == ("db-4", "db-4", "db")
    assert made["metadata"]["labels"] == {
        "app": "db", "statefulset.kubernetes.io/pod-name": "db-4", "apps.kubernetes.io/pod-index": "4", HASH_LABEL: "db-abc",
    }  # fmt: skip
    assert made["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-4"}}]
    assert [meta.name(c) for c in statefulset.make_claims(wanted, 4)] == ["data-db-4"]
    assert "volumes" not in wanted["spec"]["template"]["spec"], "the template itself is left alone"


def test_status_and_the_end_of_an_update() -> None:
    r1, r2 = ({"metadata": {"name": n}} for n in ("r1", "r2"))
    going = statefulset.new_status(stateful(), [member(0), member(1), member(2, "r2")], r1, r2, NOW)
    assert (going["currentRevision"], going["updateRevision"]) == ("r1", "r2")
    assert (going["currentReplicas"], going["updatedReplicas"], going["readyReplicas"]) == (2, 1, 3)
    done = statefulset.new_status(stateful(), [member(i, "r2") for i in range(3)], r1, r2, NOW)
    assert (done["currentRevision"], done["currentReplicas"]) == ("r2", 3)


def test_revisions_are_patches_with_stable_names() -> None:
    wanted = stateful()
    made = history.make(wanted, 1)
    assert made["data"]["spec"]["template"]["$patch"] == "replace"
    assert meta.name(made) == f"db-{history.hash_of(made)}"
    assert history.make(wanted, 2)["metadata"]["name"] == meta.name(made)
    assert history.make(wanted, 2, 1)["metadata"]["name"] != meta.name(made)
    revisions = [{**history.make(wanted, i, i)} for i in range(1, 6)]
    assert [r["revision"] for r in history.surplus(revisions, {history.hash_of(revisions[0])}, 2)] == [2, 3]
