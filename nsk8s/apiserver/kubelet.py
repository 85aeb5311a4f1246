"""The way to the kubelets: logs are streamed through, exec, attach and port-forward are byte tunnels. Touches: sockets to nodes.

A WebSocket handshake is passed on as it is and its answer passed back, so that from then on both ends talk to each other and
pings, close frames and subprotocols are none of our business.
Upstream: pkg/registry/core/pod/{strategy,rest}, pkg/kubelet/client, apimachinery/pkg/util/proxy.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause, Kind
from nsk8s.apiserver import failures
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.server import Request, Server
from nsk8s.apiserver.tunnel import Tunnel
from nsk8s.apiserver.verbs import namespace_of
from nsk8s.client.http import aiohttp
from nsk8s.client.reasons import reason
from nsk8s.errors import BadRequest, Failed, InternalError, Nsk8sError, StatusError

CONNECT_S = 5.0
"""Until a kubelet that does not answer is given up."""
DEFAULT_PORT = 10250
ADDRESS_ORDER = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")
_LOG_NUMBERS = ("sinceSeconds", "tailLines", "limitBytes")
_LOG_TEXTS = ("sinceTime", "stream")
_LOG_FLAGS = ("follow", "previous", "timestamps")
_LOG_OPTIONS = Kind("", "v1", "PodLogOptions", "pods", True)
SPDY_REFUSED = (
    "SPDY is not supported by this server: use kubectl 1.30 or later, or KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true"
)


@dataclass(frozen=True)
class Target:
    host: str
    port: int

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def client_context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """TLS towards kubelets: our client certificate; their names are checked if their authority is known. Raises Nsk8sError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authority:
            context.load_verify_locations(authority)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as e:
        raise Nsk8sError(f"cannot use the kubelet client certificate {certificate} or authority {authority}: {e}") from e
    return context


def go_dial_error(error: BaseException, authority: str) -> str:
    """What Go's net package says for a failed dial: what users of kubectl know and search for. Pure."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return f"dial tcp {authority}: i/o timeout"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return f"dial tcp {authority}: connect: {reason(error)}"
    return reason(error) if isinstance(error, ssl.SSLError) else f"dial tcp {authority}: {reason(error)}"


def node_target(node: Object | None, name: str) -> Target:
    """Where the kubelet of a node listens. Raises Failed."""
    if node is None:
        raise Failed(f'error dialing backend: nodes "{name}" not found')
    status = node.get("status") or {}
    addresses = {a.get("type"): a.get("address") for a in reversed(status.get("addresses") or [])}
    host = next((str(addresses[t]) for t in ADDRESS_ORDER if addresses.get(t)), "")
    if not host:
        known = status.get("addresses") or []
        raise Failed(f"error dialing backend: no preferred addresses found; known addresses: {known}")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or DEFAULT_PORT
    return Target(host, int(port))


def choose_container(call: Call, pod: Object, wanted: str) -> str:
    """The container a request is about. Raises BadRequest in upstream's words."""
    name, spec = pod["metadata"]["name"], pod.get("spec") or {}
    containers = [c["name"] for c in spec.get("containers") or ()]
    inits = [c["name"] for c in spec.get("initContainers") or ()]
    debug = [c["name"] for c in spec.get("ephemeralContainers") or ()]
    if not wanted:
        if len(containers) == 1 and not inits and not debug:
            return str(containers[0])
        if len(containers) == 1 and call.info.subresource != "log":
            return str(containers[0])
        text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
        text += f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
        text += f" or one of the ephemeral containers: [{' '.join(debug)}]" if debug else ""
        raise BadRequest(text)
    if wanted not in (*containers, *inits, *debug):
        raise BadRequest(f"container {wanted} is not valid for pod {name}")
    return wanted


