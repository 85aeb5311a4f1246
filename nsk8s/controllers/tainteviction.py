"""Taint eviction: pods leave nodes whose NoExecute taints they do not (or no longer) tolerate. Touches: the API.

Upstream: pkg/controller/tainteviction.
"""

from __future__ import annotations

from datetime import datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL
from nsk8s.client.resources import NODES, PODS
from nsk8s.controllers import taints
from nsk8s.controllers.context import Context, utcnow
from nsk8s.controllers.pods import is_terminal
from nsk8s.errors import Conflict, NotFound


class TaintEvictionController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._recorder = ctx.client, ctx.recorder("taint-eviction-controller")
        self._nodes, self._pods = ctx.informer(NODES), ctx.informer(PODS)
        self._first_seen: dict[str, datetime] = {}  # pod uid → when its node's taints were first seen
        self._planned: set[str] = set()  # uids of pods with an eviction ahead
        self._loop = Controller("taint-eviction-controller", self._reconcile)
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)
        self._loop.watch(self._nodes, lambda node: [])
        self._loop.watch(self._pods, lambda pod: [])
        self.run = self._loop.run

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            return
        before = (old.get("spec") or {}).get("taints") if old else None
        if before != (new.get("spec") or {}).get("taints"):
            for pod in self._pods.by_index("node", meta.name(new)):
                self._loop.queue.add(meta.key(pod))

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._first_seen.pop(meta.uid(old), None)
            self._planned.discard(meta.uid(old))
            return
        moved = old is None or old["spec"].get("nodeName") != new["spec"].get("nodeName")
        if moved or old["spec"].get("tolerations") != new["spec"].get("tolerations"):  # type: ignore[index]
            node = self._nodes.get(new["spec"].get("nodeName") or "")
            if node is None or (node.get("spec") or {}).get("taints"):
                self._loop.queue.add(meta.key(new))

    async def _reconcile(self, key: str) -> float | None:
        pod = self._pods.get(key)
        if pod is None or meta.is_deleting(pod) or is_terminal(pod):
            return None
        node = self._nodes.get(pod["spec"].get("nodeName") or "")
        uid, now = meta.uid(pod), utcnow()
        due = taints.evict_at(pod, node, self._first_seen.setdefault(uid, now)) if node is not None else None
        if due is None:
            self._first_seen.pop(uid, None)
            if uid in self._planned:
                self._planned.discard(uid)
                self._recorder.event(pod, NORMAL, "TaintManagerEviction", f"Cancelling deletion of Pod {key}")
            return None
        left = (due - now).total_seconds()
        if left > 0:
            self._planned.add(uid)
            return left
        self._recorder.event(pod, NORMAL, "TaintManagerEviction", f"Marking for deletion Pod {key}")
        condition = {
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
        }  # fmt: skip
        conditions = meta.set_condition((pod.get("status") or {}).get("conditions") or [], condition, now)
        body = {"metadata": {"uid": uid}, "status": {"conditions": conditions}}
        try:
            await self._client.patch(PODS, meta.name(pod), body, meta.namespace(pod), subresource="status")
            await self._client.delete(PODS, meta.name(pod), meta.namespace(pod), uid=uid)
        except (NotFound, Conflict):
            return None
        self._planned.discard(uid)
        return None
