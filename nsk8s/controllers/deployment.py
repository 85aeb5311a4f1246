"""Deployments: which ReplicaSets there are and how large they are. Touches: the API (decide is pure).

Upstream: pkg/controller/deployment. One reconcile makes one step; the ReplicaSets' changes bring the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, WARNING
from nsk8s.client.resources import DEPLOYMENTS, PODS, REPLICASETS
from nsk8s.controllers import rollout
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.podcontrol import claim
from nsk8s.controllers.pods import is_terminal
from nsk8s.controllers.rollout import replicas
from nsk8s.errors import AlreadyExists, BadRequest, Forbidden, NotFound, StatusError

PROGRESSING, AVAILABLE, FAILURE = "Progressing", "Available", "ReplicaFailure"


@dataclass
class Plan:
    """One step: what to write, in this order, and what to say."""

    create: Object | None = None
    updates: list[Object] = field(default_factory=list)
    deletes: list[Object] = field(default_factory=list)
    deployment: Object | None = None
    """The deployment with new status and revision annotation, if they changed."""
    events: list[tuple[str, str]] = field(default_factory=list)
    """(reason, message)"""
    again_s: float | None = None


def decide(deployment: Object, sets: Sequence[Object], pods: Callable[[Object], Sequence[Object]], now: datetime) -> Plan:
    """The next step for a deployment with these ReplicaSets; `pods(rs)` answers a set's pods (asked by Recreate only). Pure."""
    return _Step(deployment, sets, pods, now).plan()


