"""Preemption: which pods of lower priority must go so that a pod fits, and where. Pure.

Upstream: pkg/scheduler/framework/preemption, plugins/defaultpreemption. PodDisruptionBudgets are not considered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsk8s.scheduler.framework import (
    NodeInfo,
    Plugin,
    PodInfo,
    Reject,
    Snapshot,
    filters_for,
    first_reject,
    fit_message,
)

NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"


@dataclass(frozen=True, slots=True)
class Plan:
    """Delete `victims` and wait: `node` will then have room."""

    node: str
    victims: tuple[PodInfo, ...]


def plan(pod: PodInfo, snapshot: Snapshot, plugins: Sequence[Plugin], rejects: Mapping[str, Reject]) -> Plan | str:
    """The cheapest preemption for an unschedulable pod, or upstream's words why there is none."""
    if pod.spec.get("preemptionPolicy") == "Never":
        return "not eligible due to preemptionPolicy=Never."
    nominated = (pod.pod.get("status") or {}).get("nominatedNodeName")
    by_name = {node.name: node for node in snapshot.nodes}
    if nominated in by_name and rejects.get(nominated, Reject((), True)).resolvable:
        going = by_name[nominated].pods.values()
        if any(p.deleting and p.priority < pod.priority for p in going):
            return "not eligible due to a terminating pod on the nominated node."
    plans: list[Plan] = []
    failures: list[Reject] = []
    for node in snapshot.nodes:
        if not rejects.get(node.name, Reject(())).resolvable:
            failures.append(Reject((NOT_HELPFUL,)))
            continue
        victims = victims_on(pod, node, snapshot, plugins)
        if victims:
            plans.append(Plan(node.name, tuple(victims)))
        else:
            failures.append(Reject((NO_VICTIMS,)))
    if not plans:
        return fit_message(len(snapshot.nodes), failures)
    return min(plans, key=_cost)


def _cost(candidate: Plan) -> tuple[int, int, int]:
    priorities = [victim.priority for victim in candidate.victims]
    return max(priorities), sum(p + 2**31 for p in priorities), len(priorities)


def victims_on(pod: PodInfo, node: NodeInfo, snapshot: Snapshot, plugins: Sequence[Plugin]) -> list[PodInfo]:
    """The fewest pods, least important first, whose end lets `pod` fit on `node`; empty if nothing helps."""
    trial = node.clone()
    candidates = [p for p in node.pods.values() if p.priority < pod.priority]
    for candidate in candidates:
        trial.remove(candidate.uid)

    def fits() -> bool:
        return first_reject(filters_for(pod, snapshot.with_node(trial), plugins), trial) is None

    if not candidates or not fits():
        return []
    victims: list[PodInfo] = []
    started = {p.uid: (p.pod.get("status") or {}).get("startTime") or "9" for p in candidates}
    for candidate in sorted(candidates, key=lambda p: (-p.priority, started[p.uid])):
        trial.add(candidate)
        if not fits():
            trial.remove(candidate.uid)
            victims.append(candidate)
    return victims
