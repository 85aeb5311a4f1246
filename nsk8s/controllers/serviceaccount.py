"""The default ServiceAccount and the root CA's ConfigMap of every namespace. Touches: the API.

Upstream: pkg/controller/serviceaccount, pkg/controller/certificates/rootcacertpublisher.
"""

from __future__ import annotations

import asyncio

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.informer import Informer
from nsk8s.client.resources import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS
from nsk8s.controllers.context import Context
from nsk8s.errors import AlreadyExists, Forbidden, NotFound

ROOT_CA_NAME = "kube-root-ca.crt"
_DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal "
    "service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)


def wants_contents(namespace: Object | None) -> bool:
    """Whether things are still put into a namespace. Pure."""
    if namespace is None or meta.is_deleting(namespace):
        return False
    return (namespace.get("status") or {}).get("phase") != "Terminating"


class ServiceAccountController:
    def __init__(self, ctx: Context) -> None:
        self._client = ctx.client
        self._namespaces, self._accounts = ctx.informer(NAMESPACES), ctx.informer(SERVICEACCOUNTS)
        self._loop = Controller("serviceaccount-controller", self._reconcile, workers=2)
        self._loop.watch(self._namespaces)
        self._loop.watch(self._accounts, lambda a: [meta.namespace(a)] if meta.name(a) == "default" else [])
        self.run = self._loop.run

    async def _reconcile(self, name: str) -> float | None:
        if not wants_contents(self._namespaces.get(name)) or self._accounts.get(f"{name}/default") is not None:
            return None
        try:
            await self._client.create(SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": name}})
        except (AlreadyExists, Forbidden, NotFound):  # there already, or the namespace is going
            return None
        return None


class RootCAPublisher:
    def __init__(self, ctx: Context) -> None:
        self._client, self._root_ca = ctx.client, ctx.settings.root_ca
        self._namespaces = ctx.informer(NAMESPACES)
        self._maps = Informer(ctx.client, CONFIGMAPS, field_selector=f"metadata.name={ROOT_CA_NAME}")
        self._loop = Controller("root-ca-certificate-publisher", self._reconcile, workers=2)
        self._loop.watch(self._namespaces)
        self._loop.watch(self._maps, lambda m: [meta.namespace(m)] if meta.name(m) == ROOT_CA_NAME else [])

    async def run(self) -> None:
        await asyncio.gather(self._maps.run(), self._loop.run())

    async def _reconcile(self, name: str) -> float | None:
        if not wants_contents(self._namespaces.get(name)):
            return None
        data = {"ca.crt": self._root_ca}
        annotations = {"kubernetes.io/description": _DESCRIPTION}
        current = self._maps.get(f"{name}/{ROOT_CA_NAME}")
        if current is None:
            body = {"metadata": {"name": ROOT_CA_NAME, "namespace": name, "annotations": annotations}, "data": data}
            try:
                await self._client.create(CONFIGMAPS, body)
            except (AlreadyExists, Forbidden, NotFound):
                return None
        elif current.get("data") != data or not annotations.items() <= meta.annotations(current).items():
            metadata = {**current["metadata"], "annotations": {**meta.annotations(current), **annotations}}
            await self._client.update(CONFIGMAPS, {**current, "metadata": metadata, "data": data})
        return None
