"""Node lifecycle: who has stopped talking is Unknown, its pods are not ready, and taints say so. Touches: the API.

Upstream: pkg/controller/nodelifecycle. Upstream looks at all nodes every --node-monitor-period; here every node has a
deadline that each renewed Lease or status moves, so a node is marked exactly when its grace ends and nothing polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, WARNING
from nsk8s.client.informer import Informer
from nsk8s.client.resources import LEASES, NODES, PODS
from nsk8s.client.rest import Unreachable
from nsk8s.controllers import taints
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.pods import is_ready
from nsk8s.errors import Conflict, NotFound, StatusError

log = logging.getLogger("nodelifecycle")

LEASE_NAMESPACE = "kube-node-lease"
_WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def silent_conditions(node: Object, now: datetime) -> list[Object]:
    """status.conditions of a node whose kubelet has stopped talking. Pure."""
    conditions: list[Object] = list((node.get("status") or {}).get("conditions") or [])
    stamp = meta.rfc3339(now)
    for kind in _WATCHED:
        current = next((c for c in conditions if c.get("type") == kind), None)
        if current is None:
            conditions.append({
                "type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": node["metadata"].get("creationTimestamp"), "lastTransitionTime": stamp,
            })  # fmt: skip
        elif current.get("status") != "Unknown":
            conditions[conditions.index(current)] = {
                **current, "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.", "lastTransitionTime": stamp,
            }  # fmt: skip
    return conditions


@dataclass
class _Health:
    """When a node was last heard of, by our own clock."""

    uid: str
    heard: float
    spoke: bool
    """Whether it has ever posted a Ready condition: until then the start-up grace counts."""


class LeaseInformer(Informer):
    """Knows when the watch broke off: what we did not hear meanwhile says nothing about the nodes."""

    broken = False

    async def _follow(self) -> None:
        try:
            await super()._follow()
        except (Unreachable, StatusError):
            self.broken = True
            raise


class EvictionLimiter:
    """Nodes tainted NoExecute per zone: one at once, then `rate` a second. Pure but for the time it is given."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def wait_s(self, zone: str, rate: float, now: float) -> float | None:
        """0 and the turn is taken, or the seconds until the next turn; None while the rate is 0."""
        if rate <= 0:
            return None
        due = self._next.get(zone, now)
        if now < due:
            return due - now
        self._next[zone] = now + 1.0 / rate
        return 0.0


