"""Real packets against kube-proxy's rules: who reaches which endpoint, and which client address it sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from proxy_world import FakeApi, World, endpoint_slice, eventually, node, service

pytestmark = pytest.mark.root

A, B, R = World.PODS["a"], World.PODS["b"], World.PODS["r"]
LOCAL_A, LOCAL_B, REMOTE = (A, "node1"), (B, "node1"), (R, "node2")


class Setup(NamedTuple):
    world: World
    api: FakeApi


def load_balancer(name: str, ip: str, vip: str, *, mode: str = "VIP", **spec: object) -> dict:
    return service(name, ip, type="LoadBalancer", status={"loadBalancer": {"ingress": [{"ip": vip, "ipMode": mode}]}}, **spec)


SERVICES = [
    (service("own", "10.96.0.10"), [LOCAL_A]),
    (service("remote", "10.96.0.11"), [REMOTE]),
    (service("none", "10.96.0.12", type="NodePort", port_fields={"nodePort": 30012}), []),
    (service("np", "10.96.0.13", type="NodePort", port_fields={"nodePort": 30013}), [REMOTE]),
    (service("nplocal", "10.96.0.14", type="NodePort", externalTrafficPolicy="Local", port_fields={"nodePort": 30014}),
     [LOCAL_A, REMOTE]),
    (service("npaway", "10.96.0.15", type="NodePort", externalTrafficPolicy="Local", port_fields={"nodePort": 30015}), [REMOTE]),
    (service("inlocal", "10.96.0.16", internalTrafficPolicy="Local"), [LOCAL_B, REMOTE]),
    (service("inaway", "10.96.0.17", internalTrafficPolicy="Local"), [REMOTE]),
    (service("ext", "10.96.0.18", externalIPs=["198.51.100.18"]), [LOCAL_A]),
    (load_balancer("lb", "10.96.0.19", "198.51.100.19", loadBalancerSourceRanges=[" 203.0.113.0/24 ", "fd00::/8"]), [LOCAL_A]),
    (load_balancer("lbproxy", "10.96.0.20", "198.51.100.20", mode="Proxy"), [LOCAL_A]),
    (service("sticky", "10.96.0.21", sessionAffinity="ClientIP"), [LOCAL_A, LOCAL_B, REMOTE]),
    (service("named", "10.96.0.22", port=53, protocol="UDP"), [LOCAL_A]),
    (load_balancer("lbaway", "10.96.0.24", "198.51.100.24", externalTrafficPolicy="Local"), [REMOTE]),
]  # fmt: skip


@pytest.fixture(scope="module", params=["nft", "legacy"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with World() as world, FakeApi(world.names["node"]) as api:
        api.put(node("node1", world.NODE, "10.244.1.0/24"))
        for each, endpoints in SERVICES:
            protocol = each["spec"]["ports"][0]["protocol"]
            api.put(each, endpoint_slice(each["metadata"]["name"], *endpoints, protocol=protocol))
        for pod in "abr":
            world.echo(pod, 8080, pod)
            world.echo(pod, 8080, pod, udp=True)
        world.proxy(api, tmp_path_factory.mktemp("proxy"), "--iptables", request.param)
        save = f"iptables-{request.param}-save -t nat"
        eventually(lambda: "KUBE-SVC" in world.sh("node", f"[ ! -e /proc/net/ip_tables_names ] || {save}"))
        yield Setup(world, api)


NODE, GATEWAY = World.NODE, "10.244.1.1"

FLOWS = [
    # from, to, port → answer: the endpoint and the client address it saw
    ("b", "10.96.0.10", 80, f"a {B}"),
    ("a", "10.96.0.10", 80, f"a {GATEWAY}"),  # hairpin: its own endpoint sees the bridge's address
    ("node", "10.96.0.10", 80, f"a {GATEWAY}"),
    ("outside", "10.96.0.10", 80, f"a {GATEWAY}"),  # not a pod: masqueraded
    ("b", "10.96.0.11", 80, f"r {B}"),
    ("node", "10.96.0.11", 80, f"r {NODE}"),
    ("outside", NODE, 30013, f"r {NODE}"),
    ("b", NODE, 30013, f"r {NODE}"),
    ("node", NODE, 30013, f"r {NODE}"),
    ("node", "127.0.0.1", 30013, f"r {NODE}"),
    ("node2", NODE, 30013, f"r {NODE}"),
    ("outside", NODE, 30014, f"a {World.OUTSIDE}"),  # Local keeps the client's address
    ("node2", NODE, 30014, f"a {World.NODE2}"),
    ("outside", NODE, 30015, "timeout"),  # Local, and no endpoint here: dropped
    ("b", NODE, 30015, f"r {B}"),  # … but pods are let through, unmasqueraded
    ("node", NODE, 30015, f"r {NODE}"),  # … and the node itself
    ("a", "10.96.0.16", 80, f"b {A}"),
    ("a", "10.96.0.17", 80, "timeout"),
    ("node", "10.96.0.17", 80, "timeout"),
    ("outside", "198.51.100.18", 80, f"a {GATEWAY}"),
    ("b", "198.51.100.18", 80, f"a {GATEWAY}"),
    ("outside", "198.51.100.24", 80, "timeout"),
    ("b", "198.51.100.24", 80, f"r {B}"),
    ("b", "10.96.0.12", 80, "refused"),
    ("node", "10.96.0.12", 80, "refused"),
    ("outside", NODE, 30012, "refused"),
    ("outside", "198.51.100.19", 80, "timeout"),  # 192.168.77.1 is in no source range
]  # fmt: skip


@pytest.mark.parametrize(("source", "address", "port", "answer"), FLOWS, ids=lambda v: str(v))
def test_tcp(setup: Setup, source: str, address: str, port: int, answer: str) -> None:
    assert setup.world.ask(source, address, port, timeout_s=0.5 if answer == "timeout" else 20) == answer


def test_source_range_lets_its_clients_in(setup: Setup) -> None:
    setup.world.sh("outside", "ip route replace 198.51.100.19 via 192.168.77.11 src 203.0.113.10")
    setup.world.sh("node", "ip route replace 203.0.113.10 via 192.168.77.1")
    assert setup.world.ask("outside", "198.51.100.19", 80) == f"a {GATEWAY}"


def test_udp_cluster_ip(setup: Setup) -> None:
    assert setup.world.ask("b", "10.96.0.22", 53, udp=True) == f"a {B}"


def test_affinity_keeps_a_client_on_its_endpoint(setup: Setup) -> None:
    for source in ("a", "b", "node"):
        answers = {setup.world.ask(source, "10.96.0.21", 80).split()[0] for _ in range(8)}
        assert len(answers) == 1, f"{source} was sent to {answers}"


def counters(world: World, chain: str, comment: str) -> int:
    """Packets counted by the rules of a filter chain with this comment, whichever variant holds them."""
    listing = world.sh("node", f"iptables-nft -w -nvxL {chain} 2>/dev/null || true")
    if comment not in listing:
        listing = world.sh("node", f"iptables-legacy -w -nvxL {chain}")
    return sum(int(line.split()[0]) for line in listing.splitlines() if comment in line)


@pytest.mark.parametrize(
    ("source", "address", "port", "chain", "comment"),
    [
        ("b", "10.96.0.12", 80, "KUBE-SERVICES", "default/none has no endpoints"),
        ("a", "10.96.0.17", 80, "KUBE-SERVICES", "default/inaway has no local endpoints"),
        ("outside", World.NODE, 30015, "KUBE-EXTERNAL-SERVICES", "default/npaway has no local endpoints"),
        ("node2", "198.51.100.19", 80, "KUBE-PROXY-FIREWALL", "default/lb traffic not accepted by"),
    ],
)  # fmt: skip
def test_the_rule_that_stops_a_packet_counts_it(
    setup: Setup, source: str, address: str, port: int, chain: str, comment: str
) -> None:
    if source == "node2":
        setup.world.sh("node2", f"ip route replace 198.51.100.0/24 via {World.NODE}")
    before = counters(setup.world, chain, comment)
    setup.world.ask(source, address, port, timeout_s=0.3)
    assert counters(setup.world, chain, comment) > before


def test_proxy_mode_vip_leaves_the_node_unchanged(setup: Setup) -> None:
    """ipMode Proxy: the address is the load balancer's business; a packet to it is only routed."""
    world = setup.world
    world.sh("outside", "ip addr replace 198.51.100.20/32 dev lo")
    capture = world.start("outside", "timeout", "60", "tcpdump", "-c1", "-nli", "eth0", "dst host 198.51.100.20")
    try:
        # Asked until one is seen: tcpdump does not hear yet when its socket is there.
        eventually(lambda: world.ask("b", "198.51.100.20", 80, timeout_s=0.2) and capture.poll() is not None)
        out, _ = capture.communicate(timeout=70)
    finally:
        world.processes.remove(capture)
    assert re.search(r"> 198\.51\.100\.20\.80", out)
