"""One pod's life on this node: sync, terminate, clean up; one thing at a time. Touches: the runtime, files, the API's status.

Upstream: kubelet/pod_workers.go, SyncPod, SyncTerminatingPod, SyncTerminatedPod. A worker has a task only while there is
something to do; what it does next is read from the caches each time, never from the event that woke it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.events import NORMAL, WARNING
from nsk8s.client.rest import Unreachable
from nsk8s.errors import Nsk8sError, StatusError
from nsk8s.kubelet import dns
from nsk8s.kubelet.actions import Actions, Kill, compute_pod_actions
from nsk8s.kubelet.containerconfig import sandbox_config, unsupported
from nsk8s.kubelet.cri import RuntimeFailure
from nsk8s.kubelet.killing import Deadline
from nsk8s.kubelet.podruntime import EXITED, PodRuntime, find_spec, garbage
from nsk8s.kubelet.problems import StartProblem
from nsk8s.kubelet.status import generate_status
from nsk8s.kubelet.volumes import MountError, freshness, needs_refresh

if TYPE_CHECKING:
    from nsk8s.kubelet.kubelet import Kubelet

log = logging.getLogger("pod")

SYNC, TERMINATING, TERMINATED = "sync", "terminating", "terminated"
EVICTION_GRACE_S = 1.0
RETRY_FIRST_S, RETRY_MAX_S = 0.25, 10.0
"""After a failure that names no time of its own; upstream retries every 10 s (backOffPeriod)."""


def grace_period_s(pod: Object) -> float:
    """The grace a pod has: the deletion's if there is one, else the spec's; at least one second. Pure."""
    given = pod["metadata"].get("deletionGracePeriodSeconds")
    if given is None:
        given = pod["spec"].get("terminationGracePeriodSeconds")
    return max(1.0, float(30 if given is None else given))


def deadline_left_s(pod: Object, now: datetime) -> float | None:
    """Seconds until activeDeadlineSeconds is over (0 or less: it is), None without one or before the start. Pure."""
    limit = pod["spec"].get("activeDeadlineSeconds")
    started = (pod.get("status") or {}).get("startTime")
    if limit is None or not started:
        return None
    return float(limit) - (now - meta.parse_time(started)).total_seconds()


class PodWorker:
    def __init__(self, kubelet: Kubelet, pod: Object) -> None:
        self.k = kubelet
        self.pod = pod
        self.uid = meta.uid(pod)
        self.state = SYNC
        self.gone = False
        """The API knows the pod no longer."""
        self.rejected = False
        self.seen_at = time.monotonic()
        self.reasons: dict[str, tuple[str, str]] = {}
        self._dirty = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: Deadline | None = None
        self._failures = 0
        self._override: tuple[str, str, str] | None = None
        self._refresh_at = 0.0
        self._mounted = False
        self._deleted_from_runtime = False
        self._said_unsupported = False

    @property
    def holds_resources(self) -> bool:
        """Whether a new pod has to do without what this one has, its host ports above all. Upstream: filterOutInactivePods.

        One that is ending does hold it; one that the API has forgotten does not, from that moment on.
        """
        return self.state != TERMINATED and not self.gone and not self.rejected

    # what wakes it

    def update(self, pod: Object) -> None:
        """A newer version of the pod."""
        self.pod = pod
        if meta.is_deleting(pod) and self._deadline is not None:
            self._deadline.shorten(grace_period_s(pod))
        self.wake()

    def evict(self, message: str) -> None:
        """End it, with a second's grace, as Failed. Upstream: the eviction manager's hard limits."""
        if self._override is None and not self.wants_to_end:
            self._override = ("Failed", "Evicted", message)
            self._deadline = Deadline(EVICTION_GRACE_S)
            self.k.recorder.event(self.pod, WARNING, "Evicted", message)
            self.wake()

    def removed(self) -> None:
        self.gone = True
        if self._deadline is not None:
            self._deadline.shorten(grace_period_s(self.pod))
        self.wake()

    def wake(self) -> None:
        self._dirty = True
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._drain())

    def wake_after(self, delay_s: float) -> None:
        """Of several, the earliest counts, also when it is due and has not run yet."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(max(delay_s, 0.001), self._rung)

    def _rung(self) -> None:
        self._timer = None
        self.wake()

    def stop(self) -> None:
        """The kubelet ends; the pod goes on."""
        for handle in (self._timer, self._task):
            if handle is not None:
                handle.cancel()

    @property
    def wants_to_end(self) -> bool:
        return self.gone or meta.is_deleting(self.pod) or self._override is not None or self.rejected

    async def _drain(self) -> None:
        while self._dirty:
            self._dirty = False
            try:
                await self._step()
                self._failures = 0
            except (RuntimeFailure, StatusError, Unreachable, MountError, OSError) as e:
                log.warning("Error syncing pod %s, skipping: %s", meta.key(self.pod), e)
                self._retry()
            except Exception:
                log.exception("pod %s", meta.key(self.pod))
                self._retry()

    def _retry(self) -> None:
        self.wake_after(min(RETRY_FIRST_S * 2**self._failures, RETRY_MAX_S))
        self._failures += 1

    async def _step(self) -> None:
        if self.state == SYNC and self.wants_to_end:
            self.state = TERMINATING
        if self.state == SYNC:
            await self._sync()
        if self.state == TERMINATING:
            await self._terminate()
        if self.state == TERMINATED:
            await self._terminated()

    # status

    @property
    def runtime(self) -> PodRuntime:
        return self.k.pleg.get(self.uid)

    def make_status(self, *, terminal: bool = False) -> Object:
        return generate_status(
            self.pod, self.runtime, host_ips=self.k.config.node_ips, now=datetime.now(UTC),
            old=self.k.statuses.get(self.uid) or self.pod.get("status") or {}, reasons=self.reasons,
            probes=self.k.prober.view(self.pod), terminal=terminal, override=self._override,
        )  # fmt: skip

    def publish(self, *, terminal: bool = False) -> Object:
        status = self.make_status(terminal=terminal)
        lazy = status["phase"] == "Pending" and not self.reasons and self._failures == 0
        self.k.statuses.set(self.pod, status, lazy=lazy)
        return status

    # living

    async def _sync(self) -> None:
        left = deadline_left_s({**self.pod, "status": self.k.statuses.get(self.uid) or self.pod.get("status")}, datetime.now(UTC))
        if left is not None and left <= 0:
            message = "Pod was active on the node longer than the specified deadline"
            self._override = ("Failed", "DeadlineExceeded", message)
            self.k.recorder.event(self.pod, NORMAL, "DeadlineExceeded", message)
        # First: a kubelet that has just started learns here what its predecessor found, and what was ready stays so.
        self.k.prober.sync(self.pod, self.runtime)
        status = self.publish()
        if status["phase"] in ("Succeeded", "Failed"):
            self.state = TERMINATING
            return
        if left is not None:
            self.wake_after(left)
        self._say_unsupported()
        if not self.k.node.network_ready.is_set() and not self.pod["spec"].get("hostNetwork") and self.runtime.sandbox is None:
            self.k.wait_for_network(self)
            return
        await self._mount()
        actions = compute_pod_actions(self.pod, self.runtime, self.k.prober.results)
        if actions:
            await self._act(actions)
            self._collect_garbage()
            if self.wants_to_end:
                self._dirty = True
                return
        self.k.prober.sync(self.pod, self.runtime)
        status = self.publish()
        if status["phase"] in ("Succeeded", "Failed") or (actions and self._more_to_do()):
            self._dirty = True

    def _more_to_do(self) -> bool:
        """What was just done lets something else begin (an init container has ended already, a sidecar runs). What could not
        be started has a timer of its own."""
        actions = compute_pod_actions(self.pod, self.runtime, self.k.prober.results)
        spec = self.pod["spec"]
        names = [spec["initContainers"][i]["name"] for i in actions.init_to_start]
        names += [spec["containers"][i]["name"] for i in actions.to_start]
        return any(n not in self.reasons for n in names)

    def _say_unsupported(self) -> None:
        if not self._said_unsupported:
            self._said_unsupported = True
            said = unsupported(self.pod)
            if said and self.runtime.sandbox is None:
                text = "ignored, not supported by this kubelet: " + "; ".join(said)
                self.k.recorder.event(self.pod, WARNING, "Unsupported", text)

    async def _mount(self) -> None:
        """Volumes once, and those made of API objects again every sync period."""
        now = time.monotonic()
        if self._mounted and now < self._refresh_at:
            self.wake_after(self._refresh_at - now)
            return
        if not self.pod["spec"].get("volumes") and self._mounted:
            return
        try:
            await self.k.volumes.set_up(self.pod, freshness(self.seen_at, self.k.config.sync_frequency_s))
        except MountError as e:
            self.k.recorder.event(self.pod, WARNING, "FailedMount", e.message)
            if not self._mounted:
                raise
        self._mounted = True
        self._refresh_at = float("inf")
        if needs_refresh(self.pod):
            self._refresh_at = now + self.k.config.sync_frequency_s
            self.wake_after(self.k.config.sync_frequency_s)

    async def _act(self, actions: Actions) -> None:
        if actions.kill_pod:
            if actions.create_sandbox and self.runtime.sandbox is not None:
                self.k.recorder.event(
                    self.pod, NORMAL, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created."
                )
            await self.k.killer.kill_pod(self.pod, self.runtime, Deadline(grace_period_s(self.pod)))
            if not actions.create_sandbox:
                return
        if actions.to_kill:
            await asyncio.gather(*(self._kill(k) for k in actions.to_kill))
        sandbox_id = actions.sandbox_id
        if actions.create_sandbox:
            sandbox_id = await self._create_sandbox(actions.attempt)
        elif await self._sandbox_has_died(actions):
            self._dirty = True
            return
        ips: tuple[str, ...] = self.runtime.ips
        if self.pod["spec"].get("hostNetwork"):
            ips = self.k.config.node_ips
        spec = self.pod["spec"]
        for key, indices in (
            ("ephemeralContainers", actions.ephemeral_to_start), ("initContainers", actions.init_to_start),
            ("containers", actions.to_start),
        ):  # fmt: skip
            for i in indices:
                if self.wants_to_end:
                    return
                await self._start(spec[key][i], sandbox_id, ips)

    async def _sandbox_has_died(self, actions: Actions) -> bool:
        """Containers that end may have ended with their sandbox, whose own event is still on its way: a restart in it would
        fail, and would count as one when the next has to wait. (Upstream's relist sees both at once.)"""
        spec = self.pod["spec"]
        names = [spec["initContainers"][i]["name"] for i in actions.init_to_start]
        names += [spec["containers"][i]["name"] for i in actions.to_start]
        before = [self.runtime.container(n) for n in names]
        if any(c is not None and c.state == EXITED and c.sandbox_id == actions.sandbox_id for c in before):
            await self.k.pleg.refresh_sandbox(actions.sandbox_id, tell=False)
            return self.runtime.sandbox is None or not self.runtime.sandbox.ready
        return False

    async def _kill(self, kill: Kill) -> None:
        spec = find_spec(self.pod, kill.container.name) or {}
        grace = grace_period_s(self.pod)
        probe = {"FailedLivenessProbe": "livenessProbe", "FailedStartupProbe": "startupProbe"}.get(kill.reason, "")
        own = (spec.get(probe) or {}).get("terminationGracePeriodSeconds")
        await self.k.killer.kill_container(
            self.pod, kill.container, Deadline(float(own) if own is not None else grace), kill.message
        )

    async def _create_sandbox(self, attempt: int) -> str:
        config = self.k.config
        settings, warnings = dns.pod_dns(
            self.pod, node=self.k.node_dns(), cluster_dns=config.cluster_dns, cluster_domain=config.cluster_domain
        )
        for warning in warnings:
            reason = "MissingClusterDNS" if warning.startswith("pod:") else "DNSConfigForming"
            self.k.recorder.event(self.pod, WARNING, reason, warning)
        name, domain = dns.hostname(self.pod, self.k.hostname, config.cluster_domain)
        try:
            hostname = dns.kernel_hostname(self.pod, name, domain)
            answer = await self.k.runtime.call(  # upstream gives a sandbox twice the time
                "RunPodSandbox", 2 * config.runtime_timeout_s, config=sandbox_config(self.pod, attempt, hostname, settings)
            )
        except Nsk8sError as e:
            self.k.recorder.event(self.pod, WARNING, "FailedCreatePodSandBox", f"Failed to create pod sandbox: {e.message}")
            raise e if isinstance(e, RuntimeFailure) else RuntimeFailure("InvalidArgument", e.message) from e
        sandbox_id = str(answer["podSandboxId"])
        await self.k.pleg.refresh_sandbox(sandbox_id, tell=False)
        self.publish()
        return sandbox_id

    async def _start(self, container: Object, sandbox_id: str, ips: tuple[str, ...]) -> None:
        name = container["name"]
        try:
            await self.k.starter.start(
                self.pod, container, sandbox_id, ips, self.k.statuses.get(self.uid) or self.pod.get("status"), self.seen_at
            )
            self.reasons.pop(name, None)
        except StartProblem as e:
            self.reasons[name] = (e.reason, e.message)
            if e.retry_s is not None:
                self.wake_after(e.retry_s + 0.01)
            else:
                self._retry()

    def _collect_garbage(self) -> None:
        containers, sandboxes = garbage(self.runtime)
        if containers or sandboxes:
            self.k.spawn(self.k.remove_from_runtime(containers, sandboxes))

    # ending

    async def _terminate(self) -> None:
        if self._deadline is None:
            self._deadline = Deadline(grace_period_s(self.pod))
        self.k.prober.sync(self.pod, self.runtime, terminating=True)
        if not self.gone:
            self.publish(terminal=False)
        await self.k.killer.kill_pod(self.pod, self.runtime, self._deadline)
        if self.runtime.active:
            raise RuntimeFailure("Unknown", "containers of a terminating pod still run")
        self.k.prober.remove(self.uid)
        self.state = TERMINATED
        self.reasons.clear()
        if not self.gone:
            self.publish(terminal=True)

    async def _terminated(self) -> None:
        if self.runtime.active:  # a sandbox that was being made while the pod ended
            await self.k.killer.kill_pod(self.pod, self.runtime, Deadline(0))
        if self._mounted or not self.gone:
            self.k.volumes.tear_down(self.uid)
            self._mounted = False
        if self.gone:
            await self._erase()
        elif meta.is_deleting(self.pod):
            self.publish(terminal=True)
            self.k.statuses.finish(self.pod)

    async def _erase(self) -> None:
        """The pod has gone from the API and nothing runs: remove its traces."""
        runtime = self.runtime
        await self.k.remove_from_runtime([c.id for c in runtime.containers], [s.id for s in runtime.sandboxes])
        self.k.erase(self)
