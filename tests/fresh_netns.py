"""Network namespaces of a test's own, without a name: they end when their descriptor is closed. Needs root."""

from __future__ import annotations

import os
import threading

from nsk8s.kernel import syscalls


def new_netns() -> int:
    """A descriptor of a fresh network namespace; closing it is the end of the namespace."""
    found: list[int] = []

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]
