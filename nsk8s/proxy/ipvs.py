"""The ipvs proxier of one IP family. Upstream: pkg/proxy/ipvs/proxier.go, graceful_termination.go. Only imported in this mode.

Touches: netlink (IPVS, ip sets, kube-ipvs0), iptables. What goes there is decided in `decision` and `ipvsrules`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from nsk8s.kernel.iptables import Iptables
from nsk8s.net import chainset, ipvs
from nsk8s.net.chainset import Chain
from nsk8s.net.ipvs import Counts, Item, Items, Real, Server, SetType, Value, set_name
from nsk8s.proxy import ipvsrules
from nsk8s.proxy.ipvsledger import Ledger
from nsk8s.proxy.ipvsrules import NodeAddresses
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.rules import SERVICES, Context
from nsk8s.proxy.services import PortName
from nsk8s.proxy.sync import Proxier
from nsk8s.proxy.written import Written, is_as_written

log = logging.getLogger("proxier")

DRAIN_CHECK_S = 60.0
"""How often real servers that drain are looked at: upstream's rsCheckDeleteInterval."""
Denied = tuple[tuple[str, str, int], ...]


class Kernel(Protocol):
    """`nsk8s.kernel.ipvsstate.IpvsState`, or one of paper."""

    def ensure(self, sets: Mapping[str, SetType]) -> None: ...
    def read(self, ipv6: bool, sets: Iterable[str]) -> dict[Item, Value]: ...
    def counts(self, servers: Collection[Server]) -> dict[Real, Counts]: ...
    def put(self, items: Items) -> None: ...
    def remove(self, items: Iterable[Item]) -> None: ...
    def node_addresses(self, ipv6: bool) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """ipvs.* of the configuration, as far as syncing goes."""

    scheduler: str = "rr"
    exclude_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()

    def is_excluded(self, ip: str) -> bool:
        address = ip_address(ip)
        return any(address in n for n in self.exclude_cidrs if n.version == address.version)


@dataclass(frozen=True, slots=True)
class Departure:
    """What is done about items that nobody wants any more. `draining` real servers get no new connections and stay for now."""

    remove: tuple[Item, ...]
    draining: tuple[Real, ...]


def depart(gone: Iterable[Item], counts: Mapping[Real, Counts]) -> Departure:
    """Graceful termination: a real server stays, with weight 0, while it has connections. Pure.

    UDP has none to wait for; and when the whole virtual server goes, so do they.
    """
    items = tuple(gone)
    servers = {i for i in items if isinstance(i, Server)}
    draining = tuple(
        i for i in items
        if isinstance(i, Real) and i.server not in servers and i.server.protocol != "udp" and _connections(counts.get(i))
    )  # fmt: skip
    staying = frozenset(draining)
    with_their_server = {i for i in items if isinstance(i, Real) and i.server in servers}
    return Departure(tuple(i for i in items if i not in staying and i not in with_their_server), draining)


def _connections(counts: Counts | None) -> int:
    return counts.active + counts.inactive if counts else 0


