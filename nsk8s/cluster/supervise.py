"""Talking to the supervisor, and starting one when there is none. Touches: a unix socket, fork and exec."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from typing import Any

from nsk8s.cluster import launch
from nsk8s.cluster.state import Paths
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import process
from nsk8s.kernel.cgroup import Cgroups

START_TIMEOUT_S = 20.0


def call(paths: Paths, request: dict[str, Any], timeout_s: float = 30.0) -> dict[str, Any] | None:
    """The supervisor's answer; None when none is running. Raises Nsk8sError when it refuses the request."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(timeout_s)
            s.connect(str(paths.supervisor_socket))
            s.sendall(json.dumps(request).encode() + b"\n")
            with s.makefile("rb") as f:
                line = f.readline()
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        return None
    except OSError as e:
        raise Nsk8sError(f"the supervisor of cluster {paths.name} does not answer: {e}") from e
    if not line:
        return None
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise Nsk8sError(f"the supervisor refused: {answer['error']}")
    return answer


def ensure_running(paths: Paths) -> bool:
    """Start a supervisor if none answers; True when one was started. It takes over whatever its predecessor ran."""
    if call(paths, {"op": "status"}) is not None:
        return False
    start(paths).wait()
    return True


class Starting:
    """A supervisor that is on its way; `wait` returns when it answers."""

    def __init__(self, paths: Paths, ready_fd: int, log: str) -> None:
        self._paths, self._fd, self._log = paths, ready_fd, log

    def wait(self) -> None:
        """Raises Nsk8sError when it died instead."""
        with os.fdopen(self._fd, "rb") as f:
            if f.read(1) == b"1":
                return
        # Perhaps that of an earlier command, which was killed, was on its way, and this one made room for it.
        deadline = time.monotonic() + START_TIMEOUT_S
        while launch.read_identity(str(self._paths.run), "supervisor") is not None and time.monotonic() < deadline:
            if call(self._paths, {"op": "status"}) is not None:
                return
            time.sleep(0.02)
        raise Nsk8sError("the supervisor did not start", f"see {self._log}")


def start(paths: Paths) -> Starting:
    """Exec a supervisor in a session of its own, so that it outlives this command and the login it came from. Raises OSError."""
    log = paths.log("cluster", "supervisor")
    log.parent.mkdir(parents=True, exist_ok=True)
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)  # here: what fails in the child nobody hears in words
    ready_r, ready_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if os.fork():
                os._exit(0)
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.set_inheritable(ready_w, True)
            os.chdir("/")
            # While this process has the command's lock, which it inherited: a `down` that comes next finds it in the group.
            groups = Cgroups()
            groups.create(f"{paths.cgroup}/supervisor")
            groups.join(f"{paths.cgroup}/supervisor")
            os.closerange(3, ready_w)
            os.closerange(ready_w + 1, 1024)
            package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            os.environ["PYTHONPATH"] = package_parent
            argv = ["-m", "nsk8s.cluster.supervisor", str(paths.run), f"{paths.cgroup}/supervisor", str(ready_w)]
            process.exec_readonly(sys.executable, [sys.executable, *argv], os.environ)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    os.close(ready_w)
    os.close(out)
    return Starting(paths, ready_r, str(log))
