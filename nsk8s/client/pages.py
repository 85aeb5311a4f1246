"""Pages like /healthz and /metrics for components that serve nothing else over HTTP. Touches: sockets.

A few lines over asyncio's streams: an HTTP framework would double the time that such a component takes to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from nsk8s.errors import Nsk8sError

REQUEST_TIMEOUT_S = 5.0

Page = Callable[[], Awaitable[tuple[int, str]]]
"""() → (status, text)."""

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


async def serve(address: str, port: int, pages: Mapping[str, Page]) -> asyncio.Server:
    """The pages, by their paths, on one port, answered until the server is closed. Raises Nsk8sError."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, text = await _page(head, pages)
                body = text.encode()
                kind = "text/plain; charset=utf-8"
                if text.startswith("#"):  # Prometheus' text form
                    kind = "text/plain; version=0.0.4; charset=utf-8"
                lines = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\n"
                writer.write(f"{lines}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
                if not head.startswith("HEAD "):
                    writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass
        finally:
            writer.close()

    try:
        return await asyncio.start_server(handle, address, port)
    except OSError as e:
        raise Nsk8sError(f"cannot listen on {address} port {port} for {', '.join(pages)}: {e.strerror}") from e


async def _page(head: str, pages: Mapping[str, Page]) -> tuple[int, str]:
    words = head.split("\r\n", 1)[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return 400, "bad request\n"
    method, target, _ = words
    page = pages.get(target.split("?", 1)[0])
    if page is None:
        return 404, "404 page not found\n"
    if method not in ("GET", "HEAD"):
        return 405, "method not allowed\n"
    return await page()
