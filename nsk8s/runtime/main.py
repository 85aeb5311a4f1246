"""The container runtime, one process a node: `main(argv)` serves the interface until SIGTERM. Pods outlive it.

Lean: no asyncio, no click; forked by the supervisor into the node's network, mount and UTS namespaces.
Touches: everything its parts touch. Upstream: containerd.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from nsk8s.kernel import syscalls
from nsk8s.runtime import wire
from nsk8s.runtime.loop import Loop
from nsk8s.runtime.network import PLUGIN_TIMEOUT_S, Network
from nsk8s.runtime.node import Node
from nsk8s.runtime.service import Service

FLAGS = {
    "--listen": ("/run/nsk8s/runtime.sock", "the unix socket to serve"),
    "--root-dir": ("/var/lib/containers/nsk8s", "containers' writable layers; not on an overlay if possible"),
    "--state-dir": ("/run/nsk8s/runtime", "what runs, and images' layers; to be lost with a boot"),
    "--cni-conf-dir": ("/etc/cni/net.d", "where the conflist appears"),
    "--cni-bin-dir": ("", "folders of CNI plugins, joined by colons; our own, /opt/cni/bin and /usr/lib/cni by default"),
    "--cni-cache-dir": ("/var/lib/cni", "results of CNI"),
    "--cni-timeout": (str(PLUGIN_TIMEOUT_S), "seconds after which a call of somebody else's plugin is killed"),
    "--cgroup-parent": ("/nsk8s", "the control group below which pods get theirs"),
}


def usage() -> str:
    lines = ["Usage: container-runtime [flags]", "", "The container runtime of a node. Flags:", ""]
    for name, (default, text) in FLAGS.items():
        lines.append(f"  {name} STRING  {text}" + (f" (default {default})" if default else ""))
    return "\n".join(lines)


def parse_flags(argv: list[str]) -> dict[str, str]:
    """`--flag value` and `--flag=value`. Raises ValueError in upstream's words."""
    values = {name: default for name, (default, _) in FLAGS.items()}
    rest = list(argv)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in values:
            raise ValueError(f"unknown flag: {name}" if name.startswith("-") else f"unexpected argument: {name}")
        if not equals:
            if not rest:
                raise ValueError(f"flag needs an argument: {name}")
            value = rest.pop(0)
        values[name] = value
    if not values["--cni-timeout"].isdigit() or not int(values["--cni-timeout"]):
        raise ValueError(f"--cni-timeout: {values['--cni-timeout']!r} is no number of seconds")
    return values


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(usage() + "\n")
        return 0
    try:
        flags = parse_flags(argv)
    except ValueError as e:
        sys.stderr.write(f"Error: {e}\n{usage()}\n")
        return 2
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.pop("DBUS_SYSTEM_BUS_ADDRESS", None)  # the machine's; its firewalld is not this node's
    loop = Loop()
    network = Network(flags["--cni-conf-dir"], flags["--cni-bin-dir"], flags["--cni-cache-dir"], int(flags["--cni-timeout"]))
    try:
        os.makedirs(os.path.dirname(flags["--listen"]), mode=0o755, exist_ok=True)
        os.makedirs("/run/netns", mode=0o755, exist_ok=True)
        node = Node(loop, flags["--root-dir"], flags["--state-dir"], flags["--cgroup-parent"], network)
        lock = take_lock(flags["--state-dir"] + "/lock")
        syscalls.prepare_argv()
        service = Service(node)
        # Forks should find nothing to collect: a collection would touch, and so copy, every object.
        gc.collect()
        gc.freeze()
        service.sandboxes.nursery.start()
        service.sandboxes.recover()
        listener = wire.listen(flags["--listen"])
    except BlockingIOError:
        sys.stderr.write(f"Error: another container runtime works on {flags['--state-dir']}\n")
        return 1
    except OSError as e:
        sys.stderr.write(f"Error: {e}\n")
        return 1
    wire.serve(loop, listener, service.accepted)
    loop.on_signals({signal.SIGTERM: loop.stop, signal.SIGINT: loop.stop})
    loop.run()
    os.close(lock)
    return 0


def take_lock(path: str) -> int:
    """Two runtimes on one state folder would undo each other's work. Raises BlockingIOError."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
