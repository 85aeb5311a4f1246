"""Kinds that are stored and shown as in any cluster, but that nothing of nsk8s acts on: said with a Warning at each create.

Another program may well act on them (an autoscaler, a network plugin of one's own), so they are not refused. Pure over the cache.
"""

from __future__ import annotations

from collections.abc import Collection

from nsk8s.api.scheme import Kind
from nsk8s.apiserver.cache import Cache

POLICIES = "networkpolicies.networking.k8s.io"
_NO_EFFECT = {
    "horizontalpodautoscalers.autoscaling": "no metrics are collected and no autoscaler runs",
    POLICIES: "nothing enforces policies (`network: {policy: true}` in cluster.yaml starts what does)",
    "persistentvolumeclaims": "volumes are neither provisioned nor bound, and the kubelet does not mount claims",
    "persistentvolumes": "volumes are neither provisioned nor bound, and the kubelet does not mount claims",
}
_NEEDS = {
    "ingresses.networking.k8s.io": (
        "ingressclasses.networking.k8s.io", "no ingress controller runs (`ingress: true` in cluster.yaml installs one)"
    ),
}  # fmt: skip
"""What has an effect once there is an object of another resource, which whoever acts on it brings along."""


def notice(kind: Kind, cache: Cache, acted_on: Collection[str] = ()) -> str:
    """The warning for a create of `kind`; empty for what works, and for resources of which the cluster says so (`acted_on`)."""
    why = "" if kind.group_resource in acted_on else _NO_EFFECT.get(kind.group_resource)
    if kind.group_resource in _NEEDS:
        other, missing = _NEEDS[kind.group_resource]
        why = "" if cache.resource(other).size else missing
    return f"{kind.kind} has no effect in nsk8s by itself: {why}" if why else ""
