"""The measured calls of `benchmarks.cni`, in a process as lean as a node's runtime: it imports nothing but the plugins.

    python3 -IS cni_calls.py ROOT WAY DIRECTORY NODE_FD POD_FD…     → one line of JSON: seconds of each ADD, of each DEL
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

import cni
from cni import invoke, libcni
from nsk8s.kernel import syscalls
from nsk8s.runtime.helpers import Helpers
from nsk8s.runtime.loop import Loop

THEIRS = "/usr/lib/cni"
PATH = "/usr/sbin:/usr/bin"
HELPER = "a fork that stays, as the runtime keeps it for networks whose plugins are ours and execute something"
WAYS: dict[str, tuple[str, Any]] = {
    # what it is called: (folder of the plugins, libcni's runner; None is the plugin alone, by exec)
    "exec, ours": (cni.BIN_DIR, None),
    "exec, theirs": (THEIRS, None),
    "libcni, forked": (cni.BIN_DIR, libcni.run_fork),
    "runtime's fork": (cni.BIN_DIR, HELPER),
    "libcni, called": (cni.BIN_DIR, libcni.run_here),
    "libcni, theirs": (THEIRS, libcni.run_exec),
}


def plugin(directory: str) -> dict[str, Any]:
    ipam = {"type": "host-local", "subnet": "10.244.1.0/24", "dataDir": directory}
    return {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipam": ipam}


def by_exec(folder: str, directory: str, netns: list[str]) -> list[list[float]]:
    config = json.dumps({"cniVersion": "1.0.0", "name": "bench", **plugin(directory)}).encode()
    took = []
    for command in ("ADD", "DEL"):
        times = []
        for i, path in enumerate(netns):
            env = {
                "PATH": PATH, "CNI_COMMAND": command, "CNI_CONTAINERID": f"c{i}", "CNI_NETNS": path, "CNI_IFNAME": "eth0",
                "CNI_PATH": folder,
            }  # fmt: skip
            started = time.monotonic()
            code, stdout = invoke.run_exec(f"{folder}/bridge", env, config)
            times.append(time.monotonic() - started)
            invoke.outcome(code, stdout)
        took.append(times)
    return took


def by_libcni(folder: str, directory: str, netns: list[str], run: Any) -> list[list[float]]:
    """The same through libcni with its cache, as a runtime does it."""
    body = {"cniVersion": "1.0.0", "name": "bench", "plugins": [plugin(directory)]}
    network = libcni.parse_list(json.dumps(body).encode())
    took = []
    for operation in (libcni.add, libcni.delete):
        times = []
        for i, path in enumerate(netns):
            to = libcni.Attachment(f"c{i}", path, "eth0")
            started = time.monotonic()
            operation(network, to, cni_path=folder, cache_dir=directory, run=run, env={"PATH": PATH})
            times.append(time.monotonic() - started)
        took.append(times)
    return took


def by_helper(folder: str, directory: str, netns: list[str]) -> list[list[float]]:
    """The same in the runtime's own way: from its loop to its helper and back."""
    body = {"cniVersion": "1.0.0", "name": "bench", "plugins": [plugin(directory)]}
    network = libcni.parse_list(json.dumps(body).encode())
    loop = Loop()

    def operation(asked: list[str]) -> None:
        verb, container_id, path = asked
        call = libcni.add if verb == "ADD" else libcni.delete
        to = libcni.Attachment(container_id, path, "eth0")
        call(network, to, cni_path=folder, cache_dir=directory, run=libcni.run_here, env={"PATH": PATH})

    failed: list[Any] = []

    def done(_result: Any, error: Any) -> None:
        if error is not None:
            failed.append(error)
        loop.stop()

    helpers = Helpers(loop, 1, {"operation": operation})
    took = []
    for verb in ("ADD", "DEL"):
        times = []
        for i, path in enumerate(netns):
            started = time.monotonic()
            helpers.run("operation", [verb, f"c{i}", path], done)
            loop.running = True
            loop.run()
            times.append(time.monotonic() - started)
        took.append(times)
    helpers.close()
    if failed:
        raise failed[0]
    return took


def main(way: str, directory: str, node_fd: int, pod_fds: list[int]) -> None:
    syscalls.setns(node_fd, syscalls.CLONE_NEWNET)
    paths = [f"/proc/{os.getpid()}/fd/{fd}" for fd in pod_fds]
    by_libcni(cni.BIN_DIR, directory, paths[-1:], libcni.run_here)  # makes the bridge
    folder, run = WAYS[way]
    if run is HELPER:
        took = by_helper(folder, directory, paths[:-1])
    elif run is None:
        took = by_exec(folder, directory, paths[:-1])
    else:
        took = by_libcni(folder, directory, paths[:-1], run)
    print(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3], int(sys.argv[4]), [int(fd) for fd in sys.argv[5:]])
