"""ADD and DEL of bridge with host-local: our plugins against Debian's (Go), by exec and on our runtime's own path.

Both take turns on the same machine in the same run, each in a fresh network namespace with a bridge that exists already, called
from a process as lean as a node's runtime. The other side is always exec: that is the only way to run it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import cni_calls
from benchmarks.common import Row, median, say, spread
from nsk8s.kernel import syscalls

PODS = 30
ROUNDS = 5
ROOT = Path(__file__).parents[1]


def new_netns() -> int:
    found: list[int] = []

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


def once(way: str) -> tuple[float, float]:
    """Median seconds of ADD and DEL among PODS pods of a new node."""
    directory = tempfile.mkdtemp(prefix="nsk8s-bench-cni")
    fds = [new_netns() for _ in range(PODS + 2)]
    argv = [sys.executable, "-IS", str(ROOT / "benchmarks/cni_calls.py"), str(ROOT), way, directory, *map(str, fds)]
    try:
        done = subprocess.run(argv, pass_fds=fds, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{way}: {done.stderr}")
        adds, deletes = json.loads(done.stdout)
        return median(adds), median(deletes)
    finally:
        for fd in fds:
            os.close(fd)
        shutil.rmtree(directory, ignore_errors=True)


def interpreter() -> float:
    """Seconds of a Python that does nothing: what no plugin of ours can beat by exec."""
    started = time.monotonic()
    subprocess.run(["/usr/bin/python3", "-IS", "-c", "pass"], check=True)
    return time.monotonic() - started


def measure(rounds: int = ROUNDS) -> list[Row]:
    if not os.path.exists(f"{cni_calls.THEIRS}/bridge"):
        raise RuntimeError("Debian's containernetworking-plugins are not installed: sudo scripts/setup --dev")
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in cni_calls.WAYS}
    for _ in range(rounds):
        for way, times in took.items():
            times.append(once(way))
    say(f"an interpreter that does nothing takes {median([interpreter() for _ in range(20)]) * 1000:.1f} ms")
    rows = []
    for which, verb in enumerate(("ADD", "DEL")):
        for way, against, reach, beyond in (
            ("exec, ours", "exec, theirs", "≤ 1.0×", "-"),
            ("libcni, forked", "libcni, theirs", "-", "-"),
            ("runtime's fork", "libcni, theirs", "≤ 0.6×", "≤ 0.3×"),
            ("libcni, called", "libcni, theirs", "≤ 0.6×", "≤ 0.3×"),
        ):
            mine, other = ([1000 * t[which] for t in took[w]] for w in (way, against))
            say(f"CNI {verb} {way}: {spread(mine)} ms, {against}: {spread(other)} ms")
            rows.append(Row(f"CNI {verb} bridge+host-local: {way}", median(mine), median(other), "ms", reach, beyond))
    return rows
