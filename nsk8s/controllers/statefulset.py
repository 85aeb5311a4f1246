"""StatefulSets: pods with names that stay, one after the other. Touches: the API (decide and new_status are pure).

Upstream: pkg/controller/statefulset (stateful_set_control.go, stateful_set_utils.go).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, WARNING
from nsk8s.client.resources import CONTROLLERREVISIONS, PERSISTENTVOLUMECLAIMS, PODS, STATEFULSETS
from nsk8s.client.rest import Unreachable
from nsk8s.controllers import history
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.expectations import Expectations
from nsk8s.controllers.podcontrol import claim
from nsk8s.controllers.pods import from_template, is_available, is_ready, is_terminal, phase, seconds_to_available
from nsk8s.errors import AlreadyExists, BadRequest, Conflict, NotFound, StatusError

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"


@dataclass
class Step:
    """Ordinals to make pods for, with the revision each gets, and pods to delete."""

    create: list[tuple[int, str]] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)


def ordinal(statefulset: Object, pod: Object) -> int:
    """The number in a pod's name; -1 if the name is not one of this set's."""
    found = re.fullmatch(re.escape(meta.name(statefulset)) + r"-(\d+)", meta.name(pod))
    return int(found.group(1)) if found else -1


def span(statefulset: Object) -> range:
    """The ordinals there should be."""
    start = int((statefulset["spec"].get("ordinals") or {}).get("start") or 0)
    wanted = statefulset["spec"].get("replicas")
    return range(start, start + (1 if wanted is None else int(wanted)))


def _partition(statefulset: Object) -> int:
    strategy = statefulset["spec"].get("updateStrategy") or {}
    return int((strategy.get("rollingUpdate") or {}).get("partition") or 0)


def is_rolling(statefulset: Object) -> bool:
    return str((statefulset["spec"].get("updateStrategy") or {}).get("type") or "RollingUpdate") == "RollingUpdate"


def pod_revision(pod: Object) -> str:
    return meta.labels(pod).get(history.HASH_LABEL, "")


def decide(statefulset: Object, pods: Sequence[Object], current: str, update: str, now: datetime) -> Step:
    """The next step, given the pods and the names of the current and the update revision. Pure.

    OrderedReady: nothing happens to a pod before all with lower numbers are ready (with higher ones, when shrinking).
    """
    ordered = str(statefulset["spec"].get("podManagementPolicy") or "OrderedReady") != "Parallel"
    min_ready = int(statefulset["spec"].get("minReadySeconds") or 0)
    wanted = span(statefulset)
    by_number = {n: p for p in pods if (n := ordinal(statefulset, p)) >= 0}
    step = Step()

    def healthy(pod: Object) -> bool:
        return phase(pod) == "Running" and not meta.is_deleting(pod) and is_available(pod, min_ready, now)

    for number in wanted:
        pod = by_number.get(number)
        if pod is None:
            step.create.append((number, _revision_for(statefulset, number, current, update)))
            if ordered:
                return step
            continue
        if is_terminal(pod):
            if not meta.is_deleting(pod):
                step.delete.append(pod)
            if ordered:
                return step
            continue
        if ordered and not healthy(pod):
            return step
    condemned = [by_number[n] for n in sorted((n for n in by_number if n not in wanted), reverse=True)]
    unhealthy = next((p for p in reversed(condemned) if not healthy(p)), None)
    for pod in condemned:
        if meta.is_deleting(pod):
            if ordered:
                return step
            continue
        if ordered and not healthy(pod) and pod is not unhealthy:
            return step
        step.delete.append(pod)
        if ordered:
            return step
    if not is_rolling(statefulset) or step.create or step.delete:
        return step
    for number in reversed(wanted):
        if number < wanted.start + _partition(statefulset):
            break
        pod = by_number[number]
        if pod_revision(pod) != update and not meta.is_deleting(pod):
            step.delete.append(pod)
            break
        if not healthy(pod):
            break
    return step


def _revision_for(statefulset: Object, number: int, current: str, update: str) -> str:
    """Which revision a new pod gets: while an update goes on, pods below the partition keep the current one."""
    if current == update or not is_rolling(statefulset):
        return update
    start = span(statefulset).start
    if "rollingUpdate" not in (statefulset["spec"].get("updateStrategy") or {}):
        kept = int((statefulset.get("status") or {}).get("currentReplicas") or 0)
    else:
        kept = _partition(statefulset)
    return current if number < start + kept else update


def make_pod(statefulset: Object, template: Object, number: int, revision: str) -> Object:
    """The pod with this number. Pure."""
    name = f"{meta.name(statefulset)}-{number}"
    pod = from_template(copy(template), statefulset, name=name)
    pod["metadata"]["labels"] |= {POD_NAME_LABEL: name, INDEX_LABEL: str(number), history.HASH_LABEL: revision}
    pod["spec"]["hostname"] = name
    if statefulset["spec"].get("serviceName"):
        pod["spec"]["subdomain"] = statefulset["spec"]["serviceName"]
    claims = statefulset["spec"].get("volumeClaimTemplates") or []
    if claims:
        ours = {meta.name(c) for c in claims}
        kept = [v for v in pod["spec"].get("volumes") or [] if v.get("name") not in ours]
        pod["spec"]["volumes"] = kept + [
            {"name": meta.name(c), "persistentVolumeClaim": {"claimName": claim_name(statefulset, c, number)}} for c in claims
        ]
    return pod


def claim_name(statefulset: Object, template: Object, number: int) -> str:
    return f"{meta.name(template)}-{meta.name(statefulset)}-{number}"


def make_claims(statefulset: Object, number: int) -> list[Object]:
    """The PersistentVolumeClaims of the pod with this number. Pure."""
    match = (statefulset["spec"].get("selector") or {}).get("matchLabels") or {}
    return [
        {
            "metadata": {
                "name": claim_name(statefulset, c, number), "namespace": meta.namespace(statefulset),
                "labels": {**meta.labels(c), **match}, "annotations": dict(meta.annotations(c)),
            },
            "spec": c.get("spec") or {},
        }
        for c in statefulset["spec"].get("volumeClaimTemplates") or []
    ]  # fmt: skip


def new_status(statefulset: Object, pods: Sequence[Object], current: Object, update: Object, now: datetime) -> Object:
    """The status that fits the pods; a finished update makes the update revision the current one. Pure."""
    min_ready = int(statefulset["spec"].get("minReadySeconds") or 0)
    mine = [p for p in pods if ordinal(statefulset, p) >= 0]
    live = [p for p in mine if not meta.is_deleting(p)]
    ready = sum(1 for p in mine if phase(p) == "Running" and is_ready(p))
    updated = sum(1 for p in live if pod_revision(p) == meta.name(update))
    kept = sum(1 for p in live if pod_revision(p) == meta.name(current))
    done = updated == len(mine) == ready == len(span(statefulset)) and not _partition(statefulset)
    if done and is_rolling(statefulset):
        current, kept = update, updated
    status: Object = {
        "observedGeneration": statefulset["metadata"].get("generation", 0),
        "replicas": len(mine),
        "availableReplicas": sum(1 for p in mine if phase(p) == "Running" and is_available(p, min_ready, now)),
        "currentRevision": meta.name(current),
        "updateRevision": meta.name(update),
        "collisionCount": int((statefulset.get("status") or {}).get("collisionCount") or 0),
    }
    optional = {"readyReplicas": ready, "currentReplicas": kept, "updatedReplicas": updated}
    return {**status, **{k: v for k, v in optional.items() if v}}


class StatefulSetController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._recorder = ctx.client, ctx.recorder("statefulset-controller")
        self._sets, self._pods = ctx.informer(STATEFULSETS), ctx.informer(PODS)
        self._history = history.History(ctx.client, ctx.informer(CONTROLLERREVISIONS), STATEFULSETS)
        self._expected = Expectations(asyncio.get_running_loop().time)
        self._loop = Controller("statefulset-controller", self._reconcile)
        self._loop.watch(self._sets)
        self._loop.watch(self._pods, self._keys_of_pod)
        self._loop.watch(ctx.informer(CONTROLLERREVISIONS), lambda revision: [])
        self._pods.add_handler(self._observe)
        self.run = self._loop.run

    def _keys_of_pod(self, pod: Object) -> list[str]:
        controller = meta.controller_of(pod)
        if controller is not None:
            return [f"{meta.namespace(pod)}/{controller['name']}"] if controller.get("kind") == "StatefulSet" else []
        return [
            meta.key(s) for s in self._sets.by_index("namespace", meta.namespace(pod))
            if ordinal(s, pod) >= 0 and _selector(s).matches(meta.labels(pod))
        ]  # fmt: skip

    def _observe(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None
        controller = meta.controller_of(pod)
        if controller is None or controller.get("kind") != "StatefulSet":
            return
        key = f"{meta.namespace(pod)}/{controller['name']}"
        if old is None and new is not None:
            self._expected.created(key)
        elif old is not None and (new is None or meta.is_deleting(new)):
            self._expected.deleted(key, meta.uid(old))

    async def _reconcile(self, key: str) -> float | None:
        statefulset = self._sets.get(key)
        if statefulset is None:
            self._expected.forget(key)
            return None
        if meta.is_deleting(statefulset) or not self._expected.satisfied(key):
            return None
        selector = _selector(statefulset)
        pods = await claim(
            self._client, STATEFULSETS, statefulset, PODS, self._pods, selector,
            may_adopt=lambda pod: ordinal(statefulset, pod) >= 0,
        )  # fmt: skip
        revisions = await self._history.of(statefulset, selector)
        update = await self._history.current(statefulset, revisions)
        known = (statefulset.get("status") or {}).get("currentRevision")
        current = next((r for r in revisions if meta.name(r) == known), update)
        step = decide(statefulset, pods, meta.name(current), meta.name(update), utcnow())
        error: Exception | None = None
        try:
            await self._apply(key, statefulset, step, {meta.name(r): r for r in (current, update)})
        except (StatusError, Unreachable) as e:
            error = e
        status = new_status(statefulset, pods, current, update, utcnow())
        if status != {k: v for k, v in (statefulset.get("status") or {}).items() if k != "conditions"}:
            await self._client.update_status(STATEFULSETS, {**statefulset, "status": status})
        live = {pod_revision(p) for p in pods} | {meta.name(current), meta.name(update)}
        await self._history.prune(statefulset, revisions, live)
        if error is not None:
            raise error
        min_ready = int(statefulset["spec"].get("minReadySeconds") or 0)
        waits = [s for p in pods if (s := seconds_to_available(p, min_ready, utcnow()))]
        return min(waits) + 0.1 if waits else None

    async def _apply(self, key: str, statefulset: Object, step: Step, revisions: dict[str, Object]) -> None:
        for number, revision in step.create:
            template = revisions[revision]["data"]["spec"]["template"]
            pod = make_pod(statefulset, {k: v for k, v in template.items() if k != "$patch"}, number, revision)
            await self._create_claims(statefulset, number)
            await self._create(key, statefulset, pod)
        for pod in step.delete:
            self._expected.expect_deletions(key, [meta.uid(pod)])
            if is_terminal(pod):
                self._recorder.event(
                    statefulset, WARNING, "RecreatingTerminatedPod",
                    f"StatefulSet {key} is recreating terminated Pod {meta.name(pod)}",
                )  # fmt: skip
            try:
                await self._client.delete(PODS, meta.name(pod), meta.namespace(pod), uid=meta.uid(pod))
            except (NotFound, Conflict):
                self._expected.deleted(key, meta.uid(pod))
                continue
            except (StatusError, Unreachable) as e:
                self._expected.deleted(key, meta.uid(pod))
                self._say(statefulset, WARNING, "FailedDelete", "delete", pod, f"failed error: {e.message}")
                raise
            self._say(statefulset, NORMAL, "SuccessfulDelete", "delete", pod, "successful")

    async def _create(self, key: str, statefulset: Object, pod: Object) -> None:
        self._expected.expect_creations(key, 1)
        try:
            await self._client.create(PODS, pod)
        except AlreadyExists:  # somebody else's pod has the name: wait until it goes
            self._expected.created(key)
            problem = f'failed error: pods "{meta.name(pod)}" already exists'
            self._say(statefulset, WARNING, "FailedCreate", "create", pod, problem)
            raise
        except (StatusError, Unreachable) as e:
            self._expected.created(key)
            self._say(statefulset, WARNING, "FailedCreate", "create", pod, f"failed error: {e.message}")
            raise
        self._say(statefulset, NORMAL, "SuccessfulCreate", "create", pod, "successful")

    async def _create_claims(self, statefulset: Object, number: int) -> None:
        for wanted in make_claims(statefulset, number):
            try:
                await self._client.create(PERSISTENTVOLUMECLAIMS, wanted)
            except AlreadyExists:
                continue

    def _say(self, statefulset: Object, kind: str, reason: str, verb: str, pod: Object, outcome: str) -> None:
        self._recorder.event(
            statefulset, kind, reason, f"{verb} Pod {meta.name(pod)} in StatefulSet {meta.name(statefulset)} {outcome}"
        )


def _selector(statefulset: Object) -> selectors.LabelSelector:
    try:
        found = selectors.from_label_selector(statefulset["spec"].get("selector"))
    except BadRequest:
        return selectors.NOTHING
    return selectors.NOTHING if found.empty else found
