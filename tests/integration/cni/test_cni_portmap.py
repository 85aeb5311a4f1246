"""portmap on the real kernel: who reaches a hostPort, and as whom; exact clean-up; both backends, both iptables variants."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw_sctp

from nsk8s.kernel.rtnl import Rtnl, entered

Failure = Callable[[Callable[[], Any]], Any]
SHARED = {"CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"}


def run(node: Any, *argv: str) -> str:
    env = {"PATH": node.path, "XTABLES_LOCKFILE": str(node.dir / "xtables.lock")}
    return str(node.inside(lambda: subprocess.run(argv, capture_output=True, text=True, check=True, env=env).stdout))


def use_variant(node: Any, variant: str) -> None:
    tools = node.dir / "tools"
    tools.mkdir()
    for tool in ("iptables", "iptables-restore", "ip6tables", "ip6tables-restore"):
        real = shutil.which(tool.replace("tables", f"tables-{variant}"))
        if real is None:
            pytest.skip(f"iptables-{variant} is not installed")
        (tools / tool).symlink_to(real)
    node.path = f"{tools}:{node.path}"


class Net:
    """A node with an outside client at 203.0.113.10, and a pod at 10.244.1.2."""

    def __init__(self, node: Any, ranges: list[Any] | None = None) -> None:
        self.node = node
        self.outside = node.pod()
        with Rtnl(node.fd) as rt, Rtnl(self.outside.fd) as far:
            up = rt.link_add_veth("uplink", "eth0", peer_netns_fd=self.outside.fd, up=True)
            eth = far.link_get("eth0")
            assert eth is not None
            far.link_set(eth.index, up=True)
            for address in ("203.0.113.1/24", "fd99::1/64"):
                rt.addr_add(up.index, address, nodad=True)
            for address in ("203.0.113.10/24", "fd99::10/64"):
                far.addr_add(eth.index, address, nodad=True)
            far.route_add("10.244.0.0/16", gateway="203.0.113.1")
        self.pod = node.pod()
        self.bridge = node.conf(ipam={"subnet": None, "ranges": ranges} if ranges else {})
        self.result = node.add(self.bridge, "c1", self.pod)

    def portmap(self, *mappings: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return {
            "cniVersion": "1.0.0", "name": "net1", "type": "portmap", "capabilities": {"portMappings": True},
            "runtimeConfig": {"portMappings": list(mappings)}, "prevResult": self.result, **changes,
        }  # fmt: skip


@pytest.fixture
def net(node: Any) -> Net:
    return Net(node)


WEB = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}


def listen(fd: int, ip: str, port: int) -> socket.socket:
    with entered(fd):
        server = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((ip, port))
    server.listen(5)
    server.settimeout(5)
    return server


def source_seen(fd: int, server: socket.socket, ip: str, port: int) -> str:
    """The address that the server sees of a client in namespace `fd` that connects to ip:port."""
    with entered(fd):
        client = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(5)
    with client:
        client.connect((ip, port))
        connection, peer = server.accept()
        with connection:
            connection.sendall(b"hello")
            assert client.recv(5) == b"hello"
        return str(peer[0])


def refused(fd: int, ip: str, port: int) -> bool:
    with entered(fd), socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex((ip, port)) != 0


@pytest.mark.parametrize("backend", ["nft", "legacy", "nftables"])
def test_who_reaches_a_host_port_and_as_whom(node: Any, net: Net, backend: str) -> None:
    if backend != "nftables":
        use_variant(node, backend)
    changes = {"backend": "nftables"} if backend == "nftables" else {}
    conf = net.portmap(WEB, **changes)
    assert node.call("ADD", conf, "c1", net.pod.path, how="exec") == net.result
    with listen(net.pod.fd, "10.244.1.2", 80) as server:
        assert source_seen(net.outside.fd, server, "203.0.113.1", 8080) == "203.0.113.10"  # outside clients keep theirs
        assert source_seen(node.fd, server, "203.0.113.1", 8080) in ("203.0.113.1", "10.244.1.1")  # the node, by its address
        assert source_seen(node.fd, server, "127.0.0.1", 8080) == "10.244.1.1"  # and by loopback
        assert source_seen(net.pod.fd, server, "203.0.113.1", 8080) == "10.244.1.1"  # the container itself: hairpin
        assert refused(net.outside.fd, "203.0.113.1", 8081)
        assert node.call("CHECK", conf, "c1", net.pod.path) == {}
        node.delete({k: v for k, v in conf.items() if k != "prevResult"}, "c1", "")  # needs neither
        assert refused(net.outside.fd, "203.0.113.1", 8080)
    if backend == "nftables":
        assert "dnat" not in run(node, "nft", "list", "table", "ip", "cni_hostport")
    else:
        left = node.nat_rules()
        assert {line.split()[1] for line in left if line.startswith("-N")} == SHARED
        assert not any("CNI-DN-" in line for line in left)
    node.delete(conf, "c1", net.pod.path)


def test_host_ip_udp_sctp_many_ports_and_other_keys(node: Any, net: Net, failure: Failure) -> None:
    conf = net.portmap(
        {**WEB, "hostIP": "203.0.113.1"}, {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "0.0.0.0"},
        {"hostPort": 99, "containerPort": 99, "protocol": "sctp", "hostIP": "fd99::1"},
        *({"HostPort": 9000 + i, "ContainerPort": 9000 + i, "Protocol": "tcp"} for i in range(20)),
        conditionsV4=["-s", "203.0.113.0/24"],
    )  # fmt: skip
    assert node.call("ADD", conf, "c1", net.pod.path) == net.result
    rules = node.nat_rules()
    entries = [r for r in rules if r.startswith("-A CNI-HOSTPORT-DNAT")]
    assert len(entries) == 4  # 21 tcp ports take two; sctp; udp
    assert all('--comment "dnat name: \\"net1\\" id: \\"c1\\""' in r and "-s 203.0.113.0/24" in r for r in entries)
    chain = entries[0].rsplit(" ", 1)[1]
    own = [r for r in rules if r.startswith(f"-A {chain} ")]
    assert not any("sctp" in r for r in own)
    assert f"-A {chain} -d 203.0.113.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.1.2:80" in own
    assert f"-A {chain} -s 10.244.1.0/24 -d 203.0.113.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK" in own
    assert f"-A {chain} -p udp -m udp --dport 53 -j DNAT --to-destination 10.244.1.2:5353" in own
    assert node.call("CHECK", conf, "c1", net.pod.path) == {}
    # Again, as after a killed ADD: replaced, not doubled.
    assert node.call("ADD", conf, "c1", net.pod.path) == net.result
    assert sorted(node.nat_rules()) == sorted(rules)
    run(node, "iptables", "-t", "nat", "-D", chain, "1")
    assert "could not check ipv4 dnat" in failure(lambda: node.call("CHECK", conf, "c1", net.pod.path)).msg


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_sctp_reaches_a_host_port(node: Any, backend: str) -> None:
    """Packets made by hand (tests/raw_sctp.py): the kernel may have no SCTP sockets. Beside a TCP port of the same number."""
    for which in ("all", "default"):
        node.inside(lambda w=which: Path(f"/proc/sys/net/ipv6/conf/{w}/accept_dad").write_text("0"))
    net = Net(node, [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]])
    with Rtnl(net.outside.fd) as far:
        far.route_add("fd00:10:244::/48", gateway="fd99::1")
    conf = net.portmap(WEB | {"containerPort": 81}, WEB | {"protocol": "sctp"}, backend=backend)
    assert node.call("ADD", conf, "c1", net.pod.path) == net.result
    server = subprocess.Popen(
        ["nsenter", f"--net={net.pod.path}", sys.executable, "-S", raw_sctp.__file__, "serve", "pod", "80"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def ask(fd: int, ip: str) -> str:
            with entered(fd):
                return raw_sctp.ask(ip, 8080, timeout_s=20)

        assert ask(net.outside.fd, "203.0.113.1") == "pod 203.0.113.10"
        assert ask(net.outside.fd, "fd99::1") == "pod fd99::10"
        assert ask(node.fd, "203.0.113.1") in ("pod 203.0.113.1", "pod 10.244.1.1")
        assert ask(net.pod.fd, "203.0.113.1") == "pod 10.244.1.1"
        assert node.call("CHECK", conf, "c1", net.pod.path) == {}
        node.delete(conf, "c1", net.pod.path)
        with entered(net.outside.fd):
            assert raw_sctp.ask("203.0.113.1", 8080, timeout_s=0.3) == "timeout"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_stale_udp_entries_go(node: Any, net: Net) -> None:
    """A client that was sending before the port was mapped reaches the container with its next datagram."""
    run(node, "iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "ACCEPT")  # conntrack is on
    with entered(net.outside.fd):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with entered(net.pod.fd):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client, server:
        client.bind(("203.0.113.10", 4444))
        server.bind(("10.244.1.2", 5353))
        server.settimeout(5)
        client.sendto(b"lost", ("203.0.113.1", 53))
        conf = net.portmap({"hostPort": 53, "containerPort": 5353, "protocol": "udp"})
        assert node.call("ADD", conf, "c1", net.pod.path) == net.result
        client.sendto(b"found", ("203.0.113.1", 53))
        assert server.recvfrom(10) == (b"found", ("203.0.113.10", 4444))


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_ipv6(node: Any, backend: str) -> None:
    net = Net(node, [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]])
    with Rtnl(net.outside.fd) as far:
        far.route_add("fd00:10:244::/48", gateway="fd99::1")
    conf = net.portmap(WEB, backend=backend)
    assert node.call("ADD", conf, "c1", net.pod.path) == net.result
    assert node.call("CHECK", conf, "c1", net.pod.path) == {}
    with listen(net.pod.fd, "fd00:10:244:1::2", 80) as server:
        assert source_seen(net.outside.fd, server, "fd99::1", 8080) == "fd99::10"
        assert source_seen(net.pod.fd, server, "fd99::1", 8080) == "fd00:10:244:1::1"
    node.delete(conf, "c1", net.pod.path)
    assert not any("CNI-DN-" in r for r in node.nat_rules("ip6tables"))


def test_without_snat_and_with_masq_all(node: Any, net: Net) -> None:
    for changes, expected in (({"snat": False}, "203.0.113.10"), ({"masqAll": True}, "10.244.1.1")):
        conf = net.portmap(WEB, **changes)
        assert node.call("ADD", conf, "c1", net.pod.path) == net.result
        with listen(net.pod.fd, "10.244.1.2", 80) as server:
            assert source_seen(net.outside.fd, server, "203.0.113.1", 8080) == expected
        assert node.call("CHECK", conf, "c1", net.pod.path) == {}
        node.delete(conf, "c1", net.pod.path)


def test_an_external_mark_chain_and_another_bit(node: Any, net: Net) -> None:
    run(node, "iptables", "-t", "nat", "-N", "KUBE-MARK-MASQ")
    conf = net.portmap(WEB, externalSetMarkChain="KUBE-MARK-MASQ")
    assert node.call("ADD", conf, "c1", net.pod.path) == net.result
    rules = node.nat_rules()
    assert sum("-j KUBE-MARK-MASQ" in r for r in rules) == 2
    assert not any("SETMARK" in r for r in rules)
    node.delete(conf, "c1", net.pod.path)
    other = net.portmap(WEB, markMasqBit=4)
    assert node.call("ADD", other, "c1", net.pod.path) == net.result
    assert any("--set-xmark 0x10/0x10" in r for r in node.nat_rules())


def test_refusals(node: Any, net: Net, failure: Failure) -> None:
    for conf, words in (
        (net.portmap(WEB, externalSetMarkChain="X", markMasqBit=3), "Cannot specify"),
        (net.portmap(WEB, markMasqBit=32), "between 0 and 31"),
        (net.portmap({**WEB, "hostPort": 0}), "Invalid host port number: 0"),
        (net.portmap({**WEB, "containerPort": 70000}), "Invalid container port number"),
        (net.portmap({**WEB, "protocol": "icmp"}), "Invalid protocol"),
        (net.portmap({**WEB, "hostIP": "nowhere"}), "Invalid hostIP"),
        (net.portmap(WEB, backend="ebtables"), "unknown backend"),
        (net.portmap(WEB, conditionsV4=["ip", "saddr", "1.2.3.4"]), "nftables-specific options [conditionsV4]"),
        (net.portmap(WEB, backend="nftables", conditionsV6=["-s", "::1"]), "iptables-specific options [conditionsV6]"),
        ({k: v for k, v in net.portmap(WEB).items() if k != "prevResult"}, "chained plugin"),
    ):
        assert words in failure(lambda conf=conf: node.call("ADD", conf, "c1", net.pod.path)).msg
    assert node.nat_rules() == []
    nothing = net.portmap()
    assert node.call("ADD", nothing, "c1", net.pod.path) == net.result
    assert node.nat_rules() == []


def test_gc_and_many_at_once(node: Any, net: Net) -> None:
    """20 first ADDs at once: every container's rules once, the shared ones once."""
    confs = [net.portmap({"hostPort": 1000 + i, "containerPort": 80, "protocol": "tcp"}, cniVersion="1.1.0") for i in range(20)]
    previous = {**net.result, "cniVersion": "1.1.0"}

    def begin(i: int) -> Any:
        def work() -> list[Any]:
            from cni.portmap import main

            conf = {**confs[i], "prevResult": previous}
            import json

            code, out = main(node.env("ADD", f"c{i}", net.pod.path), json.dumps(conf).encode())
            return [code, out.decode()]

        return node.begin(work)

    pending = [begin(i) for i in range(20)]
    assert [p.finish()[0] for p in pending] == [0] * 20
    rules = node.nat_rules()
    assert len(rules) == len(set(rules))
    assert sum(r.startswith("-A CNI-HOSTPORT-DNAT") for r in rules) == 20
    assert sum(r.startswith(("-A PREROUTING", "-A OUTPUT", "-A POSTROUTING")) for r in rules) == 3
    gc = {**confs[0], "cni.dev/valid-attachments": [{"containerID": "c7", "ifname": "eth0"}]}
    assert node.call("GC", gc, "", "", "") == {}
    assert [r for r in node.nat_rules() if r.startswith("-A CNI-HOSTPORT-DNAT")] == [r for r in rules if 'id: \\"c7\\"' in r]
