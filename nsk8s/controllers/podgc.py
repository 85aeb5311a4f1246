"""Pod garbage collection: pods nobody will ever clean up. Touches: the API.

Upstream: pkg/controller/podgc. Orphans of a node that is gone (after a quarantine), terminating pods that were never
scheduled or sit on an out-of-service node, and ended pods beyond a threshold, oldest first. Driven by events, not by a period.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.resources import NODES, PODS
from nsk8s.controllers import taints
from nsk8s.controllers.context import Context, utcnow
from nsk8s.controllers.pods import created_at, is_terminal
from nsk8s.errors import Conflict, NotFound

log = logging.getLogger("podgc")

_ENDED = "ended"
"""The key under which the threshold is checked."""


def surplus(ended: Sequence[Object], threshold: int) -> list[Object]:
    """The oldest of the ended pods beyond the threshold; none if the threshold is not positive. Pure."""
    if threshold <= 0:
        return []
    return sorted(ended, key=lambda p: (created_at(p), meta.name(p)))[: max(0, len(ended) - threshold)]


def is_out_of_service(node: Object) -> bool:
    """Not ready and marked by its owner as shut down for good. Pure."""
    marked = any(t.get("key") == taints.OUT_OF_SERVICE for t in (node.get("spec") or {}).get("taints") or [])
    return marked and taints.ready_status(node) != "True"


class PodGCController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._settings = ctx.client, ctx.settings
        self._pods, self._nodes = ctx.informer(PODS), ctx.informer(NODES)
        self._gone_since: dict[str, float] = {}
        self._ended = 0
        self._loop = Controller("pod-garbage-collector", self._reconcile, workers=2)
        self._pods.add_handler(self._on_pod)
        self._loop.watch(self._pods, lambda pod: [])
        self._loop.watch(self._nodes, lambda node: [f"node:{meta.name(node)}"])
        self.run = self._loop.run

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        self._ended += (new is not None and is_terminal(new)) - (old is not None and is_terminal(old))
        if self._ended > self._settings.terminated_pod_gc_threshold > 0:
            self._loop.queue.add(_ENDED)
        if new is None:
            return
        node = new["spec"].get("nodeName") or ""
        if meta.is_deleting(new) and not node:
            self._loop.queue.add(f"pod:{meta.key(new)}")
        elif node and (old is None or not old["spec"].get("nodeName") or meta.is_deleting(new)):
            self._loop.queue.add(f"node:{node}")

    async def _reconcile(self, key: str) -> float | None:
        what, _, name = key.partition(":")
        if what == "node":
            return await self._collect_node(name)
        if what == "pod":
            pod = self._pods.get(name)
            if pod is not None and meta.is_deleting(pod) and not pod["spec"].get("nodeName"):
                await self._remove(pod, "")
            return None
        ended = [p for p in self._pods.items() if is_terminal(p)]
        for pod in surplus(ended, self._settings.terminated_pod_gc_threshold):
            await self._remove(pod, "")
        return None

    async def _collect_node(self, name: str) -> float | None:
        node = self._nodes.get(name)
        pods = self._pods.by_index("node", name)
        if node is not None or not pods:
            self._gone_since.pop(name, None)
            if node is not None and is_out_of_service(node):
                for pod in pods:
                    if meta.is_deleting(pod):
                        await self._remove(pod, "")
            return None
        now = asyncio.get_running_loop().time()
        left = self._gone_since.setdefault(name, now) + self._settings.pod_gc_quarantine_s - now
        if left > 0:
            return left
        try:
            await self._client.get(NODES, name)
        except NotFound:
            pass
        else:
            return 1.0  # the cache is behind
        for pod in pods:
            await self._remove(pod, "PodGC: node no longer exists")
        return None

    async def _remove(self, pod: Object, disruption: str) -> None:
        """Force-delete; a pod that had not ended is marked Failed first, so that its owner sees it end."""
        name, namespace, uid = meta.name(pod), meta.namespace(pod), meta.uid(pod)
        log.info("removing pod %s", meta.key(pod))
        try:
            if not is_terminal(pod):
                status: Object = {"phase": "Failed"}
                if disruption:
                    condition = {
                        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": disruption,
                    }  # fmt: skip
                    old = (pod.get("status") or {}).get("conditions") or []
                    status["conditions"] = meta.set_condition(old, condition, utcnow())
                await self._client.patch(PODS, name, {"status": status}, namespace, subresource="status")
            await self._client.delete(PODS, name, namespace, grace_period_s=0, uid=uid)
        except (NotFound, Conflict):
            return
