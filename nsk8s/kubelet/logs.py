"""Reading container logs in CRI's format, following them across rotation. Upstream: kuberuntime/logs. Touches: files.

A line on disk is `TIME stdout|stderr F|P TEXT`; P marks a part of a line that goes on in the next record.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

BLOCK = 65536
POLL_S = 0.1
"""How often a followed file is looked at: inotify instances are a global limit that 500 pods must not eat."""


@dataclass(frozen=True)
class LogOptions:
    follow: bool = False
    tail_lines: int | None = None
    since_ns: int = 0
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str = ""
    """`stdout` or `stderr` alone, empty for both."""


def parse_ns(stamp: bytes) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time with up to nine decimals; 0 if it is none."""
    try:
        text = stamp.decode("ascii")
        head, _, rest = text.partition(".")
        digits = ""
        if rest:
            i = 0
            while i < len(rest) and rest[i].isdigit():
                i += 1
            digits, zone = rest[:i], rest[i:]
        else:
            head, zone = text.rstrip("Z"), "Z" if text.endswith("Z") else ""
        whole = datetime.fromisoformat(head + ("+00:00" if zone in ("Z", "") else zone))
        return int(whole.timestamp()) * 10**9 + int((digits or "0").ljust(9, "0")[:9])
    except ValueError:
        return 0


def render_line(raw: bytes, options: LogOptions) -> bytes | None:
    """What of one record (without its newline) is shown; None if it is not wanted."""
    stamp, _, rest = raw.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    tag, _, text = rest.partition(b" ")
    if stream not in (b"stdout", b"stderr"):
        return None
    if options.stream and stream != options.stream.encode():
        return None
    if options.since_ns and parse_ns(stamp) < options.since_ns:
        return None
    end = b"" if tag.startswith(b"P") else b"\n"
    return stamp + b" " + text + end if options.timestamps else text + end


def tail_offset(path: str, lines: int) -> int:
    """The offset at which the last `lines` records begin."""
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        if lines <= 0:
            return size
        at = size
        wanted = lines + 1  # the newline that ends the last record does not begin one
        while at > 0:
            step = min(BLOCK, at)
            f.seek(at - step)
            block = f.read(step)
            end = step
            while True:
                found = block.rfind(b"\n", 0, end)
                if found < 0:
                    break
                wanted -= 1
                if wanted == 0:
                    return at - step + found + 1
                end = found
            at -= step
        return 0


def last_lines(path: str, lines: int, limit: int) -> str:
    """The text of the last records, at most `limit` bytes: a termination message taken from the log."""
    if not path:
        return ""
    try:
        with open(path, "rb") as f:
            f.seek(max(tail_offset(path, lines), 0))
            raw = f.read()
    except OSError:
        return ""
    shown = b"".join(r for line in raw.splitlines() if (r := render_line(line, LogOptions())) is not None)
    return shown[-limit:].decode(errors="replace")


async def read(path: str, options: LogOptions, ended: Callable[[], Awaitable[bool] | bool]) -> AsyncIterator[bytes]:
    """Chunks of rendered log. Following ends when `ended()` says the container has ended and all was read; a file that is
    renamed away (rotated) is read to its end and the new one of the same name goes on. Raises OSError (FileNotFoundError)."""
    left = options.limit_bytes
    start = 0 if options.tail_lines is None else tail_offset(path, options.tail_lines)
    file = open(path, "rb")  # noqa: SIM115 (local file; closed below)
    try:
        file.seek(start)
        pending = b""
        final = not options.follow
        while True:
            block = file.read(BLOCK)
            if block:
                lines = (pending + block).split(b"\n")
                pending = lines.pop()
                out = b"".join(r for line in lines if (r := render_line(line, options)) is not None)
                if left is not None:
                    out = out[:left]
                    left -= len(out)
                if out:
                    yield out
                if left is not None and left <= 0:
                    return
                if len(block) == BLOCK:
                    await asyncio.sleep(0)
                continue
            if final:
                return
            try:
                there = os.stat(path)
                here = os.fstat(file.fileno())
                if (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev):
                    rest = file.read(BLOCK)
                    if not rest:
                        file.close()
                        file = open(path, "rb")  # noqa: SIM115
                        continue
                    file.seek(-len(rest), os.SEEK_CUR)
                    continue
                if there.st_size < file.tell():
                    file.seek(0)
                    continue
            except FileNotFoundError:
                pass  # between the rename and the reopening, or the pod is gone
            answer = ended()
            final = answer if isinstance(answer, bool) else await answer
            if not final:
                await asyncio.sleep(POLL_S)
    finally:
        file.close()


def rotate(path: str, keep: int) -> None:
    """Rename a log to `PATH.YYYYmmdd-HHMMSS` and drop the oldest beyond `keep` files in all. Raises OSError."""
    folder, name = os.path.split(path)
    os.rename(path, f"{path}.{datetime.now().strftime('%Y%m%d-%H%M%S')}")
    old = sorted(e for e in os.listdir(folder) if e.startswith(name + "."))
    for entry in old[: max(0, len(old) - (keep - 1))]:
        os.unlink(os.path.join(folder, entry))
