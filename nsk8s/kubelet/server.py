"""The kubelet's HTTPS API on port 10250 and its health on 10248. Touches: sockets, TLS, log files.

Upstream: kubelet/server. Who calls must show a client certificate of --client-ca-file in group system:masters or
kubeadm:cluster-admins: the API server's `kube-apiserver-kubelet-client` is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from nsk8s.api import meta
from nsk8s.client import certs
from nsk8s.errors import Nsk8sError
from nsk8s.kubelet import logs, portforward, stats, streaming
from nsk8s.kubelet.cri import RuntimeFailure
from nsk8s.kubelet.podruntime import Container, PodRuntime, find_spec

if TYPE_CHECKING:
    from nsk8s.kubelet.kubelet import Kubelet

log = logging.getLogger("server")

ADMIN_GROUPS = {"system:masters", "kubeadm:cluster-admins"}
MAX_HEAD = 1 << 20
"""Of a request line or header: a command to be run is in the URL. Go's default (http.DefaultMaxHeaderBytes)."""


def groups_of(certificate: dict[str, Any] | None) -> tuple[str, list[str]]:
    """(common name, organizations) of a peer certificate as `getpeercert` gives it. Pure."""
    name, groups = "", []
    for rdn in (certificate or {}).get("subject") or ():
        for key, value in rdn:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return name, groups


def _flag(request: web.Request, *names: str) -> bool:
    return any(request.query.get(n, "").lower() in ("1", "true", "t") for n in names)


