"""Probes of running containers: when each is asked, and what has come of it. Touches: the clock, sockets, the runtime.

Upstream: kubelet/prober (Manager, worker) and prober/results. A probe that waits costs one timer, not a task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.events import WARNING, EventRecorder
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure
from nsk8s.kubelet.podruntime import Container, PodRuntime, field_path, is_sidecar
from nsk8s.kubelet.probing import (
    LIVENESS,
    READINESS,
    SPEC_KEY,
    STARTUP,
    Judge,
    quick_retries,
    run_handler,
    timing,
)
from nsk8s.kubelet.status import ProbeView

log = logging.getLogger("prober")


class _Worker:
    """One probe of one running container."""

    def __init__(
        self, prober: Prober, pod: Object, container: Object, kind: str, running: Container, settled: bool | None
    ) -> None:
        self.pod = pod
        self.container = container
        self.kind = kind
        self.container_id = running.id
        self._prober = prober
        self._spec: Object = container[SPEC_KEY[kind]]
        self._timing = timing(self._spec)
        self._judge = Judge(self._timing.success_threshold, self._timing.failure_threshold, settled)
        self._quick = list(quick_retries(kind, self._spec)) if settled is not True else []
        self._task: asyncio.Task[None] | None = None
        self._on_hold = False
        loop = asyncio.get_running_loop()
        age_s = max(0.0, time.time() - running.started_at / 1e9) if running.started_at else 0.0
        self._due = loop.time() + max(0.0, self._timing.initial_delay_s - age_s)
        self._timer: asyncio.TimerHandle | None = loop.call_at(self._due, self._fire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    def _fire(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        counted = loop.time() >= self._due - 0.001
        if counted:
            self._due = max(self._due + self._timing.period_s, loop.time())
        try:
            if self.kind == STARTUP or self._prober.started(self.pod, self.container, self.container_id):
                again = await self._ask(counted)
            else:
                again = self._due  # until the startup probe has succeeded the others wait
                self._prober.wait_started(self)
        except RuntimeFailure as e:
            log.debug("probe of %s: %s", meta.key(self.pod), e)
            again = self._due
        except Exception:
            log.exception("probe of %s", meta.key(self.pod))
            again = self._due
        if again is not None and not self._on_hold:
            self._timer = loop.call_at(max(again, loop.time() + 0.001), self._fire)

    async def _ask(self, counted: bool) -> float | None:
        """One try; when the next one is due (None: never again)."""
        pod_ip = self._prober.pod_ip(self.pod)
        outcome = await run_handler(
            self._spec, self.container, self.container_id, pod_ip, self._prober.runtime, self._timing.timeout_s
        )
        if outcome.ok or counted:
            if not outcome.ok:
                self._prober.unhealthy(self, outcome.message)
            if self._judge.observe(outcome.ok):
                self._prober.settle(self, outcome.ok)
        if outcome.ok:
            self._quick = []
            if self.kind == STARTUP and self._judge.settled:
                return None
        if self._judge.settled is False and self.kind in (LIVENESS, STARTUP):
            self._on_hold = True  # the container is about to be killed
            return None
        if self._quick:
            quick = asyncio.get_running_loop().time() + self._quick.pop(0)
            if quick < self._due:
                return quick
            self._quick = []
        return self._due

    def resume(self) -> None:
        """The container has started: probe now."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._due = loop.time()
        self._timer = loop.call_soon(self._fire)  # type: ignore[assignment]


