"""Taints that follow a node's condition, and how long a pod may stay on a tainted node. Pure.

Upstream: pkg/controller/nodelifecycle, pkg/controller/tainteviction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
_BY_CONDITION = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}
_MANAGED = frozenset((NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_BY_CONDITION.values()))


def ready_status(node: Object) -> str:
    """The Ready condition: True, False or Unknown (also when there is none)."""
    return str((meta.find_condition(node, "Ready") or {}).get("status") or "Unknown")


def no_schedule(node: Object) -> set[str]:
    """The keys of the NoSchedule taints a node's conditions ask for."""
    keys = {key for kind, key in _BY_CONDITION.items() if meta.is_condition_true(node, kind)}
    if (ready := meta.find_condition(node, "Ready")) is not None:
        keys |= {"False": {NOT_READY}, "Unknown": {UNREACHABLE}}.get(str(ready.get("status")), set())
    if (node.get("spec") or {}).get("unschedulable"):
        keys.add(UNSCHEDULABLE)
    return keys


def no_execute(node: Object) -> str:
    """The NoExecute taint a node's readiness asks for; empty if it is ready or has never said."""
    ready = meta.find_condition(node, "Ready")
    return {"False": NOT_READY, "Unknown": UNREACHABLE}.get(str(ready.get("status")), "") if ready is not None else ""


def wanted_taints(node: Object, *, evict: bool | None, now: datetime) -> list[Object]:
    """spec.taints as they should be. `evict`: put the NoExecute taint on (True), leave it be (None), take it off (False)."""
    have: list[Object] = (node.get("spec") or {}).get("taints") or []
    keys = no_schedule(node)
    execute = no_execute(node)
    out: list[Object] = []
    for taint in have:
        key, effect = taint.get("key", ""), taint.get("effect")
        if effect == "NoSchedule" and key in _MANAGED:
            if key not in keys:
                continue
            keys.discard(key)
        elif effect == "NoExecute" and key in (NOT_READY, UNREACHABLE):
            if evict is False or not execute:
                continue
            if key != execute:
                taint = {"key": execute, "effect": "NoExecute", "timeAdded": meta.rfc3339(now)}
            evict = None
        out.append(taint)
    stamp = meta.rfc3339(now)
    out += [{"key": key, "effect": "NoSchedule", "timeAdded": stamp} for key in sorted(keys)]
    if evict and execute:
        out.append({"key": execute, "effect": "NoExecute", "timeAdded": stamp})
    return out


def has_no_execute(node: Object) -> bool:
    """Whether the node carries the NoExecute taint its readiness asks for."""
    execute = no_execute(node)
    return any(t.get("key") == execute and t.get("effect") == "NoExecute" for t in (node.get("spec") or {}).get("taints") or [])


def covers(toleration: Object, taint: Object) -> bool:
    """Whether a toleration matches a taint."""
    effect, key = toleration.get("effect"), toleration.get("key")
    if (effect and effect != taint.get("effect")) or (key and key != taint.get("key")):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def tolerated_s(tolerations: Sequence[Object], taints: Iterable[Object]) -> float | None:
    """How long these NoExecute taints are tolerated together, in seconds; None: for ever, 0: not at all."""
    shortest: float | None = None
    for taint in taints:
        covering = [t for t in tolerations if covers(t, taint)]
        if not covering:
            return 0.0
        for toleration in covering:
            seconds = toleration.get("tolerationSeconds")
            if seconds is not None:
                shortest = max(0.0, float(seconds)) if shortest is None else min(shortest, max(0.0, float(seconds)))
    return shortest


def evict_at(pod: Object, node: Object, first_seen: datetime) -> datetime | None:
    """When a pod must leave its node because of NoExecute taints; None if it may stay.

    A taint counts from its timeAdded; one without (a user's) from `first_seen`.
    """
    taints = [t for t in (node.get("spec") or {}).get("taints") or [] if t.get("effect") == "NoExecute"]
    if not taints:
        return None
    seconds = tolerated_s(pod["spec"].get("tolerations") or [], taints)
    if seconds is None:
        return None
    starts = [_added(t) or first_seen for t in taints]
    return datetime.fromtimestamp(min(starts).timestamp() + seconds, first_seen.tzinfo)


def _added(taint: Object) -> datetime | None:
    try:
        return meta.parse_time(taint["timeAdded"]) if taint.get("timeAdded") else None
    except ValueError:
        return None


def zone_of(node: Object) -> str:
    labels = meta.labels(node)
    return f"{labels.get('topology.kubernetes.io/region', '')}:{labels.get('topology.kubernetes.io/zone', '')}"


def zone_state(ready: int, not_ready: int, threshold: float) -> str:
    """Normal, PartialDisruption or FullDisruption (upstream: ComputeZoneState)."""
    if not ready and not_ready:
        return "FullDisruption"
    if not_ready > 2 and not_ready / (not_ready + ready) >= threshold:
        return "PartialDisruption"
    return "Normal"
