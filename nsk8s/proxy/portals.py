"""userspace mode's rules: they lead to kube-proxy's own sockets, and know nothing of endpoints. Pure.

Upstream (until 1.25): pkg/proxy/userspace/proxier.go. A portal is an address and port of a Service. What comes over an interface
is REDIRECTed, which takes that interface's own address, so that answers go back the same way; what the node itself sends would be
redirected to 127.0.0.1 and answered from elsewhere: it is DNATed to the node's address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nsk8s.net.chainset import Chain, Jump, quote
from nsk8s.proxy.names import (
    NODEPORT_CONTAINER,
    NODEPORT_HOST,
    NODEPORT_NON_LOCAL,
    PORTALS_CONTAINER,
    PORTALS_HOST,
)
from nsk8s.proxy.services import ServicePort

LOCAL = "-m addrtype --dst-type LOCAL"
FROM_NO_BRIDGE = "-m physdev ! --physdev-is-in"
"""Pods, which come over a bridge, find their own way to external IPs."""


@dataclass(frozen=True, slots=True)
class Portal:
    """A service port, and the port on which kube-proxy waits for its connections."""

    service: ServicePort
    proxy_port: int
    has_node_port: bool
    """Whether the node port could be claimed: nobody else on the node uses it."""


def top_jumps() -> list[Jump]:
    """They stand before everything else."""
    portals = f"-m comment --comment {quote('handle ClusterIPs; NOTE: this must be before the NodePort rules')}"
    open_up = f"-m comment --comment {quote('Ensure that non-local NodePort traffic can flow')}"
    return [
        Jump("nat", "PREROUTING", f"{portals} -j {PORTALS_CONTAINER}"),
        Jump("nat", "OUTPUT", f"{portals} -j {PORTALS_HOST}"),
        Jump("filter", "INPUT", f"{open_up} -j {NODEPORT_NON_LOCAL}"),
    ]


def bottom_jumps() -> list[Jump]:
    """They stand behind everything else: any address of the node matches."""
    comment = quote("handle service NodePorts; NOTE: this must be the last rule in the chain")
    match = f"{LOCAL} -m comment --comment {comment}"
    return [
        Jump("nat", "PREROUTING", f"{match} -j {NODEPORT_CONTAINER}"),
        Jump("nat", "OUTPUT", f"{match} -j {NODEPORT_HOST}"),
    ]


def tables(portals: Iterable[Portal], host_ip: str) -> tuple[dict[str, Chain], dict[str, Chain]]:
    """The chains of tables filter and nat. Without an address of the node its own packets are not served."""
    nat: dict[str, list[str]] = {PORTALS_CONTAINER: [], PORTALS_HOST: [], NODEPORT_CONTAINER: [], NODEPORT_HOST: []}
    non_local: list[str] = []
    for portal in portals:
        service, port = portal.service, portal.proxy_port
        redirect = f"-j REDIRECT --to-ports {port}"
        host = f"[{host_ip}]" if ":" in host_ip else host_ip
        dnat = f"-j DNAT --to-destination {host}:{port}"
        for ip in (service.cluster_ip, *service.vips):
            match = _match(service, service.port, ip)
            nat[PORTALS_CONTAINER].append(f"{match} {redirect}")
            if host_ip:
                nat[PORTALS_HOST].append(f"{match} {dnat}")
        for ip in service.external_ips:
            match = _match(service, service.port, ip)
            nat[PORTALS_CONTAINER] += [f"{match} {FROM_NO_BRIDGE} {redirect}", f"{match} {LOCAL} {redirect}"]
            if host_ip:
                nat[PORTALS_HOST].append(f"{match} {LOCAL} {dnat}")
        if service.node_port and portal.has_node_port:
            match = _match(service, service.node_port)
            nat[NODEPORT_CONTAINER].append(f"{match} {redirect}")
            if host_ip:
                nat[NODEPORT_HOST].append(f"{match} {dnat}")
            non_local.append(f"{_match(service, port)} -m state --state NEW -j ACCEPT")
    filters = {NODEPORT_NON_LOCAL: Chain(tuple(non_local))}
    return filters, {name: Chain(tuple(rules)) for name, rules in nat.items()}


def unheard(service: ServicePort) -> list[str]:
    """What a Service asks for and this mode, as upstream's, does not do."""
    asked = (
        ("externalTrafficPolicy Local", service.external_local), ("internalTrafficPolicy Local", service.internal_local),
        ("loadBalancerSourceRanges", bool(service.source_ranges)), ("healthCheckNodePort", bool(service.health_check_node_port)),
    )  # fmt: skip
    return [name for name, wanted in asked if wanted]


def _match(service: ServicePort, port: int, ip: str = "") -> str:
    to = f" -d {ip}/{128 if ':' in ip else 32}" if ip else ""
    comment = f"-m comment --comment {quote(str(service.name))}"
    return f"{comment} -p {service.protocol} -m {service.protocol} --dport {port}{to}"
