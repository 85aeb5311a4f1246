"""Who a process is, for as long as anybody remembers it. Lean. Touches: /proc, pidfds, signals.

A pid alone names nobody: it is used again. A process is (pid, start time, boot id); only that triple is ever recorded
or killed.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from nsk8s.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


_boot_id = ""


def boot_id() -> str:
    """Does not change while this process lives, so it is read once."""
    global _boot_id
    if not _boot_id:
        with open(BOOT_ID_FILE, encoding="ascii") as f:
            _boot_id = f.read().strip()
    return _boot_id


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat: clock ticks since boot; None when there is no such process or it is a zombie."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(fd)
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def identity(pid: int) -> dict[str, int | str]:
    """What to record of a living process: `{"pid", "start", "boot"}`. Raises ProcessLookupError."""
    start = start_time(pid)
    if start is None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid))
    return {"pid": pid, "start": start, "boot": boot_id()}


def is_alive(who: dict[str, int | str]) -> bool:
    """True while the recorded process, and not another with its pid, runs."""
    return who["boot"] == boot_id() and start_time(int(who["pid"])) == who["start"]


def open_pidfd(who: dict[str, int | str]) -> int | None:
    """A pidfd of the recorded process, or None when it is gone. The identity is checked after opening: no race."""
    try:
        fd = os.pidfd_open(int(who["pid"]))
    except OSError:
        return None
    if is_alive(who):
        return fd
    os.close(fd)
    return None


def send_signal(who: dict[str, int | str], signum: int) -> bool:
    """Signal the recorded process; False when it is gone."""
    fd = open_pidfd(who)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def wait_gone(fds: list[int], timeout_s: float) -> list[int]:
    """Wait until the processes behind these pidfds have ended; returns those that have not when time is up."""
    poller = select.poll()
    left = set(fds)
    for fd in left:
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while left:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        for fd, _ in poller.poll(remaining * 1000):
            poller.unregister(fd)
            left.discard(fd)
    return [fd for fd in fds if fd in left]


def kill_all(processes: list[dict[str, int | str]], grace_s: float = 0.0, kill_timeout_s: float = 10.0) -> int:
    """End these processes: SIGTERM, and SIGKILL after `grace_s` (0: SIGKILL at once). Returns how many survive even that."""
    fds = [fd for who in processes if (fd := open_pidfd(who)) is not None]

    def signal_each(targets: list[int], signum: int) -> None:
        for fd in targets:
            try:
                signal.pidfd_send_signal(fd, signum)
            except ProcessLookupError:
                continue

    try:
        left = fds
        if grace_s > 0:
            signal_each(left, signal.SIGTERM)
            left = wait_gone(left, grace_s)
        signal_each(left, signal.SIGKILL)
        return len(wait_gone(left, kill_timeout_s))
    finally:
        for fd in fds:
            os.close(fd)


def exec_readonly(path: str, argv: list[str], env: dict[str, str] | os._Environ[str]) -> NoReturn:
    """Become a program by a read-only view of its file. /proc/PID/exe of this process and of all its forks can then not be opened
    for writing by anybody, a container that got hold of it included (CVE-2019-5736). Before Linux 5.12: plainly."""
    folder, name = os.path.split(os.path.realpath(path))
    try:
        fd = syscalls.open_tree_readonly(folder)
    except OSError:
        os.execve(path, argv, env)
    os.execve(f"/proc/self/fd/{fd}/{name}", argv, env)


def set_title(title: str, comm: str = "") -> None:
    """What `ps` shows of this process: its command line, and its name where `comm` (15 bytes) is given."""
    syscalls.overwrite_argv(os.fsencode(title))
    if comm:
        syscalls.set_process_name(comm)