class KubeletProxy:
    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        self._server = server
        self._context = context
        self._session: aiohttp.ClientSession | None = None
        for subresource in ("log", "exec", "attach", "portforward"):
            server.subresources["pods", subresource] = getattr(self, f"_{subresource}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._context, limit=0, keepalive_timeout=60.0, ttl_dns_cache=10)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    async def _pod(self, call: Call) -> Object:
        return await self._server.registry.get(call.kind, namespace_of(call), call.info.name)

    async def _log(self, request: Request, call: Call) -> web.StreamResponse:
        pod = await self._pod(call)
        container = choose_container(call, pod, call.info.param("container"))
        params = log_params(call)
        node = (pod.get("spec") or {}).get("nodeName", "")
        if not node:
            return web.Response(body=b"", headers={"Content-Type": "text/plain"})
        target = node_target(self._server.cache.get("nodes", "", node), node)
        url = f"https://{target.authority}/containerLogs/{_path(pod, container)}"
        if params:
            url += "?" + urlencode(params)
        return await self._stream_log(request, url, target)

    async def _stream_log(self, request: Request, url: str, target: Target) -> web.StreamResponse:
        from yarl import URL

        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S)
        try:
            answer = await self._client().get(URL(url, encoded=True), timeout=timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            cause = getattr(e, "os_error", None) or e.__cause__ or e
            raise Failed(f'Get "{url}": {go_dial_error(cause, target.authority)}') from e
        try:
            if answer.status >= 300:
                raise kubelet_failure(answer.status, (await answer.content.read(64 * 1024)).decode(errors="replace"))
            response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"})
            response.enable_chunked_encoding()
            await response.prepare(request.http)
            try:
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            except aiohttp.ClientError:
                # The kubelet broke off: so do we, for an orderly end would claim that the log is whole.
                if request.http.transport is not None:
                    request.http.transport.abort()
                return response
            except ConnectionError:
                return response
            await response.write_eof()
            return response
        finally:
            answer.close()

    async def _exec(self, request: Request, call: Call) -> web.StreamResponse:
        command = list(call.info.query.get("command", ()))
        if not command:
            raise BadRequest("you must specify at least one command for the container")
        return await self._upgrade(request, call, "exec", [("command", c) for c in command])

    async def _attach(self, request: Request, call: Call) -> web.StreamResponse:
        return await self._upgrade(request, call, "attach", [])

    async def _upgrade(
        self, request: Request, call: Call, verb: str, extra: Sequence[tuple[str, str]]
    ) -> web.StreamResponse:
        info = call.info
        pod = await self._pod(call)
        container = choose_container(call, pod, info.param("container"))
        if not any(info.flag(s) for s in ("stdin", "stdout", "stderr")):
            raise BadRequest("at least one of stdin, stdout, stderr must be specified")
        names = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
        params = [(theirs, "1") for ours, theirs in names if info.flag(ours)]
        return await self._tunnel(request, pod, f"/{verb}/{_path(pod, container)}", [*params, *extra])

    async def _portforward(self, request: Request, call: Call) -> web.StreamResponse:
        pod = await self._pod(call)
        ports = [("port", p) for p in call.info.query.get("ports", ())]
        return await self._tunnel(request, pod, f"/portForward/{_path(pod)}", ports)

    async def _tunnel(
        self, request: Request, pod: Object, path: str, params: Sequence[tuple[str, str]]
    ) -> web.StreamResponse:
        upgrade = request.header("Upgrade").lower()
        if upgrade not in ("websocket", "spdy/3.1"):
            raise BadRequest("Upgrade request required")
        node = (pod.get("spec") or {}).get("nodeName", "")
        if not node:
            raise BadRequest(f"pod {pod['metadata']['name']} does not have a host assigned")
        target = node_target(self._server.cache.get("nodes", "", node), node)
        url = path + ("?" + urlencode(params) if params else "")
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    target.host, target.port, ssl=self._context, server_hostname=target.host, limit=256 * 1024
                )
        except (OSError, TimeoutError) as e:
            raise Failed(f"error dialing backend: {go_dial_error(e, target.authority)}") from e
        # SPDY is the kubelet's to refuse: kubectl falls back to it when a WebSocket was refused, and would else never
        # show the kubelet's own reason (container not found).
        try:
            return await Tunnel(request.http, reader, writer).run(url, target.authority)
        except BadRequest as e:
            forward = path.startswith("/portForward")  # which the kubelet does serve over SPDY
            if upgrade != "websocket" and not forward and (e.code == 405 or "upgrade" in e.message):
                raise BadRequest(SPDY_REFUSED) from e
            raise


def _path(pod: Object, container: str = "") -> str:
    metadata = pod["metadata"]
    parts = [metadata["namespace"], metadata["name"], *([container] if container else [])]
    return "/".join(quote(p, safe="") for p in parts)


def log_params(call: Call) -> Mapping[str, str]:
    """The kubelet's parameters for PodLogOptions. Raises BadRequest, Invalid."""
    params: dict[str, Any] = {}
    for name in _LOG_NUMBERS:
        value = call.info.number(name)
        if value is None:
            continue
        least = 0 if name == "tailLines" else 1
        if value < least:
            limit = "must be greater than or equal to 0" if least == 0 else "must be greater than 0"
            raise failures.invalid(_LOG_OPTIONS, call.info.name, [Cause(name, f"Invalid value: {value}: {limit}")])
        params[name] = str(value)
    if "sinceSeconds" in params and call.info.param("sinceTime"):
        problem = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        raise failures.invalid(_LOG_OPTIONS, call.info.name, [Cause("sinceSeconds", problem, "FieldValueForbidden")])
    for name in _LOG_TEXTS:
        if call.info.param(name):
            params[name] = call.info.param(name)
    for name in _LOG_FLAGS:
        if call.info.flag(name):
            params[name] = "true"
    return params


def kubelet_failure(code: int, text: str) -> StatusError:
    """A kubelet's answer as an API error: its text, its code; 401 and 403 are our own trouble."""
    text = text.strip() or f"the kubelet answered {code}"
    if code in (401, 403):
        return InternalError(f"the kubelet refused the server's client certificate: {text}")
    if code == 400:
        return BadRequest(text)
    error: StatusError = InternalError(text)
    if 400 <= code < 500:
        error.code, error.reason = code, {404: "NotFound"}.get(code, "BadRequest")
    return error
