"""One client connection joined to one kubelet connection, byte for byte. Touches: sockets.

The HTTP server hands over its connection the way it does for WebSockets: what arrives after the request goes to a parser, and
what leaves is written to the transport.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from nsk8s.client.keepalive import probe_transport
from nsk8s.client.upgrade import TakenOver
from nsk8s.errors import BadRequest, Failed, InternalError, StatusError

HEAD_S = 30.0
"""Until a kubelet that took the connection must have answered the handshake."""
HIGH_WATER = 256 * 1024
CHUNK = 64 * 1024
_PASSED = ("upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions",
           "x-stream-protocol-version", "user-agent")  # fmt: skip


class Tunnel:
    def __init__(self, http: web.BaseRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._http = http
        self._reader = reader
        self._writer = writer
        self._ended = asyncio.Event()
        self._paused = False

    async def run(self, target: str, authority: str) -> web.StreamResponse:
        """Hand on the handshake to `target` (path and query); on 101 run until either side ends. Answers otherwise."""
        try:
            head = [f"{self._http.method} {target} HTTP/1.1", f"Host: {authority}", "Connection: Upgrade"]
            if self._http.method == "POST":
                head.append("Content-Length: 0")
            for name in _PASSED:
                head += [f"{name}: {value}" for value in self._http.headers.getall(name, [])]
            self._writer.write(("\r\n".join(head) + "\r\n\r\n").encode("latin-1", "replace"))
            try:
                async with asyncio.timeout(HEAD_S):
                    answer = await self._reader.readuntil(b"\r\n\r\n")
            except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as e:
                raise Failed(f"error dialing backend: the kubelet at {authority} did not answer: {e}") from e
            status = answer.split(b"\r\n", 1)[0].split(b" ")
            if len(status) < 2 or not status[1].isdigit():
                raise Failed(f"error dialing backend: the kubelet at {authority} does not speak HTTP")
            if int(status[1]) != 101:
                raise await self._refusal(int(status[1]), answer)
            return await self._join(answer)
        finally:
            self._writer.close()

    async def _refusal(self, code: int, head: bytes) -> StatusError:
        """The kubelet's own words for why it will not."""
        length = next(
            (int(v) for k, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:])
             if k.strip().lower() == b"content-length" and v.strip().isdigit()), 0)  # fmt: skip
        try:
            async with asyncio.timeout(HEAD_S):
                text = (await self._reader.readexactly(min(length, CHUNK))).decode(errors="replace").strip()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            text = ""
        text = text or f"the kubelet answered {code}"
        error: StatusError = BadRequest(text) if 400 <= code < 500 else InternalError(text)
        if 400 <= code < 500 and code not in (401, 403):
            error.code = code
            error.reason = {404: "NotFound"}.get(code, error.reason)
        return error

    async def _join(self, answer: bytes) -> web.StreamResponse:
        transport = self._http.transport
        if transport is None:
            raise ConnectionResetError
        protocol = self._http.protocol
        protocol.keep_alive(False)
        probe_transport(transport)
        probe_transport(self._writer.transport)
        transport.write(answer)
        protocol.set_parser(self)  # type: ignore[arg-type]
        down = asyncio.ensure_future(self._downwards(transport))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([down, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (down, ended):
                task.cancel()
            await asyncio.gather(down, ended, return_exceptions=True)
            protocol.keep_alive(False)
            transport.close()
        return TakenOver()

    async def _downwards(self, transport: Any) -> None:
        """Kubelet → client, no faster than the client reads."""
        while (chunk := await self._reader.read(CHUNK)) and not transport.is_closing():
            transport.write(chunk)
            if transport.get_write_buffer_size() > HIGH_WATER:
                await self._http.writer.drain()

    # What aiohttp calls with the client's bytes.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._writer.is_closing():
            return False, b""
        self._writer.write(data)
        if not self._paused and self._writer.transport.get_write_buffer_size() > HIGH_WATER:
            transport = self._http.transport
            if transport is not None and hasattr(transport, "pause_reading"):
                self._paused = True
                transport.pause_reading()
                self._resuming = asyncio.ensure_future(self._resume(transport))
        return False, b""

    async def _resume(self, transport: Any) -> None:
        try:
            await self._writer.drain()
        except OSError:
            self._ended.set()
        self._paused = False
        if not transport.is_closing():
            transport.resume_reading()

    def feed_eof(self) -> None:
        self._ended.set()

    def set_exception(self, error: BaseException, *_: object) -> None:
        self._ended.set()
