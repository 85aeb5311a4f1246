"""InterPodAffinity: pods that want to be near or far from other pods. Pure. Upstream: plugins/interpodaffinity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nsk8s.api import selectors
from nsk8s.api.meta import Object
from nsk8s.scheduler.framework import MAX_SCORE, Filter, NodeInfo, PodInfo, Reject, Snapshot

REASON_AFFINITY = "node(s) didn't match pod affinity rules"
REASON_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
REASON_EXISTING = "node(s) didn't satisfy existing pods anti-affinity rules"
HARD_AFFINITY_WEIGHT = 1
"""How much another pod's required affinity to this one counts in scoring (upstream's hardPodAffinityWeight)."""

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True, slots=True)
class Term:
    """A PodAffinityTerm made ready to match."""

    key: str
    matches: Callable[[PodInfo], bool]


def _term(term: Object, owner: PodInfo, snapshot: Snapshot) -> Term:
    selector = selectors.from_label_selector(term.get("labelSelector"))
    extra = tuple(
        selectors.Requirement(key, op, frozenset((owner.labels[key],)))
        for field, op in (("matchLabelKeys", "in"), ("mismatchLabelKeys", "notin"))
        for key in term.get(field) or []
        if key in owner.labels
    )
    if extra:
        selector = selectors.LabelSelector(selector.requirements + extra, selector.nothing)
    names = frozenset(term.get("namespaces") or ())
    wanted = term.get("namespaceSelector")
    if wanted is None:
        spaces = names or frozenset((owner.namespace,))
        return Term(term.get("topologyKey", ""), lambda pod: pod.namespace in spaces and selector.matches(pod.labels))
    by_labels = selectors.from_label_selector(wanted)
    namespaces = snapshot.namespaces

    def match(pod: PodInfo) -> bool:
        if pod.namespace not in names and not by_labels.matches(namespaces.get(pod.namespace)):
            return False
        return selector.matches(pod.labels)

    return Term(term.get("topologyKey", ""), match)


def _required(pod: PodInfo, kind: str, snapshot: Snapshot) -> list[Term]:
    return [_term(t, pod, snapshot) for t in (pod.affinity.get(kind) or {}).get(_REQUIRED) or []]


def _preferred(pod: PodInfo, kind: str, snapshot: Snapshot) -> list[tuple[int, Term]]:
    return [
        (int(t.get("weight") or 0), _term(t.get("podAffinityTerm") or {}, pod, snapshot))
        for t in (pod.affinity.get(kind) or {}).get(_PREFERRED) or []
    ]


def _domains(terms: Iterable[Term], snapshot: Snapshot, *, all_terms: bool) -> set[tuple[str, str]]:
    """The (topology key, value) pairs where a pod that matches (one term, or all of them) runs."""
    found: set[tuple[str, str]] = set()
    terms = list(terms)
    for node in snapshot.nodes:
        labels = node.labels
        for pod in node.pods.values():
            if all_terms:
                if all(t.matches(pod) for t in terms):
                    found.update((t.key, labels[t.key]) for t in terms if t.key in labels)
            else:
                found.update((t.key, labels[t.key]) for t in terms if t.key in labels and t.matches(pod))
    return found


class InterPodAffinity:
    name, weight = "InterPodAffinity", 2

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        existing: set[tuple[str, str]] = set()
        for node in snapshot.nodes:
            for other in node.affine.values():
                for raw in other.required_anti_affinity():
                    term = _term(raw, other, snapshot)
                    if term.key in node.labels and term.matches(pod):
                        existing.add((term.key, node.labels[term.key]))
        near = _required(pod, "podAffinity", snapshot)
        far = _required(pod, "podAntiAffinity", snapshot)
        if not existing and not near and not far:
            return None
        near_domains = _domains(near, snapshot, all_terms=True) if near else set()
        far_domains = _domains(far, snapshot, all_terms=False) if far else set()
        # The first pod of a group that wants to be near its own kind may go anywhere.
        first_of_group = not near_domains and all(t.matches(pod) for t in near)

        def check(node: NodeInfo) -> Reject | None:
            labels = node.labels
            for term in near:
                if term.key not in labels or (not first_of_group and (term.key, labels[term.key]) not in near_domains):
                    return Reject((REASON_AFFINITY,))
            if any((t.key, labels.get(t.key, "")) in far_domains for t in far):
                return Reject((REASON_ANTI_AFFINITY,), True)
            if any(labels.get(key) == value for key, value in existing):
                return Reject((REASON_EXISTING,), True)
            return None

        return check

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        near, far = _preferred(pod, "podAffinity", snapshot), _preferred(pod, "podAntiAffinity", snapshot)
        points: Counter[tuple[str, str]] = Counter()
        for node in snapshot.nodes:
            labels = node.labels
            if near or far:
                for other in node.pods.values():
                    _mark(points, labels, near, other, 1)
                    _mark(points, labels, far, other, -1)
            for other in node.affine.values():
                hard = [(HARD_AFFINITY_WEIGHT, t) for t in _required(other, "podAffinity", snapshot)]
                _mark(points, labels, hard + _preferred(other, "podAffinity", snapshot), pod, 1)
                _mark(points, labels, _preferred(other, "podAntiAffinity", snapshot), pod, -1)
        if not points:
            return None
        totals = [sum(value for (k, v), value in points.items() if node.labels.get(k) == v) for node in nodes]
        highest, lowest = max(totals), min(totals)
        if highest == lowest:
            return None
        return [MAX_SCORE * (t - lowest) // (highest - lowest) for t in totals]


def _mark(
    points: Counter[tuple[str, str]], labels: dict[str, str], terms: list[tuple[int, Term]], pod: PodInfo, sign: int
) -> None:
    for weight, term in terms:
        if term.key in labels and term.matches(pod):
            points[term.key, labels[term.key]] += sign * weight
