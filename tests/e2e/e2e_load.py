"""Steady traffic through a Service while something else happens: new connections at a fixed rate, and one that stays open.

Run inside a pod's network namespace, as text (`python -c`), so that no file of the tests need be visible there. Standard
library only. Each line on stdin is answered with one line of JSON counts; end of input ends the load and prints them once more.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

RATE = 100
"""New connections a second. They are started by the clock, whether or not earlier ones were answered."""
TIMEOUT_S = 15.0
"""A packet that was lost is sent again after 1, 3 and 7 s. What is lost for longer, as to an address that nobody has, is missed."""
LATE_S = 0.5
"""What a machine that stood still for longer has missed is left out, rather than asked of the servers at once."""
SLOW_S = 0.9
"""A connection that took so long lost a packet: the kernel sends a SYN again after 1 s."""


class Load:
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.counts: dict[str, Any] = {"attempts": 0, "answered": 0, "slow": 0, "longest": 0.0, "stream": 0, "servers": {}}
        self.errors: list[str] = []

    async def connect_once(self) -> None:
        """A new connection, one question, one answer."""
        self.counts["attempts"] += 1
        start = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                writer.write(b"GET /hostname HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
            writer.close()
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise ValueError(f"answer {answer[:60]!r}")
        except (OSError, ValueError, TimeoutError) as e:
            self.errors.append(f"{time.strftime('%H:%M:%S')} connection: {e!r}")
            return
        name = answer.rpartition(b"\r\n")[2].decode().strip()
        self.counts["servers"][name] = self.counts["servers"].get(name, 0) + 1
        took = time.monotonic() - start
        self.counts["answered"] += 1
        self.counts["slow"] += took > SLOW_S
        self.counts["longest"] = max(self.counts["longest"], round(took, 3))

    async def stay(self) -> None:
        """One connection for ever: each answer must carry the question's number, from the same server, seen as the same client."""
        same = None
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            while True:
                number = self.counts["stream"]
                writer.write(f"GET /{number} HTTP/1.1\r\nHost: load\r\nX-Fill: {'x' * 2000}\r\n\r\n".encode())
                async with asyncio.timeout(TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split(b"\r")[0])
                    answer = json.loads(await reader.readexactly(length))
                who = (answer["pod"], answer["client"])
                same = same or who
                if answer["path"] != f"/{number}" or who != same or answer["headers"]["x-fill"] != "x" * 2000:
                    raise ValueError(f"question {number} to {same} was answered with {answer}")
                self.counts["stream"] = number + 1
                self.counts["streamServer"] = answer["pod"]
                await asyncio.sleep(0.02)
        except (OSError, ValueError, TimeoutError, EOFError) as e:
            self.errors.append(f"{time.strftime('%H:%M:%S')} stream: {e!r}")

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        lines = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        stream = asyncio.ensure_future(self.stay())
        work: set[asyncio.Task[None]] = set()
        asking = asyncio.ensure_future(lines.readline())
        due = loop.time()
        while True:
            await asyncio.wait([asking], timeout=max(0.0, due - loop.time()))
            if asking.done():
                if not asking.result():
                    break
                self.report()
                asking = asyncio.ensure_future(lines.readline())
            if loop.time() >= due:
                due = max(due, loop.time() - LATE_S) + 1 / RATE
                one = asyncio.ensure_future(self.connect_once())
                work.add(one)
                one.add_done_callback(work.discard)
        if work:
            await asyncio.wait(work)
        self.counts["streamOpen"] = not stream.done()
        self.report()

    def report(self) -> None:
        print(json.dumps({**self.counts, "failed": len(self.errors), "errors": self.errors[:10]}), flush=True)


if __name__ == "__main__":
    asyncio.run(Load(sys.argv[1], int(sys.argv[2])).run())
