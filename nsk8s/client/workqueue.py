"""A queue of keys for controllers. Upstream: client-go/util/workqueue. Touches: event loop clock.

Invariants: a key is handed to one worker at a time; a key added while it is being worked on is handed out once more
afterwards; a key added many times before it is handed out is handed out once.
"""

from __future__ import annotations

import asyncio
from collections import deque

BASE_DELAY_S = 0.005
MAX_DELAY_S = 1000.0


class ShutDown(Exception):
    """The queue was closed and is empty."""


class WorkQueue:
    def __init__(self, base_delay_s: float = BASE_DELAY_S, max_delay_s: float = MAX_DELAY_S) -> None:
        self._queue: deque[str] = deque()  # keys waiting, in order; each is also in _dirty and none in _processing
        self._dirty: set[str] = set()  # keys that need work
        self._processing: set[str] = set()  # keys a worker holds
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}  # the earliest delayed add of each key
        self._wakeup = asyncio.Event()
        self._closed = False
        self._base_delay_s = base_delay_s
        self._max_delay_s = max_delay_s

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, key: str) -> None:
        if self._closed or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._queue.append(key)
            self._wakeup.set()

    def add_after(self, key: str, delay_s: float) -> None:
        """Add `key` later; of several delayed adds of one key the earliest counts."""
        if delay_s <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        old = self._timers.get(key)
        if old is not None:
            if old.when() <= loop.time() + delay_s:
                return
            old.cancel()
        self._timers[key] = loop.call_later(delay_s, self._fire, key)

    def _fire(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def add_rate_limited(self, key: str) -> None:
        """Add `key` after a delay that doubles with each failure since the last `forget`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.add_after(key, min(self._base_delay_s * 2 ** min(failures, 40), self._max_delay_s))

    def forget(self, key: str) -> None:
        """The key's work went well: its next failure starts from the base delay again."""
        self._failures.pop(key, None)

    def failures(self, key: str) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> str:
        """The next key; `done(key)` must follow. Raises ShutDown."""
        while not self._queue:
            if self._closed:
                raise ShutDown
            self._wakeup.clear()
            await self._wakeup.wait()
        key = self._queue.popleft()
        if not self._queue and not self._closed:
            self._wakeup.clear()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: str) -> None:
        self._processing.discard(key)
        if key in self._dirty:
            self._queue.append(key)
            self._wakeup.set()

    def shut_down(self) -> None:
        """No more keys are taken in; workers waiting in `get` are released."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._wakeup.set()
