"""PodDisruptionBudgets: how many pods may be evicted now. Touches: the API (expected and new_status are pure).

Upstream: pkg/controller/disruption. The API server's eviction subtracts from `disruptionsAllowed` and notes the pod in
`disruptedPods`; here that is counted anew whenever a pod or its owner changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.api.quantity import int_or_percent
from nsk8s.client.controller import Controller
from nsk8s.client.resources import DEPLOYMENTS, PODDISRUPTIONBUDGETS, PODS, REPLICASETS, REPLICATIONCONTROLLERS, STATEFULSETS
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.pods import is_ready
from nsk8s.errors import BadRequest, Conflict, NotFound

DELETION_TIMEOUT_S = 120.0
"""A pod that was to be evicted and lives on so long after counts as healthy again. Upstream: DeletionTimeout."""


ScaleOf = Callable[[Object], tuple[str, int] | None]


class Unmanaged(Exception):
    """A budget that needs the scale of its pods' owners, and a pod without such an owner."""


def wanted_healthy(budget: Object, pods: Sequence[Object], scale_of: ScaleOf) -> tuple[int, int]:
    """(expected pods, pods that must stay healthy). `scale_of(pod)`: (uid, replicas) of its owner. Raises Unmanaged. Pure."""
    spec = budget.get("spec") or {}
    low, high = spec.get("minAvailable"), spec.get("maxUnavailable")
    if high is None and isinstance(low, int):
        return len(pods), low
    scales: dict[str, int] = {}
    for pod in pods:
        found = scale_of(pod)
        if found is None:
            raise Unmanaged(meta.name(pod))
        scales[found[0]] = found[1]
    expected = sum(scales.values())
    if high is not None:
        return expected, max(0, expected - int_or_percent(high, expected, round_up=True))
    return expected, int_or_percent(low if low is not None else 1, expected, round_up=True)


def still_disrupted(budget: Object, pods: Sequence[Object], now: datetime) -> tuple[dict[str, str], float | None]:
    """The evictions on their way that still count, and the seconds until the first of them does no longer. Pure."""
    alive = {meta.name(p) for p in pods if not meta.is_deleting(p)}
    kept: dict[str, str] = {}
    again: float | None = None
    for name, since in ((budget.get("status") or {}).get("disruptedPods") or {}).items():
        left = DELETION_TIMEOUT_S - (now - meta.parse_time(since)).total_seconds()
        if name in alive and left > 0:
            kept[name] = since
            again = left if again is None else min(again, left)
    return kept, again


def new_status(
    budget: Object, pods: Sequence[Object], expected: int, desired: int, disrupted: dict[str, str], now: datetime
) -> Object:
    """The status that fits the pods. Pure."""
    healthy = sum(1 for p in pods if is_ready(p) and not meta.is_deleting(p) and meta.name(p) not in disrupted)
    allowed = max(0, healthy - desired) if expected > 0 else 0
    status: Object = {
        "observedGeneration": budget["metadata"].get("generation", 0), "disruptionsAllowed": allowed,
        "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected,
    }  # fmt: skip
    if disrupted:
        status["disruptedPods"] = disrupted
    condition = {
        "type": "DisruptionAllowed", "status": "True" if allowed else "False", "message": "",
        "reason": "SufficientPods" if allowed else "InsufficientPods", "observedGeneration": status["observedGeneration"],
    }  # fmt: skip
    return {**status, "conditions": meta.set_condition((budget.get("status") or {}).get("conditions") or [], condition, now)}


class DisruptionController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._recorder = ctx.client, ctx.recorder("controllermanager")
        self._budgets, self._pods = ctx.informer(PODDISRUPTIONBUDGETS), ctx.informer(PODS)
        self._owners = {
            r.kind: ctx.informer(r) for r in (REPLICASETS, DEPLOYMENTS, STATEFULSETS, REPLICATIONCONTROLLERS)
        }
        self._loop = Controller("disruption", self._reconcile, workers=2)
        self._loop.watch(self._budgets)
        self._loop.watch(self._pods, self._of_pod)
        for informer in self._owners.values():
            self._loop.watch(informer, self._of_namespace)
        self.run = self._loop.run

    def _of_namespace(self, obj: Object) -> list[str]:
        return [meta.key(b) for b in self._budgets.by_index("namespace", meta.namespace(obj))]

    def _of_pod(self, pod: Object) -> list[str]:
        budgets = self._budgets.by_index("namespace", meta.namespace(pod))
        return [meta.key(b) for b in budgets if _selects(b, pod)]

    def _scale_of(self, pod: Object) -> tuple[str, int] | None:
        """Of the Deployment, StatefulSet, ReplicaSet or ReplicationController that the pod belongs to in the end."""
        reference, found = meta.controller_of(pod), None
        while reference is not None:
            informer = self._owners.get(reference["kind"])
            owner = informer.get(f"{meta.namespace(pod)}/{reference['name']}") if informer else None
            if owner is None or meta.uid(owner) != reference["uid"]:
                break
            replicas = owner["spec"].get("replicas")
            found = meta.uid(owner), 1 if replicas is None else int(replicas)
            reference = meta.controller_of(owner)
        return found

    async def _reconcile(self, key: str) -> float | None:
        budget = self._budgets.get(key)
        if budget is None or meta.is_deleting(budget):
            return None
        now = utcnow()
        pods = [p for p in self._pods.by_index("namespace", meta.namespace(budget)) if _selects(budget, p)]
        if not pods:
            self._recorder.event(budget, "Normal", "NoPods", "No matching pods found")
        disrupted, again = still_disrupted(budget, pods, now)
        try:
            expected, desired = wanted_healthy(budget, pods, self._scale_of)
            status = new_status(budget, pods, expected, desired, disrupted, now)
        except Unmanaged as e:
            message = f'found no controller ref for pod "{e}"'
            what = f"Failed to calculate the number of expected pods: {message}"
            self._recorder.event(budget, "Warning", "CalculateExpectedPodCountFailed", what)
            status = _failed(budget, message, now)
        if status == budget.get("status"):
            return again
        try:
            await self._client.update_status(PODDISRUPTIONBUDGETS, {**copy(budget), "status": status})
        except NotFound:
            return None
        except Conflict:
            return 0.05  # an eviction wrote it meanwhile
        return again


def _failed(budget: Object, message: str, now: datetime) -> Object:
    """Fail safe: nothing may be evicted while the count is not known."""
    old = budget.get("status") or {}
    condition = {
        "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": message,
        "observedGeneration": budget["metadata"].get("generation", 0),
    }  # fmt: skip
    return {
        "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0, **old, "disruptionsAllowed": 0,
        "observedGeneration": budget["metadata"].get("generation", 0),
        "conditions": meta.set_condition(old.get("conditions") or [], condition, now),
    }  # fmt: skip


def _selects(budget: Object, pod: Object) -> bool:
    try:
        return selectors.from_label_selector((budget.get("spec") or {}).get("selector")).matches(meta.labels(pod))
    except BadRequest:
        return False
