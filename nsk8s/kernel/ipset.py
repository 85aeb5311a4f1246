"""IP sets over netlink, in the current network namespace: make, fill, list, destroy. Touches: netlink (NETLINK_NETFILTER).

Upstream calls the program ipset for each entry. Entries are texts as that program prints them ("10.96.0.1,tcp:443").
Numbers are the kernel's (include/uapi/linux/netfilter/ipset/ip_set.h).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

from nsk8s.kernel import rtmsg as m
from nsk8s.kernel.nlbatch import Message, Netlink, raise_first
from nsk8s.net.ipvs import Entry, SetType

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 6
_CREATE, _DESTROY, _LIST, _ADD, _DEL, _TYPE = 2, 3, 7, 9, 10, 13
_PROTOCOL_VERSION = 6
_ATTR_PROTOCOL, _ATTR_SETNAME, _ATTR_TYPENAME, _ATTR_REVISION, _ATTR_FAMILY = 1, 2, 3, 4, 5
_ATTR_DATA, _ATTR_ADT = 7, 8
_DATA_IP, _DATA_CIDR, _DATA_PORT, _DATA_PORT_TO, _DATA_PROTO = 1, 3, 4, 5, 7
_DATA_MAXELEM, _DATA_IP2, _DATA_CIDR2 = 19, 20, 21
_IP4, _IP6 = 1, 2
_NET_BYTEORDER = 0x4000
_ERR_BUSY, _ERR_EXIST = 4100, 4103
"""A rule asks the set; the entry is there already, or is not."""
MAX_ELEMENTS = 65536
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_GENMSG = struct.Struct(">BBH")
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class IpSets:
    """A socket in the current network namespace."""

    def __init__(self) -> None:
        self._netlink = Netlink(_NETLINK_NETFILTER)
        self._revisions: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> IpSets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ensure(self, sets: Mapping[str, SetType]) -> None:
        """Make those that are not there. Raises OSError; EEXIST for a set of the name that is of another type."""
        for name, kind in sets.items():
            raise_first(self._netlink.execute([self._create(name, kind)], f"ipset create {name} {kind.type}"))

    def destroy(self, names: Iterable[str]) -> None:
        """Destroy sets; one that is not there is no matter. Raises OSError, also for one that a rule still asks."""
        names = list(names)
        for name, failure in zip(names, self._netlink.execute(_message(_DESTROY, name) for name in names), strict=True):
            if failure is not None and failure.errno != errno.ENOENT:
                why = "a rule asks it" if failure.errno == _ERR_BUSY else failure.strerror
                raise OSError(failure.errno, f"ipset destroy {name}: {why}")

    def add(self, entries: Iterable[Entry]) -> None:
        """Raises OSError, ENOENT without the set."""
        raise_first(self._netlink.execute((_entry(_ADD, e) for e in entries), "ipset add"), _ERR_EXIST)

    def delete(self, entries: Iterable[Entry]) -> None:
        raise_first(self._netlink.execute((_entry(_DEL, e) for e in entries), "ipset del"), _ERR_EXIST)

    def names(self) -> list[str]:
        """Every set of the namespace."""
        return sorted({name for name, _ in self._listed(b"")})

    def entries(self, name: str) -> list[str] | None:
        """What a set holds; None when there is no such set."""
        found = self._listed(m.attr_text(_ATTR_SETNAME, name))
        return [text for _, texts in found for text in texts] if found else None

    def _listed(self, which: bytes) -> list[tuple[str, list[str]]]:
        body = _GENMSG.pack(socket.AF_INET, 0, 0) + m.attr(_ATTR_PROTOCOL, bytes([_PROTOCOL_VERSION])) + which
        try:
            return [_parsed(answer) for answer in self._netlink.dump(_SUBSYSTEM << 8 | _LIST, body, "ipset list")]
        except FileNotFoundError:
            return []

    def _create(self, name: str, kind: SetType) -> Message:
        is_bitmap = kind.type.startswith("bitmap:")
        family = socket.AF_UNSPEC if is_bitmap else _FAMILIES[kind.family]
        data = _be16(_DATA_PORT, 0) + _be16(_DATA_PORT_TO, 65535) if is_bitmap else _be32(_DATA_MAXELEM, MAX_ELEMENTS)
        rest = (
            m.attr_text(_ATTR_TYPENAME, kind.type) + m.attr(_ATTR_REVISION, bytes([self._revision(kind.type, family)]))
            + m.attr(_ATTR_FAMILY, bytes([family])) + m.nested(_ATTR_DATA, data)
        )  # fmt: skip
        return _message(_CREATE, name, rest, m.NLM_F_CREATE)

    def _revision(self, kind: str, family: int) -> int:
        """The newest revision of a type that this kernel has. Raises OSError when it has none (and could load none)."""
        if (kind, family) not in self._revisions:
            body = (
                _GENMSG.pack(family, 0, 0) + m.attr(_ATTR_PROTOCOL, bytes([_PROTOCOL_VERSION]))
                + m.attr_text(_ATTR_TYPENAME, kind) + m.attr(_ATTR_FAMILY, bytes([family]))
            )  # fmt: skip
            answers = self._netlink.dump(_SUBSYSTEM << 8 | _TYPE, body, f"the kernel has no sets of type {kind}", m.NLM_F_ACK)
            self._revisions[kind, family] = dict(m.attrs(answers[0], 4))[_ATTR_REVISION][0]
        return self._revisions[kind, family]


def _message(command: int, name: str, rest: bytes = b"", flags: int = 0) -> Message:
    head = _GENMSG.pack(socket.AF_INET, 0, 0) + m.attr(_ATTR_PROTOCOL, bytes([_PROTOCOL_VERSION]))
    return _SUBSYSTEM << 8 | command, flags, head + m.attr_text(_ATTR_SETNAME, name) + rest


def _entry(command: int, entry: Entry) -> Message:
    # With NLM_F_EXCL an entry that is there, or is not, is an error of its own, which the caller passes over.
    return _message(command, entry.set, m.nested(_ATTR_DATA, _packed(entry.text)), m.NLM_F_EXCL)


@lru_cache(maxsize=1024)
def _packed(text: str) -> bytes:
    """An entry's attributes."""
    if text.isdigit():
        return _be16(_DATA_PORT, int(text))
    out, addresses = b"", 0
    for part in text.split(","):
        protocol, colon, port = part.partition(":")
        if colon and protocol in PROTOCOLS:
            out += m.attr(_DATA_PROTO, bytes([PROTOCOLS[protocol]])) + _be16(_DATA_PORT, int(port))
            continue
        ip, slash, length = part.partition("/")
        family, raw = m.pack_ip(ip)
        kind = (_IP6 if family == socket.AF_INET6 else _IP4) | _NET_BYTEORDER
        out += m.nested(_DATA_IP2 if addresses else _DATA_IP, m.attr(kind, raw))
        if slash:
            out += m.attr(_DATA_CIDR2 if addresses else _DATA_CIDR, bytes([int(length)]))
        addresses += 1
    return out


