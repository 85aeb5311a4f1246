"""The core group: pods, containers, templates. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import IntOrString, Model, Quantity, Time, field, int32, int64
from nsk8s.api.models.core_reference import (
    LocalObjectReference,
    NodeSelector,
    NodeSelectorTerm,
    ObjectFieldSelector,
    ResourceFieldSelector,
    ResourceRequirements,
)
from nsk8s.api.models.core_volume import Volume
from nsk8s.api.models.meta import LabelSelector, ObjectMeta

PROTOCOL = ("TCP", "UDP", "SCTP")
MOUNT_PROPAGATION_MODE = ("None", "HostToContainer", "Bidirectional")
URI_SCHEME = ("HTTP", "HTTPS")
TERMINATION_MESSAGE_POLICY = ("File", "FallbackToLogsOnError")
PULL_POLICY = ("Always", "Never", "IfNotPresent")
SIGNAL = (
    "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT",
    "SIGIO", "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT",
    "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2",
    "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+2", "SIGRTMIN+3",
    "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7", "SIGRTMIN+8", "SIGRTMIN+9", "SIGRTMIN+10",
    "SIGRTMIN+11", "SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX-13",
    "SIGRTMAX-12", "SIGRTMAX-11", "SIGRTMAX-10", "SIGRTMAX-9", "SIGRTMAX-8", "SIGRTMAX-7", "SIGRTMAX-6",
    "SIGRTMAX-5", "SIGRTMAX-4", "SIGRTMAX-3", "SIGRTMAX-2", "SIGRTMAX-1", "SIGRTMAX",
)
TOLERATION_OPERATOR = ("Exists", "Equal")
TAINT_EFFECT = ("NoSchedule", "PreferNoSchedule", "NoExecute")
RESTART_POLICY = ("Always", "OnFailure", "Never")
DNS_POLICY = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
PREEMPTION_POLICY = ("PreemptLowerPriority", "Never")
UNSATISFIABLE_CONSTRAINT_ACTION = ("DoNotSchedule", "ScheduleAnyway")
NODE_INCLUSION_POLICY = ("Ignore", "Honor")
SUPPLEMENTAL_GROUPS_POLICY = ("Merge", "Strict")
POD_FS_GROUP_CHANGE_POLICY = ("OnRootMismatch", "Always")
SECCOMP_PROFILE_TYPE = ("Unconfined", "RuntimeDefault", "Localhost")
APP_ARMOR_PROFILE_TYPE = ("Unconfined", "RuntimeDefault", "Localhost")
POD_PHASE = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
POD_QOS_CLASS = ("Guaranteed", "Burstable", "BestEffort")
PROC_MOUNT_TYPE = ("Default", "Unmasked")


class ContainerPort(Model):
    """A port on which a container listens."""

    name: str = field(1, "A name that Services can refer to; unique in the pod.")
    hostPort: int32 = field(2, "The port on the node that leads here.")
    containerPort: int32 = field(3, "The port in the container.", required=True)
    protocol: str = field(4, "TCP, UDP or SCTP.", default="TCP", enum=PROTOCOL)
    hostIP: str = field(5, "The node's address that hostPort is bound to.")


class VolumeMount(Model):
    name: str = field(1, required=True)
    readOnly: bool = field(2)
    recursiveReadOnly: str | None = field(7)
    mountPath: str = field(3, required=True)
    subPath: str = field(4)
    mountPropagation: str | None = field(5, enum=MOUNT_PROPAGATION_MODE)
    subPathExpr: str = field(6)


class VolumeDevice(Model):
    name: str = field(1, required=True)
    devicePath: str = field(2, required=True)


class EnvVar(Model):
    """One environment variable."""

    name: str = field(1, "The variable's name.", required=True)
    value: str = field(2, "The value; $(OTHER) is expanded.")
    valueFrom: EnvVarSource = field(3, "Where the value comes from, instead of `value`.")


class EnvVarSource(Model):
    fieldRef: ObjectFieldSelector = field(1)
    resourceFieldRef: ResourceFieldSelector = field(2)
    configMapKeyRef: ConfigMapKeySelector = field(3)
    secretKeyRef: SecretKeySelector = field(4)


class ConfigMapKeySelector(Model, atomic=True):
    localObjectReference: LocalObjectReference = field(1, inline=True)
    key: str = field(2, required=True)
    optional: bool | None = field(3)


class SecretKeySelector(Model, atomic=True):
    localObjectReference: LocalObjectReference = field(1, inline=True)
    key: str = field(2, required=True)
    optional: bool | None = field(3)


class EnvFromSource(Model):
    prefix: str = field(1)
    configMapRef: ConfigMapEnvSource = field(2)
    secretRef: SecretEnvSource = field(3)


class ConfigMapEnvSource(Model):
    localObjectReference: LocalObjectReference = field(1, inline=True)
    optional: bool | None = field(2)


class SecretEnvSource(Model):
    localObjectReference: LocalObjectReference = field(1, inline=True)
    optional: bool | None = field(2)


class HTTPHeader(Model):
    name: str = field(1, required=True)
    value: str = field(2, required=True)


class HTTPGetAction(Model):
    path: str = field(1, "The path to ask for.")
    port: IntOrString = field(2, "The port's number or name.", required=True)
    host: str = field(3, "The host to connect to; default: the pod's address.")
    scheme: str = field(4, "HTTP or HTTPS.", enum=URI_SCHEME)
    httpHeaders: list[HTTPHeader] = field(5, "Headers to send.", list_type="atomic")


class TCPSocketAction(Model):
    port: IntOrString = field(1, required=True)
    host: str = field(2)


class GRPCAction(Model):
    port: int32 = field(1, required=True)
    service: str | None = field(2, default="")


class ExecAction(Model):
    command: list[str] = field(1, list_type="atomic")


class SleepAction(Model):
    seconds: int64 = field(1, required=True)


class Probe(Model):
    """A check of a container's health, made again and again."""

    probeHandler: ProbeHandler = field(1, inline=True)
    initialDelaySeconds: int32 = field(2, "Seconds after the start before the first check.")
    timeoutSeconds: int32 = field(3, "Seconds after which a check has failed.")
    periodSeconds: int32 = field(4, "Seconds between checks.")
    successThreshold: int32 = field(5, "Successes in a row that count as recovered.")
    failureThreshold: int32 = field(6, "Failures in a row that count as failed.")
    terminationGracePeriodSeconds: int64 | None = field(7)


