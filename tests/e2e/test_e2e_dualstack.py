"""A dual-stack cluster: every address twice, and by IPv6 as little is changed on the way as by IPv4.

The far end of a real exchange says whom it saw, and the connection tracking of every node on the way has that very exchange.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import e2e_matrix
import pytest
from e2e_cluster import Capture, apply, becomes, documents, get, in_pod, netns, nsk8s, pod, pods, until
from e2e_cluster import ask as ask_echo
from test_e2e_network import NODES, PODS, ask, cluster_of_peers, host
from test_e2e_routing import Pings, ping, stream

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
CONFIG = "nodes: 2\nnetwork: {ipFamilies: [IPv4, IPv6], policy: true}\n"
NODES6 = {"node1": "fd00:192:168:56::11", "node2": "fd00:192:168:56::12"}
MACHINES6 = {"control-plane": "fd00:192:168:56::10", **NODES6}
PORT = 7007
CLIENT6 = "2001:db8:203::10"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The IPv6 addresses of pods a1 and a2 on node1, b on node2, nodes and the client; a server for both families at each."""
    file = tmp_path_factory.mktemp("dualstack") / "cluster.yaml"
    file.write_text(CONFIG)
    with cluster_of_peers("-f", str(file), families=("4", "6")):
        yield {**{p: get(f"pod/{p}")["status"]["podIPs"][1]["ip"] for p in PODS}, **NODES6, "client": CLIENT6}


def routes(machine: str) -> dict[str, str]:
    """IPv6 destination → gateway of the routes that are nsk8s'."""
    lines = netns(machine, "ip", "-6", "route", "show", "proto", "118").stdout.splitlines()
    return {found[1]: found[2] for line in lines if (found := re.match(r"(\S+) via (\S+) dev eth0", line))}


def answers(place: str, address: str) -> bool:
    return nsk8s("enter", place, "--", "ping", "-n", "-c", "1", "-W", "2", address, ok=False).returncode == 0


def reaches(source: str, address: str) -> bool:
    """Whether a TCP connection from a pod to the server at an address is opened; a policy drops its packets."""
    url = f"http://{f'[{address}]' if ':' in address else address}:{PORT}"
    done = nsk8s("enter", f"pod/{source}", "--", "curl", "-s", "--http0.9", "-m", "1", url, ok=False)
    return done.stdout != ""


def test_everything_has_both_addresses(addresses: dict[str, str]) -> None:
    nodes = {n["metadata"]["name"]: n for n in get("nodes")["items"]}
    for name, ip in NODES.items():
        held = [a["address"] for a in nodes[name]["status"]["addresses"] if a["type"] == "InternalIP"]
        assert held == [ip, NODES6[name]]
        four, six = nodes[name]["spec"]["podCIDRs"]
        assert nodes[name]["spec"]["podCIDR"] == four
        assert (ip_network(four).prefixlen, ip_network(six).prefixlen) == (24, 64)
        for pod_name in (p for p in PODS if PODS[p] == name):
            status = get(f"pod/{pod_name}")["status"]
            assert ip_address(status["podIP"]) in ip_network(four)
            assert ip_address(addresses[pod_name]) in ip_network(six)
            assert status["podIPs"] == [{"ip": status["podIP"]}, {"ip": addresses[pod_name]}]
            assert (status["hostIP"], status["hostIPs"]) == (ip, [{"ip": ip}, {"ip": NODES6[name]}])
    told = json.loads(nsk8s("status", "-o", "json").stdout)["machines"]
    assert [m["addresses"] for m in told if m["name"] == "node1"] == [[NODES["node1"], NODES6["node1"]]]
    assert nodes["node2"]["spec"]["podCIDRs"][1] in nsk8s("describe", "node", "node2").stdout
    done = nsk8s("link", "set", "node2", "--mtu", "1279", ok=False)
    assert done.stderr == "error: mtu: 1279 is too small for IPv6, which this cluster has → 1280 or more\n"


