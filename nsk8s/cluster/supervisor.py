"""One process a cluster that keeps the others running. It knows processes, not Kubernetes. Lean.

Counterpart: systemd, supervisord.  Touches: processes, files below the run directory, one unix socket.

Replaceable at any moment: the specs are on disk, every child records itself (see launch.py), and nothing depends on being
somebody's child.  A new supervisor takes over what lives and starts what does not.

Control socket (`<run>/supervisor.sock`), one JSON line each way: `{"op": "ensure", "specs": [...]}`, `{"op": "remove",
"ids": [...], "graceS": n}`, `{"op": "restart", "ids": [...]}`, `{"op": "status"}`, `{"op": "leave"}` (exit, children stay).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time

from nsk8s.cluster import launch
from nsk8s.kernel import process, syscalls
from nsk8s.kernel.cgroup import Cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 10.0
STEADY_S = 10.0
"""A component that ran for so long starts again without delay when it dies."""


def next_delay(failures: int) -> float:
    """Seconds before the next start after so many quick deaths in a row. Pure."""
    return 0.0 if failures <= 0 else float(min(FIRST_DELAY_S * 2 ** (failures - 1), MAX_DELAY_S))


class Component:
    """A spec and what is known of its process."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.who: dict[str, int | str] | None = None
        self.pidfd = -1
        self.starting = False
        self.started = 0.0
        self.failures = 0
        self.restarts = 0
        self.due: float | None = None  # monotonic time of the next start; None while it runs or is starting
        self.last_exit = ""


