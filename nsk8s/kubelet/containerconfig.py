"""Pod and container specs as the runtime wants them: PodSandboxConfig and ContainerConfig. Pure.

Upstream: kuberuntime_sandbox.go, kuberuntime_container.go, securitycontext.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.errors import Nsk8sError
from nsk8s.kubelet import sysctls
from nsk8s.kubelet.dns import DNSConfig
from nsk8s.kubelet.env import ConfigError, expand
from nsk8s.kubelet.podruntime import (
    CONTAINER_HASH,
    CONTAINER_NAME,
    GRACE_PERIOD,
    POD_LOGS,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    RESTART_COUNT,
    TERMINATION_PATH,
    TERMINATION_POLICY,
    container_hash,
)
from nsk8s.kubelet.status import qos_class

CPU_PERIOD_US = 100_000
MIN_QUOTA_US = 1_000
GUARANTEED_OOM_SCORE = -997
MIN_SHARES, MAX_SHARES = 2, 262_144


def log_directory(pod: Object) -> str:
    return f"{POD_LOGS}/{meta.namespace(pod)}_{meta.name(pod)}_{meta.uid(pod)}"


def _pod_labels(pod: Object) -> dict[str, str]:
    return {POD_NAME: meta.name(pod), POD_NAMESPACE: meta.namespace(pod), POD_UID: meta.uid(pod)}


def _grace(pod: Object) -> str:
    return str(pod["spec"].get("terminationGracePeriodSeconds", 30))


def sandbox_config(pod: Object, attempt: int, hostname: str, dns: DNSConfig) -> dict[str, Any]:
    """Raises Nsk8sError for what this runtime cannot do."""
    spec = pod["spec"]
    if spec.get("hostPID"):
        raise Nsk8sError("hostPID is not supported: the runtime always gives containers a pid namespace of their own")
    if spec.get("hostUsers") is False:
        raise Nsk8sError("hostUsers: false is not supported: there are no user namespaces")
    ports = [
        {
            "protocol": p.get("protocol") or "TCP",
            "containerPort": int(p["containerPort"]),
            "hostPort": int(p.get("hostPort") or 0),
            "hostIP": p.get("hostIP") or "",
        }
        for c in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
        for p in c.get("ports") or []
        if p.get("hostPort")
    ]
    return {
        "metadata": {"name": meta.name(pod), "uid": meta.uid(pod), "namespace": meta.namespace(pod), "attempt": attempt},
        "hostname": hostname,
        "logDirectory": log_directory(pod),
        "dnsConfig": dns.as_cri(),
        "portMappings": [] if spec.get("hostNetwork") else ports,
        "labels": {**meta.labels(pod), **_pod_labels(pod)},
        "annotations": {**meta.annotations(pod), GRACE_PERIOD: _grace(pod)},
        "linux": {
            "sysctls": sysctls.as_cri(pod),
            "resources": pod_resources(pod),
            "securityContext": {
                "namespaceOptions": {
                    "network": "NODE" if spec.get("hostNetwork") else "POD",
                    "pid": "POD" if spec.get("shareProcessNamespace") else "CONTAINER",
                    "ipc": "NODE" if spec.get("hostIPC") else "POD",
                }
            },
        },
    }


def shares(milli_cpu: int) -> int:
    """cpu.shares of a request. Upstream: MilliCPUToShares."""
    return max(MIN_SHARES, min(MAX_SHARES, milli_cpu * 1024 // 1000)) if milli_cpu else MIN_SHARES


def quota(milli_cpu: int) -> int:
    """cfs quota in µs a period; 0 without a limit. Upstream: MilliCPUToQuota."""
    return max(MIN_QUOTA_US, milli_cpu * CPU_PERIOD_US // 1000) if milli_cpu else 0


def linux_resources(requests: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, int]:
    cpu_limit = Quantity.parse(limits["cpu"]).milli if "cpu" in limits else 0
    cpu_request = Quantity.parse(requests["cpu"]).milli if "cpu" in requests else cpu_limit
    out = {"cpuPeriod": CPU_PERIOD_US, "cpuQuota": quota(cpu_limit), "cpuShares": shares(cpu_request)}
    memory = Quantity.parse(limits["memory"]).ceil if "memory" in limits else 0
    if memory:
        out["memoryLimitInBytes"] = memory
    return out


def pod_resources(pod: Object) -> dict[str, int]:
    """The pod's cgroup: the sum of requests; a limit only when every container has one. Upstream: ResourceConfigForPod."""
    cpu_request = cpu_limit = memory_limit = 0
    all_cpu = all_memory = True
    for container in pod["spec"].get("containers") or []:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        if "cpu" in limits:
            cpu_limit += Quantity.parse(limits["cpu"]).milli
        else:
            all_cpu = False
        if "memory" in limits:
            memory_limit += Quantity.parse(limits["memory"]).ceil
        else:
            all_memory = False
        wanted = requests.get("cpu") or limits.get("cpu")
        cpu_request += Quantity.parse(wanted).milli if wanted else 0
    out = {"cpuPeriod": CPU_PERIOD_US, "cpuQuota": quota(cpu_limit) if all_cpu else 0, "cpuShares": shares(cpu_request)}
    if all_memory and memory_limit:
        out["memoryLimitInBytes"] = memory_limit
    return out


def escalation_allowed(own: Mapping[str, Any]) -> bool:
    """Whether set-user-id programs may raise a container's privileges: only when asked for. Upstream allows it when nothing is
    said; a pod here is a process of this machine, so the default is the strict one (and upstream's wherever it is said)."""
    if own.get("allowPrivilegeEscalation") is not None:
        return bool(own["allowPrivilegeEscalation"])
    added = {str(c).upper().removeprefix("CAP_") for c in (own.get("capabilities") or {}).get("add") or []}
    return bool(own.get("privileged")) or not added.isdisjoint({"SYS_ADMIN", "ALL"})


