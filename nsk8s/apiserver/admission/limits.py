"""LimitRanger: defaults and bounds for what containers, pods and claims ask for. Pure over the cache.

Upstream: plugin/pkg/admission/limitranger.
"""

from __future__ import annotations

from collections.abc import Iterator

from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.api.usage import pod_resources
from nsk8s.apiserver import failures
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import Call


def containers(spec: Object) -> Iterator[Object]:
    for field in ("initContainers", "containers"):
        yield from spec.get(field) or ()


class LimitRanger:
    def __init__(self, cache: Cache) -> None:
        self._ranges = cache.resource("limitranges")

    def _items(self, namespace: str) -> Iterator[Object]:
        for limit_range in self._ranges.values(namespace):
            yield from (limit_range.get("spec") or {}).get("limits") or ()

    async def default(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if operation != "CREATE" or call.kind.group_resource != "pods" or obj is None:
            return
        for item in self._items(obj["metadata"]["namespace"]):
            if item.get("type") != "Container":
                continue
            for container in containers(obj.get("spec") or {}):
                resources = container.setdefault("resources", {})
                for field, values in (("limits", item.get("default")), ("requests", item.get("defaultRequest"))):
                    for name, amount in (values or {}).items():
                        limits = resources.get("limits") or {}
                        if field == "requests" and name in limits and name not in (item.get("defaultRequest") or {}):
                            continue
                        resources.setdefault(field, {}).setdefault(name, amount)

    async def validate(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if operation != "CREATE" or obj is None or call.kind.group_resource not in ("pods", "persistentvolumeclaims"):
            return
        problems: list[str] = []
        for item in self._items(obj["metadata"]["namespace"]):
            kind = item.get("type")
            if call.kind.group_resource == "pods":
                spec = obj.get("spec") or {}
                if kind == "Container":
                    for container in containers(spec):
                        problems += check("Container", item, container.get("resources") or {})
                elif kind == "Pod":
                    problems += check("Pod", item, pod_resources(spec))
            elif kind == "PersistentVolumeClaim":
                problems += check(kind, item, (obj.get("spec") or {}).get("resources") or {})
        if problems:
            text = problems[0] if len(problems) == 1 else "[" + ", ".join(problems) + "]"
            raise failures.forbidden(call.kind, obj["metadata"].get("name", ""), text)


def check(kind: str, item: Object, resources: Object) -> list[str]:
    """What of `resources` is out of the bounds of a LimitRangeItem, in upstream's words."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    problems = []
    for name, bound in (item.get("min") or {}).items():
        have = requests.get(name)
        if have is None:
            problems.append(f"minimum {name} usage per {kind} is {bound}.  No request is specified")
        elif Quantity.parse(have) < Quantity.parse(bound):
            problems.append(f"minimum {name} usage per {kind} is {bound}, but request is {have}")
    for name, bound in (item.get("max") or {}).items():
        have = limits.get(name) if kind != "PersistentVolumeClaim" else requests.get(name)
        if have is None:
            problems.append(f"maximum {name} usage per {kind} is {bound}.  No limit is specified")
        elif Quantity.parse(have) > Quantity.parse(bound):
            problems.append(f"maximum {name} usage per {kind} is {bound}, but limit is {have}")
    for name, ratio in (item.get("maxLimitRequestRatio") or {}).items():
        limit, request = limits.get(name), requests.get(name)
        if limit is None or request is None or Quantity.parse(request).value == 0:
            continue
        have_ratio = Quantity.parse(limit).value / Quantity.parse(request).value
        if have_ratio > Quantity.parse(ratio).value:
            provided = f"{float(have_ratio):f}"
            problems.append(f"{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {provided}")
    return problems
