"""How a probe is described, asked and judged. The judging is pure; the asking touches sockets and the runtime.

Upstream: kubelet/prober, pkg/probe/{http,tcp,exec}.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from nsk8s.api.meta import Object
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure

LIVENESS, READINESS, STARTUP = "liveness", "readiness", "startup"
SPEC_KEY = {LIVENESS: "livenessProbe", READINESS: "readinessProbe", STARTUP: "startupProbe"}
BODY_LIMIT = 10 * 1024
REDIRECTS = 10
USER_AGENT = "kube-probe/1.33"


class Outcome(NamedTuple):
    ok: bool
    message: str


@dataclass(slots=True)
class Judge:
    """Consecutive outcomes against the thresholds. `settled` is the result others see, None before the first."""

    success_threshold: int
    failure_threshold: int
    settled: bool | None = None
    _last: bool | None = field(default=None)
    _run: int = 0

    def observe(self, ok: bool) -> bool:
        """Take in one outcome; True if `settled` changed."""
        self._run = self._run + 1 if ok == self._last else 1
        self._last = ok
        if self._run < (self.success_threshold if ok else self.failure_threshold):
            return False
        changed = self.settled != ok
        self.settled = ok
        return changed


@dataclass(frozen=True)
class Timing:
    initial_delay_s: float
    period_s: float
    timeout_s: float
    success_threshold: int
    failure_threshold: int


def timing(probe: Object) -> Timing:
    """The probe's numbers with upstream's defaults for those that are missing or zero."""
    return Timing(
        float(probe.get("initialDelaySeconds") or 0), float(probe.get("periodSeconds") or 10),
        float(probe.get("timeoutSeconds") or 1), int(probe.get("successThreshold") or 1),
        int(probe.get("failureThreshold") or 3),
    )  # fmt: skip


QUICK_S = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4)
"""Extra, unjudged tries after the first failure of a readiness or startup probe of a fresh container. Upstream probes at once and
then each period, which makes a pod that listens after 30 ms wait a whole second; these can only make it ready sooner."""
QUICK_EXEC_S = (0.15, 0.4)


def quick_retries(kind: str, probe: Object) -> tuple[float, ...]:
    """Delays of the extra tries before the first period is over."""
    if kind == LIVENESS or int(probe.get("successThreshold") or 1) > 1:
        return ()
    return QUICK_EXEC_S if probe.get("exec") else QUICK_S


def resolve_port(container: Object, port: int | str) -> int:
    """A port number, or the number of the container's port of that name. Raises ValueError."""
    if isinstance(port, int):
        number = port
    elif port.isdigit():
        number = int(port)
    else:
        found = next((p for p in container.get("ports") or [] if p.get("name") == port), None)
        if found is None:
            raise ValueError(f'couldn\'t find port: "{port}" in container {container.get("name")}')
        number = int(found["containerPort"])
    if not 0 < number < 65536:
        raise ValueError(f"invalid port number: {number}")
    return number


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class HTTPTarget(NamedTuple):
    scheme: str
    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{join_host_port(self.host, self.port)}{self.path}"


def http_target(action: Object, container: Object, pod_ip: str) -> HTTPTarget:
    """Raises ValueError for a port that is not there."""
    path = action.get("path") or "/"
    return HTTPTarget(
        (action.get("scheme") or "HTTP").lower(), action.get("host") or pod_ip, resolve_port(container, action.get("port", 0)),
        path if path.startswith("/") else "/" + path,
        tuple((h["name"], str(h.get("value") or "")) for h in action.get("httpHeaders") or []),
    )  # fmt: skip


