"""exec, attach and port-forward over WebSocket (v5/v4.channel.k8s.io). Touches: sockets, pipes, pseudo-terminals, the runtime.

Upstream: kubelet/cri/streaming, apimachinery/pkg/util/remotecommand. A frame's first byte is the channel: 0 stdin, 1 stdout,
2 stderr, 3 the final Status, 4 resize; v5 adds 255: half-close of the channel in the second byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import termios
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from nsk8s.client.keepalive import probe_transport
from nsk8s.kubelet.cri import DescriptorCall, RuntimeClient, RuntimeFailure, receive_descriptors

log = logging.getLogger("streaming")

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CHUNK = 32768
DRAIN_S = 2.0
"""How long more output is waited for after the command has ended, if some child of it keeps the pipe open."""
CLOSE_S = 4 * 3600.0
"""How long a client may take to read what was sent before the end. Upstream: streamingConnectionIdleTimeout."""
SIZE_WAIT_S = 1.0
"""How long a command on a terminal is held back for its size, which an interactive client sends at once."""
DEFAULT_SIZE = struct.pack("HHHH", 24, 80, 0, 0)
"""Of a command's terminal until its client tells: one that never does would have programs draw on 0 lines."""


def exit_status(code: int) -> dict[str, Any]:
    """The metav1.Status of an exit code, as kubectl reads it. Pure."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: command terminated with exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failure_status(message: str) -> dict[str, Any]:
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {message}",
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }


def refusal(headers: Mapping[str, str]) -> str:
    """Why this upgrade cannot be had, "" if it can. Pure."""
    if headers.get("Upgrade", "").lower() != "websocket":
        return "unable to upgrade: this kubelet streams over WebSocket only"
    asked = [p.strip() for p in headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
    if asked and not set(asked) & set(PROTOCOLS):
        return f"unable to upgrade: unsupported subprotocol {', '.join(asked)}; supported are {', '.join(PROTOCOLS)}"
    return ""


class Reader:
    """Bytes of a pipe or terminal as they come; `read` answers b"" at the end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._waiting: asyncio.Timeout | None = None
        self._since = 0.0
        self._patience_s: float | None = None
        """For waiting, in all, once the command has ended. A slow client's time is not taken off it."""
        os.set_blocking(fd, False)

    def command_ended(self) -> None:
        """What it wrote is there to be read; what comes still is a child's that it left behind."""
        self._patience_s, self._since = DRAIN_S, asyncio.get_running_loop().time()
        if self._waiting is not None:
            self._waiting.reschedule(self._since + DRAIN_S)

    async def read(self) -> bytes:
        while True:
            try:
                return os.read(self.fd, CHUNK)
            except BlockingIOError:
                pass
            except OSError as e:
                if e.errno == errno.EIO:  # a terminal whose other side is closed
                    return b""
                raise
            if not await self._readable():
                return b""

    async def _readable(self) -> bool:
        """False when nothing came and patience is over."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._since = loop.time()
        loop.add_reader(self.fd, _set, ready)
        try:
            async with asyncio.timeout(self._patience_s) as self._waiting:
                await ready
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self.fd)
            self._waiting = None
            if self._patience_s is not None:
                self._patience_s = max(0.0, self._patience_s - (loop.time() - self._since))
        return True


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def write_all(fd: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_writer(fd, _set, ready)
            try:
                await ready
            finally:
                loop.remove_writer(fd)


class Session:
    """The descriptors of one exec or attach, ours and the command's.

    A terminal is the container's own: its master comes over a socket. An exec's is read and written here; an attached container's
    is only given its size, what is typed and shown goes over the socket.
    """

    def __init__(self, tty: bool, stdin: bool, stdout: bool, stderr: bool) -> None:
        self.tty = tty
        self.theirs: list[int] = []
        self.stdin = -1
        self.outputs: dict[int, int] = {}
        self._open: set[int] = set()
        self.master = -1
        self._console: socket.socket | None = None
        self._with_stdin = stdin
        self._size = b""
        self.sized = asyncio.Event()
        self.started = asyncio.Event()
        if tty:
            self._console, theirs = socket.socketpair()
            self._console.setblocking(False)
            self.theirs.append(theirs.detach())
            return
        if stdin:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            self.theirs.append(read_end)
            os.set_blocking(write_end, False)
            self.stdin = write_end
            self._open.add(write_end)
        for wanted, channel in ((stdout, STDOUT), (stderr, STDERR)):
            if wanted:
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                self.theirs.append(write_end)
                self.outputs[channel] = read_end
                self._open.add(read_end)

    async def take_terminal(self, own: bool) -> None:
        """Wait for the master; `own`: nobody else reads it. There is none when the call has failed."""
        if self._console is None:
            return
        with contextlib.suppress(OSError):
            _, descriptors = await receive_descriptors(asyncio.get_running_loop(), self._console, 1)
            if descriptors:
                self.master = descriptors[0]
                self._open.add(self.master)
                if own and not self._size:
                    self._size = DEFAULT_SIZE
                self._apply_size()
        if own:
            self._console.close()  # the command waits for this
            self._console = None
        stream = self._console.fileno() if self._console is not None else self.master
        if stream >= 0:
            self.outputs[STDOUT] = stream
            self.stdin = stream if self._with_stdin else -1

    def close_theirs(self) -> None:
        for fd in self.theirs:
            os.close(fd)
        self.theirs = []

    def close_stdin(self) -> None:
        """End of input: the pipe is closed; a terminal is told by ^D."""
        if self.stdin < 0:
            return
        if self.tty:
            with contextlib.suppress(OSError):
                os.write(self.stdin, b"\x04")
        else:
            self._open.discard(self.stdin)
            os.close(self.stdin)
        self.stdin = -1

    def resize(self, width: int, height: int) -> None:
        if 0 < width < 65536 and 0 < height < 65536:
            self._size = struct.pack("HHHH", height, width, 0, 0)
            self._apply_size()
            self.sized.set()

    def _apply_size(self) -> None:
        if self._size and self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, self._size)

    def close(self) -> None:
        self.close_theirs()
        if self._console is not None:
            self._console.close()
        for fd in self._open:
            os.close(fd)
        self._open.clear()


async def serve(
    request: web.Request, runtime: RuntimeClient, method: str, params: dict[str, Any], *,
    tty: bool, stdin: bool, stdout: bool, stderr: bool,
) -> web.StreamResponse:  # fmt: skip
    """Run one Exec or Attach over the request's WebSocket."""
    ws = web.WebSocketResponse(protocols=PROTOCOLS, timeout=CLOSE_S, autoping=True, compress=False, max_msg_size=0)
    await ws.prepare(request)
    probe_transport(request.transport)
    session = Session(tty, stdin, stdout, stderr and not tty)
    incoming = asyncio.ensure_future(_copy_in(ws, session))
    call: DescriptorCall | None = None
    try:
        try:
            if tty and stdin:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.sized.wait(), SIZE_WAIT_S)
            call = await runtime.with_descriptors(method, params, session.theirs)
            session.close_theirs()
            await session.take_terminal(own=method == "Exec")
            status = await _pump(ws, session, call, incoming, attach=method == "Attach")
        except RuntimeFailure as e:
            status = failure_status(str(e))
        if not ws.closed:
            await ws.send_bytes(bytes([ERROR]) + orjson.dumps(status))
            incoming.cancel()
            await asyncio.gather(incoming, return_exceptions=True)
            await ws.close()
    except (ConnectionError, OSError) as e:
        log.debug("stream: %s", e)
    finally:
        incoming.cancel()
        if call is not None:
            call.close()
        session.close()
    return ws


