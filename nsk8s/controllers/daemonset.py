"""DaemonSets: one pod on every node that fits. Touches: the API (decide and rolling are pure).

Upstream: pkg/controller/daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.api.quantity import int_or_percent
from nsk8s.client.controller import Controller
from nsk8s.client.events import WARNING
from nsk8s.client.resources import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS
from nsk8s.controllers import history
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.expectations import Expectations
from nsk8s.controllers.nodematch import selects, untolerated
from nsk8s.controllers.podcontrol import PodControl, claim
from nsk8s.controllers.pods import created_at, from_template, is_available, is_ready, is_terminal, phase, seconds_to_available
from nsk8s.errors import BadRequest

GENERATION_LABEL = "pod-template-generation"
BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 900.0
"""How long a node waits after its daemon pod failed before it gets another."""

_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


def daemon_spec(template: Object) -> Object:
    """The pod spec of a template with the tolerations every daemon pod gets. Pure."""
    spec = copy(template.get("spec") or {})
    have = spec.get("tolerations") or []
    extra = [*_TOLERATED, *([("node.kubernetes.io/network-unavailable", "NoSchedule")] if spec.get("hostNetwork") else [])]
    spec["tolerations"] = have + [
        t for key, effect in extra if (t := {"key": key, "operator": "Exists", "effect": effect}) not in have
    ]
    return spec


def pin(spec: Object, node: str) -> Object:
    """`spec` with required node affinity for this node alone; other required terms keep only what they say of labels. Pure."""
    pinned = copy(spec)
    affinity = pinned.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    term = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [{**t, "matchFields": term} for t in terms]
    }
    return pinned


def fits(spec: Object, node: Object) -> tuple[bool, bool]:
    """(a daemon pod should be started there, one that runs there may stay). Pure."""
    if spec.get("nodeName") and spec["nodeName"] != meta.name(node):
        return False, False
    if not selects(spec, node):
        return False, False
    tolerations = spec.get("tolerations") or []
    return (
        not untolerated(tolerations, node, ("NoSchedule", "NoExecute")),
        not untolerated(tolerations, node, ("NoExecute",)),
    )


def target_node(pod: Object) -> str:
    """The node a daemon pod is on, or meant for. Pure."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    for term in (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or []:
        for f in term.get("matchFields") or []:
            if f.get("key") == "metadata.name" and f.get("operator") == "In" and len(f.get("values") or []) == 1:
                return str(f["values"][0])
    return ""


@dataclass
class Step:
    """Pods to make, by node, and pods to delete."""

    create: list[str] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)
    failed: list[Object] = field(default_factory=list)
    """Those of `delete` that had failed: they are replaced."""


def by_node(pods: Sequence[Object]) -> dict[str, list[Object]]:
    found: dict[str, list[Object]] = {}
    for pod in pods:
        found.setdefault(target_node(pod), []).append(pod)
    return found


def decide(spec: Object, nodes: Sequence[Object], placed: Mapping[str, Sequence[Object]], current: str, *, surge: bool) -> Step:
    """One pod where there should be one, none elsewhere; failed ones are replaced. Pure.

    With `surge`, an old pod beside one of the `current` hash is left to `rolling`.
    """
    step = Step()
    names = set()
    for node in nodes:
        name = meta.name(node)
        names.add(name)
        start, stay = fits(spec, node)
        pods = [p for p in placed.get(name, ()) if not meta.is_deleting(p)]
        leaving = len(placed.get(name, ())) - len(pods)
        if not stay:
            step.delete += pods
            continue
        ended = [p for p in pods if is_terminal(p)]
        step.delete += ended
        step.failed += [p for p in ended if phase(p) == "Failed"]
        running = [p for p in pods if not is_terminal(p)]
        if start and not running and not ended and not leaving:
            step.create.append(name)
        step.delete += _doubles(running, current, surge=surge)
    step.delete += [p for name, pods in placed.items() if name not in names for p in pods if not meta.is_deleting(p) and name]
    return step


def _doubles(running: Sequence[Object], current: str, *, surge: bool) -> list[Object]:
    """All but one; the oldest that is ready stays, so that nothing that works is replaced by what does not."""
    groups = [running]
    if surge:
        groups = [
            [p for p in running if meta.labels(p).get(history.HASH_LABEL) == current],
            [p for p in running if meta.labels(p).get(history.HASH_LABEL) != current],
        ]
    extra: list[Object] = []
    for group in groups:
        extra += sorted(group, key=lambda p: (not is_ready(p), not p["spec"].get("nodeName"), created_at(p)))[1:]
    return extra


