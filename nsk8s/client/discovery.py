"""Which resources a server has, and which one a word such as `po`, `deploy/web` or `pods.v1.` means.

Upstream: client-go/discovery, restmapper. Touches: the API.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nsk8s.client.resources import Resource
from nsk8s.client.rest import Client
from nsk8s.errors import Nsk8sError

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@dataclass(frozen=True)
class Found:
    """A resource and the words that mean it."""

    resource: Resource
    words: frozenset[str]
    categories: frozenset[str]
    verbs: frozenset[str]


async def discover(client: Client) -> list[Found]:
    """Every resource of the server, the core group first, each group's versions in its order of preference."""
    out: list[Found] = []
    for root in ("/api", "/apis"):
        answer = await client.request("GET", root, headers={"Accept": AGGREGATED})
        for group in answer["items"]:
            for version in group["versions"]:
                out += (_found(group["metadata"].get("name", ""), version["version"], r) for r in version["resources"])
    return out


def _found(group: str, version: str, r: dict[str, object]) -> Found:
    kind = r["responseKind"]["kind"]  # type: ignore[index]
    plural = str(r["resource"])
    words = {plural, str(r.get("singularResource") or kind.lower()), kind.lower(), *(r.get("shortNames") or [])}  # type: ignore[misc]
    return Found(
        Resource(group, version, plural, str(kind), r["scope"] == "Namespaced"),
        frozenset(str(w) for w in words),
        frozenset(r.get("categories") or []),  # type: ignore[call-overload]
        frozenset(r.get("verbs") or []),  # type: ignore[call-overload]
    )


def lookup(found: Sequence[Found], word: str) -> Resource:
    """The resource that `word` (plural, singular, short name, `deployments.apps`) means. Raises Nsk8sError."""
    name, _, suffix = word.lower().partition(".")
    for f in found:
        r = f.resource
        qualified = not suffix or suffix in (r.group, f"{r.version}.{r.group}") or (suffix == f"{r.version}." and not r.group)
        if name in f.words and qualified:
            return r
    import difflib

    near = difflib.get_close_matches(name, sorted({w for f in found for w in f.words}), 1, 0.7)
    remedy = f"did you mean {near[0]}?" if near else "kubectl api-resources lists them"
    raise Nsk8sError(f'the server doesn\'t have a resource type "{word}"', remedy)


def by_kind(found: Iterable[Found], api_version: str, kind: str) -> Resource:
    """The resource of an object's apiVersion and kind. Raises Nsk8sError with kubectl's words."""
    for f in found:
        if f.resource.api_version == api_version and f.resource.kind == kind:
            return f.resource
    raise Nsk8sError(f'no matches for kind "{kind}" in version "{api_version}"', "is its CustomResourceDefinition installed?")
