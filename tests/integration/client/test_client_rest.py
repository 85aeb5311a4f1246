"""The REST client against a server on loopback that answers when it likes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from nsk8s.client.kubeconfig import ClientConfig
from nsk8s.client.resources import NODES
from nsk8s.client.rest import Client, Unreachable


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A server that answers /readyz; watches are held open, and everything else is never answered."""

    over = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/readyz":
            return web.Response(text="ok")
        if request.path == "/socket":
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            await ws.receive()
            return ws
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"type": "ADDED", "object": {}}\n')
        await over.wait()
        return web.Response()

    runner = web.AppRunner(web.Application(), shutdown_timeout=0)
    runner.app.router.add_route("*", "/{path:.*}", handle)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    over.set()
    await runner.cleanup()


async def test_closed_connections_end_what_is_under_way_and_the_next_call_dials_anew(address: str) -> None:
    watching = asyncio.Event()

    async def watch(client: Client) -> None:
        async for _ in client.watch(NODES):
            watching.set()

    async with asyncio.timeout(10), Client(ClientConfig(address)) as client:
        pending = [asyncio.ensure_future(watch(client)), asyncio.ensure_future(client.get(NODES, "node1"))]
        await watching.wait()
        await client.close_connections()
        for task in pending:
            with pytest.raises(Unreachable):
                await task
        assert await client.request("GET", "/readyz") == "ok"


async def test_closing_connections_of_a_client_that_is_not_open_does_nothing() -> None:
    client = Client(ClientConfig("http://127.0.0.1:1"))
    await client.close_connections()
    with pytest.raises(AssertionError):
        await client.request("GET", "/readyz")


async def test_a_session_that_stands_still_is_probed_and_not_given_up(address: str) -> None:
    async with asyncio.timeout(10), Client(ClientConfig(address)) as client, client.websocket("/socket", [], "") as ws:
        s = ws.get_extra_info("socket")
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0, "a window that stays closed is no dead peer"


class Closing:
    """Answers the first request of each connection, and closes at the second, as a server does whose idle time is just over."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for first in (True, False):
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen.append(head.split(b" ", 1)[0].decode())
            if first:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("PUT", True), ("DELETE", True), ("POST", False), ("PATCH", False)])
async def test_what_met_a_kept_connection_as_it_was_closed_is_asked_again_if_that_is_harmless(method: str, again: bool) -> None:
    handler = Closing()
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server, asyncio.timeout(10), Client(ClientConfig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as client:
        await client.request("GET", "/first")
        if again:
            assert await client.request(method, "/second") == {}
        else:
            with pytest.raises(Unreachable, match=f"^{method} http://127.0.0.1:\\d+/second: it closed the connection without an answer"):
                await client.request(method, "/second")
    assert handler.seen == ["GET", method, *([method] if again else [])]
