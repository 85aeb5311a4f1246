"""The cache of what the runtime holds, kept true by its event stream and by relisting. Touches: the runtime's socket, files
(termination messages).

Upstream: kubelet/pleg (evented and generic). Whoever changes something in the runtime puts the result in here himself, so that
the event that follows finds nothing new and wakes nobody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nsk8s.kubelet import logs
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure
from nsk8s.kubelet.podruntime import (
    EXITED,
    Container,
    PodRuntime,
    Sandbox,
    group,
    parse_container,
    parse_sandbox,
    with_container,
    with_sandbox,
)

log = logging.getLogger("pleg")

RELIST_S = 10.0
"""Period of the full list while events flow; without them it is RELIST_BLIND_S, upstream's generic PLEG period."""
RELIST_BLIND_S = 1.0
RETRY_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MAX_MESSAGE = 4096


class Pleg:
    def __init__(
        self, runtime: RuntimeClient, changed: Callable[[str], None], relisted: Callable[[], None] | None = None, *,
        ipv6_first: bool = False,
    ) -> None:  # fmt: skip
        self.pods: dict[str, PodRuntime] = {}
        self.synced = asyncio.Event()
        """Set after the first full list."""
        self.healthy = False
        self._runtime = runtime
        self._changed = changed
        self._relisted = relisted
        self._ipv6_first = ipv6_first
        self._connected = False

    def get(self, uid: str) -> PodRuntime:
        """What is known of a pod; an empty PodRuntime if nothing is."""
        return self.pods.get(uid) or PodRuntime(uid)

    async def run(self) -> None:
        """Follow the runtime for ever, through its deaths and returns."""
        await asyncio.gather(self._follow(), self._relist_forever())

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async for event in self._runtime.events():
                    if not event:
                        await self.relist()
                        self._connected = True
                        failures = 0
                        continue
                    await self._handle(event)
            except RuntimeFailure as e:
                if failures == 0:
                    log.warning("container runtime: %s", e)
            except Exception:
                log.exception("runtime events")
            self._connected = False
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
            failures += 1

    async def _relist_forever(self) -> None:
        while True:
            await asyncio.sleep(RELIST_S if self._connected else RELIST_BLIND_S)
            try:
                await self.relist()
            except RuntimeFailure as e:
                self.healthy = False
                log.debug("relist: %s", e)
            except Exception:
                log.exception("relist")

    async def relist(self) -> None:
        """Read everything; tell about the pods that differ from the cache."""
        sandboxes = await self._runtime.call("ListPodSandbox")
        containers = await self._runtime.call("ListContainers")
        known = {c.id: c for pod in self.pods.values() for c in pod.containers}
        found = []
        for status in containers.get("containers") or []:
            container = parse_container(status)
            old = known.get(container.id)
            if old is not None and old.state == EXITED == container.state:
                container = old  # its termination message has been read
            else:
                container = self._with_message(container, known)
            found.append(container)
        fresh = group((self._parse(s) for s in sandboxes.get("items") or []), found)
        fresh.pop("", None)
        before, self.pods = self.pods, fresh
        self.healthy = True
        self.synced.set()
        for uid in {**before, **fresh}:
            if before.get(uid) != fresh.get(uid):
                self._changed(uid)
        if self._relisted is not None:
            self._relisted()

    def _parse(self, status: Mapping[str, Any]) -> Sandbox:
        return parse_sandbox(status, ipv6_first=self._ipv6_first)

    async def _handle(self, event: dict[str, str]) -> None:
        kind = event.get("containerEventType", "")
        container_id, sandbox_id = event.get("containerId", ""), event.get("podSandboxId", "")
        if container_id == sandbox_id or not container_id:
            await self.refresh_sandbox(sandbox_id)
            return
        known = next((c for pod in self.pods.values() for c in pod.containers if c.id == container_id), None)
        if kind == "CONTAINER_DELETED_EVENT":
            self.drop_container(container_id)
            return
        if known is not None and (
            known.state == EXITED or kind == "CONTAINER_CREATED_EVENT" or (kind == "CONTAINER_STARTED_EVENT" and known.running)
        ):
            return
        if kind == "CONTAINER_CREATED_EVENT":
            return  # whoever made it will tell when it runs
        await self.refresh_container(container_id)

    async def refresh_sandbox(self, sandbox_id: str, *, tell: bool = True) -> None:
        """Read one sandbox's status into the cache, and its containers' too if it has ended."""
        try:
            answer = await self._runtime.call("PodSandboxStatus", podSandboxId=sandbox_id)
        except RuntimeFailure as e:
            if e.code != "NotFound":
                raise
            for pod in list(self.pods.values()):
                if any(s.id == sandbox_id for s in pod.sandboxes):
                    pod.sandboxes = [s for s in pod.sandboxes if s.id != sandbox_id]
                    self._forget_if_empty(pod)
                    if tell:
                        self._changed(pod.uid)
            return
        sandbox = self._parse(answer["status"])
        if self.put_sandbox(sandbox):
            if not sandbox.ready:  # its containers ended with it: their events may be on their way or lost
                for container in [c for c in self.get(sandbox.pod_uid).containers if c.sandbox_id == sandbox_id and c.running]:
                    await self.refresh_container(container.id, tell=tell)
            if tell:
                self._changed(sandbox.pod_uid)

    async def refresh_container(self, container_id: str, *, tell: bool = True) -> Container | None:
        """Read one container's status into the cache (and wake its pod if something is new); None if it is gone."""
        try:
            answer = await self._runtime.call("ContainerStatus", containerId=container_id)
        except RuntimeFailure as e:
            if e.code != "NotFound":
                raise
            self.drop_container(container_id)
            return None
        container = parse_container(answer["status"])
        known = {c.id: c for c in self.get(container.pod_uid).containers}
        container = self._with_message(container, known)
        if self.put_container(container) and tell:
            self._changed(container.pod_uid)
        return container

    def put_container(self, container: Container) -> bool:
        """Put a container into the cache; False if it was there just so."""
        pod = self.pods.setdefault(container.pod_uid, PodRuntime(container.pod_uid))
        old = pod.by_id(container.id)
        if old == container or (old is not None and old.state == EXITED):
            return False
        with_container(pod, container)
        return True

    def put_sandbox(self, sandbox: Sandbox) -> bool:
        pod = self.pods.setdefault(sandbox.pod_uid, PodRuntime(sandbox.pod_uid, sandbox.pod_name, sandbox.namespace))
        if sandbox in pod.sandboxes:
            return False
        pod.name, pod.namespace = sandbox.pod_name, sandbox.namespace
        with_sandbox(pod, sandbox)
        return True

    def drop_container(self, container_id: str) -> None:
        for pod in list(self.pods.values()):
            if pod.by_id(container_id) is not None:
                pod.containers = [c for c in pod.containers if c.id != container_id]
                self._forget_if_empty(pod)

    def drop_sandbox(self, sandbox_id: str) -> None:
        """A removed sandbox takes its containers with it."""
        for pod in list(self.pods.values()):
            if any(s.id == sandbox_id for s in pod.sandboxes):
                pod.sandboxes = [s for s in pod.sandboxes if s.id != sandbox_id]
                pod.containers = [c for c in pod.containers if c.sandbox_id != sandbox_id]
                self._forget_if_empty(pod)

    def _forget_if_empty(self, pod: PodRuntime) -> None:
        if not pod.sandboxes and not pod.containers:
            self.pods.pop(pod.uid, None)

    def _with_message(self, container: Container, known: dict[str, Container]) -> Container:
        """The container with its termination message, read once, when it has ended."""
        if container.state != EXITED:
            return container
        old = known.get(container.id)
        if old is not None and old.state == EXITED:
            return old
        message = ""
        if container.termination_path:
            try:
                with open(container.termination_path, "rb") as f:
                    message = f.read(MAX_MESSAGE).decode(errors="replace")
            except OSError:
                message = ""
        if not message and container.termination_policy == "FallbackToLogsOnError" and container.exit_code != 0:
            message = logs.last_lines(container.log_path, 80, 2048)
        return dataclasses.replace(container, message=message) if message else container
