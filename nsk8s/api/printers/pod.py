"""The table of Pods: STATUS, READY and RESTARTS as users know them. Pure. Upstream: printPod."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nsk8s.api.duration import age
from nsk8s.api.meta import Object, is_condition_true, parse_time
from nsk8s.api.printers.common import NONE, age_of, joined, name_of, printer, spec_of, status_of


@dataclass
class _Restarts:
    """How often containers were restarted, and when last."""

    count: int = 0
    last: str = ""

    def add(self, status: Object) -> None:
        self.count += status.get("restartCount") or 0
        finished = ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        if finished and (not self.last or parse_time(finished) > parse_time(self.last)):
            self.last = finished

    def text(self, now: datetime) -> str:
        return f"{self.count} ({age(self.last, now)} ago)" if self.count and self.last else str(self.count)


def _ended(terminated: Object, prefix: str = "") -> str:
    if terminated.get("reason"):
        return f"{prefix}{terminated['reason']}"
    if terminated.get("signal"):
        return f"{prefix}Signal:{terminated['signal']}"
    return f"{prefix}ExitCode:{terminated.get('exitCode', 0)}"


def _pod_reason(pod: Object) -> str:
    status = status_of(pod)
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            return "SchedulingGated"
    return str(status.get("reason") or status.get("phase") or "")


@dataclass
class PodSummary:
    """What a line of `kubectl get pods` says."""

    ready: int
    total: int
    reason: str
    restarts: _Restarts


def _initialisation(pod: Object, summary: PodSummary, sidecar_restarts: _Restarts) -> bool:
    """Account for the init containers; True while one of them still holds the pod up."""
    declared = spec_of(pod).get("initContainers") or []
    sidecars = {c["name"] for c in declared if c.get("restartPolicy") == "Always"}
    summary.total += len(sidecars)
    for i, status in enumerate(status_of(pod).get("initContainerStatuses") or []):
        summary.restarts.add(status)
        sidecar = status.get("name") in sidecars
        if sidecar:
            sidecar_restarts.add(status)
        state = status.get("state") or {}
        terminated = state.get("terminated")
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if sidecar and status.get("started"):
            summary.ready += bool(status.get("ready"))
            continue
        waiting = (state.get("waiting") or {}).get("reason", "")
        if terminated is not None:
            summary.reason = _ended(terminated, "Init:")
        elif waiting and waiting != "PodInitializing":
            summary.reason = f"Init:{waiting}"
        else:
            summary.reason = f"Init:{i}/{len(declared)}"
        return True
    return False


def _containers(pod: Object, summary: PodSummary) -> None:
    running = False
    for status in reversed(status_of(pod).get("containerStatuses") or []):
        summary.restarts.add(status)
        state = status.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting is not None and waiting.get("reason"):
            summary.reason = waiting["reason"]
        elif terminated is not None:
            summary.reason = _ended(terminated)
        elif status.get("ready") and state.get("running") is not None:
            running = True
            summary.ready += 1
    if summary.reason == "Completed" and running:
        summary.reason = "Running" if is_condition_true(pod, "Ready") else "NotReady"


def summarise(pod: Object) -> PodSummary:
    """Ready and total containers, the STATUS word, the restarts."""
    summary = PodSummary(0, len(spec_of(pod).get("containers") or []), _pod_reason(pod), _Restarts())
    sidecar_restarts = _Restarts()
    initialising = _initialisation(pod, summary, sidecar_restarts)
    if not initialising or is_condition_true(pod, "Initialized"):
        summary.restarts = sidecar_restarts
        _containers(pod, summary)
    if pod["metadata"].get("deletionTimestamp"):
        if status_of(pod).get("reason") == "NodeLost":
            summary.reason = "Unknown"
        elif status_of(pod).get("phase") not in ("Succeeded", "Failed"):
            summary.reason = "Terminating"
    return summary


def _readiness_gates(pod: Object) -> str:
    gates = [g.get("conditionType", "") for g in spec_of(pod).get("readinessGates") or []]
    if not gates:
        return NONE
    return f"{sum(is_condition_true(pod, g) for g in gates)}/{len(gates)}"


def _pod(pod: Object, now: datetime) -> list[Any]:
    summary = summarise(pod)
    spec, status = spec_of(pod), status_of(pod)
    addresses = [a.get("ip", "") for a in status.get("podIPs") or []] or [status.get("podIP", "")]
    return [
        name_of(pod),
        f"{summary.ready}/{summary.total}",
        summary.reason,
        summary.restarts.text(now),
        age_of(pod, now),
        joined(addresses[:1]),
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _readiness_gates(pod),
    ]


POD = printer("Name | Ready | Status | Restarts | Age | *IP | *Node | *Nominated Node | *Readiness Gates", _pod)
