"""Asking other name servers about names outside the cluster; only with `--forward`. Touches: sockets.

Upstream: CoreDNS' forward plugin.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

from dnslib import QTYPE, DNSQuestion, DNSRecord

from nsk8s.dns import wire
from nsk8s.dns.records import Answer, Name, Record

log = logging.getLogger("forward")

TIMEOUT_S = 2.0


class Forwarder:
    """The servers are asked in order until one answers."""

    def __init__(self, servers: Sequence[tuple[str, int]]) -> None:
        self._servers = tuple(servers)

    async def ask(self, query: bytes, *, tcp: bool) -> bytes | None:
        """The reply to a raw query, with the query's own id; None if no server answers."""
        ident = secrets.token_bytes(2)
        for host, port in self._servers:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    reply = await (_ask_tcp if tcp else _ask_udp)(host, port, ident + query[2:])
                return query[:2] + reply[2:]
            except (TimeoutError, OSError, asyncio.IncompleteReadError) as e:
                log.warning("%s port %d: %s", host, port, e or type(e).__name__)
        return None

    async def resolve(self, name: Name, kind: str) -> Answer | None:
        """What the other servers say about a name: CNAMEs and addresses; None if none of them answers sensibly."""
        query = DNSRecord(q=DNSQuestion(wire.label(name), getattr(QTYPE, kind)))
        raw = await self.ask(bytes(query.pack()), tcp=False)
        if raw is None:
            return None
        try:
            reply = DNSRecord.parse(raw)
        except Exception as e:  # dnslib lets many kinds through
            log.warning("unreadable reply about %s: %s", ".".join(name), e)
            return None
        answer = Answer(reply.header.rcode, authoritative=False)
        for rr in reply.rr:
            record = _record(rr)
            if record is not None:
                answer.answers.append(record)
        return answer


def _record(rr: object) -> Record | None:
    kind = QTYPE[rr.rtype]  # type: ignore[attr-defined]
    name = _name(rr.rname)  # type: ignore[attr-defined]
    ttl = int(rr.ttl)  # type: ignore[attr-defined]
    if kind in ("A", "AAAA"):
        return Record(name, kind, (str(rr.rdata),), ttl)  # type: ignore[attr-defined]
    if kind == "CNAME":
        return Record(name, kind, (_name(rr.rdata.label),), ttl)  # type: ignore[attr-defined]
    return None


def _name(label: object) -> Name:
    return tuple(part.decode("latin-1") for part in label.label)  # type: ignore[attr-defined]


class _OneReply(asyncio.DatagramProtocol):
    def __init__(self, ident: bytes, reply: asyncio.Future[bytes]) -> None:
        self._ident = ident
        self._reply = reply

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data[:2] == self._ident and len(data) >= 12 and not self._reply.done():
            self._reply.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._reply.done():
            self._reply.set_exception(exc)


async def _ask_udp(host: str, port: int, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _OneReply(query[:2], reply), remote_addr=(host, port))
    try:
        transport.sendto(query)
        return await reply
    finally:
        transport.close()


async def _ask_tcp(host: str, port: int, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(len(query).to_bytes(2) + query)
        await writer.drain()
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    finally:
        writer.close()
