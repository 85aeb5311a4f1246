"""The iptables proxier of one IP family. Upstream: pkg/proxy/iptables/proxier.go. Touches: iptables, netlink (addresses).

What goes into the rules is decided in `decision` and `rules`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nsk8s.kernel.iptables import Iptables
from nsk8s.net import chainset
from nsk8s.net.chainset import Chain, ChainSet, Rules
from nsk8s.proxy import rules
from nsk8s.proxy.decision import Decision
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.names import IPVS_NODE_PORT, PORTALS_HOST, SERVICE_PREFIXES
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.rules import Context, PortRules
from nsk8s.proxy.services import PortName
from nsk8s.proxy.sync import Proxier

log = logging.getLogger("proxier")

CANARY_POLL_S = 0.1
CANARY_POLLS = 50
_OTHERS = {PORTALS_HOST: "userspace", IPVS_NODE_PORT: "ipvs"}
"""Chains in table nat by which another mode's rules are known."""

_Chains = dict[str, Chain]


@dataclass(frozen=True, slots=True)
class _Held:
    """What stays in memory of a service port's rules."""

    shared: PortRules
    chains: tuple[str, ...]
    hashes: tuple[int, ...]
    """Of the rules of each of its own chains; 0 for an endpoint's."""
    own_rules: int
    sticky: bool