def test_a_pod_knows_its_addresses(addresses: dict[str, str]) -> None:
    def field(name: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"status.{name}"}}}

    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    serving = {"name": "main", "image": "nsk8s/echo", "ports": [{"containerPort": 8080, "hostPort": 8888}], "readinessProbe": probe,
               "env": [field(f) for f in ("podIP", "podIPs", "hostIP", "hostIPs")]}  # fmt: skip
    apply(pod("told", nodeName="node1", containers=[serving]), pod("onhost", nodeName="node2", hostNetwork=True))
    until("both are ready", lambda: pods("app=told") and pods("app=onhost"))
    four, six = (i["ip"] for i in get("pod/told")["status"]["podIPs"])
    environment = dict(line.partition("=")[::2] for line in in_pod("told", "env").splitlines())
    wanted = {
        "podIP": four,
        "podIPs": f"{four},{six}",
        "hostIP": NODES["node1"],
        "hostIPs": f"{NODES['node1']},{NODES6['node1']}",
    }
    assert wanted.items() <= environment.items()
    lines = in_pod("told", "cat", "/etc/hosts").splitlines()
    assert {f"{four}\ttold", f"{six}\ttold"} <= set(lines)
    assert get("pod/onhost")["status"]["podIPs"] == [{"ip": NODES["node2"]}, {"ip": NODES6["node2"]}]
    # hostPort: by either address of the node, and from outside the pod sees who asks.
    for node, client in ((NODES["node1"], "203.0.113.10"), (f"[{NODES6['node1']}]", CLIENT6)):
        answer = ask_echo(("client",), f"http://{node}:8888")
        assert (answer["pod"], host(answer["client"])) == ("told", client)


def check(mode: str, *, exposed: bool) -> None:
    """The whole table of who is seen as whom, for both families."""
    places = e2e_matrix.places((4, 6))
    until(f"mode {mode}", lambda: e2e_matrix.settled(mode, places, exposed=exposed))
    assert e2e_matrix.differences(ask, places, mode, exposed=exposed) == []


def switch(mode: str, expose: str = "pods", **more: str) -> None:
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "node-network", "namespace": "kube-system"},
           "data": {"mode": mode, "expose": expose, **more}})  # fmt: skip


def test_who_is_seen_as_whom(addresses: dict[str, str]) -> None:
    """In mode routes; the outside knows no pods until it is told."""
    check("routes", exposed=False)
    switch("routes")
    check("routes", exposed=True)


def test_a_policy_counts_for_both_families(addresses: dict[str, str]) -> None:
    from_a2 = {"ports": [{"port": PORT}], "from": [{"podSelector": {"matchLabels": {"app": "a2"}}}]}
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "only-a2"},
        "spec": {"podSelector": {"matchLabels": {"app": "a1"}}, "ingress": [from_a2]},
    }  # fmt: skip
    both = {"4": get("pod/a1")["status"]["podIP"], "6": addresses["a1"]}
    apply(policy)
    try:
        until("b is kept out", lambda: not any(reaches("b", ip) for ip in both.values()))
        until("a2 is let in", lambda: all(reaches("a2", ip) for ip in both.values()))
        block = {"cidr": f"{addresses['b']}/128"}
        policy["spec"]["ingress"] = [{"from": [{"ipBlock": block}]}]  # type: ignore[index]
        apply(policy)
        until("b may come by IPv6", lambda: reaches("b", both["6"]))
        assert not reaches("b", both["4"])
    finally:
        nsk8s("delete", "networkpolicy", "only-a2")
    until("b is let in again", lambda: all(reaches("b", ip) for ip in both.values()))


def redirects() -> list[str]:
    """Machines that sent an ICMPv6 redirect, or got one."""
    counters = ("Icmp6OutRedirects", "Icmp6InRedirects")
    text = {m: netns(m, "cat", "/proc/net/snmp6").stdout for m in ("router", "node1", "node2")}
    return [m for m in text if any(line.split()[0] in counters and line.split()[1] != "0" for line in text[m].splitlines())]


def test_a_tunnel_for_each_family(addresses: dict[str, str], tmp_path: Path) -> None:
    pings = Pings("a1", addresses["b"])
    switch("vxlan", "")
    check("vxlan", exposed=False)
    assert pings.lost() == 0
    switch("vxlan")
    check("vxlan", exposed=True)
    held = get("node/node2")["metadata"]["annotations"]
    assert held["flannel.alpha.coreos.com/public-ipv6"] == NODES6["node2"]
    capture = Capture(tmp_path, "node1", expression="ip6 and udp port 8472")
    try:
        assert answers("pod/a1", addresses["b"])
        packets = "\n".join(capture.until("echo reply"))
    finally:
        capture.stop()
    assert re.search(
        rf"{NODES6['node1']}\.\d+ > {NODES6['node2']}\.8472: .*instance 1\s+IP6 {addresses['a1']} > {addresses['b']}:", packets
    )