class KubeletServer:
    def __init__(self, kubelet: Kubelet) -> None:
        self.k = kubelet
        self._runners: list[web.AppRunner] = []
        self._started = time.time()

    async def start(self) -> None:
        """Listen. Raises Nsk8sError when a port is taken or a certificate is broken."""
        app = web.Application(middlewares=[self._authorize])
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for verb, handler in (("exec", self._exec), ("attach", self._attach)):
            for method in ("GET", "POST"):
                app.router.add_route(method, f"/{verb}/{{namespace}}/{{pod}}/{{container}}", handler)
                app.router.add_route(method, f"/{verb}/{{namespace}}/{{pod}}/{{uid}}/{{container}}", handler)
        for method in ("GET", "POST"):
            app.router.add_route(method, "/portForward/{namespace}/{pod}", self._port_forward)
            app.router.add_route(method, "/portForward/{namespace}/{pod}/{uid}", self._port_forward)
        for path, plain in (
            ("/pods", self._pods), ("/runningpods/", self._pods), ("/healthz", self._healthz), ("/metrics", self._metrics),
            ("/metrics/resource", self._metrics_resource), ("/stats/summary", self._summary), ("/configz", self._configz),
        ):  # fmt: skip
            app.router.add_get(path, plain)
        config = self.k.config
        address = config.address or (config.node_ips[0] if config.node_ips else "0.0.0.0")
        await self._listen(app, address, config.port, self._tls())
        if config.healthz_port:
            health = web.Application()
            health.router.add_get("/healthz", self._healthz)
            await self._listen(health, config.healthz_address, config.healthz_port, None)

    async def _listen(self, app: web.Application, address: str, port: int, context: ssl.SSLContext | None) -> None:
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=1.0, max_line_size=MAX_HEAD, max_field_size=MAX_HEAD
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port, ssl_context=context, reuse_address=True).start()
        except OSError as e:
            await runner.cleanup()
            raise Nsk8sError(f"cannot listen on {address}:{port}: {os.strerror(e.errno) if e.errno else e}") from e
        self._runners.append(runner)

    async def stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        self._runners = []

    def _tls(self) -> ssl.SSLContext:
        config = self.k.config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if config.tls_cert_file:
                context.load_cert_chain(config.tls_cert_file, config.tls_private_key_file or None)
            else:
                _load_self_signed(context, config.node_name, config.node_ips)
            if config.client_ca_file:
                context.load_verify_locations(config.client_ca_file)
                context.verify_mode = ssl.CERT_OPTIONAL
        except (OSError, ssl.SSLError) as e:
            raise Nsk8sError(f"kubelet serving certificate: {e}") from e
        return context

    @web.middleware
    async def _authorize(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """401 without a certificate, 403 without the group."""
        if request.path == "/healthz" and request.transport is None:
            return web.Response(status=400)
        transport = request.transport
        peer = transport.get_extra_info("peercert") if transport is not None else None
        name, groups = groups_of(peer)
        if not peer:
            return web.Response(status=401, text="Unauthorized")
        if not ADMIN_GROUPS & set(groups):
            verb = {"GET": "get", "POST": "create"}.get(request.method, request.method.lower())
            text = f"Forbidden (user={name}, verb={verb}, resource=nodes, subresource=[proxy])"
            return web.Response(status=403, text=text)
        try:
            return await handler(request)
        except RuntimeFailure as e:
            return web.Response(status=500, text=str(e))

    def _find(self, request: web.Request) -> tuple[dict[str, Any], PodRuntime] | web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        found = self.k.find_pod(namespace, name)
        if found is None or request.match_info.get("uid", meta.uid(found[0])) != meta.uid(found[0]):
            return web.Response(status=404, text=f'pods "{name}" not found')
        return found

    def _container(self, request: web.Request) -> Container | web.Response:
        """The running container that exec and attach want."""
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        pod, runtime = found
        name = request.match_info["container"]
        if find_spec(pod, name) is None:
            return web.Response(status=404, text=f'container not found ("{name}")')
        container = runtime.container(name)
        if container is None or not container.running:
            return web.Response(status=404, text=f'container not found ("{name}")')
        return container

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        if isinstance(container, web.Response):
            return container
        command = request.query.getall("command", [])
        if not command:
            return web.Response(status=400, text="you must specify at least 1 command")
        return await self._stream(request, "Exec", container, {"cmd": command}, _flag(request, "tty"))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        if isinstance(container, web.Response):
            return container
        return await self._stream(request, "Attach", container, {}, _flag(request, "tty"))

    async def _stream(
        self, request: web.Request, method: str, container: Container, extra: dict[str, Any], tty: bool
    ) -> web.StreamResponse:
        stdin, stdout = _flag(request, "input", "stdin"), _flag(request, "output", "stdout")
        stderr = _flag(request, "error", "stderr") and not tty
        if not (stdin or stdout or stderr):
            return web.Response(status=400, text="you must specify at least one of stdin, stdout, stderr")
        refusal = streaming.refusal(request.headers)
        if refusal:
            return web.Response(status=400, text=refusal)
        params = {"containerId": container.id, "tty": tty, "stdin": stdin, "stdout": stdout or tty, "stderr": stderr, **extra}
        return await streaming.serve(
            request, self.k.runtime, method, params, tty=tty, stdin=stdin, stdout=stdout or tty, stderr=stderr
        )

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        sandbox = found[1].sandbox
        if sandbox is None or not sandbox.ready:
            return web.Response(status=404, text=f"pod {request.match_info['pod']} is not running")
        name = meta.key(found[0])
        if request.headers.get("Upgrade", "").lower() == "spdy/3.1":
            return await portforward.serve_spdy(request, self.k.runtime, sandbox.id, name)
        if portforward.TUNNEL in request.headers.get("Sec-WebSocket-Protocol", "").replace(" ", "").split(","):
            return await portforward.serve_tunnel(request, self.k.runtime, sandbox.id, name)
        try:
            ports = [int(p) for text in request.query.getall("port", []) for p in text.split(",")]
        except ValueError:
            return web.Response(status=400, text="invalid port")
        refusal = streaming.refusal(request.headers)
        if refusal:
            return web.Response(status=400, text=refusal)
        if not ports or not all(0 < p < 65536 for p in ports):
            return web.Response(status=400, text="query parameter \"port\" is required")
        return await streaming.serve_port_forward(request, self.k.runtime, sandbox.id, ports)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        pod, runtime = found
        name = request.match_info["container"]
        if find_spec(pod, name) is None:
            return web.Response(status=404, text=f'container "{name}" in pod "{meta.name(pod)}" is not available')
        try:
            options = log_options(request.query)
        except ValueError as e:
            return web.Response(status=400, text=str(e))
        history = runtime.history(name)
        previous = _flag(request, "previous")
        container = next(iter(history[1:] if previous else history), None)
        if container is None:
            if previous:
                return web.Response(
                    status=400, text=f'previous terminated container "{name}" in pod "{meta.name(pod)}" not found'
                )
            return web.Response(
                status=400, text=f'container "{name}" in pod "{meta.name(pod)}" is waiting to start: {self._waiting(pod, name)}'
            )
        return await self._send_log(request, container, options)

    def _waiting(self, pod: dict[str, Any], name: str) -> str:
        status = self.k.statuses.get(meta.uid(pod)) or {}
        for entry in [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]:
            if entry["name"] == name and (entry.get("state") or {}).get("waiting"):
                waiting = entry["state"]["waiting"]
                reason = str(waiting.get("reason") or "ContainerCreating")
                if reason in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"):
                    return "trying and failing to pull image"
                return reason
        return "ContainerCreating"

    async def _send_log(self, request: web.Request, container: Container, options: logs.LogOptions) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})

        def ended() -> bool:
            now = self.k.pleg.get(container.pod_uid).by_id(container.id)
            return now is None or not now.running

        chunks = logs.read(container.log_path, options, ended)
        try:
            first = await anext(chunks, b"")
        except FileNotFoundError:
            if container.running:
                first = b""
            else:
                return web.Response(status=500, text=f"failed to open log file {container.log_path}: no such file or directory")
        await response.prepare(request)
        if first:
            await response.write(first)
        try:
            async for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the reader has gone
        return response

    async def _pods(self, request: web.Request) -> web.Response:
        items = []
        for worker in self.k.workers.values():
            status = self.k.statuses.get(worker.uid)
            items.append({**worker.pod, **({"status": status} if status else {})})
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _configz(self, request: web.Request) -> web.Response:
        from dataclasses import asdict

        return web.Response(body=orjson.dumps({"kubeletconfig": asdict(self.k.config)}), content_type="application/json")

    async def _summary(self, request: web.Request) -> web.Response:
        body = await stats.summary(self.k.runtime, self.k.pleg, self.k.workers.values(), self.k.config.node_name)
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        text = stats.metrics(self.k.pleg, len(self.k.workers), self.k.config.node_name, self._started)
        return web.Response(text=text, content_type="text/plain")

    async def _metrics_resource(self, request: web.Request) -> web.Response:
        body = await stats.summary(self.k.runtime, self.k.pleg, self.k.workers.values(), self.k.config.node_name)
        return web.Response(text=stats.resource_metrics(body), content_type="text/plain")


