"""A poll loop: readable and writable descriptors, timers, child processes. Lean. Touches: file descriptors, the clock."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IN, OUT = select.POLLIN, select.POLLOUT
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Timer:
    """A callback that is due; `cancel()` takes it back."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Single-threaded. A callback that raises is reported on stderr and does not end the loop."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._soon: list[Callable[[], None]] = []
        self.running = True

    def watch(self, fd: int, callback: Callable[[int], None], mask: int = IN) -> None:
        """Call `callback(events)` whenever the descriptor is ready; watching again replaces callback and mask."""
        self._callbacks[fd] = callback
        self._masks[fd] = mask
        self._poll.register(fd, mask)

    def set_mask(self, fd: int, mask: int) -> None:
        """Change what is waited for; 0 keeps the descriptor out of the poll until a later call (errors would spin)."""
        old = self._masks.get(fd)
        if old is None or old == mask:
            return
        self._masks[fd] = mask
        if mask == 0:
            self._poll.unregister(fd)
        else:
            self._poll.register(fd, mask)

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is None:
            return
        if self._masks.pop(fd):
            self._poll.unregister(fd)

    def watch_process(self, pidfd: int, callback: Callable[[], None]) -> None:
        """Call back once when the process behind a pidfd has ended; the pidfd is closed then."""

        def ended(_events: int) -> None:
            self.unwatch(pidfd)
            os.close(pidfd)
            callback()

        self.watch(pidfd, ended)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + delay_s, callback)
        self._timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def stop(self) -> None:
        self.running = False

    def on_signals(self, handlers: dict[int, Callable[[], None]]) -> None:
        """Call these in the loop (not in the middle of anything) when a signal comes."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

        def ignore(_signum: int, _frame: Any) -> None:
            """The number arrives through the wake-up pipe."""

        for signum in handlers:
            signal.signal(signum, ignore)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def arrived(_events: int) -> None:
            try:
                numbers = set(os.read(read, 4096))
            except BlockingIOError:
                return
            for number in numbers:
                handler = handlers.get(number)
                if handler is not None:
                    handler()

        self.watch(read, arrived)

    def _guard(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            import traceback

            sys.stderr.write(traceback.format_exc())

    def _run_due(self) -> float | None:
        """Run what is due; seconds until the next timer, None without one."""
        while self._soon:
            batch, self._soon = self._soon, []
            for callback in batch:
                self._guard(callback)
        if not self._timers:
            return None
        now = time.monotonic()
        due = [t for t in self._timers if t.due <= now]
        if due:
            self._timers = [t for t in self._timers if t.due > now]
            for timer in sorted(due, key=lambda t: t.due):
                if timer.callback is not None:
                    self._guard(timer.callback)
            return 0.0
        self._timers = [t for t in self._timers if t.callback is not None]
        return min((t.due for t in self._timers), default=now + 3600) - now

    def run(self) -> None:
        while self.running:
            wait_s = 0.0 if self._soon else self._run_due()
            if self._soon:
                wait_s = 0.0
            try:
                ready = self._poll.poll(None if wait_s is None else max(wait_s * 1000, 0))
            except OSError as e:
                if e.errno == errno.EINTR:
                    continue
                raise
            for fd, events in ready:
                callback = self._callbacks.get(fd)
                if callback is not None:
                    self._guard(callback, events)
            if self._soon:
                self._run_due()


def is_broken(events: int) -> bool:
    """The other side is gone and nothing is left to read."""
    return bool(events & _BROKEN) and not events & IN
