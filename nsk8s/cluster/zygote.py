"""The process that components are forked from: everything imported once, no event loop, no thread, no socket but one.

Touches: fork.  A forked component costs about 3 ms and, once it works, 10 to 12 MB of pages that it has written to (reference
counts, caches in code objects); a fresh interpreter with the same imports 40 MB and 0.5 s.
Requests come as JSON lines on the inherited socket; each answer names the child: `{"id", "pid"}`.  The child is forked
twice, so that the supervisor (a subreaper) becomes its parent and learns how it ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable

from nsk8s.cluster.launch import become
from nsk8s.kernel import process

PRELOAD = (
    "setproctitle", "asyncio", "uvloop", "ssl", "nsk8s.client.http", "aiohttp.web", "orjson", "click", "yaml",
    "cryptography.x509", "encodings.ascii", "encodings.idna",
    "nsk8s.api.yamldoc", "nsk8s.cluster.forwarder", "nsk8s.apiserver.main", "nsk8s.nodenetwork.agent", "nsk8s.nodenetwork.main",
    "nsk8s.networkpolicy.agent", "nsk8s.networkpolicy.main",
    "nsk8s.kubelet.main", "nsk8s.proxy.server", "nsk8s.proxy.main", "nsk8s.controllers.main", "nsk8s.scheduler.main",
    "nsk8s.loadbalancer.main",
)  # fmt: skip
"""In the order in which a starting cluster needs them. Of the API server only what others have too: the rest it imports itself,
on another core, while this process goes on for the nodes."""


class Zygote:
    """Requests are met in the order in which they can be: one whose modules are there does not wait for the others' imports."""

    def __init__(self, sock: socket.socket, run_dir: str) -> None:
        self._sock, self._run_dir = sock, run_dir
        self._buffer = b""
        self._waiting: list[dict[str, str]] = []

    def serve(self) -> None:
        """Fork on request until the supervisor's end of the socket closes."""
        process.boot_id()  # read here once: the first import or text file after a fork copies a megabyte
        gc.disable()  # nothing of what imports make is garbage
        for name in PRELOAD:
            try:
                importlib.import_module(name)
            except Exception:  # a broken component must not keep the others from starting; its own start will tell
                traceback.print_exc()
            self._receive(socket.MSG_DONTWAIT)
            self._fork(lambda spec: spec["target"].partition(":")[0] in sys.modules)
        gc.enable()
        gc.collect()
        self._fork(lambda spec: True)
        while self._receive(0):
            self._fork(lambda spec: True)

    def _receive(self, flags: int) -> bool:
        """Take in requests; False when the other end is closed."""
        try:
            data = self._sock.recv(65536, flags)
        except BlockingIOError:
            return True
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._waiting += [json.loads(line) for line in lines]
        return bool(data)

    def _fork(self, possible: Callable[[dict[str, str]], bool]) -> None:
        now = [spec for spec in self._waiting if possible(spec)]
        if now:
            gc.freeze()
        for spec in now:
            self._waiting.remove(spec)
            pid = _fork_twice(self._run_dir, spec)
            self._sock.sendall(json.dumps({"id": spec["id"], "pid": pid}).encode() + b"\n")


def _fork_twice(run_dir: str, spec: dict[str, str]) -> int:
    read, write = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid == 0:
            gc.enable()
            become(run_dir, spec)
        os.write(write, str(pid).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        answer = f.read()
    os.waitpid(between, 0)
    return int(answer or 0)
