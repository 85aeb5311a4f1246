"""Namespaces that are being deleted: everything in them goes, then they go. Touches: the API.

Upstream: pkg/controller/namespace, deletion/namespaced_resources_deleter.go.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.resources import NAMESPACES, PODS, Resource
from nsk8s.client.rest import Unreachable
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.discovery import preferred
from nsk8s.errors import Conflict, MethodNotAllowed, NotFound, StatusError

AGAIN_S = 1.0
"""How soon to look again when something holds the contents back and no event will tell."""
_NO_CONTENT = frozenset(("events", "leases"))
"""Deleted, but not waited for when they turn up again while the namespace dies."""


@dataclass
class Findings:
    """How far the deletion of a namespace's contents has come."""

    discovery: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    remaining: dict[str, int] = field(default_factory=dict)
    """group-resource → objects left."""
    finalizers: dict[str, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.discovery or self.failures or self.remaining)


def conditions(namespace: Object, findings: Findings) -> list[Object]:
    """status.conditions in upstream's words. Pure."""
    left = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(findings.remaining.items()))
    held = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(findings.finalizers.items()))
    rows = (
        ("NamespaceDeletionDiscoveryFailure", "DiscoveryFailed", "ResourcesDiscovered",
         "; ".join(findings.discovery), "All resources successfully discovered"),
        ("NamespaceDeletionGroupVersionParsingFailure", "GroupVersionParsingFailed", "ParsedGroupVersions",
         "", "All legacy kube types successfully parsed"),
        ("NamespaceDeletionContentFailure", "ContentDeletionFailed", "ContentDeleted",
         "; ".join(findings.failures), "All content successfully deleted, may be waiting on finalization"),
        ("NamespaceContentRemaining", "SomeResourcesRemain", "ContentRemoved",
         left and f"Some resources are remaining: {left}", "All content successfully removed"),
        ("NamespaceFinalizersRemaining", "SomeFinalizersRemain", "ContentHasNoFinalizers",
         held and f"Some content in the namespace has finalizers remaining: {held}",
         "All content-preserving finalizers finished"),
    )  # fmt: skip
    out: list[Object] = list((namespace.get("status") or {}).get("conditions") or [])
    for kind, bad_reason, good_reason, problem, fine in rows:
        new = {
            "type": kind, "status": "True" if problem else "False",
            "reason": bad_reason if problem else good_reason, "message": problem or fine,
        }  # fmt: skip
        out = meta.set_condition(out, new, utcnow())
    return out


class NamespaceController:
    def __init__(self, ctx: Context) -> None:
        self._client = ctx.client
        self._namespaces, self._pods = ctx.informer(NAMESPACES), ctx.informer(PODS)
        self._loop = Controller("namespace-controller", self._reconcile)
        self._loop.watch(self._namespaces)
        self._pods.add_handler(self._on_pod)
        self.run = self._loop.run

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        """The last pod usually is what a dying namespace waits for."""
        if new is None and old is not None:
            namespace = self._namespaces.get(meta.namespace(old))
            if namespace is not None and meta.is_deleting(namespace):
                self._loop.queue.add_after(meta.name(namespace), 0.02)

    async def _reconcile(self, name: str) -> float | None:
        namespace = self._namespaces.get(name)
        if namespace is None or not meta.is_deleting(namespace):
            return None
        if "kubernetes" not in (namespace["spec"].get("finalizers") or []):
            return None
        findings = await self._delete_contents(name)
        if findings.empty:
            await self._finalize(namespace)
            return None
        fresh = await self._client.get(NAMESPACES, name)
        wanted = conditions(fresh, findings)
        if wanted != ((fresh.get("status") or {}).get("conditions") or []):
            fresh.setdefault("status", {})["conditions"] = wanted
            await self._client.update_status(NAMESPACES, fresh)
        return AGAIN_S

    async def _delete_contents(self, name: str) -> Findings:
        findings = Findings()
        try:
            known = await preferred(self._client)
        except StatusError as e:
            findings.discovery.append(f"Discovery failed for some groups: {e.message}")
            return findings
        wanted = [k for k in known if k.resource.namespaced and k.can("list", "delete")]
        await asyncio.gather(
            *(self._delete_all(k.resource, name, findings, collection=k.can("deletecollection")) for k in wanted)
        )
        return findings

    async def _delete_all(self, resource: Resource, namespace: str, findings: Findings, *, collection: bool) -> None:
        label = f"{resource.plural}.{resource.group}" if resource.group else f"{resource.plural}."
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            items = (await self._client.list(resource, namespace)).get("items") or []
            if not items:
                return
            if any(not meta.is_deleting(o) for o in items):
                try:
                    if not collection:
                        raise MethodNotAllowed(resource.plural)
                    await self._client.request("DELETE", resource.path(namespace), body=options)
                except MethodNotAllowed:
                    await self._delete_each(resource, namespace, items)
                items = (await self._client.list(resource, namespace)).get("items") or []
        except (NotFound, MethodNotAllowed):
            return
        except (StatusError, Unreachable) as e:
            findings.failures.append(f"unexpected error when deleting {resource.plural}: {e.message}")
            return
        if items and resource.plural not in _NO_CONTENT:
            findings.remaining[label] = len(items)
            for item in items:
                for finalizer in item["metadata"].get("finalizers") or []:
                    findings.finalizers[finalizer] = findings.finalizers.get(finalizer, 0) + 1

    async def _delete_each(self, resource: Resource, namespace: str, items: list[Object]) -> None:
        for item in items:
            try:
                await self._client.delete(resource, meta.name(item), namespace, uid=meta.uid(item), propagation="Background")
            except (NotFound, Conflict):
                continue

    async def _finalize(self, namespace: Object) -> None:
        body = copy(namespace)
        body["spec"]["finalizers"] = [f for f in body["spec"].get("finalizers") or [] if f != "kubernetes"]
        try:
            await self._client.update(NAMESPACES, body, "finalize")
        except NotFound:
            return
        except Conflict:
            fresh = await self._client.get(NAMESPACES, meta.name(namespace))
            fresh["spec"]["finalizers"] = body["spec"]["finalizers"]
            await self._client.update(NAMESPACES, fresh, "finalize")
