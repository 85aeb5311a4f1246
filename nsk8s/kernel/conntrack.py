"""Conntrack entries over raw netlink: list UDP's, delete some. Touches: netlink (NETLINK_NETFILTER).

Upstream uses vishvananda/netlink for the same. Numbers are the kernel's (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Container, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from nsk8s.kernel import rtmsg as m

_NETLINK_NETFILTER = 12
_CT_GET, _CT_DELETE = 1 << 8 | 1, 1 << 8 | 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS, _FILTER_F_PROTO_NUM = 1, 1 << 3
_HEADER = struct.Struct("=IHHII")
_PORT = struct.Struct(">H")
_GENMSG = struct.Struct(">BBH")
_BATCH = 100
_DPORT_HEADER = struct.pack("=HH", 6, _DST_PORT)
_DPORT_AT = {socket.AF_INET: 48, socket.AF_INET6: 72}
"""Where the kernel puts the original destination port (ctnetlink_dump_tuples); without that header there, all is read."""


class Flow(NamedTuple):
    """One conntrack entry. `dst` and `dport` are where the client sent it, `reply_src` and `reply_sport` who answers."""

    src: str
    sport: int
    dst: str
    dport: int
    reply_src: str
    reply_sport: int
    protocol: int
    key: bytes
    """The attributes that name this entry, as the kernel sent them."""


class Conntrack:
    """A socket in the current network namespace."""

    def __init__(self, ipv6: bool = False) -> None:
        self._family = socket.AF_INET6 if ipv6 else socket.AF_INET
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._seq = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flows(self, protocol: int = socket.IPPROTO_UDP, ports: Container[int] | None = None) -> list[Flow]:
        """The entries of a protocol, filtered by the kernel (5.8 and newer) or here; only those sent to one of `ports`, if given.

        Of others the port alone is read: there may be hundreds of thousands.
        """
        proto = m.nested(_TUPLE_PROTO, m.attr(_PROTO_NUM, bytes([protocol])))
        wanted = m.nested(_TUPLE_ORIG, proto) + m.nested(_FILTER, m.attr_u32(_FILTER_ORIG_FLAGS, _FILTER_F_PROTO_NUM))
        try:
            bodies = self._dump(wanted, ports)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            bodies = self._dump(b"", ports)
        flows = [f for f in map(_flow, bodies) if f is not None and f.protocol == protocol]
        return flows if ports is None else [f for f in flows if f.dport in ports]

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete entries; returns how many were still there."""
        deleted, batch = 0, list[Flow]()
        for flow in flows:
            batch.append(flow)
            if len(batch) == _BATCH:
                deleted += self._delete(batch)
                batch.clear()
        return deleted + (self._delete(batch) if batch else 0)

    def _message(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._seq = (self._seq + 1) & 0x7FFFFFFF
        body = _GENMSG.pack(self._family, 0, 0) + payload
        return _HEADER.pack(16 + len(body), kind, flags | m.NLM_F_REQUEST, self._seq, 0) + body

    def _dump(self, payload: bytes, ports: Container[int] | None) -> list[bytes]:
        """The bodies of a dump, without those that were surely sent to other ports."""
        self._socket.send(self._message(_CT_GET, m.NLM_F_DUMP, payload))
        bodies: list[bytes] = []
        at = _DPORT_AT[self._family]
        while True:
            for kind, _, seq, body in m.split(self._socket.recv(1 << 17)):
                if seq != self._seq:
                    continue
                if kind == m.NLMSG_DONE:
                    return bodies
                if kind == m.NLMSG_ERROR:
                    _check(body, "list")
                    return bodies
                if ports is None or body[at : at + 4] != _DPORT_HEADER or _PORT.unpack_from(body, at + 4)[0] in ports:
                    bodies.append(body)

    def _delete(self, batch: list[Flow]) -> int:
        self._socket.send(b"".join(self._message(_CT_DELETE, m.NLM_F_ACK, f.key) for f in batch))
        deleted = waiting = 0
        waiting = len(batch)
        while waiting:
            for kind, _, _, body in m.split(self._socket.recv(1 << 17)):
                if kind != m.NLMSG_ERROR:
                    continue
                waiting -= 1
                try:
                    _check(body, "delete")
                except FileNotFoundError:
                    continue  # it ended by itself
                deleted += 1
        return deleted


def _check(body: bytes, what: str) -> None:
    code = -struct.unpack_from("=i", body)[0]
    if code:
        raise OSError(code, f"{os.strerror(code)} ({what} conntrack entries)")


def _flow(body: bytes) -> Flow | None:
    """The entry in a message body (after nfgenmsg)."""
    orig = reply = None
    key = b""
    for kind, value in m.attrs(body, 4):
        if kind == _TUPLE_ORIG:
            orig = _tuple(value)
            key += m.nested(_TUPLE_ORIG, value)
        elif kind == _TUPLE_REPLY:
            reply = _tuple(value)
        elif kind in (_ID, _ZONE):
            key += m.attr(kind, value)
    if orig is None or reply is None:
        return None
    src, dst, sport, dport, protocol = orig
    return Flow(src, sport, dst, dport, reply[0], reply[2], protocol, key)


def _tuple(data: bytes) -> tuple[str, str, int, int, int]:
    """(source, destination, source port, destination port, protocol)."""
    src = dst = ""
    sport = dport = protocol = 0
    for kind, value in m.attrs(data):
        if kind == _TUPLE_IP:
            for which, raw in m.attrs(value):
                if which in (1, 3):
                    src = str(ip_address(raw))
                elif which in (2, 4):
                    dst = str(ip_address(raw))
        elif kind == _TUPLE_PROTO:
            for which, raw in m.attrs(value):
                if which == _PROTO_NUM:
                    protocol = raw[0]
                elif which == _SRC_PORT:
                    sport = _PORT.unpack(raw)[0]
                elif which == _DST_PORT:
                    dport = _PORT.unpack(raw)[0]
    return src, dst, sport, dport, protocol
