"""What the server does around its proxiers' syncs, with proxiers that write nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nsk8s.proxy import config as configuration
from nsk8s.proxy import server as server_module
from nsk8s.proxy.server import Server


class Proxier:
    family = "IPv4"
    has_work = is_needed = True
    wants_another_s = 0.0
    seen: set[str] = set()

    def __init__(self, is_large: bool, goes_well: list[bool]) -> None:
        self.is_large = is_large
        self._goes_well = iter(goes_well)

    async def sync(self) -> bool:
        return next(self._goes_well)

    def health_check_ports(self) -> dict[str, int]:
        return {}

    def local_ready_counts(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("is_large", [False, True])
def test_what_the_first_good_sync_made_is_settled_once(monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    done: list[str] = []

    async def clean_up(*_: object) -> None:
        done.append("other modes cleaned up")

    monkeypatch.setattr(server_module, "clean_up_other_modes", clean_up)
    monkeypatch.setattr(server_module.gc, "freeze", lambda: done.append("frozen"))
    monkeypatch.setattr(server_module.syscalls, "trim_heap", lambda: done.append("trimmed"))
    server = Server(configuration.defaults(""))
    proxier: Any = Proxier(is_large, [False, True, True])
    server._proxiers = [(False, proxier)]

    async def sync_three_times() -> list[bool]:
        return [await server._sync() for _ in range(3)]

    assert asyncio.run(sync_three_times()) == [False, True, True]
    assert done == ["other modes cleaned up", "frozen", *(["trimmed"] if is_large else [])]
