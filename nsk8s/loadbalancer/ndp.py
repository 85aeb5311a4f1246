"""Neighbour discovery for addresses that no interface has: what arp.py is for IPv4. Pure. Upstream: MetalLB's layer2 ndp
responder; RFC 4861, RFC 4291 2.7.1 (solicited-node groups), RFC 4443 2.3 (the checksum)."""

from __future__ import annotations

import array
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

ETH_P_IPV6 = 0x86DD
SOLICITATION, ADVERTISEMENT = 135, 136
UNSPECIFIED = "::"
ALL_NODES = "ff02::1"
SOLICITED, OVERRIDE = 0x40000000, 0x20000000
_SOURCE_LINK_ADDRESS, _TARGET_LINK_ADDRESS = 1, 2
_ICMPV6, _HOP_LIMIT = 58, 255
_ETHERNET, _IP, _MESSAGE = struct.Struct("!6s6sH"), struct.Struct("!IHBB16s16s"), struct.Struct("!BBHI16s")
_LENGTH = _ETHERNET.size + _IP.size + _MESSAGE.size


@dataclass(frozen=True)
class Solicitation:
    """Somebody asks who has `target`. Its address is "::" while it looks whether anybody has the one it wants for itself."""

    sender_mac: bytes
    sender_ip: str
    target: str


def checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """Of an ICMPv6 message whose own checksum is 0; 0 of one that is right."""
    data = source + destination + struct.pack("!IHBB", len(message), 0, 0, _ICMPV6) + message + bytes(len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame: bytes) -> Solicitation | None:
    """The neighbour solicitation in an Ethernet frame; None when it is something else, came over a router or is broken."""
    if len(frame) < _LENGTH:
        return None
    _, mac, ethertype = _ETHERNET.unpack_from(frame)
    _, length, protocol, hops, source, destination = _IP.unpack_from(frame, _ETHERNET.size)
    start = _ETHERNET.size + _IP.size
    message = frame[start : start + length]
    if (ethertype, protocol, hops) != (ETH_P_IPV6, _ICMPV6, _HOP_LIMIT) or length < _MESSAGE.size or len(message) < length:
        return None
    kind, code, _, _, target = _MESSAGE.unpack_from(message)
    if (kind, code) != (SOLICITATION, 0) or target[0] == 0xFF or checksum(source, destination, message):
        return None
    return Solicitation(mac, str(IPv6Address(source)), str(IPv6Address(target)))


def group(ip: str) -> str:
    """The solicited-node group in which an address is asked for: ff02::1:ff and its last 24 bits."""
    return str(IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + IPv6Address(ip).packed[13:]))


def _advertisement(mac: bytes, ip: str, to_mac: bytes, to_ip: str, flags: int) -> bytes:
    source, destination = IPv6Address(ip).packed, IPv6Address(to_ip).packed

    def message(check: int) -> bytes:
        return _MESSAGE.pack(ADVERTISEMENT, 0, check, flags, source) + bytes((_TARGET_LINK_ADDRESS, 1)) + mac

    body = message(checksum(source, destination, message(0)))
    header = _IP.pack(6 << 28, len(body), _ICMPV6, _HOP_LIMIT, source, destination)
    return _ETHERNET.pack(to_mac, mac, ETH_P_IPV6) + header + body


def answer(asked: Solicitation, ip: str, mac: bytes) -> bytes:
    """The frame that answers: `ip` is at `mac`. Who asks without an address is told together with everybody."""
    if asked.sender_ip == UNSPECIFIED:
        return unsolicited(ip, mac)
    return _advertisement(mac, ip, asked.sender_mac, asked.sender_ip, SOLICITED | OVERRIDE)


def unsolicited(ip: str, mac: bytes) -> bytes:
    """The frame that tells everybody, whatever they believed before."""
    return _advertisement(mac, ip, b"\x33\x33\x00\x00\x00\x01", ALL_NODES, OVERRIDE)


def solicitation(asked: Solicitation, to_mac: bytes, to_ip: str) -> bytes:
    """The frame with which somebody asks."""
    source, destination = IPv6Address(asked.sender_ip).packed, IPv6Address(to_ip).packed
    known = asked.sender_ip != UNSPECIFIED
    option = bytes((_SOURCE_LINK_ADDRESS, 1)) + asked.sender_mac if known else b""
    parts = (SOLICITATION, 0, 0, 0, IPv6Address(asked.target).packed)
    check = checksum(source, destination, _MESSAGE.pack(*parts) + option)
    body = _MESSAGE.pack(SOLICITATION, 0, check, 0, parts[-1]) + option
    header = _IP.pack(6 << 28, len(body), _ICMPV6, _HOP_LIMIT, source, destination)
    return _ETHERNET.pack(to_mac, asked.sender_mac, ETH_P_IPV6) + header + body


def packet_filter() -> array.array[int]:
    """A classic BPF program that lets a packet socket see neighbour solicitations only, and not all of a node's IPv6: pairs of
    32-bit numbers as the kernel's sock_filter has them (code and jumps, then the value)."""

    def op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    load_byte, is_equal, give = 0x30, 0x15, 0x06  # BPF_LD|B|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    program = (
        op(load_byte, 14 + 6) + op(is_equal, _ICMPV6, 0, 5)
        + op(load_byte, 14 + 7) + op(is_equal, _HOP_LIMIT, 0, 3)
        + op(load_byte, 14 + 40) + op(is_equal, SOLICITATION, 0, 1)
        + op(give, 0xFFFF) + op(give, 0)
    )  # fmt: skip
    return array.array("I", program)
