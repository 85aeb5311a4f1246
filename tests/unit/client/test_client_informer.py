"""The informer: what handlers hear, what the cache holds, over relists, 410s and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import informer as module
from nsk8s.client.informer import Informer
from nsk8s.client.resources import PODS
from nsk8s.client.rest import Unreachable, WatchEvent
from nsk8s.errors import Gone


def pod(name: str, version: int, node: str = "") -> Object:
    return {"metadata": {"name": name, "namespace": "d", "resourceVersion": str(version), "uid": name}, "spec": {"nodeName": node}}


class Script:
    """Answers lists and watches one after the other; then waits for ever."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.asked: list[str] = []
        self.ended = asyncio.Event()

    async def list(self, *_: Any, **options: Any) -> Object:
        self.asked.append("list")
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        version, items = step
        return {"metadata": {"resourceVersion": str(version)}, "items": items}

    async def watch(self, *_: Any, resource_version: str, **options: Any) -> AsyncIterator[WatchEvent]:
        self.asked.append(f"watch {resource_version}")
        if not self.steps:
            self.ended.set()
            await asyncio.Event().wait()
        for step in self.steps.pop(0):
            if isinstance(step, Exception):
                raise step
            yield WatchEvent(*step)


async def heard(script: Script, **options: Any) -> tuple[Informer, list[str]]:
    """The informer after the script, and what its handler was told: +name, -name, ~name."""
    said: list[str] = []
    informer = Informer(script, PODS, **options)  # type: ignore[arg-type]

    def handle(old: Object | None, new: Object | None) -> None:
        sign = "+" if old is None else "-" if new is None else "~"
        said.append(sign + meta.name(new or old or {}))

    informer.add_handler(handle)
    running = asyncio.ensure_future(informer.run())
    await asyncio.wait_for(script.ended.wait(), 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return informer, said


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.0001)


async def test_a_list_then_changes() -> None:
    changes = [("ADDED", pod("b", 6)), ("MODIFIED", pod("a", 7)), ("BOOKMARK", pod("", 9)), ("DELETED", pod("b", 10))]
    script = Script((5, [pod("a", 3)]), changes)
    informer, said = await heard(script)
    assert said == ["+a", "+b", "~a", "-b"]
    assert informer.keys() == ["d/a"]
    assert informer.synced.is_set()
    assert script.asked == ["list", "watch 5", "watch 10"], "a watch that ends goes on from where it was"


async def test_a_bookmark_moves_on_and_is_no_object() -> None:
    script = Script((5, []), [("BOOKMARK", pod("", 99))])
    informer, said = await heard(script)
    assert (said, informer.items(), script.asked[-1]) == ([], [], "watch 99")


async def test_after_410_only_differences_are_told() -> None:
    again = (20, [pod("a", 3), pod("c", 15), pod("d", 16)])
    script = Script((5, [pod("a", 3), pod("b", 4), pod("c", 4)]), [Gone("too old")], again)
    informer, said = await heard(script)
    assert said == ["+a", "+b", "+c", "-b", "~c", "+d"]
    assert script.asked == ["list", "watch 5", "list", "watch 20"]
    assert sorted(informer.keys()) == ["d/a", "d/c", "d/d"]


async def test_a_server_that_is_away_is_asked_again_without_forgetting() -> None:
    script = Script(Unreachable("down"), (5, [pod("a", 3)]), [("MODIFIED", pod("a", 6)), Unreachable("cut")])
    _, said = await heard(script)
    assert said == ["+a", "~a"]
    assert script.asked == ["list", "list", "watch 5", "watch 6"]


async def test_indices_follow_their_objects() -> None:
    script = Script((5, [pod("a", 3, "n1"), pod("b", 4, "n1")]), [("MODIFIED", pod("a", 6, "n2")), ("DELETED", pod("b", 7, "n1"))])
    informer, _ = await heard(script, indexers={"node": lambda p: [p["spec"]["nodeName"]]})
    assert [meta.name(p) for p in informer.by_index("node", "n2")] == ["a"]
    assert informer.by_index("node", "n1") == []


async def test_a_handler_that_raises_stops_nobody() -> None:
    script = Script((5, [pod("a", 3)]), [("DELETED", pod("a", 6))])
    informer = Informer(script, PODS)  # type: ignore[arg-type]
    said: list[str] = []

    def broken(old: Object | None, new: Object | None) -> None:
        raise ValueError("bug")

    informer.add_handler(broken)
    informer.add_handler(lambda old, new: said.append(meta.name(new or old or {})))
    running = asyncio.ensure_future(informer.run())
    await asyncio.wait_for(script.ended.wait(), 30)
    running.cancel()
    assert said == ["a", "a"]


async def test_of_what_is_kept_the_next_change_is_told() -> None:
    """A cache of names and versions is enough for lists, relists and deletions."""
    told: list[tuple[Object | None, Object | None]] = []
    first, second, other = pod("a", 3, "n1"), pod("a", 6, "n2"), pod("b", 4, "n1")
    script = Script((5, [first, other]), [("MODIFIED", second), Gone("too old")], (9, [second]))
    informer = Informer(script, PODS, keep=lambda o: {"metadata": o["metadata"]})  # type: ignore[arg-type]
    informer.add_handler(lambda old, new: told.append((old, new)))
    running = asyncio.ensure_future(informer.run())
    await asyncio.wait_for(script.ended.wait(), 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    kept = {"metadata": first["metadata"]}
    assert told == [(None, first), (None, other), (kept, second), ({"metadata": other["metadata"]}, None)]
    assert informer.get("d/a") == {"metadata": second["metadata"]}
