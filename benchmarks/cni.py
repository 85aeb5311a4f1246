"""ADD and DEL of bridge with host-local: our plugins against Debian's (Go), by exec and on our runtime's own path.

Both take turns on the same machine in the same run, each in a fresh network namespace with a bridge that exists already.
The other side is always exec: that is the only way to run it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import cni
from benchmarks.common import Row, median, say, spread
from cni import libcni
from nsk8s.kernel import syscalls

THEIRS = "/usr/lib/cni"
PODS = 30
ROUNDS = 5


def new_netns() -> int:
    found: list[int] = []

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


def _plugin(directory: str) -> dict[str, Any]:
    ipam = {"type": "host-local", "subnet": "10.244.1.0/24", "dataDir": directory}
    return {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipam": ipam}


def _exec(command: str, folder: str, config: bytes, number: int, netns: str) -> float:
    env = {
        "PATH": "/usr/sbin:/usr/bin", "CNI_COMMAND": command, "CNI_CONTAINERID": f"c{number}", "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0", "CNI_PATH": folder,
    }  # fmt: skip
    started = time.monotonic()
    subprocess.run([f"{folder}/bridge"], input=config, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def by_exec(folder: str, directory: str, netns: list[str]) -> tuple[list[float], list[float]]:
    """Seconds of each ADD and of each DEL."""
    config = json.dumps({"cniVersion": "1.0.0", "name": "bench", **_plugin(directory)}).encode()
    calls = [(command, i) for command in ("ADD", "DEL") for i in range(len(netns))]
    took = [_exec(command, folder, config, i, netns[i]) for command, i in calls]
    return took[: len(netns)], took[len(netns) :]


def by_libcni(folder: str, directory: str, netns: list[str], run: Any) -> tuple[list[float], list[float]]:
    """The same through libcni with its cache, as a runtime does it."""
    body = {"cniVersion": "1.0.0", "name": "bench", "plugins": [_plugin(directory)]}
    network = libcni.parse_list(json.dumps(body).encode())
    took: dict[Any, list[float]] = {libcni.add: [], libcni.delete: []}
    for operation, times in took.items():
        for i, path in enumerate(netns):
            started = time.monotonic()
            operation(network, libcni.Attachment(f"c{i}", path, "eth0"), cni_path=folder, cache_dir=directory, run=run)
            times.append(time.monotonic() - started)
    return took[libcni.add], took[libcni.delete]


WAYS: dict[str, Callable[[str, list[str]], tuple[list[float], list[float]]]] = {
    "exec, ours": lambda directory, pods: by_exec(cni.BIN_DIR, directory, pods),
    "exec, theirs": lambda directory, pods: by_exec(THEIRS, directory, pods),
    "libcni, forked": lambda directory, pods: by_libcni(cni.BIN_DIR, directory, pods, libcni.run_fork),
    "libcni, called": lambda directory, pods: by_libcni(cni.BIN_DIR, directory, pods, libcni.run_here),
    "libcni, theirs": lambda directory, pods: by_libcni(THEIRS, directory, pods, libcni.run_exec),
}


def once(way: str) -> tuple[float, float]:
    """Median seconds of ADD and DEL among PODS pods of a new node."""
    directory = tempfile.mkdtemp(prefix="nsk8s-bench-cni")
    node, pods = new_netns(), [new_netns() for _ in range(PODS + 1)]
    paths = [f"/proc/{os.getpid()}/fd/{fd}" for fd in pods]

    def work() -> list[float]:
        syscalls.setns(node, syscalls.CLONE_NEWNET)
        first = by_libcni(cni.BIN_DIR, directory, paths[-1:], libcni.run_here)  # makes the bridge
        assert first
        adds, deletes = WAYS[way](directory, paths[:-1])
        return [median(adds), median(deletes)]

    try:
        add, delete = libcni.start(work).finish()
        return add, delete
    finally:
        for fd in (node, *pods):
            os.close(fd)
        shutil.rmtree(directory, ignore_errors=True)


def interpreter() -> float:
    """Seconds of a Python that does nothing: what no plugin of ours can beat by exec."""
    started = time.monotonic()
    subprocess.run(["/usr/bin/python3", "-IS", "-c", "pass"], check=True)
    return time.monotonic() - started


def measure(rounds: int = ROUNDS) -> list[Row]:
    if not os.path.exists(f"{THEIRS}/bridge"):
        raise RuntimeError("Debian's containernetworking-plugins are not installed: sudo scripts/setup --dev")
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, times in took.items():
            times.append(once(way))
    say(f"an interpreter that does nothing takes {median([interpreter() for _ in range(20)]) * 1000:.1f} ms")
    rows = []
    for which, verb in enumerate(("ADD", "DEL")):
        for way, against, reach, beyond in (
            ("exec, ours", "exec, theirs", "≤ 1.0×", "-"),
            ("libcni, forked", "libcni, theirs", "≤ 0.6×", "-"),
            ("libcni, called", "libcni, theirs", "≤ 0.6×", "≤ 0.3×"),
        ):
            mine, other = ([1000 * t[which] for t in took[w]] for w in (way, against))
            say(f"CNI {verb} {way}: {spread(mine)} ms, {against}: {spread(other)} ms")
            rows.append(Row(f"CNI {verb} bridge+host-local: {way}", median(mine), median(other), "ms", reach, beyond))
    return rows
