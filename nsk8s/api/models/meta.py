"""meta.k8s.io: what all objects and lists share. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Raw, Time, field, int32, int64


class ListMeta(Model):
    selfLink: str = field(1)
    resourceVersion: str = field(2)
    continue_: str = field(3, name="continue")
    remainingItemCount: int64 | None = field(4)


class ObjectMeta(Model):
    """What every stored object has: its name, labels, owners and history."""

    name: str = field(1, "Unique among objects of the kind in the namespace; cannot be changed.")
    generateName: str = field(2, "A prefix; the server appends five random characters when no name is given.")
    namespace: str = field(3, "The scope of the name; empty for cluster-scoped kinds.")
    selfLink: str = field(4)
    uid: str = field(5, "Unique in space and time.")
    resourceVersion: str = field(6, "Changes with every write; send it back to write only what you have seen.")
    generation: int64 = field(7, "Goes up whenever the wanted state changes.")
    creationTimestamp: Time = field(8, "When the object was made.")
    deletionTimestamp: Time = field(9, "When the object will be, or was to be, gone; set by a delete.")
    deletionGracePeriodSeconds: int64 | None = field(10, "Seconds the object has until it is removed.")
    labels: dict[str, str] = field(11, "Keys and values that selectors match.")
    annotations: dict[str, str] = field(12, "Keys and values for tools and people; nothing selects by them.")
    ownerReferences: list[OwnerReference] = field(
        13, "The objects this one belongs to.", merge_key="uid", list_type="map", list_keys=("uid",)
    )
    finalizers: list[str] = field(
        14, "Must be empty before the object is really removed.", patch_strategy="merge", list_type="set"
    )
    managedFields: list[ManagedFieldsEntry] = field(
        17, "Which manager wrote which fields, for server-side apply.", list_type="atomic"
    )


class OwnerReference(Model, atomic=True):
    """An object that owns this one; when all owners are gone, the garbage collector removes it."""

    apiVersion: str = field(5, required=True)
    kind: str = field(1, required=True)
    name: str = field(3, required=True)
    uid: str = field(4, required=True)
    controller: bool | None = field(6)
    blockOwnerDeletion: bool | None = field(7)


class DeleteOptions(Model):
    """How an object is to be deleted."""

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
    """The answer to a call that returns no object, and to one that failed."""

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
    """A query over labels: all of matchLabels and matchExpressions must hold; an empty one matches everything."""

    matchLabels: dict[str, str] = field(1, "Each key must have this value.")
    matchExpressions: list[LabelSelectorRequirement] = field(2, "Each term must hold.", list_type="atomic")


class LabelSelectorRequirement(Model):
    """One term of a selector: a key, an operator and values."""

    key: str = field(1, "The label's key.", required=True)
    operator: str = field(2, "In, NotIn, Exists or DoesNotExist.", required=True)
    values: list[str] = field(3, "Needed with In and NotIn, empty otherwise.", list_type="atomic")


class FieldSelectorRequirement(Model):
    key: str = field(1, required=True)
    operator: str = field(2, required=True)
    values: list[str] = field(3, list_type="atomic")


class ManagedFieldsEntry(Model):
    """The fields that one manager last wrote."""

    manager: str = field(1)
    operation: str = field(2)
    apiVersion: str = field(3)
    time: Time = field(4)
    fieldsType: str = field(6)
    fieldsV1: Raw = field(7)
    subresource: str = field(8)


class Condition(Model):
    """One aspect of an object's state, and since when it has been so."""

    type: str = field(1, required=True)
    status: str = field(2, "What is known; written by controllers.", required=True)
    observedGeneration: int64 = field(3)
    lastTransitionTime: Time = field(4, required=True)
    reason: str = field(5, required=True)
    message: str = field(6, required=True)