class ContainerResizePolicy(Model):
    resourceName: str = field(1, required=True)
    restartPolicy: str = field(2, required=True)


class Capabilities(Model):
    add: list[str] = field(1, list_type="atomic")
    drop: list[str] = field(2, list_type="atomic")


class Container(Model):
    """One process (with its children) in a pod, and the image it comes from."""

    name: str = field(1, "Unique in the pod.", required=True)
    image: str = field(2, "The image's name.")
    command: list[str] = field(3, "Replaces the image's entry point; $(VAR) is expanded.", list_type="atomic")
    args: list[str] = field(4, "Arguments of the entry point; $(VAR) is expanded.", list_type="atomic")
    workingDir: str = field(5, "Where the process starts.")
    ports: list[ContainerPort] = field(
        6, "Ports the container listens on; leaving one out does not close it.", merge_key="containerPort",
        list_type="map", list_keys=("containerPort", "protocol",)
    )
    envFrom: list[EnvFromSource] = field(19, "ConfigMaps and Secrets whose keys all become variables.", list_type="atomic")
    env: list[EnvVar] = field(7, "Environment variables.", merge_key="name", list_type="map", list_keys=("name",))
    resources: ResourceRequirements = field(8, "What the container needs, and at most gets.")
    resizePolicy: list[ContainerResizePolicy] = field(23, list_type="atomic")
    restartPolicy: str | None = field(24, "Always makes an init container a sidecar.")
    volumeMounts: list[VolumeMount] = field(
        9, "Which volumes appear where.", merge_key="mountPath", list_type="map", list_keys=("mountPath",)
    )
    volumeDevices: list[VolumeDevice] = field(21, merge_key="devicePath", list_type="map", list_keys=("devicePath",))
    livenessProbe: Probe = field(10, "The container is restarted when this fails.")
    readinessProbe: Probe = field(11, "The pod gets no traffic from Services while this fails.")
    startupProbe: Probe = field(22, "The other probes wait until this has succeeded.")
    lifecycle: Lifecycle = field(12, "What runs right after the start and right before the end.")
    terminationMessagePath: str = field(13, "The file whose content becomes the termination message.")
    terminationMessagePolicy: str = field(
        20, "File, or the end of the log if the file is empty and the container failed.", enum=TERMINATION_MESSAGE_POLICY
    )
    imagePullPolicy: str = field(14, "When the image is pulled.", enum=PULL_POLICY)
    securityContext: SecurityContext = field(15, "User, capabilities and other rights.")
    stdin: bool = field(16, "Keep standard input open.")
    stdinOnce: bool = field(17, "Close standard input after the first attach.")
    tty: bool = field(18, "Give the container a terminal.")


