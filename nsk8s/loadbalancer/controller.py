"""Gives Services of type LoadBalancer their address and takes it back. Touches: the API.

Upstream: cloud-provider/controllers/service with a cloud whose load balancer is an address that the network leads to the nodes
(as MetalLB's controller). What is allocated stands in the Services' status, nowhere else: a restart reads it back.
"""

from __future__ import annotations

import asyncio
import logging

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
        if old is not None and set(services.held(old, self._pool)) - set(now):
            for waiting in self._waiting:
                self._loop.queue.add(waiting)

    def _holder(self, ip: str) -> str | None:
        """The Service that has an address; of several (somebody wrote a status by hand) the oldest."""
        having = sorted(
            self._services.by_index("address", ip), key=lambda s: (s["metadata"].get("creationTimestamp") or "", meta.key(s))
        )
        if having:
            return meta.key(having[0])
        return next((key for key, written in self._written.items() if ip in written), None)

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
            ips = services.choose(service, self._pool, self._holder)
        except NoAddress as e:
            if self._waiting.get(key) != str(e):
                self._waiting[key] = str(e)
                self._events.event(
                    service, WARNING, "SyncLoadBalancerFailed",
                    f"Error syncing load balancer: failed to ensure load balancer: {e}",
                )  # fmt: skip
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
