"""When a pod's worker is woken."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from nsk8s.kubelet.podworker import SYNC, TERMINATED, TERMINATING, PodWorker


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


async def test_a_pod_that_the_api_has_forgotten_holds_nothing_at_once() -> None:
    """The next event may be the pod that gets its host port: it must not be refused because the worker has not run yet."""
    worker = Worker()
    assert worker.holds_resources
    worker.removed()
    assert (worker.state, worker.holds_resources) == (SYNC, False)
    ending = Worker()
    ending.state = TERMINATING
    assert ending.holds_resources, "its process has the port until it has ended"
    ending.state = TERMINATED
    assert not ending.holds_resources
