"""NodeResourcesFit and NodeResourcesBalancedAllocation: room for what a pod asks, and an even use of nodes. Pure.

Upstream: plugins/noderesources (fit, least_allocated, balanced_allocation).
"""

from __future__ import annotations

from collections.abc import Sequence

from nsk8s.scheduler.framework import MAX_SCORE, Filter, NodeInfo, PodInfo, Reject, Snapshot

_NATIVE = ("cpu", "memory", "ephemeral-storage")


class NodeResourcesFit:
    name, weight = "NodeResourcesFit", 1

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        wanted = [(name, value) for name, value in pod.requests.items() if value > 0]
        wanted.sort(key=lambda item: _NATIVE.index(item[0]) if item[0] in _NATIVE else len(_NATIVE))

        def check(node: NodeInfo) -> Reject | None:
            allocatable, requested = node.allocatable, node.requested
            reasons: list[str] = []
            resolvable = True
            if len(node.pods) + 1 > allocatable.get("pods", 0):
                reasons.append("Too many pods")
            for name, value in wanted:
                room = allocatable.get(name, 0)
                if value > room - requested.get(name, 0):
                    reasons.append(f"Insufficient {name}")
                    resolvable = resolvable and value <= room
            return Reject(tuple(reasons), resolvable) if reasons else None

        return check

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        cpu, memory = pod.nonzero
        return [
            (_least(node.nonzero_cpu + cpu, node.allocatable.get("cpu", 0))
             + _least(node.nonzero_memory + memory, node.allocatable.get("memory", 0))) // 2
            for node in nodes
        ]  # fmt: skip


def _least(requested: int, allocatable: int) -> int:
    return 0 if requested > allocatable or not allocatable else (allocatable - requested) * MAX_SCORE // allocatable


class NodeResourcesBalancedAllocation:
    name, weight = "NodeResourcesBalancedAllocation", 1

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        return None

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        cpu, memory = pod.requests.get("cpu", 0), pod.requests.get("memory", 0)
        if not cpu and not memory:
            return None
        return [
            _balance(node.requested.get("cpu", 0) + cpu, node.allocatable.get("cpu", 0),
                     node.requested.get("memory", 0) + memory, node.allocatable.get("memory", 0))
            for node in nodes
        ]  # fmt: skip


def _balance(cpu: int, cpu_room: int, memory: int, memory_room: int) -> int:
    if not cpu_room or not memory_room:
        return 0
    deviation = abs(min(cpu / cpu_room, 1.0) - min(memory / memory_room, 1.0)) / 2
    return int((1 - deviation) * MAX_SCORE)