class ProbeHandler(Model):
    exec: ExecAction = field(1)
    httpGet: HTTPGetAction = field(2)
    tcpSocket: TCPSocketAction = field(3)
    grpc: GRPCAction = field(4)


class LifecycleHandler(Model):
    exec: ExecAction = field(1)
    httpGet: HTTPGetAction = field(2)
    tcpSocket: TCPSocketAction = field(3)
    sleep: SleepAction = field(4)


class Lifecycle(Model):
    postStart: LifecycleHandler = field(1)
    preStop: LifecycleHandler = field(2)
    stopSignal: str | None = field(3, enum=SIGNAL)


class ContainerStateWaiting(Model):
    reason: str = field(1)
    message: str = field(2)


class ContainerStateRunning(Model):
    startedAt: Time = field(1)


class ContainerStateTerminated(Model):
    exitCode: int32 = field(1, required=True)
    signal: int32 = field(2)
    reason: str = field(3)
    message: str = field(4)
    startedAt: Time = field(5)
    finishedAt: Time = field(6)
    containerID: str = field(7)


class ContainerState(Model):
    waiting: ContainerStateWaiting = field(1)
    running: ContainerStateRunning = field(2)
    terminated: ContainerStateTerminated = field(3)


class ContainerStatus(Model):
    """The state of one container."""

    name: str = field(1, required=True)
    state: ContainerState = field(2)
    lastState: ContainerState = field(3)
    ready: bool = field(4, required=True)
    restartCount: int32 = field(5, required=True)
    image: str = field(6, required=True)
    imageID: str = field(7, required=True)
    containerID: str = field(8)
    started: bool | None = field(9)
    allocatedResources: dict[str, Quantity] = field(10)
    resources: ResourceRequirements = field(11)
    volumeMounts: list[VolumeMountStatus] = field(12, merge_key="mountPath", list_type="map", list_keys=("mountPath",))
    user: ContainerUser = field(13)
    allocatedResourcesStatus: list[ResourceStatus] = field(14, merge_key="name", list_type="map", list_keys=("name",))
    stopSignal: str | None = field(15, enum=SIGNAL)


class ResourceStatus(Model):
    name: str = field(1, required=True)
    resources: list[ResourceHealth] = field(2, list_type="map", list_keys=("resourceID",))


class ResourceHealth(Model):
    resourceID: str = field(1, required=True)
    health: str = field(2)


class ContainerUser(Model):
    linux: LinuxContainerUser = field(1)


class LinuxContainerUser(Model):
    uid: int64 = field(1, required=True)
    gid: int64 = field(2, required=True)
    supplementalGroups: list[int64] = field(3, list_type="atomic")


class PodCondition(Model):
    type: str = field(1, required=True)
    observedGeneration: int64 = field(7)
    status: str = field(2, required=True)
    lastProbeTime: Time = field(3)
    lastTransitionTime: Time = field(4)
    reason: str = field(5)
    message: str = field(6)


class VolumeMountStatus(Model):
    name: str = field(1, required=True)
    mountPath: str = field(2, required=True)
    readOnly: bool = field(3)
    recursiveReadOnly: str | None = field(4)


class Affinity(Model):
    """Rules that draw pods to nodes or to other pods, or keep them apart."""

    nodeAffinity: NodeAffinity = field(1)
    podAffinity: PodAffinity = field(2)
    podAntiAffinity: PodAntiAffinity = field(3)


class PodAffinity(Model):
    requiredDuringSchedulingIgnoredDuringExecution: list[PodAffinityTerm] = field(1, list_type="atomic")
    preferredDuringSchedulingIgnoredDuringExecution: list[WeightedPodAffinityTerm] = field(2, list_type="atomic")


class PodAntiAffinity(Model):
    requiredDuringSchedulingIgnoredDuringExecution: list[PodAffinityTerm] = field(1, list_type="atomic")
    preferredDuringSchedulingIgnoredDuringExecution: list[WeightedPodAffinityTerm] = field(2, list_type="atomic")


class WeightedPodAffinityTerm(Model):
    weight: int32 = field(1, required=True)
    podAffinityTerm: PodAffinityTerm = field(2, required=True)


