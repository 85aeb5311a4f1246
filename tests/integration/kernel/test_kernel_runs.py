"""Programs that are fed and waited for: nsk8s.kernel.runs, under the loop that components run in."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from nsk8s.kernel import runs


def under_uvloop(body: Coroutine[Any, Any, runs.Done]) -> runs.Done:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(body)


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_text_goes_in_and_code_and_words_come_out() -> None:
    assert under_uvloop(runs.run(sh("cat; echo why >&2; exit 3"), "a\nb\n")) == (3, "a\nb\n", "why\n")
    assert under_uvloop(runs.run(sh("kill -KILL $$"))) == (-9, "", "")
    ignored = under_uvloop(runs.run(sh("grep SigIgn /proc/$$/status"))).out
    assert int(ignored.split()[1], 16) & 1 << 12 == 0, "what reads a pipe that nobody fills dies of it, as programs expect"


def test_parts_are_made_while_earlier_ones_are_read() -> None:
    """Without that a full sync takes the time of rendering and of loading, one after the other."""
    part = "x" * 99_999 + "\n"
    read = []

    def parts(seen: Path) -> Iterator[str]:
        for _ in range(60):  # several times what a pipe holds
            yield part
            read.append(seen.stat().st_size)

    with contextlib.ExitStack() as held:
        path = Path(f"/proc/self/fd/{held.enter_context(open(os.memfd_create('seen'), 'rb')).fileno()}")
        done = under_uvloop(runs.run(sh(f"cat > /proc/{os.getpid()}/fd/{path.name}"), parts(path)))
        assert (done.code, path.stat().st_size) == (0, 60 * len(part))
    assert read[-1] > 0, "the program had read before the last part was asked for"


def test_who_ends_early_is_not_fed_further() -> None:
    asked = []

    def parts() -> Iterator[str]:
        for i in range(10_000):
            asked.append(i)
            yield "x" * 1000

    assert under_uvloop(runs.run(sh("exit 4"), parts())).code == 4
    assert len(asked) < 10_000


def test_what_cannot_be_started_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        under_uvloop(runs.run(["/no/such/program"]))
    with pytest.raises(FileNotFoundError):
        under_uvloop(runs.run(["/no/such/program"], iter(["a"])))


def test_a_run_that_is_cancelled_ends_its_program() -> None:
    async def body() -> runs.Done:
        before = set(os.listdir("/proc/self/fd"))
        task = asyncio.ensure_future(runs.run(sh("echo $$ >&2; exec sleep 60")))
        await asyncio.sleep(0)  # it is started at once
        child = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with contextlib.suppress(ChildProcessError):  # reaped already, if it died within the microsecond
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
        assert set(os.listdir("/proc/self/fd")) == before
        return runs.Done(0, "", "")

    under_uvloop(body())


def test_a_part_that_fails_ends_the_program_and_is_told() -> None:
    def parts() -> Iterator[str]:
        yield "*nat\n"
        raise LookupError("rendering failed")

    with pytest.raises(LookupError):
        under_uvloop(runs.run(sh("cat"), parts()))
