"""SPDY frames as kubectl's side writes and reads them."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.kubelet import spdy


class Client:
    """The other side."""

    def __init__(self):
        self.deflate = zlib.compressobj(zdict=spdy.DICTIONARY)

    def open(self, stream, headers, flags=0):
        raw = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name, value):
                raw += struct.pack(">I", len(text)) + text.encode()
        block = self.deflate.compress(raw) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = struct.pack(">IIBB", stream, 0, 0, 0) + block
        return struct.pack(">HHI", 0x8003, 1, flags << 24 | len(payload)) + payload


def test_the_dictionary_is_the_specifications():
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(st.integers(1, 40))
def test_a_session_cut_anywhere(size):
    client, server = Client(), spdy.Connection()
    raw = client.open(1, {"StreamType": "error", "port": "80", "requestid": "0"}) + client.open(3, {"streamtype": "data"}, 1)
    raw += spdy.Connection.data(3, b"hello") + spdy.Connection.data(3, b"", True)
    raw += struct.pack(">HHIII", 0x8003, 4, 8, 0, 0) + struct.pack(">HHI", 0x8003, 6, 4) + b"\0\0\0\7"  # SETTINGS, PING
    raw += struct.pack(">HHIII", 0x8003, 3, 8, 1, 5) + struct.pack(">HHIII", 0x8003, 7, 8, 3, 0)  # RST_STREAM, GOAWAY
    events = [e for i in range(0, len(raw), size) for e in server.receive(raw[i : i + size])]
    assert events == [
        spdy.Opened(1, {"streamtype": "error", "port": "80", "requestid": "0"}), spdy.Opened(3, {"streamtype": "data"}),
        spdy.Data(3, b"", True), spdy.Data(3, b"hello", False), spdy.Data(3, b"", True), spdy.Ping(b"\0\0\0\7"), spdy.Reset(1),
        spdy.GoAway(3),
    ]  # fmt: skip


def test_what_is_sent():
    server, inflate = spdy.Connection(), zlib.decompressobj(zdict=spdy.DICTIONARY)
    for stream in (1, 3):  # one compressor for all
        frame = server.reply(stream)
        assert struct.unpack(">HHII", frame[:12]) == (0x8003, 2, len(frame) - 8, stream)
        assert inflate.decompress(frame[12:]) == b"\0\0\0\0"
    assert server.data(5, b"abc", True) == b"\0\0\0\5\1\0\0\3abc"
    assert server.reset(7) == b"\x80\3\0\3\0\0\0\x08\0\0\0\7\0\0\0\1"
    assert server.pong(b"\0\0\0\1") == b"\x80\3\0\6\0\0\0\4\0\0\0\1"


@pytest.mark.parametrize(
    "raw",
    [b"GET / HTTP/1.1\r\n\r\n".replace(b"G", b"\x80", 1), struct.pack(">HHI", 0x8003, 1, 4) + b"\0\0\0\1",
     struct.pack(">HHI", 0x8003, 1, 14) + b"\0" * 10 + b"junk", struct.pack(">HHI", 0x8003, 3, 1) + b"\0"],
)  # fmt: skip
def test_what_is_no_spdy_is_refused(raw):
    with pytest.raises(spdy.ProtocolError):
        spdy.Connection().receive(raw)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_that(raw):
    try:
        spdy.Connection().receive(b"\x80\x03" + raw)
    except spdy.ProtocolError:
        return