class PodAffinityTerm(Model):
    labelSelector: LabelSelector = field(1)
    namespaces: list[str] = field(2, list_type="atomic")
    topologyKey: str = field(3, required=True)
    namespaceSelector: LabelSelector = field(4)
    matchLabelKeys: list[str] = field(5, list_type="atomic")
    mismatchLabelKeys: list[str] = field(6, list_type="atomic")


class NodeAffinity(Model):
    requiredDuringSchedulingIgnoredDuringExecution: NodeSelector = field(1)
    preferredDuringSchedulingIgnoredDuringExecution: list[PreferredSchedulingTerm] = field(2, list_type="atomic")


class PreferredSchedulingTerm(Model):
    weight: int32 = field(1, required=True)
    preference: NodeSelectorTerm = field(2, required=True)


class Toleration(Model):
    """A taint that the pod does not mind."""

    key: str = field(1, "The taint's key; empty with Exists means every taint.")
    operator: str = field(2, "Exists, or Equal (the default).", enum=TOLERATION_OPERATOR)
    value: str = field(3, "The taint's value.")
    effect: str = field(4, "NoSchedule, PreferNoSchedule or NoExecute; empty means all.", enum=TAINT_EFFECT)
    tolerationSeconds: int64 | None = field(5, "How long a NoExecute taint is tolerated; default: for ever.")


class PodReadinessGate(Model):
    conditionType: str = field(1, required=True)


class PodSpec(Model):
    """What a pod shall be: its containers, volumes, and where and how it runs."""

    volumes: list[Volume] = field(
        1, "What containers can mount.", merge_key="name", patch_strategy="merge,retainKeys", list_type="map",
        list_keys=("name",)
    )
    initContainers: list[Container] = field(
        20, "Run one after the other, each to its end, before the containers start.", merge_key="name", list_type="map",
        list_keys=("name",)
    )
    containers: list[Container] = field(
        2, "The containers; at least one. Cannot be added or removed later.", required=True, merge_key="name",
        list_type="map", list_keys=("name",)
    )
    ephemeralContainers: list[EphemeralContainer] = field(
        34, "Added to a running pod for debugging.", merge_key="name", list_type="map", list_keys=("name",)
    )
    restartPolicy: str = field(3, "Whether ended containers are started again.", enum=RESTART_POLICY)
    terminationGracePeriodSeconds: int64 | None = field(4, "Seconds between SIGTERM and SIGKILL.")
    activeDeadlineSeconds: int64 | None = field(5, "Seconds after which the pod is ended and has failed.")
    dnsPolicy: str = field(6, "Where resolv.conf comes from.", enum=DNS_POLICY)
    nodeSelector: dict[str, str] = field(7, "Labels the node must have.", list_type="atomic")
    serviceAccountName: str = field(8, "The ServiceAccount whose token the pod gets.")
    serviceAccount: str = field(9)
    automountServiceAccountToken: bool | None = field(21, "Whether the token is mounted.")
    nodeName: str = field(10, "The node; set by the scheduler, or by hand to go past it.")
    hostNetwork: bool = field(11, "Use the node's network namespace.")
    hostPID: bool = field(12, "Use the node's process ids.")
    hostIPC: bool = field(13, "Use the node's IPC namespace.")
    shareProcessNamespace: bool | None = field(27, "One process id namespace for all containers.")
    securityContext: PodSecurityContext = field(14, "Users, groups and sysctls for all containers.")
    imagePullSecrets: list[LocalObjectReference] = field(
        15, "Secrets for pulling images.", merge_key="name", list_type="map", list_keys=("name",)
    )
    hostname: str = field(16, "The host name in the pod; default: its name.")
    subdomain: str = field(17, "Gives the pod a DNS name hostname.subdomain.namespace.svc.")
    affinity: Affinity = field(18, "Rules about nodes and other pods.")
    schedulerName: str = field(19, "Which scheduler places the pod.")
    tolerations: list[Toleration] = field(22, "Taints that do not keep the pod away.", list_type="atomic")
    hostAliases: list[HostAlias] = field(23, "Lines added to /etc/hosts.", merge_key="ip", list_type="map", list_keys=("ip",))
    priorityClassName: str = field(24, "The PriorityClass.")
    priority: int32 | None = field(25, "The priority's value, from the class.")
    dnsConfig: PodDNSConfig = field(26, "Added to what dnsPolicy gives.")
    readinessGates: list[PodReadinessGate] = field(
        28, "Conditions that must be true, besides ready containers, for the pod to be ready.", list_type="atomic"
    )
    runtimeClassName: str | None = field(29)
    enableServiceLinks: bool | None = field(30, "Whether Services appear as environment variables.")
    preemptionPolicy: str | None = field(31, enum=PREEMPTION_POLICY)
    overhead: dict[str, Quantity] = field(32, "Resources the pod needs beyond its containers.")
    topologySpreadConstraints: list[TopologySpreadConstraint] = field(
        33, "How pods spread over zones, nodes and the like.", merge_key="topologyKey", list_type="map",
        list_keys=("topologyKey", "whenUnsatisfiable",)
    )
    setHostnameAsFQDN: bool | None = field(35)
    os: PodOS = field(36)
    hostUsers: bool | None = field(37)
    schedulingGates: list[PodSchedulingGate] = field(
        38, "The pod is not scheduled while there are any.", merge_key="name", list_type="map", list_keys=("name",)
    )
    resourceClaims: list[PodResourceClaim] = field(
        39, merge_key="name", patch_strategy="merge,retainKeys", list_type="map", list_keys=("name",)
    )
    resources: ResourceRequirements = field(40)


