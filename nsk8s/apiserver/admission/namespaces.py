"""NamespaceLifecycle: nothing new in a namespace that is missing or going; the first namespaces stay.

Upstream: apiserver/pkg/admission/plugin/namespace/lifecycle.
"""

from __future__ import annotations

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Kind
from nsk8s.apiserver import failures
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import Call

IMMORTAL = ("default", "kube-system", "kube-public")
_NAMESPACES = Kind("", "v1", "Namespace", "namespaces", False)


class NamespaceLifecycle:
    def __init__(self, cache: Cache) -> None:
        self._namespaces = cache.resource("namespaces")

    async def admit(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        kind = call.kind
        if operation != "CREATE" or not kind.namespaced or obj is None:
            return
        name = obj["metadata"]["namespace"]
        namespace = self._namespaces.get("", name)
        if namespace is None:
            raise failures.not_found(_NAMESPACES, name)
        if namespace["metadata"].get("deletionTimestamp") or (namespace.get("status") or {}).get("phase") == "Terminating":
            error = failures.forbidden(
                kind,
                obj["metadata"].get("name", ""),
                f"unable to create new content in namespace {name} because it is being terminated",
            )
            message = f"namespace {name} is being terminated"
            error.details["causes"] = [{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]
            raise error

    async def protect(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if operation == "DELETE" and call.kind.group_resource == "namespaces" and old is not None:
            name = old["metadata"]["name"]
            if name in IMMORTAL:
                raise failures.forbidden(call.kind, name, "this namespace may not be deleted")
