"""The nftables proxier of one IP family. Upstream: pkg/proxy/nftables/proxier.go. Touches: nft, netlink, the clock.

What goes into the table is decided in `decision` and `nftrules`. A sync sends only what changed: the elements that differ, the
chains of the ports that changed, and of their endpoints' chains only the new ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nsk8s.kernel.nft import DELETES_AT_ONCE, Nft, NftError, kernel_version
from nsk8s.net.nftset import NftChain, NftSet, NftTable, Transaction
from nsk8s.proxy import nftrules
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nftrules import NODE_PORT_IPS, TABLE, PortElements
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.rules import Context
from nsk8s.proxy.services import PortName
from nsk8s.proxy.sync import Proxier

log = logging.getLogger("proxier")

STALE_S = 1.0
"""How long a chain that was pointed to must lie empty before older kernels let it be deleted."""

LINES_AT_ONCE = 4000
"""For each anonymous map in a transaction the kernel looks through all of the transaction (__nft_set_trans_bind): one of 10,000
Services takes it more than twice the time of fifteen smaller ones."""

Key = tuple[str, str]
"""(map or set, an element's key)."""
Value = tuple[str, str]
"""(verdict, comment)."""


class Claims:
    """Who wants which element. Of two Services with one address and port the first by name has it, as long as it wants it."""

    def __init__(self) -> None:
        self._held: dict[Key, tuple[tuple[PortName, Value], ...]] = {}

    def value(self, key: Key) -> Value | None:
        held = self._held.get(key)
        return held[0][1] if held else None

    def items(self) -> Iterable[tuple[Key, Value]]:
        return ((key, held[0][1]) for key, held in self._held.items())

    def change(self, owner: PortName, before: Iterable[Key], after: Mapping[Key, Value]) -> dict[Key, Value | None]:
        """Replace what `owner` wants; returns the keys touched, with the value they had until now."""
        touched: dict[Key, Value | None] = {}
        for key in before:
            if key not in after:
                touched[key] = self.value(key)
                rest = tuple(c for c in self._held[key] if c[0] != owner)
                if rest:
                    self._held[key] = rest
                else:
                    del self._held[key]
        for key, value in after.items():
            touched[key] = self.value(key)
            others = tuple(c for c in self._held.get(key, ()) if c[0] != owner)
            self._held[key] = tuple(sorted((*others, (owner, value)))) if others else ((owner, value),)
        return touched


@dataclass(frozen=True, slots=True)
class _Held:
    """What stays in memory of a service port: the names of its chains and sets, its elements' keys, its decision's facts."""

    chains: tuple[str, ...]
    sets: tuple[str, ...]
    affinity_s: int
    keys: tuple[Key, ...]
    tops: tuple[int, ...]
    """A hash of the rules of each chain that is no endpoint's, in their order."""


class NftablesProxier(Proxier):
    def __init__(self, nft: Nft, context: Context, node: str, node_ports: NodePortAddresses, metrics: Metrics) -> None:
        super().__init__(context, node, node_ports, metrics)
        self._nft = nft
        self._family_name = "ip6" if context.ipv6 else "ip"
        self._where = f"{self._family_name} {TABLE}"
        self._held: dict[PortName, _Held] = {}
        self._names: dict[str, tuple[PortName, ...]] = {}  # Service → its keys in _held
        self._claims = Claims()
        self._base = NftTable()
        """What all Services share, as last written."""
        self._service_cidrs: tuple[str, ...] = ()
        self._stale: dict[str, float] = {}  # empty chain → since when
        self._stale_s = 0.0 if kernel_version() >= DELETES_AT_ONCE else STALE_S
        self._made_base_chains = False

    def service_cidrs_changed(self, cidrs: Iterable[str]) -> bool:
        """The clusters' Service ranges: what is in them and belongs to no Service is dropped. True when that changes a rule."""
        ours = tuple(sorted(c for c in cidrs if (":" in c) == self._context.ipv6))
        if ours == self._service_cidrs:
            return False
        self._service_cidrs = ours
        self._common_changed = True
        return True

    @property
    def wants_another_s(self) -> float:
        return self._stale_s if self._stale else 0.0

    async def is_intact(self) -> bool:
        if self._nft.has_rules(self._family_name, TABLE, nftrules.SERVICES):
            return True
        log.info("table %s was flushed or deleted by someone: writing all again", self._where)
        return False

    def _failed(self, full: bool) -> None:
        self._metrics.inc("sync_proxy_rules_nftables_sync_failures_total", 1, **self._family)

    # ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _write(self, full: bool, changed: set[str]) -> None:
        if self._stale_s:
            await self._delete_due()
        tx = Transaction(self._where)
        if full:
            tx = await self._fill_whole(tx)
        else:
            self._fill_changed(tx, changed)
        if not self._stale_s:
            for name in self._stale:
                tx.delete_chain(name)
            self._stale.clear()
        script = tx.render()
        if script:
            await self._nft.run(script)
        if full:
            self._made_base_chains = True

    async def _delete_due(self) -> None:
        """On older kernels: chains that lay empty for long enough go, in a transaction of their own, for it may fail."""
        now = time.monotonic()
        due = [name for name, since in self._stale.items() if now - since >= self._stale_s]
        if not due:
            return
        tx = Transaction(self._where)
        for name in due:
            tx.delete_chain(name)
        try:
            await self._nft.run(tx.render())
        except NftError as e:
            log.warning("stale chains could not be deleted, the next sync will be full: %s", e)
            self._metrics.inc("sync_proxy_rules_nftables_cleanup_failures_total", 1, **self._family)
            self.force_full_sync()
            return
        for name in due:
            del self._stale[name]

    def _fall(self, tx: Transaction, chain: str) -> None:
        """A chain that nobody needs is emptied now and deleted as soon as the kernel allows."""
        tx.empty_chain(chain)
        self._stale.setdefault(chain, time.monotonic())

    async def _fill_whole(self, tx: Transaction) -> Transaction:
        """Everything. Affinity sets that are still wanted stay, with the clients they remember.

        Of many Services the chains are written in transactions of their own, and the last one is returned: it has the elements.
        Meanwhile packets meet a Service's chains as they were, or as they will be.
        """
        have = set(self._nft.chains(self._family_name, TABLE))
        have_sets = self._nft.sets(self._family_name, TABLE)
        base = self._base = self._skeleton()
        tx.table(base.comment)
        for name, chain in base.chains.items():
            remade = bool(chain.base) and not self._made_base_chains
            if remade:
                tx.remake_chain(name)
            tx.chain(name, chain, is_new=remade or name not in have)
        for name, held in base.sets.items():
            tx.set(name, held)
        if NODE_PORT_IPS in have_sets and NODE_PORT_IPS not in base.sets:
            tx.delete_set(NODE_PORT_IPS)
        self._held, self._names, self._claims, self._stale = {}, {}, Claims(), {}
        kept: set[str] = set(base.chains)
        kept_sets: set[str] = set(base.sets)
        for key in sorted(self._services):
            for port, made in self._made(key):
                for name, rules in made.chains.items():
                    tx.chain(name, NftChain(rules), is_new=name not in have)
                for name, held in made.sets.items():
                    self._set(tx, name, held, have_sets)
                kept.update(made.chains)
                kept_sets.update(made.sets)
                self._claims.change(port, (), made.elements)
            if tx.lines > LINES_AT_ONCE:
                await self._nft.run(tx.render())
                tx = Transaction(self._where)
        for name, held in base.sets.items():
            if name in have_sets:
                tx.empty_set(name, is_map=held.is_map)
        for name, elements in base.elements.items():
            for key, verdict in elements.items():
                tx.element(name, key, verdict)
        for (name, key), (verdict, comment) in self._claims.items():
            tx.element(name, key, verdict, comment)
        for name in have - kept:
            self._fall(tx, name)
        for name in have_sets.keys() - kept_sets:
            if nftrules.is_own_set(name):
                tx.delete_set(name)
        return tx

    def _set(self, tx: Transaction, name: str, held: NftSet, have: Mapping[str, int]) -> None:
        """An affinity set; one with another time-out cannot be changed, only replaced."""
        if name in have and f"timeout {have[name]}s" not in held.spec:
            tx.delete_set(name)
        tx.set(name, held)

    def _fill_changed(self, tx: Transaction, changed: Iterable[str]) -> None:
        touched: dict[Key, Value | None] = {}
        fallen: set[str] = set()
        fallen_sets: set[str] = set()
        kept: set[str] = set()
        for service in sorted(changed):
            before = {port: self._held[port] for port in self._names.get(service, ())}
            for port, made in self._made(service):
                old = before.pop(port, _NOTHING)
                self._fill_port(tx, old, made, self._held[port])
                fallen.update(set(old.chains) - made.chains.keys())
                fallen_sets.update(set(old.sets) - made.sets.keys())
                kept.update(made.chains)
                _merge(touched, self._claims.change(port, old.keys, made.elements))
            for port, gone in before.items():
                del self._held[port]
                self._lacking.pop(port, None)
                fallen.update(gone.chains)
                fallen_sets.update(gone.sets)
                _merge(touched, self._claims.change(port, gone.keys, {}))
        for name in fallen - kept:
            self._fall(tx, name)
        for name in fallen_sets:
            tx.delete_set(name)
        for (name, key), was in touched.items():
            now = self._claims.value((name, key))
            if now == was:
                continue
            if was is not None:
                tx.delete_element(name, key, was[0])
            if now is not None:
                tx.element(name, key, *now)
        self._fill_base(tx)

    def _fill_port(self, tx: Transaction, old: _Held, made: PortElements, new: _Held) -> None:
        """The chains of one port. An endpoint's chain depends on its name and on affinity only: who had it has it still."""
        same = old.affinity_s == new.affinity_s
        known = set(old.chains)
        tops = dict(zip((n for n in old.chains if not n.startswith("endpoint-")), old.tops, strict=True))
        for name, rules in made.chains.items():
            was_stale = self._stale.pop(name, None) is not None
            if same and name in known and (name.startswith("endpoint-") or tops.get(name) == hash(rules)):
                continue
            tx.chain(name, NftChain(rules), is_new=name not in known and not was_stale)
        have = dict.fromkeys(old.sets, old.affinity_s)
        for name, held in made.sets.items():
            if have.get(name) != new.affinity_s:
                self._set(tx, name, held, have)

    def _fill_base(self, tx: Transaction) -> None:
        """Of what all Services share, what differs from what was written: some rules, and who serves node ports."""
        old, base = self._base, self._skeleton()
        for name, chain in base.chains.items():
            if chain != old.chains.get(name):
                tx.chain(name, chain, is_new=name not in old.chains)
        had, has = old.elements.get(NODE_PORT_IPS, {}), base.elements.get(NODE_PORT_IPS, {})
        for address in had.keys() - has.keys():
            tx.delete_element(NODE_PORT_IPS, address, "")
        for address in has.keys() - had.keys():
            tx.element(NODE_PORT_IPS, address, "")
        self._base = base

    def _skeleton(self) -> NftTable:
        return nftrules.skeleton(self._context, self._node_ports.current(), self._service_cidrs)

    def _made(self, service: str) -> list[tuple[PortName, PortElements]]:
        """Render one Service and note what is held of it from now on."""
        found = []
        for decision in self.decisions(service):
            made = nftrules.port_elements(decision, self._context)
            port = decision.service.name
            self._held[port] = _Held(
                tuple(made.chains),
                tuple(made.sets),
                decision.service.affinity_s,
                tuple(made.elements),
                tuple(hash(rules) for name, rules in made.chains.items() if not name.startswith("endpoint-")),
            )
            self._note_local(decision)
            found.append((port, made))
        if found:
            self._names[service] = tuple(port for port, _ in found)
        else:
            self._names.pop(service, None)
        return found


_NOTHING = _Held((), (), 0, (), ())


def _merge(into: dict[Key, Value | None], touched: Mapping[Key, Value | None]) -> None:
    """What an element was before the whole sync: the first time it was touched tells."""
    for key, was in touched.items():
        into.setdefault(key, was)
