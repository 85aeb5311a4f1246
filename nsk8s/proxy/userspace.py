"""The userspace proxier of one IP family: how Services worked at first, for the history lesson. Only imported in this mode.

A socket of kube-proxy's own for each service port, rules that lead there, and a round robin over the ready endpoints: every byte
goes through this process, and a pod sees the node that proxied. Of a Service's finer wishes only session affinity is heard, as
upstream: traffic policies, source ranges, topology hints, health check node ports, nodePortAddresses and SCTP came later.

Touches: iptables, sockets, netlink (conntrack), the clock. Upstream (until 1.25): pkg/proxy/userspace/proxier.go.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from nsk8s.kernel.conntrack import Conntrack, Flow
from nsk8s.kernel.iptables import Iptables
from nsk8s.net import chainset
from nsk8s.net.chainset import Chain
from nsk8s.proxy import portals
from nsk8s.proxy.decision import ready_anywhere
from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.names import USERSPACE_CHAINS
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.portals import Portal
from nsk8s.proxy.proxysocket import Sockets, TcpProxy, UdpProxy
from nsk8s.proxy.roundrobin import RoundRobin
from nsk8s.proxy.rules import Context
from nsk8s.proxy.services import PortName, ServicePort
from nsk8s.proxy.sync import Proxier
from nsk8s.proxy.written import Written, is_as_written

log = logging.getLogger("proxier")


@dataclass(slots=True)
class _Held:
    """A service port that is proxied."""

    service: ServicePort
    proxy: TcpProxy | UdpProxy
    claim: socket.socket | None = None
    """Holds the node port, so that nobody else on the node takes it; what is sent there never gets to it."""


class UserspaceProxier(Proxier):
    def __init__(
        self, iptables: Iptables, context: Context, node: str, node_ports: NodePortAddresses, metrics: Metrics,
        sockets: Sockets,
    ) -> None:  # fmt: skip
        super().__init__(context, node, node_ports, metrics)
        self._iptables = iptables
        self._sockets = sockets
        self._balancer = RoundRobin(random.shuffle)
        self._held: dict[PortName, _Held] = {}
        self._written: Written = {}
        self._gone: set[tuple[str, int]] = set()  # UDP (address, port) that are proxied no more
        self._host_ip = ""

    async def _write(self, full: bool, changed: set[str]) -> None:
        refused = (n.service for n, h in self._held.items() if h.claim is None and h.service.node_port)
        keys = {*self._services, *(n.service for n in self._held)} if full else {*changed, *refused}
        self._give_back(keys)
        for key in sorted(keys):
            await self._adopt(key)
        self._balancer.forget_idle_clients(time.monotonic())
        if full:
            self._host_ip = self._sockets.outward_address() or self._context.node_ip
        wanted = [Portal(h.service, h.proxy.port, h.claim is not None) for _, h in sorted(self._held.items())]
        filters, nat = portals.tables(wanted, self._host_ip)
        text = await self._full_text(filters, nat) if full else self._partial_text(filters, nat)
        if text:
            await self._iptables.restore(text)
            self._written = _rules("filter", filters) | _rules("nat", nat)

    async def _full_text(self, filters: Mapping[str, Chain], nat: Mapping[str, Chain]) -> str:
        have = chainset.outline(await self._iptables.save())
        insert = chainset.missing_jumps(have, portals.top_jumps())
        append = chainset.missing_jumps(have, portals.bottom_jumps())
        return chainset.render_table("filter", filters, insert=insert) + chainset.render_table(
            "nat", nat, insert=insert, append=append
        )

    def _partial_text(self, filters: Mapping[str, Chain], nat: Mapping[str, Chain]) -> str:
        text = ""
        for table, chains in (("filter", filters), ("nat", nat)):
            differing = {n: c for n, c in chains.items() if self._written.get((table, n)) != c.rules}
            if differing:
                text += chainset.render_table(table, differing)
        return text

    # ── sockets ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _give_back(self, keys: Collection[str]) -> None:
        """What these Services have no more, before any of them takes something: it may be another one's node port now."""
        for name, held in list(self._held.items()):
            if name.service not in keys:
                continue
            port = self._services.get(name.service, {}).get(name)
            if port is None:
                self._stop(name)
            elif held.claim is not None and port.node_port != held.service.node_port:
                held.claim.close()
                held.claim = None

    async def _adopt(self, key: str) -> None:
        """Listen for the ports that a Service has. A port keeps its socket."""
        ports = self._services.get(key, {})
        found = self._endpoints.get(key, {})
        for name, port in ports.items():
            self._balancer.set(name, ready_anywhere(found.get(name, ())), port.affinity_s)
            held = self._held.get(name)
            lost = portals.unheard(port)
            if lost and (held is None or lost != portals.unheard(held.service)):
                log.warning("service %s: userspace mode takes no notice of %s", name, ", ".join(lost))
            if held is None:
                held = await self._listen(port)
                if held is None:
                    continue
                self._held[name] = held
            if held.claim is None:
                held.claim = self._claim(port)
            self._gone |= _udp_addresses(held.service) - _udp_addresses(port)
            held.service = port

    async def _listen(self, port: ServicePort) -> _Held | None:
        name = port.name
        if port.protocol == "sctp":
            log.error("service %s: userspace mode does not proxy SCTP", name)
            return None

        def next_endpoint(client: str, afresh: bool) -> Endpoint | None:
            return self._balancer.next(name, client, time.monotonic(), afresh=afresh)

        try:
            proxy = await self._sockets.listen(port.protocol, next_endpoint)
        except OSError as e:
            log.error("service %s: cannot listen: %s", name, e.strerror or e)
            return None
        log.debug("service %s: proxied on %s port %d", name, port.protocol, proxy.port)
        return _Held(port, proxy)

    def _claim(self, port: ServicePort) -> socket.socket | None:
        if not port.node_port:
            return None
        try:
            return self._sockets.claim(port.protocol, port.node_port)
        except OSError as e:
            log.error("service %s: cannot open node port %d: %s", port.name, port.node_port, e.strerror or e)
            return None

    def _stop(self, name: PortName) -> None:
        held = self._held.pop(name)
        held.proxy.close()
        if held.claim is not None:
            held.claim.close()
        self._balancer.forget(name)
        self._gone |= _udp_addresses(held.service)

    # ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _reconsider(self) -> None:
        self.force_full_sync()  # the node's address is in every rule

    def _failed(self, full: bool) -> None:
        """It is logged; upstream had no metric for it."""

    def _no_local(self) -> None:
        return None

    def health_check_ports(self) -> dict[str, int]:
        return {}

    async def is_intact(self) -> bool:
        """Whether every rule is as it was written, and every jump there."""
        return await is_as_written(self._iptables, self._written, [*portals.top_jumps(), *portals.bottom_jumps()])

    def _clean_conntrack(self) -> None:
        """UDP that sticks to another way: an older process' port, another mode's endpoint, a Service that is gone."""
        ours = {h.proxy.port for n, h in self._held.items() if n.protocol == "UDP"}
        addresses = {a for h in self._held.values() for a in _udp_addresses(h.service)}
        gone, self._gone = self._gone - addresses, set()

        def stale(flow: Flow) -> bool:
            to = flow.dst, flow.dport
            is_node_port = ("", flow.dport) in addresses
            if to in addresses or is_node_port:
                return flow.reply_sport not in ours
            return to in gone or ("", flow.dport) in gone

        try:
            with Conntrack(self._context.ipv6) as table:
                deleted = table.delete(f for f in table.flows() if stale(f))
        except OSError as e:
            log.error("cleaning stale UDP conntrack entries failed: %s", e)
            return
        if deleted:
            log.info("deleted %d stale UDP conntrack entries", deleted)


def _rules(table: str, chains: Mapping[str, Chain]) -> Written:
    return {(table, name): chain.rules for name, chain in chains.items() if name in USERSPACE_CHAINS}


def _udp_addresses(service: ServicePort) -> set[tuple[str, int]]:
    """(address, port) of a UDP service port; its node port has no address."""
    if service.name.protocol != "UDP":
        return set()
    found: Iterable[str] = (service.cluster_ip, *service.external_ips, *service.vips)
    return {(ip, service.port) for ip in found} | ({("", service.node_port)} if service.node_port else set())
