"""Requests to any netlink family, many in one go: what `ipset` and `ipvs` stand on. Touches: netlink.

`rtnl` does the same for rtnetlink, on the per-pod hot path.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence

from nsk8s.kernel import rtmsg as m

_HEADER = struct.Struct("=IHHII")
_BATCH = 64
"""So many acknowledgements fit the receive buffer."""

Message = tuple[int, int, bytes]
"""(type, flags, body)."""


class Netlink:
    """A socket of a netlink family (`socket.NETLINK_…`), in the network namespace that the caller is in."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._seq = 0

    def close(self) -> None:
        self._socket.close()

    def execute(self, messages: Iterable[Message], what: str = "") -> list[OSError | None]:
        """Send all; for each the kernel's refusal, or None. `what` is said in their texts."""
        found: list[OSError | None] = []
        batch: list[Message] = []
        for message in messages:
            batch.append(message)
            if len(batch) == _BATCH:
                found += self._execute(batch, what)
                batch.clear()
        return found + self._execute(batch, what) if batch else found

    def _execute(self, batch: Sequence[Message], what: str) -> list[OSError | None]:
        first = self._seq + 1
        self._socket.send(b"".join(self._framed(kind, flags | m.NLM_F_ACK, body) for kind, flags, body in batch))
        found: list[OSError | None] = [None] * len(batch)
        waiting = len(batch)
        while waiting:
            for kind, _, seq, body in m.split(self._socket.recv(1 << 17)):
                if kind == m.NLMSG_ERROR and 0 <= seq - first < len(batch):
                    waiting -= 1
                    found[seq - first] = _error(body, what)
        return found

    def dump(self, kind: int, body: bytes, what: str = "", flags: int = m.NLM_F_DUMP) -> list[bytes]:
        """The bodies of an answer: a dump, or with flags NLM_F_ACK a single answer. Raises OSError."""
        self._socket.send(self._framed(kind, flags, body))
        bodies: list[bytes] = []
        while True:
            for answer, _, seq, content in m.split(self._socket.recv(1 << 17)):
                if seq != self._seq:
                    continue
                if answer == m.NLMSG_DONE:
                    return bodies
                if answer == m.NLMSG_ERROR:
                    failure = _error(content, what)
                    if failure is not None:
                        raise failure
                    return bodies
                bodies.append(content)

    def _framed(self, kind: int, flags: int, body: bytes) -> bytes:
        self._seq = (self._seq + 1) & 0x7FFFFFFF
        return _HEADER.pack(16 + len(body), kind, flags | m.NLM_F_REQUEST, self._seq, 0) + body


def _error(body: bytes, what: str) -> OSError | None:
    code = -struct.unpack_from("=i", body)[0]
    if not code:
        return None
    text = os.strerror(code) if code < 4096 else f"error {code}"
    return OSError(code, f"{text} ({what})" if what else text)


def raise_first(failures: Iterable[OSError | None], *allowed: int) -> None:
    """Raise the first refusal whose errno is none of `allowed`."""
    for failure in failures:
        if failure is not None and failure.errno not in allowed:
            raise failure
