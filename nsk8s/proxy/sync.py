"""A proxier of one IP family: gathers changes, has them written, cleans up after them. Upstream: pkg/proxy/*/proxier.go.

What every mode has in common; `iptables` and `nftables` write. Touches: netlink (addresses, conntrack), the clock.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.errors import Nsk8sError
from nsk8s.kernel.conntrack import Conntrack
from nsk8s.proxy import endpoints, rules, services
from nsk8s.proxy.conntrack import Serving
from nsk8s.proxy.decision import DROP, Decision, decide
from nsk8s.proxy.endpoints import Ports
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.rules import Context
from nsk8s.proxy.services import PortName, ServicePort

log = logging.getLogger("proxier")

FULL_SYNC_PERIOD_S = 3600.0


class Proxier(ABC):
    """Feed it changes (`service_changed`, `slice_changed`, `node_changed`), then `await sync()`; one sync at a time."""

    def __init__(self, context: Context, node: str, node_ports: NodePortAddresses, metrics: Metrics) -> None:
        self._context = context
        self._node = node
        self._zone = ""
        self._node_ports = node_ports
        self._metrics = metrics
        self.family = "IPv6" if context.ipv6 else "IPv4"
        self._family = {"ip_family": self.family}
        self._services: dict[str, dict[PortName, ServicePort]] = {}
        self._slices: dict[str, dict[str, Ports]] = {}  # Service → slice → what it says
        self._endpoints: dict[str, Ports] = {}
        self._total_endpoints = 0
        self._pending: dict[str, set[str]] = {"service": set(), "endpoint": set()}
        self._changed: set[str] = set()  # Services whose rules may differ from the kernel's
        self._triggers: dict[str, list[float]] = {}  # Service → when its pods changed (seconds since the epoch)
        self._udp_changed = False
        self._health_ports: dict[str, int] = {}  # Service → its health check node port, where it has one
        self._lacking: dict[PortName, tuple[bool, bool]] = {}  # whether its internal, external Local policy finds none here
        self._need_full = True
        self._common_changed = False  # something that all Services share
        self._last_full = 0.0
        self._started = time.time()
        self.has_written = False
        """True once rules are in the kernel."""
        self.writes = 0
        """Syncs begun and ended: odd while one is at work."""
        self.seen: set[str] = set()
        """The modes whose rules were met where this mode's are."""

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
        checked = next((p.health_check_node_port for p in ports.values() if p.health_check_node_port), 0)
        if checked:
            self._health_ports[key] = checked
        else:
            self._health_ports.pop(key, None)
        self._changed.add(key)
        self._note_change("service", key)
        return True

    def slice_changed(self, old: Object | None, new: Object | None) -> bool:
        """Take in an EndpointSlice's change; False when it cannot change a rule of this family. Of `old` its metadata do."""
        name = meta.name(new or old or {})
        was, now = (endpoints.service_of(each) if each is not None else "" for each in (old, new))
        before = self._slices.get(was, {}).get(name)
        after = endpoints.of_slice(new, self._node, self._context.ipv6) if new is not None else None
        if before == after and (was == now or after is None):
            return False
        if before is not None:
            held = self._slices[was]
            del held[name]
            if not held:
                del self._slices[was]
            self._changed.add(was)
        if new is not None and after is not None:
            self._slices.setdefault(now, {})[name] = after
            self._changed.add(now)
            self._note_trigger(now, new)
        self._note_change("endpoint", meta.key(new or old or {}))
        return True

    def _note_change(self, kind: str, key: str) -> None:
        """Both families count into one metric, as upstream."""
        self._metrics.inc(f"sync_proxy_rules_{kind}_changes_total")
        if key not in self._pending[kind]:
            self._pending[kind].add(key)
            self._metrics.inc(f"sync_proxy_rules_{kind}_changes_pending")

    def note_queued(self) -> None:
        """A sync was asked for."""
        now = datetime.now(UTC).timestamp()
        self._metrics.set("sync_proxy_rules_last_queued_timestamp_seconds", now, **self._family)

    def _note_trigger(self, key: str, new: Object) -> None:
        stamp = meta.annotations(new).get(endpoints.TRIGGER_TIME)
        try:
            when = meta.parse_time(stamp).timestamp() if stamp else 0.0
        except ValueError:
            return
        if when >= self._started:  # older changes were programmed by an earlier proxy
            self._triggers.setdefault(key, []).append(when)

    def node_changed(self, *, zone: str, context: Context, node_ips: tuple[str, ...]) -> bool:
        """Take in what the node says of itself; True when that can change rules: each is looked at again."""
        context = replace(context, large_cluster=self._context.large_cluster)
        moved = self._node_ports.set_node_ips(node_ips)
        if zone == self._zone and context == self._context and not moved:
            return False
        self._zone, self._context = zone, context
        self._reconsider()
        return True

    def _reconsider(self) -> None:
        """Something all Services depend on has changed: the next sync decides each of them anew, and writes what differs."""
        self._common_changed = True
        self._changed.update(self._services)

    def force_full_sync(self) -> None:
        self._need_full = True

    @property
    def is_needed(self) -> bool:
        """Whether there are or were Services of this family: until then nothing of it is written."""
        return bool(self._services or self.has_written)

    @property
    def is_large(self) -> bool:
        return self._context.large_cluster

    @property
    def has_work(self) -> bool:
        """Whether a sync has something to look at: a change in one family is none of the other's business."""
        is_old = time.monotonic() - self._last_full > FULL_SYNC_PERIOD_S
        asked = self._need_full or self._common_changed or self._changed or self._udp_changed
        return bool(asked or self.wants_another_s or is_old)

    # ── syncing ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def sync(self) -> bool:
        """Bring the kernel's rules in line; False when that failed (the next sync is then a full one)."""
        start = time.monotonic()
        full = self._need_full or start - self._last_full > FULL_SYNC_PERIOD_S
        self._need_full = self._common_changed = False
        changed, self._changed = self._changed, set()
        triggers, self._triggers = self._triggers, {}
        udp, self._udp_changed = self._udp_changed, False
        if full:
            self._lacking.clear()
        self.writes += 1
        try:
            with _no_garbage_collection():
                udp |= self._take_in(changed)
                self.nothing_pending()
                await self._write(full, changed)
        except Exception as e:  # whatever it was (no memory, no more files): nothing that was to be written may be forgotten
            expected = isinstance(e, Nsk8sError | OSError)
            log.error("sync failed, the next one will be full: %s", e, exc_info=not expected)
            self._need_full, self._udp_changed = True, udp
            self._changed |= changed
            self._failed(full)
            return False
        finally:
            self.writes += 1
        self.has_written = True
        if full:
            self._last_full = start
        log.debug("%s sync: %d services, %d changed", "full" if full else "partial", len(self._services), len(changed))
        self._observe(full, time.monotonic() - start, triggers)
        if udp:
            self._clean_conntrack()
        return True

    async def write_for_show(self) -> None:
        """A first full write, and nothing of what comes with it in a kernel. Raises Nsk8sError."""
        self._take_in(self._changed)
        await self._write(True, self._changed)

    def _take_in(self, changed: Iterable[str]) -> bool:
        """Work out the endpoints of changed Services; True when one of them has or had a UDP port."""
        udp = False
        for key in changed:
            before = self._endpoints.get(key, {})
            slices = self._slices.get(key)
            after = endpoints.of_service(slices.values()) if slices else {}
            if after:
                self._endpoints[key] = after
            else:
                self._endpoints.pop(key, None)
            udp |= any(n.protocol == "UDP" for n in (*before, *after))
            self._total_endpoints += sum(map(len, after.values())) - sum(map(len, before.values()))
        large = self._total_endpoints > rules.LARGE_CLUSTER_ENDPOINTS
        if large != self._context.large_cluster:  # rules already written keep their comments until the next full sync
            self._context = replace(self._context, large_cluster=large)
        return udp

    def decisions(self, key: str) -> list[Decision]:
        """What goes where, for each port of one Service."""
        found = self._endpoints.get(key, {})
        return [decide(p, found.get(name, ()), self._node, self._zone) for name, p in self._services.get(key, {}).items()]

    @abstractmethod
    async def _write(self, full: bool, changed: set[str]) -> None:
        """Bring the kernel's rules in line: all of them, or those of the changed Services. Raises Nsk8sError."""

    @abstractmethod
    def _failed(self, full: bool) -> None:
        """Count a failed write."""

    def _note_local(self, decision: Decision) -> None:
        """Whether a port's Local policies find only endpoints elsewhere, for the metric of that."""
        internal, external = decision.internal_verdict == DROP, decision.external_verdict == DROP
        lacking = internal, external and decision.service.externally_accessible
        if any(lacking):
            self._lacking[decision.service.name] = lacking
        else:
            self._lacking.pop(decision.service.name, None)

    def _no_local(self) -> tuple[int, int] | None:
        """How many service ports have an internal, an external Local policy and only endpoints elsewhere; None where policies
        are not heard."""
        return sum(internal for internal, _ in self._lacking.values()), sum(external for _, external in self._lacking.values())

    @abstractmethod
    async def is_intact(self) -> bool:
        """Whether nobody flushed the rules since they were written. Raises Nsk8sError when that cannot be told."""

    async def lost_rules(self) -> bool:
        """Whether somebody took away what upstream's mode would have written anew with the last changes. Raises Nsk8sError."""
        return False

    @property
    def wants_another_s(self) -> float:
        """In how many seconds another sync has something to do, though nothing changed; 0 for none."""
        return 0.0

    # ── afterwards ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def nothing_pending(self) -> None:
        """Every change that was noted is in the rules, or changes none of them."""
        for kind, held in self._pending.items():
            self._metrics.inc(f"sync_proxy_rules_{kind}_changes_pending", -len(held))
            held.clear()

    def _observe(self, full: bool, took_s: float, triggers: Mapping[str, list[float]]) -> None:
        self._metrics.observe("sync_proxy_rules_duration_seconds", took_s, **self._family)
        kind = "full" if full else "partial"
        self._metrics.observe(f"sync_{kind}_proxy_rules_duration_seconds", took_s, **self._family)
        now = datetime.now(UTC).timestamp()
        self._metrics.set("sync_proxy_rules_last_timestamp_seconds", now, **self._family)
        for times in triggers.values():
            for when in times:
                self._metrics.observe("network_programming_duration_seconds", max(0.0, now - when), **self._family)
        for policy, lacking in zip(("internal", "external"), self._no_local() or (), strict=False):
            self._metrics.set("sync_proxy_rules_no_local_endpoints_total", lacking, traffic_policy=policy, **self._family)

    def health_check_ports(self) -> dict[str, int]:
        """Service → its health check node port."""
        return self._health_ports

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
        serving = Serving(known, {name: each for ports in self._endpoints.values() for name, each in ports.items()})
        try:
            with Conntrack(self._context.ipv6) as table:
                deleted = table.delete(serving.stale(table.flows(ports=serving.ports))) if serving.ports else 0
        except OSError as e:
            log.error("cleaning stale UDP conntrack entries failed: %s", e)
            return
        if deleted:
            log.info("deleted %d stale UDP conntrack entries", deleted)
        self._metrics.inc("conntrack_reconciler_deleted_entries_total", deleted, **self._family)
        self._metrics.observe("conntrack_reconciler_sync_duration_seconds", time.monotonic() - start, **self._family)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A full sync makes a hundred thousand strings and no cycles: looking for garbage meanwhile took a fifth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _any_udp(ports: Iterable[PortName]) -> bool:
    return any(p.protocol == "UDP" for p in ports)
