"""/stats/summary and metrics, from the runtime's own figures. Upstream: kubelet/server/stats.

Touches: the runtime's socket, /proc.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nsk8s.api import meta
from nsk8s.kubelet.cri import RuntimeClient
from nsk8s.kubelet.machine import memory_available, memory_total
from nsk8s.kubelet.pleg import Pleg

if TYPE_CHECKING:
    from nsk8s.kubelet.podworker import PodWorker


async def summary(runtime: RuntimeClient, pleg: Pleg, workers: Iterable[PodWorker], node: str) -> dict[str, Any]:
    """The Summary object. Raises RuntimeFailure."""
    answer = await runtime.call("ListContainerStats")
    by_id = {(s.get("attributes") or {}).get("id"): s for s in answer.get("stats") or []}
    now = meta.rfc3339(datetime.now(UTC))
    pods = []
    for worker in workers:
        containers = []
        for container in pleg.get(worker.uid).containers:
            figures = by_id.get(container.id)
            if figures is not None and container.running:
                containers.append({"name": container.name, "startTime": now, **_usage(figures, now)})
        pods.append({
            "podRef": {"name": meta.name(worker.pod), "namespace": meta.namespace(worker.pod), "uid": worker.uid},
            "containers": containers,
            "cpu": {"time": now, "usageCoreNanoSeconds": sum(c["cpu"]["usageCoreNanoSeconds"] for c in containers)},
            "memory": {"time": now, "workingSetBytes": sum(c["memory"]["workingSetBytes"] for c in containers)},
        })  # fmt: skip
    return {"node": {"nodeName": node, **_node_usage(now)}, "pods": pods}


def _value(figures: dict[str, Any], *path: str) -> int:
    found: Any = figures
    for key in path:
        found = (found or {}).get(key)
    return int(found or 0)


def _usage(figures: dict[str, Any], now: str) -> dict[str, Any]:
    return {
        "cpu": {"time": now, "usageCoreNanoSeconds": _value(figures, "cpu", "usageCoreNanoSeconds", "value")},
        "memory": {"time": now, "workingSetBytes": _value(figures, "memory", "workingSetBytes", "value")},
    }


def _node_usage(now: str) -> dict[str, Any]:
    with open("/proc/meminfo", encoding="ascii") as f:
        total = memory_total(f.read())
    with open("/proc/stat", encoding="ascii") as f:
        ticks = [int(t) for t in f.readline().split()[1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]
    available = memory_available()
    return {
        "cpu": {"time": now, "usageCoreNanoSeconds": busy * 10**9 // os.sysconf("SC_CLK_TCK")},
        "memory": {"time": now, "availableBytes": available, "workingSetBytes": total - available},
    }


def metrics(pleg: Pleg, pods: int, node: str, started: float) -> str:
    """A few of upstream's metric names."""
    running = sum(1 for p in pleg.pods.values() for s in p.sandboxes if s.ready)
    states: dict[str, int] = {}
    for pod in pleg.pods.values():
        for container in pod.containers:
            state = container.state.removeprefix("CONTAINER_").lower()
            states[state] = states.get(state, 0) + 1
    lines = [
        "# TYPE kubelet_node_name gauge", f'kubelet_node_name{{node="{node}"}} 1',
        "# TYPE kubelet_running_pods gauge", f"kubelet_running_pods {running}",
        "# TYPE kubelet_desired_pods gauge", f'kubelet_desired_pods{{static=""}} {pods}',
        "# TYPE kubelet_running_containers gauge",
        *(f'kubelet_running_containers{{container_state="{s}"}} {n}' for s, n in sorted(states.items())),
        "# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {started:.3f}",
        "# TYPE process_cpu_seconds_total counter", f"process_cpu_seconds_total {time.process_time():.3f}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def resource_metrics(body: dict[str, Any]) -> str:
    """The resource metrics endpoint's text, from a Summary. Pure."""
    node = body["node"]
    lines = [
        "# TYPE node_cpu_usage_seconds_total counter",
        f"node_cpu_usage_seconds_total {node['cpu']['usageCoreNanoSeconds'] / 1e9:.3f}",
        "# TYPE node_memory_working_set_bytes gauge",
        f"node_memory_working_set_bytes {node['memory']['workingSetBytes']}",
    ]
    cpu, memory = ["# TYPE container_cpu_usage_seconds_total counter"], ["# TYPE container_memory_working_set_bytes gauge"]
    for pod in body["pods"]:
        for container in pod["containers"]:
            who = f'container="{container["name"]}",namespace="{pod["podRef"]["namespace"]}",pod="{pod["podRef"]["name"]}"'
            cpu.append(f"container_cpu_usage_seconds_total{{{who}}} {container['cpu']['usageCoreNanoSeconds'] / 1e9:.3f}")
            memory.append(f"container_memory_working_set_bytes{{{who}}} {container['memory']['workingSetBytes']}")
    return "\n".join([*lines, *cpu, *memory]) + "\n"
