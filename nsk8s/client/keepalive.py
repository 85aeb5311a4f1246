"""Have the kernel find out that the other machine is gone. Touches: socket options. Upstream: net.Dialer.KeepAlive.

A power cut sends no FIN. What is asked is the other machine's TCP, not who holds the connection there: one who does not read, as
the pager of `kubectl exec … | less` or a command that leaves its stdin for later, answers no WebSocket ping, and lives.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any


def probe(s: Any) -> None:
    """A silent connection is probed after 10 s, and lost after 25."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def probe_transport(transport: asyncio.BaseTransport | None) -> None:
    """The same, of an open connection; one that has ended needs none."""
    if transport is None or transport.is_closing():
        return
    s = transport.get_extra_info("socket")
    if s is not None and s.family in (socket.AF_INET, socket.AF_INET6):
        probe(s)
