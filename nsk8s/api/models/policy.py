"""policy/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import IntOrString, Model, Time, field, int32, int64
from nsk8s.api.models.meta import Condition, DeleteOptions, LabelSelector, ObjectMeta

UNHEALTHY_POD_EVICTION_POLICY_TYPE = ("IfHealthyBudget", "AlwaysAllow")


class PodDisruptionBudgetSpec(Model):
    minAvailable: IntOrString = field(1)
    selector: LabelSelector = field(2, patch_strategy="replace")
    maxUnavailable: IntOrString = field(3)
    unhealthyPodEvictionPolicy: str | None = field(4, enum=UNHEALTHY_POD_EVICTION_POLICY_TYPE)


class PodDisruptionBudgetStatus(Model):
    observedGeneration: int64 = field(1)
    disruptedPods: dict[str, Time] = field(2)
    disruptionsAllowed: int32 = field(3, required=True)
    currentHealthy: int32 = field(4, required=True)
    desiredHealthy: int32 = field(5, required=True)
    expectedPods: int32 = field(6, required=True)
    conditions: list[Condition] = field(7, merge_key="type", list_type="map", list_keys=("type",))


class PodDisruptionBudget(Model):
    """How many pods of a set may be evicted at one time."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: PodDisruptionBudgetSpec = field(2, "What is wanted.")
    status: PodDisruptionBudgetStatus = field(3, "What is known; written by controllers.")


class Eviction(Model):
    """Asks for a pod to be deleted, if its disruption budgets allow it."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    deleteOptions: DeleteOptions = field(2)
