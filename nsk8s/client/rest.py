"""The REST client. Upstream: client-go/rest and dynamic. Touches: TCP, TLS.

Every failed call raises the `StatusError` the server meant; a server that cannot be reached raises `Unreachable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlencode

import orjson

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.http import aiohttp
from nsk8s.client.keepalive import probe
from nsk8s.client.kubeconfig import ClientConfig
from nsk8s.client.reasons import reason
from nsk8s.client.resources import Resource
from nsk8s.errors import Nsk8sError, StatusError, from_status

T = TypeVar("T")

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

CONNECT_TIMEOUT_S = 5.0
"""TCP and TLS. Short, for the many who dial again: after a cut the next try soon meets a cable that is whole."""
PATIENT_CONNECT_TIMEOUT_S = 10.0
"""For a person's command, which tries once: Go's limit for the handshake, on a busy machine or with a server that is starting."""
REQUEST_TIMEOUT_S = 30.0
WATCH_TIMEOUT_S = 300
"""How long a watch is asked for; client-go draws 5 to 10 minutes."""
WATCH_IDLE_TIMEOUT_S = 90.0
"""A watch without a byte for so long is dead (the server sends a bookmark a minute): a cut cable sends no FIN."""


class Unreachable(Nsk8sError):
    """No answer from the API server: refused, timed out, reset, bad certificate."""


class WatchEvent(NamedTuple):
    """ADDED, MODIFIED, DELETED or BOOKMARK, and the object. ERROR events are raised, never yielded."""

    type: str
    object: Object


def ssl_context(config: ClientConfig) -> ssl.SSLContext | None:
    """The TLS context for a config; None for plain http."""
    if not config.server.startswith("https"):
        return None
    context = ssl.create_default_context(cadata=config.ca_pem or None)
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.cert_pem:
        _load_pair(context, config.cert_pem, config.key_pem)
    return context


def _load_pair(context: ssl.SSLContext, cert_pem: str, key_pem: str) -> None:
    """OpenSSL's Python API takes files only: hand it an anonymous one, so that no key touches a disk."""
    import os

    fd = os.memfd_create("client-pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, (cert_pem + "\n" + key_pem).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _probed_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that finds out by itself that the other machine has rebooted (10 s) or cannot be reached (25 s).

    A power cut sends no FIN: a watch would wait on a connection that only this side still knows. client-go: net.Dialer.KeepAlive
    and HTTP/2 pings.
    """
    family, kind, protocol = address[:3]
    s = socket.socket(family, kind, protocol)
    probe(s)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000)
    return s


class Client:
    """One API server, one identity, kept-alive connections. Use as `async with Client(config) as api:`."""

    def __init__(self, config: ClientConfig, user_agent: str = "nsk8s", connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self.config = config
        self._connect_timeout_s = connect_timeout_s
        self.on_warning: Callable[[str], None] | None = None
        """Told each Warning of an answer, as kubectl prints them."""
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._waiting: set[asyncio.Timeout] = set()

    async def __aenter__(self) -> Client:
        self._session = self._new_session()
        return self

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=ssl_context(self.config) or False, limit=0, keepalive_timeout=90, socket_factory=_probed_socket
        )
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            headers={"User-Agent": self._user_agent},
            skip_auto_headers={"Accept-Encoding"},
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=self._connect_timeout_s),
        )

    async def close_connections(self) -> None:
        """Break off every connection: requests and watches under way raise Unreachable, what comes next dials anew.

        For who has noticed that the network was cut: TCP would go on waiting. Upstream: the kubelet's closeAllConns.
        """
        old = self._session
        if old is not None:
            self._session = self._new_session()
            for scope in list(self._waiting):  # closing alone would leave a watch waiting for ever
                scope.reschedule(0)
            await old.close()

    async def _unless_closed(self, work: Awaitable[T]) -> T:
        """`work`, cut short by `close_connections`. Raises TimeoutError then."""
        async with asyncio.timeout(None) as scope:
            self._waiting.add(scope)
            try:
                return await work
            finally:
                self._waiting.discard(scope)

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _headers(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        headers = {"Accept": "application/json", **(extra or {})}
        token = self.config.token
        if self.config.token_file:
            token = Path(self.config.token_file).read_text().strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One call; the decoded JSON answer (text for other content types). Raises StatusError, Unreachable."""
        sent = self._headers(headers)
        data: bytes | None = None
        if body is not None:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            sent["Content-Type"] = content_type
        try:
            return await self._unless_closed(self._exchange(method, path, params, data, sent))
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise Unreachable(f"{method} {self.config.server}{path}: {reason(e)}") from e

    async def _exchange(
        self, method: str, path: str, params: Mapping[str, str] | None, data: bytes | None, headers: Mapping[str, str]
    ) -> Any:
        assert self._session is not None, "use `async with Client(...)`"
        async with self._session.request(
            method, self.config.server + path, params=params, data=data, headers=headers,
            server_hostname=self.config.tls_server_name or None,
        ) as response:  # fmt: skip
            raw = await response.read()
            if self.on_warning is not None:
                for header in response.headers.getall("Warning", ()):
                    self.on_warning(header.partition(' "')[2].removesuffix('"').replace('\\"', '"'))
            if response.status >= 400:
                raise _failure(raw, response.status)
            return orjson.loads(raw) if response.content_type.endswith("json") else raw.decode()

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        return cast(Object, await self.request("GET", resource.path(namespace, name)))

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        limit: int = 0,
    ) -> Object:
        """The List object (`metadata.resourceVersion`, `items`); items get their apiVersion and kind back."""
        params = _params(
            labelSelector=label_selector, fieldSelector=field_selector, resourceVersion=resource_version, limit=str(limit or "")
        )
        answer = cast(Object, await self.request("GET", resource.path(namespace), params=params))
        for item in answer.get("items") or []:
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return answer

    async def create(self, resource: Resource, obj: Object, namespace: str = "", subresource: str = "", name: str = "") -> Object:
        """POST `obj`; the namespace is taken from the object unless given."""
        path = resource.path(namespace or meta.namespace(obj), name, subresource)
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        return cast(Object, await self.request("POST", path, body=body))

    async def update(self, resource: Resource, obj: Object, subresource: str = "") -> Object:
        """PUT the whole object; Conflict when its resourceVersion is not the newest."""
        path = resource.path(meta.namespace(obj), meta.name(obj), subresource)
        return cast(Object, await self.request("PUT", path, body=obj))

    async def update_status(self, resource: Resource, obj: Object) -> Object:
        return await self.update(resource, obj, "status")

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        namespace: str = "",
        *,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
        params: Mapping[str, str] | None = None,
    ) -> Object:
        path = resource.path(namespace, name, subresource)
        return cast(Object, await self.request("PATCH", path, body=body, content_type=content_type, params=params))

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        grace_period_s: int | None = None,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "",
    ) -> Object:
        """DELETE, on condition of uid and resourceVersion where given. The answer is a Status or the dying object."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        preconditions = _params(uid=uid, resourceVersion=resource_version)
        if preconditions:
            options["preconditions"] = preconditions
        if propagation:
            options["propagationPolicy"] = propagation
        return cast(Object, await self.request("DELETE", resource.path(namespace, name), body=options))

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: int = WATCH_TIMEOUT_S,
        accept: str = "application/json",
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `resource_version`, until the server ends the watch. Raises Gone, StatusError, Unreachable."""
        assert self._session is not None, "use `async with Client(...)`"
        params = _params(
            watch="1", allowWatchBookmarks="true", timeoutSeconds=str(timeout_s), resourceVersion=resource_version,
            labelSelector=label_selector, fieldSelector=field_selector,
        )  # fmt: skip
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s, sock_read=WATCH_IDLE_TIMEOUT_S)
        path = self.config.server + resource.path(namespace)
        try:
            dialled = self._session.get(
                path, params=params, headers=self._headers({"Accept": accept}), timeout=timeout,
                server_hostname=self.config.tls_server_name or None,
            )  # fmt: skip
            async with await self._unless_closed(dialled) as response:
                if response.status >= 400:
                    raise _failure(await response.read(), response.status)
                pending = b""
                while chunk := await self._unless_closed(response.content.readany()):
                    lines = (pending + chunk).split(b"\n")
                    pending = lines.pop()
                    for line in lines:
                        if not line:
                            continue
                        event = orjson.loads(line)
                        if event["type"] == "ERROR":
                            raise from_status(event["object"], 500)
                        yield WatchEvent(event["type"], event["object"])
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise Unreachable(f"watch {path}: {reason(e)}") from e

    async def stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The chunks of a body that may go on for ever (`pods/log`). Raises StatusError, Unreachable."""
        assert self._session is not None, "use `async with Client(...)`"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s)
        try:
            async with self._session.get(
                self.config.server + path, params=params, headers={**self._headers(), "Accept": "*/*"}, timeout=timeout,
                server_hostname=self.config.tls_server_name or None,
            ) as response:  # fmt: skip
                if response.status >= 400:
                    raise _failure(await response.read(), response.status)
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise Unreachable(f"{self.config.server}{path}: {reason(e)}") from e

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, query: Sequence[tuple[str, str]], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket session (`pods/exec`). A refused handshake raises the server's StatusError."""
        assert self._session is not None, "use `async with Client(...)`"
        url = f"{self.config.server}{path}?{urlencode(query)}"
        refusal: list[tuple[int, bytes]] = []

        async def keep(session: object, context: object, params: aiohttp.TraceRequestEndParams) -> None:
            """The library throws the body of a refused handshake away, which says why: it is read before that."""
            if params.response.status >= 400:
                refusal.append((params.response.status, await params.response.read()))

        tracing = aiohttp.TraceConfig()
        tracing.on_request_end.append(keep)
        try:
            async with aiohttp.ClientSession(
                connector=self._session.connector, connector_owner=False, trace_configs=[tracing],
                headers={"User-Agent": self._user_agent},
            ) as session, session.ws_connect(
                url, headers=self._headers(), protocols=[protocol], max_msg_size=0
            ) as ws:  # fmt: skip
                # A command that leaves its stdin for later closes the window: no sign that nobody is there.
                ws.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
                yield ws
        except aiohttp.WSServerHandshakeError as e:
            if refusal:
                raise _failure(refusal[0][1], refusal[0][0]) from e
            raise Unreachable(f"{path}: {e.message}") from e
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise Unreachable(f"{path}: {reason(e)}") from e

    async def wait_reachable(self) -> None:
        """Return once the server answers anything at all."""
        delay = 0.02
        while True:
            try:
                await self.request("GET", "/readyz")
                return
            except StatusError:
                return
            except Unreachable:
                await asyncio.sleep(delay)
                delay = min(delay * 1.4, 5.0)

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Return once /readyz says ok; raises Unreachable after `timeout_s` (None: wait for ever)."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        delay = 0.01
        while True:
            try:
                await self.request("GET", "/readyz")
                return
            except (Unreachable, StatusError) as e:
                if deadline is not None and loop.time() + delay > deadline:
                    raise Unreachable(f"{self.config.server} is not ready: {e.message}") from e
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 0.5)


def _params(**values: str) -> dict[str, str]:
    return {k: v for k, v in values.items() if v}


def _failure(raw: bytes, code: int) -> StatusError:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = {}
    if not isinstance(body, dict) or body.get("kind") != "Status":
        body = {"message": raw.decode(errors="replace").strip()[:500]}
    return from_status(body, code)
