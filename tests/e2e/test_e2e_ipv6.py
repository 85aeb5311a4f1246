"""A cluster that has IPv6 and nothing else: it comes up, its Services are reached by name and by node port, in every routing mode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_cluster import apply, ask, becomes, get, in_pod, netns, nsk8s, pods, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"
NODE1 = "fd00:192:168:56::11"


@pytest.fixture(scope="module", params=["ecmp", pytest.param("l2", marks=pytest.mark.slow)])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("ipv6") / "cluster.yaml"
    config = {"nodes": 1, "network": {"ipFamilies": ["IPv6"]}, "loadBalancer": {"mode": request.param}}
    file.write_text(json.dumps(config))
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(file))
        nsk8s("apply", "-f", str(HELLO))
        until("three ready pods", lambda: len(pods()) == 3)
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def test_services_by_name_address_and_node_port(cluster: None) -> None:
    spec = get("service/hello")["spec"]
    assert (spec["ipFamilies"], spec["clusterIPs"]) == (["IPv6"], [spec["clusterIP"]])
    names = {p["metadata"]["name"] for p in pods()}
    node_port = spec["ports"][0]["nodePort"]
    assert ask(("client",), f"http://[{NODE1}]:{node_port}/")["pod"] in names
    assert ask(("node1",), f"http://[{spec['clusterIP']}]/")["pod"] in names
    asker = min(names)
    lookup = ("exec", asker, "--", "getent", "ahostsv6", "hello", "kubernetes.default")
    until("their names", lambda: {spec["clusterIP"], "fd00:10:96::1"} <= set(nsk8s(*lookup, ok=False).stdout.split()))
    assert in_pod(asker, "cat", "/etc/resolv.conf").splitlines()[1] == "nameserver fd00:10:96::a"
    assert f"to {spec['clusterIP']} port 80/tcp" in nsk8s("rules", "hello").stdout, "found without -6"
    assert spec["clusterIP"] in nsk8s("rules", "hello", "--mode", "nftables").stdout, "so is what would be"


def test_a_load_balancer(cluster: None) -> None:
    ports = [{"port": 80, "targetPort": 8080}]
    apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb"},
           "spec": {"type": "LoadBalancer", "selector": {"app": "hello"}, "ports": ports}})  # fmt: skip
    ingress = until("an address", lambda: get("service/lb")["status"]["loadBalancer"].get("ingress"))
    assert [i["ip"] for i in ingress] == ["fd00:10:100::1"]
    words = ("curl", "-g", "-s", "-m", "2", "http://[fd00:10:100::1]/")
    answer = until("it answers", lambda: netns("client", *words).stdout)
    assert json.loads(answer)["pod"] in {p["metadata"]["name"] for p in pods()}


def test_nothing_is_ipv4(cluster: None) -> None:
    assert "KUBE-SERVICES" in netns("node1", "ip6tables-save").stdout
    assert "KUBE-SERVICES" not in netns("node1", "iptables-save").stdout
    (cidr,) = get("node/node1")["spec"]["podCIDRs"]
    assert all(p["status"]["podIPs"] == [{"ip": p["status"]["podIP"]}] and ":" in p["status"]["podIP"] for p in pods())
    assert cidr == "fd00:10:244:1::/64"
    healthz = ("curl", "-g", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "3", f"http://[{NODE1}]:10256/healthz")
    becomes("kube-proxy's health", lambda: netns("client", *healthz).stdout, "200")


@pytest.mark.slow
def test_every_routing_mode(cluster: None) -> None:
    """Between the control plane and a pod on node1, by the mode's own way; the pod sees the address that this way gives."""
    target = pods()[0]["status"]["podIP"]
    via_node, via_router, own = "via fd00:192:168:56::11 dev eth0", "via fd00:192:168:56::1 dev eth0", "fd00:192:168:56::10"
    route = ("ip", "-6", "route", "get", target)
    birdc = ("enter", "control-plane", "--", "birdc", "show", "protocols")
    for mode, topology, way, seen in (
        ("routes", "mesh", f"{via_node} proto 118", own),
        ("vxlan", "mesh", "via fd00:10:244:1:: dev flannel-v6.1 proto 118", "fd00:10:244::"),
        ("bgp", "mesh", f"{via_node} proto bird", own),
        ("bgp", "reflector", f"{via_node} proto bird", own),
        ("router", "reflector", f"{via_router} src", own),
    ):
        apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "node-network", "namespace": "kube-system"},
               "data": {"mode": mode, "bgpTopology": topology}})  # fmt: skip
        until(f"{mode}'s way", lambda way=way: way in netns("control-plane", *route).stdout)
        if mode == "bgp":
            speaks = re.compile(rf"^{'mesh6_node1' if topology == 'mesh' else 'reflector6'} .*Established", re.MULTILINE)
            until(f"a session in the {topology}", lambda speaks=speaks: speaks.search(nsk8s(*birdc, ok=False).stdout))
        answer = ask(("node/control-plane",), f"http://[{target}]:8080/")
        assert answer["client"].startswith(f"[{seen}]:"), (mode, topology)
