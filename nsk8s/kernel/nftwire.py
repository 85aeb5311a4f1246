"""nft scripts as netlink messages, for the few lines that a small change of Services is made of. Pure, but for `Channel`.

The `nft` program first asks the kernel for every chain and set of the table: at 10,000 services that is most of the tenth of a
second that one changed endpoint takes. What is written here is what nft would write but for the names of anonymous maps, so `nft
list` shows the same; a script with any other line is left to nft.
Numbers are the kernel's (include/uapi/linux/netfilter/nf_tables.h).
"""

from __future__ import annotations

import itertools
import os
import random
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address, ip_network

from nsk8s.kernel import rtmsg as m

_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 16, 17
_SUBSYS = 10
_NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSET, _NEWSETELEM, _DELSETELEM = (_SUBSYS << 8 | n for n in (3, 5, 6, 8, 9, 12, 14))
_GOTO, _JUMP, _DROP = struct.pack(">i", -4), struct.pack(">i", -3), struct.pack(">i", 0)
_HEADER = struct.Struct("=IHHII")
_FAMILIES = {"ip": socket.AF_INET, "ip6": socket.AF_INET6}
_OFFSETS = {("ip", "saddr"): 12, ("ip", "daddr"): 16, ("ip6", "saddr"): 8, ("ip6", "daddr"): 24}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_MAP_USERDATA = bytes.fromhex("00040100000001040000000004080004010000000100060400000000")
"""libnftnl's notes on a map of numbers to verdicts: keys in host order, made by an expression."""
_map_numbers = itertools.count(random.randrange(1 << 24, 1 << 30))
"""In the names of anonymous maps, which nobody sees. nft leaves the choice to the kernel ("__map%d"), which for that reads the
names of all sets in the table, and names a set where its number in the transaction does: together a millisecond of fifteen at
10,000 services. The kernel's own are far lower. Were one taken after all (by another kube-proxy in this place that began near
by), the transaction would fail, and the full sync that comes after it is written by nft."""
_TIMEOUT_S = 30.0
LONGEST = 100_000
"""Scripts beyond this are not small changes."""

_LINE = re.compile(r"(add|flush|delete) (chain|rule|element) (ip6?) (\S+) (\S+)(?: (.*))?")
_TO = re.compile(r"(jump|goto) (\S+)")
_FROM = re.compile(r"(ip6?) saddr (\S+) (jump|goto) (\S+)")
_ENTRY = re.compile(r"(ip6?) daddr (\S+) ip6? saddr != (\S+) (jump|goto) (\S+)")
_DNAT = re.compile(r"meta l4proto (tcp|udp|sctp) dnat to \[?([0-9a-f.:]+?)\]?:(\d+)")
_NUMGEN = re.compile(r"numgen random mod (\d+) vmap \{ (.*) \}")
_KEY = re.compile(r'\{ (?:([0-9a-f.:]+) \. )?(tcp|udp|sctp) \. (\d+)(?: comment "([^"]*)")? : (drop|goto \S+) \}')
_ADDRESS = re.compile(r"\{ ([0-9a-f.:]+) \}")


class Unknown(Exception):
    """A line that is left to nft."""


def encode(script: str) -> list[tuple[str, bytes]] | None:
    """(line, its messages without sequence numbers) of a script; None when it is not for this module."""
    if len(script) > LONGEST:
        return None
    encoder = _Encoder()
    try:
        return [(line, encoder.line(line)) for line in script.splitlines()]
    except Unknown:
        return None


def _u32(value: int) -> bytes:
    return struct.pack(">I", value)


def _expression(name: str, *data: bytes) -> bytes:
    return m.nested(1, m.attr_text(1, name), m.nested(2, *data))


def _load(family: str, field: str, length: int) -> bytes:
    offset = _OFFSETS[family, field]
    return _expression("payload", m.attr(1, _u32(1)), m.attr(2, _u32(1)), m.attr(3, _u32(offset)), m.attr(4, _u32(length)))


def _compare(raw: bytes, *, unequal: bool = False) -> bytes:
    return _expression("cmp", m.attr(1, _u32(1)), m.attr(2, _u32(int(unequal))), m.nested(3, m.attr(1, raw)))


def _verdict(how: str, to: str = "") -> bytes:
    if how == "drop":
        return m.nested(2, m.attr(1, _DROP))
    return m.nested(2, m.attr(1, _GOTO if how == "goto" else _JUMP), m.attr_text(2, to))


def _immediate(register: int, *data: bytes) -> bytes:
    return _expression("immediate", m.attr(1, _u32(register)), m.nested(2, *data))