def security_context(pod: Object, container: Object) -> dict[str, Any]:
    """The container's own settings over the pod's. Raises ConfigError when runAsNonRoot cannot be kept."""
    of_pod = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}

    def effective(key: str) -> Any:
        return own[key] if own.get(key) is not None else of_pod.get(key)

    user, group = effective("runAsUser"), effective("runAsGroup")
    if effective("runAsNonRoot"):
        where = f"(pod: \"{meta.name(pod)}_{meta.namespace(pod)}({meta.uid(pod)})\", container: {container['name']})"
        if user is None:
            raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
        if int(user) == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
    capabilities = own.get("capabilities") or {}
    supplemental = [int(g) for g in of_pod.get("supplementalGroups") or []]
    if of_pod.get("fsGroup") is not None:
        supplemental.append(int(of_pod["fsGroup"]))
    out: dict[str, Any] = {
        "capabilities": {
            "addCapabilities": list(capabilities.get("add") or []),
            "dropCapabilities": list(capabilities.get("drop") or []),
        },
        "privileged": bool(own.get("privileged")),
        "supplementalGroups": supplemental,
        "readonlyRootfs": bool(own.get("readOnlyRootFilesystem")),
        "noNewPrivs": not escalation_allowed(own),
    }
    if (effective("seccompProfile") or {}).get("type") == "Unconfined":
        out["seccomp"] = {"profileType": "Unconfined"}
    if user is not None:
        out["runAsUser"] = {"value": int(user)}
    if group is not None:
        out["runAsGroup"] = {"value": int(group)}
    return out


def oom_score_adj(pod: Object, container: Object, memory_capacity: int) -> int:
    """Who goes first when the machine is out of memory. Upstream: qos.GetContainerOOMScoreAdjust."""
    qos = qos_class(pod)
    if qos == "Guaranteed":
        return GUARANTEED_OOM_SCORE
    if qos == "BestEffort" or not memory_capacity:
        return 1000
    request = ((container.get("resources") or {}).get("requests") or {}).get("memory")
    score = 1000 - 1000 * (Quantity.parse(request).ceil if request else 0) // memory_capacity
    return max(1000 + GUARANTEED_OOM_SCORE, min(score, 999))


def container_config(
    pod: Object, container: Object, *, attempt: int, environment: Mapping[str, str], mounts: Sequence[dict[str, Any]],
    termination_file: str, memory_capacity: int = 0, target_id: str = "",
) -> dict[str, Any]:  # fmt: skip
    """`target_id`: the container whose processes an ephemeral one wants to see."""
    resources = container.get("resources") or {}
    name = container["name"]
    security = security_context(pod, container)
    if target_id:
        security["namespaceOptions"] = {"pid": "TARGET", "targetId": target_id}
    return {
        "metadata": {"name": name, "attempt": attempt},
        "image": {"image": container.get("image", "")},
        "command": [expand(c, environment) for c in container.get("command") or []],
        "args": [expand(a, environment) for a in container.get("args") or []],
        "workingDir": container.get("workingDir") or "",
        "envs": [{"key": k, "value": v} for k, v in environment.items()],
        "mounts": list(mounts),
        "labels": {**_pod_labels(pod), CONTAINER_NAME: name},
        "annotations": {
            CONTAINER_HASH: container_hash(container),
            RESTART_COUNT: str(attempt),
            TERMINATION_PATH: termination_file,
            TERMINATION_POLICY: container.get("terminationMessagePolicy") or "File",
            GRACE_PERIOD: _grace(pod),
        },
        "logPath": f"{name}/{attempt}.log",
        "stdin": bool(container.get("stdin")),
        "stdinOnce": bool(container.get("stdinOnce")),
        "tty": bool(container.get("tty")),
        "linux": {
            "resources": {
                **linux_resources(resources.get("requests") or {}, resources.get("limits") or {}),
                "oomScoreAdj": oom_score_adj(pod, container, memory_capacity),
            },
            "securityContext": security,
        },
    }


def unsupported(pod: Object) -> list[str]:
    """What the pod asks for and will not get, in words: said in a Warning event, never passed over in silence."""
    said: list[str] = []
    spec = pod["spec"]
    pod_security = spec.get("securityContext") or {}
    for where, security in [("pod", pod_security)] + [
        (f"container {c['name']}", c.get("securityContext") or {})
        for c in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    ]:
        for key in ("seLinuxOptions", "windowsOptions"):
            if security.get(key):
                said.append(f"{where}: securityContext.{key}")
        for key in ("seccompProfile", "appArmorProfile"):
            kind = (security.get(key) or {}).get("type")
            if kind == "Localhost":  # RuntimeDefault is what there is, and no seccomp filter can be had as well
                said.append(f"{where}: securityContext.{key} {kind}")
        if security.get("procMount") not in (None, "Default"):
            said.append(f"{where}: securityContext.procMount {security['procMount']}")
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
            if (container.get(kind) or {}).get("grpc"):
                said.append(f"container {container['name']}: {kind}.grpc")
        if container.get("volumeDevices"):
            said.append(f"container {container['name']}: volumeDevices")
    if spec.get("runtimeClassName"):
        said.append(f"runtimeClassName {spec['runtimeClassName']}")
    if spec.get("resourceClaims"):
        said.append("resourceClaims")
    return said
