"""The iptables proxier of one IP family: gathers changes, writes rules. Upstream: pkg/proxy/iptables/proxier.go.

Touches: iptables, netlink (addresses, conntrack), the clock. What goes into the rules is decided in `decision` and `rules`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.kernel.conntrack import Conntrack
from nsk8s.kernel.iptables import Iptables, IptablesError
from nsk8s.net import chainset
from nsk8s.net.chainset import Chain, Rules
from nsk8s.proxy import conntrack, endpoints, rules, services
from nsk8s.proxy.decision import Decision, decide
from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.names import SERVICE_PREFIXES
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.rules import Context, PortRules
from nsk8s.proxy.services import PortName, ServicePort

log = logging.getLogger("proxier")

FULL_SYNC_PERIOD_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Held:
    """What stays in memory of a service port's rules: its part of the shared chains, its chains' names, its decision's facts."""

    shared: PortRules
    chains: tuple[str, ...]
    own_rules: int
    no_local_internal: bool
    no_local_external: bool


class Proxier:
    """Feed it changes (`service_changed`, `slice_changed`, `node_changed`), then `await sync()`; one sync at a time."""

    def __init__(
        self, iptables: Iptables, context: Context, node: str, node_ports: NodePortAddresses, metrics: Metrics
    ) -> None:
        self._iptables = iptables
        self._context = context
        self._node = node
        self._zone = ""
        self._node_ports = node_ports
        self._metrics = metrics
        self._family = {"ip_family": "IPv6" if context.ipv6 else "IPv4"}
        self._services: dict[str, dict[PortName, ServicePort]] = {}
        self._slices: dict[str, dict[str, Object]] = {}
        self._endpoints: dict[str, dict[PortName, tuple[Endpoint, ...]]] = {}
        self._changed: set[str] = set()  # Services whose rules may differ from the kernel's
        self._triggers: dict[str, list[float]] = {}  # Service → when its pods changed (seconds since the epoch)
        self._udp_changed = False
        self._held: dict[PortName, _Held] = {}
        self._names: dict[str, set[PortName]] = {}  # Service → its keys in _held
        self._written: dict[tuple[str, str], Rules] = {}  # (table, shared chain) → its rules as last written
        self._need_full = True
        self._last_full = 0.0
        self._started = time.time()
        self.has_written = False
        """True once rules are in the kernel."""

    # ── changes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def service_changed(self, old: Object | None, new: Object | None) -> bool:
        """Take in a Service's change; False when it cannot change a rule of this family."""
        key = meta.key(new or old or {})
        ports = services.service_ports(new, self._context.ipv6) if new is not None else {}
        if ports == self._services.get(key, {}):
            return False
        self._udp_changed |= _any_udp(ports) or _any_udp(self._services.get(key, {}))
        if ports:
            self._services[key] = ports
        else:
            del self._services[key]
        self._changed.add(key)
        self._metrics.inc("sync_proxy_rules_service_changes_total", 1, **self._family)
        return True

    def slice_changed(self, old: Object | None, new: Object | None) -> bool:
        """Take in an EndpointSlice's change; False when it cannot change a rule of this family."""
        wanted = "IPv6" if self._context.ipv6 else "IPv4"
        if not endpoints.matters(old, new) or not any(s is not None and s.get("addressType") == wanted for s in (old, new)):
            return False
        key = endpoints.service_of(old) if old is not None else ""
        if old is not None and key:
            held = self._slices.get(key, {})
            held.pop(meta.name(old), None)
            if not held:
                self._slices.pop(key, None)
            self._changed.add(key)
        key = endpoints.service_of(new) if new is not None else ""
        if new is not None and key:
            self._slices.setdefault(key, {})[meta.name(new)] = new
            self._changed.add(key)
            self._note_trigger(key, new)
        self._metrics.inc("sync_proxy_rules_endpoint_changes_total", 1, **self._family)
        return True

    def _note_trigger(self, key: str, new: Object) -> None:
        stamp = meta.annotations(new).get(endpoints.TRIGGER_TIME)
        try:
            when = meta.parse_time(stamp).timestamp() if stamp else 0.0
        except ValueError:
            return
        if when >= self._started:  # older changes were programmed by an earlier proxy
            self._triggers.setdefault(key, []).append(when)

    def node_changed(self, *, zone: str, context: Context, node_ips: tuple[str, ...]) -> bool:
        """Take in what the node says of itself; True when that changes rules (all are then written again)."""
        context = replace(context, large_cluster=self._context.large_cluster)
        moved = self._node_ports.set_node_ips(node_ips)
        if zone == self._zone and context == self._context and not moved:
            return False
        self._zone, self._context, self._need_full = zone, context, True
        return True

    def force_full_sync(self) -> None:
        self._need_full = True

    @property
    def is_needed(self) -> bool:
        """Whether there are or were Services of this family: until then nothing of it is written."""
        return bool(self._services or self._held or self.has_written)

    # ── syncing ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def sync(self) -> bool:
        """Bring the kernel's rules in line; False when that failed (the next sync is then a full one)."""
        start = time.monotonic()
        full = self._need_full or start - self._last_full > FULL_SYNC_PERIOD_S
        self._need_full = False
        changed, self._changed = self._changed, set()
        triggers, self._triggers = self._triggers, {}
        udp, self._udp_changed = self._udp_changed, False
        udp |= self._take_in(changed)
        self._gauge_pending()
        try:
            text, fallen = await self._full_text() if full else (self._partial_text(changed), ())
            if text:
                await self._iptables.restore(text)
        except IptablesError as e:
            log.error("sync failed, the next one will be full: %s", e)
            self._need_full, self._udp_changed = True, udp
            self._metrics.inc("sync_proxy_rules_iptables_restore_failures_total", 1, **self._family)
            if not full:
                self._metrics.inc("sync_proxy_rules_iptables_partial_restore_failures_total", 1, **self._family)
            return False
        self.has_written = True
        if full:
            self._last_full = start
        log.debug("%s sync: %d services, %d removed chains", "full" if full else "partial", len(self._services), len(fallen))
        self._observe(full, time.monotonic() - start, triggers)
        if udp:
            self._clean_conntrack()
        return True

    def _take_in(self, changed: Iterable[str]) -> bool:
        """Work out the endpoints of changed Services; True when one of them has or had a UDP port."""
        udp = False
        for key in changed:
            before = self._endpoints.get(key, {})
            slices = self._slices.get(key)
            after = endpoints.endpoints_of(slices.values(), self._node, self._context.ipv6) if slices else {}
            if after:
                self._endpoints[key] = after
            else:
                self._endpoints.pop(key, None)
            udp |= any(n.protocol == "UDP" for n in (*before, *after))
        total = sum(len(each) for ports in self._endpoints.values() for each in ports.values())
        large = total > rules.LARGE_CLUSTER_ENDPOINTS
        if large != self._context.large_cluster:  # rules already written keep their comments until the next full sync
            self._context = replace(self._context, large_cluster=large)
        return udp

    def decisions(self, key: str) -> list[Decision]:
        """What goes where, for each port of one Service."""
        found = self._endpoints.get(key, {})
        return [decide(p, found.get(name, ()), self._node, self._zone) for name, p in self._services.get(key, {}).items()]

    def _render(self, key: str) -> tuple[dict[str, Chain], list[str]]:
        """Render one Service; returns the chains it owns now and the names of those it owns no more."""
        own: dict[str, Chain] = {}
        kept: set[PortName] = set()
        before = [n for p in self._ports_of(key) for n in self._held[p].chains]
        for decision in self.decisions(key):
            made = rules.port_rules(decision, self._context)
            own.update(made.own)
            kept.add(decision.service.name)
            self._held[decision.service.name] = _Held(
                replace(made, own={}),
                tuple(made.own),
                sum(len(c.rules) for c in made.own.values()),
                decision.internal_verdict == "DROP",
                decision.external_verdict == "DROP" and decision.service.externally_accessible,
            )
            self._names.setdefault(key, set()).add(decision.service.name)
        for gone in [p for p in self._ports_of(key) if p not in kept]:
            del self._held[gone]
            self._names[key].discard(gone)
        if not self._names.get(key):
            self._names.pop(key, None)
        return own, [n for n in before if n not in own]

    def _ports_of(self, key: str) -> list[PortName]:
        return list(self._names.get(key, ()))

    def _shared(self) -> tuple[dict[str, Chain], dict[str, Chain]]:
        """Tables filter and nat, without the service-owned chains."""
        ports = [self._held[name].shared for name in sorted(self._held)]
        return rules.filter_table(ports, self._context), rules.nat_table(ports, self._context, self._node_ports.current())

    async def _full_text(self) -> tuple[str, list[str]]:
        """The restore text of everything, and the stale chains it removes."""
        have = chainset.outline(await self._iptables.save())
        self._held, self._names = {}, {}
        own: dict[str, Chain] = {}
        for key in sorted(self._services):
            own.update(self._render(key)[0])
        filters, nat = self._shared()
        self._remember(filters, nat)
        nat.update(own)
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
        return text, stale

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

    # ── afterwards ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _count(self, filters: Mapping[str, Chain], nat: Mapping[str, Chain], own_written: int) -> None:
        in_filter = sum(len(c.rules) for c in filters.values())
        in_nat = sum(len(c.rules) for n, c in nat.items() if not n.startswith(SERVICE_PREFIXES))
        held = sum(h.own_rules for h in self._held.values())
        for name, own in (("sync_proxy_rules_iptables_total", held), ("sync_proxy_rules_iptables_last", own_written)):
            self._metrics.set(name, in_filter, table="filter", **self._family)
            self._metrics.set(name, in_nat + own, table="nat", **self._family)

    def _gauge_pending(self) -> None:
        self._metrics.set("sync_proxy_rules_service_changes_pending", 0, **self._family)
        self._metrics.set("sync_proxy_rules_endpoint_changes_pending", 0, **self._family)

    def _observe(self, full: bool, took_s: float, triggers: Mapping[str, list[float]]) -> None:
        self._metrics.observe("sync_proxy_rules_duration_seconds", took_s, **self._family)
        kind = "full" if full else "partial"
        self._metrics.observe(f"sync_{kind}_proxy_rules_duration_seconds", took_s, **self._family)
        now = datetime.now(UTC).timestamp()
        self._metrics.set("sync_proxy_rules_last_timestamp_seconds", now, **self._family)
        for times in triggers.values():
            for when in times:
                self._metrics.observe("network_programming_duration_seconds", max(0.0, now - when), **self._family)
        for policy in ("internal", "external"):
            lacking = sum(getattr(h, f"no_local_{policy}") for h in self._held.values())
            self._metrics.set("sync_proxy_rules_no_local_endpoints_total", lacking, traffic_policy=policy, **self._family)

    def health_check_ports(self) -> dict[str, int]:
        """Service → its health check node port."""
        return {
            key: port.health_check_node_port
            for key, ports in self._services.items()
            for port in ports.values()
            if port.health_check_node_port
        }

    def local_ready_counts(self) -> dict[str, int]:
        """Service → distinct addresses of its ready endpoints on this node."""
        counts = {}
        for key in self.health_check_ports():
            found = self._endpoints.get(key, {})
            counts[key] = len({e.ip for each in found.values() for e in each if e.local and e.ready})
        return counts

    def _clean_conntrack(self) -> None:
        start = time.monotonic()
        known = {name: port for ports in self._services.values() for name, port in ports.items()}
        serving = {name: each for ports in self._endpoints.values() for name, each in ports.items()}
        try:
            with Conntrack(self._context.ipv6) as table:
                deleted = table.delete(conntrack.stale(table.flows(), known, serving))
        except OSError as e:
            log.error("cleaning stale UDP conntrack entries failed: %s", e)
            return
        if deleted:
            log.info("deleted %d stale UDP conntrack entries", deleted)
        self._metrics.inc("conntrack_reconciler_deleted_entries_total", deleted, **self._family)
        self._metrics.observe("conntrack_reconciler_sync_duration_seconds", time.monotonic() - start, **self._family)


def _any_udp(ports: Iterable[PortName]) -> bool:
    return any(p.protocol == "UDP" for p in ports)
