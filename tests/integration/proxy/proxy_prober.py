"""Opens connections and tells what became of each; or watches what arrives. Runs inside a namespace, orders are JSON lines on stdin.

{"ask": [[protocol, address, port, source address or "", source port or none], …], "timeout_s": 1} → [[answer, source port], …] with the answers
"NAME client-ip", "reject" (an ICMP port unreachable came), "refused" (a reset or ABORT came), "timeout", or the error's name. SCTP is
spoken on raw sockets (tests/raw_sctp.py).
{"watch": "eth0"} → "watching", and from then on {"seen": true} → [[protocol number, destination, port, source port, source], …]
of what arrived there.
"""

import contextlib
import errno
import json
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import raw_sctp
from patience import PATIENCE

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": 132}
Packet = tuple[int, str, int, int]


def transport(raw: bytes) -> tuple[Packet, str] | None:
    """(protocol, destination, destination port, source port) of an IP packet, and its source."""
    try:
        if raw[0] >> 4 == 4:
            protocol, family, src, dst, rest = raw[9], socket.AF_INET, raw[12:16], raw[16:20], raw[(raw[0] & 15) * 4 :]
        else:
            protocol, family, src, dst, rest = raw[6], socket.AF_INET6, raw[8:24], raw[24:40], raw[40:]
        if protocol not in PROTOCOLS.values():
            return None
        sport, dport = struct.unpack_from(">HH", rest)
        return (protocol, socket.inet_ntop(family, dst), dport, sport), socket.inet_ntop(family, src)
    except (IndexError, struct.error, ValueError):
        return None


def unreachables(sockets: list[socket.socket]) -> set[Packet]:
    """The packets of ours that were answered with "port unreachable"."""
    found = set()
    for s in sockets:
        while True:
            try:
                raw = s.recv(2048)
            except BlockingIOError:
                break
            if s.family == socket.AF_INET:
                raw = raw[(raw[0] & 15) * 4 :]
                wanted = (3, 3)
            else:
                wanted = (1, 4)
            if len(raw) > 8 and (raw[0], raw[1]) == wanted:
                inner = transport(raw[8:])
                if inner:
                    found.add(inner[0])
    return found


def ask(flows: list, timeout_s: float) -> list:
    icmp = []
    for family, protocol in ((socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_INET6, 58)):
        s = socket.socket(family, socket.SOCK_RAW, protocol)
        s.setsockopt(socket.SOL_SOCKET, raw_sctp.SO_RCVBUFFORCE, 4 << 20)
        s.setblocking(False)
        icmp.append(s)
    selector = selectors.DefaultSelector()
    answers: list = [["timeout", 0] for _ in flows]
    keys: dict[int, Packet] = {}
    waiting = 0
    associations = Associations(selector)
    for i, (protocol, address, port, source, *own) in enumerate(flows):
        if protocol == "sctp":
            sport = associations.begin(i, address, port, source, *own)
            answers[i] = ["timeout", sport]
            keys[i] = (PROTOCOLS[protocol], address, port, sport)
            waiting += 1
            continue
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        s = socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM, PROTOCOLS[protocol])
        s.setblocking(False)
        try:
            if source or own:
                s.bind((source, *(own or (0,))))
            code = s.connect_ex((address, port))
            sport = s.getsockname()[1]
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "")
            answers[i] = ["timeout", sport]
            keys[i] = (PROTOCOLS[protocol], address, port, sport)
            if protocol == "udp":
                s.send(b"x")
        except PermissionError:  # how the kernel tells who sent it that its own rules stopped a datagram
            s.close()
            continue
        except OSError as e:
            answers[i] = [errno.errorcode.get(e.errno, str(e)), 0]
            s.close()
            continue
        selector.register(s, selectors.EVENT_READ, i)
        waiting += 1
    deadline = time.monotonic() + PATIENCE * timeout_s
    while waiting and time.monotonic() < deadline:
        for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
            s, i = key.fileobj, key.data
            if isinstance(s, raw_sctp.Wire):
                for i, answer in associations.hear(s):
                    answers[i][0] = answer
                    waiting -= 1
                continue
            try:
                answers[i][0] = s.recv(100).decode() or "closed"
            except BlockingIOError:
                continue
            except OSError as e:
                answers[i][0] = "refused" if e.errno == errno.ECONNREFUSED else errno.errorcode.get(e.errno, str(e))
            selector.unregister(s)
            s.close()
            waiting -= 1
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    rejected = unreachables(icmp)
    for i, packet in keys.items():
        if answers[i][0] in ("refused", "timeout") and packet in rejected:
            answers[i][0] = "reject"
    for s in icmp:
        s.close()
    return answers


class Associations:
    """The SCTP connections of one question, on one socket a family."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._wires: dict[int, raw_sctp.Wire] = {}
        self._open: dict[int, tuple[int, raw_sctp.Association]] = {}
        """Our port → (the flow's number, the association)."""

    def begin(self, flow: int, address: str, port: int, source: str, own: int = 0) -> int:
        """The source port."""
        family = raw_sctp.family_of(address)
        if family not in self._wires:
            self._wires[family] = raw_sctp.Wire(family)
            self._selector.register(self._wires[family], selectors.EVENT_READ)
        association = raw_sctp.Association(self._wires[family], address, port, source, own)
        while association.source in self._open:
            association.source += 1
        self._open[association.source] = flow, association
        with contextlib.suppress(PermissionError):  # dropped by this machine's own rules
            association.begin()
        return association.source

    def hear(self, wire: raw_sctp.Wire) -> list[tuple[int, str]]:
        """(flow, answer) of those that have one now."""
        found = []
        for heard in wire.heard():
            flow, association = self._open.get(heard.ports[1], (-1, None))
            if association is None or not association.is_for(heard):
                continue
            known = association.answer
            association.hear(heard)
            if association.answer and not known:
                found.append((flow, association.answer))
        return found


class Watch:
    """What came to an interface, kept by the kernel until it is asked for."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.socket.bind((interface, 3))
        self.socket.setsockopt(socket.SOL_SOCKET, raw_sctp.SO_RCVBUFFORCE, 16 << 20)
        self.socket.setblocking(False)
        self.seen: set[tuple[int, str, int, int, str]] = set()

    def read(self) -> None:
        while True:
            try:
                raw, where = self.socket.recvfrom(256)
            except BlockingIOError:
                return
            if where[2] == 0:  # PACKET_HOST: it came to this machine
                found = transport(raw)
                if found:
                    self.seen.add((*found[0], found[1]))


def main() -> None:
    watch = None
    for line in sys.stdin:
        order = json.loads(line)
        if "watch" in order:
            watch = Watch(order["watch"])
            print(json.dumps("watching"), flush=True)
        elif "seen" in order:
            watch.read()
            print(json.dumps(sorted(watch.seen)), flush=True)
        else:
            print(json.dumps(ask(order["ask"], order["timeout_s"])), flush=True)


main()