class _Step:
    """The working state of one `decide`."""

    def __init__(
        self, deployment: Object, sets: Sequence[Object], pods: Callable[[Object], Sequence[Object]], now: datetime
    ) -> None:
        self.old_deployment = deployment
        self.deployment = copy(deployment)
        self.pods, self.now = pods, now
        self.out = Plan()
        found = rollout.find_new(deployment, sets)
        self.new = copy(found) if found is not None else None
        self.old = [s for s in sets if found is None or meta.uid(s) != meta.uid(found)]
        self.conditions: list[Object] = [dict(c) for c in (deployment.get("status") or {}).get("conditions") or []]
        self.changed: dict[str, Object] = {}

    def plan(self) -> Plan:
        deployment = self.deployment
        if meta.is_deleting(deployment):
            self._status(estimate=False)
            return self._done()
        self._note_pause()
        self._sync_revision()
        if deployment["spec"].get("paused") or rollout.was_scaled(deployment, self._all()):
            self._resize(rollout.scale_proportionally(deployment, self.new, self.old))
            if deployment["spec"].get("paused"):
                self._clean_up()
            self._status(estimate=False)
        elif rollout.is_rolling(deployment):
            self._rolling()
        else:
            self._recreate()
        return self._done()

    def _all(self) -> list[Object]:
        return [*self.old, *([self.new] if self.new is not None else [])]

    def _rolling(self) -> None:
        if self.new is None:
            self._create()
        else:
            name, size, wanted = meta.name(self.new), replicas(self.new), replicas(self.deployment)
            target = wanted if size > wanted else rollout.new_set_replicas(self.deployment, self._all(), size)
            if target != size:
                self._resize({name: target})
            else:
                self._resize(rollout.scale_down_old(self.deployment, self.new, self.old))
        self._status(estimate=True)

    def _recreate(self) -> None:
        shrink = {meta.name(s): 0 for s in self.old if replicas(s) > 0}
        if shrink:
            self._resize(shrink)
        elif not any(not is_terminal(p) for s in self.old for p in self.pods(s)):
            if self.new is None:
                self._create()
            elif replicas(self.new) != replicas(self.deployment):
                self._resize({meta.name(self.new): replicas(self.deployment)})
        self._status(estimate=True)

    def _create(self) -> None:
        revision = str(max((rollout.revision(s) for s in self.old), default=0) + 1)
        made = rollout.make_set(self.deployment, self.old, revision)
        self.out.create = self.new = made
        self._set_revision(revision)
        if _deadline_s(self.deployment) is not None:
            self._condition(PROGRESSING, "True", "NewReplicaSetCreated", f'Created new replica set "{meta.name(made)}"')
        if replicas(made):
            self._say_scaled(meta.name(made), 0, replicas(made))

    def _sync_revision(self) -> None:
        """The new ReplicaSet carries the highest revision and the deployment's annotations."""
        if self.new is None:
            return
        revision = str(max((rollout.revision(s) for s in self.old), default=0) + 1)
        changed = rollout.set_annotations(self.deployment, self.new, revision, exists=True)
        if (self.new["spec"].get("minReadySeconds") or 0) != (self.deployment["spec"].get("minReadySeconds") or 0):
            self.new["spec"]["minReadySeconds"] = self.deployment["spec"].get("minReadySeconds") or 0
            changed = True
        if changed:
            self.changed[meta.name(self.new)] = self.new
        self._set_revision(meta.annotations(self.new).get(rollout.REVISION, revision))
        if _deadline_s(self.deployment) is not None and self._find(PROGRESSING) is None:
            self._condition(PROGRESSING, "True", "FoundNewReplicaSet", f'Found new replica set "{meta.name(self.new)}"')

    def _set_revision(self, revision: str) -> None:
        self.deployment["metadata"].setdefault("annotations", {})[rollout.REVISION] = revision

    def _resize(self, sizes: dict[str, int]) -> None:
        for s in self._all():
            name = meta.name(s)
            if name not in sizes:
                continue
            before = replicas(s)
            target = self.changed.get(name) or copy(s)
            marked = rollout.set_size_annotations(self.deployment, target)
            if before == sizes[name] and not marked:
                continue
            target["spec"]["replicas"] = sizes[name]
            self.changed[name] = target
            if before != sizes[name]:
                self._say_scaled(name, before, sizes[name])

    def _say_scaled(self, name: str, before: int, after: int) -> None:
        direction = "up" if after > before else "down"
        self.out.events.append(("ScalingReplicaSet", f"Scaled {direction} replica set {name} from {before} to {after}"))

    def _clean_up(self) -> None:
        self.out.deletes += rollout.surplus_history(self.deployment, self.old)

    def _note_pause(self) -> None:
        if _deadline_s(self.deployment) is None:
            return
        reason = (self._find(PROGRESSING) or {}).get("reason")
        paused = bool(self.deployment["spec"].get("paused"))
        if reason == "ProgressDeadlineExceeded":
            return
        if paused and reason != "DeploymentPaused":
            self._condition(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused")
        elif not paused and reason == "DeploymentPaused":
            self._condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed")

    def _find(self, kind: str) -> Object | None:
        return next((c for c in self.conditions if c.get("type") == kind), None)

    def _drop(self, kind: str) -> None:
        self.conditions = [c for c in self.conditions if c.get("type") != kind]

    def _condition(self, kind: str, status: str, reason: str, message: str, *, touch: bool = False) -> None:
        """Set a condition; one with the same status and reason stays as it is, unless `touch` renews lastUpdateTime."""
        current = self._find(kind)
        if current is not None and current["status"] == status and current.get("reason") == reason and not touch:
            return
        stamp = meta.rfc3339(self.now)
        since = current["lastTransitionTime"] if current and current["status"] == status else stamp
        self._drop(kind)
        self.conditions.append({
            "type": kind, "status": status, "lastUpdateTime": stamp, "lastTransitionTime": since,
            "reason": reason, "message": message,
        })  # fmt: skip

    def _status(self, *, estimate: bool) -> None:
        deployment = self.deployment
        old = deployment.get("status") or {}
        everything = self._all()
        counts = {
            "replicas": rollout.total_status(everything, "replicas"),
            "updatedReplicas": rollout.total_status([self.new] if self.new else [], "replicas"),
            "readyReplicas": rollout.total_status(everything, "readyReplicas"),
            "availableReplicas": rollout.total_status(everything, "availableReplicas"),
        }
        sizes = [self.changed.get(meta.name(s), s) for s in everything]
        counts["unavailableReplicas"] = max(0, rollout.total(sizes) - counts["availableReplicas"])
        enough = counts["availableReplicas"] >= replicas(deployment) - rollout.max_unavailable(deployment)
        if enough:
            self._condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        else:
            self._condition(
                AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
            )
        if estimate:
            wanted = replicas(deployment)
            done = counts["updatedReplicas"] == counts["replicas"] == counts["availableReplicas"] == wanted
            if done and not self.changed and self.out.create is None:
                self._clean_up()
            self._estimate(old, counts, done=done)
        self._failures(everything)
        status = {k: v for k, v in counts.items() if v}
        if old.get("collisionCount"):
            status["collisionCount"] = old["collisionCount"]
        status["observedGeneration"] = deployment["metadata"].get("generation", 0)
        deployment["status"] = {**status, "conditions": self.conditions}

    def _estimate(self, old: Object, counts: dict[str, int], *, done: bool) -> None:
        """The Progressing condition: complete, moving, or stuck for longer than progressDeadlineSeconds."""
        deadline = _deadline_s(self.deployment)
        if deadline is None:
            self._drop(PROGRESSING)
            return
        current = self._find(PROGRESSING)
        if counts["replicas"] == counts["updatedReplicas"] and current and current.get("reason") == "NewReplicaSetAvailable":
            return
        what = f'ReplicaSet "{meta.name(self.new)}"' if self.new else f'Deployment "{meta.name(self.deployment)}"'
        if done:
            self._condition(PROGRESSING, "True", "NewReplicaSetAvailable", f"{what} has successfully progressed.")
            return
        if _moved(old, counts):
            self._condition(PROGRESSING, "True", "ReplicaSetUpdated", f"{what} is progressing.", touch=True)
            return
        if current is None or current.get("reason") in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
            return
        left = (meta.parse_time(current["lastUpdateTime"]) + timedelta(seconds=deadline) - self.now).total_seconds()
        if left < 0:
            self._condition(PROGRESSING, "False", "ProgressDeadlineExceeded", f"{what} has timed out progressing.")
        else:
            self.out.again_s = left + 1.0

    def _failures(self, everything: list[Object]) -> None:
        """A ReplicaSet's ReplicaFailure shows on its Deployment, the new one's before others'."""
        found = next((c for s in reversed(everything) if (c := meta.find_condition(s, FAILURE))), None)
        if found is None:
            self._drop(FAILURE)
        else:
            self._condition(FAILURE, found["status"], found.get("reason", ""), found.get("message", ""))

    def _done(self) -> Plan:
        self.out.updates = [s for s in self.changed.values() if s is not self.out.create]
        gone = {meta.name(s) for s in self.out.deletes}
        self.out.deletes = list({meta.name(s): s for s in self.out.deletes}.values())
        self.out.updates = [s for s in self.out.updates if meta.name(s) not in gone]
        if self.deployment != self.old_deployment:
            self.out.deployment = self.deployment
        return self.out


def _deadline_s(deployment: Object) -> int | None:
    value = deployment["spec"].get("progressDeadlineSeconds")
    return None if value is None or value == rollout.MAX_INT32 else int(value)


def _moved(old: Object, new: dict[str, int]) -> bool:
    """Progress: more updated, fewer old, more ready or more available pods than before."""

    def before(name: str) -> int:
        return int(old.get(name) or 0)

    return (
        new["updatedReplicas"] > before("updatedReplicas")
        or new["replicas"] - new["updatedReplicas"] < before("replicas") - before("updatedReplicas")
        or new["readyReplicas"] > before("readyReplicas")
        or new["availableReplicas"] > before("availableReplicas")
    )


class DeploymentController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._recorder = ctx.client, ctx.recorder("deployment-controller")
        self._deployments, self._sets, self._pods = ctx.informer(DEPLOYMENTS), ctx.informer(REPLICASETS), ctx.informer(PODS)
        self._loop = Controller("deployment-controller", self._reconcile)
        self._loop.watch(self._deployments)
        self._loop.watch(self._sets, self._keys_of_set)
        self._pods.add_handler(self._on_pod)
        self.run = self._loop.run

    def _keys_of_set(self, rs: Object) -> list[str]:
        controller = meta.controller_of(rs)
        if controller is not None:
            return [f"{meta.namespace(rs)}/{controller['name']}"] if controller.get("kind") == "Deployment" else []
        return [
            meta.key(d) for d in self._deployments.by_index("namespace", meta.namespace(rs))
            if self._selector(d).matches(meta.labels(rs))
        ]  # fmt: skip

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        """Recreate waits for the last old pod to go: that is the only pod event a Deployment needs."""
        if new is not None or old is None:
            return
        controller = meta.controller_of(old)
        rs = self._sets.get(f"{meta.namespace(old)}/{controller['name']}") if controller else None
        for key in self._keys_of_set(rs) if rs is not None else []:
            deployment = self._deployments.get(key)
            if deployment is not None and not rollout.is_rolling(deployment):
                self._loop.queue.add(key)

    def _selector(self, deployment: Object) -> selectors.LabelSelector:
        try:
            return selectors.from_label_selector(deployment["spec"].get("selector"))
        except BadRequest:
            return selectors.NOTHING

    async def _reconcile(self, key: str) -> float | None:
        deployment = self._deployments.get(key)
        if deployment is None:
            return None
        selector = self._selector(deployment)
        if selector.empty:
            self._recorder.event(
                deployment, WARNING, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required."
            )
            return None
        sets = await claim(self._client, DEPLOYMENTS, deployment, REPLICASETS, self._sets, selector)
        plan = decide(deployment, sets, lambda s: self._pods.by_index("owner", meta.uid(s)), utcnow())
        if plan.create is not None and not await self._create(deployment, plan.create):
            return None
        for rs in plan.updates:
            await self._client.update(REPLICASETS, rs)
        for kind, message in plan.events:
            self._recorder.event(deployment, NORMAL, kind, message)
        for rs in plan.deletes:
            try:
                await self._client.delete(REPLICASETS, meta.name(rs), meta.namespace(rs), uid=meta.uid(rs))
            except NotFound:
                continue
        if plan.deployment is not None:
            await self._client.update_status(DEPLOYMENTS, plan.deployment)
        return plan.again_s

    async def _create(self, deployment: Object, rs: Object) -> bool:
        """Create the new ReplicaSet; False when its name is another template's and the next try takes another hash."""
        try:
            await self._client.create(REPLICASETS, rs)
        except AlreadyExists:
            existing = await self._client.get(REPLICASETS, meta.name(rs), meta.namespace(rs))
            controller = meta.controller_of(existing) or {}
            if controller.get("uid") == meta.uid(deployment) and rollout.find_new(deployment, [existing]) is not None:
                return True
            status = {**(deployment.get("status") or {})}
            status["collisionCount"] = int(status.get("collisionCount") or 0) + 1
            await self._client.update_status(DEPLOYMENTS, {**deployment, "status": status})
            return False
        except StatusError as e:
            terminating = isinstance(e, Forbidden) and any(
                c.get("reason") == "NamespaceTerminating" for c in e.details.get("causes") or []
            )
            if terminating:
                return False
            message = f'Failed to create new replica set "{meta.name(rs)}": {e.message}'
            self._recorder.event(deployment, WARNING, "ReplicaSetCreateError", message)
            await self._note_failure(deployment, message)
            raise
        return True

    async def _note_failure(self, deployment: Object, message: str) -> None:
        changed = copy(deployment)
        status = changed.setdefault("status", {})
        stamp = meta.rfc3339(utcnow())
        old = meta.find_condition(deployment, PROGRESSING)
        if _deadline_s(deployment) is None or (old and old.get("reason") == "ReplicaSetCreateError"):
            return
        status["conditions"] = [c for c in status.get("conditions") or [] if c["type"] != PROGRESSING] + [{
            "type": PROGRESSING, "status": "False", "reason": "ReplicaSetCreateError", "message": message,
            "lastUpdateTime": stamp, "lastTransitionTime": stamp,
        }]  # fmt: skip
        await self._client.update_status(DEPLOYMENTS, changed)
