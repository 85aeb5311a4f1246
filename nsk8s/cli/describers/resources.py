"""Sums of requests and limits. Upstream: component-helpers/resource. Pure."""

from __future__ import annotations

from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity

ZERO = Quantity.parse("0")


def _resources(container: Object, key: str) -> dict[str, Quantity]:
    return {k: Quantity.parse(v) for k, v in ((container.get("resources") or {}).get(key) or {}).items()}


def _add(total: dict[str, Quantity], more: dict[str, Quantity]) -> None:
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value


def pod_total(pod: Object, key: str) -> dict[str, Quantity]:
    """`requests` or `limits` of a pod: all containers and sidecars together, or an init container's if that is more."""
    spec = pod.get("spec") or {}
    total: dict[str, Quantity] = {}
    for c in spec.get("containers") or []:
        _add(total, _resources(c, key))
    sidecars: dict[str, Quantity] = {}
    largest: dict[str, Quantity] = {}
    for c in spec.get("initContainers") or []:
        own = _resources(c, key)
        if c.get("restartPolicy") == "Always":
            _add(total, own)
            _add(sidecars, own)
            own = dict(sidecars)
        else:
            _add(own, sidecars)
        largest |= {k: v for k, v in own.items() if largest.get(k, ZERO) < v}
    total |= {k: v for k, v in largest.items() if total.get(k, ZERO) < v}
    overhead = {k: Quantity.parse(v) for k, v in (spec.get("overhead") or {}).items()}
    if key == "requests":
        _add(total, overhead)
    else:
        _add(total, {k: v for k, v in overhead.items() if k in total})
    return total


def container_resource(pod: Object | None, container: Object, reference: Object) -> str:
    """The value of a resourceFieldRef: `limits.cpu` in cores (rounded up), memory in bytes, by its divisor."""
    kind, _, name = reference.get("resource", "").partition(".")
    text = ((container.get("resources") or {}).get(kind) or {}).get(name)
    if text is None:
        return "0"
    divisor = Quantity.parse(reference.get("divisor") or "0")
    value = Quantity.parse(text)
    by = divisor.milli if divisor else (1000 if name == "cpu" else 0)
    if name == "cpu":
        return str(-(-value.milli // by))
    return str(-(-value.ceil // (divisor.ceil if divisor else 1)))
