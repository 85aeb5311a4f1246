"""`proxy_stream.py PROTOCOL ADDRESS PORT RATE`: open RATE connections a second until stdin closes. Runs inside a namespace.

Prints "started" with the first answer; at the end one JSON line [[start (monotonic s), seconds taken, answer], …], the answer as a
server of ours gives it, or the error's name, or "timeout" after 2 s. `PROTOCOL` is tcp or udp.
"""

import asyncio
import json
import socket
import sys
import time

PATIENCE_S = 2.0


async def once(protocol: str, address: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await loop.sock_connect(s, (address, port))
                if protocol == "udp":
                    await loop.sock_sendall(s, b"x")
                return (await loop.sock_recv(s, 100)).decode() or "closed"
        except TimeoutError:
            return "timeout"
        except OSError as e:
            return type(e).__name__


async def main() -> None:
    protocol, address, port, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    results: list = []
    running: set = set()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, stop.set)

    async def one() -> None:
        start = time.monotonic()
        answer = await once(protocol, address, port)
        results.append([start, time.monotonic() - start, answer])
        if len(results) == 1:
            print("started", flush=True)

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