class NodeLifecycleController:
    def __init__(self, ctx: Context) -> None:
        self._ctx, self._settings = ctx, ctx.settings
        self._client, self._recorder = ctx.client, ctx.recorder("node-controller")
        self._nodes, self._pods = ctx.informer(NODES), ctx.informer(PODS)
        self._leases = LeaseInformer(ctx.client, LEASES, LEASE_NAMESPACE)
        self._health: dict[str, _Health] = {}
        self._limiter = EvictionLimiter()
        self._states: dict[str, str] = {}
        self._loop = Controller("node-lifecycle-controller", self._reconcile)
        self._nodes.add_handler(self._on_node)
        self._leases.add_handler(self._on_lease)
        self._pods.add_handler(self._on_pod)
        self._loop.watch(self._nodes)

    async def run(self) -> None:
        await asyncio.gather(self._leases.run(), self._loop.run())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._health.pop(meta.name(old), None)
            self._review_zones()
            return
        name = meta.name(new)
        health = self._health.get(name)
        ready = meta.find_condition(new, "Ready")
        if health is None or health.uid != meta.uid(new):
            self._health[name] = _Health(meta.uid(new), self._now(), ready is not None)
        else:
            before = meta.find_condition(old, "Ready") if old is not None else None
            if ready is not None and ready.get("lastHeartbeatTime") != (before or {}).get("lastHeartbeatTime"):
                health.heard, health.spoke = self._now(), True
            if ready is not None and ready.get("status") != "Unknown" and ready != before:
                health.heard, health.spoke = self._now(), True
        if old is None or taints.ready_status(old) != taints.ready_status(new):
            self._review_zones()

    def _on_lease(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            return
        if self._leases.broken:
            self._start_anew()
        renewed = new["spec"].get("renewTime")
        health = self._health.get(meta.name(new))
        if health is not None and (old is None or renewed != old["spec"].get("renewTime")):
            health.heard = self._now()

    def _start_anew(self) -> None:
        """We were blind: every node gets its whole grace again (upstream's controller manager would have restarted)."""
        self._leases.broken = False
        for health in self._health.values():
            health.heard = self._now()

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        """A pod that turns up (or turns ready) on a node that is not ready must be marked too."""
        if new is None or not new["spec"].get("nodeName") or not is_ready(new) or (old is not None and is_ready(old)):
            return
        node = self._nodes.get(new["spec"]["nodeName"])
        if node is not None and taints.ready_status(node) != "True":
            self._loop.queue.add(meta.name(node))

    def _review_zones(self) -> None:
        """A zone whose state changes lets its nodes be looked at again: they may now be evicted, or no longer."""
        ready: Counter[str] = Counter()
        silent: Counter[str] = Counter()
        for node in self._nodes.items():
            (ready if taints.ready_status(node) == "True" else silent)[taints.zone_of(node)] += 1
        threshold = self._settings.unhealthy_zone_threshold
        states = {z: taints.zone_state(ready[z], silent[z], threshold) for z in ready.keys() | silent.keys()}
        if states != self._states:
            self._states = states
            for name in [meta.name(n) for n in self._nodes.items()]:
                self._loop.queue.add(name)

    def _rate(self, zone: str) -> float:
        """Nodes a second that may be tainted NoExecute in `zone`."""
        state = self._states.get(zone, "Normal")
        if state != "PartialDisruption":
            return self._settings.node_eviction_rate
        size = sum(1 for n in self._nodes.items() if taints.zone_of(n) == zone)
        return self._settings.secondary_node_eviction_rate if size > self._settings.large_cluster_size_threshold else 0.0

    def _all_disrupted(self) -> bool:
        """No node at all is ready: then it is us who cannot see, and nobody is evicted."""
        return bool(self._states) and all(s == "FullDisruption" for s in self._states.values())

    async def _reconcile(self, name: str) -> float | None:
        node = self._nodes.get(name)
        health = self._health.get(name)
        if node is None or health is None:
            return None
        grace = self._settings.node_monitor_grace_s if health.spoke else self._settings.node_startup_grace_s
        left = health.heard + grace - self._now()
        silent = taints.ready_status(node) == "Unknown" and meta.find_condition(node, "Ready") is not None
        if left <= 0 and not silent:
            if await self._heard_meanwhile(name, health):
                return 0.01
            node = await self._mark_silent(node)
        waits = [left] if left > 0 else []
        if taints.ready_status(node) != "True":
            await self._mark_pods(node)
        again = await self._taint(node)
        if again is not None:
            waits.append(again)
        return min(waits) + 0.01 if waits else None

    async def _heard_meanwhile(self, name: str, health: _Health) -> bool:
        """Ask the server itself before a node is given up: our watch may have been broken, or late."""
        try:
            lease: Object | None = await self._client.get(LEASES, name, LEASE_NAMESPACE)
        except NotFound:
            lease = None
        if self._leases.broken:
            self._start_anew()
            return True
        cached = self._leases.get(f"{LEASE_NAMESPACE}/{name}")
        if lease is not None and (cached is None or cached["spec"].get("renewTime") != lease["spec"].get("renewTime")):
            health.heard = self._now()
            return True
        return False

    async def _mark_silent(self, node: Object) -> Object:
        changed = copy(node)
        changed.setdefault("status", {})["conditions"] = silent_conditions(node, utcnow())
        name = meta.name(node)
        log.warning("node %s has been silent for too long", name)
        answer = await self._client.update_status(NODES, changed)
        if taints.ready_status(node) == "True":
            self._say_not_ready(name)
        return answer

    def _say_not_ready(self, name: str) -> None:
        # As upstream, the event is about the node's name: describe node looks events up by it.
        about = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}}
        self._recorder.event(about, NORMAL, "NodeNotReady", f"Node {name} status is now: NodeNotReady")

    async def _mark_pods(self, node: Object) -> None:
        for pod in self._pods.by_index("node", meta.name(node)):
            if not is_ready(pod):
                continue
            changed = copy(pod)
            changed["status"]["conditions"] = meta.set_condition(
                changed["status"]["conditions"], {"type": "Ready", "status": "False"}, utcnow()
            )
            try:
                await self._client.update_status(PODS, changed)
            except NotFound:
                continue
            except Conflict:
                self._loop.queue.add_rate_limited(meta.name(node))
                continue
            self._recorder.event(pod, WARNING, "NodeNotReady", "Node is not ready")

    async def _taint(self, node: Object) -> float | None:
        """Bring spec.taints in line; seconds after which the NoExecute taint may be put on, if it must wait its turn."""
        evict: bool | None = None
        again: float | None = None
        if not taints.no_execute(node) or self._all_disrupted():
            evict = False
        elif not taints.has_no_execute(node):
            zone = taints.zone_of(node)
            again = self._limiter.wait_s(zone, self._rate(zone), self._now())
            if again == 0:
                evict, again = True, None
        wanted = taints.wanted_taints(node, evict=evict, now=utcnow())
        if wanted != ((node.get("spec") or {}).get("taints") or []):
            body = {"metadata": {"resourceVersion": meta.resource_version(node)}, "spec": {"taints": wanted or None}}
            await self._client.patch(NODES, meta.name(node), body)
        return again
