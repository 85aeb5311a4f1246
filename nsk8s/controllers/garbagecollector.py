"""The garbage collector: objects whose owners are gone go too. Touches: the API.

Upstream: pkg/controller/garbagecollector. The graph is built by watching the metadata of every resource the server has; before
anything is deleted, the object and its owners are read from the server itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.informer import Handler, Informer
from nsk8s.client.resources import Resource
from nsk8s.client.rest import Client, Unreachable
from nsk8s.controllers.context import Context
from nsk8s.controllers.discovery import by_kind, preferred
from nsk8s.controllers.gcgraph import FOREGROUND, ORPHAN, Graph, Item, Owners, classify, owner_resource, propagation
from nsk8s.errors import Conflict, NotFound, StatusError

log = logging.getLogger("garbagecollector")

ABSENT_KEPT = 500
"""Upstream: absentOwnerCache."""

METADATA_ONLY = (
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,"
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
)
IGNORED = frozenset((("", "events"), ("events.k8s.io", "events"), ("", "bindings"), ("", "componentstatuses")))
RETRY_DISCOVERY_S = 5.0


class MetadataClient(Client):
    """Asks for metadata only."""

    def _headers(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**super()._headers(extra), "Accept": METADATA_ONLY}


class GarbageCollector:
    """Construct after all other controllers: their informers are used where there are any."""

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._client = ctx, ctx.client
        self._metadata = MetadataClient(ctx.client.config, "kube-controller-manager")
        self._graph = Graph()
        self._absent: dict[tuple[Resource, str, str, str], None] = {}
        """Owners known to be gone, the oldest knowledge first: (resource, namespace, name, uid)."""
        self._kinds: dict[tuple[str, str], Resource] = {}
        self._watched: dict[Resource, asyncio.Task[None] | None] = {}
        self._synced: list[Informer] = []
        self._changed = asyncio.Event()
        self._loop = Controller("garbage-collector-controller", self._reconcile, workers=8)
        for resource, informer in ctx.informers():
            informer.add_handler(self._handler(resource))
            self._watched[resource] = None
            self._synced.append(informer)

    def _handler(self, resource: Resource) -> Handler:
        def handle(old: Object | None, new: Object | None) -> None:
            if old is not None and (new is None or meta.uid(new) != meta.uid(old)):
                self._look(self._graph.remove(meta.uid(old)))
            if new is not None:
                if old is not None and _same(old, new):
                    return
                self._look(self._graph.put(Item.of(resource, new)))
            if resource.plural == "customresourcedefinitions":
                self._changed.set()

        return handle

    def _look(self, uids: set[str]) -> None:
        for uid in uids:
            self._loop.queue.add(uid)

    async def run(self) -> None:
        async with self._metadata:
            try:
                await asyncio.gather(self._follow_discovery(), self._loop.run())
            finally:
                tasks = [t for t in self._watched.values() if t is not None]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_discovery(self) -> None:
        """Watch what the server has; look again when a CustomResourceDefinition comes, changes or goes."""
        while True:
            self._changed.clear()
            try:
                known = await preferred(self._client)
            except (StatusError, Unreachable) as e:
                log.warning("discovery: %s", e.message)
                await asyncio.sleep(RETRY_DISCOVERY_S)
                continue
            self._kinds = by_kind(known)
            wanted = {
                k.resource for k in known
                if k.can("list", "watch", "delete") and (k.resource.group, k.resource.plural) not in IGNORED
            }  # fmt: skip
            for resource in wanted - self._watched.keys():
                informer = Informer(self._metadata, resource)
                informer.add_handler(self._handler(resource))
                self._watched[resource] = asyncio.ensure_future(informer.run())
            for resource in [r for r, t in self._watched.items() if t is not None and r not in wanted]:
                task = self._watched.pop(resource)
                assert task is not None
                task.cancel()
                for item in [i for i in self._graph.items.values() if i.resource == resource]:
                    self._look(self._graph.remove(item.uid))
            await self._changed.wait()
            await asyncio.sleep(0.5)  # a new CRD is served a moment after it is seen

    async def _reconcile(self, uid: str) -> float | None:
        item = self._graph.items.get(uid)
        if item is None:
            return None
        if item.deleting and not item.deletes_dependents and ORPHAN not in item.finalizers:
            return None
        live = await self._get(item.resource, item.name, item.namespace)
        if live is None or meta.uid(live) != uid:
            self._look(self._graph.remove(uid))
            return None
        fresh = Item.of(item.resource, live)
        if fresh.deleting:
            if ORPHAN in fresh.finalizers:
                return await self._orphan_dependents(fresh)
            if fresh.deletes_dependents:
                await self._delete_dependents(fresh)
            return None
        if not fresh.owners:
            return None
        owners = await self._owners(fresh)
        if owners is None:
            return 30.0  # an owner of a kind the server does not have (now): decide nothing
        await self._act(fresh, live, owners)
        return None

    async def _owners(self, item: Item) -> Owners | None:
        found: dict[str, Object | None] = {}
        for reference in item.owners:
            resource = owner_resource(reference, self._kinds)
            if resource is None:
                return None
            if resource.namespaced and not item.namespace:
                # A cluster-scoped object cannot have a namespaced owner: as upstream, say so and leave it.
                log.warning("%s %s has a namespaced owner %s", item.resource.kind, item.name, reference.get("name"))
                return None
            namespace = item.namespace if resource.namespaced else ""
            key = resource, namespace, str(reference.get("name", "")), str(reference["uid"])
            if key in self._absent:
                found[reference["uid"]] = None
                continue
            owner = found[reference["uid"]] = await self._get(resource, key[2], namespace)
            if owner is None or meta.uid(owner) != reference["uid"]:
                self._remember_absent(key)
        return classify(item, lambda r: found[r["uid"]])

    def _remember_absent(self, key: tuple[Resource, str, str, str]) -> None:
        """A uid that is gone never comes back: 500 pods need not ask 500 times for their ReplicaSet."""
        self._absent[key] = None
        while len(self._absent) > ABSENT_KEPT:
            del self._absent[next(iter(self._absent))]

    async def _act(self, item: Item, live: Object, owners: Owners) -> None:
        if owners.solid:
            if owners.dangling or owners.waiting:
                await self._set_owners(item, live, list(owners.solid))
            return
        if owners.waiting and self._graph.of(item.uid):
            for dependent in self._graph.of(item.uid):
                if dependent.deletes_dependents:  # a circle of foreground deletions: let go
                    await self._unblock(item, live)
                    break
            policy = "Foreground"
        else:
            policy = propagation(item.finalizers)
        log.info("deleting %s %s/%s (%s): no owner is left", item.resource.kind, item.namespace, item.name, policy)
        try:
            await self._client.delete(item.resource, item.name, item.namespace, uid=item.uid, propagation=policy)
        except NotFound:
            return
        except Conflict as e:
            log.debug("%s", e)

    async def _unblock(self, item: Item, live: Object) -> None:
        references = [{**r, "blockOwnerDeletion": False} for r in live["metadata"].get("ownerReferences") or []]
        await self._set_owners(item, live, references)

    async def _delete_dependents(self, item: Item) -> None:
        """Foreground: dependents first; the object's finalizer goes when nothing blocks it any more."""
        blocking = [d for d in self._graph.of(item.uid) if d.blocks(item.uid)]
        if not blocking:
            await self._remove_finalizer(item, FOREGROUND)
            return
        for dependent in blocking:
            if not dependent.deleting or dependent.deletes_dependents:
                self._loop.queue.add(dependent.uid)

    async def _orphan_dependents(self, item: Item) -> float | None:
        for dependent in self._graph.of(item.uid):
            live = await self._get(dependent.resource, dependent.name, dependent.namespace)
            if live is None or meta.uid(live) != dependent.uid:
                continue
            references = [r for r in live["metadata"].get("ownerReferences") or [] if r["uid"] != item.uid]
            await self._set_owners(dependent, live, references)
        await self._remove_finalizer(item, ORPHAN)
        return None

    async def _set_owners(self, item: Item, live: Object, references: list[Object]) -> None:
        body = {"metadata": {"ownerReferences": references or None, "resourceVersion": meta.resource_version(live)}}
        try:
            await self._client.patch(item.resource, item.name, body, item.namespace)
        except NotFound:
            return

    async def _remove_finalizer(self, item: Item, finalizer: str) -> None:
        live = await self._get(item.resource, item.name, item.namespace)
        if live is None or meta.uid(live) != item.uid:
            return
        have = live["metadata"].get("finalizers") or []
        left = [f for f in have if f != finalizer]
        if left == have:
            return
        body = {"metadata": {"finalizers": left or None, "resourceVersion": meta.resource_version(live)}}
        try:
            await self._client.patch(item.resource, item.name, body, item.namespace)
        except NotFound:
            return

    async def _get(self, resource: Resource, name: str, namespace: str) -> Object | None:
        try:
            return await self._client.get(resource, name, namespace)
        except NotFound:
            return None


def _same(old: Object, new: Object) -> bool:
    """Whether nothing changed that the graph holds."""
    a, b = old["metadata"], new["metadata"]
    return (
        a.get("ownerReferences") == b.get("ownerReferences")
        and a.get("finalizers") == b.get("finalizers")
        and bool(a.get("deletionTimestamp")) == bool(b.get("deletionTimestamp"))
    )
