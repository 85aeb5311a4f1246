"""Gives Services of type LoadBalancer their address and takes it back. Touches: the API.

Upstream: cloud-provider/controllers/service with a cloud whose load balancer is an address that the network leads to the nodes
(as MetalLB's controller). What is allocated stands in the Services' status, nowhere else: a restart reads it back.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.client.informer import Informer
from nsk8s.client.resources import SERVICES
from nsk8s.client.rest import Client
from nsk8s.errors import NotFound
from nsk8s.loadbalancer import services
from nsk8s.loadbalancer.pool import NoAddress, Pool
from nsk8s.loadbalancer.services import Sharing

log = logging.getLogger("service-lb")

COMPONENT = "service-controller"
"""The source of upstream's Events."""


class ServiceController:
    """`run` until cancelled. One worker: addresses are given out one after the other."""

    def __init__(self, client: Client, pool: Pool) -> None:
        self._client = client
        self._pool = pool
        self._events = EventRecorder(client, COMPONENT)
        self._services = Informer(client, SERVICES, indexers={"address": lambda s: services.held(s, pool)})
        self._loop = Controller("service-lb", self._reconcile, workers=1)
        self._loop.watch(self._services)
        self._services.add_handler(self._seen)
        self._written: dict[str, list[str]] = {}
        """Service → addresses written into its status, until the cache shows them."""
        self._waiting: dict[str, str] = {}
        """Service → why it has no address: looked at again whenever one becomes free."""

    async def run(self) -> None:
        await asyncio.gather(self._services.run(), self._events.run(), self._loop.run())

    def _seen(self, old: Object | None, new: Object | None) -> None:
        either = new or old
        assert either is not None
        key = meta.key(either)
        now = services.held(new, self._pool) if new is not None else []
        if new is None or self._written.get(key) == now:
            self._written.pop(key, None)
        if new is None:
            self._waiting.pop(key, None)
        changed = old is not None and new is not None and Sharing.of(old) != Sharing.of(new)
        if old is not None and (changed or set(services.held(old, self._pool)) - set(now)):
            for waiting in self._waiting:
                self._loop.queue.add(waiting)
        if changed:
            for ip in now:
                for sharer in self._services.by_index("address", ip):
                    self._loop.queue.add(meta.key(sharer))

    def _holder(self, service: Object, ip: str) -> str | None:
        """Who has an address and does not share it with a Service, and why; None when the Service may have it. Of several who
        have it and may not share it (a port was added, or somebody wrote a status by hand) the oldest keeps it."""
        key, mine = meta.key(service), Sharing.of(service)
        having = sorted(
            self._services.by_index("address", ip), key=lambda s: (s["metadata"].get("creationTimestamp") or "", meta.key(s))
        )
        shown = {meta.key(s) for s in having}
        written = (self._services.get(k) for k, ips in self._written.items() if ip in ips and k not in shown)
        for other in (*having, *filter(None, written)):
            if meta.key(other) == key:
                return None
            hindrance = mine.hindrance(Sharing.of(other))
            if hindrance:
                return f"{meta.key(other)}, {hindrance}" if mine.key else meta.key(other)
        return None

    async def _reconcile(self, key: str) -> None:
        service = self._services.get(key)
        if service is None:
            return
        try:
            if services.wants(service):
                await self._ensure(service)
            else:
                self._waiting.pop(key, None)
                if services.needs_cleanup(service):
                    await self._clean_up(service)
        except NotFound:
            log.debug("%s is gone", key)

    async def _ensure(self, service: Object) -> None:
        key = meta.key(service)
        try:
            ips = services.choose(service, self._pool, partial(self._holder, service))
        except NoAddress as e:
            if self._waiting.get(key) != str(e):
                self._waiting[key] = str(e)
                self._events.event(
                    service, WARNING, "SyncLoadBalancerFailed",
                    f"Error syncing load balancer: failed to ensure load balancer: {e}",
                )  # fmt: skip
            had = services.held(service, self._pool)
            kept = [ip for ip in had if self._holder(service, ip) is None]
            if kept != had:
                await self._status(service, services.status(kept) if kept else None)
            return
        self._waiting.pop(key, None)
        wanted = services.status(ips)
        if services.has_finalizer(service) and (service.get("status") or {}).get("loadBalancer") == wanted:
            return
        self._events.event(service, NORMAL, "EnsuringLoadBalancer", "Ensuring load balancer")
        if not services.has_finalizer(service):
            service = await self._finalizers(service, [*(service["metadata"].get("finalizers") or []), services.FINALIZER])
        self._written[key] = ips  # before it is written: the watch may be faster than the answer
        try:
            await self._status(service, wanted)
        except BaseException:
            self._written.pop(key, None)
            raise
        self._events.event(service, NORMAL, "EnsuredLoadBalancer", "Ensured load balancer")

    async def _clean_up(self, service: Object) -> None:
        self._events.event(service, NORMAL, "DeletingLoadBalancer", "Deleting load balancer")
        if services.addresses(service) and not meta.is_deleting(service):
            service = await self._status(service, None)
        rest = [f for f in service["metadata"].get("finalizers") or [] if f != services.FINALIZER]
        await self._finalizers(service, rest)
        self._events.event(service, NORMAL, "DeletedLoadBalancer", "Deleted load balancer")

    async def _finalizers(self, service: Object, wanted: list[str]) -> Object:
        body = {"metadata": {"resourceVersion": meta.resource_version(service), "finalizers": wanted}}
        return await self._client.patch(SERVICES, meta.name(service), body, meta.namespace(service))

    async def _status(self, service: Object, wanted: Object | None) -> Object:
        body = {"metadata": {"resourceVersion": meta.resource_version(service)}, "status": {"loadBalancer": wanted}}
        return await self._client.patch(SERVICES, meta.name(service), body, meta.namespace(service), subresource="status")
