"""ipvs mode with real packets, beside the table: switching modes, draining, what others change; and refused where it cannot be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE
from proxy_table import six
from proxy_world import FakeApi, World, endpoint_slice, eventually, service

from nsk8s.kernel import rtnl
from nsk8s.kernel.modules import has_ip_vs

pytestmark = pytest.mark.root
needs_ip_vs = pytest.mark.skipif(not has_ip_vs(), reason="this kernel has no ip_vs; scripts/vm runs it")

A, B = World.PODS["a"], World.PODS["b"]
IPVS = ("--proxy-mode", "ipvs", "--iptables", "nft")
GATEWAY = "10.244.1.1"
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:10249/%s').read().decode())"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World.answering("ab") as world:
        yield world


@pytest.fixture
def api(world: World) -> Iterator[FakeApi]:
    with world.api() as api:
        yield api
        world.stop_proxies()


def ask(world: World, where: str, address: str, port: int) -> str:
    return world.ask(where, address, port, timeout_s=PATIENCE)


def kernel(world: World) -> str:
    """All that kube-proxy may have left in the node, in any mode."""
    return world.sh(
        "node", "iptables-nft-save; ip6tables-nft-save; nft list tables; ip -o address show dev kube-ipvs0 2>/dev/null || true; "
        "grep -sE '^(TCP|UDP|SCTP)' /proc/net/ip_vs || true",
    ) + "\n".join(world.in_node(sets))  # fmt: skip


def sets() -> list[str]:
    from nsk8s.kernel.ipset import IpSets

    with IpSets() as ipsets:
        return ipsets.names()


@pytest.mark.skipif(has_ip_vs(), reason="this kernel has ip_vs")
def test_a_kernel_without_ip_vs_is_told_so(world: World, api: FakeApi, tmp_path: Path) -> None:
    process = world.proxy(api, tmp_path, *IPVS)
    assert process.wait(20) == 1
    world.processes.remove(process)
    assert not [name for name in world.in_node(sets) if name.startswith("KUBE-")]


@needs_ip_vs
def test_switching_modes_leaves_nothing_of_the_old_one(world: World, api: FakeApi, tmp_path: Path) -> None:
    web = service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050})
    web["spec"]["clusterIPs"].append(six("10.96.0.50"))
    api.put(web, endpoint_slice("web", (A, "node1")))
    modes = {
        "iptables": (("--iptables", "nft"), ("KUBE-SEP-", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-CANARY", "KUBE-NODEPORTS")),
        "ipvs": (IPVS, ("KUBE-IPVS-FILTER", "kube-ipvs0", "TCP ", "KUBE-NODE-PORT-TCP", "KUBE-6-CLUSTER-IP", "ipvs access")),
        "nftables": (("--proxy-mode", "nftables"), ("kube-proxy\n",)),
        "userspace": (("--proxy-mode", "userspace", "--iptables", "nft"), ("KUBE-PORTALS-",)),
    }
    for mode in ("userspace", "ipvs", "iptables", "ipvs", "nftables"):
        process = world.proxy(api, tmp_path, *modes[mode][0])

        def only_this(mode: str = mode) -> bool:
            text = kernel(world)
            return all((sign in text) == (m == mode) for m, (_, signs) in modes.items() for sign in signs)

        eventually(only_this)
        assert world.ask("b", "10.96.0.50", 80) == f"a {GATEWAY if mode == 'userspace' else B}"
        assert world.ask("outside", World.NODE, 30050) == f"a {GATEWAY}"
        world.stop(process)
    world.component("node", "nsk8s.proxy.main", "--cleanup").wait(20 * PATIENCE)
    left = kernel(world)
    assert not [sign for _, signs in modes.values() for sign in signs if sign in left]
    assert "KUBE-" not in left


@needs_ip_vs
def test_a_connection_goes_on_when_its_endpoint_leaves(world: World, api: FakeApi, tmp_path: Path) -> None:
    """Graceful termination: weight 0 until the last connection has ended; others go elsewhere at once."""
    server = world.start("a", "python3", "-S", "-uc", ECHOING)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    api.put(service("drain", "10.96.0.51"), endpoint_slice("drain", (A, "node1"), port=8090))
    world.proxy(api, tmp_path, *IPVS, "--ipvs-min-sync-period", "0s")
    eventually(lambda: reals(world, "10.96.0.51") == {f"{A}:8090": 1})
    with inside(world, "b") as kept:
        kept.connect(("10.96.0.51", 80))
        kept.sendall(b"one")
        assert kept.recv(10) == b"one"
        api.put(endpoint_slice("drain", (B, "node1"), port=8080))
        eventually(lambda: reals(world, "10.96.0.51") == {f"{A}:8090": 0, f"{B}:8080": 1})
        assert world.ask("a", "10.96.0.51", 80) == f"b {A}"
        kept.sendall(b"two")
        assert kept.recv(10) == b"two"
    # It stays for as long as the kernel remembers the connection (TIME_WAIT): forgotten here, it goes with the next sync.
    world.sh("node", "sysctl -qw net.ipv4.vs.expire_nodest_conn=1")
    world.in_node(lambda: forget_quickly())
    eventually(lambda: _synced(api, world) == {f"{B}:8080": 1}, 60)


def forget_quickly() -> None:
    from nsk8s.kernel.ipvs import Ipvs

    with Ipvs() as ipvs:
        ipvs.set_timeouts(1, 1, 1)


def _synced(api: FakeApi, world: World) -> dict[str, int]:
    api.put(service("other", "10.96.0.52", port=81), endpoint_slice("other", (B, "node1")))
    found = reals(world, "10.96.0.51")
    api.delete("Service", "other", "default")
    return found


ECHOING = """
import socket
s = socket.create_server(("", 8090)); print("ready", flush=True)
while True:
    c, _ = s.accept()
    while d := c.recv(100): c.sendall(d)
    c.close()
