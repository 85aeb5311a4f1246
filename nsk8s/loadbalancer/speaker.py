"""`speaker`: one node answers ARP for each load balancer address. Touches: the API, a packet socket on the node's interface.

Upstream: MetalLB's speaker in layer 2 mode. Who answers for an address is computed, by every speaker alike, from the Nodes and
EndpointSlices; no address is added to an interface, because kube-proxy's rules take the packets before it would matter.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from ipaddress import IPv4Address

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.component import until
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, EventRecorder
from nsk8s.client.informer import Informer
from nsk8s.client.resources import ENDPOINTSLICES, NODES, SERVICES
from nsk8s.client.rest import Client
from nsk8s.errors import Nsk8sError
from nsk8s.loadbalancer import arp, nodes, services
from nsk8s.loadbalancer.pool import Pool

log = logging.getLogger("speaker")

RESYNC_S = 30.0
SPAM_PERIOD_S, SPAM_TIMES = 1.1, 5
"""After taking an address over, as MetalLB: hosts keep an ARP entry for a second at least before they believe another."""
REMINDER_S = 10.0
"""Then so often: a node that was cut off and is back must be believed again, though nothing changed in its own view."""


class Announcer:
    """Answers ARP on one interface for the addresses it was told."""

    def __init__(self, interface: str) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(arp.ETH_P_ARP))
            self._socket.bind((interface, arp.ETH_P_ARP))
        except OSError as e:
            raise Nsk8sError(f"cannot answer ARP on {interface}: {e.strerror}", "--interface names the node's own") from e
        self._socket.setblocking(False)
        self._mac: bytes = self._socket.getsockname()[4]
        self._next: dict[str, tuple[float, int]] = {}
        """Address → (loop time of the next gratuitous ARP, how many were sent)."""

    def addresses(self) -> set[str]:
        return set(self._next)

    def announce(self, ip: str) -> None:
        self._next[ip] = (0.0, 0)

    def withdraw(self, ip: str) -> None:
        self._next.pop(ip, None)

    async def run(self) -> None:
        """Answer, and remind everybody from time to time. Cancel to stop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._read)
        try:
            while True:
                self.remind(loop.time())
                await asyncio.sleep(SPAM_PERIOD_S)
        finally:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def remind(self, now: float) -> None:
        """Send the gratuitous ARPs that are due."""
        for ip, (due, sent) in self._next.items():
            if now >= due:
                for frame in arp.gratuitous(ip, self._mac):
                    self._send(frame)
                self._next[ip] = (now + (SPAM_PERIOD_S * 0.9 if sent < SPAM_TIMES else REMINDER_S), sent + 1)

    def _read(self) -> None:
        while True:
            try:
                packet = arp.parse(self._socket.recv(2048))
            except BlockingIOError:
                return
            except OSError as e:  # the interface went down
                log.warning("ARP: %s", e.strerror)
                return
            if packet is None or packet.operation != arp.REQUEST or packet.target_ip not in self._next:
                continue
            if packet.sender_mac != self._mac:
                self._send(arp.answer(packet, packet.target_ip, self._mac))

    def _send(self, frame: bytes) -> None:
        with suppress(OSError):  # the interface is down: nobody is there to hear it
            self._socket.send(frame)


class Speaker:
    """One node's speaker; keys are Services, and all of them when a Node changes."""

    def __init__(self, node: str, kubeconfig_path: str, pool: Pool, interface: str) -> None:
        self._node = node
        self._kubeconfig = kubeconfig_path
        self._pool = pool
        self._interface = interface
        self._usable: dict[str, str] = {}
        self._owned: dict[str, set[str]] = {}
        """Service → addresses announced for it."""

    async def serve(self, stop: asyncio.Event) -> None:
        self._announcer = Announcer(self._interface)
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
        usable = nodes.gateways(self._nodes.items())
        if usable == self._usable:
            return []
        self._usable = usable
        return [meta.key(s) for s in self._services.items() if services.held(s, self._pool)]

    async def _reconcile(self, key: str) -> float | None:
        service = self._services.get(key)
        wanted = self._wanted(service) if service is not None and services.wants(service) else set()
        before = self._owned.get(key, set())
        for ip in before - wanted:
            log.info("%s: no longer announcing %s", key, ip)
            self._announcer.withdraw(ip)
        for ip in sorted(wanted - before, key=IPv4Address):
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
        candidates = nodes.candidates(service, self._slices.by_index("service", meta.key(service)), self._usable)
        return {ip for ip in services.held(service, self._pool) if nodes.announcer(ip, candidates) == self._node}
