"""exec with a client or a command that takes its time: nothing is lost, and nobody who is merely slow is taken for dead."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

from nsk8s.kubelet import streaming

PIPE_BYTES = 65536
Command = Callable[[int, int], Awaitable[int]]
"""stdin, stdout → the exit code."""


class Loop(asyncio.SelectorEventLoop):
    """One whose clock can be put forward."""

    forward = 0.0

    def time(self) -> float:
        return super().time() + self.forward


class Call:
    def __init__(self, command: Awaitable[int]) -> None:
        self._command = command

    async def result(self) -> dict[str, Any]:
        return {"exitCode": await self._command}

    def close(self) -> None:
        return


class Runtime:
    """Runs a function in the place of a command."""

    def __init__(self, command: Command) -> None:
        self._command = command

    async def with_descriptors(self, method: str, params: dict[str, Any], descriptors: list[int]) -> Call:
        stdin, stdout = (os.dup(fd) for fd in descriptors)
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        return Call(self._command(stdin, stdout))


def exchange(command: Command, client: Callable[[ClientWebSocketResponse, Loop], Awaitable[None]]) -> None:
    """A command on one end of an exec session, `client` on the other. Returns when the kubelet has let go of both."""
    served = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        runtime: Any = Runtime(command)
        try:
            return await streaming.serve(request, runtime, "Exec", {}, tty=False, stdin=True, stdout=True, stderr=False)
        finally:
            served.set()

    async def body() -> None:
        app = web.Application()
        app.router.add_get("/", handle)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        try:
            async with (
                ClientSession() as session,
                session.ws_connect(f"http://127.0.0.1:{runner.addresses[0][1]}/", protocols=["v5.channel.k8s.io"], max_msg_size=0) as ws,
            ):
                await client(ws, loop)
            async with asyncio.timeout(20):
                await served.wait()
        finally:
            await runner.cleanup()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(body())


async def received(ws: ClientWebSocketResponse) -> dict[int, bytes]:
    """All that comes, by channel, until the session is closed in order."""
    got: dict[int, bytes] = {}
    while (message := await ws.receive()).type is WSMsgType.BINARY:
        got[message.data[0]] = got.get(message.data[0], b"") + message.data[1:]
    assert (message.type, ws.close_code) == (WSMsgType.CLOSE, 1000), (message, {c: len(d) for c, d in got.items()})
    return got


async def read_all(fd: int) -> int:
    reader, size = streaming.Reader(fd), 0
    while chunk := await reader.read():
        size += len(chunk)
    return size


def test_a_command_that_leaves_its_stdin_for_later_and_a_client_that_does_not_read_are_not_taken_for_dead() -> None:
    later = asyncio.Event()
    megabyte = b"x" * (1 << 20)

    async def command(stdin: int, stdout: int) -> int:
        await later.wait()
        os.write(stdout, b"%d bytes" % await read_all(stdin))
        os.close(stdin)
        os.close(stdout)
        return 0

    async def client(ws: ClientWebSocketResponse, loop: Loop) -> None:
        sending = asyncio.ensure_future(_send(ws))
        for _ in range(20):  # minutes pass, in which neither side hears of the other
            loop.forward += 15
            for _ in range(20):
                await asyncio.sleep(0)
        later.set()
        got = await received(ws)
        await sending
        assert got[1] == b"%d bytes" % (4 * len(megabyte))

    async def _send(ws: ClientWebSocketResponse) -> None:
        for _ in range(4):
            await ws.send_bytes(b"\0" + megabyte)
        await ws.send_bytes(b"\xff\0")

    exchange(command, client)


def test_what_a_command_wrote_before_it_ended_is_not_lost_on_a_slow_client() -> None:
    sent, ended = 0, asyncio.Event()

    async def command(stdin: int, stdout: int) -> int:
        """Writes until nothing goes any more: every buffer on the way is full, and so is the pipe when it ends."""
        nonlocal sent
        idle = 0
        while idle < 50:
            try:
                sent += os.write(stdout, b"x" * 4096)
                idle = 0
            except BlockingIOError:
                idle += 1
            await asyncio.sleep(0)
        os.close(stdin)
        os.close(stdout)
        ended.set()
        return 0

    async def client(ws: ClientWebSocketResponse, loop: Loop) -> None:
        await ended.wait()
        for _ in range(20):
            loop.forward += 15
            for _ in range(20):
                await asyncio.sleep(0)
        got = await received(ws)
        assert len(got[1]) == sent
        assert b'"Success"' in got[3]

    exchange(command, client)


def test_a_child_that_keeps_the_pipe_is_waited_for_a_moment_only() -> None:
    kept: list[int] = []

    async def command(stdin: int, stdout: int) -> int:
        os.write(stdout, b"said")
        kept.append(stdout)
        os.close(stdin)
        return 3

    async def client(ws: ClientWebSocketResponse, loop: Loop) -> None:
        receiving = asyncio.ensure_future(received(ws))
        while not receiving.done():
            loop.forward += 0.5
            await asyncio.sleep(0)
        got = await receiving
        assert got[1] == b"said"
        assert b'"3"' in got[3]

    exchange(command, client)
    os.close(kept[0])


def test_a_session_ends_when_its_client_goes_while_both_directions_are_stuck() -> None:
    stuck = asyncio.Event()

    async def command(stdin: int, stdout: int) -> int:
        """Reads nothing before it has written all."""
        waiting = array.array("i", [0])
        try:
            while True:
                try:
                    os.write(stdout, b"x" * 4096)
                except BlockingIOError:
                    fcntl.ioctl(stdin, termios.FIONREAD, waiting)
                    if waiting[0] == PIPE_BYTES:
                        stuck.set()
                await asyncio.sleep(0)
        except BrokenPipeError:
            return 141
        finally:
            os.close(stdin)
            os.close(stdout)

    async def client(ws: ClientWebSocketResponse, loop: Loop) -> None:
        sending = asyncio.ensure_future(_send(ws))
        await stuck.wait()
        connection: Any = ws._response.connection
        connection.transport.abort()
        await asyncio.gather(sending, return_exceptions=True)

    async def _send(ws: ClientWebSocketResponse) -> None:
        while True:
            await ws.send_bytes(b"\0" + b"x" * (1 << 20))

    exchange(command, client)
