"""autoscaling/v1: Scale. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field, int32
from nsk8s.api.models.meta import ObjectMeta


class Scale(Model):
    """How many replicas a workload shall have, and has."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: ScaleSpec = field(2, "What is wanted.")
    status: ScaleStatus = field(3, "What is known; written by controllers.")


class ScaleSpec(Model):
    replicas: int32 = field(1)


class ScaleStatus(Model):
    replicas: int32 = field(1, required=True)
    selector: str = field(2)
