"""One kube-proxy for both families: Services that gain and lose one, endpoints that go in one, nodes that have only one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy_table import six
from proxy_world import FakeApi, Object, World, eventually

from nsk8s.kernel.conntrack import Conntrack

pytestmark = pytest.mark.root

NODE, NODE6 = World.NODE, six(World.NODE)
A, B, R = World.PODS["a"], World.PODS["b"], World.PODS["r"]
BOTH = "10.244.0.0/16,fd00:10:244::/48"
VIP, VIP6 = "10.96.0.80", six("10.96.0.80")
NODE_PORT, CHECK_PORT, UDP_PORT = 30080, 32100, 5300


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World.answering("abr") as world:
        yield world


@pytest.fixture
def api(world: World) -> Iterator[FakeApi]:
    with FakeApi(world.names["node"]) as api:
        api.put(node(NODE, NODE6))
        yield api


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(world: World, api: FakeApi, tmp_path: Path, mode: str) -> Iterator[Start]:
    """Start kube-proxy, which is ended after the test. What it wrote stays: the next one puts it right."""

    mine = []

    def started(clusters: str = BOTH) -> subprocess.Popen[str]:
        quick = ("--iptables-min-sync-period", "20ms")
        mine.append(world.proxy(api, tmp_path, "--proxy-mode", mode, *quick, clusters=clusters))
        return mine[-1]

    yield started
    for process in mine:
        if process in world.processes:
            world.stop(process)


def clean_up(world: World) -> None:
    process = world.component("node", "nsk8s.proxy.main", "--cleanup", "--iptables", "nft")
    assert process.wait(60) == 0
    world.processes.remove(process)
    assert "KUBE-" not in rules(world, "iptables")
    assert "kube-proxy" not in world.sh("node", "nft list tables")


def node(*ips: str) -> Object:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}, "spec": {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]},
    }  # fmt: skip


def service(*ips: str, name: str = "web", protocol: str = "TCP", port: int = 80, node_port: int = NODE_PORT, **spec: Any) -> Object:
    ports = [{"name": "", "port": port, "protocol": protocol, "targetPort": 8080, "nodePort": node_port}]
    families = ["IPv6" if ":" in ip else "IPv4" for ip in ips]
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "NodePort", "clusterIP": ips[0], "clusterIPs": list(ips), "ipFamilies": families, "ports": ports, **spec},
    }  # fmt: skip


def endpoints(*ips: str, name: str = "web", protocol: str = "TCP", family: str = "") -> Object:
    family = family or ("IPv6" if ":" in ips[0] else "IPv4")
    places = [(ip, "node2" if ip in (R, six(R)) else "node1") for ip in ips]
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {
            "name": f"{name}-{family.lower()}", "namespace": "default", "labels": {"kubernetes.io/service-name": name},
        },
        "ports": [{"name": "", "port": 8080, "protocol": protocol}],
        "endpoints": [{"addresses": [ip], "nodeName": where, "conditions": {"ready": True}} for ip, where in places],
    }  # fmt: skip


def rules(world: World, mode: str, *, ipv6: bool | None = None) -> str:
    """kube-proxy's rules of one family, or of both, without what counts."""
    families = (False, True) if ipv6 is None else (ipv6,)
    out = []
    for six_ in families:
        if mode == "nftables":
            out.append(world.sh("node", f"nft -s list table {'ip6' if six_ else 'ip'} kube-proxy 2>/dev/null || true"))
        else:
            saved = world.sh("node", f"{'ip6' if six_ else 'ip'}tables-nft-save")
            out += [line for line in saved.splitlines() if line.startswith(("-A", ":KUBE"))]
    return "\n".join(out)


def syncs(world: World) -> dict[str, int]:
    """Family → how often its rules were synced, as the metrics say."""
    text = world.sh("node", "curl -s --noproxy '*' http://127.0.0.1:10249/metrics")
    found = re.findall(r'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="(\w+)"} (\d+)', text)
    return {family: int(count) for family, count in found}


def metrics(world: World, name: str) -> dict[str, int]:
    """What follows `name` in the names of metrics without labels → value."""
    text = world.sh("node", "curl -s --noproxy '*' http://127.0.0.1:10249/metrics")
    return {n: int(value) for n, value in re.findall(rf"^kubeproxy_{name}_(\w+) (\d+)$", text, re.MULTILINE)}


def ask(world: World, where: str, address: str, port: int = 80, *, timeout_s: float = 0.5, **kwargs: Any) -> str:
    return world.ask(where, address, port, timeout_s=timeout_s, **kwargs)


def told(world: World, where: str, address: str, port: int = 80) -> str:
    """The answer that must come, however busy the machine is."""
    return ask(world, where, address, port, timeout_s=20)


def test_a_service_gains_and_loses_a_family(world: World, api: FakeApi, start: Start, mode: str) -> None:
    prober = world.prober("b")

    def probe(address: str) -> str:
        prober.begin(ask=[["tcp", address, 80, ""]], timeout_s=0.5)
        return str(prober.result()[0][0])

    api.put(service(VIP), endpoints(A))
    start()
    eventually(lambda: ask(world, "b", VIP) == f"a {B}")
    before = rules(world, mode, ipv6=False)
    assert VIP6 not in rules(world, mode, ipv6=True)
    assert not ask(world, "b", VIP6).startswith("a")

    api.put(service(VIP, VIP6), endpoints(six(A)))
    eventually(lambda: ask(world, "b", VIP6) == f"a {six(B)}")
    assert told(world, "outside", NODE6, NODE_PORT) == f"a {six('10.244.1.1')}", "the node port is one number for both families"
    assert told(world, "outside", NODE, NODE_PORT) == "a 10.244.1.1"
    assert told(world, "node", NODE6, NODE_PORT).startswith("a ")
    assert rules(world, mode, ipv6=False) == before, "IPv4's rules did not notice"

    api.delete("EndpointSlice", "web-ipv6", "default")
    eventually(lambda: probe(VIP6) == "reject")
    assert told(world, "b", VIP) == f"a {B}"
    api.put(endpoints(six(A)))
    eventually(lambda: ask(world, "b", VIP6) == f"a {six(B)}")

    api.put(service(VIP))
    api.delete("EndpointSlice", "web-ipv6", "default")
    eventually(lambda: VIP6 not in rules(world, mode, ipv6=True))
    assert str(NODE_PORT) not in rules(world, mode, ipv6=True)
    assert told(world, "b", VIP) == f"a {B}"
    assert rules(world, mode, ipv6=False) == before