class PodResourceClaim(Model):
    name: str = field(1, required=True)
    resourceClaimName: str | None = field(3)
    resourceClaimTemplateName: str | None = field(4)


class PodResourceClaimStatus(Model):
    name: str = field(1, required=True)
    resourceClaimName: str | None = field(2)


class PodOS(Model):
    name: str = field(1, required=True)


class PodSchedulingGate(Model):
    name: str = field(1, required=True)


class TopologySpreadConstraint(Model):
    maxSkew: int32 = field(1, required=True)
    topologyKey: str = field(2, required=True)
    whenUnsatisfiable: str = field(3, required=True, enum=UNSATISFIABLE_CONSTRAINT_ACTION)
    labelSelector: LabelSelector = field(4)
    minDomains: int32 | None = field(5)
    nodeAffinityPolicy: str | None = field(6, enum=NODE_INCLUSION_POLICY)
    nodeTaintsPolicy: str | None = field(7, enum=NODE_INCLUSION_POLICY)
    matchLabelKeys: list[str] = field(8, list_type="atomic")


class HostAlias(Model):
    ip: str = field(1, required=True)
    hostnames: list[str] = field(2, list_type="atomic")


class PodSecurityContext(Model):
    seLinuxOptions: SELinuxOptions = field(1)
    windowsOptions: WindowsSecurityContextOptions = field(8)
    runAsUser: int64 | None = field(2)
    runAsGroup: int64 | None = field(6)
    runAsNonRoot: bool | None = field(3)
    supplementalGroups: list[int64] = field(4, list_type="atomic")
    supplementalGroupsPolicy: str | None = field(12, enum=SUPPLEMENTAL_GROUPS_POLICY)
    fsGroup: int64 | None = field(5)
    sysctls: list[Sysctl] = field(7, list_type="atomic")
    fsGroupChangePolicy: str | None = field(9, enum=POD_FS_GROUP_CHANGE_POLICY)
    seccompProfile: SeccompProfile = field(10)
    appArmorProfile: AppArmorProfile = field(11)
    seLinuxChangePolicy: str | None = field(13)


class SeccompProfile(Model):
    type: str = field(1, required=True, enum=SECCOMP_PROFILE_TYPE)
    localhostProfile: str | None = field(2)


class AppArmorProfile(Model):
    type: str = field(1, required=True, enum=APP_ARMOR_PROFILE_TYPE)
    localhostProfile: str | None = field(2)


class PodDNSConfig(Model):
    nameservers: list[str] = field(1, list_type="atomic")
    searches: list[str] = field(2, list_type="atomic")
    options: list[PodDNSConfigOption] = field(3, list_type="atomic")


class PodDNSConfigOption(Model):
    name: str = field(1)
    value: str | None = field(2)


class PodIP(Model):
    ip: str = field(1, required=True)


class HostIP(Model):
    ip: str = field(1, required=True)


