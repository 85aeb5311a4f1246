"""ReplicaSets and ReplicationControllers: so many pods like this one. Touches: the API (decide and new_status are pure).

Upstream: pkg/controller/replicaset, pkg/controller/replication.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.resources import PODS, REPLICASETS, REPLICATIONCONTROLLERS, Resource
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.expectations import Expectations
from nsk8s.controllers.podcontrol import PodControl, claim
from nsk8s.controllers.pods import deletion_order, from_template, is_active, is_ready, seconds_to_available
from nsk8s.errors import BadRequest

BURST = 500
"""Pods made or deleted in one go."""


@dataclass(frozen=True)
class Scale:
    """What to do: make `create` pods, or delete these."""

    create: int = 0
    delete: tuple[Object, ...] = ()


def decide(wanted: int, active: Sequence[Object], related: Sequence[Object], now: datetime) -> Scale:
    """How to get from the `active` pods to `wanted` ones. Pure."""
    missing = wanted - len(active)
    if missing >= 0:
        return Scale(create=min(missing, BURST))
    return Scale(delete=tuple(deletion_order(active, related, now)[: min(-missing, BURST)]))


def new_status(rs: Object, active: Sequence[Object], error: Exception | None, scale: Scale, now: datetime) -> Object:
    """The status that fits the pods. Pure."""
    old = rs.get("status") or {}
    min_ready = int(rs["spec"].get("minReadySeconds") or 0)
    labels = ((rs["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    counts = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(1 for p in active if labels.items() <= meta.labels(p).items()),
        "readyReplicas": sum(1 for p in active if is_ready(p)),
        "availableReplicas": sum(1 for p in active if seconds_to_available(p, min_ready, now) == 0),
    }
    status: Object = {"replicas": counts.pop("replicas"), **{k: v for k, v in counts.items() if v}}
    status["observedGeneration"] = rs["metadata"].get("generation", 0)
    conditions: list[Object] = list(old.get("conditions") or [])
    failure = next((c for c in conditions if c.get("type") == "ReplicaFailure"), None)
    if error is not None and failure is None:
        conditions.append({
            "type": "ReplicaFailure", "status": "True", "reason": "FailedDelete" if scale.delete else "FailedCreate",
            "message": getattr(error, "message", str(error)), "lastTransitionTime": meta.rfc3339(now),
        })  # fmt: skip
    elif error is None and failure is not None:
        conditions.remove(failure)
    if conditions:
        status["conditions"] = conditions
    return status


class ReplicaSetController:
    """The same code serves ReplicationControllers: only the resource and the form of the selector differ."""

    def __init__(self, ctx: Context, resource: Resource = REPLICASETS) -> None:
        name = "replicaset-controller" if resource == REPLICASETS else "replication-controller"
        self._ctx, self._resource = ctx, resource
        self._sets, self._pods = ctx.informer(resource), ctx.informer(PODS)
        self._expected = Expectations(asyncio.get_running_loop().time)
        self._control = PodControl(ctx.client, ctx.recorder(name))
        self._loop = Controller(name, self._reconcile)
        self._loop.watch(self._sets)
        self._loop.watch(self._pods, self._keys_of_pod)
        self._pods.add_handler(self._observe)
        self.run = self._loop.run

    def _owner_key(self, pod: Object) -> str | None:
        controller = meta.controller_of(pod)
        if controller is None or controller.get("kind") != self._resource.kind:
            return None
        return f"{meta.namespace(pod)}/{controller['name']}"

    def _keys_of_pod(self, pod: Object) -> list[str]:
        if meta.controller_of(pod) is not None:
            key = self._owner_key(pod)
            return [key] if key else []
        return [
            meta.key(rs) for rs in self._sets.by_index("namespace", meta.namespace(pod))
            if self._selector(rs).matches(meta.labels(pod))
        ]  # fmt: skip

    def _observe(self, old: Object | None, new: Object | None) -> None:
        if old is None and new is not None and (key := self._owner_key(new)):
            if not meta.is_deleting(new):
                self._expected.created(key)
        elif old is not None and (key := self._owner_key(old)) and (new is None or meta.is_deleting(new)):
            self._expected.deleted(key, meta.uid(old))

    def _selector(self, rs: Object) -> selectors.LabelSelector:
        try:
            if self._resource == REPLICATIONCONTROLLERS:
                wanted = rs["spec"].get("selector")
                return selectors.from_set(wanted) if wanted else selectors.NOTHING
            return selectors.from_label_selector(rs["spec"].get("selector"))
        except BadRequest:
            return selectors.NOTHING

    def _related(self, rs: Object) -> list[Object]:
        """The pods of all sets of the same Deployment."""
        controller = meta.controller_of(rs)
        siblings = self._sets.by_index("owner", controller["uid"]) if controller else [rs]
        return [pod for s in siblings for pod in self._pods.by_index("owner", meta.uid(s))]

    async def _reconcile(self, key: str) -> float | None:
        rs = self._sets.get(key)
        if rs is None:
            self._expected.forget(key)
            return None
        fresh = self._expected.satisfied(key)
        pods = await claim(self._ctx.client, self._resource, rs, PODS, self._pods, self._selector(rs))
        active = [p for p in pods if is_active(p)]
        error: Exception | None = None
        scale = Scale()
        if fresh and not meta.is_deleting(rs):
            wanted = rs["spec"].get("replicas")
            scale = decide(1 if wanted is None else int(wanted), active, self._related(rs), utcnow())
            error = await self._apply(key, rs, scale)
        await self._write_status(rs, new_status(rs, active, error, scale, utcnow()))
        if error is not None:
            raise error
        min_ready = int(rs["spec"].get("minReadySeconds") or 0)
        waits = [s for p in active if (s := seconds_to_available(p, min_ready, utcnow()))]
        return min(waits) + 0.1 if waits else None

    async def _apply(self, key: str, rs: Object, scale: Scale) -> Exception | None:
        if scale.create:
            self._expected.expect_creations(key, scale.create)
            pod = from_template(rs["spec"]["template"], rs)
            return await self._control.create(rs, [pod] * scale.create, lambda n: self._expected.created(key, n))
        if scale.delete:
            self._expected.expect_deletions(key, [meta.uid(p) for p in scale.delete])
            return await self._control.delete(rs, scale.delete, lambda uid: self._expected.deleted(key, uid))
        return None

    async def _write_status(self, rs: Object, status: Object) -> None:
        if status != rs.get("status"):
            changed = copy(rs)
            changed["status"] = status
            await self._ctx.client.update_status(self._resource, changed)


def replication_controller(ctx: Context) -> ReplicaSetController:
    return ReplicaSetController(ctx, REPLICATIONCONTROLLERS)
