"""A BIRD of the cluster's own: started, asked, ended. Touches: processes, its control socket and files.

It runs in the foreground as a child that outlives its parent, and writes its own pid file: whoever comes next finds it there.
Upstream: birdc, and the unit file of Debian's bird2 (which is never started: that one would be the machine's).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import probe, process

PROTOCOL = 12
"""Of the routes it writes: RTPROT_BIRD in include/uapi/linux/rtnetlink.h, `proto bird` in `ip route`."""
REMEDY = "apt-get install bird2 (and keep the machine's own off: systemctl disable --now bird)"
ANSWER_TIMEOUT_S = 3.0
END_TIMEOUT_S = 2.0
MARK = "nsk8s"
"""A file in the run directory that says whose the BIRD there is: one that somebody starts by hand is left alone."""


class BirdError(Nsk8sError):
    """BIRD is missing, or refused what it was told."""


def program() -> str | None:
    return probe.which("bird")


class Bird:
    """The BIRD that is configured by `conf` and has its socket and its pid file in `run`."""

    def __init__(self, conf: Path, run: Path) -> None:
        self.conf, self.run = conf, run
        self.control, self._pid_file = run / "bird.ctl", run / "bird.pid"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it was started from here, and not yet ended."""
        return (self.run / MARK).exists()

    def who(self) -> dict[str, int | str] | None:
        """The running process; None when there is none, or one of somebody else."""
        if self._child is not None:
            self._child.poll()  # buries it
        try:
            pid = int(self._pid_file.read_text())
            found = process.identity(pid)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return found if os.fsencode(self.control) in words else None

    def start(self, *, recover: bool) -> int:
        """Start it; its pid. `recover`: the routes it left in the kernel stay until its neighbours have told it all. Raises
        BirdError."""
        path = program()
        if path is None:
            raise BirdError("bird is missing", REMEDY)
        self.run.mkdir(parents=True, exist_ok=True, mode=0o755)
        (self.run / MARK).touch()
        argv = [path, "-f", "-c", str(self.conf), "-s", str(self.control), "-P", str(self._pid_file)]
        self._child = subprocess.Popen([*argv, *(["-R"] if recover else [])], stdin=subprocess.DEVNULL, start_new_session=True)
        return self._child.pid

    def ask(self, command: str) -> list[str]:
        """The lines of its answer, each with its code (`0003 Reconfigured`). Raises BirdError."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(ANSWER_TIMEOUT_S)
                s.connect(str(self.control))
                with s.makefile("rb") as answers:
                    self._read(answers)  # the greeting
                    s.sendall(command.encode() + b"\n")
                    return self._read(answers)
        except OSError as e:
            raise BirdError(f"bird does not answer at {self.control}: {e.strerror or e}") from e

    @staticmethod
    def _read(answers: object) -> list[str]:
        lines = []
        for raw in answers:  # type: ignore[attr-defined]
            line = raw.decode(errors="replace").rstrip("\n")
            lines.append(line)
            if line[:4].isdigit() and line[4:5] == " ":
                return lines
        raise BirdError("bird hung up")

    def configure(self) -> None:
        """Make it read its configuration again; sessions that stay as they are go on. Raises BirdError."""
        answer = self.ask("configure")
        if not any(line.startswith(("0003", "0004", "0018", "0019")) for line in answer):
            raise BirdError(f"bird refused its configuration: {answer[-1]}", f"bird -p -c {self.conf}")

    def end(self) -> bool:
        """End it, if it was started from here; whether there was anything to end. Its routes stay."""
        if not self.is_ours:
            return False
        found = self.who()
        if found is not None:
            process.kill_all([found], grace_s=END_TIMEOUT_S)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(END_TIMEOUT_S)
        shutil.rmtree(self.run, ignore_errors=True)
        return True


def seen(root: Path, run: str) -> dict[str, int | str] | None:
    """The BIRD that somebody with the root directory `root` (/proc/PID/root) keeps in `run`: its identity, {} while it does not
    run; None where none is kept."""
    here = Path(f"{root}{run}")
    if not (here / MARK).exists():
        return None
    try:
        pid = int((here / "bird.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return process.identity(pid) if os.fsencode(f"{run}/bird.ctl") in words else {}
    except (OSError, ValueError):
        return {}
