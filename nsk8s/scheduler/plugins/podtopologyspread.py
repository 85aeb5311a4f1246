"""PodTopologySpread: topologySpreadConstraints, and upstream's default spreading over nodes and zones. Pure.

Upstream: plugins/podtopologyspread. System default constraints (hostname, maxSkew 3; zone, maxSkew 5) apply to pods of a
ReplicaSet, StatefulSet or ReplicationController without constraints of their own; the pods counted are the controller's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nsk8s.api import selectors
from nsk8s.api.meta import Object
from nsk8s.scheduler.framework import MAX_SCORE, Filter, NodeInfo, PodInfo, Reject, Snapshot
from nsk8s.scheduler.plugins.nodeaffinity import NodeMatch, required_match
from nsk8s.scheduler.plugins.tainttoleration import tolerates

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
REASON = "node(s) didn't match pod topology spread constraints"
REASON_NO_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"


@dataclass(frozen=True)
class _Constraint:
    key: str
    max_skew: int
    min_domains: int
    selector: selectors.LabelSelector
    matches_self: bool
    eligible: Callable[[NodeInfo], bool]

    def count(self, node: NodeInfo, namespace: str) -> int:
        match = self.selector.matches
        return sum(1 for p in node.pods.values() if p.namespace == namespace and not p.deleting and match(p.labels))


def _constraints(pod: PodInfo, action: str) -> list[_Constraint]:
    return [
        _constraint(c, pod)
        for c in pod.spec.get("topologySpreadConstraints") or []
        if (c.get("whenUnsatisfiable") or "DoNotSchedule") == action
    ]


def _constraint(c: Object, pod: PodInfo) -> _Constraint:
    selector = selectors.from_label_selector(c.get("labelSelector"))
    extra = tuple(
        selectors.Requirement(key, "in", frozenset((pod.labels[key],)))
        for key in c.get("matchLabelKeys") or []
        if key in pod.labels
    )
    if extra:
        selector = selectors.LabelSelector(selector.requirements + extra, selector.nothing)
    affinity: NodeMatch | None = required_match(pod.spec) if c.get("nodeAffinityPolicy") != "Ignore" else None
    honour_taints = c.get("nodeTaintsPolicy") == "Honor"
    tolerations = pod.spec.get("tolerations") or ()

    def eligible(node: NodeInfo) -> bool:
        if affinity is not None and not affinity(node):
            return False
        return not honour_taints or all(
            tolerates(tolerations, t) for t in node.taints if t.get("effect") in ("NoSchedule", "NoExecute")
        )

    return _Constraint(
        str(c.get("topologyKey", "")), int(c.get("maxSkew") or 1), int(c.get("minDomains") or 1), selector,
        selector.matches(pod.labels), eligible,
    )  # fmt: skip


class PodTopologySpread:
    name, weight = "PodTopologySpread", 2

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        constraints = _constraints(pod, "DoNotSchedule")
        if not constraints:
            return None
        keys = [c.key for c in constraints]
        tables: list[tuple[_Constraint, dict[str, int], int]] = []
        for constraint in constraints:
            counts: dict[str, int] = {}
            for node in snapshot.nodes:
                if all(k in node.labels for k in keys) and constraint.eligible(node):
                    domain = node.labels[constraint.key]
                    counts[domain] = counts.get(domain, 0) + constraint.count(node, pod.namespace)
            lowest = 0 if len(counts) < constraint.min_domains else min(counts.values(), default=0)
            tables.append((constraint, counts, lowest))

        def check(node: NodeInfo) -> Reject | None:
            for constraint, counts, lowest in tables:
                domain = node.labels.get(constraint.key)
                if domain is None:
                    return Reject((REASON_NO_LABEL,))
                if counts.get(domain, 0) + constraint.matches_self - lowest > constraint.max_skew:
                    return Reject((REASON,), True)
            return None

        return check

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        if pod.spec.get("topologySpreadConstraints"):
            return self._score_own(pod, nodes, snapshot)
        return self._score_default(pod, nodes, snapshot) if pod.owner else None

    def _score_own(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        constraints = _constraints(pod, "ScheduleAnyway")
        if not constraints:
            return None
        keys = [c.key for c in constraints]
        ignored = [any(k not in node.labels for k in keys) for node in nodes]
        totals = [0.0] * len(nodes)
        for constraint in constraints:
            wanted = {n.labels[constraint.key] for n, skip in zip(nodes, ignored, strict=True) if not skip}
            counts: Counter[str] = Counter()
            for node in snapshot.nodes:
                domain = node.labels.get(constraint.key)
                if domain in wanted and all(k in node.labels for k in keys) and constraint.eligible(node):
                    counts[domain] += constraint.count(node, pod.namespace)
            factor = math.log(len(wanted) + 2)
            for i, node in enumerate(nodes):
                if not ignored[i]:
                    totals[i] += counts[node.labels[constraint.key]] * factor + constraint.max_skew - 1
        return _fewest_first([None if skip else round(t) for t, skip in zip(totals, ignored, strict=True)])

    def _score_default(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        key = (pod.namespace, pod.owner)
        per_node = math.log(len(nodes) + 2)
        totals = [node.owners.get(key, 0) * per_node + 2 for node in nodes]
        zones = {z for node in nodes if (z := node.labels.get(ZONE))}
        if zones:
            counts: Counter[str] = Counter()
            for node in snapshot.nodes:
                if (zone := node.labels.get(ZONE)) in zones:
                    counts[zone] += node.owners.get(key, 0)
            per_zone = math.log(len(zones) + 2)
            for i, node in enumerate(nodes):
                if zone := node.labels.get(ZONE):
                    totals[i] += counts[zone] * per_zone + 4
        return _fewest_first([round(t) for t in totals])


def _fewest_first(totals: Sequence[int | None]) -> Sequence[int] | None:
    """Fewer matching pods score higher; None entries (nodes without the label) score 0."""
    known = [t for t in totals if t is not None]
    if not known:
        return None
    highest, lowest = max(known), min(known)
    return [
        0 if t is None else MAX_SCORE if not highest else MAX_SCORE * (highest + lowest - t) // highest for t in totals
    ]
