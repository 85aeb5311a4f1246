"""A reconciler: keys come from informers, one worker a key, failures come back later. Upstream: the controller pattern of
client-go. Touches: event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.informer import Informer, wait_synced
from nsk8s.client.rest import Unreachable
from nsk8s.client.workqueue import ShutDown, WorkQueue
from nsk8s.errors import Conflict, StatusError

log = logging.getLogger("controller")

Reconcile = Callable[[str], Awaitable[float | None]]
"""(key) → None when done, or seconds after which the key wants to be looked at again. Raise to be retried with backoff."""


class Controller:
    """`enqueue` keys, `run` workers that call `reconcile(key)`."""

    def __init__(self, name: str, reconcile: Reconcile, workers: int = 5) -> None:
        self.name = name
        self.queue = WorkQueue()
        self._reconcile = reconcile
        self._workers = workers
        self._informers: list[Informer] = []

    def watch(self, informer: Informer, keys: Callable[[Object], list[str]] | None = None) -> None:
        """Enqueue on every change in `informer`: the object's own key, or what `keys(object)` says (of the old and new one)."""

        def handle(old: Object | None, new: Object | None) -> None:
            for obj in (old, new):
                if obj is not None:
                    for key in [meta.key(obj)] if keys is None else keys(obj):
                        self.queue.add(key)

        informer.add_handler(handle)
        self._informers.append(informer)

    async def run(self) -> None:
        """Work until cancelled, once every watched informer is synced."""
        await wait_synced(*self._informers)
        try:
            await asyncio.gather(*(self._work() for _ in range(self._workers)))
        finally:
            self.queue.shut_down()

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except ShutDown:
                return
            try:
                again_s = await self._reconcile(key)
            except Conflict as e:  # someone else was faster: the watch brings the newer object
                log.debug("%s %s: %s", self.name, key, e)
                self.queue.add_rate_limited(key)
            except (StatusError, Unreachable) as e:
                log.warning("%s %s: %s", self.name, key, e)
                self.queue.add_rate_limited(key)
            except Exception:
                log.exception("%s %s failed", self.name, key)
                self.queue.add_rate_limited(key)
            else:
                self.queue.forget(key)
                if again_s is not None:
                    self.queue.add_after(key, again_s)
            finally:
                self.queue.done(key)
