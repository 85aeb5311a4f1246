"""The paths that are not resources: version, health, metrics, OpenAPI, the token issuer's keys. Touches: HTTP.

Upstream: apiserver/pkg/server/{healthz,routes}.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import Any

import orjson
from aiohttp import web

from nsk8s.api.scheme import Kind
from nsk8s.api.version import KUBERNETES_VERSION
from nsk8s.apiserver import failures
from nsk8s.apiserver.respond import json_response, text_response
from nsk8s.apiserver.server import Request, Server
from nsk8s.apiserver.tokens import ServiceAccountTokens
from nsk8s.errors import StatusError

Check = Callable[[], Awaitable[None]]
OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""As it is answered; clients ask for it with an @, which no media type may contain."""


def version_document() -> dict[str, str]:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"{KUBERNETES_VERSION}+nsk8s",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation().lower(),
        "platform": f"linux/{machine}",
    }


class Documents:
    def __init__(self, server: Server, tokens: ServiceAccountTokens) -> None:
        self._server = server
        self._tokens = tokens
        self._generation = -1
        self._openapi: dict[str, bytes] = {}
        self.stopping = False
        self.bootstrapped = False
        server.documents.update(
            {
                "": self._root,
                "/version": self._version,
                "/metrics": self._metrics,
                "/openapi/v2": self._openapi_v2,
                "/openapi/v3": self._openapi_v3,
                "/.well-known/openid-configuration": self._openid,
                "/openid/v1/jwks": self._jwks,
            }
        )
        server.document_prefixes.append(("/openapi/v3/", self._openapi_group_version))
        live: dict[str, Check] = {"ping": self._ping, "log": self._ping, "etcd": self._store}
        ready: dict[str, Check] = {
            **live,
            "informer-sync": self._synced,
            "poststarthook/rbac/bootstrap-roles": self._bootstrap,
            "shutdown": self._shutdown,
        }
        for path, checks in (("/healthz", live), ("/livez", live), ("/readyz", ready)):
            server.documents[path] = partial(self._health, path, checks)
            for name in checks:
                server.documents[f"{path}/{name}"] = partial(self._health, path, {name: checks[name]})

    async def _root(self, request: Request) -> web.StreamResponse:
        from nsk8s.apiserver.discovery import groups

        paths = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
        for group, versions in groups(self._server.scheme).items():
            if group:
                paths += [f"/apis/{group}", *(f"/apis/{group}/{v}" for v in versions)]
        paths += ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
        return json_response({"paths": sorted(paths)})

    async def _version(self, request: Request) -> web.StreamResponse:
        return json_response(orjson.dumps(version_document(), option=orjson.OPT_INDENT_2))

    async def _metrics(self, request: Request) -> web.StreamResponse:
        response = text_response(self._server.metrics.render())
        response.headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
        return response

    async def _health(self, path: str, checks: dict[str, Check], request: Request) -> web.StreamResponse:
        excluded = set(request.info.query.get("exclude", ()))
        lines, failed = [], []
        for name, check in checks.items():
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
                continue
            try:
                async with asyncio.timeout(2):
                    await check()
                lines.append(f"[+]{name} ok")
            except (TimeoutError, StatusError):
                failed.append(name)
                lines.append(f"[-]{name} failed: reason withheld")
        kind = path.strip("/")
        if failed:
            return text_response("\n".join(lines) + f"\n{kind} check failed\n", 500)
        if request.info.flag("verbose") or "verbose" in request.info.query:
            return text_response("\n".join(lines) + f"\n{kind} check passed\n")
        return text_response("ok")

    async def _ping(self) -> None:
        return

    async def _store(self) -> None:
        await self._server.store.revision()

    async def _synced(self) -> None:
        await self._server.cache.fresh()

    async def _bootstrap(self) -> None:
        if not self.bootstrapped:
            raise StatusError("not finished")

    async def _shutdown(self) -> None:
        if self.stopping:
            raise StatusError("process is shutting down")

    async def _openid(self, request: Request) -> web.StreamResponse:
        issuer = self._tokens.issuer
        return json_response(
            {
                "issuer": issuer,
                "jwks_uri": f"{issuer.rstrip('/')}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": sorted({k["alg"] for k in self._tokens.jwks()["keys"]}),
            }
        )

    async def _jwks(self, request: Request) -> web.StreamResponse:
        return json_response(self._tokens.jwks(), content_type="application/jwk-set+json")

    async def _openapi_v2(self, request: Request) -> web.StreamResponse:
        """An empty gnostic document {swagger: "2.0", info {title, version}}: kubectl ≤ 1.28 wants to parse one, no more."""
        title, version = b"Kubernetes", f"{KUBERNETES_VERSION}+nsk8s".encode()
        info = b"\x0a" + bytes((len(title),)) + title + b"\x12" + bytes((len(version),)) + version
        body = b"\x0a\x032.0\x12" + bytes((len(info),)) + info
        return json_response(body, content_type=OPENAPI_V2)

    def _group_versions(self) -> dict[str, list[Kind]]:
        found: dict[str, list[Kind]] = {}
        for kind in self._server.scheme.kinds():
            path = f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"
            found.setdefault(path, []).append(kind)
        return found

    def _document(self, path: str, kinds: list[Kind]) -> bytes:
        from nsk8s.api import openapi

        if self._generation != self._server.scheme.generation:
            self._openapi.clear()
            self._generation = self._server.scheme.generation
        raw = self._openapi.get(path)
        if raw is None:
            raw = self._openapi[path] = orjson.dumps(openapi.document(kinds))
        return raw

    async def _openapi_v3(self, request: Request) -> web.StreamResponse:
        paths: dict[str, Any] = {}
        for path, kinds in self._group_versions().items():
            # The hash stands for the kinds, so that the index costs nothing; a client that has the document keeps it.
            seed = repr([(k.kind, k.schema if k.model is None else k.model.__name__, k.verbs) for k in kinds])
            digest = sha256(f"{KUBERNETES_VERSION} {seed}".encode()).hexdigest().upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
        return json_response({"paths": paths})

    async def _openapi_group_version(self, request: Request) -> web.StreamResponse:
        path = request.info.path.removeprefix("/openapi/v3/").rstrip("/")
        kinds = self._group_versions().get(path)
        if not kinds:
            raise failures.unknown_path()
        raw = self._document(path, kinds)
        etag = f'"{sha256(raw).hexdigest().upper()}"'
        if request.header("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        response = json_response(raw)
        response.headers["ETag"] = etag
        if request.info.param("hash"):
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response
