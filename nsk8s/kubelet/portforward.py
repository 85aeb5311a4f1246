"""Port-forward as kubectl speaks it: a SPDY session, raw (to 1.30) or cut into WebSocket messages (from 1.31).

Every connection on kubectl's side is a pair of streams, `error` and `data`, with the same `requestid`. Touches: sockets, the
runtime. Upstream: kubelet's streaming/portforward/httpstream.go; apimachinery's portforward tunnelling.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import WSMsgType, web

from nsk8s.client.keepalive import probe_transport
from nsk8s.client.upgrade import TakenOver
from nsk8s.kubelet import spdy
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure

log = logging.getLogger("portforward")

PROTOCOL = "portforward.k8s.io"
TUNNEL = f"SPDY/3.1+{PROTOCOL}"
CHUNK = 32 * 1024
PAIR_S = 30.0
"""How long the second stream of a pair may take. Upstream: streamCreationTimeout."""
HIGH_WATER = 256 * 1024


class Pair:
    """One forwarded connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: dict[str, int] = {}
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue(64)
        """What the client sends; b"" when it will send no more."""
        self.task: asyncio.Task[None] | None = None


class Forwarder:
    """The pod's end of one session. `send` takes bytes of the SPDY session; `run` is given them."""

    def __init__(self, runtime: RuntimeClient, sandbox_id: str, pod: str, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._runtime = runtime
        self._sandbox = sandbox_id
        self._pod = pod
        self._send = send
        self._spdy = spdy.Connection()
        self._pairs: dict[str, Pair] = {}
        self._by_stream: dict[int, tuple[str, Pair]] = {}

    async def run(self, incoming: AsyncIterator[bytes]) -> None:
        """Until the client goes. Raises spdy.ProtocolError."""
        try:
            async for data in incoming:
                for event in self._spdy.receive(data):
                    if isinstance(event, spdy.GoAway):
                        return
                    await self._handle(event)
        finally:
            tasks = [p.task for p in self._pairs.values() if p.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.Opened):
            await self._opened(event)
        elif isinstance(event, spdy.Ping):
            await self._send(self._spdy.pong(event.number))
        elif isinstance(event, spdy.Data | spdy.Reset) and event.stream in self._by_stream:
            kind, pair = self._by_stream[event.stream]
            if isinstance(event, spdy.Reset):
                if pair.task is not None:
                    pair.task.cancel()
            elif kind == "data":
                if event.data:
                    await pair.incoming.put(event.data)
                if event.fin:
                    await pair.incoming.put(b"")

    async def _opened(self, event: spdy.Opened) -> None:
        kind, request, port = (event.headers.get(k, "") for k in ("streamtype", "requestid", "port"))
        pair = self._pairs.get(request)
        if kind not in ("error", "data") or not (port.isdigit() and 0 < int(port) < 65536) or (pair and kind in pair.streams):
            await self._send(self._spdy.reset(event.stream))
            return
        if pair is None:
            pair = self._pairs[request] = Pair(int(port))
            asyncio.get_running_loop().call_later(PAIR_S, self._forget_half, request, pair)
        pair.streams[kind] = event.stream
        self._by_stream[event.stream] = kind, pair
        await self._send(self._spdy.reply(event.stream))
        if len(pair.streams) == 2:
            pair.task = asyncio.ensure_future(self._forward(request, pair))

    def _forget_half(self, request: str, pair: Pair) -> None:
        if pair.task is None:
            self._forget(request, pair)

    def _forget(self, request: str, pair: Pair) -> None:
        self._pairs.pop(request, None)
        for stream in pair.streams.values():
            self._by_stream.pop(stream, None)

    async def _forward(self, request: str, pair: Pair) -> None:
        data, error = pair.streams["data"], pair.streams["error"]
        try:
            try:
                with await self._runtime.port_forward(self._sandbox, pair.port) as connection:
                    connection.setblocking(False)
                    await self._copy(connection, pair, data)
            except (RuntimeFailure, OSError) as e:
                text = e.description if isinstance(e, RuntimeFailure) else str(e)
                text = f"error forwarding port {pair.port} to pod {self._sandbox}, uid : {text}"
                await self._send(self._spdy.data(error, text.encode()))
            for stream in (data, error):
                await self._send(self._spdy.data(stream, b"", True))
        except ConnectionError:
            log.debug("%s: the client has gone", self._pod)
        finally:
            self._forget(request, pair)

    async def _copy(self, connection: socket.socket, pair: Pair, stream: int) -> None:
        """Both ways, until the pod's side has said all. The client may be done before: its end is passed on."""
        loop = asyncio.get_running_loop()

        async def inwards() -> None:
            while chunk := await pair.incoming.get():
                await loop.sock_sendall(connection, chunk)
            connection.shutdown(socket.SHUT_WR)

        sending = asyncio.ensure_future(inwards())
        try:
            while chunk := await loop.sock_recv(connection, CHUNK):
                await self._send(self._spdy.data(stream, chunk))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def serve_tunnel(request: web.Request, runtime: RuntimeClient, sandbox_id: str, pod: str) -> web.StreamResponse:
    """kubectl 1.31 and newer: the session in binary WebSocket messages."""
    ws = web.WebSocketResponse(protocols=(TUNNEL,), autoping=True, compress=False, max_msg_size=0)
    await ws.prepare(request)
    probe_transport(request.transport)

    async def messages() -> AsyncIterator[bytes]:
        async for message in ws:
            if message.type == WSMsgType.BINARY:
                yield message.data

    try:
        await Forwarder(runtime, sandbox_id, pod, ws.send_bytes).run(messages())
    except (spdy.ProtocolError, ConnectionError) as e:
        log.debug("%s: %s", pod, e)
    await ws.close()
    return ws


class _Bytes:
    """What aiohttp calls with the bytes that come after an upgrade, as an iterator."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._waiting += len(data)
        self._queue.put_nowait(data)
        if self._waiting > HIGH_WATER:
            self._transport.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        self._queue.put_nowait(b"")

    def set_exception(self, error: BaseException, *_: object) -> None:
        self._queue.put_nowait(b"")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._queue.get():
            self._waiting -= len(data)
            if self._waiting <= HIGH_WATER:
                with contextlib.suppress(RuntimeError):  # closing
                    self._transport.resume_reading()
            yield data


async def serve_spdy(request: web.Request, runtime: RuntimeClient, sandbox_id: str, pod: str) -> web.StreamResponse:
    """kubectl up to 1.30: the session itself after `Upgrade: SPDY/3.1`."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    asked = [p for v in request.headers.getall("X-Stream-Protocol-Version", []) for p in v.replace(" ", "").split(",")]
    if asked and PROTOCOL not in asked:
        return web.Response(status=403, text=f"unable to upgrade: {', '.join(asked)} not supported, only {PROTOCOL} is")
    protocol = request.protocol
    protocol.keep_alive(False)
    incoming = _Bytes(transport)
    protocol.set_parser(incoming)  # type: ignore[arg-type]
    head = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
    head.append(f"X-Stream-Protocol-Version: {PROTOCOL}")
    transport.write("\r\n".join([*head, "", ""]).encode())
    probe_transport(transport)

    async def send(data: bytes) -> None:
        if transport.is_closing():
            raise ConnectionResetError
        transport.write(data)
        if transport.get_write_buffer_size() > HIGH_WATER:
            await request.writer.drain()

    try:
        await Forwarder(runtime, sandbox_id, pod, send).run(aiter(incoming))
    except (spdy.ProtocolError, ConnectionError) as e:
        log.debug("%s: %s", pod, e)
    finally:
        protocol.keep_alive(False)
        transport.close()
    return TakenOver()