def _parsed(body: bytes) -> tuple[str, list[str]]:
    """(set, entries) of one message of a listing; a long set comes in several."""
    name, texts = "", []
    for kind, value in m.attrs(body, 4):
        if kind == _ATTR_SETNAME:
            name = value.rstrip(b"\0").decode()
        elif kind == _ATTR_ADT:
            texts = [_text(dict(m.attrs(data))) for _, data in m.attrs(value)]
    return name, texts


def _text(data: Mapping[int, bytes]) -> str:
    if _DATA_IP not in data:
        return str(struct.unpack(">H", data[_DATA_PORT])[0])
    parts = [_address(data, _DATA_IP, _DATA_CIDR)]
    if _DATA_PORT in data:
        number = data[_DATA_PROTO][0]
        parts.append(f"{_NAMES.get(number, number)}:{struct.unpack('>H', data[_DATA_PORT])[0]}")
    if _DATA_IP2 in data:
        parts.append(_address(data, _DATA_IP2, _DATA_CIDR2))
    return ",".join(parts)


def _address(data: Mapping[int, bytes], which: int, length: int) -> str:
    (raw,) = (value for _, value in m.attrs(data[which]))
    whole = len(raw) * 8
    bits = data[length][0] if length in data else whole
    return m.ip_text(raw) + (f"/{bits}" if bits != whole else "")


def _be16(kind: int, value: int) -> bytes:
    return m.attr(kind | _NET_BYTEORDER, struct.pack(">H", value))


def _be32(kind: int, value: int) -> bytes:
    return m.attr(kind | _NET_BYTEORDER, struct.pack(">I", value))
