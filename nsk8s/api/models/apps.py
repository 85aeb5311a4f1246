"""apps/v1. Numbers as in upstream's generated.proto. Pure."""

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
    """Pods with stable names and storage, started and stopped in order."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: StatefulSetSpec = field(2, "What is wanted.")
    status: StatefulSetStatus = field(3, "What is known; written by controllers.")


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
    replicas: int32 | None = field(1, "How many pods; default 1.")
    selector: LabelSelector = field(2, "Which pods belong to it; cannot be changed.", required=True)
    template: PodTemplateSpec = field(3, "What the pods look like.", required=True)
    volumeClaimTemplates: list[PersistentVolumeClaim] = field(
        4, "A claim for each pod is made from each of these.", list_type="atomic"
    )
    serviceName: str = field(5, "The headless Service that gives the pods their names.")
    podManagementPolicy: str = field(6, "OrderedReady or Parallel.", enum=POD_MANAGEMENT_POLICY_TYPE)
    updateStrategy: StatefulSetUpdateStrategy = field(7, "How pods are replaced when the template changes.")
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
    """Keeps equal pods running and replaces them step by step when their template changes."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: DeploymentSpec = field(2, "What shall be kept running.")
    status: DeploymentStatus = field(3, "How far it has come.")


class DeploymentSpec(Model):
    """What a Deployment shall keep running, and how it rolls out changes."""

    replicas: int32 | None = field(1, "How many pods; default 1.")
    selector: LabelSelector = field(2, "Which pods belong to it; cannot be changed.", required=True)
    template: PodTemplateSpec = field(3, "What the pods look like.", required=True)
    strategy: DeploymentStrategy = field(4, "How old pods are replaced.", patch_strategy="retainKeys")
    minReadySeconds: int32 = field(5, "Seconds a pod must be ready to count as available.")
    revisionHistoryLimit: int32 | None = field(6, "How many old ReplicaSets are kept for rollback; default 10.")
    paused: bool = field(7, "No rollout happens while this is set.")
    progressDeadlineSeconds: int32 | None = field(
        9, "Seconds without progress after which the rollout counts as stuck; default 600."
    )


class DeploymentStrategy(Model):
    """How old pods are replaced by new ones."""

    type: str = field(1, "Recreate or RollingUpdate.", enum=DEPLOYMENT_STRATEGY_TYPE)
    rollingUpdate: RollingUpdateDeployment = field(2, "Only with RollingUpdate.")


class RollingUpdateDeployment(Model):
    """How far a rolling update may go beyond and below the wanted number of pods."""

    maxUnavailable: IntOrString = field(1, "How many pods may be missing: a number or a percentage (rounded down).")
    maxSurge: IntOrString = field(2, "How many pods there may be too many: a number or a percentage (rounded up).")


class DeploymentStatus(Model):
    """How far a Deployment has come."""

    observedGeneration: int64 = field(1, "The generation this status is about.")
    replicas: int32 = field(2, "Pods there are.")
    updatedReplicas: int32 = field(3, "Pods of the newest template.")
    readyReplicas: int32 = field(7, "Pods that are ready.")
    availableReplicas: int32 = field(4, "Pods ready for minReadySeconds.")
    unavailableReplicas: int32 = field(5, "Pods still missing.")
    terminatingReplicas: int32 | None = field(9)
    conditions: list[DeploymentCondition] = field(
        6, "Available, Progressing, ReplicaFailure.", merge_key="type", list_type="map", list_keys=("type",)
    )
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
    selector: LabelSelector = field(1, "Which pods belong to it; cannot be changed.", required=True)
    template: PodTemplateSpec = field(2, "What the pods look like.", required=True)
    updateStrategy: DaemonSetUpdateStrategy = field(3, "How pods are replaced when the template changes.")
    minReadySeconds: int32 = field(4, "Seconds a pod must be ready to count as available.")
    revisionHistoryLimit: int32 | None = field(6, "How many old revisions are kept; default 10.")


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
    """One pod on every node that fits."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: DaemonSetSpec = field(2, "What is wanted.")
    status: DaemonSetStatus = field(3, "What is known; written by controllers.")


class ReplicaSet(Model):
    """Keeps a number of equal pods running."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: ReplicaSetSpec = field(2, "What is wanted.")
    status: ReplicaSetStatus = field(3, "What is known; written by controllers.")


class ReplicaSetSpec(Model):
    replicas: int32 | None = field(1, "How many pods; default 1.")
    minReadySeconds: int32 = field(4, "Seconds a pod must be ready to count as available.")
    selector: LabelSelector = field(2, "Which pods belong to it; cannot be changed.", required=True)
    template: PodTemplateSpec = field(3, "What new pods look like.")


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
    """A recorded state of a DaemonSet's or StatefulSet's template."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    data: Raw = field(2)
    revision: int64 = field(3, required=True)
