"""TaintToleration: a node's taints must be tolerated; PreferNoSchedule ones count against it. Pure.

Upstream: plugins/tainttoleration, component-helpers/scheduling/corev1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nsk8s.api.meta import Object
from nsk8s.scheduler.framework import Filter, NodeInfo, PodInfo, Reject, Snapshot, normalise


def matches(toleration: Object, taint: Object) -> bool:
    """Whether one toleration covers one taint."""
    effect = toleration.get("effect")
    if effect and effect != taint.get("effect"):
        return False
    key = toleration.get("key")
    if key and key != taint.get("key"):
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    return bool(key) and operator == "Equal" and (toleration.get("value") or "") == (taint.get("value") or "")


def tolerates(tolerations: Iterable[Object], taint: Object) -> bool:
    return any(matches(t, taint) for t in tolerations)


def reason(taint: Object) -> str:
    return f"node(s) had untolerated taint {{{taint.get('key', '')}: {taint.get('value') or ''}}}"


class TaintToleration:
    name, weight = "TaintToleration", 3

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        tolerations = pod.spec.get("tolerations") or ()

        def check(node: NodeInfo) -> Reject | None:
            for taint in node.taints:
                if taint.get("effect") in ("NoSchedule", "NoExecute") and not tolerates(tolerations, taint):
                    return Reject((reason(taint),))
            return None

        return check

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        if not any(node.taints for node in nodes):
            return None
        tolerations = [t for t in pod.spec.get("tolerations") or () if t.get("effect") in (None, "", "PreferNoSchedule")]
        counts = [
            sum(1 for t in node.taints if t.get("effect") == "PreferNoSchedule" and not tolerates(tolerations, t))
            for node in nodes
        ]
        return normalise(counts, reverse=True)
