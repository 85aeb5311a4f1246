"""autoscaling/v2. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Quantity, Time, field, int32, int64
from nsk8s.api.models.meta import LabelSelector, ObjectMeta


class HorizontalPodAutoscaler(Model):
    """Changes the number of replicas of a workload by what is measured."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: HorizontalPodAutoscalerSpec = field(2, "What is wanted.")
    status: HorizontalPodAutoscalerStatus = field(3, "What is known; written by controllers.")


class HorizontalPodAutoscalerSpec(Model):
    scaleTargetRef: CrossVersionObjectReference = field(1, required=True)
    minReplicas: int32 | None = field(2)
    maxReplicas: int32 = field(3, required=True)
    metrics: list[MetricSpec] = field(4, list_type="atomic")
    behavior: HorizontalPodAutoscalerBehavior = field(5)


class CrossVersionObjectReference(Model, atomic=True):
    kind: str = field(1, required=True)
    name: str = field(2, required=True)
    apiVersion: str = field(3)


class MetricSpec(Model):
    type: str = field(1, required=True)
    object: ObjectMetricSource = field(2)
    pods: PodsMetricSource = field(3)
    resource: ResourceMetricSource = field(4)
    containerResource: ContainerResourceMetricSource = field(7)
    external: ExternalMetricSource = field(5)


class HorizontalPodAutoscalerBehavior(Model):
    scaleUp: HPAScalingRules = field(1)
    scaleDown: HPAScalingRules = field(2)


class HPAScalingRules(Model):
    stabilizationWindowSeconds: int32 | None = field(3)
    selectPolicy: str | None = field(1)
    policies: list[HPAScalingPolicy] = field(2, list_type="atomic")
    tolerance: Quantity = field(4)


class HPAScalingPolicy(Model):
    type: str = field(1, required=True)
    value: int32 = field(2, required=True)
    periodSeconds: int32 = field(3, required=True)


class ObjectMetricSource(Model):
    describedObject: CrossVersionObjectReference = field(1, required=True)
    target: MetricTarget = field(2, required=True)
    metric: MetricIdentifier = field(3, required=True)


class PodsMetricSource(Model):
    metric: MetricIdentifier = field(1, required=True)
    target: MetricTarget = field(2, required=True)


class ResourceMetricSource(Model):
    name: str = field(1, required=True)
    target: MetricTarget = field(2, required=True)


class ContainerResourceMetricSource(Model):
    name: str = field(1, required=True)
    target: MetricTarget = field(2, required=True)
    container: str = field(3, required=True)


class ExternalMetricSource(Model):
    metric: MetricIdentifier = field(1, required=True)
    target: MetricTarget = field(2, required=True)


class MetricIdentifier(Model):
    name: str = field(1, required=True)
    selector: LabelSelector = field(2)


class MetricTarget(Model):
    type: str = field(1, required=True)
    value: Quantity = field(2)
    averageValue: Quantity = field(3)
    averageUtilization: int32 | None = field(4)


class HorizontalPodAutoscalerStatus(Model):
    observedGeneration: int64 | None = field(1)
    lastScaleTime: Time = field(2)
    currentReplicas: int32 = field(3)
    desiredReplicas: int32 = field(4, required=True)
    currentMetrics: list[MetricStatus] = field(5, list_type="atomic")
    conditions: list[HorizontalPodAutoscalerCondition] = field(
        6, merge_key="type", list_type="map", list_keys=("type",)
    )


class HorizontalPodAutoscalerCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastTransitionTime: Time = field(3)
    reason: str = field(4)
    message: str = field(5)


class MetricStatus(Model):
    type: str = field(1, required=True)
    object: ObjectMetricStatus = field(2)
    pods: PodsMetricStatus = field(3)
    resource: ResourceMetricStatus = field(4)
    containerResource: ContainerResourceMetricStatus = field(7)
    external: ExternalMetricStatus = field(5)


class ObjectMetricStatus(Model):
    metric: MetricIdentifier = field(1, required=True)
    current: MetricValueStatus = field(2, required=True)
    describedObject: CrossVersionObjectReference = field(3, required=True)


class PodsMetricStatus(Model):
    metric: MetricIdentifier = field(1, required=True)
    current: MetricValueStatus = field(2, required=True)


class ResourceMetricStatus(Model):
    name: str = field(1, required=True)
    current: MetricValueStatus = field(2, required=True)


class ContainerResourceMetricStatus(Model):
    name: str = field(1, required=True)
    current: MetricValueStatus = field(2, required=True)
    container: str = field(3, required=True)


class ExternalMetricStatus(Model):
    metric: MetricIdentifier = field(1, required=True)
    current: MetricValueStatus = field(2, required=True)


class MetricValueStatus(Model):
    value: Quantity = field(1)
    averageValue: Quantity = field(2)
    averageUtilization: int32 | None = field(3)
