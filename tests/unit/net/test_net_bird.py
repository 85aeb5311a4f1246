"""BIRD's configuration, as text, against tests/golden; and what BIRD itself says to it where it is installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nsk8s import config
from nsk8s.cluster import preflight, specs
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import bird as daemon
from nsk8s.net import bird, podnet
from nsk8s.net.podnet import Bgp, Settings

GOLDEN = Path(__file__).parents[2] / "golden"


def node(name: str, ips: list[str], cidrs: list[str]) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips]
    return {"metadata": {"name": name}, "spec": {"podCIDRs": cidrs}, "status": {"addresses": addresses}}


NODES = [
    node("node1", ["192.168.56.11", "fd00:56::b"], ["10.244.1.0/24", "fd00:244:0:1::/64"]),
    node("control-plane", ["192.168.56.10", "fd00:56::a"], ["10.244.0.0/24", "fd00:244::/64"]),
    node("far", ["192.168.57.12"], ["10.244.2.0/24"]),
    node("new", ["192.168.56.13"], []),
    node("odd", ["192.168.56.14"], ["nonsense"]),
    node("six-only", ["192.168.56.15"], ["fd00:244:0:5::/64"]),
]
ONLY6 = [node("node1", ["fd00:56::b"], ["fd00:244:0:1::/64"]), node("control-plane", ["fd00:56::a"], ["fd00:244::/64"])]
PODS = ["10.244.0.0/16", "fd00:244::/48"]
CONFIGURATIONS = {
    "bird_mesh.conf": bird.for_node("node1", NODES, Bgp(), uplink="eth0", pods=PODS),
    "bird_client.conf": bird.for_node(
        "far", NODES, Bgp("reflector", 65001, 9), uplink="eth0", pods=PODS, gateways=["192.168.57.1", "fe80::1"]
    ),
    "bird_reflector.conf": bird.for_reflector({4: "192.168.56.1"}, NODES, Bgp("reflector", 65001, 9), pods=PODS),
    "bird_ipv6_mesh.conf": bird.for_node("node1", ONLY6, Bgp(), uplink="eth0", pods=PODS[1:]),
    "bird_ipv6_client.conf": bird.for_node(
        "node1", ONLY6, Bgp("reflector"), uplink="eth0", pods=PODS[1:], gateways=["fd00:56::1"]
    ),
    "bird_ipv6_reflector.conf": bird.for_reflector({6: "fd00:56::1"}, ONLY6, Bgp("reflector"), pods=PODS[1:]),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_whole_text(name: str) -> None:
    path = GOLDEN / name
    assert CONFIGURATIONS[name] == path.read_text(), f"`python {__file__}` writes it down"


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.skipif(daemon.program() is None, reason="bird is not installed (apt-get install bird2)")
def test_bird_understands_it(name: str) -> None:
    done = subprocess.run([str(daemon.program()), "-p", "-c", str(GOLDEN / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_node_without_a_subnet_has_nothing_to_say() -> None:
    for name in ("new", "odd", "six-only", "nobody"):
        assert bird.for_node(name, NODES, Bgp(), uplink="eth0", pods=PODS) == ""
    assert "new" not in CONFIGURATIONS["bird_mesh.conf"]


def test_names_that_look_alike_in_bird_are_told_apart() -> None:
    twins = [node(name, [f"192.168.56.{i}"], [f"10.244.{i}.0/24"]) for i, name in enumerate(("a-b", "a.b", "c"), 11)]
    text = bird.for_node("c", twins, Bgp(), uplink="eth0", pods=PODS)
    assert len(set(re.findall(r"protocol bgp (\w+) from", text))) == 2


def test_a_router_id_is_the_address_or_made_of_the_name() -> None:
    assert bird.router_id("n", {4: "10.0.0.1", 6: "fd00::1"}) == "10.0.0.1"
    ids = {bird.router_id(f"node{i}", {6: "fd00::1"}) for i in range(100)}
    assert len(ids) == 100
    assert "0.0.0.0" not in ids


def test_the_config_map_wins() -> None:
    started = Settings("bgp", frozenset(), Bgp("mesh", 65000, 30))
    assert podnet.override(started, {"data": {"bgpTopology": "reflector", "bgpHoldTime": "9"}}).bgp == Bgp("reflector", 65000, 9)
    assert podnet.override(started, None) == started
    for key, value, says in (
        ("bgpTopology", "star", "bgpTopology: 'star' is none of mesh, reflector"),
        ("bgpAsn", "0", "bgpAsn: '0' is not a number between 1 and 4294967294"),
        ("bgpHoldTime", "1", "bgpHoldTime: '1' is not a number between 3 and 65535"),
        ("bgpHoldTime", "soon", "bgpHoldTime: 'soon' is not a number"),
    ):
        with pytest.raises(ValueError, match=says):
            podnet.override(started, {"data": {key: value}})


def test_without_bird_the_mode_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config.parse({"network": {"mode": "bgp", "bgp": {"topology": "reflector", "holdTime": 9}}}, "x")
    monkeypatch.setattr(daemon.probe, "which", lambda program: None)
    with pytest.raises(Nsk8sError, match=r"network\.mode bgp: bird is missing on this machine") as e:
        preflight.require_network(wanted)
    assert e.value.remedy.startswith("apt-get install bird2")
    assert specs._network(wanted) == ["--mode=bgp", "--bgp-topology=reflector", "--bgp-hold-time=9"]
    assert specs._network(config.parse({}, "x")) == ["--mode=routes"]


if __name__ == "__main__":
    for name, text in CONFIGURATIONS.items():
        (GOLDEN / name).write_text(text)
