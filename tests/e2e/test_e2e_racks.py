"""Two racks behind the router: an L3 hop between nodes, in every routing mode, switched on the living cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_cluster import Capture, apply, ask, get, netns, nsk8s, pod, pods, until
from e2e_settled import answered_everywhere, pods_are_reached
from test_e2e_routing import Pings, hops, learnt, routes

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
CONFIG = """
racks: [{name: a, subnet: 192.168.56.0/24}, {name: b, subnet: 192.168.57.0/24}]
nodes: [{name: node1}, {name: node2, rack: a}, {name: node3, rack: b, link: {rate: 800mbit}}]
network: {offload: false}
"""
PODS = {"a": "node1", "b": "node2", "c": "node3"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of a, b and c, which tell their clients' addresses; c is in the other rack."""
    file = tmp_path_factory.mktemp("racks") / "cluster.yaml"
    file.write_text(CONFIG)
    try:
        nsk8s("up", "-q", "-f", str(file))
        echo = [pod(name, "nsk8s/echo", nodeName=node) for name, node in PODS.items()]
        for each in echo:
            del each["spec"]["containers"][0]["command"]
        apply(*echo, {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "c"}, "ports": [{"port": 80, "targetPort": 8080}]},
        })  # fmt: skip
        until("the pods are ready", lambda: all(pods(f"app={name}") for name in PODS))
        until("a's and c's nodes and the router know the ways", lambda: (
            {"10.244.2.0/24", "10.244.3.0/24"} <= routes("node1").keys()
            and {"10.244.1.0/24", "10.244.2.0/24"} <= routes("node3").keys()
            and {"10.244.1.0/24", "10.244.3.0/24"} <= routes("router").keys()
        ))  # fmt: skip
        nodes = ("node1", "node2", "node3")
        for name in PODS:
            pods_are_reached(nodes, f"app={name}")
        status = until("an address", lambda: get("svc/c")["status"]["loadBalancer"].get("ingress"))
        answered_everywhere((*nodes, "client"), f"http://{status[0]['ip']}/healthz")
        answered_everywhere(nodes, f"http://{get('svc/c')['spec']['clusterIP']}/healthz")
        yield {name: get(f"pod/{name}")["status"]["podIP"] for name in PODS}
    finally:
        nsk8s("down", "-q", ok=False)


def switch(mode: str, **more: str) -> None:
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "node-network", "namespace": "kube-system"},
           "data": {"mode": mode, **more}})  # fmt: skip


def check_addresses(cluster: dict[str, str]) -> None:
    """Nobody's address changes between racks; Services lead across; what leaves the cluster is the node's."""
    for source, target in (("a", "c"), ("c", "a"), ("b", "c"), ("a", "b")):
        assert ask((f"pod/{source}",), f"http://{cluster[target]}:8080/")["client"].partition(":")[0] == cluster[source], (source, target)
    ip = get("svc/c")["status"]["loadBalancer"]["ingress"][0]["ip"]
    assert ask(("client",), f"http://{ip}/")["pod"] == "c"
    assert ask(("pod/a",), f"http://{get('svc/c')['spec']['clusterIP']}/")["client"].partition(":")[0] == cluster["a"]


def test_machines_are_where_they_should_be(cluster: dict[str, str]) -> None:
    addresses = {n["metadata"]["name"]: n["status"]["addresses"][0]["address"] for n in get("nodes")["items"]}
    assert addresses == {"control-plane": "192.168.56.10", "node1": "192.168.56.11", "node2": "192.168.56.12",
                         "node3": "192.168.57.13"}  # fmt: skip
    assert get("node/node3")["spec"]["podCIDR"] == "10.244.3.0/24", "hosts are numbered through all racks"
    status = json.loads(nsk8s("status", "-o", "json").stdout)
    machines = {m["name"]: m["addresses"] for m in status["machines"] if m["role"] in ("switch", "router")}
    assert machines == {"switch": [], "switch-b": [], "router": ["192.168.56.1", "192.168.57.1", "203.0.113.1"]}
    assert "node3" in netns("switch-b", "ip", "-br", "link").stdout
    assert "rate 800Mbit" in netns("switch-b", "tc", "qdisc", "show", "dev", "node3").stdout
    ports = {c["machine"]: c["port"] for c in json.loads(nsk8s("link", "show", "-o", "json").stdout) if c["machine"] != "router"}
    for machine, interface in (("client", "eth0"), ("router", "eth2"), ("switch-b", "node3"), ("node3", "eth0"), ("node3", "cni0")):
        assert "tx-checksumming: off" in netns(machine, "ethtool", "-k", interface).stdout, (machine, interface)
    assert "tx-checksumming: off" in nsk8s("enter", "pod/c", "--", "ethtool", "-k", "eth0").stdout
    assert (ports["node2"], ports["node3"], ports["client"]) == ("switch/node2", "switch-b/node3", "router/eth1")


