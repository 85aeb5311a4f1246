"""The class of an Ingress that names none. Upstream: plugin/pkg/admission/network/defaultingressclass."""

from __future__ import annotations

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.registry import Admit

DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
OLD_ANNOTATION = "kubernetes.io/ingress.class"


def default_ingress_class(cache: Cache) -> Admit:
    classes = cache.resource("ingressclasses.networking.k8s.io")

    async def admit(call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if operation != "CREATE" or call.kind.group_resource != "ingresses.networking.k8s.io" or obj is None:
            return
        spec = obj.setdefault("spec", {})
        if spec.get("ingressClassName") is not None or OLD_ANNOTATION in meta.annotations(obj):
            return
        marked = sorted(meta.name(c) for c in classes.values() if meta.annotations(c).get(DEFAULT_CLASS) == "true")
        if marked:
            made = {meta.name(c): c["metadata"]["creationTimestamp"] for c in classes.values()}
            spec["ingressClassName"] = max(marked, key=made.__getitem__)  # the newest, and of several the first by name

    return admit
