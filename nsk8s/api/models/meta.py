"""Models of meta. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Raw, Time, field, int32, int64


class ListMeta(Model):
    selfLink: str = field(1)
    resourceVersion: str = field(2)
    continue_: str = field(3, name="continue")
    remainingItemCount: int64 | None = field(4)


class ObjectMeta(Model):
    name: str = field(1)
    generateName: str = field(2)
    namespace: str = field(3)
    selfLink: str = field(4)
    uid: str = field(5)
    resourceVersion: str = field(6)
    generation: int64 = field(7)
    creationTimestamp: Time = field(8)
    deletionTimestamp: Time = field(9)
    deletionGracePeriodSeconds: int64 | None = field(10)
    labels: dict[str, str] = field(11)
    annotations: dict[str, str] = field(12)
    ownerReferences: list[OwnerReference] = field(13, merge_key="uid", list_type="map", list_keys=("uid",))
    finalizers: list[str] = field(14, patch_strategy="merge", list_type="set")
    managedFields: list[ManagedFieldsEntry] = field(17, list_type="atomic")


class OwnerReference(Model, atomic=True):
    apiVersion: str = field(5, required=True)
    kind: str = field(1, required=True)
    name: str = field(3, required=True)
    uid: str = field(4, required=True)
    controller: bool | None = field(6)
    blockOwnerDeletion: bool | None = field(7)


class DeleteOptions(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    gracePeriodSeconds: int64 | None = field(1)
    preconditions: Preconditions = field(2)
    orphanDependents: bool | None = field(3)
    propagationPolicy: str | None = field(4)
    dryRun: list[str] = field(5, list_type="atomic")
    ignoreStoreReadErrorWithClusterBreakingPotential: bool | None = field(6)


class Preconditions(Model):
    uid: str | None = field(1)
    resourceVersion: str | None = field(2)


class Status(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ListMeta = field(1)
    status: str = field(2)
    message: str = field(3)
    reason: str = field(4)
    details: StatusDetails = field(5, list_type="atomic")
    code: int32 = field(6)


class StatusDetails(Model):
    name: str = field(1)
    group: str = field(2)
    kind: str = field(3)
    uid: str = field(6)
    causes: list[StatusCause] = field(4, list_type="atomic")
    retryAfterSeconds: int32 = field(5)


class StatusCause(Model):
    reason: str = field(1)
    message: str = field(2)
    field: str = field(3)


class LabelSelector(Model, atomic=True):
    matchLabels: dict[str, str] = field(1)
    matchExpressions: list[LabelSelectorRequirement] = field(2, list_type="atomic")


class LabelSelectorRequirement(Model):
    key: str = field(1, required=True)
    operator: str = field(2, required=True)
    values: list[str] = field(3, list_type="atomic")


class FieldSelectorRequirement(Model):
    key: str = field(1, required=True)
    operator: str = field(2, required=True)
    values: list[str] = field(3, list_type="atomic")


class ManagedFieldsEntry(Model):
    manager: str = field(1)
    operation: str = field(2)
    apiVersion: str = field(3)
    time: Time = field(4)
    fieldsType: str = field(6)
    fieldsV1: Raw = field(7)
    subresource: str = field(8)


class Condition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    observedGeneration: int64 = field(3)
    lastTransitionTime: Time = field(4, required=True)
    reason: str = field(5, required=True)
    message: str = field(6, required=True)
