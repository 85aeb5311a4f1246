"""The router's routes and the speaker's ARP and neighbour discovery against the real kernel, in namespaces made here."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from fresh_netns import new_netns

from nsk8s.kernel.rtnl import Rtnl, entered
from nsk8s.loadbalancer import ndp, router
from nsk8s.loadbalancer.announcer import Announcer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")
VIP, VIP6 = "10.100.0.1", "fd00:10:100::1"


@pytest.fixture
def lan() -> Iterator[list[int]]:
    """A router (192.168.56.1) and two nodes (.11, .12), each with eth0 on one bridge."""
    switch, *machines = (new_netns() for _ in range(4))
    for fd in (switch, *machines):
        with entered(fd), open("/proc/sys/net/ipv6/conf/default/dad_transmits", "w", encoding="ascii") as f:
            f.write("0")  # link-local addresses are asked for within their first second, at whatever moment
    with Rtnl(switch) as ports:
        bridge = ports.link_add_bridge("lan0")
        for i, fd in enumerate(machines):
            ports.link_add_veth(f"port{i}", "eth0", peer_netns_fd=fd, master=bridge.index, up=True)
            with Rtnl(fd) as rtnl:
                link = rtnl.link_get("eth0")
                assert link is not None
                rtnl.link_set(link.index, up=True)
                rtnl.addr_add(link.index, f"192.168.56.{(1, 11, 12)[i]}/24")
                rtnl.addr_add(link.index, f"fd00:192:168:56::{(1, 11, 12)[i]}/64", nodad=True)
    yield machines
    for fd in (switch, *machines):
        os.close(fd)


def routes_of(fd: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    with Rtnl(fd) as rtnl:
        found = rtnl.routes(socket.AF_INET)
    return {r.dst: (r.kind, tuple(g for g, _ in r.nexthops) or ((r.gateway,) if r.gateway else ())) for r in found if r.protocol != 2}


def test_routes_over_equal_paths_come_change_and_go(lan: list[int]) -> None:
    both, one = ("192.168.56.11", "192.168.56.12"), ("192.168.56.12",)
    with entered(lan[0]):
        for want in (
            {"10.100.0.0/16": both},
            {"10.100.0.0/16": both, f"{VIP}/32": one},
            {"10.100.0.0/16": one, f"{VIP}/32": both},
            {"10.100.0.0/16": one, f"{VIP}/32": ()},
            {"10.100.0.0/16": (), f"{VIP}/32": one},
            {"10.100.0.0/16": both, "10.100.0.2/32": both, "10.100.0.3/32": (), "10.100.0.4/32": one},
            {"10.100.0.0/16": both},
            {"10.100.0.0/16": ()},
            {},
        ):  # fmt: skip
            router.ensure(want)
            assert routes_of(lan[0]) == {d: ("unicast" if hops else "unreachable", hops) for d, hops in want.items()}
            assert router.ensure(want) == ({}, []), "nothing is left to do"


def test_a_route_of_somebody_else_is_left_alone(lan: list[int]) -> None:
    with Rtnl(lan[0]) as rtnl:
        rtnl.route_add(f"{VIP}/32", gateway="192.168.56.99")
    with entered(lan[0]):
        router.ensure({"10.100.0.0/16": ("192.168.56.11",), f"{VIP}/32": ("192.168.56.12",)})
        router.ensure({})
    assert routes_of(lan[0]) == {f"{VIP}/32": ("unicast", ("192.168.56.99",))}


def mac_of(fd: int) -> str:
    with Rtnl(fd) as rtnl:
        link = rtnl.link_get("eth0")
        assert link is not None
        return link.mac


async def neighbour(fd: int, vip: str, wanted: str) -> None:
    """Return once the machine's neighbour entry for the VIP has that MAC; packets to it keep asking."""
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with entered(fd):
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with sender, Rtnl(fd) as rtnl:
        async with asyncio.timeout(30):
            while True:
                sender.sendto(b"x", (vip, 9))
                if wanted in [n.mac for n in rtnl.neighs(family=family) if n.ip == vip]:
                    return
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(("vip", "pool"), [(VIP, "10.100.0.0/16"), (VIP6, "fd00:10:100::/112")], ids=["arp", "ndp"])
async def test_one_node_answers_and_another_takes_over(lan: list[int], vip: str, pool: str) -> None:
    """No interface has the address; the router believes the answer, then the unsolicited word of the one that takes over."""
    with Rtnl(lan[0]) as rtnl:
        link = rtnl.link_get("eth0")
        assert link is not None
        rtnl.route_add(pool, index=link.index)
    announcers = []
    for fd in lan[1:]:
        with entered(fd):
            announcers.append(Announcer("eth0"))
    running = [asyncio.ensure_future(a.run()) for a in announcers]
    try:
        announcers[0].announce(vip)
        await neighbour(lan[0], vip, mac_of(lan[1]))
        for fd in lan[1:]:
            with Rtnl(fd) as rtnl:
                assert vip not in [a.ip for a in rtnl.addrs()]
        announcers[0].withdraw(vip)
        announcers[1].announce(vip)
        announcers[1].remind(asyncio.get_running_loop().time())
        await neighbour(lan[0], vip, mac_of(lan[2]))
        assert (announcers[0].addresses(), announcers[1].addresses()) == (set(), {vip})
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def groups_of(fd: int) -> list[str]:
    """The solicited-node groups of the load balancers' addresses that eth0 is in."""
    with entered(fd), open("/proc/thread-self/net/igmp6", encoding="ascii") as f:
        return [line.split()[2] for line in f if line.split()[1] == "eth0" and line.split()[2].endswith(("ff000001", "ff000003"))]


