"""ReplicaSets' choice of pods, expectations, endpoints and slices."""

from __future__ import annotations

from typing import Any

import pytest
from controllers_objects import NOW, pod
from hypothesis import given, settings
from hypothesis import strategies as st

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.controllers import endpoints
from nsk8s.controllers.expectations import TIMEOUT_S, Expectations
from nsk8s.controllers.pods import DELETION_COST, batches, deletion_order, from_template, seconds_to_available
from nsk8s.controllers.replicaset import Scale, decide, new_status


def test_replicas_missing_and_too_many() -> None:
    pods = [pod(f"p{i}", age=i) for i in range(3)]
    assert decide(5, pods, pods, NOW) == Scale(create=2)
    assert decide(3, pods, pods, NOW) == Scale()
    assert [meta.name(p) for p in decide(1, pods, pods, NOW).delete] == ["p0", "p1"], "the youngest go first"
    assert decide(5000, [], [], NOW).create == 500


def test_who_is_deleted_first() -> None:
    pods = [
        pod("old-and-ready", ready_for=500, node="n4"),
        pod("crowded", node="n2", ready_for=500),
        pod("crowd", node="n2", ready_for=500, annotations={DELETION_COST: "10"}),
        pod("young", ready_for=5, node="n3"),
        pod("cheap", annotations={DELETION_COST: "-1"}, ready_for=900),
        pod("not-ready", ready=False),
        pod("pending", phase="Pending", ready=None),
        pod("unassigned", phase="Pending", ready=None, node=""),
    ]
    assert [meta.name(p) for p in deletion_order(pods, pods, NOW)] == [
        "unassigned", "pending", "not-ready", "cheap", "crowded", "young", "old-and-ready", "crowd",
    ]  # fmt: skip


def test_status_counts_and_failure() -> None:
    rs: Object = {"metadata": {"generation": 3}, "spec": {"minReadySeconds": 10, "template": {"metadata": {"labels": {"a": "b"}}}}}
    pods = [pod("a", labels={"a": "b"}), pod("b", ready_for=5, labels={"a": "b"}), pod("c", ready=False)]
    assert new_status(rs, pods, None, Scale(), NOW) == {
        "replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1, "observedGeneration": 3,
    }  # fmt: skip
    failed = new_status(rs, [], ValueError("quota"), Scale(create=1), NOW)
    (condition,) = failed["conditions"]
    assert (condition["type"], condition["reason"], condition["message"]) == ("ReplicaFailure", "FailedCreate", "quota")
    rs["status"] = failed
    assert "conditions" not in new_status(rs, [], None, Scale(), NOW)
    assert seconds_to_available(pods[1], 10, NOW) == 5


def test_slow_start() -> None:
    assert batches(50) == [1, 2, 4, 8, 16, 19]
    assert batches(0) == []


def test_a_pod_of_a_template() -> None:
    owner: Object = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "d", "uid": "u"}}
    made = from_template({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}, owner)
    assert made["metadata"] == {
        "namespace": "d", "generateName": "web-", "labels": {"a": "b"}, "annotations": {},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u",
                             "controller": True, "blockOwnerDeletion": True}],
    }  # fmt: skip


def test_a_stale_cache_never_acts_twice() -> None:
    now = 0.0
    expected = Expectations(lambda: now)
    assert expected.satisfied("k")
    expected.expect_creations("k", 2)
    expected.created("k")
    assert not expected.satisfied("k")
    expected.created("k")
    assert expected.satisfied("k")
    expected.expect_deletions("k", ["a", "b"])
    expected.deleted("k", "a")
    expected.deleted("k", "a")
    assert not expected.satisfied("k")
    now = TIMEOUT_S + 1
    assert expected.satisfied("k"), "an event may have been missed: not for ever"


def service(**spec: Any) -> Object:
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"team": "x"}},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "targetPort": "web"}], **spec},
    }  # fmt: skip


def backend(name: str, ip: str, port: int = 8080, **more: Any) -> Object:
    made = pod(name, ip=ip, **more)
    made["spec"]["containers"][0]["ports"] = [{"name": "web", "containerPort": port}]
    return made


def zone(name: str) -> dict[str, str]:
    return {"topology.kubernetes.io/zone": "z1"} if name == "n1" else {}


def test_one_endpoint_in_full() -> None:
    made = backend("a", "10.244.1.2")
    made["spec"] |= {"hostname": "a", "subdomain": "web"}
    ((key, (endpoint,)),) = endpoints.desired(service(clusterIP="None"), [made], zone).items()
    assert key == ("IPv4", (("http", "TCP", 8080, ""),))
    assert endpoint == {
        "addresses": ["10.244.1.2"], "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "a", "uid": "a"},
        "hostname": "a", "nodeName": "n1", "zone": "z1",
    }  # fmt: skip


