"""The routing modes: which is in force, what a node tells of its end of the VXLAN, and what it makes of others'."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from nsk8s import config
from nsk8s.client import podnetconfig
from nsk8s.cluster import lifecycle, preflight, specs
from nsk8s.cluster.state import ClusterState, Paths
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import bird, routes
from nsk8s.kernel.routes import Via, changes
from nsk8s.net import podnet
from nsk8s.net.podnet import Settings
from nsk8s.nodenetwork import plan
from nsk8s.nodenetwork.agent import Agent
from nsk8s.nodenetwork.cnifiles import CniFiles
from nsk8s.nodenetwork.plan import Peer

if TYPE_CHECKING:
    from nsk8s.client.rest import Client

MACS = {1: "0a:00:00:00:00:01", 2: "0a:00:00:00:00:02"}
EXPOSED = Settings("routes", frozenset({"pods"}))


def node(number: int, annotations: dict[str, Any] | None = None, *cidrs: str) -> dict[str, Any]:
    return {
        "metadata": {"name": f"node{number}", "annotations": annotations or {}},
        "spec": {"podCIDRs": list(cidrs) or [f"10.244.{number}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.56.{10 + number}"}]},
    }


def vtep(number: int, **changed: Any) -> dict[str, Any]:
    found = node(number, plan.vtep_annotations(node(number), {plan.OVERLAY: MACS[number]}))
    found["metadata"]["annotations"].update({f"flannel.alpha.coreos.com/{k.replace('_', '-')}": v for k, v in changed.items()})
    return found


def test_a_node_writes_what_flannel_writes() -> None:
    one = node(1)
    assert {k: v for k, v in plan.vtep_annotations(one, {plan.OVERLAY: MACS[1]}).items() if v} == {
        "flannel.alpha.coreos.com/backend-data": '{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}',
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/public-ip": "192.168.56.11",
    }
    one["status"]["addresses"].append({"type": "InternalIP", "address": "fd56::11"})
    both = plan.vtep_annotations(one, {plan.OVERLAY: MACS[1], plan.OVERLAY6: MACS[2]})
    assert both["flannel.alpha.coreos.com/backend-v6-data"] == '{"VNI":1,"VtepMAC":"0a:00:00:00:00:02"}'
    assert both["flannel.alpha.coreos.com/public-ipv6"] == "fd56::11"
    assert set(plan.vtep_annotations(node(1), {}).values()) == {None}, "a patch with nulls takes them away"


def test_peers_are_the_other_nodes_with_an_end() -> None:
    nodes = [vtep(2), vtep(1), node(3), node(4, None, "fd00:4::/64")]
    assert plan.peers(nodes, "node1") == [Peer("10.244.2.0/24", "10.244.2.0", MACS[2], "192.168.56.12")]
    two = node(2, vtep(2)["metadata"]["annotations"], "fd00:2::/64", "10.244.2.0/24")
    assert [p.cidr for p in plan.peers([two], "node1")] == ["10.244.2.0/24"], "the IPv4 one of two"
    data = {"backend-v6-data": '{"VNI":1,"VtepMAC":"0a:00:00:00:00:09"}', "public-ipv6": "fd56::12"}
    two["metadata"]["annotations"] |= {f"flannel.alpha.coreos.com/{k}": v for k, v in data.items()}
    assert plan.peers([two], "node1", plan.OVERLAY6) == [Peer("fd00:2::/64", "fd00:2::", "0a:00:00:00:00:09", "fd56::12")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend_type": "host-gw"}, {"backend_data": "null"}, {"backend_data": "{"}, {"backend_data": "[]"},
        {"backend_data": '{"VNI":7,"VtepMAC":"0a:00:00:00:00:02"}'}, {"backend_data": '{"VtepMAC":"x"}'},
        {"backend_data": '{"VtepMAC":null}'}, {"public_ip": "fd56::12"}, {"public_ip": ""}, {"kube_subnet_manager": "false"},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_not_a_peer(wrong: dict[str, str]) -> None:
    assert plan.peers([vtep(2, **wrong)], "node1") == []


def test_a_node_without_a_subnet_is_not_a_peer() -> None:
    fresh = vtep(2)
    fresh["spec"] = {}
    assert plan.peers([fresh, vtep(2) | {"spec": {"podCIDRs": ["x"]}}], "node1") == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, EXPOSED),
        ({}, EXPOSED),
        ({"mode": "vxlan"}, Settings("vxlan", EXPOSED.expose)),
        ({"mode": " router\n", "expose": ""}, Settings("router")),
        ({"expose": "services, pods"}, Settings("routes", frozenset({"pods", "services"}))),
    ],
)
def test_the_config_map_wins_over_the_flags(data: dict[str, str] | None, expected: Settings) -> None:
    assert podnet.override(EXPOSED, None if data is None else {"data": data}) == expected


@pytest.mark.parametrize("data", [{"mode": "ospf"}, {"mode": ""}, {"expose": "nodes"}])
def test_nonsense_in_it_is_named(data: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(data))):
        podnet.override(EXPOSED, {"data": data})


def test_when_the_router_knows_pods() -> None:
    assert [Settings(m).router_knows_pods for m in podnet.MODES] == [False, False, True, False]
    assert EXPOSED.router_knows_pods


def test_a_route_through_another_link_is_another_route() -> None:
    have = {"10.244.2.0/24": Via("192.168.56.12"), "10.244.3.0/24": Via("10.244.3.0", 5), "10.244.4.0/24": Via("10.244.4.0", 5)}
    want = {"10.244.2.0/24": Via("10.244.2.0", 5), "10.244.3.0/24": Via("10.244.3.0", 6)}
    assert changes(have, want) == (want, ["10.244.4.0/24"])


def test_the_conflist_says_how_much_fits_into_a_tunnel() -> None:
    bridge = json.loads(plan.conflist(["10.244.1.0/24"], mtu=1450))["plugins"][0]
    assert bridge["mtu"] == 1450
    assert "mtu" not in json.loads(plan.conflist(["10.244.1.0/24"]))["plugins"][0]


def test_every_part_is_told() -> None:
    asked = config.parse({"network": {"mode": "vxlan", "expose": ["pods"]}, "loadBalancer": {"mode": "l2"}}, "x")
    (router,) = specs.router(Paths("x"), asked)
    assert {"--mode=vxlan", "--expose=pods", "--service-cidr=10.96.0.0/16"} <= set(router["argv"])
    assert not any("pool" in word for word in router["argv"]), "layer 2 addresses are not led through it"
    assert "--mode=routes" in specs.router(Paths("x"), config.parse({}, "x"))[0]["argv"]


def test_what_is_no_mode_is_refused() -> None:
    with pytest.raises(Nsk8sError, match=r"network.mode: Input should be 'routes', 'vxlan', 'router' or 'bgp', not 'ospf'"):
        config.parse({"network": {"mode": "ospf"}}, "cluster.yaml")
    with pytest.raises(Nsk8sError, match=r"network.modus: there is no such setting, did you mean mode\?"):
        config.parse({"network": {"modus": "vxlan"}}, "cluster.yaml")


def test_a_kernel_without_vxlan_is_told_from_one_with(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = [("vxlan", "Operation not supported", "modprobe vxlan")]
    monkeypatch.setattr(preflight.probe, "optional_features", lambda names=None: tried)
    vxlan = config.parse({"network": {"mode": "vxlan"}}, "x")
    with pytest.raises(Nsk8sError, match=r"network\.mode vxlan: this kernel cannot do vxlan: Operation not supported") as e:
        preflight.require_network(vxlan)
    assert e.value.remedy == "modprobe vxlan"
    preflight.require_network(config.parse({"network": {"mode": "router"}}, "x"))
    tried[0] = ("vxlan", "", "")
    preflight.require_network(vxlan)


def test_a_running_cluster_is_switched_by_the_config_map() -> None:
    state = ClusterState({"name": "x"}, 6443, [])
    lifecycle._require_same(config.parse({"name": "x", "network": {"mode": "routes"}}, "x"), state)
    with pytest.raises(Nsk8sError, match=r"other settings \(network\)") as e:
        lifecycle._require_same(config.parse({"name": "x", "network": {"mode": "vxlan"}}, "x"), state)
    assert "ConfigMap kube-system/node-network" in e.value.remedy
    with pytest.raises(Nsk8sError, match=r"other settings \(network, proxy\)") as e:
        lifecycle._require_same(config.parse({"network": {"mode": "vxlan"}, "proxy": {"mode": "nftables"}}, "x"), state)
    assert "nsk8s down" in e.value.remedy


def test_a_config_map_comes_changes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    changes_heard: list[int] = []
    held = podnetconfig.PodNetworkConfig(cast("Client", None), EXPOSED, lambda: changes_heard.append(1))
    follow = held._informer._put
    assert held.in_force() == EXPOSED
    for data, mode in (({"mode": "vxlan"}, "vxlan"), ({"mode": "ospf"}, "vxlan"), ({"mode": "router"}, "router"), (None, "routes")):
        name = {"namespace": "kube-system", "name": "node-network", "resourceVersion": str(len(changes_heard))}
        follow(podnetconfig.NAME, None if data is None else {"metadata": name, "data": data})
        assert held.in_force().mode == held.in_force().mode == mode
    assert len(changes_heard) == 4
    assert [r.getMessage() for r in caplog.records if r.name == "podnetconfig"] == [
        "ConfigMap kube-system/node-network: mode: 'ospf' is none of routes, vxlan, router, bgp; still vxlan"
    ], "said once"


async def test_bgp_without_bird_is_told_whatever_was_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = Settings()
    agent = Agent("node1", (), (), cni=CniFiles(tmp_path, None, (), ()), kubeconfig_path="")
    agent._config = SimpleNamespace(in_force=lambda: asked)  # type: ignore[assignment]
    monkeypatch.setattr(bird, "program", lambda: None)
    for mode in ("routes", "bgp", "bgp", "vxlan", "bgp"):
        asked = Settings(mode)
        assert agent._in_force().mode == mode.replace("bgp", "routes")
    assert [r.getMessage().partition(":")[0] for r in caplog.records if r.levelname == "ERROR"] == ["mode bgp"] * 2


async def test_a_node_that_was_held_up_keeps_its_own_ways_until_the_new_neighbours_have_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What BIRD learnt from those of before is no reason: it forgets that as soon as it is told of the new ones."""
    now, settings = 100.0, Settings("bgp")
    other = "10.244.2.0/24"
    asked: list[str] = []
    bridged: dict[str, Via] = {}

    async def ensure(text: str) -> bool:
        asked.append(text)
        return True

    def put(want: dict[str, Via], own: Any = ()) -> tuple[list[str], list[str], dict[str, str]]:
        bridged.clear()
        bridged.update(want)
        return [], [], {}

    agent = Agent("node1", (), (), cni=CniFiles(tmp_path, None, (), ()), kubeconfig_path="")
    agent._config = SimpleNamespace(in_force=lambda: settings)  # type: ignore[assignment]
    agent._nodes = SimpleNamespace(items=lambda: [node(1), node(2)])  # type: ignore[assignment]
    agent._bird = SimpleNamespace(ensure=ensure)  # type: ignore[assignment]
    monkeypatch.setattr(bird, "program", lambda: "bird")
    monkeypatch.setattr(routes, "around", lambda: routes.Around(("192.168.56.0/24",), ()))
    monkeypatch.setattr(routes, "uplink", lambda: ("eth0", ("192.168.56.1",)))
    monkeypatch.setattr(routes, "ours", lambda: dict(bridged))
    monkeypatch.setattr(routes, "learnt", lambda: {other: "unicast"})  # of the mesh, then of the reflector
    monkeypatch.setattr(routes, "ensure", put)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

    async def reconcile() -> bool:
        """Whether the node has a way of its own after it."""
        force = agent._in_force()
        settled = now - agent._changed_at >= podnet.SETTLE_S
        agent._ensure_routes(node(1), force, {}, settled=settled)
        await agent._ensure_bird(force, settled=settled)
        return other in bridged

    assert not await reconcile(), "BGP's ways are enough"
    settings = Settings("bgp", bgp=podnet.Bgp(topology="reflector"))
    assert await reconcile(), "while sessions end and others begin"
    now += 10  # longer than all of it should have taken
    before = len(asked)
    assert await reconcile(), "only now BIRD is told"
    assert len(asked) == before + 1
    now += podnet.FORGET_S
    assert not await reconcile()
