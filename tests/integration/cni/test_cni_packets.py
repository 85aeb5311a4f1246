"""Packets through what the plugins made: pod to pod, pod to gateway, hairpin, masquerade."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import Any

import pytest

from nsk8s.kernel.rtnl import Rtnl, entered


def udp(netns_fd: int, ip: str = "", port: int = 0) -> socket.socket:
    with entered(netns_fd):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    if ip:
        sock.bind((ip, port))
    return sock


def test_pod_to_pod_and_to_the_gateway_keep_the_source_address(node: Any) -> None:
    one, two = node.pod(), node.pod()
    node.add(node.conf(), "c1", one)
    node.add(node.conf(), "c2", two)
    with udp(one.fd) as client, udp(two.fd, "10.244.1.3", 7000) as server, udp(node.fd, "10.244.1.1", 7000) as gateway:
        client.sendto(b"first", ("10.244.1.3", 7000))  # the port forwards as soon as ADD has returned
        assert server.recvfrom(100)[1][0] == "10.244.1.2"
        client.sendto(b"up", ("10.244.1.1", 7000))
        data, peer = gateway.recvfrom(100)
        assert (data, peer[0]) == (b"up", "10.244.1.2")
        gateway.sendto(b"down", peer)
        assert client.recv(100) == b"down"


def test_isolated_ports_reach_the_gateway_only(node: Any) -> None:
    one, two = node.pod(), node.pod()
    conf = node.conf(portIsolation=True)
    node.add(conf, "c1", one)
    node.add(conf, "c2", two)
    with udp(one.fd) as client, udp(two.fd, "10.244.1.3", 7000) as server, udp(node.fd, "10.244.1.1", 7000) as gateway:
        client.sendto(b"x", ("10.244.1.3", 7000))
        client.sendto(b"x", ("10.244.1.1", 7000))
        assert gateway.recvfrom(100)[1][0] == "10.244.1.2"
        server.setblocking(False)
        try:
            server.recv(100)
        except BlockingIOError:
            return
        raise AssertionError("an isolated port was reached")


def _iptables(node: Any, *args: str) -> None:
    env = {"PATH": "/usr/sbin:/usr/bin", "XTABLES_LOCKFILE": str(node.dir / "xtables.lock")}
    node.inside(lambda: subprocess.run(["iptables", "-t", "nat", *args], check=True, env=env, capture_output=True).returncode)


def test_hairpin(node: Any) -> None:
    """A pod reaches itself through a virtual address: only with hairpinMode does the bridge send the frame back."""
    pod = node.pod()
    node.add(node.conf(), "c1", pod)
    _iptables(node, "-A", "PREROUTING", "-d", "10.96.0.1", "-p", "udp", "-j", "DNAT", "--to-destination", "10.244.1.2:7000")
    _iptables(node, "-A", "POSTROUTING", "-s", "10.244.1.2", "-d", "10.244.1.2", "-j", "MASQUERADE")
    with udp(pod.fd, "10.244.1.2", 7000) as server, udp(pod.fd) as client:
        client.sendto(b"self", ("10.96.0.1", 80))
        data, peer = server.recvfrom(100)
        assert (data, peer[0]) == (b"self", "10.244.1.1")
        server.sendto(b"back", peer)
        assert client.recvfrom(100) == (b"back", ("10.96.0.1", 80))


def test_masquerade_is_for_what_leaves_the_subnet(node: Any) -> None:
    outside = node.pod()
    with Rtnl(node.fd) as rt, Rtnl(outside.fd) as far:
        up = rt.link_add_veth("uplink", "eth0", peer_netns_fd=outside.fd, up=True)
        rt.addr_add(up.index, "203.0.113.1/24")
        eth = far.link_get("eth0")
        assert eth is not None
        far.link_set(eth.index, up=True)
        far.addr_add(eth.index, "203.0.113.10/24")
    one, two = node.pod(), node.pod()
    conf = node.conf(ipMasq=True)
    node.add(conf, "c1", one)
    node.add(conf, "c2", two)
    with udp(one.fd) as client, udp(outside.fd, "203.0.113.10", 9) as server, udp(two.fd, "10.244.1.3", 9) as neighbour:
        client.sendto(b"out", ("203.0.113.10", 9))
        assert server.recvfrom(100)[1][0] == "203.0.113.1"
        client.sendto(b"in", ("10.244.1.3", 9))
        assert neighbour.recvfrom(100)[1][0] == "10.244.1.2"
    node.delete(conf, "c1", one.path)
    assert len([r for r in node.nat_rules() if r.startswith("-A POSTROUTING")]) == 1
    node.delete(conf, "c2", two.path)
    assert node.nat_rules() == []


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_two_interfaces_of_one_container_share_a_masquerade_chain(node: Any, variant: str) -> None:
    tools = node.dir / "tools"
    tools.mkdir()
    for tool in ("iptables", "iptables-restore", "ip6tables", "ip6tables-restore"):
        real = shutil.which(tool.replace("tables", f"tables-{variant}"))
        if real is None:
            pytest.skip(f"iptables-{variant} is not installed")
        (tools / tool).symlink_to(real)
    node.path = f"{tools}:{node.path}"
    pod = node.pod()
    conf = node.conf(ipMasq=True)
    node.add(conf, "c1", pod)
    second = {**conf, "isDefaultGateway": False, "isGateway": True}
    node.add(second, "c1", pod, "eth1")
    assert len([r for r in node.nat_rules() if r.startswith("-A POSTROUTING")]) == 2
    assert len([r for r in node.nat_rules() if r.startswith("-N")]) == 1
    node.delete(conf, "c1", pod.path, "eth0")
    assert [r.split()[3] for r in node.nat_rules() if r.startswith("-A POSTROUTING")] == ["10.244.1.3/32"]
    node.delete(conf, "c1", pod.path, "eth0")  # again: the other interface's rules stay
    assert len([r for r in node.nat_rules() if r.startswith("-A")]) == 3
    assert node.reservations() == {"10.244.1.3": "c1\r\neth1"}
    node.delete(conf, "c1", "", "eth1")
    assert node.nat_rules() == []


def test_gc_removes_what_belongs_to_no_valid_attachment(node: Any) -> None:
    conf = node.conf(ipMasq=True, cniVersion="1.1.0")
    for i in range(3):
        node.add(conf, f"c{i}", node.pod())
    conf["cni.dev/valid-attachments"] = [{"containerID": "c1", "ifname": "eth0"}]
    assert node.call("GC", conf, "", "", "") == {}
    assert node.reservations() == {"10.244.1.3": "c1\r\neth0"}
    assert [r.split()[3] for r in node.nat_rules() if r.startswith("-A POSTROUTING")] == ["10.244.1.3/32"]
    conf["cni.dev/valid-attachments"] = None
    assert node.call("GC", conf, "", "", "") == {}
    assert node.reservations() == {}
    assert node.nat_rules() == []
