"""What resources the server has, asked of the server. Touches: the API (parsing is pure).

Upstream: client-go/discovery and restmapper. The aggregated form is asked for; a server that does not know it answers plainly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nsk8s.client.resources import Resource
from nsk8s.client.rest import Client

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


@dataclass(frozen=True)
class Known:
    """A resource in its group's preferred version, and its verbs."""

    resource: Resource
    verbs: frozenset[str]

    def can(self, *verbs: str) -> bool:
        return self.verbs.issuperset(verbs)


async def preferred(client: Client) -> list[Known]:
    """Every resource in its group's preferred version. Raises StatusError, Unreachable."""
    accept = {"Accept": AGGREGATED}
    core, groups = await asyncio.gather(
        client.request("GET", "/api", headers=accept), client.request("GET", "/apis", headers=accept)
    )
    found: list[Known] = []
    if core.get("kind") == "APIGroupDiscoveryList":
        found += parse_aggregated(core)
    else:
        found += parse_list(await client.request("GET", "/api/v1"))
    if groups.get("kind") == "APIGroupDiscoveryList":
        found += parse_aggregated(groups)
    else:
        names = [g["preferredVersion"]["groupVersion"] for g in groups.get("groups") or []]
        for answer in await asyncio.gather(*(client.request("GET", f"/apis/{name}") for name in names)):
            found += parse_list(answer)
    return found


def parse_aggregated(document: Any) -> list[Known]:
    """The resources of an APIGroupDiscoveryList; each once, in the first version that has it. Pure."""
    found: dict[tuple[str, str], Known] = {}
    for group in document.get("items") or []:
        name = (group.get("metadata") or {}).get("name") or ""
        for version in group.get("versions") or []:
            for r in version.get("resources") or []:
                kind = (r.get("responseKind") or {}).get("kind") or ""
                resource = Resource(name, version["version"], r["resource"], kind, r.get("scope") == "Namespaced")
                found.setdefault((name, r["resource"]), Known(resource, frozenset(r.get("verbs") or ())))
    return list(found.values())


def parse_list(document: Any) -> list[Known]:
    """The resources of an APIResourceList; subresources are left out. Pure."""
    group, _, version = (document.get("groupVersion") or "v1").rpartition("/")
    return [
        Known(
            Resource(group, version, r["name"], r.get("kind", ""), bool(r.get("namespaced"))), frozenset(r.get("verbs") or ())
        )
        for r in document.get("resources") or []
        if "/" not in r["name"]
    ]


def by_kind(known: Iterable[Known]) -> dict[tuple[str, str], Resource]:
    """(group, kind) → resource, as owner references name their owners. Pure."""
    return {(k.resource.group, k.resource.kind): k.resource for k in known}
