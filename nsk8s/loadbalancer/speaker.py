"""`speaker`: one node answers ARP (IPv6: NDP) for each load balancer address. Touches: the API, and what announcer.py touches.

Upstream: MetalLB's speaker in layer 2 mode. Who answers for an address is computed, by every speaker alike, from the Nodes and
EndpointSlices; no address is added to an interface, because kube-proxy's rules take the packets before it would matter.
"""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.component import until
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, EventRecorder
from nsk8s.client.informer import Informer
from nsk8s.client.resources import ENDPOINTSLICES, NODES, SERVICES
from nsk8s.client.rest import Client
from nsk8s.loadbalancer import nodes, services
from nsk8s.loadbalancer.announcer import Announcer
from nsk8s.loadbalancer.pool import Pool

log = logging.getLogger("speaker")

RESYNC_S = 30.0


class Speaker:
    """One node's speaker; keys are Services, and all of them when a Node changes."""

    def __init__(self, node: str, kubeconfig_path: str, pool: Pool, interface: str) -> None:
        self._node = node
        self._kubeconfig = kubeconfig_path
        self._pool = pool
        self._interface = interface
        self._usable: dict[str, dict[str, str]] = {}
        """Family → node → its address."""
        self._owned: dict[str, set[str]] = {}
        """Service → addresses announced for it."""

    async def serve(self, stop: asyncio.Event) -> None:
        self._announcer = Announcer(self._interface, self._pool.families())
        async with Client(kubeconfig.load(self._kubeconfig), user_agent="speaker") as client:
            self._events = EventRecorder(client, "speaker", self._node)
            self._nodes, self._services = Informer(client, NODES), Informer(client, SERVICES)
            self._slices = Informer(client, ENDPOINTSLICES, indexers={"service": nodes.by_service})
            self._loop = Controller("speaker", self._reconcile, workers=1)
            self._loop.watch(self._nodes, self._nodes_changed)
            self._loop.watch(self._services)
            self._loop.watch(self._slices, nodes.by_service)
            await until(
                stop, self._nodes.run(), self._services.run(), self._slices.run(), self._loop.run(), self._events.run(),
                self._announcer.run(),
            )  # fmt: skip

    def _nodes_changed(self, _: Object) -> list[str]:
        found = self._nodes.items()
        usable = {f: nodes.gateways(found, ipv6=f == "IPv6") for f in self._pool.families()}
        if usable == self._usable:
            return []
        self._usable = usable
        return [meta.key(s) for s in self._services.items() if services.held(s, self._pool)]

    async def _reconcile(self, key: str) -> float | None:
        service = self._services.get(key)
        wanted = self._wanted(service) if service is not None and services.wants(service) else set()
        before = self._owned.get(key, set())
        shared = {ip for other, ips in self._owned.items() if other != key for ip in ips}
        for ip in before - wanted:
            log.info("%s: no longer announcing %s", key, ip)
            if ip not in shared:
                self._announcer.withdraw(ip)
        for ip in sorted(wanted - before, key=ip_address):
            if ip not in shared:
                self._announcer.announce(ip)
            assert service is not None
            self._events.event(service, NORMAL, "nodeAssigned", f'announcing from node "{self._node}" with protocol "layer2"')
        if wanted - before:
            self._announcer.remind(asyncio.get_running_loop().time())
        if wanted:
            self._owned[key] = wanted
        else:
            self._owned.pop(key, None)
        return RESYNC_S if service is not None and services.held(service, self._pool) else None

    def _wanted(self, service: Object) -> set[str]:
        """The addresses of a Service that this node answers for."""
        slices = self._slices.by_index("service", meta.key(service))

        def is_mine(ip: str) -> bool:
            family = services.family(ip)
            usable = self._usable.get(family, {})
            return nodes.announcer(ip, nodes.candidates(service, slices, usable, family)) == self._node

        return {ip for ip in services.held(service, self._pool) if is_mine(ip)}