async def test_who_asks_is_answered_in_every_way(lan: list[int]) -> None:
    """By the group, and directly, as a kernel looks whether a neighbour is still there. All other IPv6 is not even seen."""
    with entered(lan[1]):
        announcer = Announcer("eth0", ["IPv6"])
    with entered(lan[0]):
        asker = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ndp.ETH_P_IPV6))
        asker.bind(("eth0", ndp.ETH_P_IPV6))
    asker.setblocking(False)
    mine, theirs = asker.getsockname()[4], bytes.fromhex(mac_of(lan[1]).replace(":", ""))
    running = asyncio.ensure_future(announcer.run())
    loop = asyncio.get_running_loop()

    async def heard(wanted: bytes) -> None:
        async with asyncio.timeout(30):
            while await loop.sock_recv(asker, 2048) != wanted:
                pass

    try:
        announcer.announce("fd00:10:100::3")
        announcer.announce(VIP6)
        announcer.announce("fd00:10:100::1:0:3")  # in the group of the first
        assert sorted(groups_of(lan[1])) == ["ff0200000000000000000001ff000001", "ff0200000000000000000001ff000003"]
        asked = ndp.Solicitation(mine, "fd00:192:168:56::1", VIP6)
        group = bytes.fromhex("3333ff000001")
        other = b"\0" * 12 + struct.pack("!HIHBB", ndp.ETH_P_IPV6, 6 << 28, 8, socket.IPPROTO_UDP, 255) + bytes(40)
        for to_mac, to_ip in ((group, ndp.group(VIP6)), (theirs, VIP6)):
            asker.send(theirs + mine + other[12:])
            asker.send(ndp.solicitation(asked, to_mac, to_ip))
            await heard(ndp.answer(asked, VIP6, theirs))
        seen = announcer._responders["IPv6"].socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        assert struct.unpack("=II", seen) == (2, 0), "packets it was shown, packets that were too many"
        announcer.withdraw("fd00:10:100::3")
        announcer.withdraw(VIP6)
        assert groups_of(lan[1]) == ["ff0200000000000000000001ff000003"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        asker.close()


def test_the_routers_sysctls(lan: list[int]) -> None:
    def value(name: str) -> str:
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as f:
            return f.read().strip()

    with entered(lan[0]):
        router.set_sysctls()
        names = {re.sub("net/ipv4/", "", key.format(inside="eth0")): wanted for key, wanted in router.SYSCTLS.items()}
        assert {n: value(n) for n in names} == names
    with entered(lan[1]):
        assert all(value(n) != wanted for n, wanted in names.items()), "of this namespace only"


def answers(fd: int, count: int, patience_s: float = 0.2) -> int:
    """How many of so many UDP questions from the router to the VIP, each from a port of its own, are answered."""
    good = 0
    for _ in range(count):
        with entered(fd):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client:
            client.settimeout(patience_s)
            try:
                client.sendto(b"x", (VIP, 9))
                good += client.recv(10) == b"x"
            except OSError:
                continue
    return good


@pytest.mark.slow
def test_a_node_that_is_cut_off_is_passed_over_while_the_routes_still_name_it(lan: list[int]) -> None:
    """Nobody is told: that it no longer answers ARP is enough."""
    with entered(lan[0]):
        router.set_sysctls()
        router.ensure({"10.100.0.0/16": ("192.168.56.11", "192.168.56.12")})
    servers = []
    for fd in lan[1:]:
        with Rtnl(fd) as rtnl:
            lo = rtnl.link_get("lo")
            assert lo is not None
            rtnl.link_set(lo.index, up=True)
            rtnl.addr_add(lo.index, f"{VIP}/32")
        with entered(fd):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((VIP, 9))
        servers.append(server)

    def serve(server: socket.socket) -> None:
        while (question := server.recvfrom(10))[0] != b"end":
            server.sendto(*question)

    threads = [threading.Thread(target=serve, args=(s,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        assert answers(lan[0], 40, 20) == 40
        with Rtnl(lan[2]) as rtnl:
            link = rtnl.link_get("eth0")
            assert link is not None
            rtnl.link_set(link.index, up=False)
        assert answers(lan[0], 40) < 40, "half of them go there at first"
        deadline = time.monotonic() + 30
        while answers(lan[0], 40) < 40:
            assert time.monotonic() < deadline
        assert routes_of(lan[0])["10.100.0.0/16"][1] == ("192.168.56.11", "192.168.56.12")
    finally:
        for fd, server, thread in zip(lan[1:], servers, threads, strict=True):
            with entered(fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b"end", (VIP, 9))
            thread.join(5)
            server.close()
