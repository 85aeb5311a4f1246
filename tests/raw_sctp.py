"""A small SCTP speaker on raw IP sockets (RFC 9260): real packets with real checksums, also where the kernel has no SCTP sockets.

An association is opened (INIT, INIT ACK with a cookie, COOKIE ECHO, COOKIE ACK), the server says one message (DATA, SACK), and it is
shut down. Whoever receives a packet checks its CRC32c, which NAT must have made anew; a wrong one is told of and not answered.
`raw_sctp.py serve NAME PORT…` answers "NAME client-ip"; `raw_sctp.py ask ADDRESS PORT [SOURCE]` prints what came back, or
`refused` (an ABORT), `checksum` or `timeout`. Runs inside a namespace, without the project.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

PROTOCOL = 132
DATA, INIT, INIT_ACK, SACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE = (
    0, 1, 2, 3, 6, 7, 8, 10, 11, 14)  # fmt: skip
STATE_COOKIE = 7
SO_RCVBUFFORCE = 33
"""Of socket(7): beyond net.core.rmem_max."""
_IP_PKTINFO = 8
AGAIN_S = 0.2
"""RTO.Initial is a second; nobody here is that far away."""
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _crc_table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Chunk(NamedTuple):
    kind: int
    flags: int
    value: bytes


class Packet(NamedTuple):
    source: int
    destination: int
    tag: int
    chunks: tuple[Chunk, ...]


def encode(packet: Packet) -> bytes:
    body = b"".join(
        struct.pack(">BBH", c.kind, c.flags, 4 + len(c.value)) + c.value + bytes(-len(c.value) % 4) for c in packet.chunks
    )
    ports = struct.pack(">HHI", packet.source, packet.destination, packet.tag)
    return ports + struct.pack("<I", crc32c(ports + bytes(4) + body)) + body


def decode(raw: bytes) -> Packet | None:
    """None: its checksum is wrong. Raises struct.error when it is cut off."""
    source, destination, tag = struct.unpack_from(">HHI", raw)
    (crc,) = struct.unpack_from("<I", raw, 8)
    if crc != crc32c(raw[:8] + bytes(4) + raw[12:]):
        return None
    return Packet(source, destination, tag, tuple(_chunks(raw[12:])))


def _chunks(raw: bytes) -> Iterator[Chunk]:
    while len(raw) >= 4:
        kind, flags, length = struct.unpack_from(">BBH", raw)
        yield Chunk(kind, flags, raw[4 : max(4, length)])
        raw = raw[max(4, length + -length % 4) :]


def init(kind: int, tag: int, tsn: int, cookie: bytes = b"") -> Chunk:
    """INIT or INIT ACK: our tag, a window, one stream each way, our first TSN; the cookie's parameter."""
    parameter = struct.pack(">HH", STATE_COOKIE, 4 + len(cookie)) + cookie if cookie else b""
    return Chunk(kind, 0, struct.pack(">IIHHI", tag, 65535, 1, 1, tsn) + parameter)


class Heard(NamedTuple):
    packet: Packet | None
    peer: str
    own: str
    """The address it was sent to."""
    ports: tuple[int, int]
    """Source and destination, also of a packet that is broken."""


class Wire:
    """One family's raw socket. While it is open, the kernel does not answer "protocol unreachable" by itself."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.socket = socket.socket(family, socket.SOCK_RAW, PROTOCOL)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)  # a reader may be held up
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def send(self, packet: Packet, to: str, own: str = "") -> None:
        """Raises PermissionError when a rule of this machine's own drops it."""
        control = []
        if own and self.family == socket.AF_INET:
            control = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i", 0) + socket.inet_aton(own) + bytes(4))]
        elif own:
            info = socket.inet_pton(socket.AF_INET6, own) + struct.pack("=i", 0)
            control = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
        self.socket.sendmsg([encode(packet)], control, 0, (to, 0))

    def heard(self) -> Iterator[Heard]:
        """What has come since."""
        while True:
            try:
                raw, control, _, peer = self.socket.recvmsg(4096, 128)
            except BlockingIOError:
                return
            own = ""
            if self.family == socket.AF_INET:
                own, raw = socket.inet_ntoa(raw[16:20]), raw[(raw[0] & 15) * 4 :]
            for level, kind, value in control:
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                    own = socket.inet_ntop(socket.AF_INET6, value[:16])
            try:
                yield Heard(decode(raw), peer[0], own, struct.unpack_from(">HH", raw))
            except struct.error:
                continue


