"""/healthz, /livez, /metrics, and Services' health check node ports. Upstream: pkg/proxy/healthcheck. Touches: TCP servers."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from nsk8s.proxy.metrics import Metrics

log = logging.getLogger("health")

Answer = tuple[int, str, str]
"""Status code, content type, body."""
RETRY_S = 5.0


class ProxyHealth:
    """Whether syncs keep up: in each family, the oldest change that is not yet in the rules is younger than `timeout_s`. Pure.

    A family whose first sync is still to come is healthy, as upstream: the proxy is starting.
    """

    def __init__(self, timeout_s: float, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._timeout_s = timeout_s
        self._now = now
        self._pending: dict[str, datetime] = {}  # family → when its oldest change came
        self._updated: dict[str, datetime] = {}
        self.node_eligible = True
        """False while the node is being deleted: load balancers then look elsewhere (/healthz only)."""

    def queued(self, family: str) -> None:
        self._pending.setdefault(family, self._now())

    def updated(self, family: str) -> None:
        """The rules hold everything that was queued before the sync began."""
        self.nothing_to_do(family)
        self._updated[family] = self._now()

    def nothing_to_do(self, family: str) -> None:
        """What was queued changes no rule of this family."""
        self._pending.pop(family, None)

    def _keeps_up(self, family: str) -> bool:
        pending = self._pending.get(family)
        return pending is None or (self._now() - pending).total_seconds() < self._timeout_s

    @property
    def healthy(self) -> bool:
        return all(map(self._keeps_up, self._updated))

    def body(self, *, with_node: bool) -> str:
        """What /healthz says, and /livez without the node."""
        now, healthy = self._now(), self.healthy
        good = healthy and (self.node_eligible or not with_node)
        shown = {
            "lastUpdated": _stamp(now if good else max(self._updated.values(), default=now)),
            "currentTime": _stamp(now),
            **({"nodeEligible": self.node_eligible} if with_node else {}),
            "healthy": healthy,
            "status": {f: {"lastUpdated": _stamp(t), "healthy": self._keeps_up(f)} for f, t in sorted(self._updated.items())},
        }
        return json.dumps({k: v for k, v in shown.items() if v != {}})


def _stamp(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def healthz(health: ProxyHealth, metrics: Metrics) -> Answer:
    code = 200 if health.healthy and health.node_eligible else 503
    metrics.inc("proxy_healthz_total", code=str(code))
    return code, "application/json", health.body(with_node=True)


def livez(health: ProxyHealth, metrics: Metrics) -> Answer:
    code = 200 if health.healthy else 503
    metrics.inc("proxy_livez_total", code=str(code))
    return code, "application/json", health.body(with_node=False)


NOSNIFF = {"X-Content-Type-Options": "nosniff"}


class HttpServer:
    """GET on a few paths, one answer a connection: enough for probes and scrapes, and a fraction of a web framework's memory."""

    def __init__(self, answer: Callable[[str], Answer | None], headers: Callable[[], Mapping[str, str]] = dict) -> None:
        """`answer(path)` gives the response, None for 404."""
        self._answer = answer
        self._headers = headers
        self._servers: list[asyncio.Server] = []

    async def listen(self, host: str, port: int, *, both: bool = True) -> None:
        """Raises OSError when the address is taken. `::` takes IPv4 as well, as in Go, unless `both` is False."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = both and host == "::" and socket.has_dualstack_ipv6()
        sock = socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=both)
        try:
            sock.setblocking(False)
            self._servers.append(await asyncio.start_server(self._serve, sock=sock))
        except OSError:
            sock.close()
            raise

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._respond(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _respond(self, head: bytes) -> bytes:
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            code, kind, body = 400, "text/plain", "not HTTP/1.1\n"
        elif parts[0] not in ("GET", "HEAD"):
            code, kind, body = 405, "text/plain", "only GET\n"
        else:
            code, kind, body = self._answer(parts[1].partition("?")[0]) or (404, "text/plain", "404 page not found\n")
        raw = body.encode()
        reason = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}.get(code, "Service Unavailable")
        lines = [f"HTTP/1.1 {code} {reason}", f"Content-Type: {kind}", f"Content-Length: {len(raw)}", "Connection: close"]
        lines += [f"{k}: {v}" for k, v in self._headers().items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if parts[0] == "HEAD" else raw)


async def serve(name: str, server: HttpServer, host: str, port: int, hard_fail: bool = False) -> None:
    """Listen for ever, trying again every 5 s while the address is taken (unless `hard_fail`). Cancel to stop."""
    try:
        while True:
            try:
                await server.listen(host, port)
                await asyncio.Event().wait()
            except OSError as e:
                if hard_fail:
                    raise
                log.error("%s: cannot listen on %s:%d: %s", name, host, port, e.strerror or e)
            await asyncio.sleep(RETRY_S)
    finally:
        await server.close()


Listening = tuple[int, tuple[str, ...]]
"""A port and the addresses it is open on; "0.0.0.0" and "::" are every address of their family."""


class ServiceHealth:
    """One server for each Service with a health check node port: 200 while this node has a ready endpoint of it."""

    def __init__(self, health: ProxyHealth, failed: Callable[[str, str], None] = lambda service, message: None) -> None:
        """`failed(service, message)` is told of a port that cannot be opened; the next sync tries again."""
        self._health, self._failed = health, failed
        self._open: dict[str, Listening] = {}
        self._local: dict[str, int] = {}
        self._servers: dict[str, HttpServer] = {}

    async def sync(self, wanted: Mapping[str, Listening], local: Mapping[str, int]) -> None:
        """`wanted`: Service → where it is asked. `local`: Service → how many distinct local ready addresses it has."""
        self._local = dict(local)
        for service, listening in list(self._open.items()):
            if wanted.get(service) != listening:
                await self._servers.pop(service).close()
                del self._open[service]
        for service, listening in wanted.items():
            if service not in self._open:
                await self._listen(service, listening)

    async def _listen(self, service: str, listening: Listening) -> None:
        def count() -> int:
            return self._local.get(service, 0)

        def answer(_: str) -> Answer:
            namespace, _, name = service.partition("/")
            body = {
                "service": {"namespace": namespace, "name": name},
                "localEndpoints": count(),
                "serviceProxyHealthy": self._health.healthy,
            }
            return (200 if count() and self._health.healthy else 503), "application/json", json.dumps(body, indent="\t")

        server = HttpServer(answer, lambda: {**NOSNIFF, "X-Load-Balancing-Endpoint-Weight": str(count())})
        port, addresses = listening
        try:
            for address in addresses:
                await server.listen(address, port, both=False)
        except OSError as e:
            log.error("health check node port %d of %s: %s", port, service, e.strerror or e)
            self._failed(service, f"failed to start healthcheck {service!r} on port {port}: {e.strerror or e}")
            await server.close()
            return
        self._servers[service], self._open[service] = server, listening

    async def close(self) -> None:
        await self.sync({}, {})
