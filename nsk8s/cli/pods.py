"""logs, exec: what happens inside containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import struct
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from nsk8s.cli.common import cluster_option, show_error, with_client
from nsk8s.cli.targets import checked_name, namespace_options
from nsk8s.errors import Nsk8sError, StatusError

if TYPE_CHECKING:
    from nsk8s.api.meta import Object
    from nsk8s.client.rest import Client

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


async def find_pod(client: Client, word: str, namespace: str) -> Object:
    """`POD`, `pod/POD`, or a pod of `deploy/X`, `svc/X` …: one that runs, if any does. Raises Nsk8sError."""
    from nsk8s.api.selectors import from_label_selector
    from nsk8s.client.discovery import discover, lookup
    from nsk8s.client.resources import PODS

    kind, _, name = word.rpartition("/")
    checked_name(name)
    if not kind or kind in ("pod", "pods", "po"):
        return await client.get(PODS, name, namespace)
    resource = lookup(await discover(client), kind)
    obj = await client.get(resource, name, namespace if resource.namespaced else "")
    selector: Any = (obj.get("spec") or {}).get("selector")
    if isinstance(selector, dict) and not {"matchLabels", "matchExpressions"} & set(selector):
        selector = {"matchLabels": selector}
    if not selector:
        raise Nsk8sError(f"{word} selects no pods", "name a pod, a workload or a Service")
    listed = await client.list(PODS, namespace, label_selector=str(from_label_selector(selector)))
    items: list[Object] = listed["items"]
    if not items:
        raise Nsk8sError(f"{word} has no pods", f"nsk8s describe {word} -n {namespace}")
    return min(items, key=lambda p: (p.get("status", {}).get("phase") != "Running", p["metadata"]["name"]))


DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


def container_names(pod: Object) -> list[str]:
    """Those that `logs --all-containers` prints, in the order they start. Pure."""
    return [c["name"] for part in ("initContainers", "containers") for c in pod["spec"].get(part) or []]


def default_container(pod: Object) -> tuple[str, str]:
    """(the container that is meant when none is named, what kubectl says about it: "" when there is no other). Pure."""
    wanted = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER, "")
    if wanted in container_names(pod):
        return wanted, ""
    own = [c["name"] for c in pod["spec"]["containers"]]
    init = [f"{c['name']} (init)" for c in pod["spec"].get("initContainers") or []]
    if len(own) + len(init) < 2:
        return own[0], ""
    return own[0], f'Defaulted container "{own[0]}" out of: {", ".join([*own, *init])}'


def seconds(text: str) -> int:
    """`90`, `90s`, `5m`, `1h30m` as seconds. Pure. Raises click.BadParameter."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    value = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if not value:
        raise click.BadParameter(f"{text!r} is no duration: 90, 30s, 5m or 1h30m")
    return value


@click.command(epilog="Example: sudo nsk8s logs -f deploy/hello")
@click.argument("pod", metavar="POD | TYPE/NAME")
@click.argument("container", required=False, default="", metavar="[CONTAINER]")
@namespace_options
@click.option("-c", "--container", "chosen", default="", help="The container.")
@click.option("--all-containers", is_flag=True, help="Of every container of the pod.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until the container ends or Ctrl-C.")
@click.option("-p", "--previous", is_flag=True, help="Of the container's previous run.")
@click.option("--tail", type=click.IntRange(-1), default=-1, help="Only the last lines; -1: all.")
@click.option("--since", default=None, metavar="DURATION", help="Only what is younger: 30s, 5m, 1h.")
@click.option("--timestamps", is_flag=True, help="Each line with its time.")
@click.option("--prefix", is_flag=True, help="Each line with its pod and container.")
@cluster_option
def logs(
    pod: str, container: str, namespace: str, chosen: str, all_containers: bool, follow: bool, previous: bool, tail: int,
    since: str | None, timestamps: bool, prefix: bool, cluster: str,
) -> None:  # fmt: skip
    """Print a container's log."""
    if all_containers and (chosen or container):
        raise click.UsageError("give either a container or --all-containers")
    params = {"tailLines": str(tail) if tail >= 0 else "", "sinceSeconds": str(seconds(since)) if since else ""}
    params |= {k: "true" for k, on in (("follow", follow), ("previous", previous), ("timestamps", timestamps)) if on}
    params = {k: v for k, v in params.items() if v}

    async def work(client: Client) -> bool:
        found = await find_pod(client, pod, namespace)
        name = found["metadata"]["name"]
        names = container_names(found) if all_containers else [chosen or container]
        if not names[0]:
            names[0], remark = default_container(found)
            if remark:
                click.echo(remark, err=True)
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"

        async def one(container: str) -> bool:
            head = f"[pod/{name}/{container}] ".encode() if prefix else b""
            try:
                await _print(client.stream(path, {**params, "container": container}), head, whole_lines=len(names) > 1)
            except StatusError as e:
                show_error(e)
                return False
            return True

        if follow:
            return all(await asyncio.gather(*map(one, names)))
        return all([await one(c) for c in names])

    if not with_client(cluster, work):
        sys.exit(1)


async def _print(chunks: AsyncIterator[bytes], head: bytes, whole_lines: bool) -> None:
    """Bytes as they come; or, with several logs or a head, line by line."""
    rest = b""
    async for chunk in chunks:
        if head or whole_lines:
            *lines, rest = (rest + chunk).split(b"\n")
            chunk = b"".join(head + line + b"\n" for line in lines)
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    if rest:
        sys.stdout.buffer.write(head + rest + b"\n")


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
    if tty and with_stdin and not sys.stdin.isatty():
        click.echo("Unable to use a TTY - input is not a terminal or the right kind of file", err=True)
    tty = tty and with_stdin and sys.stdin.isatty()  # as kubectl

    async def work(client: Client) -> int:
        found = await find_pod(client, pod, namespace)
        chosen = container
        if not chosen:
            chosen, remark = default_container(found)
            if remark:
                click.echo(remark, err=True)
        query = [("command", a) for a in argv] + [("stdout", "true"), ("container", chosen)]
        query += [("stdin", "true")] if with_stdin else []
        query += [("tty", "true")] if tty else [("stderr", "true")]
        path = f"/api/v1/namespaces/{namespace}/pods/{found['metadata']['name']}/exec"
        return await _session(client, path, query, with_stdin, tty)

    sys.exit(with_client(cluster, work))


async def _session(client: Client, path: str, query: list[tuple[str, str]], with_stdin: bool, tty: bool) -> int:
    """One exec session over v5.channel.k8s.io; the command's exit code. Raises Nsk8sError."""
    async with client.websocket(path, query, "v5.channel.k8s.io") as ws:
        loop = asyncio.get_running_loop()
        with _raw_terminal(tty):
            if tty:
                await _send_size(ws)
                loop.add_signal_handler(signal.SIGWINCH, lambda: asyncio.ensure_future(_send_size(ws)))
            if with_stdin:
                # A thread of its own that nobody waits for: it may sit in a read long after the command has ended.
                threading.Thread(target=_feed, args=(ws, loop), daemon=True).start()
            return await _receive(ws)


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


def _feed(ws: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Standard input, then its half-close; as fast as the other side takes it."""
    with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):  # the session has ended meanwhile
        while True:
            data = os.read(0, 32768)
            message = bytes([STDIN]) + data if data else bytes([CLOSE, STDIN])
            asyncio.run_coroutine_threadsafe(ws.send_bytes(message), loop).result()
            if not data:
                return


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
