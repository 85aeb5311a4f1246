"""A port of this machine for a server that is yet to be started."""

from __future__ import annotations

import contextlib
import random
import socket

BELOW_THE_KERNELS = range(20_000, 30_000)
"""Nobody who asks the kernel for any port is given one of these, so none is taken between the choice and the start."""


def free_port() -> int:
    """One of 127.0.0.1 that neither TCP nor UDP has in use."""
    for port in random.sample(BELOW_THE_KERNELS, 100):
        with contextlib.suppress(OSError), socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports in a row are taken")
