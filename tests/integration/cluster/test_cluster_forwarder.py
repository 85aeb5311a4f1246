"""The forwarder on loopback: bytes, half-closes, and no socket left when both ends are done."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class Echo(threading.Thread):
    """Answers each connection with all it got, once it has heard the end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as f:
            connection.sendall(f.read())


@contextlib.contextmanager
def forwarding(open_files: str = "") -> Iterator[tuple[int, int]]:
    """(pid, port)"""
    echo = Echo()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = ["--listen-fd", str(listener.fileno()), "--to", f"127.0.0.1:{echo.port}"]
        code = "import sys; from nsk8s.cluster.forwarder import main; sys.exit(main(sys.argv[1:]))"
        limited = ["prlimit", f"--nofile={open_files}"] if open_files else []
        process = subprocess.Popen([*limited, sys.executable, "-c", code, *argv], pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
    try:
        yield process.pid, port
        assert process.poll() is None, "it has died"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        echo.listener.close()


@pytest.fixture
def forwarder() -> Iterator[tuple[int, int]]:
    with forwarding() as found:
        yield found


def sockets(pid: int) -> int:
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return found


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as s, s.makefile("rb") as f:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        return f.read()


def test_an_end_is_passed_on_and_when_both_have_ended_no_socket_is_left(forwarder: tuple[int, int]) -> None:
    pid, port = forwarder
    assert ask(port, b"x" * 300_000) == b"x" * 300_000
    first = sockets(pid)  # the listener's, the loop's own, and perhaps this connection's two
    for _ in range(10):
        assert ask(port, b"hello") == b"hello"
    deadline = time.monotonic() + 30
    while sockets(pid) > first:
        assert time.monotonic() < deadline, f"{sockets(pid)} sockets, {first} after the first connection"
        time.sleep(0.01)


def test_more_connections_than_it_may_have_wait_and_end_nobody_elses() -> None:
    with forwarding("40:40") as (_, port):
        first = socket.create_connection(("127.0.0.1", port), timeout=30)
        first.sendall(b"first")
        others = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(60)]
        for s in others:
            s.close()
        assert ask(port, b"after them") == b"after them"
        with first, first.makefile("rb") as f:
            first.shutdown(socket.SHUT_WR)
            assert f.read() == b"first"


def test_a_logins_limit_of_open_files_is_raised() -> None:
    with forwarding("64:4096") as (pid, port):
        assert ask(port, b"started") == b"started"
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max open files +4096 +4096", limits), limits