def render_request(target: HTTPTarget) -> bytes:
    """The bytes of the GET. Names and values with line breaks were refused by the API server; here they are dropped."""
    given = {n.lower() for n, _ in target.headers}
    lines = [f"GET {target.path.replace(' ', '%20')} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"Host: {join_host_port(target.host, target.port)}")
    if "user-agent" not in given:
        lines.append(f"User-Agent: {USER_AGENT}")
    if "accept" not in given:
        lines.append("Accept: */*")
    lines += [f"{n}: {v}" for n, v in target.headers if v != "" and not any(c in n + v for c in "\r\n")]
    lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


class HTTPAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _HTTPProtocol(asyncio.Protocol):
    """One request, one answer: no session, no pool, nothing kept."""

    def __init__(self, request: bytes, done: asyncio.Future[HTTPAnswer]) -> None:
        self._request = request
        self._done = done
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            if len(self._data) > BODY_LIMIT * 4:
                self._finish(False)
            return
        length = -1
        for line in head.split(b"\r\n")[1:]:
            if line[:15].lower() == b"content-length:":
                with contextlib.suppress(ValueError):
                    length = int(line[15:])
        if len(body) >= BODY_LIMIT or 0 <= length <= len(body):
            self._finish(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(b"\r\n\r\n" in self._data, exc)

    def _finish(self, complete: bool, exc: Exception | None = None) -> None:
        if not self._done.done():
            answer = parse_answer(self._data) if complete else None
            if answer is not None:
                self._done.set_result(answer)
            else:
                self._done.set_exception(exc or EOFError("EOF" if not self._data else "malformed HTTP response"))
        if self._transport is not None:
            self._transport.close()


def parse_answer(data: bytes) -> HTTPAnswer | None:
    """None for what is no HTTP/1 answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = lines[0].split(" ", 2)
    if len(fields) < 2 or not fields[0].startswith("HTTP/1.") or not fields[1].isdigit():
        return None
    headers = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
    return HTTPAnswer(int(fields[1]), headers, body)


def go_error(error: BaseException) -> str:
    """`connect: connection refused` and the like: the errno in Go's words."""
    if isinstance(error, OSError) and error.errno:
        text = os.strerror(error.errno).lower()
        call = "connect" if error.errno in (
            errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EADDRNOTAVAIL
        ) else "read"  # fmt: skip
        return f"{call}: {text}" if call == "connect" else f"read tcp: read: {text}"
    return str(error) or type(error).__name__


async def http_request(target: HTTPTarget) -> HTTPAnswer:
    """Raises OSError, EOFError, TimeoutError (from the caller's own limit)."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[HTTPAnswer] = loop.create_future()
    context: ssl.SSLContext | None = None
    if target.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    transport, _ = await loop.create_connection(
        lambda: _HTTPProtocol(render_request(target), done), target.host, target.port, ssl=context
    )
    try:
        return await done
    finally:
        transport.close()


async def http_probe(target: HTTPTarget, timeout_s: float) -> Outcome:
    first = target
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(REDIRECTS):
                answer = await http_request(target)
                location = answer.headers.get("location", "")
                if not (300 <= answer.status < 400 and location):
                    break
                following = _redirected(target, location)
                if following is None:
                    body = answer.body[:200].decode(errors="replace")
                    return Outcome(True, f"Probe terminated redirects, Response body: {body}")
                target = following
            else:
                return Outcome(False, f'Get "{target.path}": stopped after {REDIRECTS} redirects')
    except TimeoutError:
        return Outcome(
            False, f'Get "{first.url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        )
    except (OSError, EOFError) as e:
        where = f"dial tcp {join_host_port(target.host, target.port)}: " if isinstance(e, ConnectionRefusedError) or (
            isinstance(e, OSError) and go_error(e).startswith("connect:")
        ) else ""  # fmt: skip
        return Outcome(False, f'Get "{first.url}": {where}{go_error(e)}')
    if 200 <= answer.status < 400:
        return Outcome(True, answer.body[:200].decode(errors="replace"))
    return Outcome(False, f"HTTP probe failed with statuscode: {answer.status}")


def _redirected(target: HTTPTarget, location: str) -> HTTPTarget | None:
    """Where a redirect leads if it stays on the same host, else None (upstream counts that as success)."""
    from urllib.parse import urljoin, urlsplit

    parts = urlsplit(urljoin(target.url, location))
    if parts.hostname != target.host.lower() or parts.scheme not in ("http", "https"):
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HTTPTarget(parts.scheme, target.host, port, path, target.headers)


async def tcp_probe(host: str, port: int, timeout_s: float) -> Outcome:
    address = join_host_port(host, port)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    except TimeoutError:
        return Outcome(False, f"dial tcp {address}: i/o timeout")
    except OSError as e:
        return Outcome(False, f"dial tcp {address}: {go_error(e)}")
    transport.close()
    return Outcome(True, "")


async def exec_probe(runtime: RuntimeClient, container_id: str, command: Sequence[str], timeout_s: float) -> Outcome:
    """Raises RuntimeFailure when the runtime itself is away (nothing was learnt about the container)."""
    try:
        answer = await runtime.call(
            "ExecSync", timeout_s + 10, containerId=container_id, cmd=list(command), timeout=max(1, int(timeout_s))
        )
    except RuntimeFailure as e:
        if e.code == "DeadlineExceeded":
            return Outcome(False, f'command timed out: "{" ".join(command)}" timed out after {int(timeout_s)}s')
        if e.code == "Unavailable":
            raise
        return Outcome(False, str(e))
    output = b"".join(base64.b64decode(answer.get(k) or "") for k in ("stdout", "stderr"))
    return Outcome(int(answer.get("exitCode") or 0) == 0, output[:BODY_LIMIT].decode(errors="replace"))


Ask = Callable[[], Awaitable[Outcome]]


async def run_handler(
    handler: Object, container: Object, container_id: str, pod_ip: str, runtime: RuntimeClient, timeout_s: float
) -> Outcome:
    """One go of a probe (httpGet, tcpSocket or exec)."""
    try:
        if handler.get("exec"):
            return await exec_probe(runtime, container_id, handler["exec"].get("command") or [], timeout_s)
        if handler.get("httpGet"):
            return await http_probe(http_target(handler["httpGet"], container, pod_ip), timeout_s)
        if handler.get("tcpSocket"):
            action = handler["tcpSocket"]
            return await tcp_probe(action.get("host") or pod_ip, resolve_port(container, action.get("port", 0)), timeout_s)
    except ValueError as e:
        return Outcome(False, str(e))
    return Outcome(False, "this kubelet supports exec, httpGet and tcpSocket probes only")
