"""From a spec to a running component: what a freshly forked child does before the component's own main. Lean.

Touches: namespaces, cgroups, files, signals.  A spec is plain JSON:
`{"id": "node1/kubelet", "name", "machine", "target": "package.module:function", "argv", "kind": "fork" | "lean",
"netns", "mnt" (paths, or ""), "cgroup", "log", "listen": [address, port] (optional)}`.

Identity: the child holds a POSIX lock on `procs/<machine>.<name>` for its life and writes who it is there before it starts
work. So a supervisor that was killed between fork and bookkeeping finds every child again, and none can run twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
import traceback

from nsk8s.kernel import machine, process, syscalls
from nsk8s.kernel.cgroup import Cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Spec = dict[str, Any]

LOG_MODE = 0o640
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""At its start; what it executes with subprocess has them back."""


def identity_file(run_dir: str, spec_id: str) -> str:
    return f"{run_dir}/procs/{spec_id.replace('/', '.')}"


def read_identity(run_dir: str, spec_id: str) -> dict[str, int | str] | None:
    """Who runs as `spec_id`, if it is alive."""
    try:
        with open(identity_file(run_dir, spec_id), encoding="ascii") as f:
            who: dict[str, int | str] = json.loads(f.read())
    except (OSError, ValueError):
        return None
    return who if process.is_alive(who) else None


def resolve(target: str) -> Any:
    """`package.module:function` → the function."""
    import importlib

    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def become(run_dir: str, spec: Spec) -> NoReturn:
    """Turn the calling (forked, single-threaded) process into the component. Never returns."""
    code = 1
    try:
        os.setsid()
        _reset_signals()
        _redirect(spec["log"])
        lock = claim(run_dir, spec["id"])
        if lock is None:
            os._exit(0)
        _join(spec["cgroup"])
        argv = list(spec["argv"])
        if spec.get("listen"):
            address, port = spec["listen"]
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(512)
            argv += ["--listen-fd", str(listener.detach())]
        main = resolve(spec["target"])
        if spec["netns"]:
            machine.enter(spec["netns"], spec["mnt"] or None)
        os.chdir("/")
        os.environ.update(spec.get("env") or {})
        _title(spec, argv)
        code = main(argv)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _reset_signals() -> None:
    """As a fresh interpreter has them: who writes to a socket or pipe whose reader has gone gets an error, and is not killed."""
    for signum in range(1, 32):
        if signum not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(signum, signal.SIG_IGN if signum in PYTHON_IGNORES else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _redirect(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, LOG_MODE)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.closerange(3, 4096)  # nothing of the parent's: not its sockets, not its locks
    # Buffered text objects of the parent must not write what it had pending.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def claim(run_dir: str, spec_id: str) -> int | None:
    """Take the component's identity; None when a living process has it."""
    path = identity_file(run_dir, spec_id)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    os.write(fd, json.dumps({**process.identity(os.getpid()), "since": int(time.time())}).encode())
    return fd


def _join(path: str) -> None:
    groups = Cgroups()
    groups.create(path)
    groups.join(path)


def _title(spec: Spec, argv: list[str]) -> None:
    """`ps` shows `kubelet nsk8s-node1 --hostname-override=node1 …`; comm is the component's name."""
    from setproctitle import setproctitle

    setproctitle(" ".join([spec["name"], os.path.basename(spec["netns"]) or "-", *argv]))
    syscalls.set_process_name(spec["name"])
