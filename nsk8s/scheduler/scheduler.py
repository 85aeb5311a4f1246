"""The scheduler's shell: informers fill cache and queue, one loop decides, many binds are in flight. Touches: the API.

Upstream: pkg/scheduler (schedule_one.go, eventhandlers.go).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.client.informer import Informer, wait_synced
from nsk8s.client.resources import NAMESPACES, NODES, PODS
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import Conflict, NotFound, StatusError
from nsk8s.scheduler import preemption
from nsk8s.scheduler.cache import Cache
from nsk8s.scheduler.config import Profile
from nsk8s.scheduler.framework import PodInfo, Snapshot, Unschedulable, pick_node
from nsk8s.scheduler.queue import SchedulingQueue, Waiting

log = logging.getLogger("scheduler")

BINDS_IN_FLIGHT = 8
"""Enough to keep one API server busy; every one more costs a TLS connection."""
SAY_AGAIN_S = 10.0
"""An unchanged FailedScheduling message is counted up at most so often."""
YIELD_EVERY = 8
"""Decisions in a row before the event loop gets a turn: binds must leave while others are decided."""


def matters(old: Object | None, new: Object) -> bool:
    """Whether a node's change can make a pod schedulable: heartbeats do not. Pure."""
    if old is None:
        return True
    old_status, new_status = old.get("status") or {}, new.get("status") or {}
    return (
        old.get("spec") != new.get("spec")
        or meta.labels(old) != meta.labels(new)
        or old_status.get("allocatable") != new_status.get("allocatable")
    )


