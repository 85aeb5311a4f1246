"""What controllers ask about pods, and how pods are made from a template. Pure.

Upstream: pkg/api/v1/pod, pkg/controller/controller_utils.go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_terminal(pod: Object) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Not ended and not being deleted."""
    return not is_terminal(pod) and not meta.is_deleting(pod)


def is_ready(pod: Object) -> bool:
    return meta.is_condition_true(pod, "Ready")


def ready_since(pod: Object) -> datetime | None:
    """When the pod became ready; None if it is not."""
    condition = meta.find_condition(pod, "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    return _time(condition.get("lastTransitionTime"))


def seconds_to_available(pod: Object, min_ready_s: int, now: datetime) -> float | None:
    """0 if the pod is available, more if it will be when it stays ready, None if it is not ready."""
    if not is_ready(pod):
        return None
    if not min_ready_s:
        return 0.0
    since = ready_since(pod)
    return float(min_ready_s) if since is None else max(0.0, min_ready_s - (now - since).total_seconds())


def is_available(pod: Object, min_ready_s: int, now: datetime) -> bool:
    return seconds_to_available(pod, min_ready_s, now) == 0


def _time(text: str | None) -> datetime | None:
    try:
        return meta.parse_time(text) if text else None
    except ValueError:
        return None


def created_at(obj: Object) -> str:
    """creationTimestamp as text: sorts by age."""
    return obj["metadata"].get("creationTimestamp") or ""


def restarts(pod: Object) -> int:
    return max((int(s.get("restartCount") or 0) for s in (pod.get("status") or {}).get("containerStatuses") or []), default=0)


def _deletion_cost(pod: Object) -> int:
    try:
        return int(meta.annotations(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def deletion_order(pods: Iterable[Object], related: Iterable[Object], now: datetime) -> list[Object]:
    """`pods`, the one to be deleted first at the front. `related`: pods of all siblings, which count where nodes are crowded.

    Upstream: ActivePodsWithRanks.
    """
    crowd: Counter[str] = Counter(p["spec"].get("nodeName") or "" for p in related if is_active(p))

    def rank(pod: Object) -> tuple[object, ...]:
        since = ready_since(pod)
        return (
            bool(pod["spec"].get("nodeName")),
            _PHASES.get(phase(pod), 2),
            since is not None,
            _deletion_cost(pod),
            -crowd[pod["spec"].get("nodeName") or ""],
            (now - since).total_seconds() if since else 0.0,  # ready for longer: deleted later
            -restarts(pod),
        )

    newest_first = sorted(pods, key=created_at, reverse=True)
    return sorted(newest_first, key=rank)


def from_template(template: Mapping[str, object], owner: Object, *, name: str = "") -> Object:
    """A pod of `owner` made from a pod template; named by the server (generateName) unless `name` is given."""
    raw = template.get("metadata") or {}
    assert isinstance(raw, dict)
    metadata: Object = {
        "namespace": meta.namespace(owner),
        "labels": dict(raw.get("labels") or {}),
        "annotations": dict(raw.get("annotations") or {}),
        "ownerReferences": [meta.owner_reference(owner)],
    }
    if raw.get("finalizers"):
        metadata["finalizers"] = list(raw["finalizers"])
    if name:
        metadata["name"] = name
    else:
        metadata["generateName"] = f"{meta.name(owner)}-"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}}


def batches(count: int, first: int = 1) -> Sequence[int]:
    """Sizes of slow-start batches: 1, 2, 4 … so that one refusal costs one call, not `count`."""
    sizes, size = [], first
    while count > 0:
        sizes.append(min(size, count))
        count -= sizes[-1]
        size *= 2
    return sizes