def test_path_mtu_in_a_tunnel(addresses: dict[str, str]) -> None:
    """Pods from before the switch have an MTU of 1,500: their node says how much fits, 20 bytes less in IPv6 than in IPv4."""
    b4 = get("pod/b")["status"]["podIP"]
    for address, most, says in (
        (b4, 1450, "From 10.244.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1450)"),
        (addresses["b"], 1430, "From fd00:10:244:1::1 icmp_seq=1 Packet too big: mtu=1430"),
    ):
        headers = 48 if ":" in address else 28
        assert "1 received" in ping("pod/a1", address, "-M", "do", "-s", str(most - headers))
        assert says in ping("pod/a1", address, "-M", "do", "-s", str(most + 1 - headers))
        assert f"mtu {most}" in in_pod("a1", "ip", "route", "get", address), "it remembers"
        assert stream("a2", "b", address) == 3_000_000, "TCP finds its size by itself"
        assert f"mtu {most}" in in_pod("a2", "ip", "route", "get", address)
    # One made now has what fits into both tunnels, and so hears it from its own kernel; from outside: the node in front of it says it.
    apply(pod("new", nodeName="node2"))
    until("it is ready", lambda: pods("app=new"))
    assert "mtu 1430" in in_pod("new", "ip", "link", "show", "eth0")
    four, six = (i["ip"] for i in get("pod/new")["status"]["podIPs"])
    for address in (get("pod/a1")["status"]["podIP"], addresses["a1"]):
        headers = 48 if ":" in address else 28
        assert "1 received" in ping("pod/new", address, "-M", "do", "-s", str(1430 - headers))
        assert "+1 errors" in ping("pod/new", address, "-M", "do", "-s", str(1431 - headers))
    assert f"From {NODES['node2']} icmp_seq=1 Frag needed and DF set (mtu = 1430)" in ping(
        "client", four, "-M", "do", "-s", "1472"
    )
    assert f"From {NODES6['node2']} icmp_seq=1 Packet too big: mtu=1430" in ping("client", six, "-M", "do", "-s", "1452")


def test_a_router_that_knows_the_pods(addresses: dict[str, str]) -> None:
    pings = Pings("a1", addresses["b"])
    switch("router", "services")
    check("router", exposed=False)
    assert pings.lost() == 0
    assert redirects() == [], "the shorter way is not for nodes to know"
    metrics = ("curl", "-g", "-s", "-m", "5", "http://[fd00:10:96::a]:9153/metrics")
    until("the DNS' other ClusterIP answers", lambda: "coredns" in netns("client", *metrics).stdout)
    assert ask("client", "fd00:10:96::77", "tcp")["unreachable"] == [[1, 0, "fd00:192:168:56::1"]], "what no Service has"


def sessions(node: str) -> dict[str, str]:
    """neighbour → state, as birdc shows them."""
    lines = nsk8s("enter", node, "--", "birdc", "show", "protocols", ok=False).stdout.splitlines()
    return {words[0]: words[-1] for words in map(str.split, lines) if len(words) > 1 and words[1] == "BGP"}


def test_bgp_for_each_family(addresses: dict[str, str], tmp_path: Path) -> None:
    """In a mesh and with a reflector; test_e2e_bgp.py has what happens when speakers die."""
    capture = Capture(tmp_path, "node1", expression="ip6 and tcp port 179")
    pings = Pings("a1", addresses["b"])
    try:
        switch("bgp")
        check("bgp", exposed=True)
        capture.until(rf"{NODES6['node2']}\.\d+ > {NODES6['node1']}\.\d+: .*BGP")
    finally:
        capture.stop()
    assert pings.lost() == 0
    both = {f"mesh{family}_{name}": "Established" for family in ("", "6") for name in ("control_plane", "node2")}
    becomes("one session a family", lambda: sessions("node1"), both)
    pings = Pings("a1", addresses["b"])
    switch("bgp", "", bgpTopology="reflector")
    until(
        "the router tells all",
        lambda: all(sessions(m) == dict.fromkeys(("reflector", "reflector6"), "Established") for m in MACHINES6),
    )
    check("bgp", exposed=False)
    assert pings.lost() == 0


