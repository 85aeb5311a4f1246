"""The work queue's promises: one worker a key, nothing lost, nothing done twice for nothing, failures later and later."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.client.controller import Controller
from nsk8s.client.workqueue import ShutDown, WorkQueue
from nsk8s.errors import Conflict, InternalError


async def drained(queue: WorkQueue) -> list[str]:
    out = []
    while len(queue):
        key = await queue.get()
        out.append(key)
        queue.done(key)
    return out


async def test_a_key_added_often_is_handed_out_once_and_in_order() -> None:
    queue = WorkQueue()
    for key in "abacab":
        queue.add(key)
    assert await drained(queue) == ["a", "b", "c"]


async def test_a_key_added_during_its_work_comes_once_more_afterwards() -> None:
    queue = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0, "nobody else gets it meanwhile"
    queue.done("a")
    assert await drained(queue) == ["a"]


@given(st.lists(st.tuples(st.sampled_from(["add", "get", "done"]), st.sampled_from("abc"))))
def test_no_order_of_calls_gives_a_key_to_two_workers_or_loses_it(calls: list[tuple[str, str]]) -> None:
    async def play() -> None:
        queue = WorkQueue()
        held: set[str] = set()
        wanted: set[str] = set()  # added since it was last handed out
        for call, key in calls:
            if call == "add":
                queue.add(key)
                wanted.add(key)
            elif call == "get" and len(queue):
                got = await queue.get()
                assert got not in held
                held.add(got)
                wanted.discard(got)
            elif call == "done" and key in held:
                held.discard(key)
                queue.done(key)
        for key in list(held):
            queue.done(key)
        assert set(await drained(queue)) == wanted

    asyncio.run(play())


async def test_failures_come_back_later_and_later_until_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = WorkQueue(base_delay_s=1, max_delay_s=5)
    delays: list[float] = []
    monkeypatch.setattr(queue, "add_after", lambda key, delay: delays.append(delay))
    for _ in range(5):
        queue.add_rate_limited("a")
    assert queue.failures("a") == 5
    queue.forget("a")
    queue.add_rate_limited("a")
    assert delays == [1, 2, 4, 5, 5, 1]


async def test_of_two_delayed_adds_the_earlier_counts() -> None:
    queue = WorkQueue()
    queue.add_after("a", 3600)
    queue.add_after("a", 0.01)
    queue.add_after("a", 7200)
    assert await asyncio.wait_for(queue.get(), 30) == "a"


async def test_a_closed_queue_releases_who_waits_and_takes_nothing_in() -> None:
    queue = WorkQueue()
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add_after("later", 0.001)
    queue.shut_down()
    with pytest.raises(ShutDown):
        await asyncio.wait_for(waiting, 30)
    queue.add("a")
    assert len(queue) == 0


async def test_a_reconciler_is_called_again_after_a_failure_and_when_it_asks_to_be() -> None:
    outcomes: list[Exception | float | None] = [InternalError("x"), Conflict("y"), ValueError("bug"), 0.001, None]
    ended = asyncio.Event()

    async def reconcile(key: str) -> float | None:
        outcome = outcomes.pop(0)
        if not outcomes:
            ended.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    controller = Controller("test", reconcile, workers=2)
    running = asyncio.ensure_future(controller.run())
    controller.queue.add("a")
    await asyncio.wait_for(ended.wait(), 30)
    assert not running.done(), "an error in one key ends nothing"
    assert controller.queue.failures("a") == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
