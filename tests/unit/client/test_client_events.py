"""Events: named so that they list in the order they happened, and counted up instead of piling up."""

from __future__ import annotations

import asyncio
from typing import Any

from nsk8s.client.events import EventRecorder
from nsk8s.client.resources import Resource
from nsk8s.errors import NotFound

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "uid": "u1"}}


class FakeApi:
    """Keeps what is created, merges what is patched."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}

    async def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        assert obj["metadata"]["name"] not in self.objects
        self.objects[obj["metadata"]["name"]] = obj
        return obj

    async def patch(self, resource: Resource, name: str, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        if name not in self.objects:
            raise NotFound(name)
        self.objects[name] = {**self.objects[name], **body}
        return dict(self.objects[name])


async def turns() -> None:
    """Let the recorder's task run until it waits again."""
    for _ in range(20):
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