class _Encoder:
    def __init__(self) -> None:
        self._set_id = 0

    def line(self, line: str) -> bytes:
        found = _LINE.fullmatch(line)
        if found is None:
            raise Unknown(line)
        verb, kind, family, table, name, rest = found.groups()
        self._family = family
        self._table = m.attr_text(1, table)
        match verb, kind, rest:
            case "add", "chain", None:
                return self._message(_NEWCHAIN, m.NLM_F_CREATE, m.attr_text(3, name))
            case "flush", "chain", None:
                return self._message(_DELRULE, 0, m.attr_text(2, name))
            case "delete", "chain", None:
                return self._message(_DELCHAIN, 0, m.attr_text(3, name))
            case "add", "rule", str():
                return self._rule(name, rest)
            case ("add" | "delete"), "element", str():
                return self._element(verb, name, rest)
        raise Unknown(line)

    def _message(self, kind: int, flags: int, *attributes: bytes) -> bytes:
        body = struct.pack(">BBH", _FAMILIES[self._family], 0, 0) + self._table + b"".join(attributes)
        return _HEADER.pack(16 + len(body), kind, flags | m.NLM_F_REQUEST, 0, 0) + body

    def _rule(self, chain: str, text: str) -> bytes:
        before, expressions = self._expressions(text)
        rule = self._message(_NEWRULE, m.NLM_F_CREATE | m.NLM_F_APPEND, m.attr_text(2, chain), m.nested(4, *expressions))
        return before + rule

    def _expressions(self, text: str) -> tuple[bytes, list[bytes]]:
        """(messages that come before the rule, its expressions)."""
        if found := _TO.fullmatch(text):
            return b"", [_immediate(0, _verdict(found[1], found[2]))]
        if found := _FROM.fullmatch(text):
            raw = _packed(found[2])
            return b"", [_load(found[1], "saddr", len(raw)), _compare(raw), _immediate(0, _verdict(found[3], found[4]))]
        if found := _ENTRY.fullmatch(text):
            raw = _packed(found[2])
            return b"", [
                _load(found[1], "daddr", len(raw)), _compare(raw), *_outside(found[1], found[3]),
                _immediate(0, _verdict(found[4], found[5])),
            ]  # fmt: skip
        if found := _DNAT.fullmatch(text):
            return b"", list(self._dnat(_PROTOCOLS[found[1]], _packed(found[2]), int(found[3])))
        if found := _NUMGEN.fullmatch(text):
            return self._numgen(int(found[1]), [c.strip().partition(" : goto ")[2] for c in found[2].split(" , ")])
        raise Unknown(text)

    def _dnat(self, protocol: int, address: bytes, port: int) -> Iterator[bytes]:
        yield _expression("meta", m.attr(2, _u32(16)), m.attr(1, _u32(1)))
        yield _compare(bytes([protocol]))
        yield _immediate(1, m.attr(1, address))
        yield _immediate(2, m.attr(1, struct.pack(">H", port)))
        what, flags = [m.attr(1, _u32(1)), m.attr(2, _u32(_FAMILIES[self._family]))], m.attr(7, _u32(2))
        yield _expression("nat", *what, m.attr(3, _u32(1)), m.attr(5, _u32(2)), flags)

    def _numgen(self, count: int, chains: list[str]) -> tuple[bytes, list[bytes]]:
        """An anonymous map of numbers to chains, and the two expressions that draw from it."""
        if len(chains) != count or not all(chains):
            raise Unknown("numgen")
        self._set_id += 1
        name, number = m.attr_text(2, f"__map{next(_map_numbers)}"), _u32(self._set_id)
        made = self._message(
            _NEWSET, m.NLM_F_CREATE, name, m.attr(3, _u32(0x0B)), m.attr(4, _u32(4)), m.attr(5, _u32(4)),
            m.attr(6, _u32(0xFFFFFF00)), m.attr(7, _u32(0)), m.attr(10, number), m.nested(9, m.attr(1, _u32(count))),
            m.attr(13, _MAP_USERDATA),
        )  # fmt: skip
        elements = [
            m.nested(i + 1, m.nested(1, m.attr(1, struct.pack("=I", i))), m.nested(2, _verdict("goto", chain)))
            for i, chain in enumerate(chains)
        ]
        filled = self._message(_NEWSETELEM, m.NLM_F_CREATE, m.attr(4, number), m.nested(3, *elements))
        draw = _expression("numgen", m.attr(1, _u32(1)), m.attr(2, _u32(count)), m.attr(3, _u32(1)), m.attr(4, _u32(0)))
        go = _expression("lookup", m.attr(2, _u32(1)), m.attr(3, _u32(0)), m.attr_text(1, "__map%d"), m.attr(4, number))
        return made + filled, [draw, go]

    def _element(self, verb: str, name: str, text: str) -> bytes:
        value = b""
        if found := _KEY.fullmatch(text):
            address = _packed(found[1]) if found[1] else b""
            key = address + struct.pack("B3x", _PROTOCOLS[found[2]]) + struct.pack(">H2x", int(found[3]))
            how, _, to = found[5].partition(" ")
            value = m.nested(2, _verdict(how, to))
            if found[4]:
                comment = found[4].encode() + b"\0"
                value += m.attr(6, bytes((0, len(comment))) + comment)
        elif found := _ADDRESS.fullmatch(text):
            key = _packed(found[1])
        else:
            raise Unknown(text)
        element = m.nested(3, m.nested(1, m.nested(1, m.attr(1, key)), value))
        kind, flags = (_NEWSETELEM, m.NLM_F_CREATE) if verb == "add" else (_DELSETELEM, 0)
        return self._message(kind, flags, m.attr_text(2, name), element)


