"""Asking other name servers about names outside the cluster; only where that is configured. Touches: sockets.

Upstream: CoreDNS' forward plugin.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

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
                log.warning("%s port %d: %s", host, port, str(e) or type(e).__name__)
        return None


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
