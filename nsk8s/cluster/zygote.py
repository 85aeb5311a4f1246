"""The process that components are forked from: everything imported once, no event loop, no thread, no socket but one.

Touches: fork.  A forked component costs about 3 MB and 3 ms; a fresh interpreter with the same imports 25 MB and 0.5 s.
Requests come as JSON lines on the inherited socket; each answer names the child: `{"id", "pid"}`.  The child is forked
twice, so that the supervisor (a subreaper) becomes its parent and learns how it ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import traceback

from nsk8s.cluster.launch import become

PRELOAD = (
    "asyncio", "uvloop", "aiohttp.web", "orjson", "click", "yaml", "ssl", "cryptography.x509",
    "nsk8s.apiserver.main", "nsk8s.scheduler.main", "nsk8s.controllers.main", "nsk8s.kubelet.main", "nsk8s.proxy.main",
    "nsk8s.nodenetwork.main", "nsk8s.cluster.forwarder", "setproctitle",
)  # fmt: skip


def serve(sock: socket.socket, run_dir: str) -> None:
    """Fork on request until the supervisor's end of `sock` closes."""
    for name in PRELOAD:
        try:
            importlib.import_module(name)
        except Exception:  # a broken component must not keep the others from starting; its own start will tell
            traceback.print_exc()
    gc.collect()
    gc.freeze()
    with sock.makefile("rb") as requests:
        for line in requests:
            spec = json.loads(line)
            pid = _fork_twice(run_dir, spec)
            sock.sendall(json.dumps({"id": spec["id"], "pid": pid}).encode() + b"\n")


def _fork_twice(run_dir: str, spec: dict[str, object]) -> int:
    read, write = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid == 0:
            become(run_dir, spec)
        os.write(write, str(pid).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        answer = f.read()
    os.waitpid(between, 0)
    return int(answer or 0)