def test_conditions_of_terminating_and_unready_pods() -> None:
    pods = [
        backend("up", "10.244.1.2"), backend("going", "10.244.1.3", deleting=True), backend("down", "10.244.1.4", ready=False),
        backend("done", "10.244.1.5", phase="Succeeded"), pod("nowhere"),
    ]  # fmt: skip
    ((_, found),) = endpoints.desired(service(), pods, zone).items()
    assert [(e["targetRef"]["name"], *e["conditions"].values()) for e in found] == [
        ("up", True, True, False), ("going", False, True, True), ("down", False, False, False),
    ]  # fmt: skip
    published = endpoints.desired(service(publishNotReadyAddresses=True), pods, zone)
    assert [e["conditions"]["ready"] for e in next(iter(published.values()))] == [True, True, True]
    (subset,), over = endpoints.subsets(service(), pods)
    assert [a["ip"] for a in subset["addresses"]] == ["10.244.1.2"]
    assert [a["ip"] for a in subset["notReadyAddresses"]] == ["10.244.1.4"], "a terminating pod is in neither"
    assert not over


@pytest.mark.parametrize(("distribution", "hints"), [
    (None, None),
    ("PreferClose", {"forZones": [{"name": "z1"}]}),
    ("PreferSameZone", {"forZones": [{"name": "z1"}]}),
    ("PreferSameNode", {"forNodes": [{"name": "n1"}], "forZones": [{"name": "z1"}]}),
])  # fmt: skip
def test_traffic_distribution_becomes_hints(distribution: str | None, hints: dict[str, Any] | None) -> None:
    wanted = service(**({"trafficDistribution": distribution} if distribution else {}))
    pods = [backend("a", "10.244.1.2"), backend("b", "10.244.1.3", ready=False)]
    ((_, (ready, unready)),) = endpoints.desired(wanted, pods, zone).items()
    assert ready.get("hints") == hints
    assert "hints" not in unready
    ((_, (lost, _)),) = endpoints.desired(wanted, pods, lambda name: {}).items()
    assert lost.get("hints", {}).get("forZones") is None, "its zone is not known"


def test_pods_with_different_ports_are_in_different_slices() -> None:
    pods = [backend("a", "10.244.1.2", 8080), backend("b", "10.244.1.3", 9090)]
    wanted = endpoints.desired(service(), pods, zone)
    assert [[p[2] for p in ports] for _, ports in wanted] == [[8080], [9090]]
    assert len(endpoints.subsets(service(), pods)[0]) == 2
    unnamed = [pod("c", ip="10.244.1.4")]
    assert endpoints.desired(service(), unnamed, zone) == {("IPv4", ()): []}, "a pod without that port is no endpoint"