def test_udp_flows_are_cut_in_the_family_that_lost_the_endpoint(world: World, api: FakeApi, start: Start) -> None:
    def dns(where: str, address: str, timeout_s: float = 0.5) -> str:
        return ask(world, where, address, 53, udp=True, source_port=UDP_PORT, timeout_s=timeout_s)

    def flows(ipv6: bool) -> set[tuple[str, str]]:
        def read() -> set[tuple[str, str]]:
            with Conntrack(ipv6) as table:
                asked = table.flows(ports={53})
                assert asked == [f for f in table.flows() if f.dport == 53]
                assert table.flows(ports={1}) == []
                return {(f.dst, f.reply_src) for f in asked}

        found: set[tuple[str, str]] = world.in_node(read)
        return found

    udp: dict[str, Any] = {"name": "dns", "protocol": "UDP"}
    api.put(
        service(VIP, VIP6, port=53, node_port=30053, **udp), endpoints(A, **udp), endpoints(six(A), **udp)
    )
    start()
    eventually(lambda: dns("b", VIP6) == f"a {six(B)}")
    eventually(lambda: dns("b", VIP) == f"a {B}")
    assert (flows(False), flows(True)) == ({(VIP, A)}, {(VIP6, six(A))})
    before = syncs(world)
    api.put(endpoints(six(R), **udp))
    eventually(lambda: dns("b", VIP6) == f"r {six(B)}")
    assert dns("b", VIP, 20) == f"a {B}", "the same port, the same client, the other family"
    assert (flows(False), flows(True)) == ({(VIP, A)}, {(VIP6, six(R))})
    after = syncs(world)
    assert (after["IPv4"], after["IPv6"] > before["IPv6"]) == (before["IPv4"], True), "a sync is a family's own"


@pytest.mark.parametrize("mode", ["iptables"], scope="module")
def test_health_checks_are_served_where_the_service_has_addresses(world: World, api: FakeApi, start: Start) -> None:
    def codes() -> tuple[str, str]:
        get = "curl -g -s -o /dev/null -w '%{http_code}' --noproxy '*' -m 3 http://{}:" + f"{CHECK_PORT}/"
        four, other = (world.sh("outside", get.replace("{}:", f"{a}:"), check=False) for a in (NODE, f"[{NODE6}]"))
        return four, other

    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": CHECK_PORT}
    api.put(service(VIP, **local), endpoints(A))
    start()
    eventually(lambda: codes() == ("200", "000"))
    api.put(service(VIP, VIP6, **local), endpoints(six(A)))
    eventually(lambda: codes() == ("200", "200"))
    api.put(endpoints(A, family="IPv4") | {"endpoints": []})
    api.put(endpoints(six(R)))
    eventually(lambda: codes() == ("503", "503"))
    api.put(service(VIP, **local), endpoints(A))
    eventually(lambda: codes() == ("200", "000"))


def test_a_family_lost_while_the_proxy_was_away_leaves_no_rules(world: World, api: FakeApi, start: Start, mode: str) -> None:
    api.put(service(VIP, VIP6), endpoints(A), endpoints(six(A)))
    first = start()
    eventually(lambda: ask(world, "b", VIP6) == f"a {six(B)}")
    assert world.stop(first) == 0
    assert told(world, "b", VIP6) == f"a {six(B)}", "rules stay while it is away"
    api.put(service(VIP))
    api.delete("EndpointSlice", "web-ipv6", "default")
    start()
    eventually(lambda: VIP6 not in rules(world, mode, ipv6=True))
    assert told(world, "b", VIP) == f"a {B}"


def test_a_node_of_one_family_has_rules_in_that_one_only(world: World, api: FakeApi, start: Start, mode: str) -> None:
    clean_up(world)

    def written() -> tuple[bool, bool]:
        four, other = (rules(world, mode, ipv6=v) for v in (False, True))
        return "masquerad" in four.lower(), "masquerad" in other.lower()

    api.put(node(NODE6), service(VIP6), endpoints(six(A)))
    first = start("fd00:10:244::/48")
    eventually(lambda: ask(world, "b", VIP6) == f"a {six(B)}")
    assert written() == (False, True)
    assert world.stop(first) == 0
    clean_up(world)
    api.delete("EndpointSlice", "web-ipv6", "default")
    api.put(node(NODE), service(VIP), endpoints(A))
    second = start("10.244.0.0/16")
    eventually(lambda: ask(world, "b", VIP) == f"a {B}")
    assert written() == (True, False)
    api.put(endpoints(six(A), name="of-nobody"))
    eventually(lambda: metrics(world, "sync_proxy_rules_endpoint_changes") == {"pending": 0, "total": 2})
    assert set(syncs(world)) == {"IPv4"}
    api.put(node(NODE, NODE6))  # it got a second one
    eventually(lambda: written() == (True, True))
    assert world.stop(second) == 0
    clean_up(world)
