"""When a pod's worker is woken."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from nsk8s.kubelet.podworker import PodWorker


class Worker(PodWorker):
    """One that only counts how often it is woken."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), {"metadata": {"uid": "1"}, "spec": {}})
        self.woken = asyncio.Event()

    def wake(self) -> None:
        self.woken.set()


async def test_a_timer_that_is_due_is_not_put_off() -> None:
    """activeDeadlineSeconds is over within the millisecond in which the next look at the volumes is planned."""
    worker = Worker()
    worker.wake_after(0.001)
    time.sleep(0.01)  # it is due, and the loop had no chance to run it
    worker.wake_after(3600)
    await asyncio.wait_for(worker.woken.wait(), 10)


async def test_of_several_the_earliest_counts_and_each_can_be_the_last() -> None:
    worker = Worker()
    worker.wake_after(3600)
    worker.wake_after(0.001)
    worker.wake_after(1800)
    await asyncio.wait_for(worker.woken.wait(), 10)
    worker.woken.clear()
    worker.wake_after(0.001)
    await asyncio.wait_for(worker.woken.wait(), 10)
