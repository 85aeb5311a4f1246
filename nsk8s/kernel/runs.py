"""Run a program that reads stdin and ends: iptables-restore, nft. Touches: processes, anonymous files, pipes.

Made for a big caller: the child does not copy the caller's page tables (posix_spawn is a vfork), and a pidfd tells its end. A
fork of the kube-proxy of 10,000 Services takes milliseconds before a rule is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import signal
from collections.abc import Callable, Iterable
from typing import NamedTuple

_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ]
"""What Python ignores and a program expects to die of."""
PIPE_BYTES = 1 << 20
"""As much as root's pipes may hold: who reads lags behind who writes by that much before it waits."""
CHUNK_CHARACTERS = 1 << 16


class Done(NamedTuple):
    code: int
    out: str
    err: str


async def run(argv: list[str], text: str | Iterable[str] = "") -> Done:
    """Run it until it ends; it reads `text`. Parts are made while it reads those before. OSError: it cannot be started.

    Whoever cancels this kills the program, and does not wait for its end: it may be deep in a system call.
    """
    with contextlib.ExitStack() as held:
        out, err = _memory(held, "stdout"), _memory(held, "stderr")
        feed: io.FileIO | None = None
        with contextlib.ExitStack() as the_childs:
            if isinstance(text, str):
                source = _memory(the_childs, "stdin")
                _write_all(source, text.encode())
                os.lseek(source, 0, os.SEEK_SET)
            else:
                source, fd = os.pipe2(os.O_CLOEXEC)
                the_childs.callback(os.close, source)
                feed = held.enter_context(io.FileIO(fd, "w"))
            actions = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((source, out, err))]
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigdef=_SIGNALS)
        try:
            ended = os.pidfd_open(pid)
            held.callback(os.close, ended)
            if feed is not None:
                await _feed(feed, text)
            await _readable(ended)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
            raise
        return Done(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), _all_of(out), _all_of(err))


def _memory(held: contextlib.ExitStack, name: str) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    held.callback(os.close, fd)
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _all_of(fd: int) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).decode(errors="replace") if size else ""


async def _feed(pipe: io.FileIO, parts: Iterable[str]) -> None:
    """Write them and close. A reader that has ended is no error: its exit code tells."""
    with pipe, contextlib.suppress(BrokenPipeError):
        with contextlib.suppress(OSError):  # a smaller pipe does, too
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(pipe.fileno(), False)
        for chunk in _chunks(parts):
            view = memoryview(chunk)
            while view:
                try:
                    view = view[os.write(pipe.fileno(), view) :]
                except BlockingIOError:
                    await _writable(pipe.fileno())


def _chunks(parts: Iterable[str]) -> Iterable[bytes]:
    waiting, size = [], 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= CHUNK_CHARACTERS:
            yield "".join(waiting).encode()
            waiting, size = [], 0
    yield "".join(waiting).encode()


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    await _ready(fd, loop.add_reader, loop.remove_reader)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    await _ready(fd, loop.add_writer, loop.remove_writer)


async def _ready(fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]) -> None:
    event = asyncio.Event()
    add(fd, event.set)
    try:
        await event.wait()
    finally:
        remove(fd)