class Prober:
    """`sync` after every change of a pod; `results` and `view` tell what is known."""

    def __init__(
        self, runtime: RuntimeClient, recorder: EventRecorder, changed: Callable[[str], None], pod_ip: Callable[[Object], str]
    ) -> None:
        self.runtime = runtime
        self.pod_ip = pod_ip
        self.results: dict[tuple[str, str], bool] = {}
        self._recorder = recorder
        self._changed = changed
        self._workers: dict[str, dict[tuple[str, str], _Worker]] = {}  # pod uid → (container, kind) → worker
        self._waiting: dict[str, set[_Worker]] = {}  # container id → workers that wait for its startup probe

    def sync(self, pod: Object, runtime: PodRuntime, *, terminating: bool = False) -> None:
        """Have one worker per probe of every running container, and none else."""
        uid = meta.uid(pod)
        have = self._workers.get(uid, {})
        wanted: dict[tuple[str, str], _Worker] = {}
        spec = pod["spec"]
        probed = [*(spec.get("containers") or []), *(c for c in spec.get("initContainers") or [] if is_sidecar(c))]
        for container in probed:
            running = None
            for kind in (STARTUP, LIVENESS, READINESS):
                if not container.get(SPEC_KEY[kind]) or (terminating and kind != READINESS):
                    continue
                running = running or runtime.container(container["name"])
                if running is None or not running.running:
                    break
                key = (container["name"], kind)
                worker = have.get(key)
                if worker is None or worker.container_id != running.id:
                    settled = self._first_result(pod, container, kind, running)
                    if (kind, running.id) not in self.results and settled is not None:
                        self.results[kind, running.id] = settled
                    if kind == STARTUP and settled:
                        continue
                    worker = _Worker(self, pod, container, kind, running, settled)
                worker.pod = pod
                wanted[key] = worker
        for key, worker in have.items():
            if wanted.get(key) is not worker:
                self._drop(worker, forget=wanted.get(key) is not None or not runtime_has(runtime, worker.container_id))
        if wanted:
            self._workers[uid] = wanted
        else:
            self._workers.pop(uid, None)

    def _first_result(self, pod: Object, container: Object, kind: str, running: Container) -> bool | None:
        """Before the first probe: alive, not ready, not started; what an earlier kubelet found of this very container stays."""
        known = self.results.get((kind, running.id))
        if known is not None:
            return known
        if kind == LIVENESS:
            return True
        status = pod.get("status") or {}
        for old in [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]:
            if old.get("name") == container["name"] and str(old.get("containerID", "")).endswith("//" + running.id):
                if kind == READINESS and old.get("ready"):
                    return True
                if kind == STARTUP and old.get("started"):
                    return True
        return False if kind == READINESS else None

    def _drop(self, worker: _Worker, forget: bool) -> None:
        worker.stop()
        self._waiting.get(worker.container_id, set()).discard(worker)
        if not self._waiting.get(worker.container_id):
            self._waiting.pop(worker.container_id, None)
        if forget:
            self.results.pop((worker.kind, worker.container_id), None)

    def remove(self, uid: str) -> None:
        for worker in self._workers.pop(uid, {}).values():
            self._drop(worker, forget=True)

    def forget_container(self, container_id: str) -> None:
        for kind in (LIVENESS, READINESS, STARTUP):
            self.results.pop((kind, container_id), None)

    def started(self, pod: Object, container: Object, container_id: str) -> bool:
        return not container.get("startupProbe") or self.results.get((STARTUP, container_id)) is True

    def wait_started(self, worker: _Worker) -> None:
        self._waiting.setdefault(worker.container_id, set()).add(worker)

    def settle(self, worker: _Worker, ok: bool) -> None:
        self.results[worker.kind, worker.container_id] = ok
        if worker.kind == STARTUP and ok:
            for waiting in self._waiting.pop(worker.container_id, set()):
                waiting.resume()
        self._changed(meta.uid(worker.pod))

    def unhealthy(self, worker: _Worker, message: str) -> None:
        name = worker.container["name"]
        self._recorder.event(
            worker.pod, WARNING, "Unhealthy", f"{worker.kind.capitalize()} probe failed: {message}",
            field_path=field_path(worker.pod, name),
        )  # fmt: skip

    def view(self, pod: Object) -> ProbeView:
        """What the status of a pod needs."""
        specs = {c["name"]: c for c in [*(pod["spec"].get("initContainers") or []), *(pod["spec"].get("containers") or [])]}

        def started(name: str, container_id: str) -> bool:
            return name not in specs or self.started(pod, specs[name], container_id)

        def ready(name: str, container_id: str) -> bool:
            if name not in specs or not specs[name].get("readinessProbe"):
                return True
            return self.results.get((READINESS, container_id)) is True

        return ProbeView(started, ready)


def runtime_has(runtime: PodRuntime, container_id: str) -> bool:
    return runtime.by_id(container_id) is not None
