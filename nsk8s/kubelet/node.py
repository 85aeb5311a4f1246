"""Registers the Node, keeps its status and its Lease. Touches: the API, the runtime's socket, the clock.

Upstream: kubelet_node_status.go, component-helpers/apimachinery/lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.events import NORMAL, EventRecorder
from nsk8s.client.resources import LEASES, NODES
from nsk8s.client.rest import STRATEGIC_PATCH, Client, Unreachable
from nsk8s.errors import AlreadyExists, Conflict, NotFound, StatusError
from nsk8s.kubelet import machine as machines
from nsk8s.kubelet import nodestatus
from nsk8s.kubelet.config import Config
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure

log = logging.getLogger("node")

FAST_POLL_S = 0.02
SLOW_POLL_S = 5.0
"""The runtime's Status is asked often while it says not ready, and upstream's every 5 s once it is."""
RUNTIME_SILENCE_S = 30.0
"""Only when the runtime has not answered for so long is the node NotReady. Upstream: maxWaitForContainerRuntime."""


class NodeKeeper:
    def __init__(
        self, client: Client, runtime: RuntimeClient, recorder: EventRecorder, config: Config, network_ready: Callable[[], None]
    ) -> None:
        self.machine = machines.read(config.node_name, config.root_dir)
        self.allocatable = nodestatus.allocatable(config, self.machine)
        self.network_ready = asyncio.Event()
        self.registered = asyncio.Event()
        self.node: Object = {}
        """The Node as last seen."""
        self._client = client
        self._runtime = runtime
        self._recorder = recorder
        self._config = config
        self._on_network_ready = network_ready
        self._conditions: dict[str, Object] | None = None
        self._error = ""
        self._wake = asyncio.Event()
        self._shutting_down = False

    @property
    def reference(self) -> Object:
        """What events about the node point at: upstream uses the name as uid."""
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._config.node_name, "uid": self._config.node_name}}

    @property
    def not_ready_message(self) -> str:
        return str(nodestatus.ready_condition(self._conditions, self._error)["message"])

    async def run(self) -> None:
        await asyncio.gather(self._watch_runtime(), self._keep_status(), self._keep_lease())

    def seen(self, old: Object | None, new: Object | None) -> None:
        """The Node as the server has it. What others wrote into the status is put right at once: a node that was given up as
        silent is there again. (Upstream reads its Node before every update of the status.)"""
        if new is not None and self.node:
            self.node = new
            if nodestatus.conditions_differ(new.get("status") or {}, self._wanted_conditions()):
                self._wake.set()

    async def shut_down(self, message: str) -> None:
        """Tell that the node is going away (graceful shutdown)."""
        self._shutting_down = True
        await self._update(force=True)
        log.info("%s", message)

    async def _watch_runtime(self) -> None:
        loop = asyncio.get_running_loop()
        answered = since_ready = 0.0
        poll = FAST_POLL_S
        while True:
            before = self._conditions
            try:
                answer = await self._runtime.call("Status", 10)
                self._conditions = _by_type(answer)
                self._error = ""
                answered = loop.time()
            except RuntimeFailure as e:
                if self._conditions is None or loop.time() - answered > RUNTIME_SILENCE_S:
                    self._conditions, self._error = None, str(e)
            if self._conditions != before:
                self._wake.set()
            network = (self._conditions or {}).get("NetworkReady", {}).get("status") in (True, "True")
            ready = nodestatus.ready_condition(self._conditions)["status"] == "True"
            if not network:
                self.network_ready.clear()
            elif not self.network_ready.is_set():
                self.network_ready.set()
                self._on_network_ready()
            if ready:
                poll, since_ready = SLOW_POLL_S, 0.0
            else:  # poll fast for what is about to become ready, but not for ever
                since_ready += poll
                poll = FAST_POLL_S if since_ready < 10 else min(poll * 1.5, 1.0)
            await asyncio.sleep(poll)

    def _wanted_conditions(self) -> list[Object]:
        ready = nodestatus.ready_condition(self._conditions, self._error)
        if self._shutting_down:
            ready = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "node is shutting down"}
        return [*nodestatus.pressure_conditions(machines.memory_available()), ready]

    async def _register(self) -> None:
        """Create the Node, or take over the one that is there. Upstream: registerWithAPIServer."""
        delay = 0.05
        while not self.registered.is_set():
            try:
                now = datetime.now(UTC)
                try:
                    wanted = nodestatus.initial_node(self._config, self.machine, self._wanted_conditions(), now)
                    self.node = await self._client.create(NODES, wanted)
                    self._tell_changes({}, wanted["status"])
                except AlreadyExists:
                    self.node = await self._client.get(NODES, self._config.node_name)
                    missing = nodestatus.reconcile_labels(self.node, self._config, self.machine)
                    if missing:
                        body = {"metadata": {"labels": missing}}
                        self.node = await self._client.patch(NODES, self._config.node_name, body)
                log.info("Successfully registered node %s", self._config.node_name)
                self.registered.set()
            except (StatusError, Unreachable) as e:
                log.warning("Unable to register node %s with API server: %s", self._config.node_name, e)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 7.0)

    async def _keep_status(self) -> None:
        if self._config.register_node:
            await self._register()
        else:
            self.registered.set()
        reported: datetime | None = None
        failures = 0
        while True:
            self._wake.clear()
            now = datetime.now(UTC)
            try:
                due = nodestatus.report_due(reported, now, self._config.node_status_report_s)
                async with self._heartbeat():
                    sent = await self._update(force=due)
                reported = now if sent else reported
                failures = 0
                pause = self._config.node_status_update_s
            except (StatusError, Unreachable) as e:
                log.warning("Error updating node status, will retry: %s", e)
                failures += 1
                await self._distrust_connections(e, failures)
                pause = min(0.1 * 2**failures, self._config.node_status_update_s)
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                continue

    @contextlib.asynccontextmanager
    async def _heartbeat(self) -> AsyncIterator[None]:
        """A heartbeat must be through before the next one is due. Raises Unreachable."""
        limit_s = min(self._config.node_status_update_s, self._config.lease_duration_s)
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as e:
            raise Unreachable(f"no answer in {limit_s:g} s") from e

    async def _distrust_connections(self, error: Exception, failures: int) -> None:
        """After a cut cable TCP waits longer and longer: dial anew instead. Upstream: onRepeatedHeartbeatFailure."""
        if failures > 1 and isinstance(error, Unreachable):
            await self._client.close_connections()

    async def _update(self, force: bool) -> bool:
        """Patch the status if it changed (or `force`); True if it was sent."""
        if not self.node:
            self.node = await self._client.get(NODES, self._config.node_name)
        old = self.node.get("status") or {}
        new = nodestatus.status(self._config, self.machine, self._wanted_conditions(), old, datetime.now(UTC))
        if not force and not nodestatus.changed(old, new):
            return False
        body = {"status": {**new, "addresses": [{"$patch": "replace"}, *new["addresses"]]}}
        self.node = await self._client.patch(
            NODES, self._config.node_name, body, subresource="status", content_type=STRATEGIC_PATCH
        )
        self._tell_changes(old, new)
        return True

    def _tell_changes(self, old: Object, new: Object) -> None:
        before = {c["type"]: c.get("status") for c in old.get("conditions") or []}
        for condition in new["conditions"]:
            if before.get(condition["type"]) != condition["status"]:
                reason = nodestatus.EVENT_OF.get((condition["type"], condition["status"]))
                if reason and not (reason == "NodeNotReady" and not before):
                    text = f"Node {self._config.node_name} status is now: {reason}"
                    self._recorder.event(self.reference, NORMAL, reason, text)

    async def _keep_lease(self) -> None:
        await self.registered.wait()
        name = self._config.node_name
        interval = nodestatus.renew_interval_s(self._config.lease_duration_s)
        current: Object | None = None
        failures = 0
        while True:
            try:
                async with self._heartbeat():
                    current = await self._renew(name, current)
                failures = 0
                pause = interval
            except (StatusError, Unreachable) as e:
                current = None if isinstance(e, StatusError) else current
                failures += 1
                log.warning("Failed to update lease: %s", e)
                await self._distrust_connections(e, failures)
                pause = min(0.2 * 2**failures, 7.0, interval)
            await asyncio.sleep(pause)

    async def _renew(self, name: str, current: Object | None) -> Object:
        node_uid = meta.uid(self.node) if self.node else ""
        wanted = nodestatus.lease(name, node_uid, self._config.lease_duration_s, datetime.now(UTC))
        if current is None:
            try:
                current = await self._client.get(LEASES, name, "kube-node-lease")
            except NotFound:
                return await self._client.create(LEASES, wanted)
        try:
            return await self._client.update(LEASES, {**current, "spec": {**(current.get("spec") or {}), **wanted["spec"]}})
        except Conflict:
            current = await self._client.get(LEASES, name, "kube-node-lease")
            return await self._client.update(LEASES, {**current, "spec": {**(current.get("spec") or {}), **wanted["spec"]}})


def _by_type(answer: dict[str, Any]) -> dict[str, Object]:
    return {c["type"]: c for c in (answer.get("status") or {}).get("conditions") or []}
