"""Models of autoscaling_v1. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field, int32
from nsk8s.api.models.meta import ObjectMeta


class Scale(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: ScaleSpec = field(2)
    status: ScaleStatus = field(3)


class ScaleSpec(Model):
    replicas: int32 = field(1)


class ScaleStatus(Model):
    replicas: int32 = field(1, required=True)
    selector: str = field(2)
