"""logs, exec: what happens inside containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
from typing import TYPE_CHECKING, Any

import click

from nsk8s.cli.common import cluster_option, with_client
from nsk8s.cli.targets import namespace_options
from nsk8s.errors import Nsk8sError

if TYPE_CHECKING:
    from nsk8s.client.rest import Client

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


async def pod_name(client: Client, word: str, namespace: str) -> str:
    """`POD`, `pod/POD`, or the first pod of `deploy/X`, `svc/X` … Raises Nsk8sError."""
    from nsk8s.client.discovery import discover, lookup
    from nsk8s.client.resources import PODS

    kind, _, name = word.rpartition("/")
    if not kind or kind in ("pod", "pods", "po"):
        return name
    resource = lookup(await discover(client), kind)
    obj = await client.get(resource, name, namespace)
    selector: Any = (obj.get("spec") or {}).get("selector") or {}
    labels = selector.get("matchLabels", selector) if isinstance(selector, dict) else {}
    if not labels:
        raise Nsk8sError(f"{word} has no selector")
    listed = await client.list(PODS, namespace, label_selector=",".join(f"{k}={v}" for k, v in labels.items()))
    items = sorted(listed["items"], key=lambda p: (p.get("status", {}).get("phase") != "Running", p["metadata"]["name"]))
    if not items:
        raise Nsk8sError(f"{word} has no pods")
    return str(items[0]["metadata"]["name"])


@click.command(epilog="Example: sudo nsk8s logs -f deploy/hello")
@click.argument("pod", metavar="POD | TYPE/NAME")
@click.argument("container", required=False, default="", metavar="[CONTAINER]")
@namespace_options
@click.option("-c", "--container", "chosen", default="", help="The container.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option("-p", "--previous", is_flag=True, help="Of the container's previous run.")
@click.option("--tail", type=int, default=-1, help="Only the last lines.")
@click.option("--since", type=int, default=None, metavar="SECONDS", help="Only the last seconds.")
@click.option("--timestamps", is_flag=True, help="Each line with its time.")
@cluster_option
def logs(
    pod: str, container: str, namespace: str, chosen: str, follow: bool, previous: bool, tail: int, since: int | None,
    timestamps: bool, cluster: str,
) -> None:  # fmt: skip
    """Print a container's log."""
    params = {"container": chosen or container, "tailLines": str(tail) if tail >= 0 else "", "sinceSeconds": str(since or "")}
    params |= {k: "true" for k, on in (("follow", follow), ("previous", previous), ("timestamps", timestamps)) if on}

    async def work(client: Client) -> None:
        name = await pod_name(client, pod, namespace)
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
        async for chunk in client.stream(path, {k: v for k, v in params.items() if v}):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()

    with_client(cluster, work)


@click.command(
    context_settings={"ignore_unknown_options": True}, epilog="Example: sudo nsk8s exec -it deploy/hello -- sh"
)
@click.argument("pod", metavar="POD | TYPE/NAME")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND…")
@namespace_options
@click.option("-c", "--container", default="", help="The container.")
@click.option("-i", "--stdin", "with_stdin", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Standard input is a terminal.")
@cluster_option
def exec_(
    pod: str, argv: tuple[str, ...], namespace: str, container: str, with_stdin: bool, tty: bool, cluster: str
) -> None:
    """Run a command inside a container. The exit code is the command's."""

    async def work(client: Client) -> int:
        name = await pod_name(client, pod, namespace)
        query = [("command", a) for a in argv] + [("stdout", "true")]
        query += [("container", container)] if container else []
        query += [("stdin", "true")] if with_stdin else []
        query += [("tty", "true")] if tty else [("stderr", "true")]
        return await _session(client, f"/api/v1/namespaces/{namespace}/pods/{name}/exec", query, with_stdin, tty)

    sys.exit(with_client(cluster, work))


async def _session(client: Client, path: str, query: list[tuple[str, str]], with_stdin: bool, tty: bool) -> int:
    """One exec session over v5.channel.k8s.io; the command's exit code. Raises Nsk8sError."""
    async with client.websocket(path, query, "v5.channel.k8s.io") as ws:
        loop = asyncio.get_running_loop()
        with _raw_terminal(tty and with_stdin and sys.stdin.isatty()):
            if tty:
                await _send_size(ws)
                loop.add_signal_handler(signal.SIGWINCH, lambda: asyncio.ensure_future(_send_size(ws)))
            feeder = asyncio.ensure_future(_feed(ws)) if with_stdin else None
            try:
                return await _receive(ws)
            finally:
                if feeder is not None:
                    feeder.cancel()


async def _receive(ws: Any) -> int:
    async for message in ws:
        data = message.data if isinstance(message.data, bytes) else b""
        if not data:
            continue
        channel, body = data[0], data[1:]
        if channel in (STDOUT, STDERR):
            out = sys.stdout if channel == STDOUT else sys.stderr
            out.buffer.write(body)
            out.buffer.flush()
        elif channel == STATUS:
            return exit_code(json.loads(body))
    raise Nsk8sError("the connection ended before the command did")


def exit_code(status: dict[str, Any]) -> int:
    """The exit code in the closing Status of an exec session. Pure. Raises Nsk8sError for other failures."""
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise Nsk8sError(status.get("message") or "exec failed")


async def _send_size(ws: Any) -> None:
    import fcntl
    import termios

    with contextlib.suppress(OSError):
        rows, columns = struct.unpack("HHHH", fcntl.ioctl(1, termios.TIOCGWINSZ, b"\0" * 8))[:2]
        await ws.send_bytes(bytes([RESIZE]) + json.dumps({"Width": columns, "Height": rows}).encode())


async def _feed(ws: Any) -> None:
    """Standard input, then its half-close."""
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.run_in_executor(None, os.read, 0, 32768)
        if not data:
            await ws.send_bytes(bytes([CLOSE, STDIN]))
            return
        await ws.send_bytes(bytes([STDIN]) + data)


@contextlib.contextmanager
def _raw_terminal(on: bool) -> Any:
    if not on:
        yield
        return
    import termios
    import tty as terminal

    saved = termios.tcgetattr(0)
    terminal.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
