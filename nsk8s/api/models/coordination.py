"""Models of coordination. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import MicroTime, Model, field, int32
from nsk8s.api.models.meta import ObjectMeta


class Lease(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: LeaseSpec = field(2)


class LeaseSpec(Model):
    holderIdentity: str | None = field(1)
    leaseDurationSeconds: int32 | None = field(2)
    acquireTime: MicroTime = field(3)
    renewTime: MicroTime = field(4)
    leaseTransitions: int32 | None = field(5)
    strategy: str | None = field(6)
    preferredHolder: str | None = field(7)
