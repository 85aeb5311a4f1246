"""bridge's rarer options on the real kernel: VLANs, MAC spoofing, masquerade through nftables, ports without address."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from cni import bridge, masquerade, skel
from cni.bridge import main
from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl, entered

Failure = Callable[[Callable[[], Any]], Any]


def udp(netns_fd: int, ip: str = "", port: int = 0) -> socket.socket:
    with entered(netns_fd):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    if ip:
        sock.bind((ip, port))
    return sock


def nft(node: Any, *args: str) -> str:
    def run() -> str:
        return subprocess.run(["nft", *args], capture_output=True, text=True, check=True, env={"PATH": node.path}).stdout

    return str(node.inside(run))


def frame(pod: Any, mac: str, source_mac: str, payload: bytes) -> None:
    """Send one Ethernet frame from the pod's eth0."""
    with entered(pod.fd):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind(("eth0", 0))
        raw.send(rtmsg.pack_mac(mac) + rtmsg.pack_mac(source_mac) + b"\x08\x00" + payload)


def ip_udp(src: str, dst: str, port: int, data: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram without checksum."""
    datagram = port.to_bytes(2, "big") * 2 + (8 + len(data)).to_bytes(2, "big") + b"\0\0" + data
    head = bytearray(b"\x45\0" + (20 + len(datagram)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0")
    head += socket.inet_aton(src) + socket.inet_aton(dst)
    total = sum(int.from_bytes(head[i : i + 2], "big") for i in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(head) + datagram


def test_macspoofchk_drops_frames_from_another_mac(node: Any, failure: Failure) -> None:
    pod = node.pod()
    conf = node.conf(macspoofchk=True)
    conf["prevResult"] = result = node.add(conf, "c1", pod, how="exec")
    bridge_mac, mac = (result["interfaces"][i]["mac"] for i in (0, 2))
    with udp(node.fd, "10.244.1.1", 7000) as server:
        frame(pod, bridge_mac, "02:00:00:00:00:99", ip_udp("10.244.1.2", "10.244.1.1", 7000, b"spoofed"))
        frame(pod, bridge_mac, mac, ip_udp("10.244.1.2", "10.244.1.1", 7000, b"own"))
        assert server.recv(100) == b"own"
    assert node.call("CHECK", conf, "c1", pod.path) == {}
    text = nft(node, "list", "table", "bridge", "nat")
    for wanted in (
        f'iifname "{result["interfaces"][1]["name"]}" jump cni-br-iface-c1-eth0 comment "macspoofchk-c1-eth0"',
        'jump cni-br-iface-c1-eth0-mac comment "macspoofchk-c1-eth0"',
        f'ether saddr {mac} return comment "macspoofchk-c1-eth0"',
        "type filter hook prerouting priority",
    ):
        assert wanted in text
    nft(node, "flush", "chain", "bridge", "nat", "cni-br-iface-c1-eth0-mac")
    assert "spoof-check rules" in failure(lambda: node.call("CHECK", conf, "c1", pod.path)).msg
    for netns in (pod.path, ""):
        node.delete(conf, "c1", netns)
        assert "c1" not in nft(node, "list", "table", "bridge", "nat")


def test_masquerade_through_nftables(node: Any, failure: Failure) -> None:
    outside = node.pod()
    with Rtnl(node.fd) as rt, Rtnl(outside.fd) as far:
        up = rt.link_add_veth("uplink", "eth0", peer_netns_fd=outside.fd, up=True)
        rt.addr_add(up.index, "203.0.113.1/24")
        eth = far.link_get("eth0")
        assert eth is not None
        far.link_set(eth.index, up=True)
        far.addr_add(eth.index, "203.0.113.10/24")
    conf = node.conf(ipMasq=True, ipMasqBackend="nftables", cniVersion="1.1.0")
    pods = [node.pod() for _ in range(3)]
    results = [node.add(conf, f"c{i}", pod) for i, pod in enumerate(pods)]
    with udp(pods[0].fd) as client, udp(outside.fd, "203.0.113.10", 9) as server, udp(pods[1].fd, "10.244.1.3", 9) as near:
        client.sendto(b"out", ("203.0.113.10", 9))
        assert server.recvfrom(100)[1][0] == "203.0.113.1"
        client.sendto(b"in", ("10.244.1.3", 9))
        assert near.recvfrom(100)[1][0] == "10.244.1.2"
    assert node.nat_rules() == []
    listed = nft(node, "list", "table", "inet", "cni_plugins_masquerade")
    note = f'{masquerade.instance("net1", "eth0", "c0")}, net: net1, if: eth0, id: c0'
    assert f'ip saddr 10.244.1.2 ip daddr != 10.244.1.0/24 masquerade comment "{note}"' in listed
    assert node.call("CHECK", {**conf, "prevResult": results[0]}, "c0", pods[0].path) == {}
    node.delete(conf, "c0", "")  # the namespace is not needed
    node.delete(conf, "c0", "")
    assert "id: c0" not in nft(node, "list", "table", "inet", "cni_plugins_masquerade")
    # A configuration that names the other backend, or none, removes the rules as well.
    node.delete({k: v for k, v in conf.items() if k != "ipMasqBackend"}, "c1", pods[1].path)
    assert "id: c1" not in nft(node, "list", "table", "inet", "cni_plugins_masquerade")
    missing = failure(lambda: node.call("CHECK", {**conf, "prevResult": results[1]}, "c1", pods[1].path))
    assert missing.msg
    conf["cni.dev/valid-attachments"] = []
    assert node.call("GC", conf, "", "", "") == {}
    assert "id:" not in nft(node, "list", "table", "inet", "cni_plugins_masquerade")


def test_check_notices_masquerade_port_flags_and_gateway(node: Any, failure: Failure) -> None:
    pod = node.pod()
    conf = node.conf(ipMasq=True)
    conf["prevResult"] = result = node.add(conf, "c1", pod)

    def problem() -> str:
        return str(failure(lambda: node.call("CHECK", conf, "c1", pod.path)).msg)

    assert node.call("CHECK", conf, "c1", pod.path) == {}
    with Rtnl(node.fd) as rt:
        port, bridge = rt.link_get(result["interfaces"][1]["name"]), rt.link_get("cni0")
        assert port is not None
        assert bridge is not None
        rt.port_set(port.index, hairpin=False)
        assert "hairpin" in problem()
        rt.port_set(port.index, hairpin=True)
        rt.addr_del(bridge.index, "10.244.1.1/24")
        assert "10.244.1.1/24" in problem()
        rt.addr_add(bridge.index, "10.244.1.1/24")
    assert node.call("CHECK", conf, "c1", pod.path) == {}
    node.inside(
        lambda: subprocess.run(
            ["iptables", "-t", "nat", "-F", "POSTROUTING"], check=True,
            env={"PATH": node.path, "XTABLES_LOCKFILE": str(node.dir / "xtables.lock")},
        ).returncode
    )
    assert "masquerade rules" in problem()


def test_a_port_without_address_and_one_that_stays_down(node: Any) -> None:
    for name, extra, up in (("c1", {}, True), ("c2", {"disableContainerInterface": True}, False)):
        pod = node.pod()
        conf = node.conf(isDefaultGateway=None, **extra)
        del conf["ipam"]
        conf["prevResult"] = result = node.add(conf, name, pod)
        assert "ips" not in result
        with Rtnl(pod.fd) as inside:
            eth = inside.link_get("eth0")
            assert eth is not None
            assert eth.up is up
        assert node.call("CHECK", conf, name, pod.path) == {}
        node.delete(conf, name, pod.path)


def _has_vlan_filtering(node: Any) -> bool:
    with Rtnl(node.fd) as rt:
        try:
            rt.link_delete(rt.link_add_bridge("probe0", vlan_filtering=1).index)
        except OSError:
            return False
    return True


def test_vlans_are_refused_in_words_where_the_kernel_has_none(node: Any, failure: Failure) -> None:
    if _has_vlan_filtering(node):
        pytest.skip("this kernel's bridge has VLAN filtering")
    for change in ({"vlan": 100}, {"vlanTrunk": [{"id": 7}]}):
        pod = node.pod()
        assert "CONFIG_BRIDGE_VLAN_FILTERING" in failure(lambda c=change, p=pod: node.add(node.conf(**c), "c1", p)).msg
        assert pod.links() == []
    with Rtnl(node.fd) as rt:
        assert rt.link_get("cni0") is None
        rt.link_add_bridge("cni0")
    assert "without VLAN filtering" in failure(lambda: node.add(node.conf(vlan=100), "c1", node.pod())).msg


def test_vlans_keep_pods_apart(node: Any, failure: Failure) -> None:
    if not _has_vlan_filtering(node):
        pytest.skip("this kernel's bridge has no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)")
    pods = {}
    for number, vlan in enumerate((100, 100, 200)):
        pods[number] = node.pod()
        ipam = {"subnet": f"10.{vlan}.0.0/24"}
        conf = node.conf(vlan=vlan, name=f"net{vlan}", ipam=ipam)
        conf["prevResult"] = result = node.add(conf, f"c{number}", pods[number])
        assert [i["name"] for i in result["interfaces"]][0::3] == ["cni0", f"cni0.{vlan}"]
        assert node.call("CHECK", conf, f"c{number}", pods[number].path) == {}
        with Rtnl(node.fd) as rt:
            port = rt.link_get(result["interfaces"][1]["name"])
            assert port is not None
            assert rt.vlans()[port.index] == {vlan: (True, True)}
    with udp(pods[0].fd) as client, udp(pods[1].fd, "10.100.0.3", 7) as near, udp(node.fd, "10.100.0.1", 7) as gateway:
        client.sendto(b"x", ("10.100.0.3", 7))
        assert near.recvfrom(10)[1][0] == "10.100.0.2"
        client.sendto(b"y", ("10.100.0.1", 7))
        assert gateway.recvfrom(10)[1][0] == "10.100.0.2"
    trunk = node.pod()
    conf = node.conf(vlanTrunk=[{"minID": 100, "maxID": 102}, {"id": 200}], name="trunk", ipam={"subnet": "10.9.0.0/24"})
    conf["isDefaultGateway"] = False
    result = node.add(conf, "t", trunk)
    with Rtnl(node.fd) as rt:
        port = rt.link_get(result["interfaces"][1]["name"])
        assert port is not None
        assert set(rt.vlans()[port.index]) == {1, 100, 101, 102, 200}


def test_nftables_rules_of_many_at_once(node: Any) -> None:
    """16 ADDs, then 16 DELs at once, masquerade and spoof check through nft: each has its rules once, and then none."""
    conf = node.conf(ipMasq=True, ipMasqBackend="nftables", macspoofchk=True)
    pods = [node.pod() for _ in range(16)]

    def at_once(command: str) -> list[int]:
        def begin(i: int) -> Any:
            env = node.env(command, f"c{i}", pods[i].path)
            return node.begin(lambda: main(env, json.dumps(conf).encode())[0])

        return [p.finish() for p in [begin(i) for i in range(16)]]

    assert at_once("ADD") == [0] * 16
    masquerades = nft(node, "list", "chain", "inet", "cni_plugins_masquerade", "masq_checks").count(" masquerade comment")
    jumps = nft(node, "list", "chain", "bridge", "nat", "PREROUTING").count(" jump ")
    postrouting = nft(node, "list", "chain", "inet", "cni_plugins_masquerade", "postrouting").count("goto")
    assert (masquerades, jumps, postrouting) == (16, 16, 1)
    assert at_once("DEL") == [0] * 16
    left = nft(node, "list", "ruleset")
    assert "eth0" not in left
    assert node.reservations() == {}


class FakeBridge:
    """VLANs of a bridge's ports as the kernel keeps them."""

    def __init__(self) -> None:
        self.table: dict[int, dict[int, tuple[bool, bool]]] = {7: {1: (True, True)}}

    def vlans(self) -> dict[int, dict[int, tuple[bool, bool]]]:
        return {index: dict(found) for index, found in self.table.items()}

    def execute(self, *requests: rtmsg.Request) -> None:
        for kind, _, body in requests:
            index, found = rtmsg.parse_vlans(body)
            for vlan, flags in found.items():
                if kind == rtmsg.RTM_DELLINK:
                    del self.table[index][vlan]
                else:
                    self.table[index][vlan] = flags


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({"vlan": 100}, {100: (True, True)}),
        ({"vlan": 100, "preserveDefaultVlan": True}, {1: (True, True), 100: (True, True)}),
        ({"vlanTrunk": [{"minID": 5, "maxID": 6}]}, {1: (True, True), 5: (False, False), 6: (False, False)}),
        ({"vlan": 9, "vlanTrunk": [{"id": 5}]}, {9: (True, True), 5: (False, False)}),
        ({"vlanTrunk": []}, {1: (True, True)}),
    ],
)
def test_which_vlans_a_port_is_in(conf: dict[str, Any], expected: dict[int, tuple[bool, bool]]) -> None:
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "x", "CNI_PATH": "x"}
    c = bridge.BridgeConf(skel.Args(env, b"", {"name": "n", **conf}, "1.0.0"))
    fake = FakeBridge()
    bridge._join_vlans(fake, rtmsg.Link(7, 0), c, c.trunk)  # type: ignore[arg-type]
    assert fake.table[7] == expected
    assert c.filtering