class IpvsProxier(Proxier):
    def __init__(
        self, iptables: Iptables, kernel: Kernel, context: Context, node: str, node_ports: NodePortAddresses, metrics: Metrics,
        settings: Settings | None = None,
    ) -> None:  # fmt: skip
        super().__init__(context, node, node_ports, metrics)
        self._iptables = iptables
        self._kernel = kernel
        self._settings = settings or Settings()
        self._sets = ipvsrules.sets(context.ipv6)
        self._here = NodeAddresses()
        self._ledger = Ledger()
        self._names: dict[str, tuple[PortName, ...]] = {}  # Service → its ports in the ledger
        self._denied: dict[PortName, Denied] = {}
        self._applied: dict[Item, Value] = {}  # what the kernel holds, by what was read and written
        self._draining: set[Real] = set()
        self._written: Written = {}
        self._is_first = False  # no mode's chains were met

    async def _write(self, full: bool, changed: set[str]) -> None:
        here = self._node_addresses()
        moved, self._here = here != self._here, here
        touched: set[Item] = set()
        if full:
            self._kernel.ensure(self._sets)
            self._applied = self._read()
        if full or moved:
            changed = {*self._services, *self._names}
        for key in changed:
            touched |= self._render(key)
        if full:
            difference = ipvs.changes(self._applied, self._ledger.wanted())
        else:
            touched |= self._draining
            difference = ipvs.changes(self._applied, self._ledger.wanted(touched), touched)
        text = await self._full_text() if full else self._partial_text()
        if full and self._is_first:  # chains first: nobody's first packet is to pass unmarked
            await self._iptables.restore(text)
        self._put(difference.put)
        if text and not self._is_first:  # chains last: another mode's serve until the virtual servers do
            await self._iptables.restore(text)
        self._is_first = False
        self._take_away(difference.gone)

    # ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _render(self, key: str) -> set[Item]:
        """Work out one Service's items; returns those that may differ from the kernel's."""
        touched: set[Item] = set()
        kept = []
        found = self._endpoints.get(key, {})
        for decision in self.decisions(key):
            service = decision.service
            local = [e for e in found.get(service.name, ()) if e.local]
            made = ipvsrules.port_items(decision, local, self._context, self._here, self._settings.scheduler)
            touched |= self._ledger.set(service.name, made.items)
            self._note_local(decision)
            self._denied[service.name] = made.denied
            kept.append(service.name)
        for gone in [n for n in self._names.get(key, ()) if n not in kept]:
            touched |= self._ledger.set(gone, {})
            self._denied.pop(gone, None)
            self._lacking.pop(gone, None)
        if kept:
            self._names[key] = tuple(kept)
        else:
            self._names.pop(key, None)
        return touched

    def _node_addresses(self) -> NodeAddresses:
        every = self._kernel.node_addresses(self._context.ipv6)
        serving = every if self._node_ports.match_all else self._node_ports.select(every)
        return NodeAddresses(tuple(serving), frozenset(every))

    def _read(self) -> dict[Item, Value]:
        """What the kernel holds; virtual servers in excludeCIDRs are somebody else's."""
        found = self._kernel.read(self._context.ipv6, self._sets)
        if not self._settings.exclude_cidrs:
            return found
        others = {i for i in found if isinstance(i, Server) and self._settings.is_excluded(i.ip)}
        return {i: v for i, v in found.items() if i not in others and not (isinstance(i, Real) and i.server in others)}

    def _put(self, items: Items) -> None:
        if items:
            self._kernel.put(items)
            self._applied.update(items)
        self._draining.difference_update(i for i in items if isinstance(i, Real))

    def _take_away(self, gone: Collection[Item]) -> None:
        if not gone:
            return
        busy = {i.server for i in gone if isinstance(i, Real)} - {i for i in gone if isinstance(i, Server)}
        departure = depart(gone, self._kernel.counts(busy))
        self._kernel.remove(departure.remove)
        for item in (*departure.remove, *(g for g in gone if isinstance(g, Real) and g not in departure.draining)):
            self._applied.pop(item, None)
        fresh: dict[Item, Value] = {real: 0 for real in departure.draining if self._applied.get(real) != 0}
        if fresh:
            self._kernel.put(fresh)
            self._applied.update(fresh)
            log.debug("waiting for the connections of %s to end", ", ".join(map(str, fresh)))
        self._draining = set(departure.draining)

    @property
    def wants_another_s(self) -> float:
        return DRAIN_CHECK_S if self._draining else 0.0

    # ── chains ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tables(self) -> tuple[dict[str, Chain], dict[str, Chain]]:
        have = self._ledger.filled()
        filled = {name for name in ipvsrules.SETS if set_name(name, self._context.ipv6) in have}
        denied = dict.fromkeys(d for _, each in sorted(self._denied.items()) for d in each)
        return ipvsrules.tables(filled, tuple(denied), self._context)

    async def _full_text(self) -> str:
        filters, nat = self._tables()
        have = chainset.outline(await self._iptables.save())
        self._is_first = SERVICES not in have.tables.get("nat", {}) and not self.has_written
        insert = chainset.missing_jumps(have, ipvsrules.jumps())
        self._written = _rules("filter", filters) | _rules("nat", nat)
        return chainset.render_table("filter", filters, insert=insert) + chainset.render_table("nat", nat, insert=insert)

    def _partial_text(self) -> str:
        text = ""
        for table, chains in zip(("filter", "nat"), self._tables(), strict=True):
            differing = {n: c for n, c in chains.items() if self._written.get((table, n)) != c.rules}
            if differing:
                text += chainset.render_table(table, differing)
                self._written |= _rules(table, differing)
        return text

    # ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _failed(self, full: bool) -> None:
        self._metrics.inc("sync_proxy_rules_iptables_restore_failures_total", 1, **self._family)

    async def is_intact(self) -> bool:
        """Whether everything is as it was written, and the node's addresses the same. (Upstream writes all each syncPeriod.)"""
        if self._node_addresses() != self._here:
            log.info("the node's addresses changed: writing all again")
            return False
        difference = ipvs.changes(self._read(), self._applied)
        if difference:
            log.info("someone changed virtual servers, sets or %s: writing all again", ipvs.DEVICE)
            return False
        return await is_as_written(self._iptables, self._written, ipvsrules.jumps())


def _rules(table: str, chains: Mapping[str, Chain]) -> Written:
    return {(table, name): chain.rules for name, chain in chains.items()}