async def _pump(
    ws: web.WebSocketResponse, session: Session, call: DescriptorCall, incoming: asyncio.Task[None], *, attach: bool
) -> dict[str, Any]:
    """Copy until the command has ended and its output is read; the final Status."""
    result = asyncio.ensure_future(call.result())
    readers = {channel: Reader(fd) for channel, fd in session.outputs.items()}
    outputs = [asyncio.ensure_future(_copy_out(ws, channel, reader)) for channel, reader in readers.items()]
    for output in outputs:  # who cannot be written to has gone, though what came from there may be stuck in a stuck command
        output.add_done_callback(lambda t: incoming.cancel() if not t.cancelled() and t.exception() else None)
    tasks = [result, incoming, *outputs]
    session.started.set()
    try:
        await asyncio.wait([result, incoming], return_when=asyncio.FIRST_COMPLETED)
        if not result.done():  # the client has gone
            if not attach and not session.tty:
                session.close_stdin()
            return exit_status(0)
        code = int(result.result().get("exitCode") or 0)
        for reader in readers.values():
            reader.command_ended()
        if outputs:
            await asyncio.wait(outputs)
        return exit_status(code)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy_out(ws: web.WebSocketResponse, channel: int, reader: Reader) -> None:
    prefix = bytes([channel])
    while data := await reader.read():
        await ws.send_bytes(prefix + data)


