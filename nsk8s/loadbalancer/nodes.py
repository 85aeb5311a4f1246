"""Which nodes take a load balancer's traffic. Pure. Upstream: cloud-provider/controllers/service (node predicates),
MetalLB's layer2_controller (the choice of one)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.loadbalancer import services
from nsk8s.loadbalancer.pool import Pool

EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


def gateways(nodes: Iterable[Object], *, ipv6: bool = False) -> dict[str, str]:
    """node → its InternalIP of a family, for those that may take traffic: Ready, not excluded by label, not on their way out."""
    found = {}
    for node in sorted(nodes, key=meta.name):
        taints = [t.get("key") for t in (node.get("spec") or {}).get("taints") or []]
        if EXCLUDE_LABEL in meta.labels(node) or meta.is_deleting(node) or TO_BE_DELETED in taints:
            continue
        addresses = (node.get("status") or {}).get("addresses") or []
        ips = (a["address"] for a in addresses if a.get("type") == "InternalIP")
        ip = next((ip for ip in ips if (":" in ip) == ipv6), "")
        if ip and meta.is_condition_true(node, "Ready"):
            found[meta.name(node)] = ip
    return found


def by_service(slice_: Object) -> list[str]:
    """The index value of an EndpointSlice: its Service's key."""
    name = meta.labels(slice_).get(SERVICE_NAME_LABEL)
    return [f"{meta.namespace(slice_)}/{name}"] if name else []


def with_endpoint(slices: Iterable[Object], family: str = "IPv4") -> set[str]:
    """The nodes with a ready endpoint of the family; while there is none anywhere, those with one that still serves as it
    terminates."""
    ready, serving = set(), set()
    for slice_ in slices:
        if slice_.get("addressType") != family:
            continue
        for endpoint in slice_.get("endpoints") or []:
            node, conditions = endpoint.get("nodeName"), endpoint.get("conditions") or {}
            if not node:
                continue
            is_ready = conditions.get("ready") is not False
            if is_ready:
                ready.add(node)
            if conditions.get("serving", is_ready):
                serving.add(node)
    return ready or serving


def candidates(service: Object, slices: Iterable[Object], usable: Mapping[str, str], family: str = "IPv4") -> list[str]:
    """The nodes that may take a Service's traffic of a family, sorted."""
    return sorted(with_endpoint(slices, family) & set(usable)) if services.is_local(service) else sorted(usable)


def announcer(ip: str, nodes: Iterable[str]) -> str | None:
    """The one of `nodes` that answers for an address: every speaker computes the same, and a node that comes or goes moves
    no more addresses than it must."""
    return min(nodes, key=lambda n: hashlib.sha256(f"{n}#{ip}".encode()).digest(), default=None)


def wanted_routes(
    pool: Pool, usable: Mapping[str, Mapping[str, str]], wanted: Iterable[tuple[Object, Sequence[Object]]]
) -> dict[str, tuple[str, ...]]:
    """destination → gateways (none: unreachable) of the router: the pool through every node, and an address of its own for
    each (Service, its slices) with externalTrafficPolicy Local. `usable`: family → node → gateway."""
    routes = {str(n): tuple(sorted(usable[f"IPv{n.version}"].values())) for n in pool.networks}
    for service, slices in wanted:
        if services.wants(service) and services.is_local(service):
            for ip in services.held(service, pool):
                family = services.family(ip)
                nodes = candidates(service, slices, usable[family], family)
                routes[f"{ip}/{128 if family == 'IPv6' else 32}"] = tuple(sorted(usable[family][n] for n in nodes))
    return routes
