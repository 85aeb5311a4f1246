"""The HTTP side: one function from request to answer. Touches: sockets through aiohttp.

Parse, authenticate, authorise, route. There is no route table: a path is a resource of the scheme, or one of a few documents.
Upstream: apiserver/pkg/server (handler chain), apiserver/pkg/endpoints.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Kind, Scheme
from nsk8s.apiserver import failures
from nsk8s.apiserver.authn import Authenticator
from nsk8s.apiserver.authz import Attributes, Authorizer
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import ANONYMOUS, Call, User, new_call
from nsk8s.apiserver.content import BODY_LIMIT
from nsk8s.apiserver.impersonation import impersonated
from nsk8s.apiserver.metrics import Metrics
from nsk8s.apiserver.registry import Registry
from nsk8s.apiserver.request import RequestInfo, parse
from nsk8s.apiserver.respond import failure
from nsk8s.errors import Forbidden, InternalError, MethodNotAllowed, RequestEntityTooLarge, StatusError, Unauthorized
from nsk8s.store.base import Store

log = logging.getLogger("server")

Document = Callable[["Request"], Awaitable[web.StreamResponse]]
Endpoint = Callable[["Request", Call], Awaitable[web.StreamResponse]]
PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version", "/.well-known/openid-configuration", "/openid/v1/jwks")
"""What anybody may read, also when anonymous requests are off."""
HTTP_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Request:
    """One HTTP request with what the server found out about it."""

    __slots__ = ("_body", "http", "info", "server", "user", "warnings")

    def __init__(self, server: Server, http: web.BaseRequest, info: RequestInfo, user: User) -> None:
        self.server = server
        self.http = http
        self.info = info
        self.user = user
        self.warnings: list[str] = []
        self._body: bytes | None = None

    async def body(self) -> bytes:
        """The whole body. Raises RequestEntityTooLarge."""
        if self._body is None:
            length = self.http.content_length
            if length is not None and length > BODY_LIMIT:
                raise RequestEntityTooLarge(f"Request entity too large: limit is {BODY_LIMIT}")
            content = bytearray()
            async for chunk in self.http.content.iter_any():
                content += chunk
                if len(content) > BODY_LIMIT:
                    raise RequestEntityTooLarge(f"Request entity too large: limit is {BODY_LIMIT}")
            self._body = bytes(content)
        return self._body

    def header(self, name: str) -> str:
        return self.http.headers.get(name, "")


class Server:
    """Holds the parts together; `handle` is the whole of it. The modules that have endpoints and documents register them."""

    def __init__(
        self, scheme: Scheme, store: Store, cache: Cache, registry: Registry, authenticator: Authenticator, authorizer: Authorizer
    ) -> None:
        self.scheme = scheme
        self.store = store
        self.cache = cache
        self.registry = registry
        self.authenticator = authenticator
        self.authorizer = authorizer
        self.metrics = Metrics(cache)
        self.acted_on: set[str] = set()
        """Group resources that draw no notice of having no effect, as this cluster has who acts on them."""
        self.documents: dict[str, Document] = {}
        """Exact paths."""
        self.document_prefixes: list[tuple[str, Document]] = []
        self.verbs: dict[str, Endpoint] = {}
        """list, get, create …: what every kind has."""
        self.subresources: dict[tuple[str, str], Endpoint] = {}
        """(group resource or "*", subresource)."""
        self.scale_paths: dict[str, Object] = {}
        """subresources.scale of custom resources: group resource → where their replicas are."""
        self.virtual: dict[str, Endpoint] = {}
        """Kinds that are asked and not stored: the reviews."""

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        request: Request | None = None
        info: RequestInfo | None = None
        try:
            info = parse(http.method, http.raw_path)
            peer = http.transport.get_extra_info("peercert") if http.transport else None
            user = self.authenticator.identify(peer, http.headers.get("Authorization", ""))
            if any(key.startswith("Impersonate-") for key in http.headers):
                groups = http.headers.getall("Impersonate-Group", [])
                user = impersonated(user, http.headers, list(groups), self.authorizer)
            request = Request(self, http, info, user)
            response = await self._route(request)
        except StatusError as e:
            response = failure(e, request.warnings if request else ())
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            raise
        except Exception as e:
            log.exception("%s %s failed", http.method, http.path)
            response = failure(InternalError(f"Internal error occurred: {type(e).__name__}: {e}"))
        self.metrics.observe(info, http.method, response.status, time.perf_counter() - started)
        return response

    async def _route(self, request: Request) -> web.StreamResponse:
        info = request.info
        if info.method not in HTTP_METHODS:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        self._authorize(request)
        if not info.is_resource:
            return await self._document(request)
        kind = self.scheme.resource(info.group, info.version, info.resource)
        if kind is None:
            raise failures.unknown_path()
        if kind.namespaced:
            if not info.namespace and (info.name or info.verb in ("create", "deletecollection")):
                if info.verb in ("create", "deletecollection"):
                    raise MethodNotAllowed("the server does not allow this method on the requested resource")
                raise failures.unknown_path()
        elif info.namespace and kind.group_resource != "namespaces":
            raise failures.unknown_path()
        call = new_call(request.user, info, kind, request.header("User-Agent"))
        call.warnings = request.warnings
        return await self._endpoint(call)(request, call)

    def _endpoint(self, call: Call) -> Endpoint:
        info, kind = call.info, call.kind
        if info.subresource:
            sub = next((s for s in kind.subresources if s.name == info.subresource), None)
            found = self.subresources.get((kind.group_resource, info.subresource)) or self.subresources.get(
                ("*", info.subresource)
            )
            if (sub is None and info.subresource not in ("status", "proxy")) or found is None:
                raise failures.unknown_path()
            if sub is not None and info.verb not in sub.verbs and not (info.verb == "get" and "create" in sub.verbs):
                raise MethodNotAllowed("the server does not allow this method on the requested resource")
            if sub is None and info.subresource == "status" and not kind.strategy.has_status:
                raise failures.unknown_path()
            return found
        virtual = self.virtual.get(kind.group_resource)
        endpoint = virtual or self.verbs.get(info.verb)
        misplaced = bool(info.name) if info.verb == "create" else not info.name and info.verb in ("update", "patch")
        if endpoint is None or info.verb not in kind.verbs or misplaced:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        return endpoint

    def _authorize(self, request: Request) -> None:
        info, user = request.info, request.user
        if not info.is_resource and info.path.startswith(PUBLIC_PATHS):
            return
        if not self.authenticator.admits(user):
            raise Unauthorized("Unauthorized")
        a = attributes(info)
        if self.authorizer.allows(user, a):
            return
        raise denied(user, a)

    async def _document(self, request: Request) -> web.StreamResponse:
        path = request.info.path
        found = self.documents.get(path) or self.documents.get(path.rstrip("/"))
        if found is None:
            found = next((d for prefix, d in self.document_prefixes if path.startswith(prefix)), None)
        if found is None:
            raise failures.unknown_path()
        if request.info.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        return await found(request)


def attributes(info: RequestInfo) -> Attributes:
    if not info.is_resource:
        return Attributes(info.verb, path=info.path)
    return Attributes(info.verb, info.group, info.resource, info.subresource, info.namespace, info.name)


def denied(user: User, a: Attributes) -> StatusError:
    """403 in upstream's words (401 for nobody, so that clients fetch credentials)."""
    if a.path:
        return Forbidden(f'forbidden: User "{user.name}" cannot {a.verb} path "{a.path}"', details={})
    resource = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
    where = f' in the namespace "{a.namespace}"' if a.namespace and a.resource != "namespaces" else " at the cluster scope"
    text = f'User "{user.name}" cannot {a.verb} resource "{resource}" in API group "{a.group}"{where}'
    stub = Kind(a.group, "", "", a.resource, bool(a.namespace))
    return failures.forbidden(stub, a.name, text)


def is_anonymous(user: User) -> bool:
    return user is ANONYMOUS


def details_of(kind: Kind, obj: dict[str, Any]) -> dict[str, Any]:
    """StatusDetails of a deleted object."""
    return failures.details(kind, str(obj["metadata"]["name"]), uid=obj["metadata"].get("uid", ""))
