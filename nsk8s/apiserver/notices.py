"""Kinds that are stored and shown as in any cluster, but that nothing of nsk8s acts on: said with a Warning at each create. Pure.

Another program may well act on them (an ingress controller, a network plugin of one's own), so they are not refused.
"""

from __future__ import annotations

from nsk8s.api.scheme import Kind

_NO_EFFECT = {
    "horizontalpodautoscalers.autoscaling": "no metrics are collected and no autoscaler runs",
    "ingresses.networking.k8s.io": "no ingress controller runs",
    "networkpolicies.networking.k8s.io": "the built-in network does not enforce policies",
    "persistentvolumeclaims": "volumes are neither provisioned nor bound, and the kubelet does not mount claims",
    "persistentvolumes": "volumes are neither provisioned nor bound, and the kubelet does not mount claims",
}


def notice(kind: Kind) -> str:
    """The warning for a create of `kind`; empty for what works."""
    why = _NO_EFFECT.get(kind.group_resource)
    return f"{kind.kind} has no effect in nsk8s by itself: {why}" if why else ""
