"""What a Service asks of a load balancer, and what it has. Pure. Upstream: cloud-provider/controllers/service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.loadbalancer.pool import NoAddress, Pool

CLASS = "nsk8s.dev/lb"
FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
SHARING_KEYS = ("nsk8s.dev/allow-shared-ip", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip")
"""Annotations, the first that is there counts: Services that say the same may have one address."""


def wants(service: Object) -> bool:
    """Whether we are to serve it: type LoadBalancer, without a class or with ours, and not on its way out."""
    spec = service.get("spec") or {}
    ours = spec.get("loadBalancerClass") in (None, "", CLASS)
    return spec.get("type") == "LoadBalancer" and ours and not meta.is_deleting(service)


def has_finalizer(service: Object) -> bool:
    return FINALIZER in (service["metadata"].get("finalizers") or [])


def needs_cleanup(service: Object) -> bool:
    """Whether it was served once and is to be served no more. A Service that went over to another class is that one's."""
    if not has_finalizer(service):
        return False
    return meta.is_deleting(service) or (service.get("spec") or {}).get("type") != "LoadBalancer"


def addresses(service: Object) -> list[str]:
    """The IP addresses in its status."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [i["ip"] for i in ingress if i.get("ip")]


def held(service: Object, pool: Pool) -> list[str]:
    """The addresses of the pool that it has, also while it is being deleted."""
    spec = service.get("spec") or {}
    if spec.get("type") != "LoadBalancer" or spec.get("loadBalancerClass") not in (None, "", CLASS):
        return []
    return [ip for ip in addresses(service) if ip in pool]


def is_local(service: Object) -> bool:
    """externalTrafficPolicy Local: only nodes with an endpoint take its traffic, and clients keep their address."""
    return (service.get("spec") or {}).get("externalTrafficPolicy") == "Local"


@dataclass(frozen=True, slots=True)
class Sharing:
    """What decides whether a Service may have an address together with others. Upstream: MetalLB's SharingKey, BackendKey."""

    key: str
    ports: frozenset[tuple[str, int]]
    pods: tuple[tuple[str, str], ...] | None
    """With externalTrafficPolicy Local its selector: the same nodes must take the traffic of all who share."""

    @classmethod
    def of(cls, service: Object) -> Sharing:
        spec, said = service.get("spec") or {}, meta.annotations(service)
        ports = frozenset((p.get("protocol") or "TCP", p["port"]) for p in spec.get("ports") or [])
        pods = tuple(sorted((spec.get("selector") or {}).items())) if is_local(service) else None
        return cls(next((said[k] for k in SHARING_KEYS if k in said), ""), ports, pods)

    def hindrance(self, other: Sharing) -> str:
        """Why the two may not have one address; empty when they may."""
        if not self.key or self.key != other.key:
            return "which does not share it"
        twice = ", ".join(f"{port}/{protocol.lower()}" for protocol, port in sorted(self.ports & other.ports))
        if twice:
            return f"which has port {twice}, too"
        if self.pods != other.pods or self.pods == ():
            return "which has another externalTrafficPolicy, or under Local another selector"
        return ""


def family(ip: str) -> str:
    return "IPv6" if ":" in ip else "IPv4"


def choose(service: Object, pool: Pool, holder: Callable[[str], str | None]) -> list[str]:
    """The addresses for a Service, one of each of its families that the pool has, in its order: spec.loadBalancerIP, else the
    one it has, else the lowest free one.

    `holder(ip)` is the key of the Service that has it, and does not share it with this one. Raises NoAddress, saying why.
    """
    spec, key = service["spec"], meta.key(service)
    families = spec.get("ipFamilies") or ["IPv4"]
    served = [f for f in families if f in pool.families()]
    if not served:
        raise NoAddress(f"the pool {pool} has no {families[0]} address")
    wanted = spec.get("loadBalancerIP")
    if wanted:
        if wanted not in pool:
            raise NoAddress(f"spec.loadBalancerIP {wanted} is not in the pool {pool}")
        wanted = str(ip_address(wanted))
        if family(wanted) not in served:
            raise NoAddress(f"spec.loadBalancerIP {wanted} is not of the Service's families ({', '.join(families)})")
        other = holder(wanted)
        if other not in (None, key):
            raise NoAddress(f"spec.loadBalancerIP {wanted} is in use by {other}")
    known = [*([wanted] if wanted else []), *(ip for ip in held(service, pool) if holder(ip) in (None, key))]
    return [
        next((ip for ip in known if family(ip) == f), "") or pool.first_free(lambda ip: holder(ip) not in (None, key), f)
        for f in served
    ]  # fmt: skip


def status(ips: Iterable[str]) -> Object:
    """`status.loadBalancer` of a Service with those. VIP: packets arrive at nodes with one as their destination."""
    return {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in ips]}