async def _copy_in(ws: web.WebSocketResponse, session: Session) -> None:
    """Returns when the client closes the connection. Only a terminal's size is taken in before the command has started."""
    async for message in ws:
        if message.type == WSMsgType.TEXT:
            data = message.data.encode()
        elif message.type == WSMsgType.BINARY:
            data = message.data
        else:
            continue
        if not data:
            continue
        channel = data[0]
        if channel != RESIZE:
            await session.started.wait()
        if channel == STDIN and session.stdin >= 0 and len(data) > 1:
            try:
                await write_all(session.stdin, data[1:])
            except (BrokenPipeError, OSError):
                session.close_stdin()
        elif channel == RESIZE:
            with contextlib.suppress(ValueError, TypeError, AttributeError, OSError):
                size = orjson.loads(data[1:])
                session.resize(int(size.get("Width") or 0), int(size.get("Height") or 0))
        elif channel == CLOSE and data[1:2] == bytes([STDIN]):
            session.close_stdin()


async def serve_port_forward(
    request: web.Request, runtime: RuntimeClient, sandbox_id: str, ports: list[int]
) -> web.StreamResponse:
    """Upstream's WebSocket port-forward: per port a data channel 2i and an error channel 2i+1, each of which begins with the
    port number in two little-endian bytes."""
    ws = web.WebSocketResponse(protocols=PROTOCOLS, timeout=CLOSE_S, autoping=True, compress=False, max_msg_size=0)
    await ws.prepare(request)
    probe_transport(request.transport)
    loop = asyncio.get_running_loop()
    connections: dict[int, Any] = {}
    readers: list[asyncio.Task[None]] = []

    async def copy_out(channel: int, connection: Any) -> None:
        while data := await loop.sock_recv(connection, CHUNK):
            await ws.send_bytes(bytes([channel]) + data)
        await ws.close()

    try:
        for i, port in enumerate(ports):
            for channel in (2 * i, 2 * i + 1):
                await ws.send_bytes(bytes([channel]) + struct.pack("<H", port))
            try:
                connection = await runtime.port_forward(sandbox_id, port)
            except RuntimeFailure as e:
                text = f"error forwarding port {port} to pod {sandbox_id}: {e.description}"
                await ws.send_bytes(bytes([2 * i + 1]) + text.encode())
                continue
            connection.setblocking(False)
            connections[2 * i] = connection
            readers.append(asyncio.ensure_future(copy_out(2 * i, connection)))
        if not connections:
            await ws.close()
            return ws
        async for message in ws:
            if message.type == WSMsgType.BINARY and message.data and message.data[0] in connections:
                await loop.sock_sendall(connections[message.data[0]], message.data[1:])
    except OSError as e:
        log.debug("port-forward: %s", e)
    finally:
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for connection in connections.values():
            connection.close()
    return ws

