"""Newline-delimited JSON on a unix socket, with file descriptors beside it. Lean. Touches: sockets.

Used between kubelet and runtime and between runtime and sandbox.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket

from nsk8s.runtime.loop import IN, OUT, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

MAX_LINE = 16 << 20
_MAX_FDS = 16


class Connection:
    """One peer. `on_message(connection, object)` for every line; `on_close(connection)` once, when the peer has gone."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_message: Callable[[Connection, dict[str, Any]], None],
        on_close: Callable[[Connection], None] | None = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._in = bytearray()
        self._out: list[tuple[bytes, list[int]]] = []
        self._fds: list[int] = []
        self.closed = False
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._ready)

    def fileno(self) -> int:
        return self._sock.fileno()

    def take_fds(self) -> list[int]:
        """The descriptors that came so far; the caller owns them now."""
        fds, self._fds = self._fds, []
        return fds

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue one line. Descriptors are duplicated: the caller keeps its own. A closed connection swallows it."""
        if self.closed:
            return
        raw = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._out.append((raw, [os.dup(fd) for fd in fds]))
        self._flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        for fd in self._fds + [fd for _, fds in self._out for fd in fds]:
            os.close(fd)
        self._fds, self._out = [], []
        if self._on_close is not None:
            self._on_close(self)

    def _flush(self) -> None:
        while self._out:
            raw, fds = self._out[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self._sock.sendmsg([raw], ancillary)
            except BlockingIOError:
                self._loop.set_mask(self._sock.fileno(), IN | OUT)
                return
            except OSError:
                self.close()
                return
            for fd in fds:
                os.close(fd)
            if sent == len(raw):
                self._out.pop(0)
            else:
                self._out[0] = (raw[sent:], [])
        self._loop.set_mask(self._sock.fileno(), IN)

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
            if self.closed or not events & ~OUT:
                return
        try:
            data, ancillary, _flags, _address = self._sock.recvmsg(
                65536, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(body[: len(body) - len(body) % received.itemsize])
                self._fds.extend(received)
        if not data:
            self.close()
            return
        self._in += data
        if b"\n" not in data:
            if len(self._in) > MAX_LINE:
                self.close()
            return
        *lines, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        for line in lines:
            if not line.strip():
                continue
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                self.send({"id": None, "error": {"code": "InvalidArgument", "message": "a request is one JSON object a line"}})
                continue
            self._on_message(self, message)
            if self.closed:
                return


def listen(path: str, mode: int = 0o600) -> socket.socket:
    """A listening unix socket at `path`, root-only. A path too long for sun_path goes through /proc/self/fd."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = os.path.basename(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        old = os.umask(0o777 & ~mode)
        try:
            sock.bind(path if len(os.fsencode(path)) < 108 else f"/proc/self/fd/{folder}/{name}")
        finally:
            os.umask(old)
        sock.listen(64)
        sock.setblocking(False)
        return sock
    finally:
        os.close(folder)


def connect(path: str) -> socket.socket:
    """A connected unix socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if len(os.fsencode(path)) < 108:
            sock.connect(path)
        else:
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
    except OSError:
        sock.close()
        raise
    return sock


def serve(loop: Loop, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
    """Accept for ever."""

    def ready(_events: int) -> None:
        while True:
            try:
                peer, _ = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return
            accepted(peer)

    loop.watch(sock.fileno(), ready)