class Supervisor:
    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self.components: dict[str, Component] = {}
        self.poller = select.poll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.statuses: dict[int, int] = {}  # wait statuses of children that died, until somebody asks
        self.zygote: socket.socket | None = None
        self.zygote_buffer = b""
        self.zygote_pid = 0
        self.zygote_started = 0.0
        self.leaving = False
        self.groups = Cgroups()

    # ---- event loop

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        self.handlers[fd] = handler
        self.poller.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        self.poller.unregister(fd)
        del self.handlers[fd]

    def run(self, ready_fd: int) -> None:
        """Serve until told to leave. `ready_fd` gets one byte when the control socket answers."""
        wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.watch(wake_r, lambda: self._drain(wake_r))
        path = f"{self.run_dir}/supervisor.sock"
        if os.path.exists(path):
            os.unlink(path)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old_mask = os.umask(0o177)
        control.bind(path)
        os.umask(old_mask)
        control.listen(16)
        self.watch(control.fileno(), lambda: self._accept(control))
        self._start_zygote()
        self._load()
        if ready_fd >= 0:
            with contextlib.suppress(BrokenPipeError):  # the command that started us was killed
                os.write(ready_fd, b"1")
            os.close(ready_fd)
        while not self.leaving:
            timeout = self._start_due()
            for fd, _ in self.poller.poll(timeout):
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler()
            self._reap()

    def _on_signal(self, signum: int, frame: object) -> None:
        if signum != signal.SIGCHLD:
            self.leaving = True

    @staticmethod
    def _drain(fd: int) -> None:
        try:
            while os.read(fd, 4096):
                pass
        except BlockingIOError:
            return

    def _reap(self) -> None:
        """Collect every dead child: components, and orphans of dead runtimes that a subreaper inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.statuses[pid] = status
            if len(self.statuses) > 256:
                self.statuses.pop(next(iter(self.statuses)))

    # ---- specs

    def _load(self) -> None:
        try:
            with open(f"{self.run_dir}/specs.json", encoding="utf-8") as f:
                specs = json.load(f)
        except FileNotFoundError:
            return
        for spec in specs:
            self._ensure(spec)

    def _save(self) -> None:
        path = f"{self.run_dir}/specs.json"
        with open(path + ".new", "w", encoding="utf-8") as f:
            json.dump([c.spec for c in self.components.values()], f)
        os.replace(path + ".new", path)

    def _ensure(self, spec: dict[str, Any]) -> None:
        old = self.components.get(spec["id"])
        if old is not None:
            old.spec = spec
            return
        component = Component(spec)
        self.components[spec["id"]] = component
        who = launch.read_identity(self.run_dir, spec["id"])
        if who is not None and self._adopt(component, who):
            log(f"{spec['id']}: took over pid {who['pid']}")
        else:
            component.due = time.monotonic()

    def _adopt(self, component: Component, who: dict[str, int | str]) -> bool:
        fd = process.open_pidfd(who)
        if fd is None:
            return False
        component.who, component.pidfd = who, fd
        component.starting, component.due = False, None
        component.started = time.monotonic()
        self.watch(fd, lambda: self._died(component))
        return True

    def _died(self, component: Component) -> None:
        self.unwatch(component.pidfd)
        os.close(component.pidfd)
        pid = int(component.who["pid"]) if component.who else 0
        component.pidfd, component.who = -1, None
        self._reap()
        status = self.statuses.pop(pid, None)
        ran = time.monotonic() - component.started
        self._schedule_again(component, describe(status), ran)

    def _schedule_again(self, component: Component, how: str, ran_s: float) -> None:
        component.starting = False
        component.last_exit = how
        component.failures = 1 if ran_s > STEADY_S else component.failures + 1
        component.restarts += 1
        delay = next_delay(component.failures)
        component.due = time.monotonic() + delay
        log(f"{component.spec['id']}: {how} after {ran_s:.1f} s; starting again in {delay:.2f} s")

    def _start_due(self) -> float | None:
        """Start what is due; returns the milliseconds until the next one is (None: nothing planned)."""
        now = time.monotonic()
        for component in list(self.components.values()):
            if component.due is not None and component.due <= now:
                component.due = None
                self._start(component)
        due = [c.due for c in self.components.values() if c.due is not None]
        return max(0.0, (min(due) - now) * 1000) + 1 if due else None

    def _start(self, component: Component) -> None:
        component.starting = True
        component.started = time.monotonic()
        if component.spec["kind"] == "lean":
            pid = os.fork()
            if pid == 0:
                launch.become(self.run_dir, component.spec)
            self._started(component, pid)
        else:
            assert self.zygote is not None
            try:
                self.zygote.sendall(json.dumps(component.spec).encode() + b"\n")
            except OSError:
                component.due = time.monotonic() + FIRST_DELAY_S  # the zygote died: its handler starts another

    def _started(self, component: Component, pid: int) -> None:
        start = process.start_time(pid)
        if start is None or not self._adopt(component, {"pid": pid, "start": start, "boot": process.boot_id()}):
            self._reap()
            self._schedule_again(component, describe(self.statuses.pop(pid, None)), 0.0)

    # ---- zygote

    def _start_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid = os.fork()
        if pid == 0:
            self._become_zygote(ours, theirs)
        theirs.close()
        self.zygote, self.zygote_pid, self.zygote_buffer = ours, pid, b""
        self.zygote_started = time.monotonic()
        self.watch(ours.fileno(), self._from_zygote)

    def _become_zygote(self, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_DFL)
            ours.close()
            keep = theirs.fileno()
            os.closerange(3, keep)
            os.closerange(keep + 1, 4096)
            from nsk8s.cluster import zygote

            syscalls.set_process_name("nsk8s-zygote")
            title("nsk8s-zygote", self.run_dir)
            zygote.Zygote(theirs, self.run_dir).serve()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _from_zygote(self) -> None:
        assert self.zygote is not None
        try:
            data = self.zygote.recv(65536)
        except OSError:
            data = b""
        if not data:
            log("the zygote died; starting another")
            self.unwatch(self.zygote.fileno())
            self.zygote.close()
            if time.monotonic() - self.zygote_started < STEADY_S:
                time.sleep(1)  # it cannot even start: nothing forked from it would
            self._start_zygote()
            for component in self.components.values():
                if component.starting and component.spec["kind"] != "lean":
                    component.starting = False
                    component.due = time.monotonic()
            return
        *lines, self.zygote_buffer = (self.zygote_buffer + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            started = self.components.get(answer["id"])
            if started is not None and started.starting:
                self._started(started, answer["pid"])

    # ---- control socket

    def _accept(self, control: socket.socket) -> None:
        connection, _ = control.accept()
        connection.settimeout(5)
        try:
            with connection, connection.makefile("rb") as f:
                line = f.readline()
                if not line:
                    return
                try:
                    answer = self._answer(json.loads(line))
                except (KeyError, ValueError, TypeError) as e:
                    answer = {"error": f"bad request: {e!r}"}
                connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError as e:
            log(f"control connection: {e}")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request["op"]
        if op == "ensure":
            for spec in request["specs"]:
                self._ensure(spec)
            self._save()
        elif op == "remove":
            self._remove(request["ids"], request.get("graceS", 3.0))
            self._save()
        elif op == "restart":
            targets = [self.components[i] for i in request["ids"]]
            process.kill_all([c.who for c in targets if c.who is not None], grace_s=request.get("graceS", 3.0))
        elif op == "leave":
            self.leaving = True
        elif op != "status":
            raise ValueError(op)
        return {"components": [view(c) for c in self.components.values()], "pid": os.getpid(), "zygote": self.zygote_pid}

    def _remove(self, ids: list[str], grace_s: float) -> None:
        gone = [self.components.pop(i) for i in ids if i in self.components]
        for component in gone:
            if component.pidfd >= 0:
                self.unwatch(component.pidfd)
                os.close(component.pidfd)
        process.kill_all([c.who for c in gone if c.who is not None], grace_s=grace_s)


def view(component: Component) -> dict[str, Any]:
    """What `status` tells of a component."""
    who = component.who
    return {
        "id": component.spec["id"],
        "name": component.spec["name"],
        "machine": component.spec["machine"],
        "pid": who["pid"] if who else 0,
        "state": "running" if who else "starting" if component.starting else "waiting",
        "restarts": component.restarts,
        "lastExit": component.last_exit,
        "log": component.spec["log"],
    }


def describe(status: int | None) -> str:
    """A wait status in words. Pure."""
    if status is None:
        return "ended"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with {os.waitstatus_to_exitcode(status)}"


def log(text: str) -> None:
    print(time.strftime("%m%d %H:%M:%S"), "supervisor]", text, file=sys.stderr, flush=True)


def title(name: str, run_dir: str) -> None:
    from setproctitle import setproctitle

    setproctitle(f"{name} {os.path.basename(run_dir)}")


def main(argv: list[str]) -> int:
    """`python -m nsk8s.cluster.supervisor RUN_DIR CGROUP READY_FD`."""
    run_dir, cgroup, ready = argv[0], argv[1], int(argv[2])
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    supervisor = Supervisor(run_dir)
    supervisor.groups.create(cgroup)
    supervisor.groups.join(cgroup)
    supervisor.groups.leave_session(cgroup)
    lock = launch.claim(run_dir, "supervisor")
    if lock is None:
        log("another supervisor is running")
        return 0
    from nsk8s.runtime import main as _runtime  # noqa: F401  forked from here, so imported here

    title("nsk8s-supervisor", run_dir)
    syscalls.set_process_name("nsk8s-superv")
    supervisor.run(ready)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
