"""Forked helpers for what takes long, so that the runtime's loop never waits. Touches: processes."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys

from nsk8s.kernel import syscalls as sc
from nsk8s.runtime.errors import CriError, describe
from nsk8s.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Done = Callable[[Any, CriError | None], None]


class Workers:
    """Runs functions in forks, at most `limit` at a time; the rest wait in order."""

    def __init__(self, loop: Loop, limit: int) -> None:
        self.loop = loop
        self.limit = limit
        self.busy = 0
        self.waiting: list[Callable[[], None]] = []

    def run(self, work: Callable[[], Any], done: Done, *, keep: tuple[int, ...] = (), dies_with_us: bool = True) -> None:
        """Call `done(result, None)` or `done(None, error)` when `work` has run in a fork.

        `keep`: descriptors the fork needs beyond 0-2. `dies_with_us` is for work that a restarted runtime repeats.
        """
        if self.busy >= self.limit:
            self.waiting.append(lambda: self.run(work, done, keep=keep, dies_with_us=dies_with_us))
            return
        self.busy += 1
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            parent = os.getpid()
            pid = os.fork()
        except OSError as e:
            os.close(read)
            os.close(write)
            self._finished(done, None, CriError(f"cannot fork: {describe(e)}"))
            return
        if pid == 0:
            _child(work, write, keep, parent if dies_with_us else 0)
        os.close(write)
        parts: list[bytes] = []

        def readable(_events: int) -> None:
            data = os.read(read, 1 << 20)
            if data:
                parts.append(data)
                return
            self.loop.unwatch(read)
            os.close(read)
            os.waitpid(pid, 0)
            result, error = decode(b"".join(parts))
            self._finished(done, result, error)

        self.loop.watch(read, readable)

    def run_here(self, work: Callable[[], Any], done: Done) -> None:
        """The same without a fork, for what takes less time than one."""
        try:
            result = work()
        except CriError as e:
            done(None, e)
        else:
            done(result, None)

    def _finished(self, done: Done, result: Any, error: CriError | None) -> None:
        self.busy -= 1
        try:
            done(result, error)
        finally:
            if self.waiting:
                self.waiting.pop(0)()


def decode(raw: bytes) -> tuple[Any, CriError | None]:
    """What a worker sent; a worker that was killed sent nothing whole."""
    try:
        answer = json.loads(raw)
    except ValueError:
        return None, CriError("a helper process of the runtime was killed")
    return answer_of(answer)


def answer_of(answer: dict[str, Any]) -> tuple[Any, CriError | None]:
    """What `outcome_of` said in the other process."""
    if "error" in answer:
        return None, CriError(answer["error"]["message"], answer["error"]["code"])
    return answer["result"], None


def outcome_of(work: Callable[[], Any]) -> dict[str, Any]:
    """`{"result": …}` or `{"error": …}`, never raising."""
    try:
        return {"result": work()}
    except CriError as e:
        return {"error": e.body()}
    except Exception as e:
        if not isinstance(e, OSError):
            import traceback

            sys.stderr.write(traceback.format_exc())
        return {"error": {"code": "Unknown", "message": describe(e)}}


def become_helper(keep: Iterable[int], parent: int) -> None:
    """In a fork: forget the runtime's signals and descriptors, except `keep` and 0-2. With a `parent` it dies with that one."""
    if parent:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    below = 3
    for fd in sorted(set(keep)):
        os.closerange(below, fd)
        below = fd + 1
    os.closerange(below, 1 << 20)


def _child(work: Callable[[], Any], write: int, keep: tuple[int, ...], parent: int) -> None:
    try:
        gc.disable()  # a collection would touch, and so copy, every page this child shares
        become_helper((write, *keep), parent)
        raw = json.dumps(outcome_of(work)).encode()
        while raw:
            raw = raw[os.write(write, raw) :]
    finally:
        os._exit(0)
