"""Which UDP flows stick to an endpoint that no longer serves. Upstream: pkg/proxy/conntrack/cleanup.go. Pure.

UDP has no end of a connection: as long as a client keeps sending from one port, its conntrack entry sends it to the old endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.services import PortName, ServicePort


class Flow(Protocol):
    @property
    def dst(self) -> str: ...
    @property
    def dport(self) -> int: ...
    @property
    def reply_src(self) -> str: ...
    @property
    def reply_sport(self) -> int: ...


F = TypeVar("F", bound=Flow)


class Serving:
    """Who serves UDP Services: for each of their addresses and node ports, the endpoints that may answer."""

    def __init__(self, services: Mapping[PortName, ServicePort], endpoints: Mapping[PortName, Sequence[Endpoint]]) -> None:
        """Services without any serving endpoint are left alone."""
        self._by_address: dict[tuple[str, int], set[tuple[str, int]]] = {}
        self._by_node_port: dict[int, set[tuple[str, int]]] = {}
        for name, service in services.items():
            if name.protocol != "UDP":
                continue
            serving = {(e.ip, e.port) for e in endpoints.get(name, ()) if e.serving}
            if not serving:
                continue
            for ip in (service.cluster_ip, *service.external_ips, *service.vips):
                self._by_address[ip, service.port] = serving
            if service.node_port:
                self._by_node_port[service.node_port] = serving

    @property
    def ports(self) -> frozenset[int]:
        """The ports that clients send to: flows to others are nobody's here."""
        return frozenset((*(port for _, port in self._by_address), *self._by_node_port))

    def stale(self, flows: Iterable[F]) -> list[F]:
        """The flows to a UDP service's address or node port that are answered by none of its serving endpoints.

        Flows that were never translated (sent before the rules were there) are among them. A flow is kept as long as its
        endpoint serves: readiness, policy, topology and termination do not cut it.
        """
        found = []
        for flow in flows:
            serving = self._by_address.get((flow.dst, flow.dport)) or self._by_node_port.get(flow.dport)
            if serving and (flow.reply_src, flow.reply_sport) not in serving:
                found.append(flow)
        return found
