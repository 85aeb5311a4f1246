"""Sends pod statuses to the API server: only what changed, the newest only, and the final delete. Touches: the API.

Upstream: kubelet/status.Manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import PODS
from nsk8s.client.rest import STRATEGIC_PATCH, Client, Unreachable
from nsk8s.errors import Conflict, NotFound, StatusError
from nsk8s.kubelet.static import is_static
from nsk8s.kubelet.status import status_patch

log = logging.getLogger("status")

LAZY_S = 0.1
"""A status that says only that containers are being made may wait for the next one: usually it is already running then."""
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
IN_FLIGHT = 4
"""Patches under way at once: more only queue up inside the API server."""


class _Entry:
    __slots__ = ("delay_s", "delete", "desired", "pod", "sent", "sent_version", "target", "task", "urgent")

    def __init__(self, pod: Object, target: Object | None) -> None:
        self.pod = pod
        self.target = target
        """The API's object that has the status: a static pod's is its mirror, which comes and goes."""
        self.desired: Object = {}
        self.sent: Object = (target or {}).get("status") or {}  # the status the server has, as far as we know
        self.sent_version = _version(target) if target else 0
        self.task: asyncio.Task[None] | None = None
        self.urgent = asyncio.Event()
        self.delete = False
        self.delay_s = RETRY_FIRST_S


def _version(pod: Object) -> int:
    text = meta.resource_version(pod)
    return int(text) if text.isdigit() else 0


class StatusManager:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._entries: dict[str, _Entry] = {}
        self._mirrors: dict[str, Object] = {}
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    def get(self, uid: str) -> Object | None:
        """The newest status that was set, sent or not."""
        entry = self._entries.get(uid)
        return entry.desired or None if entry else None

    def set(self, pod: Object, status: Object, *, lazy: bool = False) -> None:
        """Make `status` the pod's; returns at once."""
        entry = self._entry(pod)
        if entry.desired == status:
            return
        entry.desired = status
        self._start(entry, lazy)

    def observe(self, pod: Object) -> None:
        """The server's newest version of a pod: what it holds is compared with what it should hold."""
        entry = self._entries.get(meta.uid(pod))
        if entry is None:
            return
        entry.pod = entry.target = pod
        if _version(pod) >= entry.sent_version:
            entry.sent, entry.sent_version = pod.get("status") or {}, _version(pod)
            if entry.desired and status_patch(entry.sent, entry.desired, "") is not None:
                self._start(entry, False)

    def mirror(self, uid: str, mirror: Object | None) -> None:
        """The mirror of the static pod `uid` is this now."""
        if mirror is None:
            self._mirrors.pop(uid, None)
        else:
            self._mirrors[uid] = mirror
        entry = self._entries.get(uid)
        if entry is None:
            return
        if mirror is None or entry.target is None or meta.uid(mirror) != meta.uid(entry.target):
            entry.sent_version = 0
        entry.target = mirror
        if mirror is not None and _version(mirror) >= entry.sent_version:
            entry.sent, entry.sent_version = mirror.get("status") or {}, _version(mirror)
            if entry.desired:
                self._start(entry, False)

    def finish(self, pod: Object) -> None:
        """Everything of the pod has ended: delete it from the API once its last status is there."""
        entry = self._entry(pod)
        if not entry.delete:
            entry.delete = True
            self._start(entry, False)

    def forget(self, uid: str) -> None:
        entry = self._entries.pop(uid, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()

    def _entry(self, pod: Object) -> _Entry:
        entry = self._entries.get(meta.uid(pod))
        if entry is None:
            target = self._mirrors.get(meta.uid(pod)) if is_static(pod) else pod
            entry = self._entries[meta.uid(pod)] = _Entry(pod, target)
        return entry

    def _start(self, entry: _Entry, lazy: bool) -> None:
        if not lazy:
            entry.urgent.set()
        if entry.task is None or entry.task.done():
            entry.task = asyncio.ensure_future(self._send(entry))

    async def _send(self, entry: _Entry) -> None:
        """Until the server has what is desired."""
        while True:
            if not entry.urgent.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(entry.urgent.wait(), LAZY_S)
            entry.urgent.clear()
            if entry.target is None:
                return
            patch = status_patch(entry.sent, entry.desired, meta.uid(entry.target)) if entry.desired else None
            if patch is None and not entry.delete:
                return
            try:
                async with self._slots:
                    await self._send_once(entry, patch)
                entry.delay_s = RETRY_FIRST_S
            except NotFound:
                return
            except Conflict as e:  # another pod has taken the name: ours is gone
                log.info("status of %s: %s", meta.key(entry.pod), e)
                return
            except (StatusError, Unreachable) as e:
                log.warning("Failed to update status for pod %s: %s", meta.key(entry.pod), e)
                await asyncio.sleep(entry.delay_s)
                entry.delay_s = min(entry.delay_s * 2, RETRY_MAX_S)
                entry.urgent.set()
                continue
            if not entry.urgent.is_set():
                return

    async def _send_once(self, entry: _Entry, patch: Object | None) -> None:
        name, namespace = meta.name(entry.pod), meta.namespace(entry.pod)
        if patch is not None:
            goal = entry.desired
            answer = await self._client.patch(
                PODS, name, patch, namespace, subresource="status", content_type=STRATEGIC_PATCH
            )
            if _version(answer) >= entry.sent_version:
                entry.sent, entry.sent_version = answer.get("status") or {}, _version(answer)
            if status_patch(entry.sent, goal, "") is not None:
                log.debug("%s: the server keeps another status: %s", meta.key(entry.pod), status_patch(entry.sent, goal, ""))
        if entry.delete and not entry.urgent.is_set():
            await self._client.delete(PODS, name, namespace, grace_period_s=0, uid=meta.uid(entry.pod))