def _packed(text: str) -> bytes:
    try:
        return ip_address(text).packed
    except ValueError as e:
        raise Unknown(text) from e


def _outside(family: str, text: str) -> list[bytes]:
    """Source not in this network: whole bytes are compared as they are, other lengths behind a mask, as nft does it."""
    try:
        network = ip_network(text)
    except ValueError as e:
        raise Unknown(text) from e
    raw, mask = network.network_address.packed, network.netmask.packed
    whole, rest = divmod(network.prefixlen, 8)
    if not network.prefixlen:
        raise Unknown(text)
    if not rest:
        return [_load(family, "saddr", whole), _compare(raw[:whole], unequal=True)]
    masked = _expression(
        "bitwise", m.attr(1, _u32(1)), m.attr(2, _u32(1)), m.attr(3, _u32(len(raw))), m.nested(4, m.attr(1, mask)),
        m.nested(5, m.attr(1, bytes(len(raw)))),
    )  # fmt: skip
    return [_load(family, "saddr", len(raw)), masked, _compare(raw, unequal=True)]


# ── sending ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Channel:
    """Where transactions are sent: one socket, kept open. Closing one makes the kernel wait until what the last transaction
    took away is freed (nf_tables' NETLINK_URELEASE: an RCU grace period, 5 to 20 ms in which its owner stands still)."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._netns: tuple[int, int] | None = None
        self._sequence = 0

    def send(self, lines: Iterable[tuple[str, bytes]], failed: Callable[[str], Exception]) -> None:
        """Send them as one transaction in the caller's network namespace: all or nothing. Raises `failed(words)` with the first
        line that the kernel refuses."""
        begin = struct.pack(">BBH", 0, 0, _SUBSYS)
        batch = [_HEADER.pack(20, _BATCH_BEGIN, m.NLM_F_REQUEST, 0, 0) + begin]
        said: dict[int, str] = {}
        for line, messages in lines:
            for message in _split(messages):
                said[self._next()] = line
                length, kind, flags, _, _ = _HEADER.unpack_from(message)
                batch.append(_HEADER.pack(length, kind, flags | m.NLM_F_ACK, self._sequence, 0) + message[16:])
        batch.append(_HEADER.pack(20, _BATCH_END, m.NLM_F_REQUEST, self._next(), 0) + begin)
        try:
            wire = self._open()
            wire.send(b"".join(batch))
            while said:
                for kind, _, sequence, body in m.split(wire.recv(1 << 17)):
                    if kind != m.NLMSG_ERROR:
                        continue
                    code = -struct.unpack_from("=i", body)[0]
                    if code:
                        self.close()  # what else it has to say of this transaction is nobody's business
                        raise failed(f"{os.strerror(code)}: {said.get(sequence, 'the transaction')}")
                    said.pop(sequence, None)
        except OSError as e:
            self.close()
            raise failed(str(e)) from e

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _next(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _open(self) -> socket.socket:
        status = os.stat("/proc/thread-self/ns/net")
        here = status.st_dev, status.st_ino
        if self._socket is not None and self._netns != here:
            self.close()
        if self._socket is None:
            self._netns = here
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        return self._socket


def _split(messages: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(messages):
        length = (struct.unpack_from("=I", messages, at)[0] + 3) & ~3
        yield messages[at : at + length]
        at += length
