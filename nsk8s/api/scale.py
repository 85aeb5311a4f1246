"""autoscaling/v1 Scale: read from an object and written back to it. Pure.

Upstream: pkg/registry/apps/*/storage (ScaleREST), apiextensions-apiserver's scale for custom resources.
"""

from __future__ import annotations

from typing import Any

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Kind
from nsk8s.api.selectors import from_label_selector, from_set
from nsk8s.errors import BadRequest


def _at(obj: Object, path: str) -> Any:
    value: Any = obj
    for part in path.strip(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _selector_text(obj: Object) -> str:
    selector = _at(obj, "spec.selector")
    if not isinstance(selector, dict):
        return ""
    if obj.get("kind") == "ReplicationController":
        return str(from_set(selector))
    return str(from_label_selector(selector))


def scale_of(kind: Kind, obj: Object, paths: Object | None = None) -> Object:
    """The Scale of `obj`. `paths` are a CRD's subresources.scale (specReplicasPath, statusReplicasPath,
    labelSelectorPath); without them the built-in places are read."""
    metadata = obj["metadata"]
    kept = {k: metadata[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if k in metadata}
    places = paths or {}
    wanted = _at(obj, places.get("specReplicasPath", "spec.replicas"))
    have = _at(obj, places.get("statusReplicasPath", "status.replicas"))
    if paths is None:
        selector = _selector_text(obj)
    else:
        selector = str(_at(obj, places["labelSelectorPath"]) or "") if places.get("labelSelectorPath") else ""
    status: Object = {"replicas": have or 0}
    if selector:
        status["selector"] = selector
    spec: Object = {"replicas": wanted} if wanted else {}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": kept, "spec": spec, "status": status}


def apply_scale(kind: Kind, obj: Object, scale: Object, paths: Object | None = None) -> Object:
    """`obj` (changed in place) with the replicas that `scale` wants; also its resourceVersion, as a precondition."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if isinstance(replicas, bool) or not isinstance(replicas, int):
        raise BadRequest("Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal "
                         "into Go struct field ScaleSpec.spec.replicas of type int32")  # fmt: skip
    *parents, leaf = (paths or {}).get("specReplicasPath", "spec.replicas").strip(".").split(".")
    target = obj
    for part in parents:
        target = target.setdefault(part, {})
    target[leaf] = replicas
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version:
        obj["metadata"]["resourceVersion"] = version
    return obj
