"""Running plugins: found along CNI_PATH, then executed, forked, or called. Upstream: containernetworking/cni/pkg/invoke.

Touches: processes.  A file that is one of our own executables (same inode as in `cni.BIN_DIR`) can be called as a function
instead, with the same bytes and the same exit code; any other file is always executed.
"""

from __future__ import annotations

import errno
import gc
import os

from cni import BIN_DIR, installed_text, jsontext
from cni.errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from cni.skel import Args

    Main = Callable[[Mapping[str, str], bytes], tuple[int, bytes]]
    Runner = Callable[[str, Mapping[str, str], bytes], tuple[int, bytes]]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OURS = (
    "bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "static", "tuning",
)  # fmt: skip
_TEXT_BUSY_RETRIES = 5


def find_in_path(plugin: str, path: str) -> str:
    """The first regular file of that name along `path` (folders joined by colons). Raises CniError."""
    if not plugin:
        raise CniError("no plugin name provided")
    if "/" in plugin or plugin in (".", ".."):
        raise CniError(f"invalid plugin name: {plugin}")
    folders = [folder for folder in path.split(":") if folder]
    for folder in folders:
        candidate = os.path.join(folder, plugin)
        if os.path.isfile(candidate):
            return candidate
    raise CniError(f'failed to find plugin "{plugin}" in path [{" ".join(folders)}]')


def own_main(path: str) -> Main | None:
    """The function behind an executable of ours (or a copy that cni.install made), or None when the file is somebody else's."""
    name = os.path.basename(path)
    if name not in _OURS:
        return None
    try:
        if not os.path.samefile(path, os.path.join(BIN_DIR, name)) and not _is_installed_copy(path, name):
            return None
    except OSError:
        return None
    main: Main = __import__(f"cni.{name.replace('-', '_')}", fromlist=["main"]).main
    return main


def _is_installed_copy(path: str, name: str) -> bool:
    """Whether cni.install wrote that file: it runs this very code."""
    with open(path, "rb") as f:
        return f.read(4096) == installed_text(name).encode()


