"""ptp, static, bandwidth, tuning and firewall on the real kernel: what they make, what CHECK notices, what DEL leaves."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from nsk8s.kernel import rtmsg, tcmsg
from nsk8s.kernel.rtnl import Rtnl, entered

Failure = Callable[[Callable[[], Any]], Any]


def udp(netns_fd: int, ip: str = "", port: int = 0, family: int = socket.AF_INET) -> socket.socket:
    with entered(netns_fd):
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(5)
    if ip:
        sock.bind((ip, port))
    return sock


def run(node: Any, *argv: str) -> str:
    env = {"PATH": node.path, "XTABLES_LOCKFILE": str(node.dir / "xtables.lock")}
    return str(node.inside(lambda: subprocess.run(argv, capture_output=True, text=True, check=True, env=env).stdout))


def link(fd: int, name: str) -> rtmsg.Link:
    with Rtnl(fd) as rt:
        found = rt.link_get(name)
    assert found is not None
    return found


def chained(node: Any, kind: str, result: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    base = {"cniVersion": "1.0.0", "name": "net1", "type": kind, "dataDir": str(node.dir / kind), "prevResult": result}
    return {k: v for k, v in {**base, **changes}.items() if v is not None}


# ── ptp ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ptp_conf(node: Any, **changes: Any) -> dict[str, Any]:
    conf = node.conf(**changes)
    for key in ("bridge", "isDefaultGateway", "hairpinMode"):
        conf.pop(key, None)
    return {**conf, "type": "ptp"}


def test_ptp_routes_both_ways_and_between_pods(node: Any, failure: Failure) -> None:
    conf = ptp_conf(node, mtu=1400, ipMasq=True, ipam={"routes": [{"dst": "0.0.0.0/0"}]})
    one, two = node.pod(), node.pod()
    result = node.add(conf, "c1", one, how="exec")
    node.add(conf, "c2", two)
    assert [i["name"] for i in result["interfaces"]][1] == "eth0"
    assert result["ips"] == [{"interface": 1, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}]
    with Rtnl(one.fd) as rt:
        assert {(r.dst, r.gateway, r.src) for r in rt.routes(2)} == {
            ("default", "10.244.1.1", ""), ("10.244.1.0/24", "10.244.1.1", "10.244.1.2"), ("10.244.1.1/32", "", "10.244.1.2"),
        }  # fmt: skip
    with Rtnl(node.fd) as rt:
        port = rt.link_get(result["interfaces"][0]["name"])
        assert port is not None
        assert port.mtu == 1400
        assert [a.cidr for a in rt.addrs(port.index, 2)] == ["10.244.1.1/32"]
        assert "10.244.1.2/32" in {r.dst for r in rt.routes(2)}
    with udp(one.fd) as client, udp(two.fd, "10.244.1.3", 7) as near, udp(node.fd, "10.244.1.1", 7) as gateway:
        client.sendto(b"x", ("10.244.1.3", 7))
        assert near.recvfrom(10)[1][0] == "10.244.1.2"
        client.sendto(b"y", ("10.244.1.1", 7))
        assert gateway.recvfrom(10)[1][0] == "10.244.1.2"
    checked = {**conf, "prevResult": result}
    assert node.call("CHECK", checked, "c1", one.path) == {}
    with Rtnl(one.fd) as inside:
        inside.route_del("default", gateway="10.244.1.1")
    assert "Expected Route" in failure(lambda: node.call("CHECK", checked, "c1", one.path)).msg
    node.delete(conf, "c1", one.path)
    node.delete(conf, "c2", "")
    node.delete(conf, "c1", one.path)
    assert node.reservations() == {}
    assert node.nat_rules() == []


def test_ptp_dual_stack(node: Any) -> None:
    ranges = [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]
    conf = ptp_conf(node, ipam={"subnet": None, "ranges": ranges, "routes": [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}]})
    pod = node.pod()
    result = node.add(conf, "c1", pod)
    assert node.call("CHECK", {**conf, "prevResult": result}, "c1", pod.path) == {}
    assert "tentative" not in run(node, "ip", "-6", "address", "show", "scope", "global"), "the gateway answers at once"
    with udp(pod.fd, family=socket.AF_INET6) as client, udp(node.fd, "::", 7, socket.AF_INET6) as server:
        client.sendto(b"six", ("fd00:10:244:1::1", 7))
        assert server.recvfrom(10)[1][0] == "fd00:10:244:1::2"


def test_ptp_failures_leave_nothing(node: Any, failure: Failure) -> None:
    pod = node.pod()
    assert "no ipam.type" in failure(lambda: node.add({**ptp_conf(node), "ipam": {}}, "c1", pod)).msg
    bad = ptp_conf(node, ipam={"routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]})
    assert "failed to configure" in failure(lambda: node.add(bad, "c1", pod)).msg
    assert (pod.links(), node.ports(), node.reservations()) == ([], [], {})


# ── static ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bridge_with_static_addresses(node: Any, failure: Failure) -> None:
    conf = node.conf()
    conf["ipam"] = {
        "type": "static", "routes": [{"dst": "192.0.2.0/24"}], "dns": {"nameservers": ["10.1.1.1"]},
        "addresses": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}],
    }  # fmt: skip
    pod = node.pod()
    result = node.add(conf, "c1", pod)
    assert result["ips"] == [{"interface": 2, "address": "10.7.0.9/24", "gateway": "10.7.0.1"}]
    assert result["dns"] == {"nameservers": ["10.1.1.1"]}
    assert node.call("CHECK", {**conf, "prevResult": result}, "c1", pod.path) == {}
    moved = json.loads(json.dumps(conf).replace("10.7.0.1", "10.7.0.3"))
    assert "static: Failed to match" in failure(
        lambda: node.call("CHECK", {**moved, "prevResult": result}, "c1", pod.path)
    ).msg
    node.delete(conf, "c1", pod.path)


# ── bandwidth ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LIMITS = {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 4_000_000, "egressBurst": 80_000}


def test_bandwidth_shapes_both_ways_and_cleans_up(node: Any, failure: Failure) -> None:
    pod = node.pod()
    first = node.add(node.conf(), "c1", pod)
    conf = chained(node, "bandwidth", first, **LIMITS)
    result = node.call("ADD", conf, "c1", pod.path, how="exec")
    ifb = result["interfaces"][-1]["name"]
    assert ifb.startswith("bwp")
    assert len(ifb) == 15
    assert result["interfaces"][:-1] == first["interfaces"]
    assert (result["ips"], link(node.fd, ifb).mac) == (first["ips"], result["interfaces"][-1]["mac"])
    checked = {**conf, "prevResult": result}
    assert node.call("CHECK", checked, "c1", pod.path) == {}
    assert "Rate doesn't match" in failure(
        lambda: node.call("CHECK", {**checked, "egressRate": 4_000_008}, "c1", pod.path)
    ).msg
    for sender, receiver, address, rate in (
        (node.fd, pod.fd, "10.244.1.2", LIMITS["ingressRate"]), (pod.fd, node.fd, "10.244.1.1", LIMITS["egressRate"]),
    ):  # fmt: skip
        measured = [0.0]
        while measured[-1] <= 0.5 * rate and len(measured) < 10:  # whoever is held up sends less, and never more
            measured.append(throughput(sender, receiver, address, rate // 8 // 4))
            assert measured[-1] < 1.5 * rate
        assert measured[-1] > 0.5 * rate, measured
    node.delete({k: v for k, v in conf.items() if k != "prevResult"}, "c1", "")
    node.delete(conf, "c1", pod.path)
    with Rtnl(node.fd) as rt:
        assert rt.link_get(ifb) is None


def throughput(sender: int, receiver: int, address: str, size: int) -> float:
    """Bits per second of one TCP stream of `size` bytes, its bursts included."""
    with entered(receiver):
        server = socket.create_server((address, 0))
    with entered(sender):
        client = socket.socket()
    with server, client:
        client.connect(server.getsockname())
        peer, _ = server.accept()
        peer.settimeout(20)
        started = time.monotonic()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)
        client.setblocking(False)
        rest, got = memoryview(bytes(size)), 0
        while got < size:
            if rest:
                with contextlib.suppress(BlockingIOError):
                    rest = rest[client.send(rest) :]
            got += len(peer.recv(65536))
        peer.close()
        return size * 8 / (time.monotonic() - started)


def test_bandwidth_from_the_runtime_with_go_cased_keys_and_gc(node: Any) -> None:
    pod = node.pod()
    first = node.add(node.conf(), "c1", pod)
    limits = {"IngressRate": 10_000_000, "IngressBurst": 4294967295, "EgressRate": 10_000_000, "EgressBurst": 4294967295}
    conf = chained(node, "bandwidth", {**first, "cniVersion": "1.1.0"}, runtimeConfig={"bandwidth": limits}, cniVersion="1.1.0")
    result = node.call("ADD", conf, "c1", pod.path)
    assert node.call("CHECK", {**conf, "prevResult": result}, "c1", pod.path) == {}
    ifb = result["interfaces"][-1]["name"]
    for valid, stays in (([{"containerID": "c1", "ifname": "eth0"}], True), ([], False)):
        assert node.call("GC", {**conf, "cni.dev/valid-attachments": valid}, "", "", "") == {}
        with Rtnl(node.fd) as rt:
            assert (rt.link_get(ifb) is not None) is stays


def test_bandwidth_refusals(node: Any, failure: Failure) -> None:
    pod = node.pod()
    first = node.add(node.conf(), "c1", pod)
    for changes, words in (
        ({"ingressRate": 1000}, "burst must also be set"),
        ({"egressBurst": 1000}, "rate must also be set"),
        ({"ingressRate": 8, "ingressBurst": 1 << 40}, "4GB"),
        ({"ingressRate": 7, "ingressBurst": 800}, "less than one byte"),
        ({"ingressRate": -1, "ingressBurst": 800}, "invalid number"),
        ({**LIMITS, "prevResult": {**first, "interfaces": []}}, "no interfaces"),
    ):
        assert words in failure(lambda c=changes: node.call("ADD", chained(node, "bandwidth", first, **c), "c1", pod.path)).msg
    conf = chained(node, "bandwidth", None, **LIMITS)
    assert "chained" in failure(lambda: node.call("ADD", conf, "c1", pod.path)).msg
    assert node.call("ADD", chained(node, "bandwidth", first), "c1", pod.path) == first
    with Rtnl(node.fd) as rt:
        assert {tcmsg.parse_qdisc(b)[1] for b in rt.dump(tcmsg.qdisc_dump())} <= {"noqueue", "pfifo_fast", "fq_codel", "fq"}


# ── tuning ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tuning_sets_checks_and_restores(node: Any, failure: Failure) -> None:
    pod = node.pod()
    first = node.add(node.conf(), "c1", pod)
    before = link(pod.fd, "eth0")
    conf = chained(
        node, "tuning", first, mac="02:00:00:00:00:77", mtu=1300, promisc=True, allmulti=True, txQLen=555,
        sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1", "net/core/somaxconn": "500"},
    )  # fmt: skip
    result = node.call("ADD", conf, "c1", pod.path, how="exec")
    assert [i["mac"] for i in result["interfaces"]][2] == "02:00:00:00:00:77"
    now = link(pod.fd, "eth0")
    assert (now.mac, now.mtu, now.promiscuity, now.txqlen) == ("02:00:00:00:00:77", 1300, 1, 555)
    assert now.flags & rtmsg.IFF_ALLMULTI
    with entered(pod.fd):
        for path, value in (("ipv4/conf/eth0/arp_filter", "1\n"), ("core/somaxconn", "500\n")):
            with open(f"/proc/sys/net/{path}") as f:
                assert f.read() == value
    saved = (node.dir / "tuning" / "c1_eth0.json").read_text()
    assert json.loads(saved) == {
        "mac": before.mac, "promisc": False, "mtu": 1500, "allmulti": False, "txQLen": before.txqlen
    }  # fmt: skip
    assert saved.startswith('{\n "mac": "')
    checked = {**conf, "prevResult": result}
    assert node.call("CHECK", checked, "c1", pod.path) == {}
    with Rtnl(pod.fd) as inside:
        inside.link_set(now.index, mtu=1299)
    assert "configured mtu" in failure(lambda: node.call("CHECK", checked, "c1", pod.path)).msg
    for _ in range(2):
        node.delete(conf, "c1", pod.path)
        after = link(pod.fd, "eth0")
        assert (after.mac, after.mtu, after.promiscuity, after.txqlen) == (before.mac, 1500, 0, before.txqlen)
        assert after.flags == before.flags
        assert os.listdir(node.dir / "tuning") == []
    node.call("ADD", conf, "c1", pod.path)
    node.delete(conf, "c1", "")  # without a namespace the file goes all the same
    assert os.listdir(node.dir / "tuning") == []


def test_tuning_refusals(node: Any, failure: Failure) -> None:
    pod = node.pod()
    first = node.add(node.conf(), "c1", pod)

    def refusal(**changes: Any) -> str:
        return str(failure(lambda: node.call("ADD", chained(node, "tuning", first, **changes), "c1", pod.path)).msg)

    for key in ("kernel.core_pattern", "kernel/net/core", "fs.file-max"):
        assert "invalid net sysctl key" in refusal(sysctl={key: "x"})
    assert "No such file" in refusal(sysctl={"net.ipv4.nonsense": "1"})
    assert "MAC addr" in refusal(mac="nonsense")
    assert "prevResult" in failure(lambda: node.call("ADD", chained(node, "tuning", None), "c1", pod.path)).msg
    text = json.dumps(chained(node, "tuning", first, sysctl={"net.core.somaxconn": "5"}))
    doubled = text.replace('"net.core.somaxconn": "5"', '"net.core.somaxconn": "5", "net.core.somaxconn": "6"')
    code, out = node.raw(doubled.encode(), node.env("ADD", "c1", pod.path), plugin="tuning")
    assert (code, json.loads(out)["msg"]) == (1, "duplicated sysctl keys are not allowed")
    code, out = node.raw(text.encode(), node.env("ADD", "c1", pod.path), plugin="tuning")
    assert code == 0


def test_tuning_args_win(node: Any) -> None:
    pod = node.pod()
    first = node.add(node.conf(), "c1", pod)
    conf = chained(
        node, "tuning", first, mac="02:00:00:00:00:01", mtu=1300, runtimeConfig={"mac": "02:00:00:00:00:02"},
        args={"cni": {"mtu": 1310}},
    )  # fmt: skip
    node.call("ADD", conf, "c1", pod.path, CNI_ARGS="IgnoreUnknown=1;MAC=02:00:00:00:00:03")
    assert (link(pod.fd, "eth0").mac, link(pod.fd, "eth0").mtu) == ("02:00:00:00:00:02", 1310)


# ── firewall ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def filter_rules(node: Any, tool: str = "iptables") -> list[str]:
    return [line for line in run(node, tool, "-S").splitlines() if not line.startswith("-P")]


SHARED = [
    "-N CNI-ADMIN", "-N CNI-FORWARD",
    '-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD',
    '-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN',
]  # fmt: skip


def test_firewall_lets_the_container_through_a_closed_forward_chain(node: Any, failure: Failure) -> None:
    outside, pod = node.pod(), node.pod()
    with Rtnl(node.fd) as rt, Rtnl(outside.fd) as far:
        up = rt.link_add_veth("uplink", "eth0", peer_netns_fd=outside.fd, up=True)
        rt.addr_add(up.index, "203.0.113.1/24")
        eth = far.link_get("eth0")
        assert eth is not None
        far.link_set(eth.index, up=True)
        far.addr_add(eth.index, "203.0.113.10/24")
        far.route_add("10.244.0.0/16", gateway="203.0.113.1")
    first = node.add(node.conf(), "c1", pod)
    run(node, "iptables", "-P", "FORWARD", "DROP")
    conf = chained(node, "firewall", first)
    assert node.call("ADD", conf, "c1", pod.path, how="exec") == first
    rules = filter_rules(node)
    assert rules == [
        *SHARED, "-A CNI-FORWARD -d 10.244.1.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A CNI-FORWARD -s 10.244.1.2/32 -j ACCEPT",
    ]  # fmt: skip
    with udp(pod.fd, "10.244.1.2", 5) as client, udp(outside.fd, "203.0.113.10", 9) as server:
        server.sendto(b"unasked", ("10.244.1.2", 5))
        client.sendto(b"out", ("203.0.113.10", 9))
        assert server.recvfrom(10) == (b"out", ("10.244.1.2", 5))
        server.sendto(b"back", ("10.244.1.2", 5))
        assert client.recv(10) == b"back"  # and what came unasked did not arrive
    node.call("ADD", conf, "c1", pod.path)
    assert filter_rules(node) == rules
    assert node.call("CHECK", conf, "c1", pod.path) == {}
    run(node, "iptables", "-F", "CNI-FORWARD")
    assert "not found" in failure(lambda: node.call("CHECK", conf, "c1", pod.path)).msg
    node.call("ADD", conf, "c1", pod.path)
    node.delete({k: v for k, v in conf.items() if k != "prevResult"}, "c1", "")  # an ADD that was killed has no result
    assert filter_rules(node) == SHARED
    node.delete(conf, "c1", pod.path)
    assert os.listdir(node.dir / "firewall") == []


def test_firewall_gc_and_another_admin_chain(node: Any) -> None:
    results = {f"c{i}": node.add(node.conf(), f"c{i}", node.pod()) for i in range(3)}
    conf: dict[str, Any] = {}
    for name, result in results.items():
        conf = chained(node, "firewall", {**result, "cniVersion": "1.1.0"}, cniVersion="1.1.0", iptablesAdminChainName="MINE")
        node.call("ADD", conf, name, result["interfaces"][2]["sandbox"])
    assert "-N MINE" in filter_rules(node)
    gc = {**conf, "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    assert node.call("GC", gc, "", "", "") == {}
    assert {w for r in filter_rules(node) for w in r.split() if w.endswith("/32")} == {"10.244.1.3/32"}


@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_firewall_ingress_policy(node: Any, policy: str) -> None:
    confs = {
        "a": node.conf(bridge="cni0", name="neta"),
        "b": node.conf(bridge="cni0", name="neta"),
        "x": node.conf(bridge="cni1", name="netb", ipam={"subnet": "10.245.1.0/24"}),
    }
    pods = {name: node.pod() for name in confs}
    for name, conf in confs.items():
        result = node.add(conf, name, pods[name])
        fire = chained(node, "firewall", result, name=conf["name"], ingressPolicy=policy)
        assert node.call("ADD", fire, name, pods[name].path) == result
        assert node.call("ADD", fire, name, pods[name].path) == result
        assert node.call("CHECK", fire, name, pods[name].path) == {}
    rules = filter_rules(node)
    assert len(rules) == len(set(rules))
    forward = [r.rsplit(" ", 1)[1] for r in rules if r.startswith("-A FORWARD")]
    assert "CNI-ISOLATION-STAGE-1" in rules[next(i for i, r in enumerate(rules) if r.startswith("-A FORWARD"))]
    assert forward[1] == "CNI-FORWARD"
    with entered(node.fd), open("/proc/sys/net/bridge/bridge-nf-call-iptables", "w") as f:
        f.write("1")
    with udp(pods["a"].fd) as client, udp(pods["b"].fd, "10.244.1.3", 7) as near, udp(pods["x"].fd, "10.245.1.2", 7) as far:
        near.settimeout(0.3 if policy == "isolated" else 5)
        far.settimeout(0.3)
        client.sendto(b"near", ("10.244.1.3", 7))
        client.sendto(b"far", ("10.245.1.2", 7))
        if policy == "isolated":
            with pytest.raises(TimeoutError):
                near.recv(10)
        else:
            assert near.recv(10) == b"near"
        with pytest.raises(TimeoutError):
            far.recv(10)


def test_firewall_refusals(node: Any, failure: Failure) -> None:
    pod = node.pod()
    first = node.add(node.conf(), "c1", pod)
    for changes, words in (
        ({"backend": "firewalld"}, "backend firewalld: the system bus cannot be reached: No such file or directory: is firewalld running?"),
        ({"ingressPolicy": "shut"}, 'unknown ingress policy: "shut"'),
        ({"ingressPolicy": "isolated", "prevResult": {**first, "interfaces": []}}, "interface needs to be set"),
        ({"prevResult": None}, "missing prevResult"),
    ):
        assert words in failure(lambda c=changes: node.call("ADD", chained(node, "firewall", first, **c), "c1", pod.path)).msg
    old = failure(lambda: node.call("ADD", chained(node, "firewall", first, cniVersion="0.3.1"), "c1", pod.path))
    assert old.code == 1
    assert filter_rules(node) == []
