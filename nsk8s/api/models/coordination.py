"""coordination.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import MicroTime, Model, field, int32
from nsk8s.api.models.meta import ObjectMeta


class Lease(Model):
    """A lock that has to be renewed: leader election, node heartbeats."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: LeaseSpec = field(2, "What is wanted.")


class LeaseSpec(Model):
    holderIdentity: str | None = field(1, "Who holds it.")
    leaseDurationSeconds: int32 | None = field(2, "How long it lasts without being renewed.")
    acquireTime: MicroTime = field(3, "When it was taken.")
    renewTime: MicroTime = field(4, "When it was last renewed.")
    leaseTransitions: int32 | None = field(5, "How often it changed hands.")
    strategy: str | None = field(6)
    preferredHolder: str | None = field(7)
