"""userspace mode's sockets: one that listens for each service port; what comes is carried to an endpoint and back.

Touches: sockets, the clock, the limit of open files. Upstream (until 1.25): pkg/proxy/userspace/proxysocket.go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import socket
from collections.abc import Callable

from nsk8s.proxy.endpoints import Endpoint

log = logging.getLogger("proxier")

DIAL_TIMEOUTS_S = (0.25, 0.5, 1.0, 2.0)
"""How long each of so many endpoints is tried."""
BACKLOG = 512
CHUNK = 65536

_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
"""linux/in.h, linux/in6.h"""
_ANCILLARY = socket.CMSG_SPACE(20)

Ancillary = list[tuple[int, int, bytes]]
NextEndpoint = Callable[[str, bool], Endpoint | None]
"""(client's address, whether the last one did not answer) → whose turn it is."""


def bind(protocol: str, port: int = 0, *, ipv6: bool = False) -> socket.socket:
    """A socket on every address, one that listens if it is TCP; any port without `port`. Raises OSError."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    try:
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(("", port))
        if protocol == "tcp":
            sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class Sockets:
    """Where the sockets of one family come from; `ports` are those to listen on, any if it is empty."""

    def __init__(self, ipv6: bool, udp_idle_s: float, ports: range = range(0)) -> None:
        self._ipv6, self._udp_idle_s, self._ports = ipv6, udp_idle_s, ports

    async def listen(self, protocol: str, next_endpoint: NextEndpoint) -> TcpProxy | UdpProxy:
        """Proxy what comes to a port from now on. Raises OSError."""
        sock = self._bind_any(protocol)
        proxy = TcpProxy(sock, next_endpoint) if protocol == "tcp" else UdpProxy(sock, next_endpoint, self._udp_idle_s)
        await proxy.start()
        return proxy

    def claim(self, protocol: str, port: int) -> socket.socket:
        """Take a node port, so that nobody else on the node does; rules keep everything from it. Raises OSError."""
        return bind(protocol, port, ipv6=self._ipv6)

    def outward_address(self) -> str:
        """The node's address on its way out; empty if there is no way. Nothing is sent."""
        with socket.socket(socket.AF_INET6 if self._ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect(("2001:db8::1" if self._ipv6 else "192.0.2.1", 9))
            except OSError:
                return ""
            return str(sock.getsockname()[0])

    def _bind_any(self, protocol: str) -> socket.socket:
        if not self._ports:
            return bind(protocol, ipv6=self._ipv6)
        for number in random.sample(self._ports, len(self._ports)):
            with contextlib.suppress(OSError):
                return bind(protocol, number, ipv6=self._ipv6)
        raise OSError(errno.EADDRINUSE, f"no port is free from {self._ports[0]} to {self._ports[-1]}")


class TcpProxy:
    """Accepts, dials an endpoint, copies both ways. Closed, it lets the connections that there are go on."""

    def __init__(self, sock: socket.socket, next_endpoint: NextEndpoint) -> None:
        self.port = int(sock.getsockname()[1])
        self._sock = sock
        self._next = next_endpoint
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, sock=self._sock, backlog=BACKLOG)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = None
        try:
            client = writer.get_extra_info("peername")  # none of one that has reset the connection already
            onward = await self._dial(client[0]) if client else None
            if onward is None:
                return  # the client sees a connection that closes at once: upstream's way of saying that nobody serves
            copies = [asyncio.ensure_future(_copy(reader, onward[1])), asyncio.ensure_future(_copy(onward[0], writer))]
            done, left = await asyncio.wait(copies, return_when=asyncio.FIRST_EXCEPTION)
            for task in left:  # one side was reset: so is the other
                task.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            if any(task.exception() for task in done):
                writer.transport.abort()
        except OSError as e:
            log.debug("a proxied connection failed: %s", e)
        finally:
            writer.close()
            if onward is not None:
                onward[1].close()

    async def _dial(self, client: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        afresh = False
        for timeout_s in DIAL_TIMEOUTS_S:
            endpoint = self._next(client, afresh)
            if endpoint is None:
                return None
            try:
                return await asyncio.wait_for(asyncio.open_connection(endpoint.ip, endpoint.port), timeout_s)
            except (OSError, TimeoutError) as e:
                log.debug("endpoint %s: %s", endpoint, e or "no answer")
                afresh = True
        return None


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Until the end; an end is passed on, the other direction goes on."""
    while data := await source.read(CHUNK):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()


class UdpProxy:
    """A socket towards an endpoint for each client, until nothing came or went for `idle_s`. Closed, it forgets them all."""

    def __init__(self, sock: socket.socket, next_endpoint: NextEndpoint, idle_s: float) -> None:
        self.port = int(sock.getsockname()[1])
        self._sock = sock
        self._next = next_endpoint
        self._idle_s = idle_s
        self._clients: dict[tuple[str, int], _UdpClient] = {}

    async def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._received)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        for client in list(self._clients.values()):
            client.close()
        self._sock.close()

    def _received(self) -> None:
        for _ in range(64):  # others have their turn too
            try:
                data, ancillary, _, address = self._sock.recvmsg(CHUNK, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError as e:
                log.debug("UDP: %s", e)
                return
            self._forward(data, address, answer_from(ancillary))

    def _forward(self, data: bytes, address: tuple[str, int], answers: Ancillary) -> None:
        client = self._clients.get(address)
        if client is None:
            endpoint = self._next(address[0], False)
            if endpoint is None:
                return
            try:
                client = _UdpClient(self._sock, address, answers, endpoint, self._idle_s, self._clients)
            except OSError as e:
                log.error("UDP to %s: %s", endpoint, e)
                return
        client.send(data)


def answer_from(ancillary: Ancillary) -> Ancillary:
    """What sends an answer from the address that a datagram came to: conntrack undoes the redirection of no other. Pure."""
    for level, kind, body in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return [(level, kind, bytes(4) + body[4:8] + bytes(4))]  # by whatever interface leads there
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return [(level, kind, body)]  # a redirected one may have come to a link-local address: that needs the interface
    return []


class _UdpClient:
    """One client's way to its endpoint."""

    def __init__(
        self, front: socket.socket, address: tuple[str, int], answers: Ancillary, endpoint: Endpoint, idle_s: float,
        held: dict[tuple[str, int], _UdpClient],
    ) -> None:  # fmt: skip
        self._front, self._address, self._answers, self._idle_s, self._held = front, address, answers, idle_s, held
        self._loop = asyncio.get_running_loop()
        self._back = socket.socket(front.family, socket.SOCK_DGRAM)
        try:
            self._back.setblocking(False)
            self._back.connect((endpoint.ip, endpoint.port))
        except OSError:
            self._back.close()
            raise
        self._loop.add_reader(self._back.fileno(), self._answered)
        held[address] = self
        self._last = self._loop.time()
        self._timer = self._loop.call_later(idle_s, self._look)

    def send(self, data: bytes) -> None:
        self._last = self._loop.time()
        try:
            self._back.send(data)
        except BlockingIOError:
            return  # a datagram that finds no room is lost, as on any way
        except OSError as e:
            self._failed(e)

    def _answered(self) -> None:
        try:
            data = self._back.recv(CHUNK)
            self._last = self._loop.time()
            self._front.sendmsg([data], self._answers, 0, self._address)
        except BlockingIOError:
            return
        except OSError as e:
            self._failed(e)

    def _failed(self, error: OSError) -> None:
        """The endpoint refuses (its ICMP message came): the client's next datagram goes to another."""
        if error.errno != errno.ECONNREFUSED:
            log.debug("UDP for %s: %s", self._address[0], error)
        self.close()

    def _look(self) -> None:
        left = self._last + self._idle_s - self._loop.time()
        if left <= 0:
            self.close()
        else:
            self._timer = self._loop.call_later(left, self._look)

    def close(self) -> None:
        self._timer.cancel()
        if self._held.get(self._address) is self:
            del self._held[self._address]
            self._loop.remove_reader(self._back.fileno())
            self._back.close()
