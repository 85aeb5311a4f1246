"""The core group: nodes. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Quantity, Time, field, int32, int64
from nsk8s.api.models.meta import ObjectMeta

TAINT_EFFECT = ("NoSchedule", "PreferNoSchedule", "NoExecute")
NODE_PHASE = ("Pending", "Running", "Terminated")


class Taint(Model):
    """A mark that keeps pods without the matching toleration away."""

    key: str = field(1, required=True)
    value: str = field(2)
    effect: str = field(3, required=True, enum=TAINT_EFFECT)
    timeAdded: Time = field(4)


class NodeSpec(Model):
    """What is wanted of a node."""

    podCIDR: str = field(1, "The range from which the node's pods get addresses.")
    podCIDRs: list[str] = field(7, "The same, one range per family.", patch_strategy="merge", list_type="set")
    providerID: str = field(3, "The machine's name at its provider.")
    unschedulable: bool = field(4, "No new pods are placed here (cordon).")
    taints: list[Taint] = field(5, "Marks that keep pods away.", list_type="atomic")
    configSource: NodeConfigSource = field(6)
    externalID: str = field(2)


class NodeConfigSource(Model):
    configMap: ConfigMapNodeConfigSource = field(2)


class ConfigMapNodeConfigSource(Model):
    namespace: str = field(1, required=True)
    name: str = field(2, required=True)
    uid: str = field(3)
    resourceVersion: str = field(4)
    kubeletConfigKey: str = field(5, required=True)


class DaemonEndpoint(Model):
    Port: int32 = field(1, required=True)


class NodeDaemonEndpoints(Model):
    kubeletEndpoint: DaemonEndpoint = field(1)


class NodeRuntimeHandlerFeatures(Model):
    recursiveReadOnlyMounts: bool | None = field(1)
    userNamespaces: bool | None = field(2)


class NodeRuntimeHandler(Model):
    name: str = field(1)
    features: NodeRuntimeHandlerFeatures = field(2)


class NodeFeatures(Model):
    supplementalGroupsPolicy: bool | None = field(1)


class NodeSystemInfo(Model):
    machineID: str = field(1, required=True)
    systemUUID: str = field(2, required=True)
    bootID: str = field(3, required=True)
    kernelVersion: str = field(4, required=True)
    osImage: str = field(5, required=True)
    containerRuntimeVersion: str = field(6, required=True)
    kubeletVersion: str = field(7, required=True)
    kubeProxyVersion: str = field(8, required=True)
    operatingSystem: str = field(9, required=True)
    architecture: str = field(10, required=True)
    swap: NodeSwapStatus = field(11)


class NodeSwapStatus(Model):
    capacity: int64 | None = field(1)


class NodeConfigStatus(Model):
    assigned: NodeConfigSource = field(1)
    active: NodeConfigSource = field(2)
    lastKnownGood: NodeConfigSource = field(3)
    error: str = field(4)


class NodeStatus(Model):
    """What is known of a node."""

    capacity: dict[str, Quantity] = field(1, "What the machine has.")
    allocatable: dict[str, Quantity] = field(2, "What pods may use of it.")
    phase: str = field(3, enum=NODE_PHASE)
    conditions: list[NodeCondition] = field(
        4, "Ready, MemoryPressure, DiskPressure, PIDPressure, NetworkUnavailable.", merge_key="type", list_type="map",
        list_keys=("type",)
    )
    addresses: list[NodeAddress] = field(
        5, "Host name and addresses.", merge_key="type", list_type="map", list_keys=("type",)
    )
    daemonEndpoints: NodeDaemonEndpoints = field(6)
    nodeInfo: NodeSystemInfo = field(7, "Kernel, operating system, versions.")
    images: list[ContainerImage] = field(8, list_type="atomic")
    volumesInUse: list[str] = field(9, list_type="atomic")
    volumesAttached: list[AttachedVolume] = field(10, list_type="atomic")
    config: NodeConfigStatus = field(11)
    runtimeHandlers: list[NodeRuntimeHandler] = field(12, list_type="atomic")
    features: NodeFeatures = field(13)


class AttachedVolume(Model):
    name: str = field(1, required=True)
    devicePath: str = field(2, required=True)


class ContainerImage(Model):
    names: list[str] = field(1, list_type="atomic")
    sizeBytes: int64 = field(2)


class NodeCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastHeartbeatTime: Time = field(3)
    lastTransitionTime: Time = field(4)
    reason: str = field(5)
    message: str = field(6)


class NodeAddress(Model):
    type: str = field(1, required=True)
    address: str = field(2, required=True)


class Node(Model):
    """A machine on which pods run."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: NodeSpec = field(2, "What is wanted.")
    status: NodeStatus = field(3, "What is known; written by controllers.")
