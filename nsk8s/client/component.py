"""How every component starts, logs and ends. Upstream: component-base. Touches: event loop, signals, stderr.

A component's `main(argv) -> int` parses upstream's flags with click and hands an async function to `run`.  The same main
serves `nsk8s component NAME`, the zygote's forks and `python -m`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click
import uvloop

from nsk8s.errors import Nsk8sError

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def setup_logging(verbosity: int) -> None:
    """klog's line shape on stderr: `I1121 10:00:00.000000   1234 module] message`. `-v 4` and above shows debug lines."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        "%(levelletter)s%(asctime)s.%(msecs)03d %(process)7d %(name)s] %(message)s", datefmt="%m%d %H:%M:%S"
    )
    letters = {"CRITICAL": "F", "ERROR": "E", "WARNING": "W", "INFO": "I", "DEBUG": "D"}

    def add_letter(record: logging.LogRecord) -> bool:
        record.levelletter = letters.get(record.levelname, "I")
        return True

    handler.setFormatter(formatter)
    handler.addFilter(add_letter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity >= 4 else logging.INFO)
    for noisy in ("asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `serve(stop)` until it returns or SIGTERM/SIGINT sets `stop`; returns the exit code.

    `serve` must return soon after `stop` is set. An Nsk8sError becomes one line on stderr and exit code 1.
    """

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        await serve(stop)

    _raise_open_files()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(body())
    except Nsk8sError as e:
        print(f"error: {e.message}" + (f" ({e.remedy})" if e.remedy else ""), file=sys.stderr)
        return 1
    return 0


def _raise_open_files() -> None:
    """As many open files as this process may have: a login's 1,024 are for who uses select(). Upstream: Go's runtime."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def invoke(command: click.Command, argv: list[str]) -> int:
    """Call a click command whose callback returns an exit code; usage errors give click's text and code 2."""
    try:
        result: Any = command.main(args=argv, standalone_mode=False)
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.Abort:
        return 130
    return int(result or 0)


async def until(stop: asyncio.Event, *tasks: Awaitable[Any]) -> None:
    """Run `tasks` until `stop` is set or one of them ends; then cancel the rest. The first exception is raised."""
    running = [asyncio.ensure_future(t) for t in tasks]
    waiter = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([waiter, *running], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task is not waiter:
                task.result()
    finally:
        for task in (waiter, *running):
            task.cancel()
        await asyncio.gather(waiter, *running, return_exceptions=True)
