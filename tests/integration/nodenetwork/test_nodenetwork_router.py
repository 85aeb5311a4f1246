"""The router's routes to pods and services against the real kernel, by the agent's own decisions; the API is imitated."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any, cast

import pytest
from fresh_netns import new_netns

from nsk8s.api.meta import Object
from nsk8s.client import podnetconfig
from nsk8s.kernel.routes import PROTOCOL
from nsk8s.kernel.rtmsg import NUD_FAILED, NUD_REACHABLE
from nsk8s.kernel.rtnl import Rtnl, entered
from nsk8s.loadbalancer.pool import Pool
from nsk8s.loadbalancer.router import BACK_PRIORITY, RouterAgent, ask_again, ensure, set_sysctls
from nsk8s.net import podnet
from nsk8s.net.podnet import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")
POOL, SERVICES = "10.100.0.0/16", "10.96.0.0/16"


class Cached:
    """An informer's cache."""

    def __init__(self, *objects: Object) -> None:
        self.objects = list(objects)

    def items(self) -> list[Object]:
        return self.objects

    def by_index(self, index: str, value: str) -> list[Object]:
        return []


def node(number: int) -> Object:
    return {
        "metadata": {"name": f"node{number}"},
        "spec": {"podCIDRs": [f"10.244.{number}.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": f"192.0.2.{10 + number}"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@pytest.fixture
def router() -> Iterator[int]:
    netns = new_netns()
    with Rtnl(netns) as rt:
        eth0 = rt.link_add_veth("eth0", "far", up=True)
        rt.link_set(eth0.peer, up=True)
        rt.addr_add(eth0.index, "192.0.2.1/24")
    yield netns
    os.close(netns)


class Router(RouterAgent):
    """The agent with an imitated API."""

    def __init__(self, settings: Settings, pool: Pool | None = None) -> None:
        super().__init__("", pool, settings, [SERVICES])
        self.nodes = Cached(node(1), node(2))
        self._nodes, self._services, self._slices = cast(Any, self.nodes), cast(Any, Cached()), cast(Any, Cached())
        self.ranges = Cached()
        self._ranges = cast(Any, self.ranges)
        self._config = podnetconfig.PodNetworkConfig(cast(Any, None), settings, lambda: None)

    async def look(self, netns: int) -> tuple[float, dict[str, int], list[str]]:
        """(when to look again, our routes with their number of gateways, destinations that are refused on the way back)."""
        with entered(netns):
            again = await self._reconcile("")
        with Rtnl(netns) as rt:
            routes = {r.dst: len(r.nexthops) or int(bool(r.gateway)) for r in rt.routes(socket.AF_INET) if r.protocol == PROTOCOL}
            return again, routes, [r.dst for r in rt.rules() if r.priority == BACK_PRIORITY]

    def tell(self, **data: str) -> None:
        name = {"namespace": podnet.NAMESPACE, "name": podnet.CONFIG_MAP, "resourceVersion": "1"}
        self._config._informer._put(podnetconfig.NAME, {"metadata": name, "data": data})


async def test_what_is_exposed_is_routed_and_nothing_else(router: int) -> None:
    pods = {"10.244.1.0/24": 1, "10.244.2.0/24": 1}
    assert (await Router(Settings()).look(router))[1:] == ({}, [])
    assert (await Router(Settings("router")).look(router))[1:] == (pods, [])
    both = Router(Settings("vxlan", frozenset({"pods", "services"})), Pool(IPv4Network(POOL)))
    assert (await both.look(router))[1:] == (pods | {SERVICES: 2, POOL: 2}, [SERVICES])
    assert (await both.look(router))[1:] == (pods | {SERVICES: 2, POOL: 2}, [SERVICES]), "nothing twice"
    both.ranges.objects = [{"spec": {"cidrs": [SERVICES]}}, {"spec": {"cidrs": ["10.97.0.0/24", "fd00:10:97::/112"]}}]
    _, routes, back = await both.look(router)
    assert (routes, sorted(back)) == (pods | {SERVICES: 2, POOL: 2, "10.97.0.0/24": 2}, [SERVICES, "10.97.0.0/24"])
    both.ranges.objects = []
    both.nodes.objects = []
    assert (await both.look(router))[1:] == ({SERVICES: 0, POOL: 0}, [SERVICES]), "without nodes they are unreachable"
    assert (await Router(Settings()).look(router))[1:] == ({}, [])


async def test_pods_are_forgotten_when_nodes_had_time_to_learn(router: int, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Router(Settings("router"))
    before = await agent.look(router)
    agent.tell(mode="routes")
    monkeypatch.setattr("nsk8s.loadbalancer.router.SETTLE_S", 3600.0)
    again, routes, _ = await agent.look(router)
    assert routes == before[1]
    assert again == 3600.0, "and looked at again then"
    monkeypatch.setattr("nsk8s.loadbalancer.router.SETTLE_S", 0.0)
    assert (await agent.look(router))[1] == {}


async def test_a_pool_on_the_link_stays(router: int) -> None:
    with Rtnl(router) as rt:
        eth0 = rt.link_get("eth0")
        assert eth0 is not None
        rt.route_add(POOL, index=eth0.index, protocol=PROTOCOL)  # as `up` does for layer 2
    for settings in (Settings("router"), Settings()):
        assert POOL in (await Router(settings).look(router))[1]


def test_a_next_hop_that_is_back_is_asked_for(router: int) -> None:
    """The kernel passes over what gave no answer, sends nothing there, and so would never hear that it is back."""
    node2 = "192.0.2.12"
    with entered(router):
        set_sysctls()
        ensure({POOL: ("192.0.2.11", node2)})
    with Rtnl(router) as rt:
        far, eth0 = rt.link_get("far"), rt.link_get("eth0")
        assert far is not None
        assert eth0 is not None
        machine = new_netns()
        try:
            rt.link_set(far.index, netns_fd=machine)
            with Rtnl(machine) as there:
                there.link_set(far.index, up=True)
                there.addr_add(far.index, "192.0.2.11/24")

                def state() -> int:
                    return next((n.state for n in rt.neighs(eth0.index, socket.AF_INET) if n.ip == node2), 0)

                def until(wanted: int) -> None:
                    deadline = time.monotonic() + 20
                    while not state() & wanted:
                        assert time.monotonic() < deadline, f"state {state():#x}, not {wanted:#x}"
                        send(router, 20)
                        time.sleep(0.05)

                until(NUD_FAILED)
                there.addr_add(far.index, f"{node2}/24")
                send(router, 100)
                assert state() == NUD_FAILED, "no packet is sent its way"
                with entered(router):
                    assert ask_again() == [node2]
                until(NUD_REACHABLE)
                with entered(router):
                    assert ask_again() == []
        finally:
            os.close(machine)


def send(netns: int, count: int) -> None:
    """Datagrams to so many addresses of the pool: they are spread over the next hops."""
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for i in range(count):
            with contextlib.suppress(OSError):  # EHOSTUNREACH of an earlier one
                s.sendto(b"x", (f"10.100.1.{i}", 9))
