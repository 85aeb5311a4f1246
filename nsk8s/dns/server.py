"""Port 53: UDP and TCP. Upstream: CoreDNS' dnsserver. Touches: sockets, randomness, clock."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Sequence
from typing import cast

from nsk8s.dns import records, wire
from nsk8s.dns.forward import Forwarder
from nsk8s.dns.metrics import Metrics
from nsk8s.dns.view import View
from nsk8s.errors import Nsk8sError

log = logging.getLogger("dns")

TCP_IDLE_TIMEOUT_S = 10.0
MAX_TCP_CONNECTIONS = 512
RECEIVE_BUFFER = 1 << 20


class DNSServer:
    """Answers from a view, and what is not the cluster's business from other servers, if there are any."""

    def __init__(
        self, view: View, metrics: Metrics, forward: Sequence[tuple[str, Sequence[tuple[str, int]]]] = (),
        fallthrough: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`forward`: (zone, servers), the zone "" being everything else; `fallthrough`: see `corefile.Settings`."""
        self._view = view
        self._metrics = metrics
        # The longest zone that fits is the one that counts.
        ordered = sorted(((records.labels(zone), Forwarder(servers)) for zone, servers in forward), key=lambda f: -len(f[0]))
        self._forwarders = ordered
        self._fallthrough = [records.labels(zone) for zone in fallthrough]
        self._responder = wire.Responder(view, random.shuffle, recursion=bool(forward))
        self._transports: list[asyncio.DatagramTransport] = []
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self, addresses: Sequence[str], port: int) -> int:
        """Bind UDP and TCP on every address; returns the port (that was found, for 0). Raises Nsk8sError."""
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                listener = await asyncio.start_server(self._serve_tcp, address, port, backlog=128)
                self._listeners.append(listener)
                port = listener.sockets[0].getsockname()[1]
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=_udp_socket(address, port))
            except OSError as e:
                raise Nsk8sError(f"cannot listen on {address} port {port}: {e.strerror or e}") from e
            self._transports.append(transport)
        return port

    async def stop(self) -> None:
        for transport in self._transports:
            transport.close()
        for listener in self._listeners:
            listener.close()
        for writer in list(self._connections):
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def handle(self, data: bytes, *, tcp: bool) -> bytes | asyncio.Future[bytes]:
        """The reply (empty: none), or a future of it where another server has to be asked."""
        started = time.perf_counter()
        known = self._responder.cached(data, tcp=tcp)
        if known is not None:
            self._metrics.query("cached", tcp, known[3] & 0xF, time.perf_counter() - started)
            return known
        try:
            query = wire.parse(data)
        except wire.Rejected as e:
            if e.reply:
                self._metrics.query("other", tcp, e.rcode, time.perf_counter() - started)
            return e.reply
        name = _lower(query.question.name)
        if self._forwarders and (records.zone_of(name, self._view) is None or self._is_stub(name)):
            forwarder = self._forwarder_of(name)
            if forwarder is not None:
                return asyncio.ensure_future(self._forward(forwarder, data, query, tcp))
        answer = self._responder.answer(query)
        if self._forwarders and answer.unresolved is not None:
            forwarder = self._forwarder_of(_lower(answer.unresolved))
            if forwarder is not None:
                return asyncio.ensure_future(self._finish(forwarder, query, answer, tcp))
        if self._forwarders and self._falls_through(name, answer):
            forwarder = self._forwarder_of(name)
            if forwarder is not None:
                return asyncio.ensure_future(self._forward(forwarder, data, query, tcp))
        reply = self._responder.reply(data, query, answer, tcp=tcp)
        self._metrics.query(query.question.type, tcp, answer.rcode, time.perf_counter() - started)
        return reply

    def _forwarder_of(self, name: records.Name) -> Forwarder | None:
        return next((f for zone, f in self._forwarders if name[len(name) - len(zone) :] == zone), None)

    def _is_stub(self, name: records.Name) -> bool:
        """Whether a zone of its own inside the cluster's is asked elsewhere."""
        own = records.zone_of(name, self._view) or ()
        return any(len(zone) > len(own) and name[len(name) - len(zone) :] == zone for zone, _ in self._forwarders)

    def _falls_through(self, name: records.Name, answer: records.Answer) -> bool:
        """As CoreDNS: only a name that does not exist is asked for elsewhere."""
        if answer.rcode != records.NXDOMAIN:
            return False
        return any(name[len(name) - len(zone) :] == zone for zone in self._fallthrough)

    async def _forward(self, forwarder: Forwarder, data: bytes, query: wire.Query, tcp: bool) -> bytes:
        started = time.perf_counter()
        raw = await forwarder.ask(data, tcp=tcp)
        if raw is None:
            raw = wire.pack(query, records.Answer(records.SERVFAIL, authoritative=False), query.udp_size, recursion=True)
        self._metrics.query(query.question.type, tcp, raw[3] & 0xF, time.perf_counter() - started)
        return raw

    async def _finish(self, forwarder: Forwarder, query: wire.Query, answer: records.Answer, tcp: bool) -> bytes:
        """Go on outside where a chain of CNAMEs leaves the cluster."""
        assert answer.unresolved is not None
        found = await forwarder.resolve(answer.unresolved, query.question.type)
        if found is None:
            answer = records.Answer(records.SERVFAIL, authoritative=False)
        else:
            answer.answers += found.answers
            answer.rcode = found.rcode
            answer.authority = []
        limit = wire.MAX_TCP_SIZE if tcp else query.udp_size
        return wire.pack(query, answer, limit, recursion=True)

    def keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries one after the other until the client hangs up, falls silent or talks nonsense."""
        if len(self._connections) >= MAX_TCP_CONNECTIONS:
            writer.close()
            return
        self._connections.add(writer)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_TIMEOUT_S):
                    size = int.from_bytes(await reader.readexactly(2))
                    data = await reader.readexactly(size)
                reply = self.handle(data, tcp=True)
                raw = reply if isinstance(reply, bytes) else await reply
                if not raw:
                    return
                writer.write(len(raw).to_bytes(2) + raw)
                async with asyncio.timeout(TCP_IDLE_TIMEOUT_S):
                    await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            return
        finally:
            self._connections.discard(writer)
            writer.close()


def _lower(name: records.Name) -> records.Name:
    return tuple(label.lower() for label in name)


def _udp_socket(address: str, port: int) -> socket.socket:
    """Bound and not blocking; `::` leaves IPv4 to a socket of its own, as asyncio's TCP listeners do."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DNSServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.handle(data, tcp=False)
        if isinstance(reply, bytes):
            self._send(reply, addr)
        else:
            self._server.keep(asyncio.ensure_future(self._send_later(reply, addr)))

    async def _send_later(self, reply: asyncio.Future[bytes], addr: tuple[str, int]) -> None:
        self._send(await reply, addr)

    def _send(self, reply: bytes, addr: tuple[str, int]) -> None:
        if reply and self._transport is not None:
            self._transport.sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("udp: %s", exc)  # an ICMP error from a client that has gone
