"""node-network in real namespaces: conflist, routes, masquerade, alone and beside kube-proxy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_world import FakeApi, World, endpoint_slice, eventually, node, service

pytestmark = pytest.mark.root

A, R = World.PODS["a"], World.PODS["r"]


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        world.sh("node", "ip route del 10.244.2.0/24")
        world.echo("r", 8080, "r")
        world.echo("outside", 8080, "outside")
        yield world


@pytest.fixture
def api(world: World) -> Iterator[FakeApi]:
    with FakeApi(world.names["node"]) as api:
        yield api


def start(world: World, api: FakeApi, directory: Path, variant: str = "nft"):
    return world.component(
        "node", "nsk8s.nodenetwork.main", "--kubeconfig", world.kubeconfig(api, directory), "--node-name", "node1",
        "--cluster-cidr", "10.244.0.0/16", "--node-cidr", "192.168.77.0/24", "--service-cidr", "10.96.0.0/16",
        "--cni-conf-dir", str(directory / "net.d"), "--iptables", variant,
    )  # fmt: skip


def routes(world: World) -> str:
    return world.sh("node", "ip route show proto 118")


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_a_node_joins_and_others_come_and_go(world: World, api: FakeApi, tmp_path: Path, variant: str) -> None:
    conflist = tmp_path / "net.d" / "10-nsk8s.conflist"
    api.put(node("node1", world.NODE), node("node2", world.NODE2, "10.244.2.0/24"))
    world.sh("node", "ip route add 10.244.9.0/24 via 192.168.77.12")  # somebody else's: stays for ever
    start(world, api, tmp_path, variant)
    eventually(lambda: routes(world))
    assert not conflist.exists(), "the node has no pod CIDR yet"
    api.put(node("node1", world.NODE, "10.244.1.0/24"))
    eventually(conflist.exists)
    written = json.loads(conflist.read_text())
    assert (written["cniVersion"], written["name"]) == ("1.0.0", "nsk8s")
    assert written["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert [p.name for p in conflist.parent.iterdir()] == ["10-nsk8s.conflist"]
    eventually(lambda: api.patches)
    assert api.patches[0]["status"]["conditions"][0] | {"lastHeartbeatTime": 0, "lastTransitionTime": 0} == {
        "type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated",
        "message": "node-network wrote the CNI configuration and the routes", "lastHeartbeatTime": 0, "lastTransitionTime": 0,
    }  # fmt: skip
    # Pod to pod on another node: no NAT. Pod to outside: as the node.
    assert world.ask("a", R, 8080) == f"r {A}"
    assert world.ask("node", R, 8080) == f"r {world.NODE}"
    world.sh("outside", f"ip route add 10.244.1.0/24 via {world.NODE}")
    assert world.ask("a", world.OUTSIDE, 8080) == f"outside {A}", "the nodes' subnet is not masqueraded to"


def test_what_leaves_the_cluster_comes_from_the_node(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(node("node1", world.NODE, "10.244.1.0/24"), node("node2", world.NODE2, "10.244.2.0/24"))
    start(world, api, tmp_path)
    eventually(lambda: "NSK8S-MASQ" in world.sh("node", "iptables-nft-save"))
    assert world.ask("a", "203.0.113.10", 8080) == f"outside {world.NODE}"
    assert world.ask("node", "203.0.113.10", 8080) == f"outside {world.NODE}"


def test_routes_are_exactly_the_other_nodes(world: World, api: FakeApi, tmp_path: Path) -> None:
    foreign = "10.244.9.0/24 via 192.168.77.12 dev eth0"
    world.sh("node", "ip route add 10.244.9.0/24 via 192.168.77.12")
    api.put(node("node1", world.NODE, "10.244.1.0/24"), node("node2", world.NODE2, "10.244.2.0/24"))
    process = start(world, api, tmp_path)
    eventually(lambda: routes(world).split() == ["10.244.2.0/24", "via", world.NODE2, "dev", "eth0"])
    api.put(node("node3", "192.168.77.13", "10.244.3.0/24"), node("node4", "192.168.77.14", "10.244.9.0/24"))
    eventually(lambda: "10.244.3.0/24 via 192.168.77.13" in routes(world))
    api.put(node("node3", "192.168.77.33", "10.244.3.0/24"))
    eventually(lambda: "10.244.3.0/24 via 192.168.77.33" in routes(world))
    assert len(routes(world).splitlines()) == 2
    process.kill()
    process.wait()
    api.delete("Node", "node3")
    start(world, api, tmp_path)  # what it set in an earlier life is removed as well
    eventually(lambda: len(routes(world).splitlines()) == 1)
    api.delete("Node", "node4")
    api.delete("Node", "node2")
    eventually(lambda: not routes(world))
    assert foreign in world.sh("node", "ip route"), "a route that is not marked as ours"


def test_beside_kube_proxy(world: World, api: FakeApi, tmp_path: Path) -> None:
    """Both write into POSTROUTING; neither disturbs the other, whoever comes first."""
    api.put(node("node1", world.NODE, "10.244.1.0/24"), node("node2", world.NODE2, "10.244.2.0/24"),
            service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050}),
            endpoint_slice("web", (R, "node2")))  # fmt: skip
    start(world, api, tmp_path)
    world.proxy(api, tmp_path)
    eventually(lambda: world.ask("a", "10.96.0.50", 80, timeout_s=0.3) == f"r {A}")
    assert world.ask("outside", world.NODE, 30050) == f"r {world.NODE}"
    assert world.ask("a", "203.0.113.10", 8080) == f"outside {world.NODE}"
    hooks = world.sh("node", "iptables-nft -t nat -S POSTROUTING")
    assert hooks.count("NSK8S-MASQ") == hooks.count("KUBE-POSTROUTING") == 1
