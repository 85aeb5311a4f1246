"""The ownership graph, and discovery that feeds it."""

from __future__ import annotations

from typing import Any

from controllers_objects import ago

from nsk8s.api.meta import Object
from nsk8s.client.resources import PODS, REPLICASETS
from nsk8s.controllers.discovery import by_kind, parse_aggregated, parse_list
from nsk8s.controllers.gcgraph import FOREGROUND, Graph, Item, classify, owner_resource, propagation
from nsk8s.controllers.namespace import Findings, conditions


def obj(uid: str, *owners: str, finalizers: list[str] | None = None, deleting: bool = False, block: bool = True) -> Object:
    metadata: Object = {"uid": uid, "name": uid, "namespace": "d"}
    metadata["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": o, "uid": o, "blockOwnerDeletion": block} for o in owners
    ]
    if finalizers:
        metadata["finalizers"] = finalizers
    if deleting:
        metadata["deletionTimestamp"] = ago(0)
    return {"metadata": metadata}


def put(graph: Graph, made: Object) -> set[str]:
    return graph.put(Item.of(PODS, made))


def test_what_must_be_looked_at() -> None:
    graph = Graph()
    assert put(graph, obj("pod", "rs")) == {"pod"}, "its owner has not been seen: perhaps there is none"
    assert put(graph, obj("rs")) == set()
    assert put(graph, obj("pod", "rs")) == set(), "nothing new"
    assert graph.remove("rs") == {"pod"}
    assert put(graph, obj("pod", "other")) == {"pod"}
    assert graph.remove("pod") == set()
    assert graph.dependents == {}


def test_foreground_waits_for_its_blockers() -> None:
    graph = Graph()
    put(graph, obj("a", "rs"))
    put(graph, obj("b", "rs", block=False))
    dying = obj("rs", finalizers=[FOREGROUND], deleting=True)
    assert put(graph, dying) == {"rs"}
    assert [d.uid for d in graph.of("rs") if d.blocks("rs")] == ["a"]
    assert graph.remove("a") == {"rs"}, "the last blocker is gone: the owner can go"
    put(graph, obj("c", "rs"))
    assert "rs" in put(graph, obj("c", "rs", block=False))


def test_owners_are_solid_dangling_or_waiting() -> None:
    item = Item.of(PODS, obj("pod", "alive", "gone", "other-uid", "dying"))
    live: dict[str, Any] = {
        "alive": obj("alive"), "gone": None, "other-uid": obj("another"), "dying": obj("dying", finalizers=[FOREGROUND], deleting=True),
    }  # fmt: skip
    found = classify(item, lambda r: live[r["uid"]])
    assert [[r["uid"] for r in rs] for rs in (found.solid, found.dangling, found.waiting)] == [
        ["alive"], ["gone", "other-uid"], ["dying"],
    ]  # fmt: skip


def test_policy_and_resource() -> None:
    assert [propagation(f) for f in ([], ["x"], [FOREGROUND], ["orphan", FOREGROUND])] == [
        "Background", "Background", "Foreground", "Orphan",
    ]  # fmt: skip
    kinds = {("apps", "ReplicaSet"): REPLICASETS, ("", "Pod"): PODS}
    assert owner_resource({"apiVersion": "apps/v1beta1", "kind": "ReplicaSet"}, kinds) == REPLICASETS
    assert owner_resource({"apiVersion": "v1", "kind": "Pod"}, kinds) == PODS
    assert owner_resource({"apiVersion": "example.com/v1", "kind": "Pod"}, kinds) is None


def test_both_forms_of_discovery_say_the_same() -> None:
    aggregated = {"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
        {"resource": "replicasets", "scope": "Namespaced", "responseKind": {"kind": "ReplicaSet"}, "verbs": ["list", "watch"]},
    ]}, {"version": "v1beta1", "resources": [{"resource": "replicasets", "verbs": []}]}]}]}  # fmt: skip
    plain = {"groupVersion": "apps/v1", "resources": [
        {"name": "replicasets", "namespaced": True, "kind": "ReplicaSet", "verbs": ["list", "watch"]},
        {"name": "replicasets/status", "namespaced": True, "kind": "ReplicaSet", "verbs": ["get"]},
    ]}  # fmt: skip
    assert parse_aggregated(aggregated) == parse_list(plain)
    (known,) = parse_list(plain)
    assert known.can("list", "watch")
    assert not known.can("delete")
    assert by_kind([known]) == {("apps", "ReplicaSet"): REPLICASETS}


def test_what_holds_a_namespace_is_said() -> None:
    findings = Findings(remaining={"pods.": 2, "configmaps.": 1}, finalizers={"example.com/hold": 1})
    assert not findings.empty
    found = {c["type"]: (c["status"], c["reason"], c["message"]) for c in conditions({}, findings)}
    assert found["NamespaceContentRemaining"] == (
        "True", "SomeResourcesRemain",
        "Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 resource instances",
    )  # fmt: skip
    assert found["NamespaceFinalizersRemaining"] == (
        "True", "SomeFinalizersRemain",
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
    )  # fmt: skip
    assert found["NamespaceDeletionDiscoveryFailure"] == ("False", "ResourcesDiscovered", "All resources successfully discovered")
