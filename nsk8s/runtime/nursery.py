"""Forks sandbox processes, and does nothing else, ever. Lean. Touches: processes.

Memory is why it exists. A fork shares every page with its parent until one of the two writes to it: forked from the runtime,
which goes on working, each sandbox process would end up owning the old copy of all that the runtime has changed since (with
it a pod's process has 2.4 MB instead of 3.9). This one forked off before the runtime did anything, and does next to nothing
between two forks.

It dies with the runtime; a new runtime has a new one. Sandbox processes outlive both.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from nsk8s.kernel import process
from nsk8s.kernel import syscalls as sc
from nsk8s.runtime import container, pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from nsk8s.kernel.cgroup import Cgroups


class Nursery:
    """The runtime's side. `fork` starts the process first where there is none."""

    def __init__(self, state_dir: str, cgroups: Cgroups) -> None:
        self.state_dir = state_dir
        self.cgroups = cgroups
        self.sock: socket.socket | None = None
        self.pid = 0

    def start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self.pid == 0:
            serve(theirs, self.state_dir, self.cgroups, parent)
        theirs.close()
        self.sock = ours

    def fork(self, words: list[str], fds: list[int]) -> int:
        """The pid of a new sandbox process; it gets `words` and descriptors, see `pause.main`. Raises OSError."""
        for _ in range(2):
            if self.sock is None:
                self.start()
            assert self.sock is not None
            try:
                socket.send_fds(self.sock, ["\0".join(words).encode()], fds)
                answer = self.sock.recv(16)
            except OSError:
                answer = b""
            if answer:
                pid = int(answer)
                if pid < 0:
                    raise OSError(-pid, os.strerror(-pid))
                return pid
            self.stop()  # somebody killed it
        raise ChildProcessError("the process that forks sandboxes was killed")

    def stop(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                return


def serve(sock: socket.socket, state_dir: str, cgroups: Cgroups, parent: int) -> NoReturn:
    """In the fork: one datagram a sandbox, answered with the pid or -errno."""
    try:
        gc.disable()
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        container.close_all_but(sock.fileno())
        container.reset_signals()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps; the runtime watches by pidfds
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        os.chdir("/")
        process.set_title("pause-nursery", "pause-nursery")
        me = os.getpid()
        while True:
            raw, fds, _, _ = socket.recv_fds(sock, 4096, 8)
            if not raw:
                os._exit(0)
            try:
                pid = os.fork()
            except OSError as e:
                pid = -(e.errno or 1)
            if pid == 0:
                sock.close()
                pause.main(raw, fds, state_dir, cgroups, me)
            sock.send(b"%d" % pid)
            for fd in fds:
                os.close(fd)
    except BaseException as e:
        sys.stderr.write(f"pause-nursery: {e!r}\n")
    finally:
        os._exit(1)
