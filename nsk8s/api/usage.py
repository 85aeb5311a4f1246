"""What objects count for in a ResourceQuota. Pure.

The API server's admission enforces limits with it, the quota controller fills in a quota's status.
Upstream: pkg/quota/v1/evaluator/core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity

COUNTED = {
    "pods": "pods", "services": "services", "secrets": "secrets", "configmaps": "configmaps",
    "replicationcontrollers": "replicationcontrollers", "persistentvolumeclaims": "persistentvolumeclaims",
    "resourcequotas": "resourcequotas",
}  # fmt: skip
COMPUTE = ("cpu", "memory", "ephemeral-storage")


def usage(group_resource: str, obj: Object) -> dict[str, Quantity]:
    """What one object counts for, by the names that spec.hard uses."""
    one = Quantity.parse(1)
    used = {f"count/{group_resource}": one}
    if group_resource in COUNTED and group_resource != "pods":
        used[group_resource] = one
    spec = obj.get("spec") or {}
    if group_resource == "pods":
        if (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return used
        used["pods"] = one
        resources = pod_resources(spec)
        for name, amount in resources["requests"].items():
            quantity = Quantity.parse(amount)
            used[f"requests.{name}"] = quantity
            if name in COMPUTE:
                used[name] = quantity
        for name, amount in resources["limits"].items():
            used[f"limits.{name}"] = Quantity.parse(amount)
    elif group_resource == "services":
        if spec.get("type") == "LoadBalancer":
            used["services.loadbalancers"] = one
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            used["services.nodeports"] = Quantity.parse(len(spec.get("ports") or ()))
    elif group_resource == "persistentvolumeclaims":
        amount = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
        if amount:
            used["requests.storage"] = Quantity.parse(amount)
    return used


def in_scope(quota: Object, pod: Object) -> bool:
    """Do the quota's scopes include this pod?"""
    spec, quota_spec = pod.get("spec") or {}, quota.get("spec") or {}
    best_effort = (pod.get("status") or {}).get("qosClass") == "BestEffort"
    terminating = spec.get("activeDeadlineSeconds") is not None
    checks: dict[str, Callable[[], bool]] = {
        "BestEffort": lambda: best_effort,
        "NotBestEffort": lambda: not best_effort,
        "Terminating": lambda: terminating,
        "NotTerminating": lambda: not terminating,
    }
    if not all(checks.get(s, lambda: True)() for s in quota_spec.get("scopes") or ()):
        return False
    for term in (quota_spec.get("scopeSelector") or {}).get("matchExpressions") or ():
        if term.get("scopeName") == "PriorityClass":
            name, values = spec.get("priorityClassName", ""), term.get("values") or ()
            fits = {"In": name in values, "NotIn": name not in values, "Exists": bool(name), "DoesNotExist": not name}
            if not fits.get(term.get("operator", ""), True):
                return False
        elif not checks.get(term.get("scopeName", ""), lambda: True)():
            return False
    return True


def is_scoped(quota: Object) -> bool:
    spec = quota.get("spec") or {}
    return bool(spec.get("scopes") or spec.get("scopeSelector"))


def pod_resources(spec: Object) -> Object:
    """requests and limits of a whole pod: the sum of its containers, at least the largest init container's."""
    out: dict[str, dict[str, Any]] = {"requests": {}, "limits": {}}
    for field, totals in out.items():
        sums: dict[str, Quantity] = {}
        for container in spec.get("containers") or ():
            for name, amount in ((container.get("resources") or {}).get(field) or {}).items():
                parsed = Quantity.parse(amount)
                have = sums.get(name)
                sums[name] = Quantity(have.value + parsed.value, parsed.format) if have else parsed
        for container in spec.get("initContainers") or ():
            for name, amount in ((container.get("resources") or {}).get(field) or {}).items():
                parsed = Quantity.parse(amount)
                if name not in sums or sums[name] < parsed:
                    sums[name] = parsed
        totals.update({name: str(q) for name, q in sums.items()})
    return out
