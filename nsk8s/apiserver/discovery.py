"""Discovery: which groups, versions and resources there are, in the old form and the aggregated one. Pure over the scheme.

Documents are rendered anew only when the scheme changes. Upstream: apiserver/pkg/endpoints/discovery (and its /aggregated).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import orjson
from aiohttp import web

from nsk8s.api.scheme import Kind, Scheme
from nsk8s.apiserver import failures
from nsk8s.apiserver.respond import json_response
from nsk8s.apiserver.server import Request, Server

GROUP_ORDER = ("", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling", "batch",
               "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
               "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "discovery.k8s.io")  # fmt: skip
_AGGREGATED = {v: f"application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList" for v in ("v2", "v2beta1")}


def aggregated_version(accept: str) -> str:
    """The newest form of aggregated discovery that an Accept header names before plain JSON; "" for plain JSON."""
    for clause in accept.split(","):
        parts = {p.strip() for p in clause.split(";")}
        if "g=apidiscovery.k8s.io" in parts and "as=APIGroupDiscoveryList" in parts:
            for version in ("v2", "v2beta1"):
                if f"v={version}" in parts:
                    return version
        elif parts & {"application/json", "*/*", "application/*"}:
            return ""
    return ""


def _version_rank(version: str) -> tuple[int, int, int]:
    """v2 before v1 before v1beta2 before v1beta1 before v1alpha1 (kube-aware version priority, newest first)."""
    import re

    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if not found:
        return (3, 0, 0)
    stage = {None: 0, "beta": 1, "alpha": 2}[found.group(2)]
    return (stage, -int(found.group(1)), -int(found.group(3) or 0))


def groups(scheme: Scheme) -> dict[str, list[str]]:
    """group → versions, preferred first; groups in upstream's order, others by name."""
    found: dict[str, list[str]] = {}
    for group, version in scheme.group_versions():
        found.setdefault(group, []).append(version)
    known = {g: i for i, g in enumerate(GROUP_ORDER)}
    ordered = sorted(found, key=lambda g: (known.get(g, len(known)), g))
    return {g: sorted(found[g], key=_version_rank) for g in ordered}


def _kinds(scheme: Scheme, group: str, version: str) -> list[Kind]:
    return sorted((k for k in scheme.kinds() if (k.group, k.version) == (group, version)), key=lambda k: k.plural)


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    entries = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def resource_list(kinds: list[Kind], group_version: str) -> dict[str, Any]:
    resources: list[dict[str, Any]] = []
    for kind in kinds:
        entry: dict[str, Any] = {
            "name": kind.plural, "singularName": kind.singular_name, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": sorted(kind.verbs),
        }  # fmt: skip
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        if "list" in kind.verbs:
            entry["storageVersionHash"] = _hash(f"{kind.group}/{kind.storage_version or kind.version}/{kind.kind}")[:12]
        resources.append(entry)
        for sub in kind.subresources:
            entry = {
                "name": f"{kind.plural}/{sub.name}", "singularName": "", "namespaced": kind.namespaced, "kind": sub.kind,
                "verbs": sorted(sub.verbs),
            }  # fmt: skip
            if sub.group or sub.version:
                entry |= {"group": sub.group, "version": sub.version}
            resources.append(entry)
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def _aggregated_resource(kind: Kind) -> dict[str, Any]:
    scope = "Namespaced" if kind.namespaced else "Cluster"
    entry: dict[str, Any] = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": scope,
        "singularResource": kind.singular_name,
        "verbs": sorted(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [
            {
                "subresource": s.name,
                "responseKind": {
                    "group": s.group or (kind.group if not s.version else ""),
                    "version": s.version or kind.version,
                    "kind": s.kind,
                },
                "verbs": sorted(s.verbs),
            }
            for s in kind.subresources
        ]
    return entry


def aggregated(scheme: Scheme, *, core: bool, form: str) -> dict[str, Any]:
    items = []
    for group, versions in groups(scheme).items():
        if (group == "") is not core:
            continue
        items.append(
            {
                "metadata": {"name": group, "creationTimestamp": None},
                "versions": [
                    {
                        "version": v,
                        "resources": [_aggregated_resource(k) for k in _kinds(scheme, group, v)],
                        "freshness": "Current",
                    }
                    for v in versions
                ],
            }
        )
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{form}", "metadata": {}, "items": items}


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest().upper()


class Discovery:
    def __init__(self, server: Server, address: str) -> None:
        self._server = server
        self._address = address
        self._generation = -1
        self._rendered: dict[tuple[str, str], bytes] = {}
        server.documents["/api"] = self._api
        server.documents["/apis"] = self._apis
        server.documents["/api/v1"] = self._group_version
        server.document_prefixes.append(("/apis/", self._below_apis))

    def _cached(self, path: str, form: str, render: Any) -> bytes:
        if self._generation != self._server.scheme.generation:
            self._rendered.clear()
            self._generation = self._server.scheme.generation
        raw = self._rendered.get((path, form))
        if raw is None:
            raw = self._rendered[path, form] = orjson.dumps(render())
        return raw

    def _answer(self, request: Request, path: str, *, core: bool, plain: Any) -> web.StreamResponse:
        form = aggregated_version(request.header("Accept"))
        if not form:
            return json_response(self._cached(path, "", plain))
        raw = self._cached(path, form, lambda: aggregated(self._server.scheme, core=core, form=form))
        etag = f'"{sha256(raw).hexdigest().upper()}"'
        if request.header("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag, "Vary": "Accept"})
        response = json_response(raw, content_type=_AGGREGATED[form])
        response.headers.update({"ETag": etag, "Vary": "Accept", "Cache-Control": "public"})
        return response

    async def _api(self, request: Request) -> web.StreamResponse:
        versions = {
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": self._address}],
        }  # fmt: skip
        return self._answer(request, "/api", core=True, plain=lambda: versions)

    async def _apis(self, request: Request) -> web.StreamResponse:
        def plain() -> dict[str, Any]:
            listed = [_group(g, v) for g, v in groups(self._server.scheme).items() if g]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}

        return self._answer(request, "/apis", core=False, plain=plain)

    async def _group_version(self, request: Request) -> web.StreamResponse:
        return json_response(self._cached("/api/v1", "", lambda: resource_list(_kinds(self._server.scheme, "", "v1"), "v1")))

    async def _below_apis(self, request: Request) -> web.StreamResponse:
        parts = [p for p in request.info.path.split("/") if p][1:]
        found = groups(self._server.scheme)
        versions = found.get(parts[0]) if parts and parts[0] else None
        if versions is None or len(parts) > 2:
            raise failures.unknown_path()
        if len(parts) == 1:
            return json_response({"kind": "APIGroup", "apiVersion": "v1", **_group(parts[0], versions)})
        if parts[1] not in versions:
            raise failures.unknown_path()
        group, version = parts
        name = f"{group}/{version}"
        return json_response(
            self._cached(f"/apis/{name}", "", lambda: resource_list(_kinds(self._server.scheme, group, version), name))
        )
