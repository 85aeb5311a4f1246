"""The forwarder on loopback: bytes, half-closes, and no socket left when both ends are done."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

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
            with connection, connection.makefile("rb") as f:
                connection.sendall(f.read())


@pytest.fixture
def forwarder() -> Iterator[tuple[int, int]]:
    """(pid, port)"""
    echo = Echo()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = ["--listen-fd", str(listener.fileno()), "--to", f"127.0.0.1:{echo.port}"]
        code = "import sys; from nsk8s.cluster.forwarder import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.Popen([sys.executable, "-c", code, *argv], pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
    yield process.pid, port
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    echo.listener.close()


def sockets(pid: int) -> int:
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return found


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s, s.makefile("rb") as f:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        return f.read()


def test_an_end_is_passed_on_and_when_both_have_ended_no_socket_is_left(forwarder: tuple[int, int]) -> None:
    pid, port = forwarder
    assert ask(port, b"x" * 300_000) == b"x" * 300_000
    first = sockets(pid)  # the listener's, the loop's own, and perhaps this connection's two
    for _ in range(10):
        assert ask(port, b"hello") == b"hello"
    deadline = time.monotonic() + 5
    while sockets(pid) > first:
        assert time.monotonic() < deadline, f"{sockets(pid)} sockets, {first} after the first connection"
        time.sleep(0.01)
