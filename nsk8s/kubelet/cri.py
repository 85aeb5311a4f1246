"""The client of the container runtime: CRI's verbs as JSON lines over a unix socket (docs/architecture.md).

Upstream: cri-client. Touches: unix sockets, file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from nsk8s.errors import Nsk8sError

log = logging.getLogger("cri")

REQUEST_TIMEOUT_S = 120.0
"""KubeletConfiguration.runtimeRequestTimeout's default."""
LINE_LIMIT = 64 << 20


class RuntimeFailure(Nsk8sError):
    """The runtime's refusal, with gRPC's code; str() reads as upstream's messages do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {message}")
        self.code = code
        self.description = message


def unavailable(path: str, why: object) -> RuntimeFailure:
    return RuntimeFailure("Unavailable", f"connection error: desc = \"transport: Error while dialing: dial unix {path}: {why}\"")


def socket_path(endpoint: str) -> str:
    """The path of `unix:///run/x.sock`; raises Nsk8sError for anything else."""
    path = endpoint.removeprefix("unix://")
    if not path.startswith("/"):
        raise Nsk8sError(f"--container-runtime-endpoint {endpoint}: only unix:// sockets are supported")
    return path


def _failure(error: dict[str, Any]) -> RuntimeFailure:
    return RuntimeFailure(str(error.get("code", "Unknown")), str(error.get("message", "")))


class RuntimeClient:
    """One kept connection for calls; it is made again when the runtime comes back."""

    def __init__(self, path: str, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_id = 0
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        if self._reader_task is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _connect(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is not None:
                return self._writer
            try:
                reader, writer = await asyncio.open_unix_connection(self.path, limit=LINE_LIMIT)
            except OSError as e:
                raise unavailable(self.path, e.strerror or e) from e
            self._writer = writer
            self._reader_task = asyncio.create_task(self._read(reader, writer))
            return writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer = orjson.loads(line)
                future = self._pending.pop(answer.get("id"), None)
                if future is not None and not future.done():
                    future.set_result(answer)
        except (OSError, ValueError) as e:
            log.warning("runtime connection: %s", e)
        finally:
            if self._writer is writer:
                self._writer = None
                pending, self._pending = self._pending, {}
                for future in pending.values():
                    if not future.done():
                        future.set_exception(RuntimeFailure("Unavailable", "error reading from server: EOF"))
            writer.close()

    async def call(self, method: str, timeout_s: float | None = 0, **params: Any) -> dict[str, Any]:
        """One request and its result; `timeout_s` 0 is the client's own, None is none. Raises RuntimeFailure (Unavailable
        when the runtime is away)."""
        writer = self._writer or await self._connect()
        self._next_id += 1
        request_id = self._next_id
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        try:
            writer.write(orjson.dumps({"id": request_id, "method": method, "params": params}) + b"\n")
            answer = await (future if timeout_s is None else asyncio.wait_for(future, timeout_s or self.timeout_s))
        except TimeoutError as e:
            raise RuntimeFailure("DeadlineExceeded", "context deadline exceeded") from e
        except OSError as e:
            raise unavailable(self.path, e.strerror or e) from e
        finally:
            self._pending.pop(request_id, None)
        if answer.get("error"):
            raise _failure(answer["error"])
        return answer.get("result") or {}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """GetContainerEvents on a connection of its own, until it breaks (the iterator then ends). The first item is an
        empty event: the subscription was sent, what happens from now on will be told."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=LINE_LIMIT)
        except OSError as e:
            raise unavailable(self.path, e.strerror or e) from e
        try:
            writer.write(orjson.dumps({"id": 1, "method": "GetContainerEvents", "params": {}}) + b"\n")
            yield {}
            while line := await reader.readline():
                answer = orjson.loads(line)
                if answer.get("error"):
                    raise _failure(answer["error"])
                if answer.get("event"):
                    yield answer["event"]
        except (OSError, ValueError) as e:
            log.warning("runtime events: %s", e)
        finally:
            writer.close()

    async def with_descriptors(self, method: str, params: dict[str, Any], descriptors: Sequence[int]) -> DescriptorCall:
        """Exec or Attach: sends the request with `descriptors` by SCM_RIGHTS; the caller may then close its copies and
        await `result()`."""
        return await self._open(method, params, descriptors)

    async def _open(self, method: str, params: dict[str, Any], descriptors: Sequence[int]) -> DescriptorCall:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.path)
            line = orjson.dumps({"id": 1, "method": method, "params": params}) + b"\n"
            sent = socket.send_fds(sock, [line], list(descriptors)) if descriptors else 0
            if sent < len(line):
                await asyncio.get_running_loop().sock_sendall(sock, line[sent:])
        except OSError as e:
            sock.close()
            raise unavailable(self.path, e.strerror or e) from e
        return DescriptorCall(sock)

    async def port_forward(self, sandbox_id: str, port: int) -> socket.socket:
        """A TCP socket connected to 127.0.0.1:port in the pod's network namespace. Raises RuntimeFailure."""
        call = await self._open("PortForward", {"podSandboxId": sandbox_id, "port": port}, ())
        loop = asyncio.get_running_loop()
        descriptors: list[int] = []
        data = b""
        try:
            while b"\n" not in data:
                chunk, fds = await receive_descriptors(loop, call.sock, 65536)
                descriptors += fds
                if not chunk:
                    raise RuntimeFailure("Unavailable", "error reading from server: EOF")
                data += chunk
            answer = orjson.loads(data)
            if answer.get("error"):
                raise _failure(answer["error"])
            if not descriptors:
                raise RuntimeFailure("Unknown", "the runtime sent no socket")
            return socket.socket(fileno=descriptors.pop(0))
        finally:
            call.close()
            import os

            for fd in descriptors:
                os.close(fd)


async def receive_descriptors(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """At most `size` bytes, and the descriptors that came with them."""
    readable: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock.fileno(), ready)
    try:
        await readable
    finally:
        loop.remove_reader(sock.fileno())
    data, fds, _, _ = socket.recv_fds(sock, size, 4, socket.MSG_CMSG_CLOEXEC)
    return data, list(fds)


class DescriptorCall:
    """A running Exec or Attach. Closing it kills nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def result(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        data = b""
        try:
            while b"\n" not in data:
                chunk = await loop.sock_recv(self.sock, 65536)
                if not chunk:
                    raise RuntimeFailure("Unavailable", "error reading from server: EOF")
                data += chunk
        except OSError as e:
            raise RuntimeFailure("Unavailable", str(e)) from e
        answer = orjson.loads(data)
        if answer.get("error"):
            raise _failure(answer["error"])
        return answer.get("result") or {}

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()
