"""A Node, with its lease and its pods. Pure."""

from __future__ import annotations

from datetime import datetime

from nsk8s.api import meta
from nsk8s.api.duration import age
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.cli.describers.resources import ZERO, pod_total
from nsk8s.cli.describers.text import Text, annotation_lines, date, or_none, or_unset, pairs

SYSTEM_INFO = (
    ("Machine ID", "machineID"), ("System UUID", "systemUUID"), ("Boot ID", "bootID"), ("Kernel Version", "kernelVersion"),
    ("OS Image", "osImage"), ("Operating System", "operatingSystem"), ("Architecture", "architecture"),
    ("Container Runtime Version", "containerRuntimeVersion"), ("Kubelet Version", "kubeletVersion"),
    ("Kube-Proxy Version", "kubeProxyVersion"),
)  # fmt: skip
ROLE = "node-role.kubernetes.io/"


def node(out: Text, obj: Object, lease: Object | None, pods: list[Object], now: datetime) -> None:
    """Everything but the events; `pods` are those on it that have not ended."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    labels = meta.labels(obj)
    roles = {k.removeprefix(ROLE) for k in labels if k.startswith(ROLE) and k != ROLE}
    roles |= {labels["kubernetes.io/role"]} if labels.get("kubernetes.io/role") else set()
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Roles:", or_none(",".join(sorted(roles))))
    pairs(out, "Labels", labels)
    annotation_lines(out, meta.annotations(obj))
    out.line(0, "CreationTimestamp:", date(obj["metadata"].get("creationTimestamp")))
    taints = [
        t["key"] + (f"={t['value']}" if t.get("value") else "") + f":{t.get('effect', '')}" for t in spec.get("taints") or []
    ]
    for i, taint in enumerate(sorted(taints) or ["<none>"]):
        out.line(0, "Taints:" if i == 0 else "", taint)
    out.line(0, "Unschedulable:", "true" if spec.get("unschedulable") else "false")
    if lease is None:
        out.line(0, "Lease:", f'Failed to get lease: leases.coordination.k8s.io "{meta.name(obj)}" not found')
    else:
        held = lease.get("spec") or {}
        out.line(0, "Lease:")
        out.line(1, "HolderIdentity:", or_unset(held.get("holderIdentity")))
        for title, key in (("AcquireTime", "acquireTime"), ("RenewTime", "renewTime")):
            out.line(1, f"{title}:", date(held[key]) if held.get(key) else "<unset>")
    if status.get("conditions"):
        out.line(0, "Conditions:")
        out.line(1, "Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message")
        out.line(1, "----", "------", "-----------------", "------------------", "------", "-------")
        for c in status["conditions"]:
            out.line(
                1, f"{c['type']} ", f"{c['status']} ", f"{date(c.get('lastHeartbeatTime'))} ",
                f"{date(c.get('lastTransitionTime'))} ", f"{c.get('reason', '')} ", c.get("message", ""),
            )  # fmt: skip
    out.line(0, "Addresses:")
    for a in status.get("addresses") or []:
        out.line(1, f"{a['type']}:", a["address"])
    for key in ("capacity", "allocatable"):
        if status.get(key):
            out.line(0, f"{key.title()}:")
            for name in sorted(status[key]):
                out.line(1, f"{name}:", status[key][name])
    info = status.get("nodeInfo") or {}
    out.line(0, "System Info:")
    for title, key in SYSTEM_INFO:
        out.line(1, f"{title}:", info.get(key, ""))
    if spec.get("podCIDR"):
        out.line(0, "PodCIDR:", spec["podCIDR"])
    if spec.get("podCIDRs"):
        out.line(0, "PodCIDRs:", ",".join(spec["podCIDRs"]))
    if spec.get("providerID"):
        out.line(0, "ProviderID:", spec["providerID"])
    _pods(out, pods, status.get("allocatable") or status.get("capacity") or {}, now)


def _percent(part: Quantity, whole: Quantity, milli: bool = False) -> int:
    a, b = (part.milli, whole.milli) if milli else (part.ceil, whole.ceil)
    return int(a / b * 100) if b else 0


def _pods(out: Text, pods: list[Object], allocatable: dict[str, str], now: datetime) -> None:
    have = {k: Quantity.parse(v) for k, v in allocatable.items()}
    totals: dict[str, dict[str, Quantity]] = {"requests": {}, "limits": {}}
    out.line(0, "Non-terminated Pods:", f"({len(pods)} in total)")
    out.line(1, "Namespace", "Name", "", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age")
    out.line(1, "---------", "----", "", "------------", "----------", "---------------", "-------------", "---")
    for p in pods:
        sums = {key: pod_total(p, key) for key in totals}
        for key, total in totals.items():
            for name, value in sums[key].items():
                total[name] = total[name] + value if name in total else value
        cells = [_share(sums[key], name, have) for name in ("cpu", "memory") for key in ("requests", "limits")]
        out.line(1, meta.namespace(p), meta.name(p), "", *cells, age(p["metadata"].get("creationTimestamp"), now))
    out.line(0, "Allocated resources:")
    out.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)")
    out.line(1, "Resource", "Requests", "Limits")
    out.line(1, "--------", "--------", "------")
    standard = ["cpu", "memory", "ephemeral-storage"]
    for name in [*standard, *sorted(n for n in have if n.startswith("hugepages-"))]:
        out.line(1, name, _share(totals["requests"], name, have), _share(totals["limits"], name, have))
    for name in sorted(n for n in have if "/" in n):
        out.line(1, name, totals["requests"].get(name, ZERO), totals["limits"].get(name, ZERO))


def _share(values: dict[str, Quantity], name: str, have: dict[str, Quantity]) -> str:
    value = values.get(name, ZERO)
    return f"{value} ({_percent(value, have.get(name, ZERO), milli=name == 'cpu')}%)"