def limits(daemonset: Object, desired: int) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) of a rolling update in pods. Pure."""
    rolling = (daemonset["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    try:
        surge = int_or_percent(rolling.get("maxSurge"), desired, round_up=True, default=0)
        unavailable = int_or_percent(rolling.get("maxUnavailable"), desired, round_up=True, default=1)
    except ValueError:
        return 0, 1
    return (surge, unavailable) if surge or unavailable else (0, 1)


def rolling(
    daemonset: Object, desired: Sequence[str], placed: Mapping[str, Sequence[Object]], current: str, now: datetime
) -> Step:
    """The next step of a rolling update over the `desired` nodes. Pure."""
    surge, unavailable = limits(daemonset, len(desired))
    min_ready = int(daemonset["spec"].get("minReadySeconds") or 0)
    step = Step()
    down, surging, candidates = 0, 0, []
    for name in desired:
        pods = placed.get(name, ())
        old = [p for p in pods if meta.labels(p).get(history.HASH_LABEL) != current]
        new = [p for p in pods if meta.labels(p).get(history.HASH_LABEL) == current]
        old_up = any(is_available(p, min_ready, now) and not meta.is_deleting(p) for p in old)
        new_up = any(is_available(p, min_ready, now) and not meta.is_deleting(p) for p in new)
        going = [p for p in old if not meta.is_deleting(p)]
        if not old_up and not new_up:
            down += 1
        if surge and new:
            surging += bool(going)
            if new_up:
                step.delete += going
        elif going and not old_up:
            step.delete += going  # it serves nobody: replacing it costs nothing
        elif going:
            candidates.append((name, going))
    for name, going in candidates:
        if surge:
            if surging < surge:
                surging += 1
                step.create.append(name)
        elif down < unavailable:
            down += 1
            step.delete += going
    return step


def new_status(
    daemonset: Object, spec: Object, nodes: Sequence[Object], placed: Mapping[str, Sequence[Object]], current: str, now: datetime
) -> Object:
    """The status that fits nodes and pods. Pure."""
    min_ready = int(daemonset["spec"].get("minReadySeconds") or 0)
    desired = scheduled = misscheduled = ready = available = updated = 0
    for node in nodes:
        pods = sorted(placed.get(meta.name(node), ()), key=lambda p: (not is_ready(p), created_at(p)))
        if not fits(spec, node)[0]:
            misscheduled += bool(pods)
            continue
        desired += 1
        if not pods:
            continue
        scheduled += 1
        best = next((p for p in pods if meta.labels(p).get(history.HASH_LABEL) == current), pods[0])
        updated += meta.labels(best).get(history.HASH_LABEL) == current
        ready += any(is_ready(p) for p in pods)
        available += any(is_available(p, min_ready, now) for p in pods)
    status: Object = {
        "currentNumberScheduled": scheduled, "numberMisscheduled": misscheduled, "desiredNumberScheduled": desired,
        "numberReady": ready, "observedGeneration": daemonset["metadata"].get("generation", 0),
    }  # fmt: skip
    optional = {"updatedNumberScheduled": updated, "numberAvailable": available, "numberUnavailable": desired - available}
    return {**status, **{k: v for k, v in optional.items() if v}}


class DaemonSetController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._recorder = ctx.client, ctx.recorder("daemonset-controller")
        self._sets, self._pods, self._nodes = ctx.informer(DAEMONSETS), ctx.informer(PODS), ctx.informer(NODES)
        self._history = history.History(ctx.client, ctx.informer(CONTROLLERREVISIONS), DAEMONSETS)
        self._expected = Expectations(asyncio.get_running_loop().time)
        self._control = PodControl(ctx.client, self._recorder)
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}  # (set uid, node) → how often, when again
        self._loop = Controller("daemonset-controller", self._reconcile, workers=2)
        self._loop.watch(self._sets)
        self._loop.watch(self._pods, self._keys_of_pod)
        self._loop.watch(self._nodes, lambda node: [])
        self._loop.watch(ctx.informer(CONTROLLERREVISIONS), lambda revision: [])
        self._pods.add_handler(self._observe)
        self._nodes.add_handler(self._on_node)
        self.run = self._loop.run

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        def seen(node: Object | None) -> object:
            spec = (node or {}).get("spec") or {}
            return node is not None and (meta.labels(node), spec.get("taints"), spec.get("unschedulable"))

        if seen(old) != seen(new):
            for daemonset in self._sets.items():
                self._loop.queue.add(meta.key(daemonset))

    def _keys_of_pod(self, pod: Object) -> list[str]:
        controller = meta.controller_of(pod)
        if controller is not None:
            return [f"{meta.namespace(pod)}/{controller['name']}"] if controller.get("kind") == "DaemonSet" else []
        return [
            meta.key(d) for d in self._sets.by_index("namespace", meta.namespace(pod))
            if _selector(d).matches(meta.labels(pod))
        ]  # fmt: skip

    def _observe(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None
        controller = meta.controller_of(pod)
        if controller is None or controller.get("kind") != "DaemonSet":
            return
        key = f"{meta.namespace(pod)}/{controller['name']}"
        if old is None and new is not None and not meta.is_deleting(new):
            self._expected.created(key)
        elif old is not None and (new is None or meta.is_deleting(new)):
            self._expected.deleted(key, meta.uid(old))

    async def _reconcile(self, key: str) -> float | None:
        daemonset = self._sets.get(key)
        if daemonset is None:
            self._expected.forget(key)
            return None
        selector = _selector(daemonset)
        if selector.empty:
            self._recorder.event(
                daemonset, WARNING, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required."
            )
            return None
        if meta.is_deleting(daemonset):
            return None
        revisions = await self._history.of(daemonset, selector)
        current = history.hash_of(await self._history.current(daemonset, revisions))
        fresh = self._expected.satisfied(key)
        placed = by_node(await claim(self._client, DAEMONSETS, daemonset, PODS, self._pods, selector))
        spec, nodes = daemon_spec(daemonset["spec"]["template"]), sorted(self._nodes.items(), key=meta.name)
        again: list[float] = []
        if fresh:
            again += await self._manage(key, daemonset, spec, nodes, placed, current)
            live = {meta.labels(p).get(history.HASH_LABEL, "") for pods in placed.values() for p in pods}
            await self._history.prune(daemonset, revisions, live | {current})
        status = new_status(daemonset, spec, nodes, placed, current, utcnow())
        old = daemonset.get("status") or {}
        if {k: old.get(k) or 0 for k in {*status, *old} if k != "conditions"} != {k: status.get(k) or 0 for k in {*status, *old}}:
            await self._client.update_status(DAEMONSETS, {**daemonset, "status": status})
        min_ready = int(daemonset["spec"].get("minReadySeconds") or 0)
        again += [s + 0.1 for pods in placed.values() for p in pods if (s := seconds_to_available(p, min_ready, utcnow()))]
        return min(again) if again else None

    async def _manage(
        self, key: str, daemonset: Object, spec: Object, nodes: Sequence[Object], placed: Mapping[str, Sequence[Object]],
        current: str,
    ) -> list[float]:  # fmt: skip
        strategy = daemonset["spec"].get("updateStrategy") or {}
        desired = [meta.name(n) for n in nodes if fits(spec, n)[0]]
        surge = strategy.get("type", "RollingUpdate") == "RollingUpdate" and limits(daemonset, len(desired))[0] > 0
        step = decide(spec, nodes, placed, current, surge=surge)
        waits = self._back_off(daemonset, step)
        if not step.create and not step.delete and strategy.get("type", "RollingUpdate") == "RollingUpdate":
            step = rolling(daemonset, desired, placed, current, utcnow())
        for pod in step.failed:
            self._recorder.event(
                daemonset, WARNING, "FailedDaemonPod",
                f"Found failed daemon pod {meta.key(pod)} on node {target_node(pod)}, will try to kill it",
            )  # fmt: skip
        self._expected.expect_creations(key, len(step.create))
        self._expected.expect_deletions(key, [meta.uid(p) for p in step.delete])
        template = {**daemonset["spec"]["template"], "spec": spec}
        pods = []
        for name in step.create:
            pod = from_template(template, daemonset)
            pod["spec"] = pin(spec, name)
            pod["metadata"]["labels"] |= {
                history.HASH_LABEL: current, GENERATION_LABEL: str(daemonset["metadata"].get("generation", 1)),
            }  # fmt: skip
            pods.append(pod)
        error = await self._control.create(daemonset, pods, lambda n: self._expected.created(key, n))
        error = await self._control.delete(daemonset, step.delete, lambda uid: self._expected.deleted(key, uid)) or error
        if error is not None:
            raise error
        return waits

    def _back_off(self, daemonset: Object, step: Step) -> list[float]:
        """A node whose pod failed waits longer each time; failed pods that must wait stay as they are."""
        now = asyncio.get_running_loop().time()
        waits: list[float] = []
        for pod in list(step.failed):
            where = (meta.uid(daemonset), target_node(pod))
            times, due = self._failures.get(where, (0, 0.0))
            if now < due:
                step.failed.remove(pod)
                step.delete.remove(pod)
                waits.append(due - now)
            else:
                self._failures[where] = (times + 1, now + min(BACKOFF_FIRST_S * 2**times, BACKOFF_MAX_S))
        return waits


def _selector(daemonset: Object) -> selectors.LabelSelector:
    try:
        return selectors.from_label_selector(daemonset["spec"].get("selector"))
    except BadRequest:
        return selectors.NOTHING