def test_routes_lead_to_another_rack_through_the_router(cluster: dict[str, str], tmp_path: Path) -> None:
    assert "via 192.168.56.1 " in routes("node1")["10.244.3.0/24"]
    assert "via 192.168.56.12 " in routes("node1")["10.244.2.0/24"]
    assert "via 192.168.57.1 " in routes("node3")["10.244.1.0/24"]
    assert "via 192.168.57.13 dev eth2" in routes("router")["10.244.3.0/24"]
    check_addresses(cluster)
    assert (hops("pod/a", cluster["b"]), hops("pod/a", cluster["c"])) == (2, 3), "the TTL shows the hop"
    capture = Capture(tmp_path, "router", "switch/node3", interface="any", expression="icmp")
    try:
        assert hops("pod/a", cluster["c"]) == 3
        seen = capture.until("echo reply", "router")
        came, went = (re.search(rf"^(\S+) +{way} +IP 10\.244\.1\.", "\n".join(seen), re.MULTILINE) for way in ("In", "Out"))
        assert came, seen
        assert went, seen
        assert came[1] != went[1], "in by one interface, out by another"
        capture.until("echo reply", "switch-node3")
    finally:
        capture.stop()


def is_refused(address: str) -> None:
    """The router says so; more than some times a second it does not (net.ipv4.icmp_ratelimit)."""
    said = "From 203.0.113.1 icmp_seq=1 Destination Net Unreachable"
    until(said, lambda: said in nsk8s("enter", "client", "--", "ping", "-c", "1", "-W", "2", address, ok=False).stdout)


def test_the_router_keeps_them_from_the_outside(cluster: dict[str, str]) -> None:
    is_refused(cluster["c"])
    switch("routes", expose="pods")
    until("it is exposed", lambda: not netns("router", "ip", "rule", "show", "priority", "120").stdout)
    assert ask(("client",), f"http://{cluster['c']}:8080/")["client"].startswith("203.0.113.10:")
    switch("routes", expose="")
    until("it is not", lambda: netns("router", "ip", "rule", "show", "priority", "120").stdout.count("10.244.") == 4)
    is_refused(cluster["c"])


def test_a_tunnel_goes_through_the_router(cluster: dict[str, str], tmp_path: Path) -> None:
    pings = Pings("a", cluster["c"])
    switch("vxlan")
    for node, far in (("node1", "10.244.3.0/24"), ("node3", "10.244.1.0/24")):
        until(f"the tunnel on {node}", lambda node=node, far=far: "flannel.1" in routes(node).get(far, ""))
    until("the router has forgotten the pods", lambda: not {"10.244.1.0/24", "10.244.3.0/24"} & routes("router").keys())
    assert pings.lost() == 0
    assert hops("pod/a", cluster["c"]) == 2, "the packets inside do not see the way outside"
    capture = Capture(tmp_path, "router", expression="udp port 8472")
    try:
        hops("pod/a", cluster["c"])
        capture.until(r"192\.168\.56\.11\.\d+ > 192\.168\.57\.13\.8472: OTV")
    finally:
        capture.stop()


@pytest.mark.slow
def test_back_to_routes_without_a_loss(cluster: dict[str, str]) -> None:
    """The router learns the pods when the nodes are told to send them there: they wait for it."""
    pings = Pings("a", cluster["c"])
    switch("routes")
    for node, far, way in (("node1", "10.244.3.0/24", "via 192.168.56.1 "), ("node3", "10.244.1.0/24", "via 192.168.57.1 ")):
        until(f"the route on {node}", lambda node=node, far=far, way=way: way in routes(node).get(far, ""))
    assert pings.lost() == 0
    assert hops("pod/a", cluster["c"]) == 3
    check_addresses(cluster)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["mesh", "reflector"])
def test_bgp_between_racks(cluster: dict[str, str], topology: str) -> None:
    """Sessions and next hops go through the router, which knows the pods from the API, and keeps them from the outside."""
    pings = Pings("a", cluster["c"])
    switch("bgp", bgpTopology=topology, bgpHoldTime="9" if topology == "mesh" else "90")
    neighbour = "mesh_node3" if topology == "mesh" else "reflector"
    birdc = ("enter", "node1", "--", "birdc", "show", "protocols")
    until("the session", lambda: re.search(rf"{neighbour} .*Established", nsk8s(*birdc, ok=False).stdout), 60)
    wanted = {"node1": {"10.244.3.0/24": "192.168.56.1", "10.244.2.0/24": "192.168.56.12"}, "node3": {"10.244.1.0/24": "192.168.57.1"}}
    for node, ways in wanted.items():
        until(f"BIRD has the ways on {node}", lambda node=node, ways=ways: ways.items() <= learnt(node).items(), 60)
    until("and nobody else", lambda: not routes("node1") and not routes("node3"), 60)
    assert pings.lost() == 0
    assert hops("pod/a", cluster["c"]) == 3
    assert "via 192.168.57.13 dev eth2" in routes("router")["10.244.3.0/24"]
    is_refused(cluster["c"])
    check_addresses(cluster)


def test_a_node_comes_to_a_rack(cluster: dict[str, str]) -> None:
    nsk8s("node", "add", "node4", "--rack", "b")
    assert get("node/node4")["status"]["addresses"][0]["address"] == "192.168.57.14"
    until("its route", lambda: "10.244.4.0/24" in routes("node1") | learnt("node1"))
    done = nsk8s("node", "add", "node5", "--rack", "x", ok=False)
    assert done.stderr == "error: there is no rack 'x' in this cluster → there are: a, b\n"
