"""The `nsk8s` command in a fork of this process: all of it but the interpreter's start and the imports, which take 0.2 s each time."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

# What the commands import when they run.
from nsk8s.cli import apply, delete, get, link, main, status  # noqa: F401
from nsk8s.client import rest  # noqa: F401
from nsk8s.cluster import lifecycle, links  # noqa: F401

COMMANDS = frozenset({"apply", "delete", "get", "link", "scale", "status"})


def run(words: Sequence[str], cluster: str, text: str | None, timeout: float) -> subprocess.CompletedProcess[str]:
    """As subprocess.run would; raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write((text or "").encode())
        stdin.seek(0)
        pid = os.fork()
        if pid == 0:
            _child(words, cluster, [stdin.fileno(), stdout.fileno(), stderr.fileno()])
        child, ended = os.pidfd_open(pid), False
        try:
            ended = bool(select.select([child], [], [], timeout)[0])
        finally:
            os.close(child)
            if not ended:  # also when the test's own time is over
                os.kill(pid, 9)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read().decode())
        if not ended:
            raise subprocess.TimeoutExpired(["nsk8s", *words], timeout, said[0], said[1])
        return subprocess.CompletedProcess(["nsk8s", *words], code, *said)


def _child(words: Sequence[str], cluster: str, files: Sequence[int]) -> NoReturn:
    code = 1
    try:
        for target, fd in enumerate(files):
            os.dup2(fd, target)
        sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, encoding="utf-8", closefd=False) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))
        os.environ["NSK8S_CLUSTER"] = cluster
        sys.argv = ["nsk8s", *words]
        main.main()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
