"""rtnl against the real kernel, in namespaces made here and gone when their descriptors are closed."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest
from fresh_netns import new_netns

from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl, entered

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


def card(rt: Rtnl, name: str) -> rtmsg.Link:
    """An interface with carrier that leads nowhere."""
    link = rt.link_add_veth(name, f"{name}-far", up=True)
    rt.link_set(link.peer, up=True)
    return link


@pytest.fixture
def node() -> Iterator[int]:
    fd = new_netns()
    yield fd
    os.close(fd)


@pytest.fixture
def pod() -> Iterator[int]:
    fd = new_netns()
    yield fd
    os.close(fd)


def test_veth_is_born_in_both_namespaces(node: int, pod: int) -> None:
    with Rtnl(node) as rt, Rtnl(pod) as inside:
        bridge = rt.link_add_bridge("cni0", mac="02:00:00:00:00:01", mtu=1400)
        assert (bridge.kind, bridge.mac, bridge.mtu, bridge.up) == ("bridge", "02:00:00:00:00:01", 1400, True)
        host = rt.link_add_veth("veth0", "eth0", peer_netns_fd=pod, master=bridge.index, up=True, mtu=1400)
        assert (host.master, host.up, host.mtu, host.kind, host.port_of) == (bridge.index, True, 1400, "veth", "bridge")
        eth0 = inside.link_get("eth0")
        assert eth0 is not None
        assert host.peer == eth0.index
        assert eth0.peer == host.index
        assert not eth0.up
        assert eth0.mtu == 1400
        assert rt.link_get("eth0") is None
        inside.link_set(eth0.index, up=True, mac="02:00:00:00:00:99")
        after = inside.link_by_index(eth0.index)
        assert after is not None
        assert after.mac == "02:00:00:00:00:99"
        assert [link.name for link in rt.links(master=bridge.index)] == ["veth0"]
        assert [link.name for link in rt.links(kind="bridge")] == ["cni0"]
        rt.port_set(host.index, hairpin=True, isolated=True)
        port = rt.link_get("veth0")
        assert port is not None
        assert (port.port["hairpin"], port.port["isolated"]) == (True, True)
        rt.link_delete(host.index)
        assert inside.link_get("eth0") is None


def test_peer_by_pid(node: int, pod: int) -> None:
    with entered(pod):
        pid = os.fork()
        if pid == 0:
            select.select([], [], [])
    try:
        with Rtnl(node) as rt, Rtnl(pod) as inside:
            rt.link_add_veth("veth0", "eth0", peer_pid=pid)
            assert inside.link_get("eth0") is not None
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_errors_say_what_was_asked(node: int) -> None:
    with Rtnl(node) as rt:
        card(rt, "d0")
        with pytest.raises(FileExistsError, match="add link d0"):
            card(rt, "d0")
        with pytest.raises(OSError, match=r"add route 10\.9\.0\.0/16 via 10\.1\.1\.1") as caught:
            rt.route_add("10.9.0.0/16", gateway="10.1.1.1")
        assert caught.value.errno == errno.ENETUNREACH
        assert "Nexthop has invalid gateway" in str(caught.value)
        with pytest.raises(OSError, match="delete link") as caught:
            rt.link_delete(4711)
        assert caught.value.errno == errno.ENODEV
        assert rt.link_get("a-name-of-more-than-15-bytes") is None


def test_batch_runs_on_after_an_error_and_raises_the_first(node: int) -> None:
    with Rtnl(node) as rt:
        d0 = card(rt, "d0")
        with pytest.raises(FileExistsError):
            rt.execute(
                rtmsg.addr_change(d0.index, "10.0.0.1/24"),
                rtmsg.addr_change(d0.index, "10.0.0.1/24"),
                rtmsg.addr_change(d0.index, "10.0.0.2/24"),
            )
        assert [a.cidr for a in rt.addrs(d0.index, socket.AF_INET)] == ["10.0.0.1/24", "10.0.0.2/24"]
        many = [rtmsg.addr_change(d0.index, f"10.1.{i >> 8}.{i & 255}/32") for i in range(700)]
        rt.execute(*many)
        assert len(rt.addrs(d0.index, socket.AF_INET)) == 702


def test_addresses_routes_neighbours_rules(node: int) -> None:
    with Rtnl(node) as rt:
        rt.link_set(1, up=True)
        d0 = card(rt, "d0")
        d1 = card(rt, "d1")
        rt.addr_add(d0.index, "10.1.0.1/24")
        rt.addr_add(d0.index, "fd00::1/64", nodad=True)
        rt.addr_add(d1.index, "10.2.0.1/24")
        assert [a.cidr for a in rt.addrs(d1.index, socket.AF_INET)] == ["10.2.0.1/24"]
        assert "fd00::1/64" in [a.cidr for a in rt.addrs(family=socket.AF_INET6)]
        rt.route_add("10.244.1.0/24", gateway="10.1.0.9", mtu=1300, advmss=1200, priority=7)
        rt.route_add("default", gateway="fd00::9")
        rt.route_add("10.3.0.0/16", index=d1.index, table=100)
        rt.route_add("192.0.2.0/24", kind="blackhole")
        (route,) = [r for r in rt.routes(socket.AF_INET) if r.dst == "10.244.1.0/24"]
        assert (route.gateway, route.index, route.mtu, route.advmss, route.priority) == ("10.1.0.9", d0.index, 1300, 1200, 7)
        assert [(r.dst, r.index) for r in rt.routes(table=100)] == [("10.3.0.0/16", d1.index)]
        assert rt.routes(table=4711) == []
        assert "default" in [r.dst for r in rt.routes(socket.AF_INET6)]
        assert [r.dst for r in rt.routes(socket.AF_INET, index=d1.index)] == ["10.2.0.0/24"]
        with pytest.raises(FileExistsError):
            rt.route_add("10.244.1.0/24", gateway="10.1.0.8", priority=7)
        rt.route_replace("10.244.1.0/24", gateway="10.1.0.8", priority=7)
        assert rt.route_get("10.244.1.5").gateway == "10.1.0.8"
        rt.route_del("10.244.1.0/24")
        rt.route_del("192.0.2.0/24", kind="blackhole")
        assert {r.dst for r in rt.routes(socket.AF_INET)} == {"10.1.0.0/24", "10.2.0.0/24"}
        rt.neigh_replace(d0.index, "10.1.0.9", "02:00:00:00:00:09")
        assert [(n.ip, n.mac) for n in rt.neighs(d0.index, socket.AF_INET)] == [("10.1.0.9", "02:00:00:00:00:09")]
        rt.neigh_del(d0.index, "10.1.0.9")
        assert rt.neighs(d0.index, socket.AF_INET) == []
        rt.rule_add(100, 100, src="10.244.0.0/16", fwmark=0x4000)
        (rule,) = [r for r in rt.rules(socket.AF_INET) if r.priority == 100]
        assert (rule.src, rule.table, rule.fwmark, rule.fwmask) == ("10.244.0.0/16", 100, 0x4000, 0xFFFFFFFF)
        rt.rule_del(100, 100, src="10.244.0.0/16", fwmark=0x4000)
        rt.rule_add(101, 100, dst="fd00::/8")
        assert [r.dst for r in rt.rules(socket.AF_INET6) if r.priority == 101] == ["fd00::/8"]


def test_bridge_attributes(node: int) -> None:
    with Rtnl(node) as rt:
        bridge = rt.link_add_bridge("br0", mcast_snooping=0, stp=0, forward_delay=200)
        assert (bridge.bridge["mcast_snooping"], bridge.bridge["forward_delay"]) == (0, 200)
        rt.bridge_set(bridge.index, nf_call_iptables=1)
        again = rt.link_get("br0")
        assert again is not None
        assert again.bridge["nf_call_iptables"] == 1


def test_vlans_and_vlan_links(node: int) -> None:
    with Rtnl(node) as rt:
        bridge = rt.link_add_bridge("br0")
        try:
            rt.bridge_set(bridge.index, vlan_filtering=1)
        except OSError as e:
            if e.errno == errno.EOPNOTSUPP:
                pytest.skip("this kernel's bridge has no VLAN filtering")
            raise
        port = rt.link_add_veth("v0", "v1", master=bridge.index)
        rt.vlan_add(port.index, 100, pvid=True, untagged=True)
        rt.vlan_add(port.index, 200, 202)
        rt.vlan_add(bridge.index, 100, on_bridge=True)
        vlans = rt.vlans()
        assert vlans[port.index] == {
            1: (False, True), 100: (True, True), 200: (False, False), 201: (False, False), 202: (False, False),
        }  # fmt: skip
        assert 100 in vlans[bridge.index]
        rt.vlan_del(port.index, 1)
        assert 1 not in rt.vlans()[port.index]
        sub = rt.link_add_vlan("br0.100", bridge.index, 100, up=True)
        assert (sub.kind, sub.vlan, sub.peer) == ("vlan", 100, bridge.index)


def test_vxlan_with_forwarding_entries(node: int) -> None:
    with Rtnl(node) as rt:
        lower = card(rt, "d0")
        rt.addr_add(lower.index, "192.0.2.1/24")
        try:
            vxlan = rt.link_add_vxlan("flannel.1", 1, local="192.0.2.1", lower=lower.index, up=True)
        except OSError as e:
            if e.errno == errno.EOPNOTSUPP:
                pytest.skip("this kernel has no vxlan")
            raise
        assert vxlan.kind == "vxlan"
        rt.neigh_replace(vxlan.index, "192.0.2.2", "02:00:00:00:00:02", fdb=True)
        entries = rt.neighs(vxlan.index, rtmsg.AF_BRIDGE)
        assert ("192.0.2.2", "02:00:00:00:00:02") in [(e.ip, e.mac) for e in entries]


def test_events_arrive_and_parse(node: int) -> None:
    with Rtnl(node) as rt, Rtnl(node) as watch:
        watch.subscribe(rtmsg.RTMGRP_LINK | rtmsg.RTMGRP_IPV4_IFADDR | rtmsg.RTMGRP_IPV4_ROUTE)
        assert watch.read_events() == []
        d0 = card(rt, "d0")
        rt.addr_add(d0.index, "10.1.0.1/24")
        seen = watch.read_events()
        assert any(k == rtmsg.RTM_NEWLINK and isinstance(v, rtmsg.Link) and v.name == "d0" for k, v in seen)
        assert any(k == rtmsg.RTM_NEWADDR and isinstance(v, rtmsg.Address) and v.cidr == "10.1.0.1/24" for k, v in seen)
        assert any(k == rtmsg.RTM_NEWROUTE for k, _ in seen)


def test_opening_elsewhere_leaves_the_thread_where_it_was(node: int) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with Rtnl(node) as rt:
        assert [link.name for link in rt.links() if link.name == "lo"] == ["lo"]
        assert os.stat("/proc/thread-self/ns/net").st_ino == before

    def fail_inside() -> None:
        with entered(node):
            assert os.stat("/proc/thread-self/ns/net").st_ino == os.fstat(node).st_ino
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
