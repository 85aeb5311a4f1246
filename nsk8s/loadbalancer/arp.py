"""ARP packets for addresses that no interface has. Pure. Upstream: MetalLB's layer2 arp responder; RFC 826, RFC 5227."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

ETH_P_ARP = 0x0806
BROADCAST = b"\xff" * 6
REQUEST, REPLY = 1, 2
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")


@dataclass(frozen=True)
class Arp:
    """An ARP packet for IPv4 over Ethernet."""

    operation: int
    sender_mac: bytes
    sender_ip: str
    target_mac: bytes
    target_ip: str


def parse(frame: bytes) -> Arp | None:
    """The ARP packet in an Ethernet frame; None when it is something else or cut off."""
    if len(frame) < _FRAME.size:
        return None
    _, _, ethertype, hardware, protocol, hlen, plen, operation, smac, sip, tmac, tip = _FRAME.unpack_from(frame)
    if (ethertype, hardware, protocol, hlen, plen) != (ETH_P_ARP, 1, 0x0800, 6, 4):
        return None
    return Arp(operation, smac, str(IPv4Address(sip)), tmac, str(IPv4Address(tip)))


def frame(to: bytes, arp: Arp) -> bytes:
    """An Ethernet frame from the packet's sender to the MAC `to`."""
    return _FRAME.pack(
        to, arp.sender_mac, ETH_P_ARP, 1, 0x0800, 6, 4, arp.operation,
        arp.sender_mac, IPv4Address(arp.sender_ip).packed, arp.target_mac, IPv4Address(arp.target_ip).packed,
    )  # fmt: skip


def answer(asked: Arp, ip: str, mac: bytes) -> bytes:
    """The frame that answers a request: `ip` is at `mac`."""
    return frame(asked.sender_mac, Arp(REPLY, mac, ip, asked.sender_mac, asked.sender_ip))


def gratuitous(ip: str, mac: bytes) -> list[bytes]:
    """The frames that tell everybody, in both forms that hosts understand."""
    return [frame(BROADCAST, Arp(operation, mac, ip, BROADCAST, ip)) for operation in (REQUEST, REPLY)]
