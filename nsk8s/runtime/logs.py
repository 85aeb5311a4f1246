"""The CRI log format: `TIME STREAM TAG LINE`, a line longer than 16 KiB in parts tagged P, the last one F.

Upstream: containerd's internal/cri/io/logger.go, KEP-1024. `Framer` and `stamp` are pure; `LogFile` touches one file.
"""

from __future__ import annotations

import os
import time

MAX_LINE = 16 * 1024


def stamp(now_ns: int) -> bytes:
    """RFC 3339 with nanoseconds, UTC."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode(), rest)


class Framer:
    """Cuts a stream into log lines; keeps an unfinished line until its rest comes."""

    __slots__ = ("_rest", "_stream")

    def __init__(self, stream: str) -> None:
        self._stream = stream.encode()
        self._rest = b""

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """What to append to the log for this piece of the stream."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        head = stamp(now_ns) + b" " + self._stream
        out = []
        for line in lines:
            while len(line) > MAX_LINE:
                out.append(b"%s P %s\n" % (head, line[:MAX_LINE]))
                line = line[MAX_LINE:]
            out.append(b"%s F %s\n" % (head, line))
        while len(self._rest) > MAX_LINE:
            out.append(b"%s P %s\n" % (head, self._rest[:MAX_LINE]))
            self._rest = self._rest[MAX_LINE:]
        return b"".join(out)

    def finish(self, now_ns: int) -> bytes:
        """The unfinished line, at the end of the stream."""
        rest, self._rest = self._rest, b""
        return b"%s %s F %s\n" % (stamp(now_ns), self._stream, rest) if rest else b""


class LogFile:
    """Appends to one path; `reopen` after the kubelet has rotated it. A full disk loses lines, not the container."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open() if path else -1

    def _open(self) -> int:
        os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def write(self, data: bytes) -> None:
        if self._fd < 0 or not data:
            return
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            return

    def reopen(self) -> None:
        """Raises OSError and keeps the old file when the new one cannot be made."""
        if self._path:
            fd = self._open()
            self.close()
            self._fd = fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
