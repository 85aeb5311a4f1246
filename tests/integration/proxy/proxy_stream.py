"""`proxy_stream.py PROTOCOL ADDRESS PORT RATE`: open RATE connections a second until stdin closes. Runs inside a namespace.

Prints how many answers there are at every tenth, with the least start of these ten; at the end one JSON line [[start (monotonic
s), seconds taken, answer, how often TCP asked again], …], the answer as a server of ours gives it, or the error's name, or "timeout".
`PROTOCOL` is tcp or udp.
"""

import asyncio
import json
import socket
import sys
import time

PATIENCE_S = 30.0
"""Whoever answers may be held up."""
TOTAL_RETRANS = slice(100, 104)
"""tcpi_total_retrans of linux/tcp.h's struct tcp_info."""


def asked_again(s: socket.socket) -> int:
    return int.from_bytes(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[TOTAL_RETRANS], sys.byteorder)


async def once(protocol: str, address: str, port: int) -> tuple[str, int]:
    """The answer, and how often TCP sent something again."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await loop.sock_connect(s, (address, port))
                if protocol == "udp":
                    await loop.sock_sendall(s, b"x")
                answer = (await loop.sock_recv(s, 100)).decode() or "closed"
        except TimeoutError:
            answer = "timeout"
        except OSError as e:
            answer = type(e).__name__
        return answer, asked_again(s) if protocol == "tcp" else 0


async def main() -> None:
    protocol, address, port, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    results: list = []
    running: set = set()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, stop.set)

    async def one() -> None:
        start = time.monotonic()
        answer, again = await once(protocol, address, port)
        results.append([start, time.monotonic() - start, answer, again])
        if len(results) % 10 == 0:
            print(len(results), min(result[0] for result in results[-10:]), flush=True)

    begin = time.monotonic()
    sent = 0
    while not stop.is_set():
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
        sent += 1
        await asyncio.sleep(max(0.0, begin + sent / rate - time.monotonic()))
    if running:
        await asyncio.wait(running)
    print(json.dumps(results), flush=True)


asyncio.run(main())
