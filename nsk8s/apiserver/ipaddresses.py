"""IPAddress objects: one for each ClusterIP, as long as a Service has it. Touches: the store.

To have made the object is to have the address: two servers, or a person and a server, never both have it. Upstream:
pkg/registry/core/service/ipallocator/ipallocator.go.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from datetime import UTC, datetime

import orjson

from nsk8s.api.meta import Object, rfc3339
from nsk8s.apiserver.cache import Cache, decode, storage_key
from nsk8s.store.base import KeyExists, KeyNotFound, RevisionMismatch, Store

log = logging.getLogger("ipallocator")

RESOURCE = "ipaddresses.networking.k8s.io"
MANAGED_BY, FAMILY = "ipaddress.kubernetes.io/managed-by", "ipaddress.kubernetes.io/ip-family"
ALLOCATOR = "ipallocator.k8s.io"


def family_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def parent(service: Object) -> Object:
    metadata = service["metadata"]
    return {"resource": "services", "namespace": metadata.get("namespace", ""), "name": metadata["name"]}


def new(address: str, service: Object) -> Object:
    """The object of a Service's address, without what the server adds to every object."""
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "labels": {FAMILY: family_of(address), MANAGED_BY: ALLOCATOR}},
        "spec": {"parentRef": parent(service)},
    }  # fmt: skip


def is_managed(obj: Object) -> bool:
    return (obj["metadata"].get("labels") or {}).get(MANAGED_BY) == ALLOCATOR


def is_of(obj: Object, service: Object) -> bool:
    ref = (obj.get("spec") or {}).get("parentRef") or {}
    return not ref.get("group") and {k: v for k, v in ref.items() if k != "group"} == parent(service)


class IPAddresses:
    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self._objects = cache.resource(RESOURCE)
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """Addresses whose object is being removed."""

    def has(self, address: str) -> bool:
        """Whether there is an object, or was until now."""
        return address in self._leaving or self._objects.get("", address) is not None

    async def gone(self, address: str) -> None:
        """Until a removal that is under way has ended."""
        task = self._leaving.get(address)
        if task is not None:
            await asyncio.shield(task)

    async def take(self, address: str, service: Object) -> bool:
        """Make its object; False if there is one."""
        obj = new(address, service)
        obj["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": rfc3339(datetime.now(UTC))}
        try:
            await self._store.create(storage_key(RESOURCE, "", address), orjson.dumps(obj))
        except KeyExists:
            return False
        return True

    def release(self, address: str, service: Object) -> None:
        """Remove its object, if it is this Service's, in the background."""
        if address not in self._leaving:
            task = asyncio.get_running_loop().create_task(self._remove(address, service))
            self._leaving[address] = task
            task.add_done_callback(lambda _: self._leaving.pop(address, None))

    async def _remove(self, address: str, service: Object) -> None:
        key = storage_key(RESOURCE, "", address)
        known = self._objects.get("", address)
        while True:
            try:
                if known is None:
                    kv = await self._store.get(key)
                    if kv is None:
                        return
                    known = decode(kv)
                if not is_managed(known) or not is_of(known, service):
                    return
                removed = await self._store.delete(key, int(known["metadata"]["resourceVersion"]))
                await self._cache.wait_for(removed.mod_revision)
                return
            except KeyNotFound:
                return
            except RevisionMismatch:
                known = None
            except Exception as e:  # the disk is full, the server ends: the repair loop finds it
                log.warning("the IPAddress %s cannot be removed: %s", address, e)
                return
