"""The Node object a kubelet registers and the status it keeps true. Pure.

Upstream: kubelet/nodestatus/setters.go, kubelet_node_status.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.api.version import KUBERNETES_VERSION, NSK8S_VERSION
from nsk8s.kubelet.config import Config
from nsk8s.kubelet.machine import Machine

OWNED = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
KUBELET_VERSION = f"{KUBERNETES_VERSION}+nsk8s"
RUNTIME_VERSION = f"nsk8s://{NSK8S_VERSION}"


def capacity(config: Config, machine: Machine) -> dict[str, str]:
    return {
        "cpu": str(machine.cpus),
        "ephemeral-storage": f"{machine.disk_bytes // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "memory": f"{machine.memory_bytes // 1024}Ki",
        "pods": str(config.max_pods),
    }


def allocatable(config: Config, machine: Machine) -> dict[str, str]:
    """Capacity less what was reserved."""
    out = capacity(config, machine)
    for reserved in (config.system_reserved, config.kube_reserved):
        for name, amount in reserved.items():
            if name in out:
                left = Quantity.parse(out[name]) - Quantity.parse(amount)
                out[name] = str(left) if left.value > 0 else "0"
    return out


def labels(config: Config, machine: Machine) -> dict[str, str]:
    """kubernetes.io/hostname is the node's name here: it is its host name too."""
    return {
        "kubernetes.io/arch": machine.architecture,
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        **config.node_labels,
    }


def ready_condition(runtime: Mapping[str, Object] | None, error: str = "") -> Object:
    """The Ready condition from the runtime's Status conditions by type (None: it could not be asked, `error` says why)."""
    problems = []
    if runtime is None:
        problems.append(f"container runtime is down: {error}" if error else "container runtime is down")
    else:
        for kind, text in (
            ("RuntimeReady", "container runtime not ready"), ("NetworkReady", "container runtime network not ready")
        ):  # fmt: skip
            condition = runtime.get(kind)
            if condition is None or condition.get("status") not in (True, "True"):
                reason, message = (condition or {}).get("reason", ""), (condition or {}).get("message", "")
                problems.append(f"{text}: {kind}=false reason:{reason} message:{message}")
    if problems:
        text = problems[0] if len(problems) == 1 else "[" + ", ".join(problems) + "]"
        return {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": text}
    return {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}


def pressure_conditions(memory_available: int) -> list[Object]:
    """Memory pressure below upstream's evictionHard default of 100Mi; nothing is evicted for it (pods share the machine)."""
    short = 0 < memory_available < 100 << 20
    return [
        {"type": "MemoryPressure", "status": "True", "reason": "KubeletHasInsufficientMemory",
         "message": "kubelet has insufficient memory available"} if short else
        {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory",
         "message": "kubelet has sufficient memory available"},
        {"type": "DiskPressure", "status": "False", "reason": "KubeletHasNoDiskPressure",
         "message": "kubelet has no disk pressure"},
        {"type": "PIDPressure", "status": "False", "reason": "KubeletHasSufficientPID",
         "message": "kubelet has sufficient PID available"},
    ]  # fmt: skip


EVENT_OF = {
    ("MemoryPressure", "False"): "NodeHasSufficientMemory",
    ("MemoryPressure", "True"): "NodeHasInsufficientMemory",
    ("DiskPressure", "False"): "NodeHasNoDiskPressure",
    ("DiskPressure", "True"): "NodeHasDiskPressure",
    ("PIDPressure", "False"): "NodeHasSufficientPID",
    ("PIDPressure", "True"): "NodeHasInsufficientPID",
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
}


def status(config: Config, machine: Machine, conditions: list[Object], old: Object, now: datetime) -> Object:
    """The Node's status; transition times come from `old`, heartbeat times are `now`. Others' conditions are left out."""
    before = {c["type"]: c for c in (old.get("conditions") or [])}
    stamped = []
    for condition in conditions:
        was = before.get(condition["type"])
        since = was["lastTransitionTime"] if was is not None and was.get("status") == condition["status"] else meta.rfc3339(now)
        stamped.append({**condition, "lastHeartbeatTime": meta.rfc3339(now), "lastTransitionTime": since})
    return {
        "addresses": [*({"type": "InternalIP", "address": ip} for ip in config.node_ips),
                      {"type": "Hostname", "address": config.node_name}],
        "allocatable": allocatable(config, machine),
        "capacity": capacity(config, machine),
        "conditions": stamped,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": {
            "architecture": machine.architecture,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": RUNTIME_VERSION,
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": KUBELET_VERSION,
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.system_uuid,
        },
    }  # fmt: skip


def initial_node(config: Config, machine: Machine, conditions: list[Object], now: datetime) -> Object:
    """What is registered. The not-ready taint is the node lifecycle controller's business, as upstream."""
    spec: Object = {}
    if config.register_taints:
        spec["taints"] = list(config.register_taints)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": config.node_name,
            "labels": labels(config, machine),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": spec,
        "status": status(config, machine, conditions, {}, now),
    }


def reconcile_labels(existing: Object, config: Config, machine: Machine) -> dict[str, str]:
    """The labels an already existing Node lacks or has otherwise. Upstream: updateDefaultLabels (only its own keys)."""
    have = meta.labels(existing)
    return {k: v for k, v in labels(config, machine).items() if have.get(k) != v}


def changed(old: Object, new: Object) -> bool:
    """Anything but the heartbeat times differs."""
    return _without_heartbeat(old) != _without_heartbeat(new)


def conditions_differ(node_status: Object, wanted: Sequence[Object]) -> bool:
    """Whether a status says something else than these conditions."""
    have = {c["type"]: c.get("status") for c in node_status.get("conditions") or []}
    return any(have.get(c["type"]) != c["status"] for c in wanted)


def _without_heartbeat(node_status: Object) -> Object:
    keys = ("addresses", "allocatable", "capacity", "daemonEndpoints", "nodeInfo")
    conditions = {
        c["type"]: (c.get("status"), c.get("reason"), c.get("message"))
        for c in node_status.get("conditions") or [] if c["type"] in OWNED
    }  # fmt: skip
    return {"conditions": conditions, **{k: node_status.get(k) for k in keys}}


def lease(name: str, node_uid: str, duration_s: int, now: datetime) -> Object:
    metadata: Object = {"name": name, "namespace": "kube-node-lease"}
    if node_uid:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid}]
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {"holderIdentity": name, "leaseDurationSeconds": duration_s, "renewTime": meta.rfc3339_micro(now)},
    }


def renew_interval_s(duration_s: int) -> float:
    """A quarter of the lease: 10 s of 40."""
    return duration_s * 0.25


def report_due(last: datetime | None, now: datetime, every_s: float) -> bool:
    return last is None or now - last >= timedelta(seconds=every_s)
