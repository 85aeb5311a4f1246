"""Answers ARP and neighbour discovery on one interface for addresses that it does not have. Touches: packet sockets, multicast
groups. Upstream: MetalLB's internal/layer2 (announcer, arp, ndp)."""

from __future__ import annotations

import array
import asyncio
import logging
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from nsk8s.errors import Nsk8sError
from nsk8s.loadbalancer import arp, ndp
from nsk8s.loadbalancer.services import family

log = logging.getLogger("speaker")

SPAM_PERIOD_S, SPAM_TIMES = 1.1, 5
"""After taking an address over, as MetalLB: hosts keep an ARP entry for a second at least before they believe another."""
REMINDER_S = 10.0
"""Then so often: a node that was cut off and is back must be believed again, though nothing changed in its own view."""
_SO_ATTACH_FILTER = 26


class _Responder(Protocol):
    """One family's. `held` are the addresses to answer for."""

    socket: socket.socket
    held: set[str]

    def answer(self, frame: bytes) -> bytes | None:
        """What is to be sent in return."""

    def unsolicited(self, ip: str) -> list[bytes]:
        """What tells everybody."""

    def joined(self) -> None:
        """`held` has changed."""

    def close(self) -> None: ...


def _packet_socket(interface: str, ethertype: int, program: array.array[int] | None = None) -> socket.socket:
    """Hears nothing until it is bound, and by then has its BPF program: of a node's traffic it is shown only what it is for."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        if program is not None:
            address, numbers = program.buffer_info()
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", numbers // 2, address))
        made.bind((interface, ethertype))
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


class _Arp:
    def __init__(self, interface: str) -> None:
        self.socket = _packet_socket(interface, arp.ETH_P_ARP)
        self._mac: bytes = self.socket.getsockname()[4]
        self.held: set[str] = set()

    def answer(self, frame: bytes) -> bytes | None:
        asked = arp.parse(frame)
        if asked is None or asked.operation != arp.REQUEST or asked.target_ip not in self.held or asked.sender_mac == self._mac:
            return None
        return arp.answer(asked, asked.target_ip, self._mac)

    def unsolicited(self, ip: str) -> list[bytes]:
        return arp.gratuitous(ip, self._mac)

    def joined(self) -> None:
        pass

    def close(self) -> None:
        self.socket.close()


class _Ndp:
    def __init__(self, interface: str) -> None:
        self.socket = _packet_socket(interface, ndp.ETH_P_IPV6, ndp.packet_filter())
        self._index = socket.if_nametoindex(interface)
        self._mac: bytes = self.socket.getsockname()[4]
        self._member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        """In the groups in which the addresses are asked for, so that the card and switches let the questions through."""
        self._groups: set[str] = set()
        self.held: set[str] = set()

    def answer(self, frame: bytes) -> bytes | None:
        asked = ndp.parse(frame)
        if asked is None or asked.target not in self.held or asked.sender_mac == self._mac:
            return None
        return ndp.answer(asked, asked.target, self._mac)

    def unsolicited(self, ip: str) -> list[bytes]:
        return [ndp.unsolicited(ip, self._mac)]

    def joined(self) -> None:
        wanted = {ndp.group(ip) for ip in self.held}
        for option, groups in (
            (socket.IPV6_LEAVE_GROUP, self._groups - wanted),
            (socket.IPV6_JOIN_GROUP, wanted - self._groups),
        ):
            for group in groups:
                try:
                    self._member.setsockopt(
                        socket.IPPROTO_IPV6, option, socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", self._index)
                    )
                except OSError as e:  # a switch that filters multicast would not let the questions through
                    log.warning("NDP: the multicast group %s: %s", group, e.strerror)
        self._groups = wanted

    def close(self) -> None:
        self.socket.close()
        self._member.close()


class Announcer:
    """Answers on one interface for the addresses it was told. `families` of IPv4 and IPv6 are those it may be told of."""

    def __init__(self, interface: str, families: Iterable[str] = ("IPv4", "IPv6")) -> None:
        self._responders: dict[str, _Responder] = {}
        for each in families:
            make, protocol = (_Ndp, "neighbour discovery") if each == "IPv6" else (_Arp, "ARP")
            try:
                self._responders[each] = make(interface)
            except OSError as e:
                why = f"cannot answer {protocol} on {interface}: {e.strerror}"
                raise Nsk8sError(why, "--interface names the node's own") from e
        self._next: dict[str, tuple[float, int]] = {}
        """Address → (loop time of the next unsolicited word, how many were sent)."""

    def addresses(self) -> set[str]:
        return set(self._next)

    def announce(self, ip: str) -> None:
        self._next[ip] = (0.0, 0)
        self._hold(self._responders[family(ip)], ip)

    def withdraw(self, ip: str) -> None:
        self._next.pop(ip, None)
        self._hold(self._responders[family(ip)])

    def _hold(self, responder: _Responder, *more: str) -> None:
        responder.held = {ip for ip in (*responder.held, *more) if ip in self._next}
        responder.joined()

    async def run(self) -> None:
        """Answer, and remind everybody from time to time. Cancel to stop."""
        loop = asyncio.get_running_loop()
        for responder in self._responders.values():
            loop.add_reader(responder.socket.fileno(), self._read, responder)
        try:
            while True:
                self.remind(loop.time())
                await asyncio.sleep(SPAM_PERIOD_S)
        finally:
            for responder in self._responders.values():
                loop.remove_reader(responder.socket.fileno())
                responder.close()

    def remind(self, now: float) -> None:
        """Say what is due of gratuitous ARPs and unsolicited advertisements."""
        for ip, (due, sent) in self._next.items():
            if now >= due:
                responder = self._responders[family(ip)]
                for frame in responder.unsolicited(ip):
                    _send(responder, frame)
                self._next[ip] = (now + (SPAM_PERIOD_S * 0.9 if sent < SPAM_TIMES else REMINDER_S), sent + 1)

    def _read(self, responder: _Responder) -> None:
        while True:
            try:
                answer = responder.answer(responder.socket.recv(2048))
            except BlockingIOError:
                return
            except OSError as e:  # the interface went down
                log.warning("%s", e.strerror)
                return
            if answer is not None:
                _send(responder, answer)


def _send(responder: _Responder, frame: bytes) -> None:
    with suppress(OSError):  # the interface is down: nobody is there to hear it
        responder.socket.send(frame)
