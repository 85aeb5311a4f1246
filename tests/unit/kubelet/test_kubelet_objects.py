"""How old an answer about a ConfigMap may be, and that what was missing is looked for again."""

from __future__ import annotations

import time
from typing import Any

from nsk8s.errors import NotFound
from nsk8s.kubelet.objects import ObjectCache


class FakeApi:
    """As much of the client as the cache uses."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.reads = 0

    async def get(self, resource: Any, name: str, namespace: str) -> dict[str, Any]:
        self.reads += 1
        if name not in self.objects:
            raise NotFound(f'configmaps "{name}" not found')
        return self.objects[name]


async def test_what_is_missing_is_looked_for_each_time() -> None:
    api = FakeApi()
    cache = ObjectCache(api)  # type: ignore[arg-type]
    long_ago = time.monotonic() - 60
    assert await cache.get("configmaps", "default", "late", long_ago) is None
    api.objects["late"] = {"data": {}}
    assert await cache.get("configmaps", "default", "late", long_ago) == {"data": {}}
    assert api.reads == 2


async def test_what_was_found_serves_as_long_as_it_is_fresh_enough() -> None:
    api = FakeApi()
    api.objects["a"] = {"data": {"k": "1"}}
    cache = ObjectCache(api)  # type: ignore[arg-type]
    before = time.monotonic()
    assert await cache.get("configmaps", "default", "a", before) == {"data": {"k": "1"}}
    api.objects["a"] = {"data": {"k": "2"}}
    assert await cache.get("configmaps", "default", "a", before) == {"data": {"k": "1"}}
    assert await cache.get("configmaps", "default", "a", time.monotonic()) == {"data": {"k": "2"}}
    assert api.reads == 2
