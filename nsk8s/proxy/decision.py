"""What goes where: the decision that every mode (iptables, nftables …) renders. Upstream: pkg/proxy/topology.go. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.services import ServicePort

REJECT, DROP = "REJECT", "DROP"


@dataclass(frozen=True, slots=True)
class Decision:
    """One service port on one node. Endpoint tuples are sorted by their text.

    `cluster` serves traffic under Cluster policy (and pods and the node under external Local policy), `local` under Local
    policy, `reachable` is the union. `usable`: something could answer somewhere in the cluster; it tells REJECT from DROP.
    """

    service: ServicePort
    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    reachable: tuple[Endpoint, ...] = ()
    usable: bool = False

    @property
    def internal_verdict(self) -> str:
        """What happens to ClusterIP traffic that has nowhere to go: REJECT, DROP, or empty when it is served."""
        return self._verdict(self.service.internal_local)

    @property
    def external_verdict(self) -> str:
        """The same for externalIPs, VIPs and node ports, once pods and the node itself were let through."""
        return self._verdict(self.service.external_local)

    def _verdict(self, is_local: bool) -> str:
        if not self.usable:
            return REJECT
        return DROP if is_local and not self.local else ""


def decide(service: ServicePort, endpoints: Sequence[Endpoint], node: str, zone: str) -> Decision:
    """Sort the endpoints of a service port into what this node may use.

    Ready endpoints count; when there are none, serving and terminating ones do, for Cluster and Local apart.
    """
    if not endpoints:
        return Decision(service)
    ready = tuple(e for e in endpoints if e.ready)
    draining = tuple(e for e in endpoints if not e.ready and e.serving and e.terminating)
    cluster: tuple[Endpoint, ...] = ()
    usable = False
    if service.uses_cluster_endpoints:
        near = _topology(ready, node, zone)
        cluster = tuple(e for e in ready if near(e)) or draining
        usable = bool(cluster)
    if not service.uses_local_endpoints:
        return Decision(service, cluster, (), cluster, usable)
    usable = bool(ready or draining)
    local = tuple(e for e in ready if e.local) or tuple(e for e in draining if e.local)
    reachable = tuple(sorted({*cluster, *local}, key=str))
    return Decision(service, cluster, local, reachable, usable)


def ready_anywhere(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """All that userspace mode asks: it is older than policies, hints and draining."""
    return tuple(e for e in endpoints if e.ready)


def _topology(ready: Sequence[Endpoint], node: str, zone: str) -> Callable[[Endpoint], bool]:
    """The filter that hints ask for: same node, else same zone, else none. One ready endpoint without hint turns it off."""
    if ready and all(e.nodes for e in ready) and any(node in e.nodes for e in ready):
        return lambda e: node in e.nodes
    if ready and all(e.zones for e in ready) and any(zone in e.zones for e in ready):
        return lambda e: zone in e.zones
    return lambda e: True
