"""NodeUnschedulable: cordoned nodes take no pods. Pure. Upstream: plugins/nodeunschedulable."""

from __future__ import annotations

from collections.abc import Sequence

from nsk8s.scheduler.framework import Filter, NodeInfo, PodInfo, Reject, Snapshot
from nsk8s.scheduler.plugins.tainttoleration import tolerates

REASON = "node(s) were unschedulable"
TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


class NodeUnschedulable:
    name, weight = "NodeUnschedulable", 0

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        if tolerates(pod.spec.get("tolerations") or (), TAINT):
            return None
        return lambda node: Reject((REASON,)) if node.unschedulable else None

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        return None