class EphemeralContainerCommon(Model):
    name: str = field(1, required=True)
    image: str = field(2)
    command: list[str] = field(3, list_type="atomic")
    args: list[str] = field(4, list_type="atomic")
    workingDir: str = field(5)
    ports: list[ContainerPort] = field(
        6, merge_key="containerPort", list_type="map", list_keys=("containerPort", "protocol",)
    )
    envFrom: list[EnvFromSource] = field(19, list_type="atomic")
    env: list[EnvVar] = field(7, merge_key="name", list_type="map", list_keys=("name",))
    resources: ResourceRequirements = field(8)
    resizePolicy: list[ContainerResizePolicy] = field(23, list_type="atomic")
    restartPolicy: str | None = field(24)
    volumeMounts: list[VolumeMount] = field(9, merge_key="mountPath", list_type="map", list_keys=("mountPath",))
    volumeDevices: list[VolumeDevice] = field(21, merge_key="devicePath", list_type="map", list_keys=("devicePath",))
    livenessProbe: Probe = field(10)
    readinessProbe: Probe = field(11)
    startupProbe: Probe = field(22)
    lifecycle: Lifecycle = field(12)
    terminationMessagePath: str = field(13)
    terminationMessagePolicy: str = field(20, enum=TERMINATION_MESSAGE_POLICY)
    imagePullPolicy: str = field(14, enum=PULL_POLICY)
    securityContext: SecurityContext = field(15)
    stdin: bool = field(16)
    stdinOnce: bool = field(17)
    tty: bool = field(18)


class EphemeralContainer(Model):
    ephemeralContainerCommon: EphemeralContainerCommon = field(1, inline=True)
    targetContainerName: str = field(2)


class PodStatus(Model):
    """What is known of a pod; it can lag behind what is going on."""

    observedGeneration: int64 = field(17)
    phase: str = field(1, "Pending, Running, Succeeded, Failed or Unknown.", enum=POD_PHASE)
    conditions: list[PodCondition] = field(
        2, "PodScheduled, Initialized, ContainersReady, Ready …", merge_key="type", list_type="map", list_keys=("type",)
    )
    message: str = field(3, "Why the pod is in this state, for people.")
    reason: str = field(4, "Why the pod is in this state, in one word.")
    nominatedNodeName: str = field(11)
    hostIP: str = field(5, "The node's address.")
    hostIPs: list[HostIP] = field(16, merge_key="ip", list_type="atomic")
    podIP: str = field(6, "The pod's address.")
    podIPs: list[PodIP] = field(
        12, "The pod's addresses, at most one per family.", merge_key="ip", list_type="map", list_keys=("ip",)
    )
    startTime: Time = field(7, "When the kubelet took the pod on.")
    initContainerStatuses: list[ContainerStatus] = field(10, "The state of each init container.", list_type="atomic")
    containerStatuses: list[ContainerStatus] = field(8, "The state of each container.", list_type="atomic")
    qosClass: str = field(9, "Guaranteed, Burstable or BestEffort, from requests and limits.", enum=POD_QOS_CLASS)
    ephemeralContainerStatuses: list[ContainerStatus] = field(13, list_type="atomic")
    resize: str = field(14)
    resourceClaimStatuses: list[PodResourceClaimStatus] = field(
        15, merge_key="name", patch_strategy="merge,retainKeys", list_type="map", list_keys=("name",)
    )


class Pod(Model):
    """A group of containers that share one network address and are placed on a node together."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: PodSpec = field(2, "What the pod shall be.")
    status: PodStatus = field(3, "What is known of the pod.")


class PodTemplateSpec(Model):
    """What the pods made from a template look like."""

    metadata: ObjectMeta = field(1, "Labels and annotations of the pods.")
    spec: PodSpec = field(2, "What the pods shall be.")


class PodTemplate(Model):
    """A template for pods, kept as an object of its own."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    template: PodTemplateSpec = field(2)


class SecurityContext(Model):
    capabilities: Capabilities = field(1)
    privileged: bool | None = field(2)
    seLinuxOptions: SELinuxOptions = field(3)
    windowsOptions: WindowsSecurityContextOptions = field(10)
    runAsUser: int64 | None = field(4)
    runAsGroup: int64 | None = field(8)
    runAsNonRoot: bool | None = field(5)
    readOnlyRootFilesystem: bool | None = field(6)
    allowPrivilegeEscalation: bool | None = field(7)
    procMount: str | None = field(9, enum=PROC_MOUNT_TYPE)
    seccompProfile: SeccompProfile = field(11)
    appArmorProfile: AppArmorProfile = field(12)


class SELinuxOptions(Model):
    user: str = field(1)
    role: str = field(2)
    type: str = field(3)
    level: str = field(4)


class WindowsSecurityContextOptions(Model):
    gmsaCredentialSpecName: str | None = field(1)
    gmsaCredentialSpec: str | None = field(2)
    runAsUserName: str | None = field(3)
    hostProcess: bool | None = field(4)


class Sysctl(Model):
    name: str = field(1, required=True)
    value: str = field(2, required=True)
