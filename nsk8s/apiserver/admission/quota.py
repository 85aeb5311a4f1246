"""ResourceQuota: what a namespace may hold. Used is counted from the cache when a create would change it.

The quota controller fills status; here the hard limits are enforced. Upstream: apiserver/pkg/admission/plugin/resourcequota.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.apiserver import failures
from nsk8s.apiserver.admission.limits import pod_resources
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import Call

_COUNTED = {
    "pods": "pods", "services": "services", "secrets": "secrets", "configmaps": "configmaps",
    "replicationcontrollers": "replicationcontrollers", "persistentvolumeclaims": "persistentvolumeclaims",
    "resourcequotas": "resourcequotas",
}  # fmt: skip
_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def usage(group_resource: str, obj: Object) -> dict[str, Quantity]:
    """What one object counts for, by the names that spec.hard uses."""
    one = Quantity.parse(1)
    used = {f"count/{group_resource}": one}
    if group_resource in _COUNTED and group_resource != "pods":
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
            if name in _COMPUTE:
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


class ResourceQuota:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._quotas = cache.resource("resourcequotas")

    async def admit(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        kind = call.kind
        if operation != "CREATE" or obj is None or not kind.namespaced or call.dry_run:
            return
        namespace = obj["metadata"]["namespace"]
        for quota in self._quotas.values(namespace):
            hard = (quota.get("spec") or {}).get("hard") or {}
            scoped = bool((quota.get("spec") or {}).get("scopes") or (quota.get("spec") or {}).get("scopeSelector"))
            if scoped and (kind.group_resource != "pods" or not in_scope(quota, obj)):
                continue
            wanted = usage(kind.group_resource, obj)
            self._check_required(call, quota, hard, obj)
            relevant = [n for n in hard if n in wanted]
            if relevant:
                self._check(call, quota, hard, relevant, wanted, obj, scoped=scoped)

    def _check_required(self, call: Call, quota: Object, hard: dict[str, Any], obj: Object) -> None:
        """A quota on cpu or memory means that every container must say what it wants."""
        if call.kind.group_resource != "pods":
            return
        missing = set()
        for name in hard:
            field, _, resource = name.rpartition(".")
            if (field or "requests") not in ("requests", "limits") or resource not in _COMPUTE:
                continue
            for container in (obj.get("spec") or {}).get("containers") or ():
                if resource not in ((container.get("resources") or {}).get(field or "requests") or {}):
                    missing.add(f"{name} for: {container.get('name')}")
        if missing:
            raise failures.forbidden(
                call.kind, obj["metadata"].get("name", ""),
                f"failed quota: {quota['metadata']['name']}: must specify {'; '.join(sorted(missing))}",
            )  # fmt: skip

    def _check(
        self, call: Call, quota: Object, hard: dict[str, Any], names: list[str], wanted: dict[str, Quantity], obj: Object,
        *, scoped: bool,
    ) -> None:  # fmt: skip
        resource = call.kind.group_resource
        used = {n: Quantity.parse(0) for n in names}
        for other in self._cache.resource(resource).values(obj["metadata"]["namespace"]):
            if scoped and not in_scope(quota, other):
                continue
            for name, amount in usage(resource, other).items():
                if name in used:
                    used[name] = Quantity(used[name].value + amount.value, amount.format)
        over = [n for n in names if used[n].value + wanted[n].value > Quantity.parse(hard[n]).value]
        if over:
            def say(values: dict[str, Any]) -> str:
                return ",".join(f"{n}={values[n]}" for n in sorted(over))

            raise failures.forbidden(
                call.kind, obj["metadata"].get("name", ""),
                f"exceeded quota: {quota['metadata']['name']}, requested: {say(wanted)}, used: {say(used)}, limited: {say(hard)}",
            )  # fmt: skip
