"""The sandbox process, one a pod: holds the namespaces, parents the containers, writes their logs, records how they end.

It survives the runtime, the kubelet and the supervisor; a restarted runtime finds it through its socket and its record. When it
dies, its containers die (PDEATHSIG). Touches: processes, files. Upstream: the pause container and containerd-shim.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time

from nsk8s.kernel import process
from nsk8s.kernel import syscalls as sc
from nsk8s.kernel.cgroup import Cgroups
from nsk8s.runtime import console, rootfs, store, wire
from nsk8s.runtime import container as child
from nsk8s.runtime.errors import describe
from nsk8s.runtime.logs import Framer, LogFile
from nsk8s.runtime.loop import IN, OUT, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_CHUNK = 65536
_MAX_QUEUE = 256 * 1024
START_ERROR_EXIT = 128
OOM_SCORE = -998  # containerd's defaultSandboxOOMAdj: out of memory, a pod's containers go before what holds its namespaces


def main(raw: bytes, fds: list[int], state_dir: str, cgroups: Cgroups, parent: int) -> NoReturn:
    """In the nursery's fork: enter what the runtime has made, then serve until killed. It does as little as can be: every page
    that it touches is a page of its own, once a pod.

    `raw`: the sandbox's folder, its control group, its pid mode and what `ps` shall show, separated by zero bytes. `fds`: the
    listening socket, then namespaces to enter.
    """
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)  # until the runtime has written down who we are and says so
        if os.getppid() != parent:
            os._exit(1)
        folder, cgroup, pid_mode, title = raw.decode().split("\0")
        os.setsid()
        cgroups.join(cgroup)
        child.set_oom_score(OOM_SCORE)
        sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
        for fd in fds[1:]:
            sc.setns(fd, 0)
            os.close(fd)
        process.set_title(title, "pause")
        Pause(folder, pid_mode, state_dir, cgroups, socket.socket(fileno=fds[0])).serve()
    except BaseException as e:
        sys.stderr.write(f"pause: {describe(e)}\n")
    finally:
        os._exit(1)


class Attached:
    """One client of a container's streams: descriptors that the kubelet handed over."""

    def __init__(self, loop: Loop, fds: dict[str, int], on_drain: Callable[[], None]) -> None:
        self.loop = loop
        self.fds = fds
        self.queues: dict[int, bytes] = {}
        self.finishing = False
        self.on_drain = on_drain
        for fd in set(fds.values()):
            os.set_blocking(fd, False)

    def write(self, stream: str, data: bytes) -> None:
        fd = self.fds.get(stream, -1)
        if fd < 0:
            return
        self.queues[fd] = self.queues.get(fd, b"") + data
        self.flush(fd)

    def flush(self, fd: int) -> None:
        queue = self.queues.get(fd, b"")
        try:
            while queue:
                queue = queue[os.write(fd, queue) :]
        except BlockingIOError:
            pass
        except OSError:
            queue = b""
            for name in [n for n, f in self.fds.items() if f == fd and n != "stdin"]:
                del self.fds[name]
        self.queues[fd] = queue
        if self.finishing:
            if not queue:
                self.let_go(fd)
            return
        if fd == self.fds.get("stdin", -1):
            self.loop.set_mask(fd, IN | OUT if queue else IN)
        elif queue:
            self.loop.watch(fd, lambda _events: self.flush(fd), OUT)
        else:
            self.loop.unwatch(fd)
        if len(queue) < _MAX_QUEUE:
            self.on_drain()

    def is_full(self) -> bool:
        return any(len(q) >= _MAX_QUEUE for q in self.queues.values())

    def finish(self) -> None:
        """Nothing more will come. What a slow reader has not taken goes into its pipe, made larger: we may be gone by then."""
        self.finishing = True
        everything, self.fds = {*self.fds.values(), *self.queues}, {}
        for fd in everything:
            queue = self.queues.get(fd, b"")
            if not queue:
                self.let_go(fd)
                continue
            enlarge(fd, _CHUNK + len(queue))
            self.loop.watch(fd, lambda _events, fd=fd: self.flush(fd), OUT)  # type: ignore[misc]
            self.flush(fd)

    def let_go(self, fd: int) -> None:
        self.loop.unwatch(fd)
        self.queues.pop(fd, None)
        try:
            os.close(fd)
        except OSError:
            return

    def close(self) -> None:
        for fd in {*self.fds.values(), *self.queues}:
            self.let_go(fd)
        self.fds = {}


def enlarge(pipe: int, size: int) -> None:
    """What is no pipe (a terminal's socket), or may not grow, stays as it is."""
    import fcntl

    try:
        if fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) < size:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
    except OSError:
        return


