"""Models of core_pod. Pure."""

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
    name: str = field(1)
    hostPort: int32 = field(2)
    containerPort: int32 = field(3, required=True)
    protocol: str = field(4, default="TCP", enum=PROTOCOL)
    hostIP: str = field(5)


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
    name: str = field(1, required=True)
    value: str = field(2)
    valueFrom: EnvVarSource = field(3)


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
    path: str = field(1)
    port: IntOrString = field(2, required=True)
    host: str = field(3)
    scheme: str = field(4, enum=URI_SCHEME)
    httpHeaders: list[HTTPHeader] = field(5, list_type="atomic")


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
    probeHandler: ProbeHandler = field(1, inline=True)
    initialDelaySeconds: int32 = field(2)
    timeoutSeconds: int32 = field(3)
    periodSeconds: int32 = field(4)
    successThreshold: int32 = field(5)
    failureThreshold: int32 = field(6)
    terminationGracePeriodSeconds: int64 | None = field(7)


class ContainerResizePolicy(Model):
    resourceName: str = field(1, required=True)
    restartPolicy: str = field(2, required=True)


class Capabilities(Model):
    add: list[str] = field(1, list_type="atomic")
    drop: list[str] = field(2, list_type="atomic")


class Container(Model):
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
    key: str = field(1)
    operator: str = field(2, enum=TOLERATION_OPERATOR)
    value: str = field(3)
    effect: str = field(4, enum=TAINT_EFFECT)
    tolerationSeconds: int64 | None = field(5)


class PodReadinessGate(Model):
    conditionType: str = field(1, required=True)


class PodSpec(Model):
    volumes: list[Volume] = field(
        1, merge_key="name", patch_strategy="merge,retainKeys", list_type="map", list_keys=("name",)
    )
    initContainers: list[Container] = field(20, merge_key="name", list_type="map", list_keys=("name",))
    containers: list[Container] = field(2, required=True, merge_key="name", list_type="map", list_keys=("name",))
    ephemeralContainers: list[EphemeralContainer] = field(34, merge_key="name", list_type="map", list_keys=("name",))
    restartPolicy: str = field(3, enum=RESTART_POLICY)
    terminationGracePeriodSeconds: int64 | None = field(4)
    activeDeadlineSeconds: int64 | None = field(5)
    dnsPolicy: str = field(6, enum=DNS_POLICY)
    nodeSelector: dict[str, str] = field(7, list_type="atomic")
    serviceAccountName: str = field(8)
    serviceAccount: str = field(9)
    automountServiceAccountToken: bool | None = field(21)
    nodeName: str = field(10)
    hostNetwork: bool = field(11)
    hostPID: bool = field(12)
    hostIPC: bool = field(13)
    shareProcessNamespace: bool | None = field(27)
    securityContext: PodSecurityContext = field(14)
    imagePullSecrets: list[LocalObjectReference] = field(15, merge_key="name", list_type="map", list_keys=("name",))
    hostname: str = field(16)
    subdomain: str = field(17)
    affinity: Affinity = field(18)
    schedulerName: str = field(19)
    tolerations: list[Toleration] = field(22, list_type="atomic")
    hostAliases: list[HostAlias] = field(23, merge_key="ip", list_type="map", list_keys=("ip",))
    priorityClassName: str = field(24)
    priority: int32 | None = field(25)
    dnsConfig: PodDNSConfig = field(26)
    readinessGates: list[PodReadinessGate] = field(28, list_type="atomic")
    runtimeClassName: str | None = field(29)
    enableServiceLinks: bool | None = field(30)
    preemptionPolicy: str | None = field(31, enum=PREEMPTION_POLICY)
    overhead: dict[str, Quantity] = field(32)
    topologySpreadConstraints: list[TopologySpreadConstraint] = field(
        33, merge_key="topologyKey", list_type="map", list_keys=("topologyKey", "whenUnsatisfiable",)
    )
    setHostnameAsFQDN: bool | None = field(35)
    os: PodOS = field(36)
    hostUsers: bool | None = field(37)
    schedulingGates: list[PodSchedulingGate] = field(38, merge_key="name", list_type="map", list_keys=("name",))
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
    observedGeneration: int64 = field(17)
    phase: str = field(1, enum=POD_PHASE)
    conditions: list[PodCondition] = field(2, merge_key="type", list_type="map", list_keys=("type",))
    message: str = field(3)
    reason: str = field(4)
    nominatedNodeName: str = field(11)
    hostIP: str = field(5)
    hostIPs: list[HostIP] = field(16, merge_key="ip", list_type="atomic")
    podIP: str = field(6)
    podIPs: list[PodIP] = field(12, merge_key="ip", list_type="map", list_keys=("ip",))
    startTime: Time = field(7)
    initContainerStatuses: list[ContainerStatus] = field(10, list_type="atomic")
    containerStatuses: list[ContainerStatus] = field(8, list_type="atomic")
    qosClass: str = field(9, enum=POD_QOS_CLASS)
    ephemeralContainerStatuses: list[ContainerStatus] = field(13, list_type="atomic")
    resize: str = field(14)
    resourceClaimStatuses: list[PodResourceClaimStatus] = field(
        15, merge_key="name", patch_strategy="merge,retainKeys", list_type="map", list_keys=("name",)
    )


class Pod(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: PodSpec = field(2)
    status: PodStatus = field(3)


class PodTemplateSpec(Model):
    metadata: ObjectMeta = field(1)
    spec: PodSpec = field(2)


class PodTemplate(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
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
