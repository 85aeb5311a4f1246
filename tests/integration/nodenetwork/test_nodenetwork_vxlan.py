"""A node's routes and its end of the VXLAN against the real kernel; two ends in two namespaces reach one another."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from nsk8s.kernel import routes, rtmsg, syscalls
from nsk8s.kernel.routes import OWN_METRIC, PROTOCOL, Via
from nsk8s.kernel.rtnl import Rtnl, entered
from nsk8s.nodenetwork import plan, vxlan
from nsk8s.nodenetwork.plan import Peer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")
ONE, TWO = "192.0.2.1", "192.0.2.2"
CIDR = {ONE: "10.244.1.0/24", TWO: "10.244.2.0/24"}
STRANGER = Peer("10.244.9.0/24", "10.244.9.0", "0a:00:00:00:00:09", "192.0.2.9")


@pytest.fixture
def nodes() -> Iterator[dict[str, int]]:
    """Two namespaces with a cable between them; descriptors by address."""
    found: list[int] = []

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    for _ in range(2):
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
    with Rtnl(found[0]) as here, Rtnl(found[1]) as there:
        here.link_add_veth("eth0", "eth0", peer_netns_fd=found[1], up=True)
        for rt, ip in ((here, ONE), (there, TWO)):
            link = rt.link_get("eth0")
            assert link is not None
            rt.link_set(link.index, up=True)
            rt.addr_add(link.index, f"{ip}/24")
    yield dict(zip((ONE, TWO), found, strict=True))
    for fd in found:
        os.close(fd)


def end(netns: int, ip: str) -> rtmsg.Link:
    with entered(netns):
        return vxlan.ensure_device(ip, CIDR[ip])


def peer(ip: str, link: rtmsg.Link) -> Peer:
    return Peer(CIDR[ip], plan.vtep_address(CIDR[ip]), link.mac, ip)


def ports(netns: int, index: int) -> tuple[dict[str, str], dict[str, str]]:
    """(ARP: address → MAC, forwarding: MAC → where it is sent)."""
    with Rtnl(netns) as rt:
        arp = {n.ip: n.mac for n in rt.neighs(index, socket.AF_INET) if n.state & rtmsg.NUD_PERMANENT}
        return arp, {n.mac: n.ip for n in rt.neighs(index, rtmsg.AF_BRIDGE) if n.ip}


def test_two_ends_reach_one_another(nodes: dict[str, int]) -> None:
    links = {ip: end(fd, ip) for ip, fd in nodes.items()}
    for own, other in ((ONE, TWO), (TWO, ONE)):
        with entered(nodes[own]):
            vxlan.ensure_peers(links[own].index, [peer(other, links[other])])
            via = Via(plan.vtep_address(CIDR[other]), links[own].index)
            assert routes.ensure({CIDR[other]: via}) == ([CIDR[other]], [], {})
            assert routes.ensure({CIDR[other]: via}) == ([], [], {}), "nothing is left to do"
            assert routes.ours() == {CIDR[other]: via}
    with entered(nodes[TWO]):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with entered(nodes[ONE]):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.bind(("10.244.2.0", 9))
        server.settimeout(5)
        client.sendto(b"through", ("10.244.2.0", 9))
        assert server.recvfrom(64)[0] == b"through"
    with Rtnl(nodes[ONE]) as rt:
        assert rt.link_by_index(links[ONE].index) is not None
        assert links[ONE].mtu == 1450


def test_it_is_made_once_and_mended(nodes: dict[str, int]) -> None:
    first = end(nodes[ONE], ONE)
    with Rtnl(nodes[ONE]) as rt:
        rt.link_set(first.index, up=False)
        rt.addr_del(first.index, "10.244.1.0/32")
        rt.addr_add(first.index, "10.244.7.0/32")  # of a subnet it had before
    again = end(nodes[ONE], ONE)
    assert (again.index, again.mac) == (first.index, first.mac)
    with Rtnl(nodes[ONE]) as rt:
        link = rt.link_by_index(first.index)
        assert link is not None
        assert link.up
        assert [a.cidr for a in rt.addrs(first.index, socket.AF_INET)] == ["10.244.1.0/32"]


def test_entries_follow_the_peers(nodes: dict[str, int]) -> None:
    link = end(nodes[ONE], ONE)
    two = Peer(CIDR[TWO], "10.244.2.0", "0a:00:00:00:00:02", TWO)
    with entered(nodes[ONE]):
        assert vxlan.ensure_peers(link.index, [two, STRANGER]) == (["10.244.2.0", "10.244.9.0"], [])
        assert vxlan.ensure_peers(link.index, [two, STRANGER]) == ([], [])
    assert ports(nodes[ONE], link.index) == (
        {"10.244.2.0": two.mac, "10.244.9.0": STRANGER.mac}, {two.mac: TWO, STRANGER.mac: "192.0.2.9"}
    )  # fmt: skip
    reborn = Peer(CIDR[TWO], "10.244.2.0", "0a:00:00:00:00:22", "192.0.2.22")
    with entered(nodes[ONE]):
        assert vxlan.ensure_peers(link.index, [reborn]) == (["10.244.2.0"], ["10.244.9.0"])
    assert ports(nodes[ONE], link.index) == ({"10.244.2.0": reborn.mac}, {reborn.mac: "192.0.2.22"})


def test_what_is_not_ours_is_left_alone(nodes: dict[str, int]) -> None:
    with Rtnl(nodes[ONE]) as rt:
        rt.link_add_bridge("flannel.1")
    with entered(nodes[ONE]):
        with pytest.raises(vxlan.NoVxlan, match=r"flannel\.1 is there and not nsk8s' own \(bridge"):
            vxlan.ensure_device(ONE, CIDR[ONE])
        assert not vxlan.remove_device()
        assert vxlan.is_foreign()
    with Rtnl(nodes[TWO]) as rt:  # as a real flanneld makes it
        theirs = rt.link_add_vxlan("flannel.1", 1, local=TWO)
    with entered(nodes[TWO]):
        with pytest.raises(vxlan.NoVxlan, match=r"vxlan, no alias nsk8s"):
            vxlan.ensure_device(TWO, CIDR[TWO])
        assert vxlan.is_foreign()
        assert not vxlan.remove_device()
    with Rtnl(nodes[TWO]) as rt:
        rt.link_delete(theirs.index)
    with entered(nodes[TWO]):
        assert not vxlan.is_foreign()
        with pytest.raises(vxlan.NoVxlan, match=r"no link of this node has the node's address 192\.0\.2\.77"):
            vxlan.ensure_device("192.0.2.77", CIDR[TWO])
        assert not vxlan.remove_device()
        vxlan.ensure_device(TWO, CIDR[TWO])
        assert not vxlan.is_foreign()
        assert vxlan.remove_device()


def test_from_a_plain_route_to_the_tunnel_and_back(nodes: dict[str, int]) -> None:
    index = end(nodes[ONE], ONE).index
    plain, tunnel = {CIDR[TWO]: Via(TWO)}, {CIDR[TWO]: Via("10.244.2.0", index)}
    with entered(nodes[ONE]):
        for want in (plain, tunnel, plain):
            assert routes.ensure(want) == ([CIDR[TWO]], [], {})
            assert routes.ours() == want
        assert routes.ensure({}) == ([], [CIDR[TWO]], {})


def test_the_own_subnet_is_refused_while_no_bridge_has_it(nodes: dict[str, int]) -> None:
    with entered(nodes[ONE]), Rtnl() as rt:
        for _ in range(2):
            routes.ensure({}, own=[CIDR[ONE]])
        found = [(r.dst, r.kind, r.priority) for r in rt.routes(socket.AF_INET) if r.protocol == PROTOCOL]
        assert found == [(CIDR[ONE], "unreachable", OWN_METRIC)]
        bridge = rt.link_add_bridge("cni0")
        rt.addr_add(bridge.index, "10.244.1.1/24")
        rt.link_set(bridge.index, up=True)
        assert rt.route_get("10.244.1.5").index == bridge.index, "the bridge's route is the better one"
        routes.ensure({})
        assert not [r for r in rt.routes(socket.AF_INET) if r.protocol == PROTOCOL]
        rt.route_add("10.244.2.0/24", gateway=TWO)
        assert "not nsk8s' own" in routes.ensure({"10.244.2.0/24": Via(TWO)})[2]["10.244.2.0/24"]