"""


def reals(world: World, address: str) -> dict[str, int]:
    from nsk8s.kernel.ipvs import Ipvs

    def read() -> dict[str, int]:
        with Ipvs() as ipvs:
            found = [s for s in ipvs.servers() if s.ip == address]
            return {str(real): weight for s in found for real, (weight, _) in ipvs.reals(s).items()}

    held: dict[str, int] = world.in_node(read)
    return held


def inside(world: World, where: str) -> socket.socket:
    """A TCP socket of a namespace."""
    made: list[socket.socket] = []

    def make() -> None:
        with rtnl.entered(fd):
            made.append(socket.socket())

    fd = rtnl.open_netns(f"/run/netns/{world.names[where]}")
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made[0].settimeout(10 * PATIENCE)
    return made[0]


@needs_ip_vs
def test_what_others_take_away_comes_back_and_metrics_have_upstreams_names(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("web", "10.96.0.53"), endpoint_slice("web", (A, "node1")))
    process = world.proxy(api, tmp_path, *IPVS, "--ipvs-sync-period", "1s", "--ipvs-min-sync-period", "0s", "--ipvs-scheduler", "lc")
    eventually(lambda: ask(world, "b", "10.96.0.53", 80) == f"a {B}")
    for damage in ("ip link del kube-ipvs0", "nft flush ruleset", "ip addr del 10.96.0.53/32 dev kube-ipvs0"):
        world.sh("node", damage)
        eventually(lambda: ask(world, "outside", "10.96.0.53", 80) == f"a {GATEWAY}")
    with world.paused(process):
        world.in_node(lambda: take_away("10.96.0.53"))
        assert ask(world, "b", "10.96.0.53", 80) != f"a {B}"
    eventually(lambda: ask(world, "b", "10.96.0.53", 80) == f"a {B}")
    assert " lc " in world.sh("node", "cat /proc/net/ip_vs")
    metrics = world.sh("node", f'python3 -c "{METRICS % "metrics"}"')
    assert "kubeproxy_sync_proxy_rules_duration_seconds_count" in metrics
    assert "kubeproxy_sync_proxy_rules_iptables_restore_failures_total" in metrics
    assert "iptables_total" not in metrics
    assert world.sh("node", f'python3 -c "{METRICS % "proxyMode"}"').strip() == "ipvs"


def take_away(address: str) -> None:
    from nsk8s.kernel.ipvs import Ipvs

    with Ipvs() as ipvs:
        ipvs.delete_servers(s for s in ipvs.servers() if s.ip == address)


@needs_ip_vs
def test_strict_arp_and_sysctls(world: World, api: FakeApi, tmp_path: Path) -> None:
    """Without strictARP the node answers ARP for every Service's address; with it, for an interface's own only."""
    api.put(service("lb", "10.96.0.54", externalIPs=["192.168.77.200"]), endpoint_slice("lb", (A, "node1")))

    def resolved() -> bool:
        world.sh("outside", "ip neigh flush dev eth0")
        ask(world, "outside", "192.168.77.200", 80)
        return "lladdr" in world.sh("outside", "ip neigh show 192.168.77.200")

    process = world.proxy(api, tmp_path, *IPVS)
    eventually(resolved)
    assert world.sh("node", "cat /proc/sys/net/ipv4/vs/conntrack /proc/sys/net/ipv4/vs/expire_nodest_conn").split() == ["1", "1"]
    world.stop(process)
    world.proxy(api, tmp_path, *IPVS, "--ipvs-strict-arp=true")
    eventually(lambda: world.sh("node", "cat /proc/sys/net/ipv4/conf/all/arp_ignore").strip() == "1")
    assert not resolved()
    world.sh("node", "sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0")
