"""The scheduling queue: order, parking, waking, backing off."""

from __future__ import annotations

import asyncio

from nsk8s.api.meta import Object
from nsk8s.scheduler.cache import Cache
from nsk8s.scheduler.framework import PodInfo
from nsk8s.scheduler.queue import SchedulingQueue, backoff_s
from nsk8s.scheduler.scheduler import matters


def pod(name: str, priority: int = 0, **spec: object) -> PodInfo:
    return PodInfo.of({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"priority": priority, **spec}})


async def names(queue: SchedulingQueue, count: int) -> list[str]:
    return [(await asyncio.wait_for(queue.pop(), 30)).pod.uid for _ in range(count)]


async def test_priority_first_then_age() -> None:
    queue = SchedulingQueue(lambda: 0.0)
    for p in (pod("a"), pod("b", 5), pod("c"), pod("d", 5)):
        queue.put(p, retry=False)
    assert await names(queue, 4) == ["b", "d", "a", "c"]


async def test_a_parked_pod_waits_until_woken_and_then_goes_behind_the_others() -> None:
    now = 0.0
    queue = SchedulingQueue(lambda: now)
    queue.put(pod("parked", 9), retry=False)
    waiting = await queue.pop()
    queue.park(waiting)
    queue.put(pod("fresh"), retry=False)
    queue.wake(lambda p: p.uid == "nobody")
    assert waiting.parked_at is not None
    queue.wake()
    assert await names(queue, 2) == ["fresh", "parked"], "it still backs off: others go first, but it need not wait for a clock"
    queue.park(waiting)
    now = 100.0
    queue.wake()
    queue.put(pod("fresh"), retry=False)
    assert await names(queue, 1) == ["parked"]


async def test_a_changed_spec_retries_and_a_changed_status_does_not() -> None:
    queue = SchedulingQueue(lambda: 0.0)
    queue.put(pod("a"), retry=False)
    queue.park(await queue.pop())
    queue.put(pod("a"), retry=False)
    queue.put(pod("b"), retry=False)
    assert await names(queue, 1) == ["b"]
    queue.put(pod("a"), retry=True)
    assert await names(queue, 1) == ["a"]


async def test_removed_pods_are_not_handed_out() -> None:
    queue = SchedulingQueue(lambda: 0.0)
    queue.put(pod("a"), retry=False)
    queue.put(pod("b"), retry=False)
    queue.remove("a")
    assert await names(queue, 1) == ["b"]
    waiting = queue.get("b")
    assert waiting is not None
    queue.remove("b")
    queue.park(waiting)
    queue.back_off(waiting)
    assert waiting.timer is None, "a pod that is gone leaves no timer behind"
    assert len(queue) == 0


def test_backoff_doubles_to_ten_seconds() -> None:
    assert [backoff_s(n) for n in (0, 1, 2, 3, 4, 5, 50)] == [1, 1, 2, 4, 8, 10, 10]


def test_heartbeats_wake_nobody() -> None:
    node: Object = {"metadata": {"name": "n"}, "spec": {}, "status": {"conditions": [1], "allocatable": {"cpu": "1"}}}
    assert not matters(node, {**node, "status": {"conditions": [2], "allocatable": {"cpu": "1"}}})
    assert matters(node, {**node, "status": {"allocatable": {"cpu": "2"}}})
    assert matters(node, {**node, "spec": {"unschedulable": True}})
    assert matters(node, {**node, "metadata": {"name": "n", "labels": {"a": "b"}}})
    assert matters(None, node)


def test_a_status_that_changes_is_not_counted_anew_and_a_spec_is() -> None:
    cache = Cache()
    cache.set_node({"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "4"}}})
    spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}
    waiting: Object = {"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}
    cache.assume(PodInfo.of(waiting), "n1")
    bound = {**waiting, "spec": {**spec, "nodeName": "n1"}}
    cache.put_pod(bound)
    node = cache.snapshot().nodes[0]
    before = node.pods["u"]
    assert not cache.is_assumed("u")
    running = {**bound, "status": {"phase": "Running"}}
    cache.put_pod(running)
    assert node.pods["u"] is before
    assert before.pod is running
    resized: Object = {**running, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}], "nodeName": "n1"}}
    cache.put_pod(resized)
    assert node.requested["cpu"] == 2000
    cache.put_pod({**resized, "metadata": {**resized["metadata"], "labels": {"a": "b"}}})
    assert node.pods["u"].labels == {"a": "b"}
    assert node.requested["cpu"] == 2000