def log_options(query: Any) -> logs.LogOptions:
    """PodLogOptions of a query. Raises ValueError."""

    def number(name: str) -> int | None:
        if query.get(name) in (None, ""):
            return None
        value = int(query[name])
        if value < 0:
            raise ValueError(f"{name}: must be greater than or equal to 0")
        return value

    since_ns = 0
    seconds = number("sinceSeconds")
    if seconds is not None:
        since_ns = time.time_ns() - seconds * 10**9
    elif query.get("sinceTime"):
        since_ns = logs.parse_ns(query["sinceTime"].encode())
        if not since_ns:
            raise ValueError("sinceTime: invalid time")

    def flag(name: str) -> bool:
        return str(query.get(name, "")).lower() in ("1", "true", "t")

    stream = {"Stdout": "stdout", "Stderr": "stderr"}.get(query.get("stream", ""), "")
    return logs.LogOptions(flag("follow"), number("tailLines"), since_ns, flag("timestamps"), number("limitBytes"), stream)


def _load_self_signed(context: ssl.SSLContext, name: str, ips: tuple[str, ...]) -> None:
    """As upstream without --tls-cert-file: a certificate of our own, for this process's life."""
    pair = certs.issue(certs.new_ca(f"{name}-ca"), name, (), [name, *ips])
    fd = os.memfd_create("kubelet-pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, (pair.cert_pem + "\n" + pair.key_pem).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
