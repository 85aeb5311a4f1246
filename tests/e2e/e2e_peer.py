"""Two ends that compare what they see of each other: TCP, UDP and ICMP. Run as text (`python -c`) in any network namespace.

    serve PORT                 tells each client the address it comes from (TCP, UDP); remembers where echo requests came from
    ask HOST PORT [PROTOCOL…]  one line of JSON: for each protocol the own address and the one the server saw, or what went wrong

Standard library only.
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
from typing import Any

TIMEOUT_S = 4.0
ECHO_REQUEST, ECHO_REPLY, UNREACHABLE = 8, 0, 3

IP_PKTINFO, IP_RECVERR = 8, 11
"""Linux' numbers. Without the second a socket that is not TCP's keeps a network that cannot be reached to itself."""


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def text(address: tuple[Any, ...]) -> str:
    return f"{address[0]}:{address[1]}"


def serve(port: int) -> None:
    tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("", port))
    tcp.listen()
    udp.bind(("", port))
    raw.setblocking(False)
    pinged: dict[bytes, str] = {}

    def hear_pings() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, peer = raw.recvfrom(2048)
                header = (packet[0] & 15) * 4
                if packet[header] == ECHO_REQUEST:
                    pinged[packet[header + 8 :]] = peer[0]

    print("ready", flush=True)
    while True:
        for ready in select.select([tcp, udp, raw], [], [])[0]:
            hear_pings()
            if ready is udp:
                _, ancillary, _, peer = udp.recvmsg(2048, 256)
                udp.sendmsg([text(peer).encode()], ancillary, 0, peer)  # from the address that was asked
            elif ready is tcp:
                connection, peer = tcp.accept()
                with connection:
                    token = connection.recv(64)
                    with contextlib.suppress(OSError):
                        connection.sendall((pinged.get(token) or text(peer)).encode())


def ask_tcp(host: str, port: int, token: bytes = b"tcp") -> list[str]:
    with socket.create_connection((host, port), TIMEOUT_S) as s:
        s.sendall(token)
        return [text(s.getsockname()), s.recv(64).decode()]


def ask_udp(host: str, port: int) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(TIMEOUT_S)
        s.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        s.connect((host, port))
        s.send(b"udp")
        return [text(s.getsockname()), s.recv(64).decode()]


def ask_icmp(host: str, port: int) -> list[str]:
    token = os.urandom(16)
    body = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, os.getpid() & 0xFFFF, 1) + token
    packet = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(TIMEOUT_S)
        s.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        s.connect((host, 0))
        s.send(packet)
        while True:
            answer = s.recv(2048)
            header = (answer[0] & 15) * 4
            if answer[header] == ECHO_REPLY and answer[header + 8 :] == token:
                break
        return [s.getsockname()[0], ask_tcp(host, port, token)[1]]


ASK = {"tcp": ask_tcp, "udp": ask_udp, "icmp": ask_icmp}


def ask(host: str, port: int, protocols: list[str]) -> None:
    """Also listens to every ICMP error that comes while asking: [type, code, sender]."""
    found: dict[str, Any] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as errors:
        errors.settimeout(0)
        for name in protocols or list(ASK):
            try:
                found[name] = ASK[name](host, port)
            except TimeoutError:
                found[name] = "timeout"
            except OSError as e:
                found[name] = errno.errorcode.get(e.errno or 0, str(e))
        seen = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, peer = errors.recvfrom(2048)
                header = (packet[0] & 15) * 4
                if packet[header] == UNREACHABLE:
                    seen.add((packet[header], packet[header + 1], peer[0]))
    print(json.dumps({**found, "unreachable": sorted(seen)}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
