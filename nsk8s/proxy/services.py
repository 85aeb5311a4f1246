"""Service ports: what kube-proxy needs to know of a Service, per port and IP family. Upstream: pkg/proxy/serviceport.go. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.proxy import names
from nsk8s.proxy.addresses import parse_cidr, parse_ip

LABEL_PROXY_NAME = "service.kubernetes.io/service-proxy-name"
LABEL_HEADLESS = "service.kubernetes.io/headless"
LABEL_SERVICE = "kubernetes.io/service-name"
SELECTOR = f"!{LABEL_HEADLESS},!{LABEL_PROXY_NAME}"
"""Upstream's list option for Services and EndpointSlices: what another proxy serves, or what is headless, is not ours."""
DEFAULT_AFFINITY_S = 10800


class PortName(NamedTuple):
    """Which port of which Service; the port's name may be empty."""

    namespace: str
    name: str
    port: str
    protocol: str

    @property
    def service(self) -> str:
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return names.port_name(self.namespace, self.name, self.port)


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service for one IP family. Addresses are text in canonical form; an empty string or 0 means none."""

    name: PortName
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_s: int = 0
    external_local: bool = False
    internal_local: bool = False
    health_check_node_port: int = 0

    @property
    def protocol(self) -> str:
        """tcp, udp or sctp."""
        return self.name.protocol.lower()

    @property
    def externally_accessible(self) -> bool:
        return bool(self.node_port or self.vips or self.external_ips)

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Internal Cluster policy, or anything external: even under Local policy pods and the node itself use them."""
        return not self.internal_local or self.externally_accessible

    @property
    def uses_local_endpoints(self) -> bool:
        return self.internal_local or (self.external_local and self.externally_accessible)


def service_ports(service: Object, ipv6: bool = False) -> dict[PortName, ServicePort]:
    """The ports of a Service that a proxy of this family serves; none for headless, ExternalName and other proxies' Services."""
    spec = service.get("spec") or {}
    labels = meta.labels(service)
    if spec.get("type") == "ExternalName" or LABEL_PROXY_NAME in labels:
        return {}
    cluster_ip = _cluster_ip(spec, ipv6)
    if not cluster_ip:
        return {}
    is_load_balancer = spec.get("type") == "LoadBalancer"
    exposed = spec.get("type") in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))
    external_local = exposed and spec.get("externalTrafficPolicy") == "Local"
    health_port = int(spec.get("healthCheckNodePort") or 0) if is_load_balancer and external_local else 0
    affinity_s = 0
    if spec.get("sessionAffinity") == "ClientIP":
        client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        affinity_s = int(client_ip.get("timeoutSeconds") or DEFAULT_AFFINITY_S)
    external_ips = _of_family(spec.get("externalIPs"), ipv6)
    vips = _vips(service, ipv6)
    source_ranges = _ranges(spec.get("loadBalancerSourceRanges"), ipv6)
    found: dict[PortName, ServicePort] = {}
    for port in spec.get("ports") or []:
        name = PortName(meta.namespace(service), meta.name(service), port.get("name") or "", port.get("protocol") or "TCP")
        found[name] = ServicePort(
            name=name,
            cluster_ip=cluster_ip,
            port=int(port["port"]),
            node_port=int(port.get("nodePort") or 0),
            external_ips=external_ips,
            vips=vips,
            source_ranges=source_ranges,
            affinity_s=affinity_s,
            external_local=external_local,
            internal_local=spec.get("internalTrafficPolicy") == "Local",
            health_check_node_port=health_port,
        )
    return found


def _cluster_ip(spec: Object, ipv6: bool) -> str:
    wanted = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    return next((ip for ip in _of_family([w for w in wanted if w != "None"], ipv6)), "")


def _of_family(addresses: list[str] | None, ipv6: bool) -> tuple[str, ...]:
    """The valid addresses of the family, in canonical text, each once."""
    kept: dict[str, None] = {}
    for text in addresses or []:
        address = parse_ip(text)
        if address is not None and (address.version == 6) == ipv6:
            kept[str(address)] = None
    return tuple(kept)


def _vips(service: Object, ipv6: bool) -> tuple[str, ...]:
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return _of_family([i["ip"] for i in ingress if i.get("ip") and i.get("ipMode") != "Proxy"], ipv6)


def _ranges(texts: list[str] | None, ipv6: bool) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for text in texts or []:
        network = parse_cidr(text)
        if network is not None and (network.version == 6) == ipv6:
            kept[str(network)] = None
    return tuple(kept)