def run_exec(path: str, env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """Execute the plugin, as every runtime does. Its stderr is ours."""
    return spawn([path], env, stdin)


def run_here(path: str, env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """Call the plugin in this process if it is ours (for a process that may be thrown away), else execute it."""
    main = own_main(path)
    if main is None:
        return run_exec(path, env, stdin)
    return main(env, stdin)


def run_here_within(timeout_s: float) -> Runner:
    """`run_here` that kills an executed plugin, with all it has started, when it takes longer."""

    def run(path: str, env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        main = own_main(path)
        return spawn([path], env, stdin, timeout_s=timeout_s) if main is None else main(env, stdin)

    return run


def run_fork(path: str, env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """Call the plugin in a forked child if it is ours, else execute it."""
    if own_main(path) is None:
        return run_exec(path, env, stdin)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        gc.disable()  # a collection would touch, and so copy, every page this child shares
        try:
            code, stdout = run_here(path, env, stdin)
            write_all(writer, stdout)
        finally:
            os._exit(code)
    os.close(writer)
    try:
        stdout = read_all(reader)
    finally:
        os.close(reader)
    return reap(pid), stdout


def spawn(
    argv: Sequence[str], env: Mapping[str, str], stdin: bytes, *, stderr: bool = False, timeout_s: float = 0
) -> tuple[int, bytes]:
    """Run a program to its end: (exit code, stdout; with stderr=True stderr goes the same way). Raises CniError, OSError.

    With a time-out it gets a process group of its own, which is killed when the time is up.
    """
    # Not subprocess: it costs 15 ms of a plugin's start. Python ignores SIGPIPE, and that would survive exec.
    import signal

    stdin_reader, stdin_writer = os.pipe()
    stdout_reader, stdout_writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, stdin_reader, 0), (os.POSIX_SPAWN_DUP2, stdout_writer, 1)]
    if stderr:
        actions.append((os.POSIX_SPAWN_DUP2, stdout_writer, 2))
    try:
        try:
            pid = _spawn_retrying(argv, env, actions, [signal.SIGPIPE, signal.SIGXFSZ], own_group=timeout_s > 0)
        finally:
            os.close(stdin_reader)
            os.close(stdout_writer)
        writer, stdin_writer = stdin_writer, -1
        deadline = _Deadline(timeout_s)
        try:
            stdout = _converse(writer, stdin, stdout_reader, deadline)
            if timeout_s:
                _wait_for_exit(pid, deadline)
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            reap(pid)
            raise CniError(f"{argv[0]} did not end within {timeout_s:g} seconds and was killed") from None
    finally:
        if stdin_writer >= 0:
            os.close(stdin_writer)
        os.close(stdout_reader)
    return reap(pid), stdout


class _Deadline:
    """The milliseconds left, as poll takes them: None without a limit. Raises TimeoutError when there are none."""

    def __init__(self, timeout_s: float) -> None:
        self.at = 0.0
        if timeout_s:
            self.at = _monotonic() + timeout_s

    def left_ms(self) -> float | None:
        if not self.at:
            return None
        left = (self.at - _monotonic()) * 1000
        if left <= 0:
            raise TimeoutError
        return left


def _monotonic() -> float:
    import time

    return time.monotonic()


def _wait_for_exit(pid: int, deadline: _Deadline) -> None:
    """A program may close its stdout and go on."""
    import select

    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # reaped by the process's own SIGCHLD handling
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not poll.poll(deadline.left_ms()):
            continue
    finally:
        os.close(fd)


def _spawn_retrying(
    argv: Sequence[str], env: Mapping[str, str], actions: list[tuple[int, int, int]], signals: Sequence[int], own_group: bool
) -> int:
    group: dict[str, Any] = {"setpgroup": 0} if own_group else {}
    for attempt in range(_TEXT_BUSY_RETRIES):
        try:
            return os.posix_spawn(argv[0], list(argv), dict(env), file_actions=actions, setsigdef=signals, setsigmask=[], **group)
        except OSError as e:
            # The file is still being written by whoever installs it.
            if e.errno != errno.ETXTBSY or attempt == _TEXT_BUSY_RETRIES - 1:
                raise CniError(f"cannot execute {argv[0]}: {e.strerror}") from None
            import select

            select.select([], [], [], 0.2 * (attempt + 1))
    raise AssertionError("unreachable")


def _converse(writer: int, stdin: bytes, reader: int, deadline: _Deadline) -> bytes:
    """Feed stdin and collect stdout at the same time; `writer` is closed. Raises TimeoutError."""
    os.set_blocking(writer, False)
    import select

    parts: list[bytes] = []
    rest = memoryview(stdin)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if rest:
        poll.register(writer, select.POLLOUT)
    else:
        os.close(writer)
    try:
        while True:
            for fd, _ in poll.poll(deadline.left_ms()):
                if fd == reader:
                    data = os.read(reader, 65536)
                    if not data:
                        return b"".join(parts)
                    parts.append(data)
                    continue
                try:
                    rest = rest[os.write(writer, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    rest = rest[:0]  # it does not want to read: its answer tells why
                if not rest:
                    poll.unregister(writer)
                    os.close(writer)
    finally:
        if rest:
            os.close(writer)


def reap(pid: int) -> int:
    """Wait for a child; its exit code, minus the signal that killed it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0  # reaped by the process's own SIGCHLD handling: what it printed has to do


def read_all(fd: int) -> bytes:
    parts = []
    while data := os.read(fd, 65536):
        parts.append(data)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def outcome(code: int, stdout: bytes) -> bytes:
    """A plugin's stdout when it succeeded. Raises the CniError it printed when it did not."""
    if code == 0 and not _is_error(stdout):
        return stdout
    try:
        body = jsontext.loads(stdout.decode())
        raise CniError(str(body["msg"]), int(body["code"]), str(body.get("details") or ""))
    except (ValueError, KeyError, TypeError):
        pass
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    if not stdout.strip():
        raise CniError(f"netplugin failed with no error message ({how})")
    text = stdout[:500].decode("utf-8", "replace")
    raise CniError(f"netplugin failed but error parsing its diagnostic message {text!r} ({how})")


def _is_error(stdout: bytes) -> bool:
    """A child whose exit code somebody else reaped may still have failed: an error object has code and msg."""
    if b'"code"' not in stdout or b'"msg"' not in stdout:
        return False
    try:
        body = jsontext.loads(stdout.decode())
    except ValueError:
        return False
    return isinstance(body, dict) and "code" in body and "msg" in body and "cniVersion" not in body


def delegate(args: Args, plugin: str, command: str) -> bytes:
    """Call another plugin (IPAM) with this call's environment and configuration; its stdout. Raises CniError.

    One of ours is a function call also in an executed plugin: that saves half of its time.
    """
    path = find_in_path(plugin, args.path)
    env = {**args.env, "CNI_COMMAND": command}
    return outcome(*run_here(path, env, args.stdin))


def decode_result(stdout: bytes, plugin: str) -> dict[str, Any]:
    try:
        body = jsontext.loads(stdout.decode())
    except ValueError as e:
        raise CniError(f"plugin {plugin}: error decoding its result: {e}") from None
    if not isinstance(body, dict):
        raise CniError(f"plugin {plugin}: its result is not an object")
    return body
