"""Port 53: UDP and TCP. Upstream: CoreDNS' dnsserver. Touches: sockets, randomness, clock."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Sequence
from typing import cast

from dnslib import DNSRecord

from nsk8s.dns import records, wire
from nsk8s.dns.chain import Asked, Chain, Reply, asked, chain_for, lower, then
from nsk8s.dns.metrics import DROPPED, Metrics, Told
from nsk8s.dns.records import Name
from nsk8s.dns.settings import Block
from nsk8s.dns.view import View
from nsk8s.dns.wire import MAX_TCP_SIZE
from nsk8s.errors import Nsk8sError

log = logging.getLogger("dns")

TCP_IDLE_TIMEOUT_S = 10.0
MAX_TCP_CONNECTIONS = 512
RECEIVE_BUFFER = 1 << 20

Client = tuple[str, int]
"""Address and port."""


class DNSServer:
    """Answers from a view, and what is not the cluster's business from other servers, if there are any."""

    def __init__(self, view: View, metrics: Metrics, blocks: Sequence[Block] = (Block(kubernetes=True),)) -> None:
        self._transports: list[asyncio.DatagramTransport] = []
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.StreamWriter] = set()
        self.looped = asyncio.Event()
        """What was forwarded came back: `loop` says how."""
        self.loop = ""
        self._probes: dict[Name, str] = {}
        self.use(view, metrics, blocks)

    def use(self, view: View, metrics: Metrics, blocks: Sequence[Block]) -> None:
        """From now on."""
        self._metrics = metrics
        self._responder = wire.Responder(view, random.shuffle, recursion=any(block.forward for block in blocks))
        self._chains = [Chain(block, self._responder, self._elsewhere) for block in blocks]

    def seek_loops(self) -> None:
        """Where the plugin loop is on: forward a question that nobody else asks. CoreDNS asks itself the same way."""
        self._probes.clear()
        for chain in self._chains:
            if "loop" not in chain.block.plugins or not chain.block.forward:
                continue
            zone = chain.zones[0]
            name = (str(random.getrandbits(63)), str(random.getrandbits(63)), *zone)
            self._probes[name] = ".".join(zone) + "."
            data = bytes(DNSRecord.question(".".join(name), "HINFO").pack())
            reply = chain.ask(asked(wire.parse(data), data, tcp=False))
            if not isinstance(reply, bytes):
                self.keep(asyncio.ensure_future(_forgotten(reply)))

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

    def handle(self, data: bytes, client: Client, *, tcp: bool) -> Reply:
        """The reply (empty: none), or a future of it where another server has to be asked."""
        started = time.perf_counter()
        ipv6 = ":" in client[0]
        known = self._responder.cached(data, tcp=tcp)
        if known is not None:
            raw, kind, zone = known
            size = MAX_TCP_SIZE if tcp else len(data)
            seconds = time.perf_counter() - started
            self._metrics.query(Told(kind, zone, tcp, ipv6, raw[3] & 0xF, size, len(raw), seconds, plugin="kubernetes"))
            return raw
        try:
            query = wire.parse(data)
        except wire.Rejected as e:
            if e.reply:
                seconds = time.perf_counter() - started
                self._metrics.query(Told("other", DROPPED, tcp, ipv6, e.rcode, len(data), len(e.reply), seconds))
            return e.reply
        if self._probes and query.question.type == "HINFO" and lower(query.question.name) in self._probes:
            name, where = lower(query.question.name), f"{client[0]}:{client[1]}"
            self.loop = f'Loop ({where}) detected for zone "{self._probes[name]}". Query: "HINFO {".".join(name)}."'
            self.looped.set()
        about = asked(query, data, tcp=tcp)
        found = chain_for(self._chains, lower(query.question.name))
        if found is None:
            raw = wire.pack(query, records.Answer(records.REFUSED, authoritative=False), about.limit)
            self._told(about, raw, client, DROPPED, started)
            return raw
        chain, labels = found
        zone = ".".join(labels) + "."
        reply = chain.ask(about)

        def told(raw: bytes) -> bytes:
            self._told(about, raw, client, zone, started)
            if chain.block.log:
                from nsk8s.dns import querylog

                size = query.udp_size if not tcp else MAX_TCP_SIZE
                said = querylog.line(
                    querylog.Exchange(
                        client[0], client[1], data, raw, query.question.name, query.question.type, tcp, query.do, size,
                        time.perf_counter() - started,
                    ),
                    chain.block.log,
                )  # fmt: skip
                if said:
                    print(said, flush=True)
            return raw

        if isinstance(reply, bytes) and about.plugin == "kubernetes" and not chain.block.log:
            self._responder.keep(data, reply, query.question.type, zone, tcp=tcp)
        return then(reply, told)

    def _told(self, about: Asked, raw: bytes, client: Client, zone: str, started: float) -> None:
        size = MAX_TCP_SIZE if about.tcp else about.query.udp_size
        seconds = time.perf_counter() - started
        kind, ipv6, rcode = about.query.question.type, ":" in client[0], raw[3] & 0xF
        self._metrics.query(Told(kind, zone, about.tcp, ipv6, rcode, size, len(raw), seconds, about.query.do, about.plugin))

    def _elsewhere(self, about: Asked) -> Reply:
        found = chain_for(self._chains, lower(about.query.question.name))
        if found is None:
            return wire.pack(about.query, records.Answer(records.REFUSED, authoritative=False), about.limit)
        return found[0].ask(about)

    def keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries one after the other until the client hangs up, falls silent or talks nonsense."""
        if len(self._connections) >= MAX_TCP_CONNECTIONS:
            writer.close()
            return
        self._connections.add(writer)
        client = (writer.get_extra_info("peername") or ("", 0))[:2]
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_TIMEOUT_S):
                    size = int.from_bytes(await reader.readexactly(2))
                    data = await reader.readexactly(size)
                reply = self.handle(data, client, tcp=True)
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


async def _forgotten(reply: asyncio.Future[bytes]) -> None:
    await reply


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
        reply = self._server.handle(data, addr, tcp=False)
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
