"""Small things pods (and claims) are given: tolerations for lost nodes, a priority, a storage class.

Upstream: plugin/pkg/admission/{defaulttolerationseconds,priority,storage/storageclass/setdefault}.
"""

from __future__ import annotations

from nsk8s.api.meta import Object
from nsk8s.apiserver import failures
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.registry import Admit

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def _is_pod(call: Call, operation: str, obj: Object | None) -> bool:
    return operation == "CREATE" and call.kind.group_resource == "pods" and obj is not None


class DefaultTolerationSeconds:
    """A pod stays this long on a node that is not ready or cannot be reached, unless it says otherwise."""

    def __init__(self, not_ready_s: int, unreachable_s: int) -> None:
        self._seconds = ((NOT_READY, not_ready_s), (UNREACHABLE, unreachable_s))

    async def admit(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if not _is_pod(call, operation, obj) or obj is None:
            return
        spec = obj.setdefault("spec", {})
        tolerations = list(spec.get("tolerations") or ())
        for key, seconds in self._seconds:
            if not any(t.get("key", "") in ("", key) and t.get("effect", "") in ("", "NoExecute") for t in tolerations):
                tolerations.append(
                    {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
                )
        spec["tolerations"] = tolerations


class Priority:
    def __init__(self, cache: Cache) -> None:
        self._classes = cache.resource("priorityclasses.scheduling.k8s.io")

    async def admit(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if not _is_pod(call, operation, obj) or obj is None:
            return
        spec = obj.setdefault("spec", {})
        name = spec.get("priorityClassName", "")
        pod_name = obj["metadata"].get("name", "")
        value, policy = 0, "PreemptLowerPriority"
        if name:
            found = self._classes.get("", name)
            if found is None:
                raise failures.forbidden(call.kind, pod_name, f"no PriorityClass with name {name} was found")
            value, policy = found.get("value", 0), found.get("preemptionPolicy") or policy
        else:
            default = [c for c in self._classes.values() if c.get("globalDefault")]
            if default:
                chosen = min(default, key=lambda c: c.get("value", 0))
                spec["priorityClassName"] = chosen["metadata"]["name"]
                value, policy = chosen.get("value", 0), chosen.get("preemptionPolicy") or policy
        if spec.get("priority") is not None and spec["priority"] != value:
            raise failures.forbidden(
                call.kind, pod_name, "the integer value of priority must not be provided in pod spec; priority admission "
                f"controller computed {value} from the given PriorityClass name",
            )  # fmt: skip
        spec["priority"] = value
        if spec.get("preemptionPolicy") not in (None, policy):
            raise failures.forbidden(
                call.kind, pod_name, "the string value of PreemptionPolicy must not be provided in pod spec; priority admission "
                f"controller computed {policy} from the given PriorityClass name",
            )  # fmt: skip
        spec["preemptionPolicy"] = policy


def default_storage_class(cache: Cache) -> Admit:
    classes = cache.resource("storageclasses.storage.k8s.io")

    async def admit(call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if operation != "CREATE" or call.kind.group_resource != "persistentvolumeclaims" or obj is None:
            return
        spec = obj.setdefault("spec", {})
        if spec.get("storageClassName") is not None:
            return
        marked = [c for c in classes.values() if (c["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"]
        if marked:
            newest = max(marked, key=lambda c: (c["metadata"]["creationTimestamp"], c["metadata"]["name"]))
            spec["storageClassName"] = newest["metadata"]["name"]

    return admit
