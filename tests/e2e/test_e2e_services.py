"""Services in a whole cluster in nftables mode, and switching every node to iptables while it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from e2e_cluster import ask, get, netns, nsk8s, pods, until
from e2e_settled import pods_are_reached

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"
NODES = ("control-plane", "node1", "node2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    config = tmp_path_factory.mktemp("services") / "cluster.yaml"
    config.write_text(json.dumps({"nodes": 2, "proxy": {"mode": "nftables"}}))
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(config))
        nsk8s("apply", "-f", str(HELLO))
        until("three ready pods", lambda: len(pods()) == 3)
        pods_are_reached(NODES)
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def hello() -> tuple[str, int, int]:
    """ClusterIP, port and node port of the service."""
    spec = get("service", "hello")["spec"]
    return spec["clusterIP"], spec["ports"][0]["port"], spec["ports"][0]["nodePort"]


def everybody_is_answered() -> None:
    ip, port, node_port = hello()
    pod = pods()[0]["metadata"]["name"]
    names = {p["metadata"]["name"] for p in pods()}
    for source, url in (
        ((f"pod/{pod}",), f"http://{ip}:{port}"),
        (("node/node1",), f"http://{ip}:{port}"),
        (("client",), f"http://{node_address('node2')}:{node_port}"),
    ):
        assert ask(source, url)["pod"] in names, (source, url)


def node_address(name: str) -> str:
    return next(a["address"] for a in get("node", name)["status"]["addresses"] if a["type"] == "InternalIP")


def addresses() -> set[str]:
    """Those of the ready pods."""
    return {p["status"]["podIP"] for p in pods()}


def in_nftables(node: str) -> set[str]:
    """The endpoints of the service in a node's rules."""
    return set(re.findall(r"-default/hello/tcp/http__([\d.]+)/8080", netns(node, "nft", "list", "table", "ip", "kube-proxy").stdout))


def in_iptables(node: str) -> set[str]:
    return set(re.findall(r"--to-destination ([\d.]+):8080", netns(node, "iptables-save", "-t", "nat").stdout))


def test_nftables_mode_serves_the_cluster(cluster: None) -> None:
    for node in NODES:
        # With the drop of what no Service has: the API has ServiceCIDRs, of which kube-proxy may hear after its first sync.
        rule = "ip daddr 10.96.0.0/16 drop"
        until(rule, lambda node=node, rule=rule: rule in netns(node, "nft", "list", "table", "ip", "kube-proxy").stdout)
        until(f"the pods in the rules of {node}", lambda node=node: in_nftables(node) == addresses())
        assert "KUBE-SVC" not in netns(node, "iptables-save").stdout
    everybody_is_answered()


def test_a_scaled_service_has_its_rules_in_a_moment(cluster: None) -> None:
    nsk8s("scale", "deployment/hello", "--replicas=5")
    until("five ready pods", lambda: len(pods()) == 5)
    for node in NODES:
        until(f"five endpoints on {node}", lambda node=node: len(in_nftables(node)) == 5)
    everybody_is_answered()


def test_rules_are_shown_in_nftables_mode(cluster: None) -> None:
    shown = json.loads(nsk8s("rules", "hello", "--node", "node1", "-o", "json").stdout)
    assert shown["mode"] == "nftables"
    assert [entry["chain"] for entry in shown["rules"]] == ["@service-ips", "@service-nodeports"]
    shown = json.loads(nsk8s("rules", "hello", "--node", "node1", "--mode", "iptables", "-o", "json").stdout)
    assert [entry["chain"] for entry in shown["rules"]] == ["KUBE-SERVICES", "KUBE-NODEPORTS"], "what they would be"
    shown = json.loads(nsk8s("rules", "hello", "--node", "node1", "--mode", "ipvs", "-o", "json").stdout)
    assert [entry["kind"] for entry in shown["rules"]] == ["cluster IP", "node port"]
    until("all pods are endpoints", lambda: in_nftables("node1") == addresses())
    shown = json.loads(nsk8s("rules", "hello", "--node", "node1", "--mode", "ipvs", "-o", "json").stdout)
    assert {r["real"].partition(":")[0] for r in shown["rules"][0]["rules"] if "real" in r} == addresses()
    text = nsk8s("rules", "hello", "--node", "node1").stdout
    assert all(f"(pod {p['metadata']['name']} on {p['spec']['nodeName']})" in text for p in pods())


def switch(old: str, new: str) -> None:
    """Write it in each node's file: kube-proxy ends for that, as upstream's does, and the supervisor starts another."""
    path = "/var/lib/kube-proxy/config.conf"
    for node in NODES:
        nsk8s("enter", f"node/{node}", "--", "sed", "-i", f"s/^mode: {old}/mode: {new}/", path)


def test_switching_to_iptables_leaves_nothing_of_nftables_mode(cluster: None) -> None:
    switch("nftables", "iptables")
    for node in NODES:
        until(f"{node} in iptables mode", lambda node=node: in_iptables(node) == addresses())
        until(f"no table on {node}", lambda node=node: "kube-proxy" not in netns(node, "nft", "list", "tables").stdout)
    assert json.loads(nsk8s("status", "-o", "json").stdout)["proxyMode"] == "iptables", "not what the cluster was made with"
    everybody_is_answered()


def test_switching_to_userspace_makes_kube_proxy_a_proxy(cluster: None) -> None:
    switch("iptables", "userspace")
    for node in NODES:
        for chain in ("KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST", "KUBE-NODEPORT-CONTAINER"):
            rule = re.compile(rf"^-A {chain} .*default/hello:http", re.MULTILINE)
            until(f"{chain} on {node}", lambda node=node, rule=rule: rule.search(netns(node, "iptables-save", "-t", "nat").stdout))
        until(f"no other rules on {node}", lambda node=node: "KUBE-SVC-" not in netns(node, "iptables-save", "-t", "nat").stdout)
    everybody_is_answered()
    port = hello()[1]
    asker = pods()[0]
    # The DNS' Service, UDP, is proxied as well.
    asked = json.loads(nsk8s("exec", asker["metadata"]["name"], "--", "curl", "-s", "-m", "20", f"http://hello.default:{port}").stdout)
    node = asker["spec"]["nodeName"]
    assert asked["client"].rpartition(":")[0] in (node_address(node), gateway(node)), "its node asks for it"
    shown = json.loads(nsk8s("rules", "hello", "--node", "node1", "-o", "json").stdout)
    assert shown["mode"] == "userspace"
    assert {entry["chain"] for entry in shown["rules"]} >= {"KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST", "KUBE-NODEPORT-HOST"}
    assert "into kube-proxy's own socket" in nsk8s("rules", "hello").stdout


def gateway(node: str) -> str:
    """The address of a node's bridge."""
    cidr = ip_network(get("node", node)["spec"]["podCIDR"])
    return str(cidr[1])
