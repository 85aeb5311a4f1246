"""Server-side apply over HTTP: the configuration is read, merged into what is there, and stored. Touches: the registry.

Upstream: apiserver/pkg/endpoints/handlers/patch.go (applyPatcher).
"""

from __future__ import annotations

from datetime import UTC, datetime

from nsk8s.api.meta import Object
from nsk8s.api.patch import apply
from nsk8s.api.scheme import Cause, Kind
from nsk8s.apiserver import content, failures, managed
from nsk8s.apiserver.cache import clone
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.registry import Registry
from nsk8s.apiserver.verbs import typed
from nsk8s.errors import AlreadyExists, BadRequest, NotFound

_OPTIONS = Kind("meta.k8s.io", "v1", "PatchOptions", "", False)


def parse_configuration(call: Call, raw: bytes, name: str, namespace: str) -> Object:
    """The applied configuration, checked. Raises BadRequest, Invalid."""
    if not call.field_manager:
        cause = Cause("fieldManager", "Required value: is required for apply patch", "FieldValueRequired")
        raise failures.invalid(_OPTIONS, "", [cause])
    stripped = raw.lstrip()
    data = content.parse_json(raw) if stripped.startswith(b"{") else content.parse_yaml(raw)
    if not isinstance(data, dict):
        raise BadRequest("error decoding YAML: the body must be an object")
    if not data.get("apiVersion") or not data.get("kind"):
        raise BadRequest("Object 'Kind' and 'apiVersion' must be set in an apply patch")
    config = typed(call, data)
    metadata = config["metadata"]
    if metadata.get("name", name) != name:
        raise BadRequest(f"the name of the object ({metadata.get('name')}) does not match the name on the URL ({name})")
    if metadata.get("namespace", namespace) != namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
    metadata["name"] = name
    if namespace:
        metadata["namespace"] = namespace
    return config


async def server_side_apply(
    registry: Registry, call: Call, namespace: str, name: str, raw: bytes, *, status: bool
) -> tuple[Object, bool]:
    """(the object, was it created?). Raises Conflict, BadRequest, Invalid."""
    config = parse_configuration(call, raw, name, namespace)
    if status:
        config = {k: v for k, v in config.items() if k in ("apiVersion", "kind", "metadata", "status")}
    elif call.kind.strategy.has_status:
        config.pop("status", None)
    force = call.info.flag("force")
    call.applying = True
    wanted_revision = config["metadata"].get("resourceVersion")
    subresource = call.info.subresource

    def merge(old: Object) -> Object:
        managed.begin_book(call, old)
        new = apply.apply(call.kind, old, clone(config), call.manager, datetime.now(UTC), force=force, subresource=subresource)
        new["metadata"]["resourceVersion"] = wanted_revision or old["metadata"]["resourceVersion"]
        return new

    for _ in range(3):
        try:
            return await registry.update(call, namespace, name, merge, status=status, keep_version=True), False
        except NotFound:
            if status or config["metadata"].get("uid"):
                raise
        fresh = apply.apply(call.kind, None, clone(config), call.manager, datetime.now(UTC), force=force)
        try:
            return await registry.create(call, fresh, namespace), True
        except AlreadyExists:
            continue
    raise failures.modified(call.kind, name)
