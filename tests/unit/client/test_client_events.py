"""Events: named so that they list in the order they happened, and counted up instead of piling up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nsk8s.client.events import EventRecorder
from nsk8s.client.resources import Resource
from nsk8s.client.rest import Unreachable
from nsk8s.errors import AlreadyExists, Forbidden, NotFound

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "uid": "u1"}}


class FakeApi:
    """Keeps what is created, merges what is patched."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.away = 0
        """So many creations fail, as when the server is away."""
        self.loses_answers = False
        self.asked = 0

    async def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            self.away -= 1
            if self.loses_answers:
                self.objects[obj["metadata"]["name"]] = obj
            raise Unreachable("connection refused")
        if obj["metadata"]["name"] in self.objects:
            raise AlreadyExists(obj["metadata"]["name"])
        self.objects[obj["metadata"]["name"]] = obj
        return obj

    async def patch(self, resource: Resource, name: str, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        if name not in self.objects:
            raise NotFound(name)
        self.objects[name] = {**self.objects[name], **body}
        return dict(self.objects[name])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits between tries; how long would have been waited."""
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(delay: float) -> None:
        waited.extend([delay] if delay else [])
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waited


async def turns() -> None:
    """Let the recorder's task run until it waits again."""
    for _ in range(40):
        await asyncio.sleep(0)


async def recorded(*reasons: str) -> FakeApi:
    api = FakeApi()
    recorder = EventRecorder(api, "kubelet", "node1")  # type: ignore[arg-type]
    runner = asyncio.ensure_future(recorder.run())
    for reason in reasons:
        recorder.event(POD, "Normal", reason, f"{reason}!")
        await turns()
    runner.cancel()
    return api


async def test_names_sort_in_the_order_of_happening() -> None:
    api = await recorded("Scheduled", "Pulling", "Pulled", "Created", "Started")
    assert [api.objects[n]["reason"] for n in sorted(api.objects)] == ["Scheduled", "Pulling", "Pulled", "Created", "Started"]
    assert all(name.startswith("web.") for name in api.objects)


async def test_the_same_event_again_is_counted_up() -> None:
    api = await recorded("BackOff", "BackOff", "BackOff")
    assert [e["count"] for e in api.objects.values()] == [3]


async def test_a_counted_event_that_expired_is_made_again() -> None:
    api = FakeApi()
    recorder = EventRecorder(api, "kubelet")  # type: ignore[arg-type]
    runner = asyncio.ensure_future(recorder.run())
    for _ in range(2):
        recorder.event(POD, "Normal", "BackOff", "again")
        await turns()
        kept = list(api.objects)
        api.objects.clear()
    runner.cancel()
    assert len(kept) == 1


async def sent(api: FakeApi, *reasons: str) -> list[str]:
    recorder = EventRecorder(api, "kubelet")  # type: ignore[arg-type]
    runner = asyncio.ensure_future(recorder.run())
    for reason in reasons:
        recorder.event(POD, "Normal", reason, reason)
    await turns()
    runner.cancel()
    return [e["reason"] for e in api.objects.values()]


async def test_events_wait_for_a_server_that_is_away(quick: list[float]) -> None:
    api = FakeApi()
    api.away = 7
    assert await sent(api, "Pulled", "Created", "Started") == ["Pulled", "Created", "Started"]
    assert len(quick) == 7


async def test_an_event_is_given_up_after_two_minutes_and_the_next_is_tried(quick: list[float]) -> None:
    api = FakeApi()
    api.away = 17
    assert await sent(api, "Pulled", "Created") == ["Created"]
    assert 0.8 * 118 < sum(quick) < 1.2 * 119


async def test_a_lost_answer_makes_no_second_event(quick: list[float]) -> None:
    api = FakeApi()
    api.away, api.loses_answers = 1, True
    assert await sent(api, "Pulled", "Pulled") == ["Pulled"]
    assert [e["count"] for e in api.objects.values()] == [2]


async def test_what_the_server_refuses_is_not_tried_again(quick: list[float]) -> None:
    class Refusing(FakeApi):
        async def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
            self.asked += 1
            raise Forbidden("the namespace is being terminated")

    api = Refusing()
    assert await sent(api, "Pulled") == []
    assert (api.asked, quick) == (1, [])


async def test_a_server_that_lags_far_behind_costs_events_not_memory() -> None:
    recorder = EventRecorder(FakeApi(), "kubelet")  # type: ignore[arg-type]
    for n in range(3000):
        recorder.event(POD, "Normal", "Pulled", str(n))
    assert recorder._queue.qsize() == 1000
