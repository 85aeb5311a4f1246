"""NodeAffinity: nodeSelector and node affinity, required and preferred. Pure. Upstream: plugins/nodeaffinity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nsk8s.api import selectors
from nsk8s.api.meta import Object
from nsk8s.scheduler.framework import Filter, NodeInfo, PodInfo, Reject, Snapshot, normalise

REASON = "node(s) didn't match Pod's node affinity/selector"

NodeMatch = Callable[[NodeInfo], bool]


def term_match(term: Object) -> NodeMatch:
    """Whether a node satisfies a NodeSelectorTerm; an empty term matches no node."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return lambda node: False
    by_labels = selectors.from_label_selector({"matchExpressions": expressions})
    by_fields = selectors.from_label_selector({"matchExpressions": fields})
    return lambda node: by_labels.matches(node.labels) and by_fields.matches({"metadata.name": node.name})


def required_match(spec: Object) -> NodeMatch | None:
    """nodeSelector and requiredDuringScheduling… of a pod spec; None if it has neither."""
    wanted = spec.get("nodeSelector") or {}
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not wanted and required is None:
        return None
    terms = None if required is None else [term_match(t) for t in required.get("nodeSelectorTerms") or []]

    def check(node: NodeInfo) -> bool:
        labels = node.labels
        return all(labels.get(k) == v for k, v in wanted.items()) and (terms is None or any(t(node) for t in terms))

    return check


class NodeAffinity:
    name, weight = "NodeAffinity", 2

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        match = required_match(pod.spec)
        if match is None:
            return None
        return lambda node: None if match(node) else Reject((REASON,))

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        affinity = pod.affinity.get("nodeAffinity") or {}
        preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
        if not preferred:
            return None
        terms = [(int(p.get("weight") or 0), term_match(p.get("preference") or {})) for p in preferred]
        return normalise([sum(weight for weight, match in terms if match(node)) for node in nodes])
