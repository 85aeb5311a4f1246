"""PodDisruptionBudgets and ResourceQuotas: what is counted."""

from __future__ import annotations

from typing import Any

import pytest
from controllers_objects import NOW, ago, pod

from nsk8s.api.meta import Object
from nsk8s.controllers.disruption import Unmanaged, new_status, still_disrupted, wanted_healthy
from nsk8s.controllers.resourcequota import counts_of, used_of


def budget(status: Object | None = None, **spec: Any) -> Object:
    return {"metadata": {"name": "b", "namespace": "default", "generation": 3}, "spec": spec, "status": status or {}}


PODS = [pod("a"), pod("b"), pod("c", ready=False)]


@pytest.mark.parametrize(
    ("spec", "expected", "desired"),
    [
        ({"minAvailable": 2}, 3, 2),
        ({"minAvailable": "50%"}, 5, 3),
        ({"maxUnavailable": 1}, 5, 4),
        ({"maxUnavailable": "30%"}, 5, 3),
        ({"maxUnavailable": 9}, 5, 0),
        ({"maxUnavailable": 0}, 5, 5),
    ],
)
def test_a_number_counts_pods_and_a_share_counts_what_their_owner_wants(spec: Object, expected: int, desired: int) -> None:
    assert wanted_healthy(budget(**spec), PODS, lambda p: ("owner", 5)) == (expected, desired)


def test_a_share_of_pods_without_an_owner_cannot_be_counted() -> None:
    assert wanted_healthy(budget(minAvailable=1), PODS, lambda p: None) == (3, 1)
    with pytest.raises(Unmanaged, match="a"):
        wanted_healthy(budget(maxUnavailable=1), PODS, lambda p: None)


def test_status_counts_the_ready_that_stay() -> None:
    going = pod("d", deleting=True)
    status = new_status(budget(minAvailable=1), [*PODS, going], 4, 1, {"b": ago(5)}, NOW)
    assert {k: v for k, v in status.items() if k != "conditions"} == {
        "observedGeneration": 3, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 4,
        "disruptedPods": {"b": ago(5)},
    }  # fmt: skip
    assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [
        ("DisruptionAllowed", "False", "InsufficientPods")
    ]
    free = new_status(budget(minAvailable=1), PODS, 3, 1, {}, NOW)
    assert (free["disruptionsAllowed"], free["conditions"][0]["reason"]) == (1, "SufficientPods")
    assert new_status(budget(minAvailable=0), [], 0, 0, {}, NOW)["disruptionsAllowed"] == 0


def test_an_eviction_counts_until_the_pod_is_going_or_two_minutes_have_passed() -> None:
    asked = {"a": ago(20), "b": ago(121), "gone": ago(1), "going": ago(1)}
    pods = [*PODS, pod("going", deleting=True)]
    assert still_disrupted(budget({"disruptedPods": asked}), pods, NOW) == ({"a": ago(20)}, 100.0)
    assert still_disrupted(budget(), pods, NOW) == ({}, None)


def quota(scopes: list[str] | None = None, **hard: str) -> Object:
    spec: Object = {"hard": {k.replace("_", "/"): v for k, v in hard.items()}}
    return {"metadata": {"name": "q", "namespace": "default"}, "spec": {**spec, **({"scopes": scopes} if scopes else {})}}


def with_requests(p: Object, **requests: str) -> Object:
    p["spec"]["containers"][0]["resources"] = {"requests": requests}
    return p


def test_use_is_the_sum_of_what_has_not_ended() -> None:
    pods = [with_requests(pod("a"), cpu="300m", memory="64Mi"), with_requests(pod("b"), cpu="1"), pod("c", phase="Succeeded")]
    limited = quota(pods="5", cpu="4", memory="1Gi", count_pods="9", secrets="1")
    assert counts_of(limited).keys() == {"pods", "secrets"}
    assert used_of(limited, {"pods": pods, "secrets": [{}]}) == {
        "pods": "2", "cpu": "1300m", "memory": "64Mi", "count/pods": "3", "secrets": "1",
    }  # fmt: skip


def test_a_scoped_quota_counts_only_what_is_in_its_scope() -> None:
    best, burst = pod("a"), pod("b")
    best["status"]["qosClass"], burst["status"]["qosClass"] = "BestEffort", "Burstable"
    assert used_of(quota(["BestEffort"], pods="5"), {"pods": [best, burst]}) == {"pods": "1"}
    assert counts_of(quota(["BestEffort"], pods="5", secrets="3")).keys() == {"pods"}
