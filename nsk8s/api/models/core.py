"""The core group: the kinds that are no pods, nodes, services or volumes. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Bytes, MicroTime, Model, Quantity, Time, field, int32, int64
from nsk8s.api.models.core_pod import PodTemplateSpec
from nsk8s.api.models.core_reference import LocalObjectReference, ObjectReference
from nsk8s.api.models.meta import ObjectMeta

NAMESPACE_PHASE = ("Active", "Terminating")
RESOURCE_QUOTA_SCOPE = (
    "Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass",
    "CrossNamespacePodAffinity", "VolumeAttributesClass",
)
SCOPE_SELECTOR_OPERATOR = ("In", "NotIn", "Exists", "DoesNotExist")


class ReplicationControllerSpec(Model):
    replicas: int32 | None = field(1, default=1)
    minReadySeconds: int32 = field(4, default=0)
    selector: dict[str, str] = field(2, list_type="atomic")
    template: PodTemplateSpec = field(3)


class ReplicationControllerStatus(Model):
    replicas: int32 = field(1, required=True)
    fullyLabeledReplicas: int32 = field(2)
    readyReplicas: int32 = field(4)
    availableReplicas: int32 = field(5)
    observedGeneration: int64 = field(3)
    conditions: list[ReplicationControllerCondition] = field(6, merge_key="type", list_type="map", list_keys=("type",))


class ReplicationControllerCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastTransitionTime: Time = field(3)
    reason: str = field(4)
    message: str = field(5)


class ReplicationController(Model):
    """Keeps a number of equal pods running; the ancestor of ReplicaSet."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: ReplicationControllerSpec = field(2, "What is wanted.")
    status: ReplicationControllerStatus = field(3, "What is known; written by controllers.")


class ServiceAccount(Model):
    """An identity for processes in pods."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    secrets: list[ObjectReference] = field(2, merge_key="name", list_type="map", list_keys=("name",))
    imagePullSecrets: list[LocalObjectReference] = field(3, list_type="atomic")
    automountServiceAccountToken: bool | None = field(4)


class NamespaceSpec(Model):
    finalizers: list[str] = field(1, list_type="atomic")


class NamespaceStatus(Model):
    phase: str = field(1, enum=NAMESPACE_PHASE)
    conditions: list[NamespaceCondition] = field(2, merge_key="type", list_type="map", list_keys=("type",))


class NamespaceCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastTransitionTime: Time = field(4)
    reason: str = field(5)
    message: str = field(6)


class Namespace(Model):
    """A scope for names; most kinds live in one."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: NamespaceSpec = field(2, "What is wanted.")
    status: NamespaceStatus = field(3, "What is known; written by controllers.")


class Binding(Model):
    """Ties a pod to a node."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    target: ObjectReference = field(2, required=True)


class EventSource(Model):
    component: str = field(1)
    host: str = field(2)


class Event(Model):
    """A report of something that happened to an object; kept for a while."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.", required=True)
    involvedObject: ObjectReference = field(2, required=True)
    reason: str = field(3)
    message: str = field(4)
    source: EventSource = field(5)
    firstTimestamp: Time = field(6)
    lastTimestamp: Time = field(7)
    count: int32 = field(8)
    type: str = field(9)
    eventTime: MicroTime = field(10)
    series: EventSeries = field(11)
    action: str = field(12)
    related: ObjectReference = field(13)
    reportingComponent: str = field(14)
    reportingInstance: str = field(15)


class EventSeries(Model):
    count: int32 = field(1)
    lastObservedTime: MicroTime = field(2)


class LimitRangeItem(Model):
    type: str = field(1, required=True)
    max: dict[str, Quantity] = field(2)
    min: dict[str, Quantity] = field(3)
    default: dict[str, Quantity] = field(4)
    defaultRequest: dict[str, Quantity] = field(5)
    maxLimitRequestRatio: dict[str, Quantity] = field(6)


class LimitRangeSpec(Model):
    limits: list[LimitRangeItem] = field(1, required=True, list_type="atomic")


class LimitRange(Model):
    """Smallest, largest and default amounts for the pods, containers and claims of a namespace."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: LimitRangeSpec = field(2, "What is wanted.")


class ResourceQuotaSpec(Model):
    hard: dict[str, Quantity] = field(1)
    scopes: list[str] = field(2, list_type="atomic", enum=RESOURCE_QUOTA_SCOPE)
    scopeSelector: ScopeSelector = field(3)


class ScopeSelector(Model, atomic=True):
    matchExpressions: list[ScopedResourceSelectorRequirement] = field(1, list_type="atomic")


class ScopedResourceSelectorRequirement(Model):
    scopeName: str = field(1, required=True, enum=RESOURCE_QUOTA_SCOPE)
    operator: str = field(2, required=True, enum=SCOPE_SELECTOR_OPERATOR)
    values: list[str] = field(3, list_type="atomic")


class ResourceQuotaStatus(Model):
    hard: dict[str, Quantity] = field(1)
    used: dict[str, Quantity] = field(2)


class ResourceQuota(Model):
    """Limits what a namespace may use in all."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: ResourceQuotaSpec = field(2, "What is wanted.")
    status: ResourceQuotaStatus = field(3, "What is known; written by controllers.")


class Secret(Model):
    """Sensitive data that pods read as variables or files."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    immutable: bool | None = field(5, "The data cannot be changed any more.")
    data: dict[str, Bytes] = field(2, "Bytes by key, in base64.")
    stringData: dict[str, str] = field(4, "Text by key; written into data, never shown.")
    type: str = field(3, "What the Secret is for; decides which keys it must have.")


class ConfigMap(Model):
    """Configuration that pods read as variables or files."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    immutable: bool | None = field(4, "The data cannot be changed any more.")
    data: dict[str, str] = field(2, "Text by key.")
    binaryData: dict[str, Bytes] = field(3, "Bytes by key, in base64.")
