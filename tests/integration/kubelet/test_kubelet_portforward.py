"""kubectl port-forward, old (SPDY) and new (SPDY in WebSocket messages), through the API server to a pod."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kubelet_node import KubeletNode, pod

pytestmark = pytest.mark.root

SERVER = """
import socket, threading
def serve(c):
    data = b""
    while more := c.recv(65536):  # until the client has said all
        data += more
    c.sendall(b"%d bytes: " % len(data) + data)
    c.close()
s = socket.socket(); s.bind(("127.0.0.1", 8080)); s.listen(50)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],)).start()
"""
ASK = """
import socket, sys, concurrent.futures as f
def ask(i):
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
    s.sendall(bytes([65 + i % 26]) * (300000 if i == 3 else 10)); s.shutdown(socket.SHUT_WR)
    out = b""
    while more := s.recv(65536): out += more
    return len(out), out[:16].decode()
with f.ThreadPoolExecutor(20) as pool: print(list(pool.map(ask, range(20))))
"""


def kubectls() -> list[str]:
    folder = os.path.dirname(os.path.realpath(shutil.which("kubectl") or "/usr/bin/kubectl"))
    found = [n for n in (f"kubectl.1.{v}" for v in (30, 31, 33)) if os.path.exists(f"{folder}/{n}")]
    return [f"{folder}/{n}" for n in found] or ["kubectl"]


@contextmanager
def forward(node: KubeletNode, kubectl: str, *ports: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A running port-forward and what it has said."""
    log = Path(node.base / "forward.log")
    with log.open("w") as out:
        argv = [*node.enter, kubectl, "--kubeconfig", str(node.base / "kubeconfig"), "port-forward", "pod/server", *ports]
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, text=True)
        try:
            node.wait(lambda: "Forwarding from" in log.read_text() or process.poll() is not None, "forwarding")
            yield process, log.read_text
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(node: KubeletNode):
    node.network()
    node.apply(pod("server", "python3", "-c", SERVER, image="python"))
    node.wait_running("server")
    return node


@pytest.mark.parametrize("kubectl", kubectls(), ids=os.path.basename)
def test_many_connections_through_one_session(server: KubeletNode, kubectl: str):
    with forward(server, kubectl, ":8080", ":81") as (process, said):
        first, second = re.findall(r"Forwarding from 127.0.0.1:(\d+)", said())[:2]
        out = eval(server.run("python3", "-c", ASK, first).stdout)
        assert [size for size, _ in out] == [20 if i != 3 else 300014 for i in range(20)]
        assert [text[-1] for _, text in out] == [chr(65 + i) for i in range(20)]
        refused = server.run("python3", "-c", ASK, second, check=False)
        assert "(0, '')" in refused.stdout or refused.returncode != 0
        server.wait(lambda: "error forwarding port 81 to pod" in said(), "kubectl says why")
        assert "connect: connection refused" in said()
        if process.poll() is None:  # some versions end when a port cannot be reached
            assert server.run("python3", "-c", ASK, first).returncode == 0, "the session outlives it"


def test_a_pod_that_is_not_there(server: KubeletNode):
    done = server.run("kubectl", "--kubeconfig", str(server.base / "kubeconfig"), "port-forward", "pod/nobody", "1:1", check=False)
    assert done.returncode != 0
    assert "not found" in done.stderr