def test_back_to_routes(addresses: dict[str, str]) -> None:
    pings = Pings("a1", addresses["b"])
    switch("routes", "")
    check("routes", exposed=False)
    assert pings.lost() == 0


def test_nodes_come_and_go(addresses: dict[str, str]) -> None:
    subnets = {n: get(f"node/{n}")["spec"]["podCIDRs"][1] for n in MACHINES6}
    becomes("every way", lambda: routes("node1"), {subnets[m]: ip for m, ip in MACHINES6.items() if m != "node1"})
    nsk8s("node", "stop", "node2")
    nsk8s("node", "start", "node2")
    assert answers("node1", MACHINES6["node2"]), "at once"
    until("b runs again", lambda: any(answers("pod/a1", i["ip"]) for i in get("pod/b")["status"].get("podIPs", [])[1:]))
    until("b reaches the outside", lambda: answers("pod/b", CLIENT6))  # another pod may have the address that b had before
    nsk8s("node", "add", "late")
    held = [a["address"] for a in get("node/late")["status"]["addresses"] if a["type"] == "InternalIP"]
    assert held == ["192.168.56.13", "fd00:192:168:56::13"]
    until("it is known", lambda: "fd00:192:168:56::13" in routes("node1").values())
    nsk8s("node", "remove", "late")
    until("it is forgotten", lambda: "fd00:192:168:56::13" not in routes("node1").values())


@pytest.mark.slow
def test_racks_by_ipv6(tmp_path: Path) -> None:
    """After the others: it takes their cluster away."""
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "racks: [{name: a, subnet: 192.168.56.0/24}, {name: b, subnet: 192.168.57.0/24}]\n"
        "nodes: [{name: node1}, {name: node2, rack: b}]\nnetwork: {ipFamilies: [IPv4, IPv6]}\n"
    )
    with cluster_of_peers("-f", str(file), families=("4", "6")):
        assert e2e_matrix.places((6,))[6]["node2"] == "fd00:192:168:57::12"
        for mode in ("routes", "vxlan", "router", "bgp"):
            switch(mode)
            check(mode, exposed=True)
        switch("bgp", bgpTopology="reflector")
        until("the router tells all", lambda: all(sessions(m) == dict.fromkeys(("reflector", "reflector6"), "Established") for m in MACHINES6))
        check("bgp", exposed=True)


@pytest.mark.slow
def test_ipv6_first(tmp_path: Path) -> None:
    """After the others: it takes their cluster away. (test_e2e_ipv6.py has IPv6 alone.)"""
    nsk8s("down", "-q", ok=False)
    file = tmp_path / "cluster.yaml"
    file.write_text("nodes: 2\nnetwork: {ipFamilies: [IPv6, IPv4]}\n")
    nsk8s("up", "-q", "-f", str(file))
    apply(*documents("hello.yaml"))
    until("the pods are ready", lambda: len(pods()) == 3)
    for node in get("nodes")["items"]:
        assert [ip_network(c).version for c in node["spec"]["podCIDRs"]] == [6, 4]
        assert node["status"]["addresses"][0]["address"] == MACHINES6[node["metadata"]["name"]]
    assert [ip_address(i["ip"]).version for i in pods()[0]["status"]["podIPs"]] == [6, 4]
    assert ":" in get("service/kubernetes")["spec"]["clusterIP"]
    answer = ask_echo(("client",), f"http://[{NODES6['node1']}]:30080")
    assert ip_address(host(answer["address"])) in ip_network("fd00:10:244::/56")
    name = pods()[0]["metadata"]["name"]
    script = "import urllib.request as u; print(u.urlopen('http://hello', timeout=5).status)"
    until("it answers by name", lambda: nsk8s("exec", name, "--", "python3", "-c", script, ok=False).stdout == "200\n")
    assert "listening" in nsk8s("logs", name).stdout
