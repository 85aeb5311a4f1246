"""A program on a terminal of its own, as somebody who types sees it; and what a shell in a container must be able to do there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from patience import PATIENCE


class Terminal:
    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd = pid, fd
        self.seen = ""

    def expect(self, what: str, timeout_s: float = 20) -> str:
        """What was shown up to and with `what`; that is then forgotten."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        while what not in self.seen:
            assert time.monotonic() < deadline, f"no {what!r} in {self.seen!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    chunk = os.read(self.fd, 65536)
                except OSError:
                    chunk = b""
                assert chunk, f"ended without {what!r}: {self.seen!r}"
                self.seen += chunk.decode(errors="replace")
        before, _, self.seen = self.seen.partition(what)
        return before + what

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def exit_code(self, timeout_s: float = 20) -> int:
        """Wait for the end."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        with suppress(OSError):
            while time.monotonic() < deadline and (not select.select([self.fd], [], [], 0.2)[0] or os.read(self.fd, 65536)):
                pass
        assert time.monotonic() < deadline, f"it has not ended: {self.seen!r}"
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def on_terminal(argv: list[str], environment: dict[str, str], rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if pid == 0:
        os.read(0, 1)  # until the terminal has its size
        os.execve(argv[0], argv, environment)
    terminal = Terminal(pid, fd)
    try:
        terminal.resize(rows, columns)
        terminal.type("\n")
        yield terminal
    finally:
        if terminal.pid:
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)
        os.close(fd)


def _first_size(argv: list[str], environment: dict[str, str], pod: str) -> str:
    """The size of 33 to 111, as a command sees it first: on a busy machine it comes later than the command waits for it."""
    script = 'first=$(stty size); until [ "$(stty size)" = "33 111" ]; do sleep 0.05; done; echo "first: $first."; exit 3'
    with on_terminal([*argv, pod, "--", "sh", "-c", script], environment, 33, 111) as once:
        once.expect("first: ")
        found = once.expect(".").removesuffix(".")
        assert once.exit_code() == 3
    return found


def is_a_real_terminal(argv: list[str], environment: dict[str, str], pod: str) -> None:
    """`argv` followed by a pod and a command runs it there on a terminal, as `kubectl exec -it` does."""
    assert any(_first_size(argv, environment, pod) == "33 111" for _ in range(5)), "the size is there before the command is"
    with on_terminal([*argv, pod, "--", "bash", "--norc", "-i"], environment) as shell:
        start = shell.expect("# ")
        shell.type("until [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done\n")
        shell.type("tty; test -c $(tty) && stty size; echo $TERM; echo end-$((1+1))\n")
        said = start + shell.expect("end-2")
        found = re.search(r"(/dev/pts/\d+)\r\n24 80\r\nxterm\r\n", said)
        assert found, said
        assert "job control" not in said
        assert "terminal process group" not in said
        shell.type("trap 'echo new-size: $(stty size)' WINCH; echo set-$((1+1))\n")
        shell.expect("set-2")
        shell.expect("# ")  # a signal that comes before it reads is put off till a key is pressed
        shell.resize(40, 132)
        shell.expect("new-size: 40 132")  # nothing had to be typed
        shell.type("trap - WINCH; script -qc tty /dev/null\n")
        own = shell.expect("/dev/pts/") + shell.expect("\r\n")  # a program's own
        assert not own.endswith(f"{found[1]}\r\n")
        shell.expect("# ")  # what is typed before is script's
        # In naps: a Ctrl-C between bash's fork and its child's exec is caught by the child and forgotten, and bash waits for it.
        shell.type("(trap 'exit 3' INT; echo sleeping-$((1+1)); while :; do sleep 0.2; done); echo left-$?\n")
        shell.expect("sleeping-2")
        shell.type("\x03")
        shell.expect("left-3")
        shell.type("echo cat-$((1+1)); cat\n")
        shell.expect("cat-2\r\n")  # the line is read, and the terminal echoes again
        shell.type("there\n")
        shell.expect("there\r\nthere\r\n")
        shell.type("\x1a")
        shell.expect("Stopped")
        shell.expect("# ")
        shell.type("jobs; fg\n")
        shell.expect("cat\r\n")  # jobs
        shell.expect("cat\r\n")  # fg; what is typed before is shown before
        shell.type("again\n")
        shell.expect("again\r\nagain\r\n")
        shell.type("\x04")
        shell.expect("# ")
        shell.type("exit 5\n")
        assert shell.exit_code() == 5


def attaches_to_its_terminal(argv: list[str], environment: dict[str, str], pod: str) -> None:
    """`argv` followed by a pod attaches to its container, a bash on a terminal."""
    with on_terminal([*argv, pod], environment, 30, 90) as shell:
        # kubectl sends the size beside what is typed, and for attach first one that is larger by one.
        shell.type("until [ \"$(stty size)\" = '30 90' ]; do sleep 0.05; done; tty; stty size; "
                   "test /dev/console -ef $(tty) && echo console-$((1+1))\n")  # fmt: skip
        said = shell.expect("console-2")
        assert "/dev/pts/0\r\n30 90\r\n" in said, said
        shell.type("trap 'echo new-size: $(stty size)' WINCH; echo set-$((1+1))\n")
        shell.expect("set-2")
        shell.expect("# ")  # a signal that comes before it reads is put off till a key is pressed
        shell.resize(41, 133)
        shell.expect("new-size: 41 133")
