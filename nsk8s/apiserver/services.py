"""Services' addresses and node ports: given, checked and given back. Touches: the cache, the store (IPAddresses), randomness.

What is taken is what the cached Services have, what has an IPAddress, and what writes in progress have reserved, so two creates
at once never get the same. Upstream: pkg/registry/core/service/{ipallocator,portallocator,storage}.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause, Kind
from nsk8s.apiserver import failures, servicefamilies, serviceranges
from nsk8s.apiserver.cache import DELETED, Cache, Change
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.config import Network
from nsk8s.apiserver.ipaddresses import IPAddresses
from nsk8s.apiserver.registry import Hooks
from nsk8s.apiserver.serviceranges import ServiceRanges
from nsk8s.errors import InternalError
from nsk8s.store.base import Store

_NODE_PORT_TYPES = ("NodePort", "LoadBalancer")
_ADDRESS_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")


def canonical(address: str) -> str:
    """One spelling for one address: a Service keeps its user's, the pool does not."""
    return str(ipaddress.ip_address(address)) if ":" in address else address


def addresses(service: Object) -> set[str]:
    """The cluster IPs that a Service holds."""
    spec = service.get("spec") or {}
    found = set(spec.get("clusterIPs") or ()) | {spec.get("clusterIP") or ""}
    return {canonical(a) for a in found - {"", "None"}}


