"""Whether a pod of a DaemonSet belongs on a node: selector, required affinity, taints. Pure.

Upstream: pkg/controller/daemon (NodeShouldRunDaemonPod), component-helpers/scheduling/corev1.
"""

from __future__ import annotations

from collections.abc import Sequence

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.controllers.taints import covers
from nsk8s.errors import BadRequest


def selects(spec: Object, node: Object) -> bool:
    """nodeSelector and required node affinity of a pod spec; a broken selector selects nothing."""
    labels = meta.labels(node)
    if not (spec.get("nodeSelector") or {}).items() <= labels.items():
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    try:
        return any(_term(term, node) for term in required.get("nodeSelectorTerms") or [])
    except BadRequest:
        return False


def _term(term: Object, node: Object) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    by_labels = selectors.from_label_selector({"matchExpressions": expressions})
    by_fields = selectors.from_label_selector({"matchExpressions": fields})
    return by_labels.matches(meta.labels(node)) and by_fields.matches({"metadata.name": meta.name(node)})


def untolerated(tolerations: Sequence[Object], node: Object, effects: Sequence[str]) -> bool:
    """Whether the node has a taint with one of these effects that no toleration covers."""
    return any(
        taint.get("effect") in effects and not any(covers(t, taint) for t in tolerations)
        for taint in (node.get("spec") or {}).get("taints") or []
    )
