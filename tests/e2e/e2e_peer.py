"""Two ends that compare what they see of each other: TCP, UDP and ICMP. Run as text (`python -c`) in any network namespace.

    serve PORT [FAMILY…]       tells each client the address it comes from (TCP, UDP); remembers where echo requests came from.
                               FAMILY is 4 or 6, 4 if none is given. Lines on its stdin are questions, as the words behind `ask`
    ask HOST PORT [PROTOCOL…]  one line of JSON: for each protocol the own address and the one the server saw, or what went wrong;
                               `icmp_id` is the echo request's

Addresses with ports are `10.244.1.2:40000` and `[fd00::2]:40000`. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
import sys
import threading
from typing import Any, NamedTuple

TIMEOUT_S = 10.0
"""Linux asks for 3 s by ARP before it says that there is no such host: that answer must come first, on a busy machine too."""


class Family(NamedTuple):
    """What differs: Linux' numbers."""

    number: int
    level: int
    pktinfo: int
    recverr: int
    """Without it a socket that is not TCP's keeps a network that cannot be reached to itself."""
    icmp: int
    request: int
    reply: int
    unreachable: int
    header: bool
    """Whether a raw socket gives the IP header too."""


FAMILIES = {
    4: Family(socket.AF_INET, socket.IPPROTO_IP, 8, 11, socket.IPPROTO_ICMP, 8, 0, 3, True),
    6: Family(socket.AF_INET6, socket.IPPROTO_IPV6, 49, 25, socket.IPPROTO_ICMPV6, 128, 129, 1, False),
}


def family_of(host: str) -> Family:
    return FAMILIES[6 if ":" in host else 4]


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def text(address: tuple[Any, ...]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def message(packet: bytes, family: Family) -> bytes:
    """The ICMP message in what a raw socket gave."""
    return packet[(packet[0] & 15) * 4 :] if family.header else packet


class Server:
    """One family's three sockets."""

    def __init__(self, family: Family, port: int) -> None:
        self.family = family
        self.tcp, self.udp = socket.socket(family.number), socket.socket(family.number, socket.SOCK_DGRAM)
        self.raw = socket.socket(family.number, socket.SOCK_RAW, family.icmp)
        self.udp.setsockopt(family.level, family.pktinfo, 1)
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for s in (self.tcp, self.udp):
            if family.number == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.bind(("", port))
        self.tcp.listen()
        self.raw.setblocking(False)
        self.pinged: dict[bytes, str] = {}

    def hear_pings(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, peer = self.raw.recvfrom(2048)
                said = message(packet, self.family)
                if said[0] == self.family.request:
                    self.pinged[said[8:]] = peer[0]

    def from_same(self, level: int, kind: int, info: bytes) -> tuple[int, int, bytes]:
        """So that an answer comes from the address that was asked, by whatever interface leads back."""
        return level, kind, bytes(4) + info[4:] if self.family.header else info[:16] + bytes(4)

    def handle(self, ready: socket.socket) -> None:
        self.hear_pings()
        if ready is self.udp:
            _, ancillary, _, peer = self.udp.recvmsg(2048, 256)
            self.udp.sendmsg([text(peer).encode()], [self.from_same(*ancillary[0])], 0, peer)
        elif ready is self.tcp:
            connection, peer = self.tcp.accept()
            with connection:
                token = connection.recv(64)
                with contextlib.suppress(OSError):
                    connection.sendall((self.pinged.get(token) or text(peer)).encode())


def serve(port: int, families: list[int]) -> None:
    servers = {s: server for f in families for server in [Server(FAMILIES[f], port)] for s in (server.tcp, server.udp, server.raw)}
    print("ready", flush=True)
    threading.Thread(target=answer_questions, daemon=True).start()
    while True:
        for ready in select.select(list(servers), [], [])[0]:
            servers[ready].handle(ready)


def answer_questions() -> None:
    for line in sys.stdin:
        host, port, *protocols = line.split()
        print(json.dumps(ask(host, int(port), protocols)), flush=True)


def ask_tcp(host: str, port: int, token: bytes = b"tcp") -> list[str]:
    with socket.create_connection((host, port), TIMEOUT_S) as s:
        s.sendall(token)
        return [text(s.getsockname()), s.recv(64).decode()]


def ask_udp(host: str, port: int) -> list[str]:
    family = family_of(host)
    with socket.socket(family.number, socket.SOCK_DGRAM) as s:
        s.settimeout(TIMEOUT_S)
        s.setsockopt(family.level, family.recverr, 1)
        s.connect((host, port))
        s.send(b"udp")
        return [text(s.getsockname()), s.recv(64).decode()]


def ask_icmp(host: str, port: int, number: int) -> list[str]:
    family, token = family_of(host), os.urandom(16)
    body = struct.pack("!BBHHH", family.request, 0, 0, number, 1) + token
    packet = body[:2] + struct.pack("!H", checksum(body)) + body[4:]  # for IPv6 the kernel writes its own
    with socket.socket(family.number, socket.SOCK_RAW, family.icmp) as s:
        s.settimeout(TIMEOUT_S)
        s.setsockopt(family.level, family.recverr, 1)
        s.connect((host, 0))
        s.send(packet)
        while True:
            answer = message(s.recv(2048), family)
            if answer[0] == family.reply and answer[8:] == token:
                break
        return [s.getsockname()[0], ask_tcp(host, port, token)[1]]


PROTOCOLS = ("tcp", "udp", "icmp")


def ask(host: str, port: int, protocols: list[str]) -> dict[str, Any]:
    """Also listens to every ICMP error that comes while asking: [type, code, sender]."""
    found: dict[str, Any] = {}
    family = family_of(host)
    number = int.from_bytes(os.urandom(2), "big")  # a new one each time, so that connection tracking has a new entry
    with socket.socket(family.number, socket.SOCK_RAW, family.icmp) as errors:
        errors.settimeout(0)
        for name in protocols or PROTOCOLS:
            try:
                if name == "icmp":
                    found[name] = ask_icmp(host, port, number)
                    found["icmp_id"] = number
                else:
                    found[name] = ask_tcp(host, port) if name == "tcp" else ask_udp(host, port)
            except TimeoutError:
                found[name] = "timeout"
            except OSError as e:
                found[name] = errno.errorcode.get(e.errno or 0, str(e))
        seen = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, peer = errors.recvfrom(2048)
                said = message(packet, family)
                if said[0] == family.unreachable:
                    seen.add((said[0], said[1], peer[0]))
    return {**found, "unreachable": sorted(seen)}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), [int(f) for f in sys.argv[3:]] or [4])
    else:
        print(json.dumps(ask(sys.argv[2], int(sys.argv[3]), sys.argv[4:])))
