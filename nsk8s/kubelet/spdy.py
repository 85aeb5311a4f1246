"""SPDY/3.1 frames, the server's side, without any input or output: bytes in, events out; calls in, bytes out. Pure.

Only what Kubernetes' streams use: SYN_STREAM, SYN_REPLY, DATA, RST_STREAM, PING, GOAWAY. Flow control is left out, as in the
library on the other side (moby/spdystream): SETTINGS and WINDOW_UPDATE are read over.
Upstream: the SPDY Protocol draft 3.1; moby/spdystream.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
PROTOCOL_ERROR = 1
VERSION = 3
MAX_HEADERS = 64 * 1024

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length content-location "
    "content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match "
    "if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range "
    "referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get "
    "status|200 OK|version|HTTP/1.1|url|public|set-cookie|keep-alive|origin"
)
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal "
    "Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, "
    "Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,"
    "text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
_NAMES = [*_WORDS.partition("|")[0].split(" "), *_WORDS.split("|")[1:]]
DICTIONARY = b"".join(struct.pack(">I", len(n)) + n.encode() for n in _NAMES) + _REST.encode()
"""What both sides' header compression starts with: 1,423 bytes, adler32 e3c6a7c2 (SPDY/3, section 2.6.10.1)."""


class Opened(NamedTuple):
    stream: int
    headers: dict[str, str]


class Data(NamedTuple):
    stream: int
    data: bytes
    fin: bool


class Reset(NamedTuple):
    stream: int


class Ping(NamedTuple):
    number: bytes


class GoAway(NamedTuple):
    last: int


Event = Opened | Data | Reset | Ping | GoAway


class ProtocolError(ValueError):
    """The peer does not speak SPDY/3.1."""


class Connection:
    """One connection: header compression has a state that lasts as long as it does."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Raises ProtocolError."""
        self._buffer += data
        events: list[Event] = []
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            if first >> 31 and (version := (first >> 16) & 0x7FFF) != VERSION:
                raise ProtocolError(f"SPDY version {version} is not supported")
            if len(self._buffer) < 8 + length:
                break
            payload = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if first >> 31:
                event = self._control(first & 0xFFFF, payload)
                if event is not None:
                    events.append(event)
                if isinstance(event, Opened) and flags & FIN:
                    events.append(Data(event.stream, b"", True))
            else:
                events.append(Data(first, payload, bool(flags & FIN)))
        return events

    def _control(self, kind: int, payload: bytes) -> Event | None:
        try:
            if kind == SYN_STREAM:
                return Opened(_stream(payload), self._headers(payload[10:]))
            if kind == RST_STREAM:
                return Reset(_stream(payload))
            if kind == GOAWAY:
                return GoAway(_stream(payload))
        except (struct.error, zlib.error, UnicodeDecodeError) as e:
            raise ProtocolError(f"malformed SPDY frame: {e}") from e
        return Ping(payload[:4]) if kind == PING else None

    def _headers(self, block: bytes) -> dict[str, str]:
        raw = self._inflate.decompress(block, MAX_HEADERS)
        if self._inflate.unconsumed_tail:
            raise ProtocolError("SPDY headers are too long")
        (count,), at, out = struct.unpack_from(">I", raw), 4, {}
        for _ in range(count):
            pair = []
            for _ in range(2):
                (size,) = struct.unpack_from(">I", raw, at)
                pair.append(raw[at + 4 : at + 4 + size].decode())
                at += 4 + size
            out[pair[0].lower()] = pair[1]
        return out

    def reply(self, stream: int) -> bytes:
        """SYN_REPLY without headers."""
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _frame(SYN_REPLY, struct.pack(">I", stream) + block)

    @staticmethod
    def data(stream: int, data: bytes, fin: bool = False) -> bytes:
        return struct.pack(">II", stream, (FIN if fin else 0) << 24 | len(data)) + data

    @staticmethod
    def reset(stream: int, status: int = PROTOCOL_ERROR) -> bytes:
        return _frame(RST_STREAM, struct.pack(">II", stream, status))

    @staticmethod
    def pong(number: bytes) -> bytes:
        return _frame(PING, number)


def _stream(payload: bytes) -> int:
    (number,) = struct.unpack_from(">I", payload)
    return int(number) & 0x7FFFFFFF


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, len(payload)) + payload
