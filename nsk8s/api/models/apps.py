"""Models of apps. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import IntOrString, Model, Raw, Time, field, int32, int64
from nsk8s.api.models.core_pod import PodTemplateSpec
from nsk8s.api.models.core_volume import PersistentVolumeClaim
from nsk8s.api.models.meta import LabelSelector, ObjectMeta

STATEFUL_SET_UPDATE_STRATEGY_TYPE = ("RollingUpdate", "OnDelete")
POD_MANAGEMENT_POLICY_TYPE = ("OrderedReady", "Parallel")
DEPLOYMENT_STRATEGY_TYPE = ("Recreate", "RollingUpdate")
DAEMON_SET_UPDATE_STRATEGY_TYPE = ("RollingUpdate", "OnDelete")

class StatefulSet(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: StatefulSetSpec = field(2)
    status: StatefulSetStatus = field(3)


class StatefulSetUpdateStrategy(Model):
    type: str = field(1, enum=STATEFUL_SET_UPDATE_STRATEGY_TYPE)
    rollingUpdate: RollingUpdateStatefulSetStrategy = field(2)


class RollingUpdateStatefulSetStrategy(Model):
    partition: int32 | None = field(1)
    maxUnavailable: IntOrString = field(2)


class StatefulSetPersistentVolumeClaimRetentionPolicy(Model):
    whenDeleted: str = field(1)
    whenScaled: str = field(2)


class StatefulSetOrdinals(Model):
    start: int32 = field(1)


class StatefulSetSpec(Model):
    replicas: int32 | None = field(1)
    selector: LabelSelector = field(2, required=True)
    template: PodTemplateSpec = field(3, required=True)
    volumeClaimTemplates: list[PersistentVolumeClaim] = field(4, list_type="atomic")
    serviceName: str = field(5)
    podManagementPolicy: str = field(6, enum=POD_MANAGEMENT_POLICY_TYPE)
    updateStrategy: StatefulSetUpdateStrategy = field(7)
    revisionHistoryLimit: int32 | None = field(8)
    minReadySeconds: int32 = field(9)
    persistentVolumeClaimRetentionPolicy: StatefulSetPersistentVolumeClaimRetentionPolicy = field(10)
    ordinals: StatefulSetOrdinals = field(11)


class StatefulSetStatus(Model):
    observedGeneration: int64 = field(1)
    replicas: int32 = field(2, required=True)
    readyReplicas: int32 = field(3)
    currentReplicas: int32 = field(4)
    updatedReplicas: int32 = field(5)
    currentRevision: str = field(6)
    updateRevision: str = field(7)
    collisionCount: int32 | None = field(9)
    conditions: list[StatefulSetCondition] = field(10, merge_key="type", list_type="map", list_keys=("type",))
    availableReplicas: int32 = field(11)


class StatefulSetCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastTransitionTime: Time = field(3)
    reason: str = field(4)
    message: str = field(5)


class Deployment(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: DeploymentSpec = field(2)
    status: DeploymentStatus = field(3)


class DeploymentSpec(Model):
    replicas: int32 | None = field(1)
    selector: LabelSelector = field(2, required=True)
    template: PodTemplateSpec = field(3, required=True)
    strategy: DeploymentStrategy = field(4, patch_strategy="retainKeys")
    minReadySeconds: int32 = field(5)
    revisionHistoryLimit: int32 | None = field(6)
    paused: bool = field(7)
    progressDeadlineSeconds: int32 | None = field(9)


class DeploymentStrategy(Model):
    type: str = field(1, enum=DEPLOYMENT_STRATEGY_TYPE)
    rollingUpdate: RollingUpdateDeployment = field(2)


class RollingUpdateDeployment(Model):
    maxUnavailable: IntOrString = field(1)
    maxSurge: IntOrString = field(2)


class DeploymentStatus(Model):
    observedGeneration: int64 = field(1)
    replicas: int32 = field(2)
    updatedReplicas: int32 = field(3)
    readyReplicas: int32 = field(7)
    availableReplicas: int32 = field(4)
    unavailableReplicas: int32 = field(5)
    terminatingReplicas: int32 | None = field(9)
    conditions: list[DeploymentCondition] = field(6, merge_key="type", list_type="map", list_keys=("type",))
    collisionCount: int32 | None = field(8)


class DeploymentCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastUpdateTime: Time = field(6)
    lastTransitionTime: Time = field(7)
    reason: str = field(4)
    message: str = field(5)


class DaemonSetUpdateStrategy(Model):
    type: str = field(1, enum=DAEMON_SET_UPDATE_STRATEGY_TYPE)
    rollingUpdate: RollingUpdateDaemonSet = field(2)


class RollingUpdateDaemonSet(Model):
    maxUnavailable: IntOrString = field(1)
    maxSurge: IntOrString = field(2)


class DaemonSetSpec(Model):
    selector: LabelSelector = field(1, required=True)
    template: PodTemplateSpec = field(2, required=True)
    updateStrategy: DaemonSetUpdateStrategy = field(3)
    minReadySeconds: int32 = field(4)
    revisionHistoryLimit: int32 | None = field(6)


class DaemonSetStatus(Model):
    currentNumberScheduled: int32 = field(1, required=True)
    numberMisscheduled: int32 = field(2, required=True)
    desiredNumberScheduled: int32 = field(3, required=True)
    numberReady: int32 = field(4, required=True)
    observedGeneration: int64 = field(5)
    updatedNumberScheduled: int32 = field(6)
    numberAvailable: int32 = field(7)
    numberUnavailable: int32 = field(8)
    collisionCount: int32 | None = field(9)
    conditions: list[DaemonSetCondition] = field(10, merge_key="type", list_type="map", list_keys=("type",))


class DaemonSetCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastTransitionTime: Time = field(3)
    reason: str = field(4)
    message: str = field(5)


class DaemonSet(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: DaemonSetSpec = field(2)
    status: DaemonSetStatus = field(3)


class ReplicaSet(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: ReplicaSetSpec = field(2)
    status: ReplicaSetStatus = field(3)


class ReplicaSetSpec(Model):
    replicas: int32 | None = field(1)
    minReadySeconds: int32 = field(4)
    selector: LabelSelector = field(2, required=True)
    template: PodTemplateSpec = field(3)


class ReplicaSetStatus(Model):
    replicas: int32 = field(1, required=True)
    fullyLabeledReplicas: int32 = field(2)
    readyReplicas: int32 = field(4)
    availableReplicas: int32 = field(5)
    terminatingReplicas: int32 | None = field(7)
    observedGeneration: int64 = field(3)
    conditions: list[ReplicaSetCondition] = field(6, merge_key="type", list_type="map", list_keys=("type",))


class ReplicaSetCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastTransitionTime: Time = field(3)
    reason: str = field(4)
    message: str = field(5)


class ControllerRevision(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    data: Raw = field(2)
    revision: int64 = field(3, required=True)