class IptablesProxier(Proxier):
    def __init__(
        self, iptables: Iptables, context: Context, node: str, node_ports: NodePortAddresses, metrics: Metrics
    ) -> None:
        super().__init__(context, node, node_ports, metrics)
        self._iptables = iptables
        self._held: dict[PortName, _Held] = {}
        self._names: dict[str, tuple[PortName, ...]] = {}  # Service → its keys in _held
        self._own_rules = 0
        self._written: dict[tuple[str, str], Rules] = {}  # (table, shared chain) → its rules as last written
        self._written_for: tuple[Context, list[str] | None] | None = None  # what else the shared chains were made of
        self._unseen: set[str] = set()  # Services that changed since the chains were last looked at

    async def _write(self, full: bool, changed: set[str]) -> None:
        if full:
            await self._write_whole()
            return
        text = self._partial_text(changed)
        if text:
            await self._iptables.restore(text)
        self._unseen |= changed

    def _failed(self, full: bool) -> None:
        self._metrics.inc("sync_proxy_rules_iptables_restore_failures_total", 1, **self._family)
        if not full:
            self._metrics.inc("sync_proxy_rules_iptables_partial_restore_failures_total", 1, **self._family)

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

    async def lost_rules(self) -> bool:
        """Whether a chain that upstream would have written with the last changes has too few or too many rules: one that all
        share, or one of a Service that changed. Here what did not change was not written, so that its counters stay."""
        if not self._unseen:
            return False
        looked_at, self._unseen = self._unseen, set()
        before = self.writes
        wanted: dict[str, dict[str, int]] = {"filter": {}, "nat": {}}
        for (table, name), written in self._written.items():
            wanted[table][name] = len(written)
        for decision in (d for key in looked_at for d in self.decisions(key)):
            wanted["nat"] |= {n: len(written) for n, written in rules.own_chains(decision, self._context).items()}
        have = {table: await self._counts(table, chains) for table, chains in wanted.items()}
        if before % 2 or self.writes != before or self.has_work:  # what is in the kernel by now is not what is known here
            self._unseen |= looked_at
            return False
        for table, chains in wanted.items():
            for name, count in chains.items():
                if have[table][name] != count:
                    log.info("%s: somebody changed chain %s: writing all again", self._iptables.main, name)
                    return True
        return False

    async def _counts(self, table: str, chains: Iterable[str]) -> dict[str, int | None]:
        """Of these chains how many rules the kernel has; None for one that is gone. A large table is not read as a whole: at
        10,000 Services its text is a hundred megabytes."""
        if self.is_large:
            listed = {name: await self._iptables.chain(table, name) for name in chains}
            return {name: None if text is None else text.count(f"\n-A {name} ") for name, text in listed.items()}
        saved = await self._iptables.save(table)
        return {name: saved.count(f"\n-A {name} ") if f"\n:{name} " in saved else None for name in chains}

    async def _any_canary(self) -> bool:
        for table in rules.CANARY_TABLES:
            if await self._iptables.chain_exists(table, rules.CANARY):
                return True
        return False

    # ── everything ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _write_whole(self) -> None:
        """Everything; chains that nobody needs any more are removed. The program reads while the services' chains are made."""
        saving = asyncio.ensure_future(self._iptables.save())
        await asyncio.sleep(0)  # let it start: it then runs beside what follows
        self._held, self._names, self._own_rules = {}, {}, 0
        decided = {key: self.decisions(key) for key in sorted(self._services)}
        ports = {d.service.name: rules.port_rules(d, self._context) for each in decided.values() for d in each}
        filters, nat = self._shared([ports[name] for name in sorted(ports)])
        self._unseen.clear()
        self._written = {("filter", n): c.rules for n, c in filters.items()} | {("nat", n): c.rules for n, c in nat.items()}
        have = chainset.outline(await saving)
        self.seen |= {mode for chain, mode in _OTHERS.items() if chain in have.tables.get("nat", {})}
        await self._iptables.restore(self._whole(decided, ports, filters, nat, have))
        self._count(self._own_rules)

    def _whole(
        self, decided: Mapping[str, list[Decision]], ports: Mapping[PortName, PortRules], filters: _Chains, nat: _Chains,
        have: ChainSet,
    ) -> Iterator[str]:  # fmt: skip
        """The restore text of everything, in parts; a service's chains are made when the part with them is asked for."""
        insert = chainset.missing_jumps(have, rules.jumps(self._context.ipv6, self._context.localhost_node_ports))
        canary = {rules.CANARY: Chain()}
        yield chainset.render_table("mangle", canary)
        yield chainset.render_table("filter", canary | filters, insert=insert)
        yield "*nat\n" + chainset.chain_lines(canary | nat)
        own: set[str] = set()
        for key, decisions in decided.items():
            made = {d.service.name: rules.own_chains(d, self._context) for d in decisions}
            for decision in decisions:
                name = decision.service.name
                self._hold(decision, ports[name], made[name])
            self._names[key] = tuple(made)
            chains = {n: Chain(r) for each in made.values() for n, r in each.items()}
            own.update(chains)
            yield chainset.chain_lines(chains) + chainset.rule_lines(chains)
        stale = [n for n in have.tables.get("nat", {}) if n.startswith(SERVICE_PREFIXES) and n not in own]
        yield chainset.chain_lines(dict.fromkeys(stale, Chain())) + chainset.rule_lines(nat)
        yield chainset.end_lines("nat", delete=stale, insert=insert)

    # ── what changed ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _partial_text(self, changed: Iterable[str]) -> str:
        """The restore text of what changed: the services' own chains, and of the shared chains those whose rules differ.

        Upstream always rewrites the shared ones; leaving equal ones alone spares time and keeps their counters. Where no port's
        part in them has changed, they are not even put together.
        """
        own: dict[str, Chain] = {}
        before, after = dict[str, None](), set[str]()
        shared_differ = self._written_for != (self._context, self._node_ports.current())
        for key in sorted(changed):
            held = {name: self._held.pop(name) for name in self._names.pop(key, ())}
            before.update(dict.fromkeys(n for h in held.values() for n in h.chains))
            decisions = self.decisions(key)
            for decision in decisions:
                name = decision.service.name
                shared, made = rules.port_rules(decision, self._context), rules.own_chains(decision, self._context)
                new = self._hold(decision, shared, made)
                old = held.pop(name, _NOTHING)
                shared_differ |= old.shared != shared
                same = dict(zip(old.chains, old.hashes, strict=True)) if old.sticky == new.sticky else {}
                own.update((n, Chain(made[n])) for n, h in zip(new.chains, new.hashes, strict=True) if same.get(n) != h)
                after.update(made)
                self._own_rules -= old.own_rules
            for name, gone in held.items():
                shared_differ |= gone.shared != _NOTHING.shared
                self._own_rules -= gone.own_rules
                self._lacking.pop(name, None)
            if decisions:
                self._names[key] = tuple(d.service.name for d in decisions)
        stale = [n for n in before if n not in after]
        filters, nat = self._differing() if shared_differ else ({}, {})
        self._count(sum(len(c.rules) for c in own.values()))
        text = chainset.render_table("filter", filters) if filters else ""
        if nat or own or stale:
            text += chainset.render_table("nat", nat | own, delete=stale)
        return text

    def _differing(self) -> tuple[_Chains, _Chains]:
        """The shared chains of tables filter and nat whose rules are not those last written."""
        found: list[_Chains] = []
        tables = self._shared([self._held[name].shared for name in sorted(self._held)])
        for table, chains in zip(("filter", "nat"), tables, strict=True):
            differing = {n: c for n, c in chains.items() if self._written.get((table, n)) != c.rules}
            self._written.update(((table, n), c.rules) for n, c in differing.items())
            found.append(differing)
        return found[0], found[1]

    # ── both ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hold(self, decision: Decision, shared: PortRules, made: Mapping[str, Rules]) -> _Held:
        """Note what is held of a port from now on. An endpoint's chain depends on its name and on whether there is affinity: who
        had it has it still, with its counters."""
        hashes = tuple(0 if n.startswith("KUBE-SEP-") else hash(r) for n, r in made.items())
        held = _Held(shared, tuple(made), hashes, sum(map(len, made.values())), bool(decision.service.affinity_s))
        self._held[decision.service.name] = held
        self._own_rules += held.own_rules
        self._note_local(decision)
        return held

    def _shared(self, ports: list[PortRules]) -> tuple[_Chains, _Chains]:
        """Tables filter and nat, without the service-owned chains."""
        addresses = self._node_ports.current()
        self._written_for = self._context, addresses
        return rules.filter_table(ports, self._context), rules.nat_table(ports, self._context, addresses)

    def _count(self, own_written: int) -> None:
        shared = {"filter": 0, "nat": 0}
        for (table, _), held in self._written.items():
            shared[table] += len(held)
        for name, own in (("sync_proxy_rules_iptables_total", self._own_rules), ("sync_proxy_rules_iptables_last", own_written)):
            self._metrics.set(name, shared["filter"], table="filter", **self._family)
            self._metrics.set(name, shared["nat"] + own, table="nat", **self._family)


_NOTHING = _Held(PortRules(), (), (), 0, False)
