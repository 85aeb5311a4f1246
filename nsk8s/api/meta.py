"""Objects as they travel: JSON dictionaries in Kubernetes' own spelling, and the few questions everybody asks them. Pure.

Everywhere in nsk8s an API object is an `Object`: a plain dict that could be sent as it is. Models (pydantic) exist only to
validate, default and describe kinds at the API server. Upstream: apimachinery/pkg/apis/meta/v1.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
"""An API object: apiVersion, kind, metadata and the rest, as JSON."""


def copied(value: Any) -> Any:
    """A private copy of JSON; copy.deepcopy takes several times as long."""
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if type(value) is list else value


def name(obj: Object) -> str:
    return str(obj["metadata"].get("name", ""))


def namespace(obj: Object) -> str:
    """The object's namespace; empty for cluster-scoped kinds."""
    return str(obj["metadata"].get("namespace", ""))


def uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))


def key(obj: Object) -> str:
    """`namespace/name`, or `name` alone for a cluster-scoped object: the key of caches and work queues."""
    ns = namespace(obj)
    return f"{ns}/{name(obj)}" if ns else name(obj)


def split_key(k: str) -> tuple[str, str]:
    """(namespace, name) of a key; the namespace is empty for cluster-scoped objects."""
    ns, _, n = k.rpartition("/")
    return ns, n


def labels(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def resource_version(obj: Object) -> str:
    return str(obj["metadata"].get("resourceVersion", ""))


def is_deleting(obj: Object) -> bool:
    """True once deletion was asked for (deletionTimestamp set) and finalizers or grace still hold the object."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def controller_of(obj: Object) -> Object | None:
    """The ownerReference with controller=true, if any."""
    return next((r for r in obj["metadata"].get("ownerReferences") or [] if r.get("controller")), None)


def owner_reference(owner: Object) -> Object:
    """The controlling ownerReference that a child of `owner` carries."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def rfc3339(t: datetime) -> str:
    """metav1.Time: whole seconds, UTC, `Z`."""
    return t.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(t: datetime) -> str:
    """metav1.MicroTime: microseconds, UTC, `Z` (Leases, Events)."""
    return t.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """The datetime of a metav1.Time or MicroTime. Raises ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def find_condition(obj: Object, kind: str) -> Object | None:
    """The entry of status.conditions with that `type`."""
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition.get("type") == kind:
            return condition  # type: ignore[no-any-return]
    return None


def is_condition_true(obj: Object, kind: str) -> bool:
    condition = find_condition(obj, kind)
    return condition is not None and condition.get("status") == "True"


def set_condition(conditions: Iterable[Object], new: Object, now: datetime) -> list[Object]:
    """`conditions` with `new` (type, status, reason, message) put in; lastTransitionTime moves only if status changed."""
    out: list[Object] = []
    found = False
    for old in conditions:
        if old.get("type") != new["type"]:
            out.append(old)
            continue
        found = True
        kept = old.get("lastTransitionTime") if old.get("status") == new["status"] else None
        out.append({**old, **new, "lastTransitionTime": kept or rfc3339(now)})
    if not found:
        out.append({**new, "lastTransitionTime": rfc3339(now)})
    return out
