"""List, watch, keep a cache, tell handlers. Upstream: client-go/tools/cache (Reflector, SharedIndexInformer). Touches: the API.

The cache holds the server's objects themselves: readers must not change them (copy first).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import Resource
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import Gone, StatusError

log = logging.getLogger("informer")

Handler = Callable[[Object | None, Object | None], None]
"""(old, new): added when old is None, deleted when new is None, else updated."""
IndexFunc = Callable[[Object], Iterable[str]]

FIRST_RETRY_S = 0.03
RETRY_FACTOR = 1.4
MAX_RETRY_S = 5.0
"""client-go backs off from 0.8 s to 30 s for thousands of clients; here a class waits for the API server to come back."""


class Informer:
    """The objects of one resource (optionally one namespace or selector), kept true by a watch."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        indexers: dict[str, IndexFunc] | None = None,
        keep: Callable[[Object], Object] | None = None,
    ) -> None:
        """`keep`: what is cached of an object, at least its name and resourceVersion. Handlers are told the whole new object and
        what was kept of the old one, so that who holds values of their own need not hold the objects, too."""
        self.resource = resource
        self.synced = asyncio.Event()
        """Set once the first list has been delivered to the handlers."""
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._keep = keep
        self._objects: dict[str, Object] = {}
        self._handlers: list[Handler] = []
        self._indexers = indexers or {}
        self._indices: dict[str, dict[str, set[str]]] = {name: {} for name in self._indexers}
        self._resource_version = ""

    def add_handler(self, handler: Handler) -> None:
        """Call before `run`. Handlers are plain functions; they must be quick and not raise."""
        self._handlers.append(handler)

    def get(self, key: str) -> Object | None:
        """The cached object under `namespace/name` (or `name`)."""
        return self._objects.get(key)

    def items(self, namespace: str = "") -> list[Object]:
        """All cached objects, or those of one namespace."""
        if not namespace:
            return list(self._objects.values())
        return [o for o in self._objects.values() if meta.namespace(o) == namespace]

    def keys(self) -> list[str]:
        return list(self._objects)

    def by_index(self, index: str, value: str) -> list[Object]:
        """The objects for which the indexer `index` yields `value`."""
        return [self._objects[k] for k in self._indices[index].get(value, ())]

    async def run(self) -> None:
        """List and watch for ever, relisting on 410 and reconnecting with backoff. Cancel to stop."""
        delay = FIRST_RETRY_S
        while True:
            try:
                if not self._resource_version:
                    await self._relist()
                delay = FIRST_RETRY_S
                await self._follow()
                continue
            except Gone:
                log.info("%s: watch is too old, listing again", self.resource.plural)
                self._resource_version = ""
                continue
            except (Unreachable, StatusError) as e:
                log.warning("%s: %s", self.resource.plural, e)
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(delay * RETRY_FACTOR, MAX_RETRY_S)

    async def _relist(self) -> None:
        answer = await self._client.list(
            self.resource, self._namespace, label_selector=self._label_selector, field_selector=self._field_selector,
            resource_version="0",
        )  # fmt: skip
        fresh = {meta.key(o): o for o in answer.pop("items", None) or []}
        for key in [k for k in self._objects if k not in fresh]:
            self._put(key, None)
        for key in list(fresh):
            obj, old = fresh.pop(key), self._objects.get(key)  # one by one: what is not kept is free for what comes of the next
            if old is None or meta.resource_version(old) != meta.resource_version(obj):
                self._put(key, obj)
        self._resource_version = answer["metadata"]["resourceVersion"]
        self.synced.set()

    async def _follow(self) -> None:
        async for event in self._client.watch(
            self.resource, self._namespace, resource_version=self._resource_version,
            label_selector=self._label_selector, field_selector=self._field_selector,
        ):  # fmt: skip
            self._resource_version = meta.resource_version(event.object)
            if event.type == "BOOKMARK":
                continue
            self._put(meta.key(event.object), None if event.type == "DELETED" else event.object)

    def _put(self, key: str, new: Object | None) -> None:
        old = self._objects.get(key)
        kept = None
        if new is not None:
            kept = self._objects[key] = self._keep(new) if self._keep else new
        elif old is not None:
            del self._objects[key]
        else:
            return
        for name, function in self._indexers.items():
            index = self._indices[name]
            if old is not None:
                for value in function(old):
                    index.get(value, set()).discard(key)
                    if not index.get(value):
                        index.pop(value, None)
            if kept is not None:
                for value in function(kept):
                    index.setdefault(value, set()).add(key)
        for handler in self._handlers:
            try:
                handler(old, new)
            except Exception:
                log.exception("handler of %s failed for %s", self.resource.plural, key)


async def wait_synced(*informers: Informer) -> None:
    await asyncio.gather(*(i.synced.wait() for i in informers))
