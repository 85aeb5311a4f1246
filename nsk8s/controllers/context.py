"""What all controllers of one process share: client, settings, informers, event recorders. Touches: the API.

Upstream: cmd/kube-controller-manager/app (ControllerContext).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

import orjson

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.events import EventRecorder
from nsk8s.client.informer import IndexFunc, Informer
from nsk8s.client.resources import ENDPOINTSLICES, PODS, Resource
from nsk8s.client.rest import Client

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True)
class Settings:
    """The flags, parsed; upstream's defaults, seconds."""

    cluster_cidrs: tuple[Network, ...] = ()
    allocate_node_cidrs: bool = False
    node_cidr_mask_size: int = 24
    node_cidr_mask_size_ipv6: int = 64
    service_cluster_ip_ranges: tuple[Network, ...] = ()
    node_cidr_first_address: tuple[Address, ...] = ()
    node_monitor_period_s: float = 5.0
    node_monitor_grace_s: float = 50.0
    node_startup_grace_s: float = 60.0
    node_eviction_rate: float = 0.1
    secondary_node_eviction_rate: float = 0.01
    unhealthy_zone_threshold: float = 0.55
    large_cluster_size_threshold: int = 50
    terminated_pod_gc_threshold: int = 12500
    pod_gc_period_s: float = 20.0
    pod_gc_quarantine_s: float = 40.0
    root_ca: str = ""


class Runnable(Protocol):
    """A controller: constructed with a Context (adding its handlers), then run."""

    def run(self) -> Awaitable[None]: ...


def copy(obj: Object) -> Object:
    """A private copy of a cached object."""
    fresh: Object = orjson.loads(orjson.dumps(obj))
    return fresh


def utcnow() -> datetime:
    return datetime.now(UTC)


def _by_namespace(obj: Object) -> list[str]:
    return [meta.namespace(obj)]


def _by_owner(obj: Object) -> list[str]:
    """The controller's uid, or `orphan:NAMESPACE` for an object that has none."""
    controller = meta.controller_of(obj)
    return [controller["uid"]] if controller else [f"orphan:{meta.namespace(obj)}"]


def _by_node(obj: Object) -> list[str]:
    return [obj["spec"].get("nodeName") or ""]


def _by_service(obj: Object) -> list[str]:
    name = meta.labels(obj).get(SERVICE_NAME_LABEL)
    return [f"{meta.namespace(obj)}/{name}"] if name else []


class Context:
    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self._informers: dict[Resource, Informer] = {}
        self._recorders: dict[str, EventRecorder] = {}

    def informer(self, resource: Resource) -> Informer:
        """The one informer of `resource`; indices: namespace, owner; for pods also node, for EndpointSlices service."""
        informer = self._informers.get(resource)
        if informer is None:
            indexers: dict[str, IndexFunc] = {"namespace": _by_namespace, "owner": _by_owner}
            if resource == PODS:
                indexers["node"] = _by_node
            if resource == ENDPOINTSLICES:
                indexers["service"] = _by_service
            informer = self._informers[resource] = Informer(self.client, resource, indexers=indexers)
        return informer

    def informers(self) -> list[tuple[Resource, Informer]]:
        """The informers that exist so far."""
        return list(self._informers.items())

    def recorder(self, component: str) -> EventRecorder:
        recorder = self._recorders.get(component)
        if recorder is None:
            recorder = self._recorders[component] = EventRecorder(self.client, component)
        return recorder

    async def run(self) -> None:
        """Run informers and recorders until cancelled."""
        await asyncio.gather(
            *(i.run() for i in self._informers.values()), *(r.run() for r in self._recorders.values())
        )
