"""From a fork to the container's own program: namespaces, root, privileges, exec. Nothing here returns to Python's caller.

Between entering the container's files and exec, nothing may be imported (the modules found would be the container's), and no file
descriptor of the node may be open. Touches: the calling process. Upstream: runc's libcontainer/standard_init_linux.go and
setns_init_linux.go.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import stat
import sys
import termios

from nsk8s.kernel import seccomp
from nsk8s.kernel import syscalls as sc
from nsk8s.kernel.cgroup import Cgroups
from nsk8s.runtime import console, rootfs
from nsk8s.runtime.errors import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NOFILE_SOFT, NOFILE_HARD = 1024, 524288


# What Python, a shell's nohup, a supervisor or our loops may have changed.
_HANDLED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD, signal.SIGXFSZ, signal.SIGUSR1,
    signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGALRM, signal.SIGWINCH,
)  # fmt: skip


OWN_EXECUTABLE = (os.stat("/proc/self/exe").st_dev, os.stat("/proc/self/exe").st_ino)


class StartError(Exception):
    """Why a program could not be started, in runc's words."""


def run(spec: dict[str, Any], stdio: list[int], status: int, cgroups: Cgroups) -> NoReturn:
    """In the fork: become the container. On failure the reason goes to `status` (close-on-exec: an EOF means success).

    `stdio`: descriptors 0, 1 and 2; for a container with a terminal, the one socket over which its master goes to the parent.
    """
    try:
        reset_process(status)
        tty = spec["tty"]
        if not tty:
            take_stdio(stdio)
        cgroups.join(spec["cgroup"])
        sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWCGROUP)
        root = rootfs.build(spec)
        forbid_imports()
        rootfs.enter(root)
        close_all_but(status, *stdio[:tty])
        if tty:
            console.take(stdio[0])
            os.close(stdio[0])
            console.become_the_containers(spec["uid"])
        new_session(tty)
        set_oom_score(spec["oomScoreAdj"])
        drop_privileges(spec)
        if spec.get("holdsSignals"):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        exec_program(spec)
    except BaseException as e:
        fail(status, e)


def fail(status: int, error: BaseException) -> NoReturn:
    try:
        os.write(status, describe(error).encode()[:4000] or b"unknown error")
    finally:
        os._exit(128)


def forbid_imports() -> None:
    """From here on an import would run the container's code with the node's privileges."""
    sys.meta_path.clear()
    sys.path.clear()


def reset_process(status: int) -> None:
    """Die with the parent, be unreadable for other processes of the pod until exec, and give signals back their meaning (Python
    ignores SIGPIPE, and that survives exec)."""
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
    poller = select.poll()
    poller.register(status, 0)
    if poller.poll(0):  # the other end of the pipe is closed: the parent was gone before we asked
        os._exit(1)
    reset_signals()
    os.umask(0o022)


def reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in _HANDLED:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def take_stdio(stdio: list[int]) -> None:
    """Descriptors 0, 1, 2. None of the three may be below 3."""
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)


def new_session(tty: bool) -> None:
    """A session of our own, with descriptor 0 as its controlling terminal."""
    os.setsid()
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def close_all_but(*keep: int) -> None:
    """Close all above 2 that is not named."""
    below = 3
    for fd in sorted(keep):
        os.closerange(below, fd)
        below = fd + 1
    os.closerange(below, 1 << 20)


def set_oom_score(value: int | None) -> None:
    """A container that was given none has 0, not that of the sandbox process, which forked it."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
            f.write(str(value or 0))
    except OSError:
        return  # lowering it needs CAP_SYS_RESOURCE, which this machine may withhold


def set_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = NOFILE_HARD if hard == resource.RLIM_INFINITY else min(hard, NOFILE_HARD)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(NOFILE_SOFT, ceiling), ceiling))
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def drop_privileges(spec: dict[str, Any]) -> None:
    """User, groups, capabilities, no_new_privs and the system call filter; the order is the kernel's."""
    set_limits()
    bits: int = spec["capabilities"]
    if spec["noNewPrivs"]:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
    sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)
    bits &= drop_bounding(bits)
    os.setgroups(spec["groups"])
    uid, gid = spec["uid"], spec["gid"]
    os.setresgid(gid, gid, gid)
    if spec.get("seccomp", not spec["privileged"]):
        seccomp.apply(spec["capabilities"])
    os.setresuid(uid, uid, uid)  # another user than root loses its capabilities here, as in runc
    if uid == 0:
        sc.capset(bits, bits, 0)


def drop_bounding(keep: int) -> int:
    """Drop all but `keep` from the bounding set; returns the capabilities that this machine has."""
    have = 0
    for bit in range(64):
        try:
            if not sc.prctl(sc.PR_CAPBSET_READ, bit):
                continue
        except OSError:
            break  # past the kernel's last capability
        have |= 1 << bit
        if not keep & (1 << bit):
            sc.prctl(sc.PR_CAPBSET_DROP, bit)
    return have


def exec_program(spec: dict[str, Any]) -> NoReturn:
    """Become the program. Raises StartError with runc's wording."""
    cwd = spec["workingDir"] or "/"
    try:
        os.chdir(cwd)
    except OSError as e:
        raise StartError(f'chdir to cwd ("{cwd}") set in config.json failed: {(e.strerror or "").lower()}') from e
    argv, env = spec["argv"], spec["env"]
    path = find_program(argv[0], env, cwd)
    refuse_own_executable(path)
    try:
        os.execve(path, argv, env)
    except OSError as e:
        raise StartError(f"exec {path}: {exec_error(e)}") from e


def refuse_own_executable(path: str, depth: int = 5) -> None:
    """A script that starts with `#!/proc/self/exe` would become this very interpreter, on the node's file system, and could then
    write to it (CVE-2019-5736)."""
    try:
        found = os.stat(path)
        if (found.st_dev, found.st_ino) == OWN_EXECUTABLE:
            raise StartError(f'exec: "{path}": permission denied')
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # not readable, so no script; exec will say what it thinks of it
    try:
        head = os.read(fd, 256)
    finally:
        os.close(fd)
    words = head[2:].split(b"\n")[0].split() if head[:2] == b"#!" else []
    if words and depth:
        refuse_own_executable(os.fsdecode(words[0]), depth - 1)


def exec_error(e: OSError) -> str:
    return "exec format error" if e.errno == errno.ENOEXEC else (e.strerror or "").lower()


def find_program(name: str, env: dict[str, str], cwd: str) -> str:
    """What `exec.LookPath` finds, with its messages."""
    if "/" in name:
        try:
            mode = os.stat(name).st_mode
        except OSError as e:
            raise StartError(f'exec: "{name}": stat {name}: {(e.strerror or "").lower()}') from e
        if stat.S_ISDIR(mode):
            raise StartError(f'exec: "{name}": is a directory')
        if not os.access(name, os.X_OK):
            raise StartError(f'exec: "{name}": permission denied')
        return name
    denied = False
    for folder in env.get("PATH", "").split(":"):
        candidate = f"{folder or '.'}/{name}"
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode):
            if os.access(candidate, os.X_OK):
                return candidate
            denied = True
    if denied:
        raise StartError(f'exec: "{name}": permission denied')
    raise StartError(f'exec: "{name}": executable file not found in $PATH')


