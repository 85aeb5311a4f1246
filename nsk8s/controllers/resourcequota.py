"""ResourceQuotas: status says what a namespace uses of what it may. Touches: the API (used_of is pure).

The API server refuses what would go beyond; here the use is counted anew whenever a pod or a quota changes, and every few
seconds where a quota counts other kinds. Upstream: pkg/controller/resourcequota.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.api.usage import COUNTED, in_scope, is_scoped, usage
from nsk8s.client.controller import Controller
from nsk8s.client.resources import BY_KIND, PODS, RESOURCEQUOTAS, Resource
from nsk8s.controllers.context import Context, copy
from nsk8s.errors import Conflict, NotFound

RECOUNT_S = 2.0
"""Of kinds that are not watched; upstream watches everything and also counts at admission."""

_RESOURCES = {f"{r.plural}.{r.group}" if r.group else r.plural: r for r in BY_KIND.values() if r.namespaced}


def counts_of(quota: Object) -> dict[str, Resource]:
    """group resource → Resource, of what the quota counts. Pure."""
    found: dict[str, Resource] = {}
    for name in (quota.get("spec") or {}).get("hard") or {}:
        if name.startswith("count/"):
            resource = name.removeprefix("count/")
        elif name in COUNTED:
            resource = name
        elif name.startswith("services."):
            resource = "services"
        elif name == "requests.storage":
            resource = "persistentvolumeclaims"
        else:
            resource = "pods"
        if resource in _RESOURCES and (resource == "pods" or not is_scoped(quota)):
            found[resource] = _RESOURCES[resource]
    return found


def used_of(quota: Object, objects: Mapping[str, Iterable[Object]]) -> dict[str, str]:
    """What `objects` (group resource → objects of the namespace) use of the quota's hard limits. Pure."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    used = {name: Quantity.parse(0) for name in hard}
    for resource, found in objects.items():
        for obj in found:
            if is_scoped(quota) and not in_scope(quota, obj):
                continue
            for name, amount in usage(resource, obj).items():
                if name in used:
                    used[name] = Quantity(used[name].value + amount.value, amount.format)
    return {name: str(amount) for name, amount in used.items()}


class ResourceQuotaController:
    def __init__(self, ctx: Context) -> None:
        self._client = ctx.client
        self._quotas, self._pods = ctx.informer(RESOURCEQUOTAS), ctx.informer(PODS)
        self._loop = Controller("resourcequota", self._reconcile, workers=2)
        self._loop.watch(self._quotas)
        self._pods.add_handler(self._on_pod)
        self._loop.watch(self._pods, lambda pod: [])
        self.run = self._loop.run

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        """Pods change often; what they count for changes when they come, go or end."""
        if old is not None and new is not None and usage("pods", old).keys() == usage("pods", new).keys():
            return
        for quota in self._quotas.by_index("namespace", meta.namespace(new or old or {})):
            self._loop.queue.add(meta.key(quota))

    async def _reconcile(self, key: str) -> float | None:
        quota = self._quotas.get(key)
        if quota is None or meta.is_deleting(quota):
            return None
        namespace = meta.namespace(quota)
        objects: dict[str, list[Object]] = {}
        for name, resource in counts_of(quota).items():
            if resource == PODS:
                objects[name] = self._pods.by_index("namespace", namespace)
            else:
                objects[name] = (await self._client.list(resource, namespace, resource_version="0")).get("items") or []
        again = RECOUNT_S if objects.keys() - {"pods"} else None
        hard = (quota.get("spec") or {}).get("hard") or {}
        status = {"hard": hard, "used": used_of(quota, objects)}
        if status != quota.get("status"):
            try:
                await self._client.update_status(RESOURCEQUOTAS, {**copy(quota), "status": status})
            except NotFound:
                return None
            except Conflict:
                return 0.05
        return again