class Server:
    """Answers NAME and the client's address on some ports; says ABORT on the others, as a kernel would."""

    def __init__(self, name: str, ports: set[int]) -> None:
        self._name = name
        self._ports = ports
        self.wires = [Wire(f) for f in FAMILIES]
        self._peers: dict[tuple[str, int, int], int] = {}
        """(client, its port, our tag) → its tag."""

    def read(self, wire: Wire) -> None:
        for heard in wire.heard():
            if heard.packet is None:
                print(f"SCTP {heard.peer} > {heard.own} {heard.ports}: wrong CRC32c", file=sys.stderr, flush=True)
                continue
            for chunk in heard.packet.chunks:
                try:
                    self._answer(wire, heard, heard.packet, chunk)
                except (OSError, struct.error):
                    continue

    def _answer(self, wire: Wire, heard: Heard, asked: Packet, chunk: Chunk) -> None:
        def send(tag: int, *chunks: Chunk) -> None:
            wire.send(Packet(asked.destination, asked.source, tag, chunks), heard.peer, heard.own)

        who = (heard.peer, asked.source, asked.tag)
        if chunk.kind == INIT:
            (theirs,) = struct.unpack_from(">I", chunk.value)
            if asked.destination not in self._ports:
                send(theirs, Chunk(ABORT, 0, b""))
                return
            # Of what asks: an INIT that is sent again is answered alike, for conntrack remembers the last answer's tag.
            ours = crc32c(f"{heard.peer} {asked.source} {theirs}".encode()) or 1
            tsn = ours ^ theirs
            send(theirs, init(INIT_ACK, ours, tsn, struct.pack(">III", ours, theirs, tsn)))
        elif chunk.kind == COOKIE_ECHO and asked.destination in self._ports:
            ours, theirs, tsn = struct.unpack(">III", chunk.value)
            if asked.tag == ours:
                self._peers[who] = theirs
                text = f"{self._name} {heard.peer}".encode()
                send(theirs, Chunk(COOKIE_ACK, 0, b""), Chunk(DATA, 3, struct.pack(">IHHI", tsn, 0, 0, 0) + text))
        elif chunk.kind == SHUTDOWN and who in self._peers:
            send(self._peers[who], Chunk(SHUTDOWN_ACK, 0, b""))
        elif chunk.kind == SHUTDOWN_COMPLETE:
            self._peers.pop(who, None)


class Association:
    """A client's. `answer` is what the server said, once it is known; nothing more comes or goes when it `is_over`."""

    def __init__(self, wire: Wire, address: str, port: int, own: str = "", source: int = 0) -> None:
        self._wire = wire
        self.address, self.port, self._own = address, port, own
        self.source = source or random.randrange(32768, 61000)
        self._tag, self._tsn, self._theirs = random.randrange(1, 2**32), random.randrange(2**32), 0
        self.answer = ""
        self.is_over = False

    @property
    def is_open(self) -> bool:
        return bool(self._theirs)

    def begin(self) -> None:
        self._send(0, init(INIT, self._tag, self._tsn))

    def _send(self, tag: int, *chunks: Chunk) -> None:
        self._wire.send(Packet(self.source, self.port, tag, chunks), self.address, self._own)

    def is_for(self, heard: Heard) -> bool:
        return heard.peer == self.address and heard.ports == (self.port, self.source)

    def hear(self, heard: Heard) -> None:
        if heard.packet is None:
            self.answer, self.is_over = "checksum", True
            return
        if heard.packet.tag != self._tag:
            return
        for chunk in heard.packet.chunks:
            if chunk.kind == INIT_ACK and not self.is_open:
                self._theirs, length = struct.unpack_from(">I", chunk.value)[0], struct.unpack_from(">H", chunk.value, 18)[0]
                self._send(self._theirs, Chunk(COOKIE_ECHO, 0, chunk.value[20 : 16 + length]))
            elif chunk.kind == ABORT:
                self.answer, self.is_over = "refused", True
            elif chunk.kind == DATA:
                self.answer = chunk.value[12:].decode()
                tsn = chunk.value[:4]
                self._send(self._theirs, Chunk(SACK, 0, tsn + struct.pack(">IHH", 65535, 0, 0)))
                self._send(self._theirs, Chunk(SHUTDOWN, 0, tsn))
            elif chunk.kind == SHUTDOWN_ACK:
                self._send(self._theirs, Chunk(SHUTDOWN_COMPLETE, 0, b""))
                self.is_over = True


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def ask(address: str, port: int, own: str = "", source: int = 0, *, timeout_s: float) -> str:
    """What the server said, once the shutdown is over too. An INIT that nothing came of is sent again every AGAIN_S."""
    wire = Wire(family_of(address))
    association = Association(wire, address, port, own, source)
    started = time.monotonic()
    deadline, again = started + timeout_s, started
    with selectors.DefaultSelector() as selector:
        selector.register(wire, selectors.EVENT_READ)
        while not association.is_over and (now := time.monotonic()) < deadline:
            if now >= again and not association.is_open:
                association.begin()
                again = now + AGAIN_S
            if not selector.select(max(0.0, (deadline if association.is_open else min(deadline, again)) - now)):
                continue
            for heard in wire.heard():
                if association.is_for(heard):
                    association.hear(heard)
    wire.close()
    return association.answer or "timeout"


def serve(name: str, *ports: str) -> None:
    server = Server(name, set(map(int, ports)))
    handlers: dict[int, Callable[[], None]] = {w.fileno(): lambda w=w: server.read(w) for w in server.wires}  # type: ignore[misc]
    selector = selectors.DefaultSelector()
    for fd in handlers:
        selector.register(fd, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            handlers[key.fd]()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        print(ask(sys.argv[2], int(sys.argv[3]), *sys.argv[4:5], timeout_s=20))
