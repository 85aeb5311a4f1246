"""127.0.0.1:6443 of the machine → the API server inside the cluster, byte by byte. Touches: TCP.

The listening socket was made in the root network namespace before this process moved into the control plane's: that is the
only thing of nsk8s on the host's network.  TLS is not looked at, so a real kube-apiserver can stand behind it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import cast

import click

from nsk8s.client import component

log = logging.getLogger("forwarder")

RETRY_S = 0.05
RETRIES = 120
"""An API server that is being restarted is waited for (6 s; it takes 2 on a very busy machine) instead of refusing at once."""


class _Pipe(asyncio.Protocol):
    """One direction's end: what arrives here goes to `other`, with back pressure."""

    def __init__(self) -> None:
        self.other: _Pipe | None = None
        self.transport: asyncio.Transport | None = None
        self.ended = False
        """Nothing more will come from here."""

    @property
    def _onwards(self) -> asyncio.Transport | None:
        """The other end's transport, while it takes anything."""
        transport = self.other.transport if self.other is not None else None
        return None if transport is None or transport.is_closing() else transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if self.other is not None and self.other.ended:  # it hung up meanwhile
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if onwards := self._onwards:
            onwards.write(data)

    def eof_received(self) -> bool:
        """Pass the half-close on; when both directions have ended, so does the connection."""
        self.ended = True
        if (onwards := self._onwards) and self.other is not None:
            if self.other.ended:
                onwards.close()
                return False
            onwards.write_eof()
        return True

    def pause_writing(self) -> None:
        if onwards := self._onwards:
            onwards.pause_reading()

    def resume_writing(self) -> None:
        if onwards := self._onwards:
            onwards.resume_reading()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if self.other is not None:
            self.other.close()


async def _connect(far: _Pipe, host: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    for attempt in range(RETRIES):
        if attempt:
            await asyncio.sleep(RETRY_S)
        with contextlib.suppress(OSError):
            await loop.create_connection(lambda: far, host, port)
            return True
    return False


async def _bridge(connection: socket.socket, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    near, far = _Pipe(), _Pipe()
    if not await _connect(far, host, port):
        connection.close()
        return
    near.other, far.other = far, near
    try:
        await loop.connect_accepted_socket(lambda: near, connection)
    except OSError as e:
        log.info("a client has gone: %s", e)
        connection.close()
        far.close()


@click.command(context_settings=component.CONTEXT_SETTINGS)
@click.option("--listen-fd", type=int, required=True, help="A listening TCP socket, inherited.")
@click.option("--to", required=True, help="HOST:PORT to connect to, in this process's network namespace.")
def command(listen_fd: int, to: str) -> int:
    """Forward connections of an inherited listening socket."""
    component.setup_logging(0)
    host, _, port = to.rpartition(":")

    async def serve(stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        listener = socket.socket(fileno=listen_fd)
        listener.setblocking(False)
        running: set[asyncio.Task[None]] = set()

        async def accept() -> None:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as e:  # no more files: those that are open go on, and the rest wait in the backlog
                    log.warning("cannot accept a connection: %s", e)
                    await asyncio.sleep(RETRY_S)
                    continue
                task = asyncio.ensure_future(_bridge(connection, host.strip("[]"), int(port)))
                running.add(task)
                task.add_done_callback(running.discard)

        await component.until(stop, accept())

    return component.run(serve)


def main(argv: list[str]) -> int:
    """Upstream counterpart: none (a `kubectl port-forward`-like convenience of nsk8s)."""
    return component.invoke(command, argv)
