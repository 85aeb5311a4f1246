"""Exec in a running container: a forked helper enters its namespaces and control group, forks the command there, waits for it.

Touches: processes, namespaces. Upstream: runc exec; containerd's internal/cri/server/container_execsync.go.
"""

from __future__ import annotations

import base64
import os
import select
import signal
import socket
import time

from nsk8s.kernel import process
from nsk8s.kernel import syscalls as sc
from nsk8s.kernel.cgroup import Cgroups
from nsk8s.runtime import console
from nsk8s.runtime import container as child
from nsk8s.runtime.errors import CriError, DeadlineExceeded, FailedPrecondition, Unavailable, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_OUTPUT = 16 << 20
"""Of each stream, as in containerd; what is beyond is read and thrown away."""
DRAIN_S = 1.0
"""How long after the command's end its streams may stay open (in the hands of a process that it left behind)."""
_NAMESPACES = (
    ("cgroup", sc.CLONE_NEWCGROUP), ("net", sc.CLONE_NEWNET), ("uts", sc.CLONE_NEWUTS), ("ipc", sc.CLONE_NEWIPC),
    ("mnt", sc.CLONE_NEWNS),
)  # fmt: skip


def start(who: dict[str, Any], spec: dict[str, Any], cmd: list[str], tty: bool, stdio: list[int], cgroups: Cgroups) -> int:
    """The pid of `cmd`, running in the container whose first process is `who`. Raises CriError with runc's words.

    `stdio`: descriptors 0, 1 and 2; with `tty` the one socket over which the master of its new terminal goes.
    The caller is a helper that may be thrown away: its future children are born in the container's pid namespace.
    """
    pid = who["pid"]
    try:
        namespaces = [(os.open(f"/proc/{pid}/ns/{n}", os.O_RDONLY | os.O_CLOEXEC), kind) for n, kind in _NAMESPACES]
        pid_namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise FailedPrecondition("the container is not running") from e
    if not process.is_alive({k: who[k] for k in ("pid", "start", "boot")}):
        raise FailedPrecondition("the container is not running")
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
    sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
    read, write = os.pipe2(os.O_CLOEXEC)
    enters = os.fork()
    if enters == 0:
        env = {**spec["env"], "TERM": "xterm"} if tty else spec["env"]
        command = {**spec, "argv": cmd, "tty": tty, "env": env}
        _enter(command, stdio, write, [*namespaces, (pid_namespace, sc.CLONE_NEWPID)], cgroups)
    os.close(write)
    said = b""
    while data := os.read(read, 4096):
        said += data
    os.close(read)
    os.waitpid(enters, 0)
    before, pid, after = said.split(b"\0") if b"\0" in said else (said, b"", b"")
    if before or after:
        if pid:
            os.waitpid(int(pid), 0)
        raise CriError(
            "failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: "
            f"{(before or after).decode('utf-8', 'replace')}: unknown"
        )
    if not pid:
        raise FailedPrecondition("the container is ending")
    return int(pid)


def _enter(
    spec: dict[str, Any], stdio: list[int], status: int, namespaces: list[tuple[int, int]], cgroups: Cgroups
) -> None:
    """Become as harmless as the container before there is a process in its pid namespace: whoever has CAP_SYS_PTRACE there could
    otherwise use what that process still holds. It is a child of this one and, when this one has ended, of the helper. `status`
    gets its pid between two zero bytes; before or after it (both write) the reason of a failure, if there is one."""
    try:
        child.reset_signals()
        sc.prctl(sc.PR_SET_PDEATHSIG, 0)
        os.umask(0o022)
        tty = spec["tty"]
        if not tty:
            child.take_stdio(stdio)
        cgroups.join(spec["cgroup"])
        child.forbid_imports()
        child.set_oom_score(spec["oomScoreAdj"])
        for fd, kind in namespaces:
            sc.setns(fd, kind)
        os.chdir("/")
        child.close_all_but(status, *stdio[:tty])
        child.drop_privileges(spec)
        if tty:
            console.take(stdio[0])
            os.read(stdio[0], 1)  # closed at the other side: the terminal has its size
            os.close(stdio[0])
        sc.prctl(sc.PR_SET_DUMPABLE, 0)  # a change of the user has switched it on again
        pid = os.fork()
        if pid == 0:
            child.new_session(tty)
            child.exec_program(spec)
        os.write(status, b"\0%d\0" % pid)
        os._exit(0)
    except BaseException as e:
        child.fail(status, e)


def exit_code(pid: int) -> int:
    """Wait for it. A signal counts as 128 + its number."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def stream(
    who: dict[str, Any], spec: dict[str, Any], params: dict[str, Any], fds: list[int], cgroups: Cgroups
) -> dict[str, Any]:
    """Exec: the command's streams are the caller's descriptors; with `tty`, the caller gets the master of its terminal."""
    tty = bool(params.get("tty"))
    given = iter(fds)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    stdio = [fds[0]] if tty else [next(given) if params.get(s) else null for s in ("stdin", "stdout", "stderr")]
    pid = start(who, spec, params["cmd"], tty, stdio, cgroups)
    for fd in {*fds, null}:
        os.close(fd)
    return {"exitCode": exit_code(pid)}


def sync(who: dict[str, Any], spec: dict[str, Any], cmd: list[str], timeout_s: float, cgroups: Cgroups) -> dict[str, Any]:
    """ExecSync: collect both streams; DeadlineExceeded (and SIGKILL) when time is up."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    pid = start(who, spec, cmd, False, [null, out_write, err_write], cgroups)
    for fd in (null, out_write, err_write):
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    collected: dict[int, bytearray] = {out_read: bytearray(), err_read: bytearray()}
    poller = select.poll()
    left = {out_read, err_read, pidfd}
    for fd in left:
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s if timeout_s > 0 else None
    timed_out = False
    while left:
        wait_ms = None if deadline is None else max((deadline - time.monotonic()) * 1000, 0)
        ready = poller.poll(wait_ms)
        if not ready:
            if pidfd not in left:
                break  # it has ended; somebody else holds its streams
            timed_out = True
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            deadline = time.monotonic() + DRAIN_S
            continue
        for fd, _ in ready:
            data = b"" if fd == pidfd else os.read(fd, 65536)
            if data:
                room = MAX_OUTPUT - len(collected[fd])
                collected[fd] += data[:room]
                continue
            poller.unregister(fd)
            left.discard(fd)
            if fd == pidfd:
                deadline = time.monotonic() + DRAIN_S
    code = exit_code(pid)
    if timed_out:
        text = " ".join(cmd)
        raise DeadlineExceeded(f'command "{text}" timed out: timeout {timeout_s:g}s exceeded')
    return {
        "stdout": base64.b64encode(collected[out_read]).decode(),
        "stderr": base64.b64encode(collected[err_read]).decode(),
        "exitCode": code,
    }


def dial(netns: str, port: int, answer: socket.socket) -> dict[str, Any]:
    """PortForward: connect to the pod's own loopback and hand the socket over `answer`. An empty `netns` is the node's."""
    if netns:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(fd, sc.CLONE_NEWNET)
    problem = ""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            sock.settimeout(10)
            sock.connect((host, port))
        except OSError as e:
            problem = problem or f"dial tcp4 {host}:{port}: connect: {describe(e)}"
            continue
        sock.setblocking(True)
        socket.send_fds(answer, [b"x"], [sock.fileno()])
        return {}
    raise Unavailable(f"failed to execute portforward in network namespace {netns or 'host'!r}: {problem}")
