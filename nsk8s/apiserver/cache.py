"""The server's memory of what is stored: decoded objects, kept true by one watch on the store, and who hears of changes.

Every read is answered from here. One change becomes one `Change`; each form in which watchers want it is encoded once and
the bytes are shared. Watchers are indexed by resource, and by the one name or node that they ask for.
Objects here are shared: nobody may change them. Upstream: apiserver/pkg/storage/cacher.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import orjson

from nsk8s.api.meta import Object
from nsk8s.store.base import Event, KeyValue, Store

log = logging.getLogger("cache")

PREFIX = "/registry/"
WATCH_QUEUE_LIMIT = 20_000
"""Changes that a slow watcher may lag behind before it is ended (it then lists again)."""

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"

Bucket = tuple[str, str]
"""What a watcher is limited to: ("", "") nothing, ("metadata.name", "x") or ("spec.nodeName", "node1")."""
ALL: Bucket = ("", "")


def storage_key(group_resource: str, namespace: str, name: str) -> str:
    return f"{PREFIX}{group_resource}/{namespace}/{name}" if namespace else f"{PREFIX}{group_resource}/{name}"


def split_storage_key(key: str) -> tuple[str, str, str]:
    """(group resource, namespace, name)."""
    parts = key.split("/")
    return (parts[2], parts[3], parts[4]) if len(parts) > 4 else (parts[2], "", parts[3])


def decode(kv: KeyValue, revision: int = 0) -> Object:
    """The object with its resourceVersion filled in."""
    obj: Object = orjson.loads(kv.value)
    obj["metadata"]["resourceVersion"] = str(revision or kv.mod_revision)
    return obj


class Change:
    """One change of one object: `obj` is the state after it (for DELETED the last state, at the deletion's revision)."""

    __slots__ = ("encoded", "obj", "prev", "revision", "type")

    def __init__(self, kind: str, obj: Object, prev: Object | None, revision: int) -> None:
        self.type = kind
        self.obj = obj
        self.prev = prev
        self.revision = revision
        self.encoded: dict[Hashable, bytes] = {}

    @classmethod
    def from_event(cls, event: Event) -> Change:
        prev = decode(event.prev) if event.prev else None
        if event.deleted:
            assert event.prev is not None
            return cls(DELETED, decode(event.prev, event.revision), prev, event.revision)
        return cls(MODIFIED if prev else ADDED, decode(event.kv), prev, event.revision)

    def leaving(self) -> Object:
        """The object as a watcher sees it that loses it from its selection: the state before, at this revision."""
        if self.type == DELETED or self.prev is None:
            return self.obj
        return {**self.prev, "metadata": {**self.prev["metadata"], "resourceVersion": str(self.revision)}}


class Watcher:
    """A queue of changes with a wake-up; ended by `close`."""

    __slots__ = ("_bucket", "_cache", "_namespace", "_queue", "_waiter", "closed")

    def __init__(self, cache: ResourceCache, bucket: Bucket, namespace: str) -> None:
        self._cache = cache
        self._bucket = bucket
        self._namespace = namespace
        self._queue: deque[Change] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False

    def offer(self, change: Change) -> None:
        if self._namespace and change.obj["metadata"].get("namespace") != self._namespace:
            return
        if len(self._queue) >= WATCH_QUEUE_LIMIT:
            self.close()
            return
        self._queue.append(change)
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until there is something to drain, or `wake` or `close` was called."""
        if self._queue or self.closed:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def drain(self) -> list[Change]:
        changes = list(self._queue)
        self._queue.clear()
        return changes

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._cache.discard(self._bucket, self)
            self.wake()


class ResourceCache:
    """All objects of one resource, by namespace and name."""

    def __init__(self, group_resource: str) -> None:
        self.group_resource = group_resource
        self.revision = 0
        """The revision of the last change of this resource."""
        self._namespaces: dict[str, dict[str, Object]] = {}
        self._watchers: dict[Bucket, set[Watcher]] = {}
        self._listeners: list[Callable[[Change], None]] = []
        self.size = 0

    def get(self, namespace: str, name: str) -> Object | None:
        return self._namespaces.get(namespace, {}).get(name)

    def list(self, namespace: str = "") -> Iterator[Object]:
        """The objects of a namespace ("" = of all), ordered by namespace and name as etcd orders keys."""
        spaces = [namespace] if namespace else sorted(self._namespaces)
        for space in spaces:
            objects = self._namespaces.get(space)
            if objects:
                for name in sorted(objects):
                    yield objects[name]

    def values(self, namespace: str = "") -> Iterator[Object]:
        """As list, in no order."""
        for space in [namespace] if namespace else list(self._namespaces):
            yield from list_values(self._namespaces.get(space))

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` synchronously with every change from now on."""
        self._listeners.append(listener)

    def subscribe(self, bucket: Bucket, namespace: str) -> Watcher:
        watcher = Watcher(self, bucket, namespace)
        self._watchers.setdefault(bucket, set()).add(watcher)
        return watcher

    def discard(self, bucket: Bucket, watcher: Watcher) -> None:
        watchers = self._watchers.get(bucket)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[bucket]

    def watcher_count(self) -> int:
        return sum(len(w) for w in self._watchers.values())

    def close_watchers(self) -> None:
        for watchers in list(self._watchers.values()):
            for watcher in list(watchers):
                watcher.close()

    def put(self, namespace: str, name: str, obj: Object) -> Object | None:
        objects = self._namespaces.setdefault(namespace, {})
        prev = objects.get(name)
        objects[name] = obj
        if prev is None:
            self.size += 1
        return prev

    def apply(self, event: Event, namespace: str, name: str) -> None:
        """Take in one event of the store and tell everybody."""
        prev = self.get(namespace, name)
        if event.deleted:
            if prev is None:
                return
            del self._namespaces[namespace][name]
            self.size -= 1
            if not self._namespaces[namespace]:
                del self._namespaces[namespace]
            last = {**prev, "metadata": {**prev["metadata"], "resourceVersion": str(event.revision)}}
            change = Change(DELETED, last, prev, event.revision)
        else:
            obj = decode(event.kv)
            self.put(namespace, name, obj)
            change = Change(MODIFIED if prev else ADDED, obj, prev, event.revision)
        self.revision = event.revision
        for listener in self._listeners:
            listener(change)
        for bucket in self._buckets(change):
            for watcher in list(self._watchers.get(bucket, ())):
                watcher.offer(change)

    def _buckets(self, change: Change) -> set[Bucket]:
        buckets = {ALL, ("metadata.name", change.obj["metadata"]["name"])}
        if self.group_resource == "pods":
            for obj in (change.obj, change.prev):
                if obj is not None:
                    buckets.add(("spec.nodeName", (obj.get("spec") or {}).get("nodeName") or ""))
        return buckets


def list_values(objects: dict[str, Object] | None) -> list[Object]:
    return list(objects.values()) if objects else []


class Cache:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.revision = 0
        self.ready = asyncio.Event()
        self._resources: dict[str, ResourceCache] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = 0

    def resource(self, group_resource: str) -> ResourceCache:
        found = self._resources.get(group_resource)
        if found is None:
            found = self._resources[group_resource] = ResourceCache(group_resource)
        return found

    def resources(self) -> list[ResourceCache]:
        return list(self._resources.values())

    def get(self, group_resource: str, namespace: str, name: str) -> Object | None:
        return self.resource(group_resource).get(namespace, name)

    async def load(self) -> None:
        """Read everything that is stored."""
        page = await self.store.list(PREFIX)
        for kv in page.items:
            group_resource, namespace, name = split_storage_key(kv.key)
            cache = self.resource(group_resource)
            cache.put(namespace, name, decode(kv))
            cache.revision = max(cache.revision, kv.mod_revision)
        # A deletion leaves no trace in the list: what was deleted before the start is assumed to have been just now.
        for cache in self._resources.values():
            cache.revision = page.revision
        self.revision = page.revision

    async def follow(self) -> None:
        """Keep up with the store, for ever."""
        watch = await self.store.watch(PREFIX, self.revision)
        self.ready.set()
        try:
            async for events in watch:
                for event in events:
                    group_resource, namespace, name = split_storage_key(event.kv.key)
                    self.resource(group_resource).apply(event, namespace, name)
                    self.revision = event.revision
                self._release()
        finally:
            watch.close()

    async def wait_for(self, revision: int) -> None:
        """Until the cache has seen `revision`."""
        if self.revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        insort(self._waiting, (revision, self._serial, future))
        await future

    async def fresh(self) -> None:
        """Until the cache holds all that was acknowledged before this call: a linearisable read."""
        await self.wait_for(await self.store.revision())

    def _release(self) -> None:
        done = 0
        for revision, _, future in self._waiting:
            if revision > self.revision:
                break
            if not future.done():
                future.set_result(None)
            done += 1
        del self._waiting[:done]

    def close(self) -> None:
        for cache in self._resources.values():
            cache.close_watchers()


def clone(obj: Any) -> Any:
    """A private deep copy of JSON (faster than copy.deepcopy by an order of magnitude)."""
    return orjson.loads(orjson.dumps(obj))
