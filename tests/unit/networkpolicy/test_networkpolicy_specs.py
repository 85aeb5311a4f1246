"""`network.policy` in cluster.yaml: what is started, in which order, with which flags."""

from __future__ import annotations

from typing import Any

import pytest

from nsk8s import config
from nsk8s.cluster import lifecycle, specs
from nsk8s.cluster.specs import Spec
from nsk8s.cluster.state import NodeState, Paths
from nsk8s.controllers.main import chosen
from nsk8s.errors import Nsk8sError
from nsk8s.networkpolicy.main import main


def started(document: dict[str, Any]) -> tuple[list[Spec], Spec]:
    """The processes of node1, and the API server."""
    asked = config.parse(document, "x")
    (apiserver,) = (s for s in specs.control_plane(Paths("x"), asked) if s["name"] == "kube-apiserver")
    return specs.node(Paths("x"), asked, NodeState("node1", "192.168.56.11")), apiserver


def test_it_is_off_by_default() -> None:
    for document in ({}, {"network": {"policy": False}}):
        node, apiserver = started(document)
        assert "network-policy" not in {s["name"] for s in node}
        assert "--network-policies-enforced" not in apiserver["argv"]


@pytest.mark.parametrize(("policy", "told"), [(False, True), (True, False)])
def test_somebody_says_that_nothing_enforces_policies_while_nothing_does(policy: bool, told: bool) -> None:
    asked = config.parse({"network": {"policy": policy}}, "x")
    (argv,) = (s["argv"] for s in specs.control_plane(Paths("x"), asked) if s["name"] == "kube-controller-manager")
    wanted = next((a.partition("=")[2] for a in argv if a.startswith("--controllers=")), "*")
    assert ("network-policy-notice-controller" in chosen(wanted)) is told
    assert "garbage-collector-controller" in chosen(wanted)


def test_it_comes_before_whatever_starts_pods() -> None:
    node, apiserver = started({"network": {"policy": True}})
    assert node[0]["name"] == "network-policy"
    assert "--cluster-cidr=10.244.0.0/16" in node[0]["argv"]
    assert "--network-policies-enforced" in apiserver["argv"]


@pytest.mark.parametrize(("nodes", "pause"), [(1, "0.05"), (3, "0.1"), (60, "0.5")])
def test_the_pause_grows_with_the_cluster_but_a_change_holds_within_a_second(nodes: int, pause: str) -> None:
    assert f"--min-sync-period={pause}" in started({"nodes": nodes, "network": {"policy": True}})[0][0]["argv"]


def test_a_living_cluster_does_not_change_it() -> None:
    class State:
        nodes = ()

        def cluster_config(self) -> config.ClusterConfig:
            return config.parse({}, "x")

    state: Any = State()
    with pytest.raises(Nsk8sError) as caught:
        lifecycle._require_same(config.parse({"network": {"policy": True}}, "x"), state)
    assert "nsk8s down" in caught.value.remedy
    with pytest.raises(Nsk8sError) as caught:
        lifecycle._require_same(config.parse({"network": {"mode": "vxlan"}}, "x"), state)
    assert "ConfigMap" in caught.value.remedy


def test_mistakes_in_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cluster-cidr", "10.244.0.1/16"]) == 2
    assert main(["--min-sync-period", "-1"]) == 2
    assert "host bits" in capsys.readouterr().err
