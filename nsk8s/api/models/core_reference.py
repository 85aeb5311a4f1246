"""The core group: references and selectors that several other models use. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Quantity, field

NODE_SELECTOR_OPERATOR = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")


class TypedObjectReference(Model):
    apiGroup: str | None = field(1)
    kind: str = field(2, required=True)
    name: str = field(3, required=True)
    namespace: str | None = field(4)


class SecretReference(Model, atomic=True):
    name: str = field(1)
    namespace: str = field(2)


class ObjectFieldSelector(Model, atomic=True):
    apiVersion: str = field(1)
    fieldPath: str = field(2, required=True)


class ResourceFieldSelector(Model, atomic=True):
    containerName: str = field(1)
    resource: str = field(2, required=True)
    divisor: Quantity = field(3)


class ResourceRequirements(Model):
    limits: dict[str, Quantity] = field(1, "At most this much.")
    requests: dict[str, Quantity] = field(2, "At least this much; the scheduler counts it.")
    claims: list[ResourceClaim] = field(3, list_type="map", list_keys=("name",))


class VolumeResourceRequirements(Model):
    limits: dict[str, Quantity] = field(1)
    requests: dict[str, Quantity] = field(2)


class ResourceClaim(Model):
    name: str = field(1, required=True)
    request: str = field(2)


class NodeSelector(Model, atomic=True):
    nodeSelectorTerms: list[NodeSelectorTerm] = field(1, required=True, list_type="atomic")


class NodeSelectorTerm(Model, atomic=True):
    matchExpressions: list[NodeSelectorRequirement] = field(1, list_type="atomic")
    matchFields: list[NodeSelectorRequirement] = field(2, list_type="atomic")


class NodeSelectorRequirement(Model):
    key: str = field(1, required=True)
    operator: str = field(2, required=True, enum=NODE_SELECTOR_OPERATOR)
    values: list[str] = field(3, list_type="atomic")


class TopologySelectorTerm(Model, atomic=True):
    matchLabelExpressions: list[TopologySelectorLabelRequirement] = field(1, list_type="atomic")


class TopologySelectorLabelRequirement(Model):
    key: str = field(1, required=True)
    values: list[str] = field(2, required=True, list_type="atomic")


class ObjectReference(Model, atomic=True):
    kind: str = field(1)
    namespace: str = field(2)
    name: str = field(3)
    uid: str = field(4)
    apiVersion: str = field(5)
    resourceVersion: str = field(6)
    fieldPath: str = field(7)


class LocalObjectReference(Model, atomic=True):
    name: str = field(1, default="")


class TypedLocalObjectReference(Model, atomic=True):
    apiGroup: str | None = field(1)
    kind: str = field(2, required=True)
    name: str = field(3, required=True)