def node_ports(service: Object) -> set[tuple[str, int]]:
    """(protocol, port): a port number may be used once by each protocol."""
    spec = service.get("spec") or {}
    taken = {(p.get("protocol", "TCP"), p["nodePort"]) for p in spec.get("ports") or () if p.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        taken.add(("TCP", spec["healthCheckNodePort"]))
    return taken


def needs_health_check(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


class ServiceAddresses(Hooks):
    def __init__(self, kind: Kind, store: Store, cache: Cache, networks: Sequence[Network], ports: range) -> None:
        """`networks` say which families the cluster has; addresses come from the ServiceCIDRs."""
        self._kind = kind
        self._versions = [n.version for n in networks]
        self._ranges = ServiceRanges(cache)
        self._objects = IPAddresses(store, cache)
        self._ports = ports
        self._port_band = serviceranges.static_band(len(ports), 32, 128)
        self._addresses: set[str] = set()
        self._node_ports: set[tuple[str, int]] = set()
        self._cache = cache.resource(kind.group_resource)
        for service in self._cache.values():
            self._addresses |= addresses(service)
            self._node_ports |= node_ports(service)
        self._cache.on_change(self._seen)
        self._grants: dict[int, _Grant] = {}
        """id of the object being written → what it was given; gone once the write has ended."""

    def _seen(self, change: Change) -> None:
        """What a Service no longer has is free again; what it has is taken (also if another server gave it)."""
        if change.type != DELETED:
            self._addresses |= addresses(change.obj)
            self._node_ports |= node_ports(change.obj)
        if change.prev is not None:
            now = change.obj if change.type != DELETED else {}
            self._free(addresses(change.prev) - addresses(now), change.prev)
            self._node_ports -= node_ports(change.prev) - node_ports(now)

    def _free(self, released: set[str], service: Object) -> None:
        self._addresses -= released
        for address in released:
            self._objects.release(address, service)

    async def creating(self, call: Call, obj: Object) -> None:
        await self._allocate(obj, None, dry_run=call.dry_run)

    async def updating(self, call: Call, obj: Object, old: Object) -> None:
        await self._allocate(obj, old, dry_run=call.dry_run)

    async def written(self, new: Object | None, old: Object) -> None:
        """Who is told that a Service is gone, or has an address no more, finds its IPAddress gone."""
        for address in addresses(old) - addresses(new or {}):
            await self._objects.gone(address)

    def failed(self, obj: Object, old: Object | None) -> None:
        grant = self._grants.pop(id(obj), None)
        if grant is not None:
            grant.give_back()

    def done(self, obj: Object) -> None:
        self._grants.pop(id(obj), None)

    async def _allocate(self, service: Object, old: Object | None, *, dry_run: bool) -> None:
        got = _Grant(self, service, old or {}, dry_run=dry_run)
        try:
            await got.addresses()
            got.ports()
        except BaseException:
            got.give_back()
            raise
        self._grants[id(service)] = got

    def families(self) -> list[str]:
        """Of the cluster, the default first."""
        return [f"IPv{v}" for v in self._versions]

    def settle_families(self, service: Object, old: Object) -> None:
        """Raises Invalid."""
        before = old.get("spec")
        if before and before.get("type") == "ExternalName":
            before = None
        causes = servicefamilies.settle(service["spec"], before, self.families())
        if causes:
            raise failures.invalid(self._kind, str(service["metadata"].get("name", "")), causes)

    async def take_address(self, service: Object, wanted: str, family: str, *, dry_run: bool) -> str:
        """`wanted`, or any free address of the family for "", taken in its canonical spelling. Raises Invalid, InternalError."""
        if not wanted:
            for address in self._ranges.candidates(6 if family == "IPv6" else 4):
                if await self._take(address, service, dry_run=dry_run):
                    return address
            raise InternalError("failed to allocate a serviceIP: range is full")
        problem = ""
        address = canonical(wanted)
        if not self._ranges.is_within(ipaddress.ip_address(address), ready=True):
            problem = "the provided network does not match the current range"
        else:
            await self._objects.gone(address)
            if not await self._take(address, service, dry_run=dry_run):
                problem = "provided IP is already allocated"
        if problem:
            text = f'Invalid value: ["{wanted}"]: failed to allocate IP {wanted}: {problem}'
            raise failures.invalid(self._kind, str(service["metadata"].get("name", "")), [Cause("spec.clusterIPs", text)])
        return address

    async def _take(self, address: str, service: Object, *, dry_run: bool) -> bool:
        if address in self._addresses or self._objects.has(address):
            return False
        self._addresses.add(address)
        try:
            taken = dry_run or await self._objects.take(address, service)
        except BaseException:
            self._free({address}, service)
            raise
        if not taken:
            self._addresses.discard(address)
        return taken

    def take_port(self, service: Object, index: int, protocols: Iterable[str], wanted: int) -> int:
        """`wanted` or, for 0, any port of the range that is free for all `protocols`. Raises Invalid, InternalError."""
        return self._take_port(service, f"spec.ports[{index}].nodePort", list(protocols), wanted)

    def _take_port(self, service: Object, field: str, protocols: Sequence[str], wanted: int) -> int:
        name = str(service["metadata"].get("name", ""))
        if wanted:
            if wanted not in self._ports:
                shown = f"{self._ports.start}-{self._ports.stop - 1}"
                problem = f"Invalid value: {wanted}: provided port is not in the valid range. The range of valid ports is {shown}"
                raise failures.invalid(self._kind, name, [Cause(field, problem)])
            if any((p, wanted) in self._node_ports for p in protocols):
                problem = f"Invalid value: {wanted}: provided port is already allocated"
                raise failures.invalid(self._kind, name, [Cause(field, problem)])
            self._node_ports.update((p, wanted) for p in protocols)
            return wanted
        for i in serviceranges.dice(0, len(self._ports) - 1, self._port_band):
            port = self._ports[i]
            if not any((p, port) in self._node_ports for p in ("TCP", "UDP", "SCTP")):
                self._node_ports.update((p, port) for p in protocols)
                return port
        raise InternalError("failed to allocate a nodePort: range is full")

    def take_health_check_port(self, service: Object, wanted: int) -> int:
        """As take_port, for the number on which nodes say whether they have endpoints."""
        return self._take_port(service, "spec.healthCheckNodePort", ["TCP"], wanted)

    def is_free(self, protocol: str, port: int) -> bool:
        return (protocol, port) not in self._node_ports

    def release(self, service: Object, taken: set[str], ports: set[tuple[str, int]]) -> None:
        self._free(taken, service)
        self._node_ports -= ports


class _Grant:
    """What one write of a Service is given, so that it can be given back whole."""

    def __init__(self, pool: ServiceAddresses, service: Object, old: Object, *, dry_run: bool) -> None:
        self._pool = pool
        self._dry_run = dry_run
        self._service = service
        self._spec = service.setdefault("spec", {})
        self._old = old
        self._had_addresses = addresses(old)
        self._old_spec = old.get("spec") or {}
        self._had_ports = node_ports(old)
        self._taken: set[str] = set()
        self._taken_ports: set[tuple[str, int]] = set()

    def give_back(self) -> None:
        self._pool.release(self._service, self._taken, self._taken_ports)

    async def addresses(self) -> None:
        spec = self._spec
        if spec.get("type", "ClusterIP") not in _ADDRESS_TYPES:
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
                spec.pop(field, None)
            return
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        self._pool.settle_families(self._service, self._old)
        if spec.get("clusterIP") == "None":
            spec["clusterIPs"] = ["None"]
            return
        wanted = [*(spec.get("clusterIPs") or ()), "", ""][: len(spec["ipFamilies"])]
        held = []
        for address, family in zip(wanted, spec["ipFamilies"], strict=True):
            if not address or canonical(address) not in self._had_addresses:
                taken = await self._pool.take_address(self._service, address, family, dry_run=self._dry_run)
                self._taken.add(taken)
                address = address or taken
            held.append(address)
        spec["clusterIP"], spec["clusterIPs"] = held[0], held

    def ports(self) -> None:
        spec = self._spec
        ports = spec.get("ports") or []
        wants = spec.get("type") in _NODE_PORT_TYPES and not (
            spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False
        )
        self._health_check_port()
        if spec.get("type") not in _NODE_PORT_TYPES:
            return
        given: dict[int, int] = {}
        for i, port in enumerate(ports):
            protocol, number = port.get("protocol", "TCP"), port.get("nodePort") or 0
            if not number and not wants:
                continue
            key = (protocol, number)
            if number and (key in self._had_ports or key in self._taken_ports):
                port["nodePort"] = number
                continue
            # TCP and UDP of the same service port (DNS) share their node port.
            shared = given.get(port.get("port", 0), 0)
            if not number and shared and self._pool.is_free(protocol, shared):
                number = shared
            got = self._pool.take_port(self._service, i, [protocol], number)
            self._taken_ports.add((protocol, got))
            given.setdefault(port.get("port", 0), got)
            port["nodePort"] = got

    def _health_check_port(self) -> None:
        """Where a load balancer asks each node whether it has endpoints of its own; for externalTrafficPolicy Local only."""
        spec = self._spec
        if not needs_health_check(spec):
            spec.pop("healthCheckNodePort", None)
            return
        had = self._old_spec.get("healthCheckNodePort") or 0 if needs_health_check(self._old_spec) else 0
        wanted = spec.get("healthCheckNodePort") or had
        if not wanted or wanted != had:
            wanted = self._pool.take_health_check_port(self._service, wanted)
            self._taken_ports.add(("TCP", wanted))
        spec["healthCheckNodePort"] = wanted
