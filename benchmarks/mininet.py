"""Mininet's own start and stop, the measure the issue sets. Touches: namespaces that end with the command.

Mininet makes its bridge and links in the root namespace and writes sysctls. Here it gets a network and mount namespace of its own
to do so in, with /proc/sys read-only: the machine stays as it is.
"""

from __future__ import annotations

import shutil
import time

from benchmarks.common import run

PREPARE = (
    "mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mount --bind /proc/sys /proc/sys"
    " && mount -o remount,ro,bind /proc/sys && ip link set lo up && exec "
)


def seconds(topology: str) -> float:
    """How long `mn … --topo TOPOLOGY --test none` takes, from start to exit."""
    if shutil.which("mn") is None:
        raise RuntimeError("Mininet is not installed: run scripts/setup --dev")
    command = f"{PREPARE}mn --switch lxbr --controller none --topo {topology} --test none"
    started = time.monotonic()
    run("unshare", "--net", "--mount", "--propagation", "private", "--", "sh", "-c", command)
    return time.monotonic() - started
