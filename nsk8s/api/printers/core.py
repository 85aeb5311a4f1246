"""Tables of the core group but Pods. Pure. Upstream: pkg/printers/internalversion/printers.go."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsk8s.api.duration import age
from nsk8s.api.meta import Object
from nsk8s.api.printers.common import (
    NONE,
    age_of,
    first_three,
    joined,
    labels_text,
    name_of,
    printer,
    spec_of,
    status_of,
)


def _namespace(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), status_of(obj).get("phase", ""), age_of(obj, now)]


def _service_account(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), len(obj.get("secrets") or []), age_of(obj, now)]


def _config_map(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), age_of(obj, now)]


def _secret(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), obj.get("type", ""), len(obj.get("data") or {}), age_of(obj, now)]


def ingress_addresses(load_balancer: Object | None) -> list[str]:
    """The addresses or host names of a LoadBalancerStatus, each once, in order."""
    found = [i.get("ip") or i.get("hostname") or "" for i in (load_balancer or {}).get("ingress") or []]
    return list(dict.fromkeys(a for a in found if a))


def _external_ip(obj: Object) -> str:
    spec = spec_of(obj)
    external = spec.get("externalIPs") or []
    match spec.get("type", "ClusterIP"):
        case "ClusterIP" | "NodePort":
            return joined(external)
        case "LoadBalancer":
            return ",".join(ingress_addresses(status_of(obj).get("loadBalancer")) + external) or "<pending>"
        case "ExternalName":
            return str(spec.get("externalName", ""))
    return "<unknown>"


def _service_ports(spec: Object) -> str:
    def one(port: Object) -> str:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}"

    return joined(one(p) for p in spec.get("ports") or [])


def _service(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP") or NONE]
    return [
        name_of(obj),
        spec.get("type", "ClusterIP"),
        addresses[0],
        _external_ip(obj),
        _service_ports(spec),
        age_of(obj, now),
        labels_text(spec.get("selector")),
    ]


def _endpoints(obj: Object, now: datetime) -> list[Any]:
    pairs = []
    for subset in obj.get("subsets") or []:
        ports = subset.get("ports") or []
        for address in subset.get("addresses") or []:
            ip = str(address.get("ip", ""))
            shown = f"[{ip}]" if ":" in ip else ip
            pairs += [f"{shown}:{p.get('port')}" for p in ports] if ports else [ip]
    return [name_of(obj), first_three(pairs), age_of(obj, now)]


def _node_status(obj: Object) -> str:
    ready = [c for c in status_of(obj).get("conditions") or [] if c.get("type") == "Ready"]
    words = ["Ready" if c.get("status") == "True" else "NotReady" for c in ready] or ["Unknown"]
    if spec_of(obj).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_roles(obj: Object) -> str:
    roles = set()
    for label, value in (obj["metadata"].get("labels") or {}).items():
        if label.startswith("node-role.kubernetes.io/") and (role := label.partition("/")[2]):
            roles.add(role)
        elif label == "kubernetes.io/role" and value:
            roles.add(value)
    return joined(sorted(roles))


def _node(obj: Object, now: datetime) -> list[Any]:
    status = status_of(obj)
    info = status.get("nodeInfo") or {}

    def address(kind: str) -> str:
        return next((a["address"] for a in status.get("addresses") or [] if a.get("type") == kind), NONE)

    return [
        name_of(obj),
        _node_status(obj),
        _node_roles(obj),
        age_of(obj, now),
        info.get("kubeletVersion", ""),
        address("InternalIP"),
        address("ExternalIP"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _event(obj: Object, now: datetime) -> list[Any]:
    involved = obj.get("involvedObject") or obj.get("regarding") or {}
    series = obj.get("series") or {}
    first = age(obj.get("firstTimestamp") or obj.get("eventTime"), now)
    last = age(obj.get("lastTimestamp"), now) if obj.get("lastTimestamp") else first
    count = obj.get("count") or 1
    if series:
        last, count = age(series.get("lastObservedTime"), now), series.get("count", 1)
    target = str(involved.get("kind", "")).lower()
    if involved.get("name"):
        target += f"/{involved['name']}"
    source = obj.get("source") or {}
    origin = [source.get("component") or obj.get("reportingComponent") or "", source.get("host") or ""]
    return [
        last,
        obj.get("type", ""),
        obj.get("reason", ""),
        target,
        involved.get("fieldPath", ""),
        ", ".join(o for o in origin if o),
        str(obj.get("message", "")).strip(),
        first,
        count,
        name_of(obj),
    ]


def _access_modes(modes: list[str] | None) -> str:
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
    present = set(modes or [])
    return ",".join(text for mode, text in short.items() if mode in present)


def _persistent_volume(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    claim = spec.get("claimRef") or {}
    phase = "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", "")
    return [
        name_of(obj),
        (spec.get("capacity") or {}).get("storage", "0"),
        _access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        phase,
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        status.get("reason", ""),
        age_of(obj, now),
        spec.get("volumeMode") or "<unset>",
    ]


def _persistent_volume_claim(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    bound = bool(spec.get("volumeName"))
    return [
        name_of(obj),
        "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", ""),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "0") if bound else "",
        _access_modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        age_of(obj, now),
        spec.get("volumeMode") or "<unset>",
    ]


def _resource_quota(obj: Object, now: datetime) -> list[Any]:
    status = status_of(obj)
    used = status.get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for resource, hard in sorted((status.get("hard") or {}).items()):
        part = f"{resource}: {used.get(resource, '0')}/{hard}"
        (limits if resource.startswith("limits") else requests).append(part)
    return [name_of(obj), ", ".join(requests), ", ".join(limits), age_of(obj, now)]


def _limit_range(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), obj["metadata"].get("creationTimestamp", "")]


def _pod_template(obj: Object, now: datetime) -> list[Any]:
    template = obj.get("template") or {}
    containers = spec_of(template).get("containers") or []
    return [
        name_of(obj),
        ",".join(c.get("name", "") for c in containers),
        ",".join(c.get("image", "") for c in containers),
        labels_text((template.get("metadata") or {}).get("labels")),
    ]


NAMESPACE = printer("Name | Status | Age", _namespace)
SERVICE_ACCOUNT = printer("Name | Secrets | Age", _service_account)
CONFIG_MAP = printer("Name | Data | Age", _config_map)
SECRET = printer("Name | Type | Data | Age", _secret)
SERVICE = printer("Name | Type | Cluster-IP | External-IP | Port(s) | Age | *Selector", _service)
ENDPOINTS = printer("Name | Endpoints | Age", _endpoints)
NODE = printer(
    "Name | Status | Roles | Age | Version | *Internal-IP | *External-IP | *OS-Image | *Kernel-Version | *Container-Runtime",
    _node,
)
EVENT = printer(
    "Last Seen | Type | Reason | Object | *Subobject | *Source | Message | *First Seen | *Count:integer | *Name", _event
)
PERSISTENT_VOLUME = printer(
    "Name | Capacity | Access Modes | Reclaim Policy | Status | Claim | StorageClass | VolumeAttributesClass | Reason | Age"
    " | *VolumeMode",
    _persistent_volume,
)
PERSISTENT_VOLUME_CLAIM = printer(
    "Name | Status | Volume | Capacity | Access Modes | StorageClass | VolumeAttributesClass | Age | *VolumeMode",
    _persistent_volume_claim,
)
RESOURCE_QUOTA = printer("Name | Request | Limit | Age", _resource_quota)
LIMIT_RANGE = printer("Name | Created At", _limit_range)
POD_TEMPLATE = printer("Name | Containers | Images | Pod Labels", _pod_template)