def is_terminal(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


class Scheduler:
    def __init__(self, client: Client, recorder: EventRecorder, profiles: Mapping[str, Profile]) -> None:
        self._client = client
        self._recorder = recorder
        self._profiles = profiles
        self._cache = Cache()
        self._queue = SchedulingQueue(asyncio.get_running_loop().time)
        self._room = asyncio.Semaphore(BINDS_IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pods, self._nodes = Informer(client, PODS), Informer(client, NODES)
        self._namespaces = Informer(client, NAMESPACES)
        self._pods.add_handler(self._on_pod)
        self._nodes.add_handler(self._on_node)
        self._namespaces.add_handler(self._on_namespace)

    async def run(self) -> None:
        """Schedule until cancelled."""
        informers = (self._pods, self._nodes, self._namespaces)
        running = [asyncio.ensure_future(i.run()) for i in informers]
        try:
            await wait_synced(*informers)
            log.info("scheduling as %s", ", ".join(self._profiles))
            decisions = 0
            while True:
                waiting = await self._queue.pop()
                await self._room.acquire()
                self._room.release()
                if self._queue.get(waiting.pod.uid) is waiting:
                    self._schedule(waiting)
                decisions += 1
                if decisions % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        finally:
            for task in (*running, *self._tasks):
                task.cancel()
            await asyncio.gather(*running, *self._tasks, return_exceptions=True)

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._cache.remove_node(meta.name(old))
        else:
            if old is None or matters(old, new):
                self._cache.set_node(new)
                self._queue.wake()

    def _on_namespace(self, old: Object | None, new: Object | None) -> None:
        either = new or old
        assert either is not None
        self._cache.set_namespace(meta.name(either), meta.labels(new) if new else None)
        if new is not None and old is not None and meta.labels(old) != meta.labels(new):
            self._queue.wake(PodInfo.has_pod_affinity)

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None
        if old is not None and new is not None and meta.uid(old) != meta.uid(new):
            self._on_pod(old, None)
            old = None
        uid = meta.uid(pod)
        if new is None or is_terminal(new):
            self._queue.remove(uid)
            if self._cache.remove_pod(uid):
                self._queue.wake()
        elif new["spec"].get("nodeName"):
            self._queue.remove(uid)
            self._cache.put_pod(new)
            if old is None or not old["spec"].get("nodeName") or meta.labels(old) != meta.labels(new):
                self._queue.wake(lambda p: p.has_pod_affinity() or "topologySpreadConstraints" in p.spec)
        elif new["spec"].get("schedulerName", "default-scheduler") not in self._profiles:
            return
        elif meta.is_deleting(new) or new["spec"].get("schedulingGates"):
            self._queue.remove(uid)
        elif not self._cache.is_assumed(uid):
            changed = old is not None and (old["spec"] != new["spec"] or meta.labels(old) != meta.labels(new))
            self._queue.put(PodInfo.of(new), retry=changed)

    def _schedule(self, waiting: Waiting) -> None:
        pod = waiting.pod
        profile = self._profiles[pod.spec.get("schedulerName", "default-scheduler")]
        snapshot = self._cache.snapshot()
        verdict = pick_node(pod, snapshot, profile.filters, profile.scores)
        if isinstance(verdict, Unschedulable):
            self._failed(waiting, verdict, snapshot, profile)
            return
        self._cache.assume(pod, verdict)
        self._spawn(self._bind(waiting, verdict))

    def _failed(self, waiting: Waiting, verdict: Unschedulable, snapshot: Snapshot, profile: Profile) -> None:
        pod, message, nominated = waiting.pod, verdict.message, ""
        if verdict.rejects:
            outcome = preemption.plan(pod, snapshot, profile.filters, verdict.rejects)
            if isinstance(outcome, preemption.Plan):
                nominated = outcome.node
                self._cache.nominate(pod, outcome.node)
                self._spawn(self._evict(pod, outcome))
            else:
                message = f"{message} preemption: {outcome}"
        self._queue.park(waiting)
        now = asyncio.get_running_loop().time()
        if waiting.said[0] != message or now - waiting.said[1] > SAY_AGAIN_S:
            waiting.said = (message, now)
            self._recorder.event(pod.pod, WARNING, "FailedScheduling", message)
        condition = meta.find_condition(pod.pod, "PodScheduled") or {}
        if nominated or condition.get("message") != message or condition.get("status") != "False":
            self._spawn(self._mark_unschedulable(pod, message, nominated))

    async def _bind(self, waiting: Waiting, node: str) -> None:
        pod = waiting.pod
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding: Object = {
            "apiVersion": "v1", "kind": "Binding", "target": target,
            "metadata": {"name": meta.name(pod.pod), "namespace": pod.namespace, "uid": pod.uid},
        }  # fmt: skip
        try:
            async with self._room:
                await self._client.create(PODS, binding, pod.namespace, "binding", meta.name(pod.pod))
        except (Conflict, NotFound) as e:  # bound or deleted by somebody else: the watch tells
            log.info("binding %s: %s", pod.key, e.message)
            self._cache.forget(pod.uid)
            self._queue.back_off(waiting)
        except (StatusError, Unreachable) as e:
            log.warning("binding %s to %s: %s", pod.key, node, e.message)
            self._cache.forget(pod.uid)
            self._recorder.event(pod.pod, WARNING, "FailedScheduling", f"binding rejected: {e.message}")
            self._queue.back_off(waiting)
        else:
            self._queue.remove(pod.uid)
            self._cache.unnominate(pod.uid)
            self._recorder.event(pod.pod, NORMAL, "Scheduled", f"Successfully assigned {pod.key} to {node}")

    async def _evict(self, pod: PodInfo, plan: preemption.Plan) -> None:
        now = datetime.now(UTC)
        for victim in plan.victims:
            name = meta.name(victim.pod)
            conditions = meta.set_condition(
                (victim.pod.get("status") or {}).get("conditions") or [],
                {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                 "message": f"{pod.spec.get('schedulerName', '')}: preempting to accommodate a higher priority pod"},
                now,
            )  # fmt: skip
            try:
                await self._client.patch(
                    PODS, name, {"status": {"conditions": conditions}}, victim.namespace, subresource="status"
                )
                await self._client.delete(PODS, name, victim.namespace, uid=victim.uid)
                self._recorder.event(
                    victim.pod, NORMAL, "Preempted", f"Preempted by pod {pod.uid} on node {plan.node}"
                )
            except (NotFound, Conflict):
                continue
            except (StatusError, Unreachable) as e:
                log.warning("preempting %s: %s", victim.key, e.message)

    async def _mark_unschedulable(self, pod: PodInfo, message: str, nominated: str) -> None:
        status = pod.pod.get("status") or {}
        new = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        body: Object = {"conditions": meta.set_condition(status.get("conditions") or [], new, datetime.now(UTC))}
        if nominated:
            body["nominatedNodeName"] = nominated
        try:
            await self._client.patch(PODS, meta.name(pod.pod), {"status": body}, pod.namespace, subresource="status")
        except NotFound:
            pass
        except (StatusError, Unreachable) as e:
            log.warning("status of %s: %s", pod.key, e.message)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
