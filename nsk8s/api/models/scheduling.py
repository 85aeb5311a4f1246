"""scheduling.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field, int32
from nsk8s.api.models.meta import ObjectMeta

PREEMPTION_POLICY = ("PreemptLowerPriority", "Never")


class PriorityClass(Model):
    """A named priority for pods."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    value: int32 = field(2, required=True)
    globalDefault: bool = field(3)
    description: str = field(4)
    preemptionPolicy: str | None = field(5, enum=PREEMPTION_POLICY)
