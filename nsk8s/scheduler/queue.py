"""Pods waiting for a node: active (by priority, then age), backing off after an error, unschedulable until something changes.

Upstream: pkg/scheduler/backend/queue. As upstream since 1.33, a pod that was unschedulable and is woken while nothing else
waits is tried at once; the backoff only sends it behind the others. Touches: event loop clock.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from nsk8s.scheduler.framework import PodInfo

INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 10.0
MAX_UNSCHEDULABLE_S = 300.0
"""After so long an unschedulable pod is tried again whatever happened (upstream: podMaxInUnschedulablePodsDuration)."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A pod in the queue and what happened to it so far."""

    pod: PodInfo
    since: int
    attempts: int = 0
    backoff_until: float = 0.0
    parked_at: float | None = None
    """When it was found unschedulable; None while it is active."""
    timer: asyncio.TimerHandle | None = None
    said: tuple[str, float] = field(default=("", 0.0))
    """The last FailedScheduling message and when it was sent."""


def backoff_s(attempts: int) -> float:
    """1 s doubling to 10 s, as upstream. Pure."""
    return float(min(INITIAL_BACKOFF_S * 2 ** max(0, attempts - 1), MAX_BACKOFF_S))


class SchedulingQueue:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._all: dict[str, Waiting] = {}  # by uid: every pod that waits, in whatever state, or is being tried
        self._heap: list[tuple[bool, int, int, int, str]] = []  # (backing off, -priority, age, tie, uid); may hold stale entries
        self._queued: dict[str, int] = {}  # uid → the tie number of its valid heap entry
        self._ties = itertools.count()
        self._wakeup = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def get(self, uid: str) -> Waiting | None:
        return self._all.get(uid)

    def put(self, pod: PodInfo, *, retry: bool) -> None:
        """A pending pod is new, or its newest state; `retry` tries a parked one again because its spec changed."""
        waiting = self._all.get(pod.uid)
        if waiting is None:
            waiting = self._all[pod.uid] = Waiting(pod, next(self._ties))
            self._activate(waiting)
            return
        waiting.pod = pod
        if retry and waiting.parked_at is not None:
            self._activate(waiting)

    def remove(self, uid: str) -> None:
        waiting = self._all.pop(uid, None)
        self._queued.pop(uid, None)
        if waiting is not None and waiting.timer is not None:
            waiting.timer.cancel()

    async def pop(self) -> Waiting:
        """The next pod to try. It stays known to the queue until `remove`, `park` or `back_off`."""
        while True:
            while self._heap:
                *_, tie, uid = heapq.heappop(self._heap)
                if self._queued.get(uid) == tie:
                    del self._queued[uid]
                    waiting = self._all[uid]
                    waiting.attempts += 1
                    return waiting
            self._wakeup.clear()
            await self._wakeup.wait()

    def park(self, waiting: Waiting) -> None:
        """Unschedulable: wait until `wake`, at most 5 minutes."""
        if self._all.get(waiting.pod.uid) is not waiting:
            return
        now = self._clock()
        waiting.parked_at = now
        waiting.backoff_until = now + backoff_s(waiting.attempts)
        self._later(waiting, MAX_UNSCHEDULABLE_S)

    def back_off(self, waiting: Waiting) -> None:
        """An error, not a verdict: try again after the backoff."""
        if self._all.get(waiting.pod.uid) is not waiting:
            return
        waiting.parked_at = None
        self._later(waiting, backoff_s(waiting.attempts))

    def wake(self, interested: Callable[[PodInfo], bool] | None = None) -> None:
        """Something changed: try the parked pods again (those that are `interested`)."""
        for waiting in self._all.values():
            if waiting.parked_at is not None and (interested is None or interested(waiting.pod)):
                self._activate(waiting)

    def _later(self, waiting: Waiting, delay_s: float) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        waiting.timer = asyncio.get_running_loop().call_later(delay_s, self._activate, waiting)

    def _activate(self, waiting: Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None
        waiting.parked_at = None
        uid, tie = waiting.pod.uid, next(self._ties)
        self._queued[uid] = tie
        heapq.heappush(
            self._heap, (self._clock() < waiting.backoff_until, -waiting.pod.priority, waiting.since, tie, uid)
        )
        self._wakeup.set()
