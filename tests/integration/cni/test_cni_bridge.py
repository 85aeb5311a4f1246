"""bridge with host-local on the real kernel: what ADD makes, what CHECK notices, what DEL and failures leave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

import cni
from cni import interface
from cni.errors import CniError
from cni.invoke import run_here
from nsk8s.kernel import rtmsg, syscalls
from nsk8s.kernel.rtnl import Rtnl, entered

Failure = Callable[[Callable[[], Any]], Any]


def test_add_makes_what_the_result_says(node: Any) -> None:
    pod = node.pod()
    result = node.add(node.conf(mtu=1400), "c1", pod, how="exec")
    bridge, port, eth = result["interfaces"]
    assert (bridge["name"], eth["name"], eth["sandbox"]) == ("cni0", "eth0", pod.path)
    assert "sandbox" not in bridge
    assert "sandbox" not in port
    assert result["ips"] == [{"interface": 2, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}]
    assert result["cniVersion"] == "1.0.0"
    with Rtnl(node.fd) as rt, Rtnl(pod.fd) as inside:
        br = rt.link_get("cni0")
        veth = rt.link_get(port["name"])
        eth0 = inside.link_get("eth0")
        assert br is not None
        assert veth is not None
        assert eth0 is not None
        assert [(link.mac, link.mtu, link.up) for link in (br, veth, eth0)] == [
            (i["mac"], 1400, True) for i in result["interfaces"]
        ]
        assert veth.master == br.index
        assert veth.port["hairpin"] is True
        assert veth.port["isolated"] is False
        assert veth.operstate == "up"
        assert [a.cidr for a in rt.addrs(br.index, socket.AF_INET)] == ["10.244.1.1/24"]
        assert [a.cidr for a in inside.addrs(eth0.index, socket.AF_INET)] == ["10.244.1.2/24"]
        assert {(r.dst, r.gateway) for r in inside.routes(socket.AF_INET)} == {
            ("default", "10.244.1.1"), ("10.244.1.0/24", ""),
        }  # fmt: skip
    assert node.inside(lambda: open("/proc/sys/net/ipv4/ip_forward").read()) == "1\n"
    with entered(pod.fd), open("/proc/sys/net/ipv4/conf/eth0/arp_notify") as f:
        assert f.read() == "1\n"
    assert node.reservations() == {"10.244.1.2": "c1\r\neth0"}
    assert (node.data_dir / "net1/last_reserved_ip.0").read_text() == "10.244.1.2"


def test_the_host_never_sees_the_pods_interface(node: Any) -> None:
    pod = node.pod()
    with Rtnl(node.fd) as watch:
        watch.subscribe(rtmsg.RTMGRP_LINK)
        node.add(node.conf(), "c1", pod)
        names = {event.name for _, event in watch.read_events() if isinstance(event, rtmsg.Link)}
    assert "eth0" not in names


def test_del_is_complete_and_can_be_repeated(node: Any) -> None:
    pod = node.pod()
    conf = node.conf()
    node.add(conf, "c1", pod)
    for _ in range(3):
        node.delete(conf, "c1", pod.path)
        assert node.ports() == []
        assert pod.links() == []
        assert node.reservations() == {}
    with Rtnl(node.fd) as rt:
        assert rt.link_get("cni0") is not None  # the bridge stays, as upstream's does


@pytest.mark.parametrize("netns", ["", "/run/netns/never-was", "plain file", "/proc/1/status/ns"])
def test_del_without_a_namespace_frees_the_rest(node: Any, netns: str) -> None:
    pod = node.pod()
    conf = node.conf(ipMasq=True)
    node.add(conf, "c1", pod)
    assert node.nat_rules()
    if netns == "plain file":
        netns = str(node.dir / "left-over")
        open(netns, "w").close()  # what ip netns leaves when the mount is gone
    node.delete(conf, "c1", netns)
    assert node.reservations() == {}
    assert node.nat_rules() == []


def test_bind_mounted_and_proc_paths(node: Any) -> None:
    conf = node.conf()
    pod = node.pod()
    with entered(pod.fd):
        pid = os.fork()
        if pid == 0:
            signal.pause()
    mounted = node.dir / "netns"
    mounted.touch()
    syscalls.mount(pod.path, str(mounted), flags=syscalls.MS_BIND)
    try:
        assert node.call("ADD", conf, "c1", f"/proc/{pid}/ns/net")["interfaces"][2]["sandbox"] == f"/proc/{pid}/ns/net"
        node.delete(conf, "c1", str(mounted))
        assert node.call("ADD", conf, "c1", str(mounted))["interfaces"][2]["sandbox"] == str(mounted)
        node.delete(conf, "c1", f"/proc/{pid}/ns/net")
        assert pod.links() == []
    finally:
        syscalls.umount(str(mounted))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_the_plugins_own_namespace_is_refused(node: Any, failure: Failure) -> None:
    path = f"/proc/{os.getpid()}/fd/{node.fd}"
    for command in ("ADD", "DEL"):
        error = failure(lambda command=command: node.call(command, node.conf(), "c1", path))
        assert error.code == 8
    assert node.ports() == []
    assert node.reservations() == {}


def taken_name(node: Any, pod: Any) -> dict[str, Any]:
    with Rtnl(pod.fd) as rt:
        rt.link_add_veth("eth0", "other")
    return node.conf()


def full_pool(node: Any, pod: Any) -> dict[str, Any]:
    conf = node.conf(ipam={"rangeStart": "10.244.1.9", "rangeEnd": "10.244.1.9"})
    node.add(conf, "holder", node.pod())
    return conf


def full_second_set(node: Any, pod: Any) -> dict[str, Any]:
    ranges = [[{"subnet": "10.9.0.0/30"}], [{"subnet": "10.8.0.0/24"}]]
    conf = node.conf(isDefaultGateway=None, ipam={"subnet": None, "ranges": [ranges[1], ranges[0]]})
    node.add(conf, "holder", node.pod())
    return conf


def other_gateway(node: Any, pod: Any) -> dict[str, Any]:
    node.add(node.conf(bridge="cni0", name="other", ipam={"subnet": "10.50.0.0/24"}), "holder", node.pod())
    return node.conf()


def impossible_route(node: Any, pod: Any) -> dict[str, Any]:
    return node.conf(ipam={"routes": [{"dst": "10.99.0.0/16", "gw": "192.0.2.77"}]})


@pytest.mark.parametrize(
    "damage", [taken_name, full_pool, full_second_set, other_gateway, impossible_route], ids=lambda f: f.__name__
)
def test_a_failed_add_leaves_nothing(node: Any, failure: Failure, damage: Callable[[Any, Any], dict[str, Any]]) -> None:
    pod = node.pod()
    conf = damage(node, pod)
    before = (node.reservations(conf["name"]), node.ports(), pod.links(), node.nat_rules())
    error = failure(lambda: node.add(conf, "c1", pod))
    assert error.code == 999
    assert (node.reservations(conf["name"]), node.ports(), pod.links(), node.nat_rules()) == before


def test_a_late_failure_leaves_nothing(node: Any, failure: Failure) -> None:
    broken = node.dir / "bin"
    broken.mkdir()
    for tool in ("iptables-restore", "ip6tables-restore"):
        (broken / tool).write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
        (broken / tool).chmod(0o755)
    pod = node.pod()
    error = failure(lambda: node.add(node.conf(ipMasq=True), "c1", pod, PATH=f"{broken}:/usr/sbin:/usr/bin"))
    assert (error.code, error.msg) == (999, "could not set up masquerading: out of order")
    assert (node.reservations(), node.ports(), pod.links(), node.nat_rules()) == ({}, [], [], [])


def test_a_bad_namespace_touches_nothing(node: Any, failure: Failure) -> None:
    for path in ("/run/netns/never-was", "/etc/passwd", "/proc/self/ns/mnt"):
        assert "failed to open netns" in failure(lambda path=path: node.call("ADD", node.conf(), "c1", path)).msg
    with Rtnl(node.fd) as rt:
        assert rt.link_get("cni0") is None
    assert node.reservations() == {}


def test_duplicate_add_is_refused_and_the_first_stays_whole(node: Any, failure: Failure) -> None:
    pod = node.pod()
    conf = node.conf()
    result = node.add(conf, "c1", pod)
    assert "already exists" in failure(lambda: node.add(conf, "c1", pod)).msg
    assert node.reservations() == {"10.244.1.2": "c1\r\neth0"}
    assert node.call("CHECK", {**conf, "prevResult": result}, "c1", pod.path) == {}


def test_killed_in_the_middle_then_del_leaves_nothing(node: Any) -> None:
    conf = node.conf(ipMasq=True)
    killed = 0
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    for step in range(240):
        if step >= 24 and killed >= 3:
            break
        pod = node.pod()
        others = children()
        name = f"k{step}"
        pending = node.begin(lambda pod=pod, name=name: _raw_add(node, conf, name, pod))
        time.sleep(step % 24 * 0.0012)  # the point of the kill is what varies
        os.kill(pending.pid, signal.SIGKILL)
        try:
            pending.finish()
        except CniError:
            killed += 1
        wait_for_orphans(others)  # an iptables-restore that was under way ends on its own
        node.delete(conf, name, pod.path if step % 2 else "")
        assert node.reservations() == {}
        assert node.nat_rules() == []
        if step % 2:
            assert pod.links() == []
            assert node.ports() == []
        else:
            with Rtnl(node.fd) as rt:
                for link in rt.links(kind="veth"):
                    rt.link_delete(link.index)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)
    assert killed >= 3


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def wait_for_orphans(others: set[int]) -> None:
    """Reap the children that are not in `others` (what other tests and fixtures keep running)."""
    for pid in children() - others:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _raw_add(node: Any, conf: dict[str, Any], name: str, pod: Any) -> str:
    code, out = run_here(os.path.join(cni.BIN_DIR, "bridge"), node.env("ADD", name, pod.path), json.dumps(conf).encode())
    return f"{code} {out.decode()}"


def test_thirty_two_adds_at_once(node: Any) -> None:
    conf = node.conf(ipMasq=True)
    pods = [node.pod() for _ in range(32)]
    pending = [
        node.begin(lambda i=i, pod=pod: _raw_add(node, conf, f"c{i}", pod)) for i, pod in enumerate(pods)
    ]
    answers = [p.finish() for p in pending]
    assert all(a.startswith("0 ") for a in answers), answers
    held = node.reservations()
    assert sorted(held.values()) == sorted(f"c{i}\r\neth0" for i in range(32))
    assert sorted(held, key=lambda ip: int(ip.rpartition(".")[2])) == [f"10.244.1.{i}" for i in range(2, 34)]
    assert len(node.ports()) == 32
    with Rtnl(node.fd) as rt:
        bridge = rt.link_get("cni0")
        assert bridge is not None
        assert [a.cidr for a in rt.addrs(bridge.index, socket.AF_INET)] == ["10.244.1.1/24"]
        assert len(rt.links(master=bridge.index)) == 32
    pending = [
        node.begin(lambda i=i: _raw_del(node, conf, f"c{i}")) for i in range(32)
    ]
    assert [p.finish() for p in pending] == [0] * 32
    assert node.reservations() == {}
    assert node.nat_rules() == []


def _raw_del(node: Any, conf: dict[str, Any], name: str) -> int:
    return run_here(os.path.join(cni.BIN_DIR, "bridge"), node.env("DEL", name, ""), json.dumps(conf).encode())[0]


# ── CHECK ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def eth_down(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    inside.link_set(inside.link_get("eth0").index, up=False)  # type: ignore[union-attr]


def address_gone(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    inside.addr_del(inside.link_get("eth0").index, "10.244.1.2/24")  # type: ignore[union-attr]


def route_gone(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    inside.route_del("default", gateway="10.244.1.1")


def off_the_bridge(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    rt.link_set(rt.links(kind="veth")[0].index, master=0)


def other_mac(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    inside.link_set(inside.link_get("eth0").index, mac="02:00:00:00:00:77")  # type: ignore[union-attr]


def bridge_mac(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    rt.link_set(rt.link_get("cni0").index, mac="02:00:00:00:00:77")  # type: ignore[union-attr]


def link_gone(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    inside.link_delete(inside.link_get("eth0").index)  # type: ignore[union-attr]


def renamed(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    inside.link_set(inside.link_get("eth0").index, up=False, name="eth9")  # type: ignore[union-attr]


def bridge_gone(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    rt.link_delete(rt.link_get("cni0").index)  # type: ignore[union-attr]


def reservation_gone(rt: Rtnl, inside: Rtnl, node: Any) -> None:
    (node.data_dir / "net1/10.244.1.2").unlink()


DAMAGE = [
    eth_down, address_gone, route_gone, off_the_bridge, other_mac, bridge_mac, link_gone, renamed, bridge_gone,
    reservation_gone,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_check_finds_damage(node: Any, failure: Failure, damage: Callable[[Rtnl, Rtnl, Any], None]) -> None:
    pod = node.pod()
    conf = node.conf()
    conf["prevResult"] = node.add(conf, "c1", pod)
    assert node.call("CHECK", conf, "c1", pod.path) == {}
    with Rtnl(node.fd) as rt, Rtnl(pod.fd) as inside:
        damage(rt, inside, node)
    assert failure(lambda: node.call("CHECK", conf, "c1", pod.path)).code == 999


def test_check_wants_prev_result_and_version(node: Any, failure: Failure) -> None:
    pod = node.pod()
    conf = node.conf()
    result = node.add(conf, "c1", pod)
    assert "prevResult" in failure(lambda: node.call("CHECK", conf, "c1", pod.path)).msg
    old = {**conf, "cniVersion": "0.3.1", "prevResult": {**result, "cniVersion": "0.3.1"}}
    assert failure(lambda: node.call("CHECK", old, "c1", pod.path)).code == 1


def test_a_capture_on_the_bridge_does_not_fail_check(node: Any) -> None:
    pod = node.pod()
    conf = node.conf()
    conf["prevResult"] = node.add(conf, "c1", pod)
    with entered(node.fd), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sniffer:
        sniffer.bind(("cni0", 3))
        index = socket.if_nametoindex("cni0")
        membership = index.to_bytes(4, "little") + (1).to_bytes(2, "little") + bytes(10)
        sniffer.setsockopt(263, 1, membership)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP: promiscuous, as tcpdump does
        assert node.call("CHECK", conf, "c1", pod.path) == {}


# ── options ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_mac_from_all_three_places(node: Any) -> None:
    conf = node.conf(args={"cni": {"mac": "02:00:00:00:00:02"}}, runtimeConfig={"Mac": "02:00:00:00:00:03"})
    more = {"CNI_ARGS": "IgnoreUnknown=1;MAC=02:00:00:00:00:01"}
    macs = []
    for i, drop in enumerate(["", "runtimeConfig", "args"]):
        conf.pop(drop, None)
        macs.append(node.add(conf, f"c{i}", node.pod(), **more)["interfaces"][2]["mac"])
    assert macs == ["02:00:00:00:00:03", "02:00:00:00:00:02", "02:00:00:00:00:01"]


def test_unknown_cni_args_are_refused_unless_ignored(node: Any, failure: Failure) -> None:
    pod = node.pod()
    error = failure(lambda: node.add(node.conf(), "c1", pod, CNI_ARGS="K8S_POD_NAME=x"))
    assert "unknown args" in error.msg
    assert pod.links() == []
    node.add(node.conf(), "c1", pod, CNI_ARGS="K8S_POD_NAME=x;IgnoreUnknown=1;IP=10.244.1.77")
    assert node.reservations() == {"10.244.1.77": "c1\r\neth0"}


def test_force_address(node: Any, failure: Failure) -> None:
    node.add(node.conf(), "c1", node.pod())
    moved = node.conf(name="net2", ipam={"subnet": "10.60.0.0/24"})
    assert "already has an IP address different" in failure(lambda: node.add(moved, "c2", node.pod())).msg
    node.add({**moved, "forceAddress": True}, "c2", node.pod())
    with Rtnl(node.fd) as rt:
        bridge = rt.link_get("cni0")
        assert bridge is not None
        assert [a.cidr for a in rt.addrs(bridge.index, socket.AF_INET)] == ["10.60.0.1/24"]


def test_a_bridge_made_by_somebody_else_is_used_and_its_mac_fixed(node: Any) -> None:
    with Rtnl(node.fd) as rt:
        rt.link_add_bridge("cni0", up=False)
    result = node.add(node.conf(), "c1", node.pod())
    with Rtnl(node.fd) as rt:
        before = rt.link_get("cni0")
        assert before is not None
        assert before.mac == result["interfaces"][0]["mac"]
        # The lowest MAC there is: without a fixed one the bridge would take it over.
        rt.link_add_veth("low", "low-far", mac="02:00:00:00:00:00", master=before.index, up=True)
        after = rt.link_get("cni0")
        assert after is not None
        assert after.mac == before.mac


def test_wrong_kind_of_bridge(node: Any, failure: Failure) -> None:
    with Rtnl(node.fd) as rt:
        rt.link_add_veth("cni0", "x0")
    assert "already exists but is not a bridge" in failure(lambda: node.add(node.conf(), "c1", node.pod())).msg


def test_layer_two_only(node: Any) -> None:
    pod = node.pod()
    conf = node.conf(ipam={"type": None}, isDefaultGateway=None)
    result = node.add(conf, "c1", pod)
    assert "ips" not in result
    with Rtnl(pod.fd) as inside:
        eth = inside.link_get("eth0")
        assert eth is not None
        assert eth.up
        assert inside.addrs(eth.index, socket.AF_INET) == []
    down = node.pod()
    node.add({**conf, "disableContainerInterface": True}, "c2", down)
    with Rtnl(down.fd) as inside:
        eth = inside.link_get("eth0")
        assert eth is not None
        assert not eth.up


def test_what_is_not_there_is_refused_in_words(node: Any, failure: Failure) -> None:
    for change, words in (
        ({"vlan": 4095}, "invalid VLAN ID"),
        ({"vlanTrunk": [{"minID": 5, "maxID": 4}]}, "minID is greater"),
        ({"vlanTrunk": [{"maxID": 4}]}, "minID is missing"),
        ({"vlanTrunk": [{"minID": 4}]}, "maxID is missing"),
        ({"vlanTrunk": [{"id": 0}]}, "trunk id"),
        ({"ipMasq": True, "ipMasqBackend": "ebtables"}, 'unknown ipmasq backend "ebtables"'),
        ({"disableContainerInterface": True}, "cannot use IPAM"),
    ):
        assert words in failure(lambda change=change: node.add(node.conf(**change), "c1", node.pod())).msg
    assert node.reservations() == {}
    assert "same time" in failure(lambda: node.add(node.conf(promiscMode=True), "c1", node.pod())).msg


def test_dual_stack(node: Any) -> None:
    pod = node.pod()
    ranges = [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]
    conf = node.conf(ipam={"subnet": None, "ranges": ranges})
    conf["prevResult"] = result = node.add(conf, "c1", pod)
    assert [ip["address"] for ip in result["ips"]] == ["10.244.1.2/24", "fd00:10:244:1::2/64"]
    assert [r["dst"] for r in result["routes"]] == ["0.0.0.0/0", "::/0"]
    assert node.call("CHECK", conf, "c1", pod.path) == {}
    with entered(pod.fd):
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with entered(node.fd):
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        server.bind(("fd00:10:244:1::1", 5353))
    with client, server:
        server.settimeout(5)
        client.sendto(b"six", ("fd00:10:244:1::1", 5353))
        data, peer = server.recvfrom(100)
        assert (data, peer[0]) == (b"six", "fd00:10:244:1::2")


@pytest.mark.parametrize("detect", [False, True])
def test_an_ipv6_address_is_waited_for_only_where_its_duplicates_are_looked_for(
    node: Any, monkeypatch: pytest.MonkeyPatch, detect: bool
) -> None:
    waited = node.dir / "waited"
    pause = interface.pause

    def noted(seconds: float) -> float:  # in a child, as all of the plugin
        waited.touch()
        return pause(seconds)

    monkeypatch.setattr(interface, "pause", noted)
    pod = node.pod()
    node.add(node.conf(enabledad=detect, ipam={"subnet": "fd00:10:244:1::/64"}), "c1", pod)
    with Rtnl(pod.fd) as inside:
        (flags,) = [a.flags for a in inside.addrs(0, socket.AF_INET6) if a.ip == "fd00:10:244:1::2"]
    assert waited.exists() == detect
    assert (bool(flags & rtmsg.IFA_F_NODAD), flags & rtmsg.IFA_F_TENTATIVE) == (not detect, 0)


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version_gets_its_own_shape(node: Any, version: str) -> None:
    pod = node.pod()
    conf = node.conf(cniVersion=version or None)
    result = node.add(conf, "c1", pod)
    assert result["cniVersion"] == (version or "0.1.0")
    if version in ("", "0.1.0", "0.2.0"):
        assert result["ip4"]["ip"] == "10.244.1.2/24"
        assert result["ip4"]["gateway"] == "10.244.1.1"
        assert result["ip4"]["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}]
        assert "interfaces" not in result
    else:
        assert ("version" in result["ips"][0]) == (version in ("0.3.0", "0.3.1", "0.4.0"))
        assert len(result["interfaces"]) == 3
    node.delete(conf, "c1", pod.path)
    assert node.reservations() == {}
