"""Ending containers and pods: preStop, SIGTERM, grace, SIGKILL, sandbox. Touches: the runtime's socket, the clock.

Upstream: kuberuntime_container.go (killContainer, killContainersWithSyncResult), container/runtime termination order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nsk8s.api.meta import Object
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure
from nsk8s.kubelet.pleg import Pleg
from nsk8s.kubelet.podruntime import Container, PodRuntime, field_path, find_spec, is_sidecar
from nsk8s.kubelet.probing import Outcome, run_handler

log = logging.getLogger("killing")

MINIMUM_GRACE_S = 2
"""What is left for SIGTERM when the preStop hook has used up the grace period. Upstream: minimumGracePeriodInSeconds."""


class Deadline:
    """When a pod's grace is over; it can only come nearer (a second `kubectl delete --grace-period=1`)."""

    def __init__(self, grace_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + grace_s
        self._changed = asyncio.Event()
        self.grace_s = grace_s

    def shorten(self, grace_s: float) -> None:
        at = self._loop.time() + grace_s
        if at < self._at - 0.5:
            self._at = at
            self._changed.set()
            self._changed = asyncio.Event()

    @property
    def remaining_s(self) -> float:
        return max(0.0, self._at - self._loop.time())

    async def changed(self) -> None:
        await self._changed.wait()


def termination_order(pod: Object, containers: list[Container]) -> list[list[Container]]:
    """Groups to be ended one after the other: main containers first, then sidecars from the last to the first. Pure."""
    inits = pod["spec"].get("initContainers") or []
    sidecars = [c["name"] for c in inits if is_sidecar(c)]
    first = [c for c in containers if c.name not in sidecars]
    groups = [first] if first else []
    for name in reversed(sidecars):
        found = [c for c in containers if c.name == name]
        if found:
            groups.append(found)
    return groups


class Killer:
    def __init__(self, runtime: RuntimeClient, pleg: Pleg, recorder: EventRecorder, pod_ip: Callable[[Object], str]) -> None:
        self._runtime = runtime
        self._pleg = pleg
        self._recorder = recorder
        self._pod_ip = pod_ip

    async def kill_pod(self, pod: Object, runtime: PodRuntime, deadline: Deadline) -> None:
        """End all containers, then stop the sandboxes. Raises RuntimeFailure if something would not end."""
        living = [c for c in runtime.containers if c.running or c.state == "CONTAINER_UNKNOWN"]
        failures: list[BaseException] = []
        for members in termination_order(pod, living):
            done = await asyncio.gather(
                *(self.kill_container(pod, c, deadline) for c in members), return_exceptions=True
            )
            failures += [f for f in done if isinstance(f, BaseException)]
        for sandbox in list(runtime.sandboxes):
            if sandbox.ready or sandbox is runtime.sandbox:
                await self.stop_sandbox(sandbox.id)
        if failures:
            raise failures[0]

    async def stop_sandbox(self, sandbox_id: str) -> None:
        try:
            await self._runtime.call("StopPodSandbox", podSandboxId=sandbox_id)
        except RuntimeFailure as e:
            if e.code != "NotFound":
                raise
            self._pleg.drop_sandbox(sandbox_id)
            return
        await self._pleg.refresh_sandbox(sandbox_id, tell=False)

    async def kill_container(self, pod: Object, container: Container, deadline: Deadline, message: str = "") -> None:
        """preStop, then SIGTERM, then SIGKILL when the grace is over. Raises RuntimeFailure."""
        where = field_path(pod, container.name)
        self._recorder.event(pod, NORMAL, "Killing", message or f"Stopping container {container.name}", field_path=where)
        spec = find_spec(pod, container.name)
        hook = ((spec or {}).get("lifecycle") or {}).get("preStop")
        grace_s = deadline.remaining_s
        if spec is not None and hook and grace_s > 0 and container.running:
            await self._pre_stop(pod, spec, container, hook, deadline)
            grace_s = max(deadline.remaining_s, MINIMUM_GRACE_S)
        await self._stop(container, grace_s, deadline)
        await self._pleg.refresh_container(container.id, tell=False)

    async def _pre_stop(self, pod: Object, spec: Object, container: Container, hook: Object, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout(deadline.remaining_s):
                outcome = await run_hook(hook, spec, container.id, self._pod_ip(pod), self._runtime, deadline.remaining_s)
        except (TimeoutError, RuntimeFailure) as e:
            outcome = Outcome(False, str(e) or "context deadline exceeded")
        if not outcome.ok:
            message = f"PreStopHook failed: {outcome.message}" if outcome.message else "PreStopHook failed"
            self._recorder.event(pod, WARNING, "FailedPreStopHook", message, field_path=field_path(pod, container.name))

    async def _stop(self, container: Container, grace_s: float, deadline: Deadline) -> None:
        """StopContainer; said again with less time when the deadline comes nearer meanwhile."""
        calls: set[asyncio.Task[None]] = {asyncio.ensure_future(self._stop_call(container, grace_s))}
        nearer = asyncio.ensure_future(deadline.changed())
        try:
            while True:
                done, _ = await asyncio.wait([*calls, nearer], return_when=asyncio.FIRST_COMPLETED)
                if nearer in done:
                    nearer = asyncio.ensure_future(deadline.changed())
                    calls.add(asyncio.ensure_future(self._stop_call(container, deadline.remaining_s)))
                    done.discard(nearer)
                finished = [c for c in done if c in calls]
                if finished:
                    finished[0].result()
                    return
        finally:
            for task in (*calls, nearer):
                task.cancel()
            await asyncio.gather(*calls, nearer, return_exceptions=True)

    async def _stop_call(self, container: Container, grace_s: float) -> None:
        try:
            await self._runtime.call(
                "StopContainer", grace_s + self._runtime.timeout_s, containerId=container.id, timeout=round(grace_s)
            )
        except RuntimeFailure as e:
            if e.code != "NotFound":
                raise


async def run_hook(
    hook: Object, spec: Object, container_id: str, pod_ip: str, runtime: RuntimeClient, timeout_s: float
) -> Outcome:
    """A lifecycle handler: exec, httpGet, tcpSocket or sleep."""
    if hook.get("sleep"):
        await asyncio.sleep(float(hook["sleep"].get("seconds") or 0))
        return Outcome(True, "")
    return await run_handler(hook, spec, container_id, pod_ip, runtime, max(timeout_s, 1.0))