class Container:
    """One running container: its process, its streams, its log."""

    def __init__(self, pause: Pause, spec: dict[str, Any], folder: str) -> None:
        self.pause = pause
        self.loop = pause.loop
        self.spec = spec
        self.folder = folder
        self.id: str = spec["id"]
        self.status: dict[str, Any] = {}
        self.log = LogFile(spec["logPath"])
        self.framers: dict[int, tuple[str, Framer]] = {}
        self.attached: list[Attached] = []
        self.stdin = -1
        self.stdin_queue = b""
        self.stdin_closing = False
        self.console = -1
        """Where the terminal's master will come from."""
        self.ended: int | None = None
        self.failure = b""
        self.exec_fd = -1
        self.oom_before = 0

    def start(self) -> None:
        """Fork. Everything later comes through the loop. Raises OSError when there can be no process."""
        status_read, status_write = os.pipe2(os.O_CLOEXEC)
        mine, theirs = self.open_stdio()
        try:
            pid = self.pause.fork_into_pidns(self.spec, theirs, status_write)
        except OSError:
            for fd in {status_read, status_write, *theirs, *mine.values()}:
                os.close(fd)
            raise
        os.close(status_write)
        for fd in set(theirs):
            os.close(fd)
        start = process.start_time(pid)  # None: it is a zombie already
        self.status = {
            "pid": pid, "start": -1 if start is None else start, "boot": process.boot_id(), "createdPid": time.time_ns(),
        }  # fmt: skip
        self.record()
        self.exec_fd = status_read
        self.loop.watch(status_read, self.exec_ready)
        self.loop.watch_process(os.pidfd_open(pid), self.process_ended)
        if "console" in mine:
            self.console = mine["console"]
            os.set_blocking(self.console, False)
            self.loop.watch(self.console, self.console_ready)
        else:
            self.take_streams(mine)

    def take_streams(self, mine: dict[str, int]) -> None:
        self.stdin = mine.get("stdin", -1)
        if self.stdin >= 0:
            os.set_blocking(self.stdin, False)
        for stream in ("stdout", "stderr"):
            fd = mine.get(stream, -1)
            if fd >= 0:
                os.set_blocking(fd, False)
                self.framers[fd] = (stream, Framer(stream))
                self.loop.watch(fd, lambda events, fd=fd: self.stream_ready(fd, events))  # type: ignore[misc]

    def open_stdio(self) -> tuple[dict[str, int], list[int]]:
        """(our ends by name, the container's descriptors 0, 1, 2 or the socket that brings its terminal)."""
        if self.spec["tty"]:
            ours, theirs = socket.socketpair()
            return {"console": ours.detach()}, [theirs.detach()]
        mine: dict[str, int] = {}
        if self.spec["stdin"]:
            stdin, mine["stdin"] = os.pipe2(os.O_CLOEXEC)
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        mine["stdout"], stdout = os.pipe2(os.O_CLOEXEC)
        mine["stderr"], stderr = os.pipe2(os.O_CLOEXEC)
        return mine, [stdin, stdout, stderr]

    def record(self) -> None:
        store.write_json(self.folder + "/status.json", self.status)

    def console_ready(self, _events: int) -> None:
        """The container has made its terminal; or it has failed before."""
        master = console.receive(self.console)
        self.loop.unwatch(self.console)
        os.close(self.console)
        self.console = -1
        if master >= 0:
            self.take_streams({"stdin": master, "stdout": master})

    def exec_ready(self, _events: int) -> None:
        data = os.read(self.exec_fd, 4096)
        if data:
            self.failure += data
            return
        if self.console >= 0:
            self.console_ready(IN)
        self.loop.unwatch(self.exec_fd)
        os.close(self.exec_fd)
        self.exec_fd = -1
        if not self.failure and "startedAt" not in self.status:
            self.status["startedAt"] = time.time_ns()
            self.record()
            self.pause.tell({"event": "started", "id": self.id, "status": self.status})
        self.finish_if_done()

    def process_ended(self) -> None:
        if self.ended is not None:
            return
        try:
            _, raw = os.waitpid(self.status["pid"], 0)
        except ChildProcessError:
            raw = self.pause.reaped.pop(self.status["pid"], 0)
        self.ended = raw
        if self.exec_fd >= 0:
            self.exec_ready(IN)
        # What it wrote before its end is still in the pipes; a grandchild elsewhere may hold them open for ever.
        for fd in list(self.framers):
            self.drain(fd)
        self.finish_if_done()

    def drain(self, fd: int) -> None:
        for _ in range(64):
            if fd not in self.framers or not self.read_stream(fd):
                return

    def stream_ready(self, fd: int, _events: int) -> None:
        self.read_stream(fd)

    def read_stream(self, fd: int) -> bool:
        """Move what is there to the log and to who is attached; False at the end or when nothing is there."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as e:
            if e.errno != errno.EIO:  # what a terminal says when its other side is closed
                raise
            data = b""
        stream, framer = self.framers[fd]
        if not data:
            self.log.write(framer.finish(time.time_ns()))
            self.close_stream(fd)
            return False
        self.log.write(framer.feed(data, time.time_ns()))
        for client in self.attached:
            client.write(stream, data)
        if any(c.is_full() for c in self.attached):
            for other in self.framers:
                self.loop.set_mask(other, 0)
        return True

    def drained(self) -> None:
        if not any(c.is_full() for c in self.attached):
            for fd in self.framers:
                self.loop.set_mask(fd, IN)

    def close_stream(self, fd: int) -> None:
        self.framers.pop(fd, None)
        self.loop.unwatch(fd)
        if fd == self.stdin:
            self.stdin = -1
        os.close(fd)

    def finish_if_done(self) -> None:
        if self.ended is None or self.exec_fd >= 0 or "finishedAt" in self.status:
            return
        for fd in list(self.framers):
            self.log.write(self.framers[fd][1].finish(time.time_ns()))
            self.close_stream(fd)
        if self.stdin >= 0:
            self.loop.unwatch(self.stdin)
            os.close(self.stdin)
            self.stdin = -1
        self.log.close()
        code = os.waitstatus_to_exitcode(self.ended)
        if self.failure:
            text = self.failure.decode("utf-8", "replace")
            self.status.update(exitCode=START_ERROR_EXIT, reason="StartError", message=text, startedAt=0)
        else:
            self.status["exitCode"] = code if code >= 0 else 128 - code
            oom = code == -signal.SIGKILL and self.pause.cgroups.oom_kills(self.spec["cgroup"]) > 0
            self.status["reason"] = "OOMKilled" if oom else "Completed" if code == 0 else "Error"
            self.status.setdefault("startedAt", self.status["createdPid"])
        self.status["finishedAt"] = time.time_ns()
        self.record()
        for client in self.attached:
            client.finish()
        self.attached = []
        # A process that outlived its pid namespace's first one cannot exist, but an exec from outside may be dying still.
        self.pause.cgroups.kill(self.spec["cgroup"])
        del self.pause.containers[self.id]
        self.pause.tell({"event": "exited", "id": self.id, "status": self.status})

    def has_ended(self) -> bool:
        """Also when we have not heard of it yet."""
        try:
            return os.waitid(os.P_PID, self.status["pid"], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def attach(self, fds: dict[str, int]) -> None:
        """Raises ProcessLookupError when there is nothing more to see than the log has."""
        if self.has_ended():
            self.process_ended()  # the news goes before the refusal
            raise ProcessLookupError(errno.ESRCH, "the container does not run")
        if self.spec["tty"] and "stdin" in fds:
            console.send(fds["stdin"], self.stdin)  # for its size only: what it prints goes to the log as well, so we read it
        client = Attached(self.loop, fds, self.drained)
        self.attached.append(client)
        fd = fds.get("stdin", -1)
        if fd >= 0 and self.stdin >= 0:
            self.loop.watch(fd, lambda events: self.input_ready(client, fd, events))

    def input_ready(self, client: Attached, fd: int, events: int) -> None:
        if events & OUT:
            client.flush(fd)
        if not events & ~OUT:
            return
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and self.stdin >= 0:
            self.stdin_queue += data
            self.feed_stdin()
            return
        self.loop.unwatch(fd)
        if self.spec["tty"]:
            client.close()
            self.attached.remove(client)
            self.drained()
        elif self.spec["stdinOnce"]:
            self.stdin_closing = True
            self.feed_stdin()

    def feed_stdin(self) -> None:
        try:
            while self.stdin_queue and self.stdin >= 0:
                self.stdin_queue = self.stdin_queue[os.write(self.stdin, self.stdin_queue) :]
        except BlockingIOError:
            self.loop.call_later(0.01, self.feed_stdin)
            return
        except OSError:
            self.stdin_queue = b""
        if self.stdin_closing and self.stdin >= 0 and not self.spec["tty"]:
            os.close(self.stdin)
            self.stdin = -1


class Pause:
    """The loop of a sandbox."""

    def __init__(self, folder: str, pid_mode: str, state_dir: str, cgroups: Cgroups, listener: socket.socket) -> None:
        self.folder = folder
        self.pid_mode = pid_mode
        self.state_dir = state_dir
        self.cgroups = cgroups
        self.loop = Loop()
        self.containers: dict[str, Container] = {}
        self.peers: list[wire.Connection] = []
        self.reaped: dict[int, int] = {}
        self.listener = listener
        self.shared_init = 0
        wire.serve(self.loop, listener, self.accepted)
        self.loop.on_signals({signal.SIGCHLD: self.reap})

    def serve(self) -> None:
        if self.pid_mode == "POD":
            self.start_shared_pidns()
        self.loop.run()

    def accepted(self, peer: socket.socket) -> None:
        self.peers.append(wire.Connection(self.loop, peer, self.request, self.peers.remove))

    def tell(self, event: dict[str, Any]) -> None:
        for peer in list(self.peers):
            peer.send(event)

    def reap(self) -> None:
        """Orphans that were re-parented to us; containers are waited for by their pidfds."""
        mine = {c.status.get("pid") for c in self.containers.values()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in mine:
                return
            os.waitpid(found.si_pid, 0)
            if found.si_pid == self.shared_init:
                os._exit(1)  # the pod's pid namespace is gone, and with it everything in it

    def start_shared_pidns(self) -> None:
        """shareProcessNamespace: process 1 of the pod is a fork of ours that only reaps."""
        sc.unshare(sc.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            shared_init_main(self.folder)
        self.shared_init = pid

    def fork_into_pidns(self, spec: dict[str, Any], stdio: list[int], status: int) -> int:
        """Fork the container's first process: pid 1 of a namespace of its own, unless the pod shares one or it joins another
        container's."""
        before = os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if spec["pidMode"] == "CONTAINER":
                sc.unshare(sc.CLONE_NEWPID)
            elif spec["pidMode"] == "TARGET":
                self.join_pidns_of(spec["pidTarget"])
            pid = os.fork()
            if pid == 0:
                child.run(spec, stdio, status, self.cgroups)
            return pid
        finally:
            sc.setns(before, sc.CLONE_NEWPID)  # a second unshare would fail otherwise
            os.close(before)

    def join_pidns_of(self, container_id: str) -> None:
        target = self.containers.get(container_id)
        if target is None:
            raise ProcessLookupError(errno.ESRCH, "the target container does not run", container_id)
        fd = os.open(f"/proc/{target.status['pid']}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            sc.setns(fd, sc.CLONE_NEWPID)
        finally:
            os.close(fd)

    def request(self, peer: wire.Connection, message: dict[str, Any]) -> None:
        fds = peer.take_fds()
        answer: dict[str, Any] = {"event": "answer", "seq": message.get("seq")}
        try:
            self.handle(message, fds)
        except Exception as e:
            answer["error"] = describe(e)
            for fd in fds:
                os.close(fd)
        peer.send(answer)

    def handle(self, message: dict[str, Any], fds: list[int]) -> None:
        op, container_id = message["op"], message.get("id", "")
        if op == "outlive":
            sc.prctl(sc.PR_SET_PDEATHSIG, 0)
            return
        if op == "start":
            folder = f"{self.state_dir}/containers/{container_id}"
            record = store.read_json(folder + "/container.json")
            if record is None:
                raise FileNotFoundError(errno.ENOENT, "no record of the container", folder)
            container = Container(self, record["spec"], folder)
            self.containers[container_id] = container
            try:
                container.start()
            except OSError:
                del self.containers[container_id]
                raise
            return
        found = self.containers.get(container_id)
        if found is None:
            raise ProcessLookupError(errno.ESRCH, "the container does not run")
        if op == "reopen":
            found.log.reopen()
        elif op == "attach":
            names = message["streams"]
            found.attach(dict.fromkeys(("stdin", "stdout"), fds[0]) if message["tty"] else dict(zip(names, fds, strict=True)))
        else:
            raise ValueError(f"unknown request {op}")


def shared_init_main(folder: str) -> NoReturn:
    """Process 1 of a shared pid namespace: reap for ever. The containers see it, so it has nothing: no file but an empty folder
    (a container with CAP_SYS_PTRACE may walk /proc/1/root), no capability, no descriptor."""
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.closerange(3, 1 << 20)
        sc.unshare(sc.CLONE_NEWNS)
        sc.mount(None, "/", None, sc.MS_REC | sc.MS_SLAVE)
        sc.mount("empty", folder, "tmpfs", sc.MS_RDONLY | sc.MS_NODEV | sc.MS_NOSUID | sc.MS_NOEXEC, "size=4k,mode=555")
        rootfs.enter(folder)
        child.drop_bounding(0)
        sc.capset(0, 0, 0)
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
        sc.prctl(sc.PR_SET_DUMPABLE, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
        while True:
            signal.pause()
    except BaseException as e:
        sys.stderr.write(f"pause: {e}\n")
    finally:
        os._exit(1)
