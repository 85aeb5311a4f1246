"""NodeName: spec.nodeName must be this node. Pure. Upstream: plugins/nodename."""

from __future__ import annotations

from collections.abc import Sequence

from nsk8s.scheduler.framework import Filter, NodeInfo, PodInfo, Reject, Snapshot

REASON = "node(s) didn't match the requested node name"


class NodeName:
    name, weight = "NodeName", 0

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        wanted = pod.spec.get("nodeName")
        if not wanted:
            return None
        return lambda node: None if node.name == wanted else Reject((REASON,))

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        return None
