"""Forks that stay: one call after another in the same process, and what happens when it is killed, asked too much, or idle."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nsk8s.runtime.errors import CriError
from nsk8s.runtime.helpers import Helpers
from nsk8s.runtime.loop import Loop

pytestmark = pytest.mark.timeout(60)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def fail(argument: Any) -> None:
    raise CriError(f"no {argument}", "NotFound")


CALLS: dict[str, Callable[[Any], Any]] = {
    "pid": lambda _: os.getpid(),
    "echo": lambda a: a,
    "fail": fail,
    "crash": lambda _: os.stat("/nowhere"),
    "fds": lambda _: sorted(os.listdir("/proc/self/fd")),
    "die": lambda _: os.kill(os.getpid(), signal.SIGKILL),
}


@pytest.fixture
def loop() -> Iterator[Loop]:
    before = children()
    yield Loop()
    assert children() <= before, "none is left, not even a dead one"


def collect(loop: Loop, helpers: Helpers, *asked: tuple[str, Any]) -> list[Any]:
    """The results, or the errors' words, in the order in which they came."""
    found: list[Any] = []

    def done(result: Any, error: CriError | None) -> None:
        found.append(result if error is None else f"{error.code}: {error}")
        if len(found) == len(asked):
            loop.stop()

    for name, argument in asked:
        helpers.run(name, argument, done)
    loop.running = len(found) < len(asked)
    loop.run()
    return found


def test_the_same_process_takes_call_after_call(loop: Loop) -> None:
    helpers = Helpers(loop, 1, CALLS)
    pids = collect(loop, helpers, *[("pid", None)] * 5)
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()
    assert collect(loop, helpers, ("pid", None)) == pids[:1]
    long = "ä" * 1_000_000
    assert collect(loop, helpers, ("echo", long), ("echo", {"a": [1]})) == [long, {"a": [1]}]
    helpers.close()


def test_several_at_once_and_no_more_than_allowed(loop: Loop) -> None:
    helpers = Helpers(loop, 2, CALLS)
    assert len(set(collect(loop, helpers, *[("pid", None)] * 9))) == 2
    helpers.close()


def test_errors_and_deaths_concern_one_call_only(loop: Loop) -> None:
    helpers = Helpers(loop, 1, CALLS)
    found = collect(loop, helpers, ("fail", "pod"), ("crash", 0), ("die", 0), ("echo", 7), ("die", 0))
    assert found == [
        "NotFound: no pod", "Unknown: /nowhere: no such file or directory", "Unknown: a helper process of the runtime was killed", 7,
        "Unknown: a helper process of the runtime was killed",
    ]  # fmt: skip
    assert helpers.helpers == []


def test_it_has_nothing_of_the_runtimes_and_ends_when_nobody_asks(loop: Loop) -> None:
    read, write = os.pipe()
    helpers = Helpers(loop, 1, CALLS, idle_s=0.05)
    ((pid,),) = [collect(loop, helpers, ("pid", None))]
    (descriptors,) = collect(loop, helpers, ("fds", None))
    assert not {str(read), str(write)} & set(descriptors)
    assert len(descriptors) == 5, "0 to 2, the socket, and the folder that is being listed"
    while helpers.helpers or os.path.exists(f"/proc/{pid}"):
        loop.call_later(0.05, loop.stop)
        loop.running = True
        loop.run()
    os.close(read)
    os.close(write)
