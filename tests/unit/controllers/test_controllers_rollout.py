"""Deployments: a simulated cluster is rolled step by step, and never has too few or too many pods."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controllers_objects import NOW, ago
from hypothesis import given, settings
from hypothesis import strategies as st

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.controllers import rollout
from nsk8s.controllers.deployment import Plan, decide


def deployment(replicas: int = 3, image: str = "a", *, surge: Any = "25%", unavailable: Any = "25%", **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1, "annotations": {"team": "x"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": image}]}},
            **spec,
        },
    }  # fmt: skip


class World:
    """ReplicaSets that reach their size, pods that become available when told: what the other controllers would do."""

    def __init__(self, deployment: Object) -> None:
        self.deployment = deployment
        self.sets: dict[str, Object] = {}
        self.clock = NOW

    def step(self) -> Plan:
        plan = decide(self.deployment, list(self.sets.values()), lambda s: [{}] * self.status(s, "replicas"), self.clock)
        if plan.create:
            made = plan.create
            made["metadata"] |= {"uid": made["metadata"]["name"], "creationTimestamp": f"{len(self.sets):04}"}
            made["status"] = {}
            self.sets[meta.name(made)] = made
        for s in plan.updates:
            self.sets[meta.name(s)] = s
        for s in plan.deletes:
            del self.sets[meta.name(s)]
        if plan.deployment:
            self.deployment = plan.deployment
        return plan

    @staticmethod
    def status(s: Object, name: str) -> int:
        return int((s.get("status") or {}).get(name) or 0)

    def kubelet(self, available: int) -> None:
        """Pods of every set follow its size; at most `available` more per set become available."""
        for s in self.sets.values():
            size = rollout.replicas(s)
            up = min(size, self.status(s, "availableReplicas") + available)
            s["status"] = {"replicas": size, "readyReplicas": up, "availableReplicas": up, "observedGeneration": 9}

    def available(self) -> int:
        return sum(self.status(s, "availableReplicas") for s in self.sets.values())

    def size(self) -> int:
        return rollout.total(list(self.sets.values()))

    def settle(self, limit: int = 200) -> None:
        for _ in range(limit):
            plan, before = self.step(), [dict(s["status"]) for s in self.sets.values()]
            self.kubelet(10**6)
            still = before == [s["status"] for s in self.sets.values()]
            if still and not (plan.create or plan.updates or plan.deletes or plan.deployment):
                return
        raise AssertionError("never settles")

    def condition(self, kind: str) -> tuple[str, str, str]:
        c = meta.find_condition(self.deployment, kind)
        return (c["status"], c["reason"], c["message"]) if c else ("", "", "")


amounts = st.one_of(st.integers(0, 5), st.integers(0, 100).map(lambda p: f"{p}%"))


@settings(max_examples=150, deadline=None)
@given(replicas=st.integers(0, 12), surge=amounts, unavailable=amounts, speeds=st.lists(st.integers(0, 3), max_size=60))
def test_a_rolling_update_never_has_too_few_or_too_many(replicas: int, surge: Any, unavailable: Any, speeds: list[int]) -> None:
    world = World(deployment(replicas, surge=surge, unavailable=unavailable))
    world.settle()
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "b"
    least = replicas - rollout.max_unavailable(world.deployment)
    most = replicas + rollout.max_surge(world.deployment)
    for speed in speeds:
        world.step()
        assert world.size() <= most
        # A set shrinks its unavailable pods first, then available ones.
        after = sum(min(World.status(s, "availableReplicas"), rollout.replicas(s)) for s in world.sets.values())
        assert after >= least
        world.kubelet(speed)
    world.settle()
    new = rollout.find_new(world.deployment, list(world.sets.values()))
    assert new is not None
    assert rollout.replicas(new) == replicas == world.size() == world.available()
    assert meta.annotations(world.deployment)[rollout.REVISION] == "2"


def test_from_nothing_to_complete() -> None:
    world = World(deployment(3))
    plan = world.step()
    assert plan.create is not None
    name = meta.name(plan.create)
    assert plan.create["spec"]["replicas"] == 3
    hashed = plan.create["metadata"]["labels"]["pod-template-hash"]
    assert name == f"web-{hashed}"
    assert plan.create["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": hashed}
    assert plan.create["metadata"]["annotations"] == {
        "team": "x", rollout.REVISION: "1", rollout.DESIRED: "3", rollout.MAX_REPLICAS: "4",
    }  # fmt: skip
    assert plan.events == [("ScalingReplicaSet", f"Scaled up replica set {name} from 0 to 3")]
    assert world.condition("Progressing") == ("True", "NewReplicaSetCreated", f'Created new replica set "{name}"')
    assert world.condition("Available")[:2] == ("False", "MinimumReplicasUnavailable")
    world.kubelet(1)
    world.step()
    assert world.condition("Progressing") == ("True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.')
    assert world.deployment["status"]["unavailableReplicas"] == 2
    world.settle()
    assert world.condition("Progressing") == (
        "True", "NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.',
    )  # fmt: skip
    assert world.condition("Available") == ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    again = world.step()
    assert again == Plan(), "nothing to do means nothing is written"


def test_a_stuck_rollout_says_so_after_the_deadline_and_not_before() -> None:
    world = World(deployment(4))
    world.settle()
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "broken"
    world.step()
    world.kubelet(0)
    world.step()
    world.clock = NOW + timedelta(seconds=599)
    assert world.step().again_s == pytest.approx(2.0)
    world.clock = NOW + timedelta(seconds=601)
    world.step()
    assert world.condition("Progressing")[:2] == ("False", "ProgressDeadlineExceeded")
    assert world.condition("Progressing")[2].endswith("has timed out progressing.")


def test_rollback_brings_the_old_set_back_with_a_new_revision() -> None:
    world = World(deployment(2))
    world.settle()
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "b"
    world.settle()
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "a"
    world.settle()
    new = rollout.find_new(world.deployment, list(world.sets.values()))
    assert new is not None
    assert len(world.sets) == 2
    assert meta.annotations(new)[rollout.REVISION] == "3"
    assert meta.annotations(new)[rollout.REVISION_HISTORY] == "1"


def test_history_is_kept_to_the_limit() -> None:
    world = World(deployment(1, revisionHistoryLimit=2))
    for image in "abcdef":
        world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image
        world.settle()
    assert sorted(rollout.revision(s) for s in world.sets.values()) == [4, 5, 6]


def test_recreate_waits_for_the_last_old_pod() -> None:
    world = World(deployment(2, strategy={"type": "Recreate"}))
    world.settle()
    (old,) = world.sets
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "b"
    world.step()
    assert (rollout.replicas(world.sets[old]), len(world.sets)) == (0, 1)
    world.step()  # its status still says 2 pods
    assert len(world.sets) == 1
    world.kubelet(9)
    world.step()
    assert len(world.sets) == 2
    world.settle()
    assert world.available() == 2


def test_scaling_in_the_middle_of_a_rollout_is_proportional() -> None:
    world = World(deployment(10, surge=3, unavailable=2))
    world.settle()
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "b"
    for _ in range(3):
        world.step()
        world.kubelet(0)
    sizes = sorted(rollout.replicas(s) for s in world.sets.values())
    assert sizes == [5, 8]
    world.deployment["spec"]["replicas"] = 15
    world.step()
    assert sorted(rollout.replicas(s) for s in world.sets.values()) == [7, 11]
    assert world.size() == 15 + 3


def test_a_paused_deployment_is_scaled_and_cleaned_but_not_rolled() -> None:
    world = World(deployment(3, paused=True))
    assert world.step().create is None
    assert world.condition("Progressing") == ("Unknown", "DeploymentPaused", "Deployment is paused")
    world.deployment["spec"]["paused"] = False
    world.settle()
    world.deployment["spec"] |= {"paused": True, "replicas": 5}
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "b"
    world.settle()
    assert [rollout.replicas(s) for s in world.sets.values()] == [5]


def test_a_sets_failure_shows_on_its_deployment() -> None:
    world = World(deployment(1))
    world.step()
    (s,) = world.sets.values()
    s["status"] = {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]}
    world.step()
    assert world.condition("ReplicaFailure") == ("True", "FailedCreate", "quota")
    world.kubelet(1)
    world.step()
    assert world.condition("ReplicaFailure") == ("", "", "")


def test_equal_templates_have_equal_hashes_and_collisions_differ() -> None:
    template = deployment()["spec"]["template"]
    noisy = {**template, "metadata": {"creationTimestamp": None, "labels": {"app": "web", rollout.HASH_LABEL: "x"}}}
    assert rollout.template_hash(template) == rollout.template_hash(noisy)
    assert rollout.template_hash(template) != rollout.template_hash(template, 1)
    assert rollout.template_hash(template) == "79dbb6d88c", "a new version must not roll every Deployment"


@pytest.mark.parametrize(
    ("surge", "unavailable", "expected"),
    [("25%", "25%", (3, 2)), (0, 0, (0, 1)), ("0%", "0%", (0, 1)), (None, None, (3, 2)), ("junk", 1, (0, 1)), (2, "100%", (2, 10))],
)
def test_fenceposts(surge: Any, unavailable: Any, expected: tuple[int, int]) -> None:
    assert rollout.fenceposts(deployment(10, surge=surge, unavailable=unavailable)) == expected


def test_a_deployment_that_is_being_deleted_is_left_alone() -> None:
    world = World(deployment(3))
    world.deployment["metadata"]["deletionTimestamp"] = ago(0)
    plan = world.step()
    assert (plan.create, plan.updates, plan.deletes) == (None, [], [])