def test_no_endpoints_is_one_empty_slice_and_headless_is_labelled() -> None:
    changes = endpoints.plan_slices(service(clusterIP="None"), [], endpoints.desired(service(clusterIP="None"), [], zone), service())
    (made,) = changes.create
    assert (made["endpoints"], made["ports"], made["addressType"]) == ([], [], "IPv4")
    assert made["metadata"]["labels"] == {
        "team": "x", "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }  # fmt: skip


def test_dual_stack_has_a_slice_a_family() -> None:
    made = backend("a", "10.244.1.2")
    made["status"]["podIPs"].append({"ip": "fd00::2"})
    wanted = endpoints.desired(service(ipFamilies=["IPv4", "IPv6"]), [made], zone)
    assert {kind: e[0]["addresses"] for (kind, _), e in wanted.items()} == {"IPv4": ["10.244.1.2"], "IPv6": ["fd00::2"]}


def test_the_classic_object_is_cut_off_at_a_thousand() -> None:
    pods = [backend(f"p{i}", f"10.{i // 250}.0.{i % 250 + 1}", ready=i >= 100) for i in range(1200)]
    (subset,), over = endpoints.subsets(service(), pods)
    assert over
    assert (len(subset["addresses"]), "notReadyAddresses" in subset) == (1000, False)


sets_of_pods = st.lists(st.sets(st.integers(0, 260), max_size=260), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sets_of_pods)
def test_slices_hold_exactly_what_is_wanted_whatever_was_before(rounds: list[set[int]]) -> None:
    slices: dict[str, Object] = {}
    for number, pods in enumerate(rounds):
        wanted = endpoints.desired(service(), [backend(f"p{i}", f"10.0.{i // 250}.{i % 250 + 1}") for i in sorted(pods)], zone)
        changes = endpoints.plan_slices(service(), list(slices.values()), wanted, service())
        written = [meta.name(s) for s in [*changes.update, *changes.delete]]
        assert len(set(written)) == len(written), "one write a slice"
        for s in changes.delete:
            del slices[meta.name(s)]
        slices |= {meta.name(s): s for s in changes.update}
        for i, s in enumerate(changes.create):
            s["metadata"]["name"] = f"web-{number}-{i}"
            slices[s["metadata"]["name"]] = s
        held = [e["targetRef"]["name"] for s in slices.values() for e in s["endpoints"]]
        assert sorted(held) == sorted(f"p{i}" for i in pods)
        assert all(len(s["endpoints"]) <= 100 for s in slices.values())
        assert slices, "there is always one"
        nothing = endpoints.plan_slices(service(), list(slices.values()), wanted, service())
        assert nothing == endpoints.Changes(), "a second look changes nothing"


def test_one_change_writes_one_slice() -> None:
    pods = [backend(f"p{i}", f"10.0.{i // 250}.{i % 250 + 1}") for i in range(250)]
    first = endpoints.plan_slices(service(), [], endpoints.desired(service(), pods, zone), service())
    slices = [{**s, "metadata": {**s["metadata"], "name": f"s{i}"}} for i, s in enumerate(first.create)]
    assert [len(s["endpoints"]) for s in slices] == [100, 100, 50]
    pods[120]["status"]["conditions"][0]["status"] = "False"
    changes = endpoints.plan_slices(service(), slices, endpoints.desired(service(), pods, zone), service())
    assert ([meta.name(s) for s in changes.update], changes.create, changes.delete) == (["s1"], [], [])


def test_what_is_cut_off_is_cut_off_in_proportion() -> None:
    """Ready ones stay before others; of two subsets each loses its share; the lowest addresses stay."""
    pods = [backend(f"p{i}", f"10.{i // 250}.0.{i % 250 + 1}", ready=i % 3 != 0, port=80 if i % 2 else 81) for i in range(1200)]
    found, over = endpoints.subsets(service(), pods)
    assert over
    assert [len(s["addresses"]) for s in found] == [400, 400], "all that are ready"
    assert [len(s["notReadyAddresses"]) for s in found] == [100, 100]
    assert found[0]["notReadyAddresses"][0]["ip"] == "10.0.0.4"
    many = [backend(f"p{i}", f"10.{i // 250}.0.{i % 250 + 1}", ready=i != 0, port=80 if i < 400 else 81) for i in range(2000)]
    found, over = endpoints.subsets(service(), many)
    assert ([len(s["addresses"]) for s in found], over) == ([200, 800], True)
    assert not any("notReadyAddresses" in s for s in found)
    assert endpoints.subsets(service(), many[:1000])[1] is False


def test_mirrored_subsets() -> None:
    wanted = endpoints.desired_from_subsets([
        {"addresses": [{"ip": "203.0.113.1"}], "notReadyAddresses": [{"ip": "fd00::1", "hostname": "h"}], "ports": [{"port": 80}]}
    ])
    ports = (("", "TCP", 80, ""),)
    assert wanted == ({
        ("IPv4", ports): [{"addresses": ["203.0.113.1"], "conditions": {"ready": True}}],
        ("IPv6", ports): [{"addresses": ["fd00::1"], "conditions": {"ready": False}, "hostname": "h"}],
    }, 0)  # fmt: skip


def test_a_mirror_has_one_slice_for_a_subset_of_up_to_a_thousand() -> None:
    addresses = [{"ip": f"10.{i // 250}.0.{i % 250 + 1}"} for i in range(1100)]
    subset = {"addresses": addresses[:700], "notReadyAddresses": addresses[700:], "ports": [{"port": 80}]}
    wanted, skipped = endpoints.desired_from_subsets([subset, {"addresses": addresses[:2], "ports": [{"port": 81}]}])
    assert skipped == 100
    notes = {"team": "x"}
    made = endpoints.plan_slices(service(), [], wanted, service(), endpoints.MIRROR_NAME, endpoints.MAX_ADDRESSES, notes)
    assert [len(s["endpoints"]) for s in made.create] == [1000, 2]
    assert [s["metadata"]["annotations"] for s in made.create] == [notes, notes]
    held = [{**s, "metadata": {**s["metadata"], "name": f"s{i}"}} for i, s in enumerate(made.create)]

    def again(notes: dict[str, str]) -> endpoints.Changes:
        return endpoints.plan_slices(service(), held, wanted, service(), endpoints.MIRROR_NAME, endpoints.MAX_ADDRESSES, notes)

    assert again(notes) == endpoints.Changes()
    assert [s["metadata"]["annotations"] for s in again({}).update] == [{}, {}], "an annotation that went goes"
