"""ResourceQuota: what a namespace may hold. Used is counted from the cache when a create would change it.

The quota controller fills status; here the hard limits are enforced. Upstream: apiserver/pkg/admission/plugin/resourcequota.
"""

from __future__ import annotations

from typing import Any

from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.api.usage import COMPUTE, in_scope, is_scoped, usage
from nsk8s.apiserver import failures
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import Call


class ResourceQuota:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._quotas = cache.resource("resourcequotas")

    async def admit(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        kind = call.kind
        if operation != "CREATE" or obj is None or not kind.namespaced or call.dry_run:
            return
        namespace = obj["metadata"]["namespace"]
        quotas = list(self._quotas.values(namespace))
        # What was admitted just before this must be counted, also what others wrote when this was woken.
        # From here to the store nothing is awaited that waits.
        while quotas and self._cache.revision < await self._cache.store.revision():
            await self._cache.fresh()
        for quota in quotas:
            hard = (quota.get("spec") or {}).get("hard") or {}
            scoped = is_scoped(quota)
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
            if (field or "requests") not in ("requests", "limits") or resource not in COMPUTE:
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
