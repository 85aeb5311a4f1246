"""Forks that stay: each takes one call after another. Touches: processes, one socket pair each.

A fork costs 0.7 ms, and each page that it and its parent no longer share 2 µs more: with the calls' own code that is the larger
half of a CNI call that takes 1.6 ms. Python also specializes code as it runs, which a fork that ends at once does in vain.
So the second call finds the first one's process. The processes end when nothing has come for a while, and with the runtime.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
from functools import partial

from nsk8s.runtime import wire
from nsk8s.runtime.errors import CriError, describe
from nsk8s.runtime.loop import Loop, Timer
from nsk8s.runtime.workers import answer_of, become_helper, outcome_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from nsk8s.runtime.workers import Done

IDLE_S = 5.0
"""So long a process that nobody needs is kept: its memory is a few megabytes."""


class _Helper:
    __slots__ = ("connection", "done", "idle", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.connection: wire.Connection
        self.done: Done | None = None
        self.idle: Timer | None = None


class Helpers:
    """Runs the `calls`, functions of one JSON value that return one, in at most `limit` processes; the rest wait in order."""

    def __init__(self, loop: Loop, limit: int, calls: Mapping[str, Callable[[Any], Any]], idle_s: float = IDLE_S) -> None:
        self.loop = loop
        self.limit = limit
        self.calls = calls
        self.idle_s = idle_s
        self.helpers: list[_Helper] = []
        self.waiting: list[tuple[str, Any, Done]] = []

    def run(self, name: str, argument: Any, done: Done) -> None:
        """Call `done(result, None)` or `done(None, error)` when a process has run it."""
        helper = next((h for h in self.helpers if h.done is None), None)
        if helper is None and len(self.helpers) < self.limit:
            try:
                helper = self._fork()
            except OSError as e:
                done(None, CriError(f"cannot fork: {describe(e)}"))
                return
        if helper is None:
            self.waiting.append((name, argument, done))
            return
        if helper.idle is not None:
            helper.idle.cancel()
        helper.done = done
        helper.connection.send({"call": name, "argument": argument})

    def close(self) -> None:
        """End the processes that have nothing to do."""
        for helper in [h for h in self.helpers if h.done is None]:
            helper.connection.close()

    def _fork(self) -> _Helper:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            _serve(theirs, self.calls, parent)
        theirs.close()
        helper = _Helper(pid)
        helper.connection = wire.Connection(
            self.loop, ours, lambda _, answer: self._answered(helper, answer), lambda _: self._gone(helper)
        )
        self.helpers.append(helper)
        return helper

    def _answered(self, helper: _Helper, answer: dict[str, Any]) -> None:
        done, helper.done = helper.done, None
        helper.idle = self.loop.call_later(self.idle_s, helper.connection.close)
        try:
            if done is not None:
                done(*answer_of(answer))
        finally:
            if self.waiting:
                self.run(*self.waiting.pop(0))

    def _gone(self, helper: _Helper) -> None:
        """It was told to end, or somebody killed it."""
        self.helpers.remove(helper)
        if helper.idle is not None:
            helper.idle.cancel()
        os.kill(helper.pid, signal.SIGKILL)  # it may be in the middle of something; not reaped yet, so it is still ours
        os.waitpid(helper.pid, 0)
        done, helper.done = helper.done, None
        try:
            if done is not None:
                done(None, CriError("a helper process of the runtime was killed"))
        finally:
            if self.waiting:
                self.run(*self.waiting.pop(0))


def _serve(sock: socket.socket, calls: Mapping[str, Callable[[Any], Any]], parent: int) -> NoReturn:
    try:
        gc.freeze()  # what is shared with the runtime stays so; what the calls leave is collected
        become_helper((sock.fileno(),), parent)
        with sock.makefile("rb") as lines:
            for line in lines:
                asked = json.loads(line)
                answer = outcome_of(partial(calls[asked["call"]], asked["argument"]))
                sock.sendall(json.dumps(answer).encode() + b"\n")
    finally:
        os._exit(0)
