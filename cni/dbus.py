"""As much of D-Bus as a plugin needs to ask a service of the system bus something: calls whose arguments are strings.

Touches: one unix socket. Upstream: godbus. Specification: https://dbus.freedesktop.org/doc/dbus-specification.html
"""

from __future__ import annotations

import _socket
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ADDRESS = "unix:path=/run/dbus/system_bus_socket"
TIMEOUT_S = 25.0
"""The reference implementation's."""
_CALL, _RETURN, _ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_MAX_MESSAGE = 1 << 27
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class NoBus(OSError):
    """There is no bus to talk to; the text says why."""


class BusError(Exception):
    """What was asked answered with an error: `name` is its D-Bus name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


def socket_address(env: Mapping[str, str]) -> str | bytes:
    """Where the system bus listens: a path, or an abstract name. Raises NoBus for a kind that is not a unix socket."""
    for address in (env.get("DBUS_SYSTEM_BUS_ADDRESS") or ADDRESS).split(";"):
        kind, _, rest = address.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if kind == "unix" and keys.get("path"):
            return _unescape(keys["path"]).decode("utf-8", "surrogateescape")
        if kind == "unix" and keys.get("abstract"):
            return b"\0" + _unescape(keys["abstract"])
    raise NoBus("the system bus has no unix socket")


def _unescape(text: str) -> bytes:
    first, *rest = text.encode("utf-8", "surrogateescape").split(b"%")
    return first + b"".join(bytes.fromhex(part[:2].decode("ascii", "replace")) + part[2:] for part in rest)


class Bus:
    """A connection to the system bus. Raises NoBus."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._serial = 0
        self._buffer = b""
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._socket.settimeout(TIMEOUT_S)
        try:
            where = socket_address(env)
            self._socket.connect(where)
            self._send(b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode())
            answer = self._line()
            if not answer.startswith(b"OK"):
                raise NoBus(f"the system bus refuses us: {answer.decode('ascii', 'replace')}")
            self._send(b"BEGIN\r\n")
            self.call(*_BUS, "Hello")
        except (OSError, ValueError, BusError) as e:
            self._socket.close()
            if isinstance(e, NoBus):
                raise
            raise NoBus(f"the system bus cannot be reached: {getattr(e, 'strerror', None) or e}") from None

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def has_owner(self, name: str) -> bool:
        """Whether somebody serves that name."""
        return bool(self.call(*_BUS, "NameHasOwner", name)[0])

    def call(self, destination: str, path: str, interface: str, member: str, *args: str) -> list[Any]:
        """The values of the answer (strings, booleans, numbers). Raises BusError, and NoBus when the connection breaks."""
        self._serial += 1
        self._send(encode_call(self._serial, destination, path, interface, member, args))
        while True:
            kind, _, fields, values = self._message()
            if fields.get(_REPLY_SERIAL) != self._serial:
                continue  # a signal
            if kind == _ERROR:
                raise BusError(str(fields.get(_ERROR_NAME, "")), str(values[0]) if values else "")
            if kind == _RETURN:
                return values

    # ── bytes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as e:
            raise NoBus(f"the system bus cannot be reached: {e.strerror or e}") from None

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _more(self) -> None:
        try:
            data = self._socket.recv(65536)
        except OSError as e:
            raise NoBus(f"the system bus does not answer: {e.strerror or e}") from None
        if not data:
            raise NoBus("the system bus closed the connection")
        self._buffer += data

    def _message(self) -> tuple[int, int, dict[int, Any], list[Any]]:
        """(type, serial number, header fields, values) of the next message."""
        head = self._read(16)
        order = "<" if head[:1] == b"l" else ">"
        body_size, serial, fields_size = struct.unpack(f"{order}III", head[4:])
        if fields_size + body_size > _MAX_MESSAGE:
            raise NoBus("the system bus speaks no D-Bus")
        raw = _Values(order, head + self._read((fields_size + 7) // 8 * 8), 16)
        fields: dict[int, Any] = {}
        while raw.at < 16 + fields_size:
            raw.align(8)
            code = raw.data[raw.at]
            raw.at += 1
            fields[code] = raw.value(raw.signature())
        body = _Values(order, self._read(body_size), 0)
        return head[1], serial, fields, body.all(str(fields.get(_SIGNATURE, "")))


class _Values:
    """Marshalled values, read one after the other."""

    def __init__(self, order: str, data: bytes, at: int) -> None:
        self.order, self.data, self.at = order, data, at

    def align(self, size: int) -> None:
        self.at = (self.at + size - 1) // size * size

    def number(self, kind: str, size: int) -> int:
        self.align(size)
        found: int = struct.unpack_from(self.order + kind, self.data, self.at)[0]
        self.at += size
        return found

    def _text(self, size: int) -> str:
        raw = self.data[self.at : self.at + size]
        self.at += size + 1
        return raw.decode("utf-8", "replace")

    def signature(self) -> str:
        return self._text(self.number("B", 1))

    def value(self, kind: str) -> Any:
        if kind in ("s", "o"):
            return self._text(self.number("I", 4))
        if kind == "g":
            return self.signature()
        if kind == "b":
            return bool(self.number("I", 4))
        sizes = {"y": ("B", 1), "n": ("h", 2), "q": ("H", 2), "i": ("i", 4), "u": ("I", 4), "x": ("q", 8), "t": ("Q", 8)}
        return self.number(*sizes[kind])

    def all(self, signature: str) -> list[Any]:
        """The values up to the first of a kind that is not simple: nobody asked for it."""
        found = []
        for kind in signature:
            if kind not in "sogbynqiuxt":
                break
            found.append(self.value(kind))
        return found


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw + b"\0"


def _pad(data: bytes, size: int) -> bytes:
    return data + bytes(-len(data) % size)


def encode_call(serial: int, destination: str, path: str, interface: str, member: str, args: tuple[str, ...]) -> bytes:
    """A method call as bytes. Pure."""
    body = b""
    for arg in args:
        body = _pad(body, 4) + _string(arg)
    fields = b""
    for code, kind, text in (
        (_PATH, b"o", path), (_INTERFACE, b"s", interface), (_MEMBER, b"s", member), (_DESTINATION, b"s", destination)
    ):  # fmt: skip
        fields = _pad(fields, 8) + bytes((code, 1)) + kind + b"\0" + _string(text)
    if args:
        signature = "s" * len(args)
        fields = _pad(fields, 8) + bytes((_SIGNATURE, 1)) + b"g\0" + bytes((len(signature),)) + signature.encode() + b"\0"
    head = struct.pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), serial, len(fields))
    return _pad(head + fields, 8) + body
