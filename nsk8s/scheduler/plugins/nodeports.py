"""NodePorts: a host port can be had once per address and protocol. Pure. Upstream: plugins/nodeports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nsk8s.scheduler.framework import Filter, NodeInfo, PodInfo, PortKey, Reject, Snapshot

REASON = "node(s) didn't have free ports for the requested pod ports"
ANY = "0.0.0.0"


def conflict(wanted: PortKey, used: Iterable[PortKey]) -> bool:
    """Whether a host port is taken: the wildcard address conflicts with every other."""
    ip, protocol, port = wanted
    return any(
        port == used_port and protocol == used_protocol and (ANY in (ip, used_ip) or ip == used_ip)
        for used_ip, used_protocol, used_port in used
    )


class NodePorts:
    name, weight = "NodePorts", 0

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        ports = pod.ports
        if not ports:
            return None
        return lambda node: Reject((REASON,), True) if any(conflict(p, node.ports) for p in ports) else None

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        return None
