"""The iptables proxier of one IP family. Upstream: pkg/proxy/iptables/proxier.go. Touches: iptables, netlink (addresses).

What goes into the rules is decided in `decision` and `rules`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nsk8s.kernel.iptables import Iptables
from nsk8s.net import chainset
from nsk8s.net.chainset import Chain, Rules
from nsk8s.proxy import rules
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.names import PORTALS_HOST, SERVICE_PREFIXES
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.rules import Context, PortRules
from nsk8s.proxy.services import PortName
from nsk8s.proxy.sync import Proxier

log = logging.getLogger("proxier")

CANARY_POLL_S = 0.1
CANARY_POLLS = 50


@dataclass(frozen=True, slots=True)
class _Held:
    """What stays in memory of a service port's rules: its part of the shared chains, its chains' names, its decision's facts."""

    shared: PortRules
    chains: tuple[str, ...]
    own_rules: int
    sticky: bool
    no_local_internal: bool
    no_local_external: bool


class IptablesProxier(Proxier):
    def __init__(
        self, iptables: Iptables, context: Context, node: str, node_ports: NodePortAddresses, metrics: Metrics
    ) -> None:
        super().__init__(context, node, node_ports, metrics)
        self._iptables = iptables
        self._held: dict[PortName, _Held] = {}
        self._names: dict[str, tuple[PortName, ...]] = {}  # Service → its keys in _held
        self._written: dict[tuple[str, str], Rules] = {}  # (table, shared chain) → its rules as last written

    async def _write(self, full: bool, changed: set[str]) -> None:
        text = await self._full_text() if full else self._partial_text(changed)
        if text:
            await self._iptables.restore(text)

    def _failed(self, full: bool) -> None:
        self._metrics.inc("sync_proxy_rules_iptables_restore_failures_total", 1, **self._family)
        if not full:
            self._metrics.inc("sync_proxy_rules_iptables_partial_restore_failures_total", 1, **self._family)

    def _no_local(self) -> tuple[int, int]:
        held = self._held.values()
        return sum(h.no_local_internal for h in held), sum(h.no_local_external for h in held)

    async def is_intact(self) -> bool:
        """Whether the canary lives. When it does not, wait a while for who flushes table by table to finish."""
        if await self._iptables.chain_exists("mangle", rules.CANARY):
            return True
        log.info("%s: the canary is gone, someone flushed the rules: writing all again", self._iptables.main)
        for _ in range(CANARY_POLLS):
            if not await self._any_canary():
                break
            await asyncio.sleep(CANARY_POLL_S)
        return False

    async def _any_canary(self) -> bool:
        for table in rules.CANARY_TABLES:
            if await self._iptables.chain_exists(table, rules.CANARY):
                return True
        return False

    # ── texts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _render(self, key: str) -> tuple[dict[str, Chain], list[str]]:
        """Render one Service; returns those of its chains that may differ from the kernel's, and the names it owns no more.

        An endpoint's chain depends on its name and on whether there is affinity: who had it has it still, with its counters.
        """
        differing: dict[str, Chain] = {}
        own: set[str] = set()
        kept: list[PortName] = []
        before = [n for p in self._ports_of(key) for n in self._held[p].chains]
        for decision in self.decisions(key):
            made = rules.port_rules(decision, self._context)
            name, sticky = decision.service.name, bool(decision.service.affinity_s)
            own.update(made.own)
            kept.append(name)
            old = self._held.get(name)
            known = {c for c in old.chains if c.startswith("KUBE-SEP-")} if old and old.sticky == sticky else ()
            differing.update((n, c) for n, c in made.own.items() if n not in known)
            self._held[name] = _Held(
                replace(made, own={}),
                tuple(made.own),
                sum(len(c.rules) for c in made.own.values()),
                sticky,
                decision.internal_verdict == "DROP",
                decision.external_verdict == "DROP" and decision.service.externally_accessible,
            )
        for gone in self._ports_of(key):
            if gone not in kept:
                del self._held[gone]
        if kept:
            self._names[key] = tuple(kept)
        else:
            self._names.pop(key, None)
        return differing, [n for n in before if n not in own]

    def _ports_of(self, key: str) -> tuple[PortName, ...]:
        return self._names.get(key, ())

    def _shared(self) -> tuple[dict[str, Chain], dict[str, Chain]]:
        """Tables filter and nat, without the service-owned chains."""
        ports = [self._held[name].shared for name in sorted(self._held)]
        return rules.filter_table(ports, self._context), rules.nat_table(ports, self._context, self._node_ports.current())

    async def _full_text(self) -> str:
        """The restore text of everything; chains that nobody needs any more are removed."""
        saving = asyncio.ensure_future(self._iptables.save())
        await asyncio.sleep(0)  # let it start: it then runs beside what follows
        self._held, self._names = {}, {}
        own: dict[str, Chain] = {}
        for key in sorted(self._services):
            own.update(self._render(key)[0])
        filters, nat = self._shared()
        self._remember(filters, nat)
        nat.update(own)
        have = chainset.outline(await saving)
        self.has_seen_portals |= PORTALS_HOST in have.tables.get("nat", {})
        stale = [n for n in have.tables.get("nat", {}) if n.startswith(SERVICE_PREFIXES) and n not in own]
        wanted = rules.jumps(self._context.ipv6, self._context.localhost_node_ports)
        insert = chainset.missing_jumps(have, wanted)
        canary = {rules.CANARY: Chain()}
        text = (
            chainset.render_table("mangle", canary)
            + chainset.render_table("filter", canary | filters, insert=insert)
            + chainset.render_table("nat", canary | nat, delete=stale, insert=insert)
        )
        self._count(filters, nat, sum(len(c.rules) for c in own.values()))
        return text

    def _partial_text(self, changed: Iterable[str]) -> str:
        """The restore text of what changed: the services' own chains, and of the shared chains those whose rules differ.

        Upstream always rewrites the shared ones; leaving equal ones alone spares time and keeps their counters.
        """
        own: dict[str, Chain] = {}
        stale: list[str] = []
        for key in sorted(changed):
            made, gone = self._render(key)
            own.update(made)
            stale += gone
        filters, nat = self._shared()
        written = sum(len(c.rules) for c in own.values())
        self._count(filters, nat, written)
        text = ""
        filters, nat = self._differing("filter", filters), self._differing("nat", nat)
        if filters:
            text += chainset.render_table("filter", filters)
        if nat or own or stale:
            text += chainset.render_table("nat", nat | own, delete=stale)
        return text

    def _differing(self, table: str, chains: Mapping[str, Chain]) -> dict[str, Chain]:
        found = {n: c for n, c in chains.items() if self._written.get((table, n)) != c.rules}
        for name, chain in found.items():
            self._written[table, name] = chain.rules
        return found

    def _remember(self, filters: Mapping[str, Chain], nat: Mapping[str, Chain]) -> None:
        self._written = {("filter", n): c.rules for n, c in filters.items()} | {("nat", n): c.rules for n, c in nat.items()}



    def _count(self, filters: Mapping[str, Chain], nat: Mapping[str, Chain], own_written: int) -> None:
        in_filter = sum(len(c.rules) for c in filters.values())
        in_nat = sum(len(c.rules) for n, c in nat.items() if not n.startswith(SERVICE_PREFIXES))
        held = sum(h.own_rules for h in self._held.values())
        for name, own in (("sync_proxy_rules_iptables_total", held), ("sync_proxy_rules_iptables_last", own_written)):
            self._metrics.set(name, in_filter, table="filter", **self._family)
            self._metrics.set(name, in_nat + own, table="nat", **self._family)
