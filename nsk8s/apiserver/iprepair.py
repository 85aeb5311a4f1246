"""Keeps Services and IPAddresses in step: one object for each ClusterIP, and none without. Touches: the registry, the clock.

Somebody may delete or change an IPAddress by hand, or a crash may leave one behind; clusters of before there were any get theirs
here. Upstream: pkg/registry/core/service/ipallocator/controller/repairip.go.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from datetime import UTC, datetime

from nsk8s.api.meta import Object, parse_time
from nsk8s.api.scheme import Scheme
from nsk8s.apiserver import ipaddresses
from nsk8s.apiserver.cache import DELETED, Cache, Change
from nsk8s.apiserver.call import SYSTEM, Call
from nsk8s.apiserver.deletion import DeleteOptions
from nsk8s.apiserver.eventwriter import EventWriter
from nsk8s.apiserver.registry import Registry
from nsk8s.apiserver.request import RequestInfo
from nsk8s.apiserver.serviceranges import ServiceRanges
from nsk8s.errors import AlreadyExists, Conflict, NotFound, StatusError

log = logging.getLogger("ipallocator-repair-controller")

INTERVAL_S = 180.0
"""Everything is looked at so often, and what changed at once."""
GRACE_S = 60.0
"""So long an IPAddress may wait for the Service that it was made for."""
RETRY_S = 1.0


def cluster_ips(service: Object) -> list[str]:
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return []
    return [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]


def canonical(ip: str) -> str:
    """Raises ValueError."""
    return str(ipaddress.ip_address(ip))


def held(service: Object) -> set[str]:
    """Its addresses as IPAddresses are named."""
    found = set()
    for ip in cluster_ips(service):
        with contextlib.suppress(ValueError):
            found.add(canonical(ip))
    return found


def is_labelled(obj: Object) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return ipaddresses.is_managed(obj) and labels.get(ipaddresses.FAMILY) == ipaddresses.family_of(obj["metadata"]["name"])


class IPRepair:
    def __init__(self, scheme: Scheme, registry: Registry, cache: Cache) -> None:
        kind = scheme.resource("networking.k8s.io", "v1", "ipaddresses")
        assert kind is not None
        self._kind = kind
        self._registry = registry
        self._services = cache.resource("services")
        self._objects = cache.resource(ipaddresses.RESOURCE)
        self._ranges = ServiceRanges(cache)
        self._events = EventWriter(registry, scheme, "ipallocator-repair-controller")
        self._due: set[tuple[str, str]] = set()
        """Services to look at."""
        self._doubtful: set[str] = set()
        """IPAddresses to look at."""
        self._wake = asyncio.Event()
        self._services.on_change(self._service_changed)
        self._objects.on_change(self._object_changed)

    # Nearly every change leaves all in order, and is only looked at.

    def _service_changed(self, change: Change) -> None:
        if change.type != DELETED and any(self._is_amiss(change.obj, ip) for ip in cluster_ips(change.obj)):
            self._due.add((change.obj["metadata"]["namespace"], change.obj["metadata"]["name"]))
            self._wake.set()

    def _object_changed(self, change: Change) -> None:
        ref = (change.obj.get("spec") or {}).get("parentRef") or {}
        service = self._services.get(ref.get("namespace") or "", ref.get("name") or "")
        if change.type == DELETED:
            if service is not None and any(self._is_amiss(service, ip) for ip in cluster_ips(service)):
                self._due.add((service["metadata"]["namespace"], service["metadata"]["name"]))
                self._wake.set()
        elif change.prev is not None:
            self._doubtful.add(change.obj["metadata"]["name"])
            self._wake.set()

    def _is_amiss(self, service: Object, ip: str) -> bool:
        try:
            obj = self._objects.get("", canonical(ip))
        except ValueError:
            return True
        return obj is None or not ipaddresses.is_of(obj, service) or not is_labelled(obj)

    async def run_once(self) -> None:
        """Look at everything."""
        for service in list(self._services.values()):
            await self._check_service(service)
        now = datetime.now(UTC)
        for obj in list(self._objects.values()):
            await self._check_object(obj, now)

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        everything = loop.time() + INTERVAL_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(GRACE_S, everything - loop.time()))):
                    await self._wake.wait()
            self._wake.clear()
            try:
                if loop.time() >= everything:
                    everything = loop.time() + INTERVAL_S
                    await self.run_once()
                else:
                    await self._run_due()
            except StatusError as e:
                log.warning("%s", e.message)
                await asyncio.sleep(RETRY_S)

    async def _run_due(self) -> None:
        due, doubtful = self._due, self._doubtful
        self._due, self._doubtful = set(), set()
        for key in due:
            service = self._services.get(*key)
            if service is not None:
                await self._check_service(service)
        now = datetime.now(UTC)
        for name in doubtful:
            changed = self._objects.get("", name)
            if changed is not None:
                holder = self._parent(changed)
                if holder is not None:
                    await self._check_service(holder)
                await self._check_object(changed, now)
        for obj in list(self._objects.values()):  # those whose Service never came
            if self._parent(obj) is None:
                await self._check_object(obj, now)

    def _parent(self, obj: Object) -> Object | None:
        ref = (obj.get("spec") or {}).get("parentRef") or {}
        if ref.get("group") or ref.get("resource") != "services":
            return None
        return self._services.get(ref.get("namespace") or "", ref.get("name") or "")

    async def _check_service(self, service: Object) -> None:
        metadata = service["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        for ip in cluster_ips(service):
            try:
                address = ipaddress.ip_address(ip)
            except ValueError:
                text = f"Cluster IP {ip} is not a valid IP; please recreate Service"
                await self._events.tell(service, "ClusterIPNotValid", text)
                continue
            family = f"IPv{address.version}"
            if not self._ranges.is_within(address):
                text = f"Cluster IP [{family}]: {address} is not within any configured Service CIDR; please recreate service"
                await self._events.tell(service, "ClusterIPOutOfRange", text)
                continue
            obj = self._objects.get("", str(address))
            if obj is None:
                text = f"Cluster IP [{family}]: {address} is not allocated; repairing"
                await self._events.tell(service, "ClusterIPNotAllocated", text, again=True)
                await self._create(str(address), service)
            elif not ipaddresses.is_of(obj, service):
                other = self._parent(obj)
                if other is not None and ip in cluster_ips(other):
                    text = f"Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service"
                    await self._events.tell(service, "ClusterIPAlreadyAllocated", text)
                    continue
                text = f"the ClusterIP [{family}]: {address} for Service {name} has a wrong reference; repairing"
                await self._events.tell(service, "ClusterIPNotAllocated", text, again=True)
                await self._recreate(obj, service)
            elif not is_labelled(obj):
                await self._recreate(obj, service)

    async def _check_object(self, obj: Object, now: datetime) -> None:
        """Of those that the allocator made: others are left to whoever made them."""
        if not ipaddresses.is_managed(obj):
            return
        ref = (obj.get("spec") or {}).get("parentRef") or {}
        name, owner = obj["metadata"]["name"], f"{ref.get('namespace', '')}/{ref.get('name', '')}"
        if ref.get("group") or ref.get("resource") != "services":
            text = f"IPAddress {name} appears to have been modified, not referencing a Service {ref}: cleaning up"
            await self._events.tell(obj, "IPAddressNotAllocated", text, again=True)
            await self._delete(obj)
            return
        service = self._parent(obj)
        if service is not None and name in held(service):
            return
        if (now - parse_time(obj["metadata"]["creationTimestamp"])).total_seconds() <= GRACE_S:
            return
        if service is None:
            reason, text = "IPAddressNotAllocated", "appears to have leaked: cleaning up"
        else:
            reason, text = "IPAddressWrongReference", "has a wrong reference; cleaning up"
        await self._events.tell(obj, reason, f"IPAddress: {name} for Service {owner} {text}", again=True)
        await self._delete(obj)

    def _call(self, verb: str, name: str) -> Call:
        kind = self._kind
        return Call(SYSTEM, RequestInfo("POST", "", verb, True, kind.group, kind.version, "", kind.plural, "", name), kind)

    async def _create(self, address: str, service: Object) -> None:
        with contextlib.suppress(AlreadyExists):
            await self._registry.create(self._call("create", address), ipaddresses.new(address, service), "")

    async def _delete(self, obj: Object) -> None:
        """As it was seen: somebody else may have been faster."""
        name, metadata = obj["metadata"]["name"], obj["metadata"]
        options = DeleteOptions(uid=metadata["uid"], resource_version=metadata["resourceVersion"])
        with contextlib.suppress(NotFound, Conflict):
            await self._registry.delete(self._call("delete", name), "", name, options)

    async def _recreate(self, obj: Object, service: Object) -> None:
        await self._delete(obj)
        await self._create(obj["metadata"]["name"], service)
