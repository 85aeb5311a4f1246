"""Jobs and their time to live: the shells. Touches: the API. Upstream: pkg/controller/job, pkg/controller/ttlafterfinished."""

from __future__ import annotations

import asyncio

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.resources import JOBS, PODS
from nsk8s.controllers import jobs as pure
from nsk8s.controllers.context import Context, utcnow
from nsk8s.controllers.expectations import Expectations
from nsk8s.controllers.podcontrol import PodControl, claim
from nsk8s.errors import BadRequest, NotFound


class JobController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._recorder = ctx.client, ctx.recorder("job-controller")
        self._jobs, self._pods = ctx.informer(JOBS), ctx.informer(PODS)
        self._expected = Expectations(asyncio.get_running_loop().time)
        self._control = PodControl(ctx.client, self._recorder)
        self._loop = Controller("job-controller", self._reconcile)
        self._loop.watch(self._jobs)
        self._loop.watch(self._pods, _keys_of_pod)
        self._pods.add_handler(self._observe)
        self.run = self._loop.run

    def _observe(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None
        for key in _keys_of_pod(pod):
            if old is None and new is not None:
                self._expected.created(key)
            elif old is not None and (new is None or meta.is_deleting(new)):
                self._expected.deleted(key, meta.uid(old))

    async def _reconcile(self, key: str) -> float | None:
        job = self._jobs.get(key)
        if job is None:
            self._expected.forget(key)
            await self._release_orphans(key)
            return None
        if pure.finished_as(job) and not (job.get("status") or {}).get("active"):
            return None
        if job["spec"].get("managedBy", "kubernetes.io/job-controller") != "kubernetes.io/job-controller":
            return None
        try:
            selector = selectors.from_label_selector(job["spec"].get("selector"))
        except BadRequest:
            return None
        may_create = self._expected.satisfied(key) and not meta.is_deleting(job)
        pods = await claim(self._client, JOBS, job, PODS, self._pods, selector)
        step = pure.decide(job, pods, utcnow(), may_create=may_create)
        if step.status != (job.get("status") or {}):
            job = await self._client.update_status(JOBS, {**job, "status": step.status})
        for event in step.events:
            self._recorder.event(job, *event)
        for pod in step.count:
            await self._drop_finalizer(pod)
        await self._apply(key, job, step)
        return step.again_s

    async def _apply(self, key: str, job: Object, step: pure.Step) -> None:
        if not self._expected.satisfied(key):
            return
        if step.release:
            for pod in step.delete:
                await self._drop_finalizer(pod)
        self._expected.expect_deletions(key, [meta.uid(p) for p in step.delete])
        error = await self._control.delete(job, step.delete, lambda uid: self._expected.deleted(key, uid))
        if step.create and error is None:
            self._expected.expect_creations(key, len(step.create))
            made = [pure.make_pod(job, index) for index in step.create]
            error = await self._control.create(job, made, lambda n: self._expected.created(key, n))
        if error is not None:
            raise error

    async def _drop_finalizer(self, pod: Object) -> None:
        left = [f for f in pod["metadata"].get("finalizers") or [] if f != pure.TRACKING]
        body = {"metadata": {"finalizers": left or None, "resourceVersion": meta.resource_version(pod)}}
        try:
            await self._client.patch(PODS, meta.name(pod), body, meta.namespace(pod))
        except NotFound:
            return

    async def _release_orphans(self, key: str) -> None:
        """Pods of a Job that is gone must not be held by its finalizer."""
        namespace, name = meta.split_key(key)
        for pod in self._pods.by_index("namespace", namespace):
            if meta.labels(pod).get(pure.NAME_LABELS[0]) == name and pure.TRACKING in (pod["metadata"].get("finalizers") or []):
                controller = meta.controller_of(pod)
                if controller is None or (controller.get("kind") == "Job" and controller["name"] == name):
                    await self._drop_finalizer(pod)


def _keys_of_pod(pod: Object) -> list[str]:
    controller = meta.controller_of(pod)
    if controller is None or controller.get("kind") != "Job":
        return []
    return [f"{meta.namespace(pod)}/{controller['name']}"]


class TTLAfterFinishedController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._jobs = ctx.client, ctx.informer(JOBS)
        self._loop = Controller("ttl-after-finished-controller", self._reconcile, workers=1)
        self._loop.watch(self._jobs)
        self.run = self._loop.run

    async def _reconcile(self, key: str) -> float | None:
        job = self._jobs.get(key)
        if job is None or meta.is_deleting(job):
            return None
        left = pure.expires_in_s(job, utcnow())
        if left is None or left > 0:
            return left
        fresh = await self._client.get(JOBS, meta.name(job), meta.namespace(job))
        again = pure.expires_in_s(fresh, utcnow())
        if meta.uid(fresh) != meta.uid(job) or again is None or again > 0:
            return again
        await self._client.delete(
            JOBS, meta.name(fresh), meta.namespace(fresh), uid=meta.uid(fresh), resource_version=meta.resource_version(fresh),
            propagation="Foreground",
        )  # fmt: skip
        return None
