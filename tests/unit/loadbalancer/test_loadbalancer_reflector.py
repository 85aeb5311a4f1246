"""When the router begins and ends to reflect: its sessions' end must not reach nodes before they have other ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsk8s.client.birdkeeper import BirdKeeper
from nsk8s.loadbalancer.router import RouterAgent
from nsk8s.net.podnet import BRIDGE_S, SETTLE_S, Bgp, Settings

REFLECTOR = Settings("bgp", frozenset(), Bgp("reflector"))
ROUTES, MESH = Settings("routes"), Settings("bgp")


class Keeper(BirdKeeper):
    """Counts, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path("bird.conf"), Path("run"), lambda: None)
        self.ended = 0

    async def end(self) -> bool:
        self.ended += 1
        return True


@pytest.mark.parametrize("wanted", [ROUTES, MESH])
async def test_the_reflector_stays_until_nodes_have_other_ways(wanted: Settings) -> None:
    agent, keeper = RouterAgent("", None), Keeper()
    agent._bird, agent._reflects = keeper, REFLECTOR.bgp  # it reflects, and was not looked after for long
    assert await agent._ensure_reflector(wanted, 100.0) == SETTLE_S
    assert await agent._ensure_reflector(wanted, 100.0 + SETTLE_S / 2) == SETTLE_S / 2
    assert keeper.ended == 0
    assert await agent._ensure_reflector(wanted, 100.0 + SETTLE_S) == 0
    assert keeper.ended == 1


async def test_what_an_earlier_agent_left_ends_at_once() -> None:
    agent, keeper = RouterAgent("", None), Keeper()
    agent._bird = keeper
    assert await agent._ensure_reflector(ROUTES, 0.0) == 0
    assert keeper.ended == 1


async def test_other_settings_wait_until_nodes_have_bridged_the_time() -> None:
    agent = RouterAgent("", None)
    agent._bird, agent._reflects = Keeper(), REFLECTOR.bgp
    assert await agent._ensure_reflector(Settings("bgp", frozenset(), Bgp("reflector", 65001)), 100.0) == BRIDGE_S
