"""Every way to route the pod network, one after another on one living cluster: addresses, hops, packet sizes, and no packet lost.

The cluster starts with `network.mode: routes` and `expose: [pods, services]`; the ConfigMap kube-system/node-network switches it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import e2e_matrix
import pytest
from e2e_cluster import NAME, Capture, apply, components, get, in_pod, kill, netns, nsk8s, pod, pods, until
from test_e2e_network import NODES, PODS, ROUTER, ask, cluster_of_peers

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
CONFIG = "nodes: 3\nnetwork: {mode: routes, expose: [pods, services]}\n"
MACHINES = {"control-plane": "192.168.56.10", **NODES, "node3": "192.168.56.13"}
NUMBER = {machine: i for i, machine in enumerate(MACHINES)}  # of its pods' subnet: 10.244.NUMBER.0/24


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of pods a1 and a2 on node1, b on node2, nodes and the client; a server listens at each."""
    file = tmp_path_factory.mktemp("routing") / "cluster.yaml"
    file.write_text(CONFIG)
    with cluster_of_peers("-f", str(file)) as found:
        yield found


def routes(machine: str) -> dict[str, str]:
    """destination → the rest of the line, of the routes that are nsk8s'."""
    lines = netns(machine, "ip", "-4", "route", "show", "proto", "118").stdout.splitlines()
    return {line.split()[-3 if line.startswith("unreachable") else 0]: line for line in lines if line[0].isdigit()}


def wanted(machine: str, mode: str) -> dict[str, str]:
    """What `routes` finds on a node in a mode."""
    if mode in ("router", "bgp"):
        return {}
    found = {}
    for other, ip in MACHINES.items():
        if other != machine:
            subnet = f"10.244.{NUMBER[other]}.0"
            found[f"{subnet}/24"] = f"{subnet}/24 via {subnet if mode == 'vxlan' else ip} dev " + (
                "flannel.1 onlink" if mode == "vxlan" else "eth0"
            )
    return found


def learnt(machine: str) -> dict[str, str]:
    """destination → gateway, of the routes that BIRD wrote."""
    lines = netns(machine, "ip", "-4", "route", "show", "proto", "bird").stdout.splitlines()
    return {words[0]: words[2] for words in map(str.split, lines) if words[0][0].isdigit()}


def has_device(machine: str) -> bool:
    return netns(machine, "ip", "link", "show", "flannel.1").returncode == 0


def as_wanted(mode: str) -> bool:
    if any(learnt(m) != ({f"10.244.{NUMBER[o]}.0/24": ip for o, ip in MACHINES.items() if o != m} if mode == "bgp" else {})
           for m in MACHINES):  # fmt: skip
        return False
    return all(
        {k: " ".join(v.split()) for k, v in routes(m).items()} == wanted(m, mode) and has_device(m) == (mode == "vxlan")
        for m in MACHINES
    )


def switch(mode: str, expose: str = "pods,services") -> None:
    """Tell the cluster, and return when every node has done it."""
    settings = {"mode": mode, "expose": expose}
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "node-network", "namespace": "kube-system"},
           "data": settings})  # fmt: skip
    in_force(mode, exposed="pods" in expose)


def in_force(mode: str, *, exposed: bool) -> None:
    """Return when every node has a mode's ways and no others, and the router those that it is to know."""
    places = e2e_matrix.places((4,))
    until(f"mode {mode}", lambda: as_wanted(mode) and e2e_matrix.settled(mode, places, exposed=exposed), 60)  # BGP begins with pauses


def ping(place: str, address: str, *options: str) -> str:
    """What `ping` says of one. It waits for an answer, or an error, for as long as a busy machine may need."""
    return nsk8s("enter", place, "--", "ping", "-n", "-c", "1", "-W", "10", *options, address, ok=False).stdout


def stream(source: str, target: str, address: str) -> int:
    """How many bytes of three million arrive when one pod sends them to another's address by TCP."""
    send = (
        "import socket,sys; s=socket.create_connection((sys.argv[1], 7008), 5); s.sendall(b'x'*3000000); s.shutdown(1); "
        "print(s.recv(20).decode())"
    )
    sink = (
        f"import socket; l=socket.create_server(('', 7008), family=socket.{'AF_INET6' if ':' in address else 'AF_INET'}); "
        "print('ready', flush=True); c=l.accept()[0]; n=0\nwhile d:=c.recv(65536): n+=len(d)\nc.sendall(str(n).encode())"
    )
    argv = [sys.executable, "-m", "nsk8s.cli.main", "enter", f"pod/{target}", "--", "/usr/bin/python3", "-c", sink]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "NSK8S_CLUSTER": NAME}) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        try:
            return int(nsk8s("enter", f"pod/{source}", "--", "/usr/bin/python3", "-c", send, address).stdout)
        finally:
            server.kill()


def hops(place: str, address: str) -> int:
    """How many routers the answer met."""
    said = ping(place, address)
    found = re.search(r"ttl=(\d+)", said)
    assert found, said
    return 64 - int(found[1])


def redirects() -> list[str]:
    """Machines that sent an ICMP redirect, or got one."""
    found = []
    for machine in ("router", *MACHINES):
        names, values = (x.split() for x in netns(machine, "grep", "^Icmp:", "/proc/net/snmp").stdout.splitlines())
        counters = dict(zip(names, values, strict=True))
        if counters["OutRedirects"] != "0" or counters["InRedirects"] != "0":
            found.append(machine)
    return found


def check_matrix(mode: str) -> None:
    """The whole table of who is seen as whom; and Services: of DNS, whose pods are elsewhere."""
    assert e2e_matrix.differences(ask, e2e_matrix.places((4,)), mode, exposed=True) == []
    for name in ("a1", "b"):
        assert "10.96.0.1" in in_pod(name, "nslookup", "kubernetes.default.svc.cluster.local")


class Pings:
    """A pod's ping to another, 1,000 a second, until it is asked how many were lost. It writes to a file: a pipe that nobody reads
    holds what it says in the first second, and then it waits."""

    def __init__(self, source: str, address: str) -> None:
        argv = [sys.executable, "-m", "nsk8s.cli.main", "enter", f"pod/{source}", "--", "ping", "-n", "-i", "0.001", address]
        self._said = tempfile.NamedTemporaryFile()
        self._process = subprocess.Popen(argv, stdout=self._said, env={**os.environ, "NSK8S_CLUSTER": NAME})
        until(f"{source} reaches {address}", self._answered)

    def _answered(self) -> list[int]:
        """The numbers of the answers, in the order in which they came. On the wire they have 16 bits."""
        assert self._process.poll() is None, "ping ended"
        numbers: list[int] = []
        for found in map(int, re.findall(r"icmp_seq=(\d+) ttl", Path(self._said.name).read_text())):
            rounds = (numbers[-1] if numbers else 0) + 0x8000 - found
            numbers.append(found + (rounds & ~0xFFFF if rounds > 0 else 0))
        return numbers

    def lost(self) -> int:
        """How many were sent until now and are not answered, although many that were sent later are. Ends them."""
        sent = max(self._answered())
        until("pings are answered", lambda: max(self._answered()) > sent + 50)
        missing = sorted(set(range(1, sent + 1)) - set(self._answered()))
        print(f"of {sent} pings not answered: {missing[:5]} ... {missing[-5:]}")
        self._process.kill()
        return len(missing)

    def __del__(self) -> None:
        """Also when the test failed before it asked."""
        self._process.kill()
        self._process.wait()


def test_routes_between_nodes(cluster: dict[str, str]) -> None:
    in_force("routes", exposed=True)
    check_matrix("routes")
    assert hops("pod/a1", cluster["b"]) == 2


def test_the_router_leads_to_pods_and_services_from_outside(cluster: dict[str, str]) -> None:
    pods_wanted = {f"10.244.{NUMBER[m]}.0/24": f"via {ip} " for m, ip in MACHINES.items()}.items()

    def known() -> dict[str, str]:
        return {dst: re.sub(r".*(via \S+ ).*", r"\1", line) for dst, line in routes("router").items()}

    until("the router knows the pods and the services", lambda: pods_wanted <= known().items() and "10.96.0.0/16" in known())
    # Any node takes the API's ClusterIP; an address that no Service has is refused instead of going round.
    until("the API answers", lambda: netns("client", "curl", "-sk", "-m", "5", "https://10.96.0.1/version").stdout)
    assert ask("client", "10.96.77.77", "tcp")["unreachable"] == [[3, 1, ROUTER]]
    # A range that is added is led here too, and goes when it does.
    apply({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}})
    until("the way to the new range", lambda: "10.97.0.0/24" in routes("router"))
    assert ask("client", "10.97.0.77", "tcp")["unreachable"] == [[3, 1, ROUTER]]
    nsk8s("delete", "servicecidr", "more", "--wait=false")
    # So is a pod's address that no pod has: by its node, even by one without any pod; and a subnet that no node has.
    assert ask("client", "10.244.1.250", "icmp")["unreachable"] == [[3, 1, NODES["node1"]]]
    assert ask("client", "10.244.9.1", "tcp")["unreachable"] == [[3, 0, ROUTER]]


def test_switched_to_vxlan(cluster: dict[str, str], tmp_path: Path) -> None:
    pings = Pings("a1", cluster["b"])
    switch("vxlan")
    assert pings.lost() == 0
    assert {p: get(f"pod/{p}")["status"]["podIP"] for p in PODS}.items() <= cluster.items()
    for machine, ip in MACHINES.items():
        held = get(f"node/{machine}")["metadata"]["annotations"]
        mac = json.loads(held["flannel.alpha.coreos.com/backend-data"])["VtepMAC"]
        assert held["flannel.alpha.coreos.com/public-ip"] == ip
        for other in MACHINES.keys() - {machine}:
            assert f"{mac} dst {ip} self permanent" in netns(other, "bridge", "fdb", "show", "dev", "flannel.1").stdout
            entries = netns(other, "ip", "neigh", "show", "dev", "flannel.1").stdout
            assert f"10.244.{NUMBER[machine]}.0 lladdr {mac} PERMANENT" in entries
    check_matrix("vxlan")
    assert hops("pod/a1", cluster["b"]) == 2, "the packets inside do not see the way outside"
    capture = Capture(tmp_path, "node1", expression="udp port 8472")
    try:
        ping("pod/a1", cluster["b"])
        packets = "\n".join(capture.until("echo reply"))
    finally:
        capture.stop()
    assert re.search(
        rf"192\.168\.56\.11\.\d+ > 192\.168\.56\.12\.8472: OTV, flags \[I\] \(0x08\), overlay 0, instance 1\s+"
        rf"IP {cluster['a1']} > {cluster['b']}: ICMP echo request", packets
    ), packets  # fmt: skip


def test_packets_that_do_not_fit_into_a_tunnel(cluster: dict[str, str]) -> None:
    # Pods from before the switch have an MTU of 1,500, and are told that 1,450 is what the way takes.
    assert "From 10.244.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1450)" in ping("pod/a1", cluster["b"], "-M", "do", "-s", "1472")
    assert "1 received" in ping("pod/a1", cluster["b"], "-M", "do", "-s", "1422")
    assert "1 received" in ping("pod/b", cluster["a1"], "-M", "dont", "-s", "1472"), "whole again behind two fragments"
    # One made now has 1,450, and so its peers hear it from their own kernel.
    apply(pod("c", nodeName="node2"))
    until("c is ready", lambda: pods("app=c"))
    assert "mtu 1450" in in_pod("c", "ip", "link", "show", "eth0")
    ip = get("pod/c")["status"]["podIP"]
    assert "1 received" in ping("pod/a2", ip, "-M", "do", "-s", "1422")
    # Beside an old pod on one bridge, what is too big comes in fragments; a bridge tells nobody what is the most.
    assert "1 received" in ping("pod/b", ip, "-M", "dont", "-s", "1472")
    assert "0 received" in ping("pod/b", ip, "-M", "do", "-s", "1472", "-W", "0.5")
    # From outside: the node in front of it says it.
    assert f"From {NODES['node2']} icmp_seq=1 Frag needed and DF set (mtu = 1450)" in ping("client", ip, "-M", "do", "-s", "1472")
    # A stream finds its size by itself, old pod or new.
    for target, address in (("c", ip), ("b", cluster["b"])):
        assert stream("a1", target, address) == 3_000_000


def test_nodes_restart_and_leave(cluster: dict[str, str]) -> None:
    fdb = netns("node1", "bridge", "fdb", "show", "dev", "flannel.1").stdout
    nsk8s("node", "stop", "node3")
    nsk8s("node", "start", "node3")
    # A restarted node has a new MAC there; the others hear of it.
    until("node3 answers", lambda: "1 received" in ping("pod/a1", "10.244.3.0", "-W", "1"))
    assert netns("node1", "bridge", "fdb", "show", "dev", "flannel.1").stdout != fdb
    nsk8s("node", "remove", "node3")
    del MACHINES["node3"]
    in_force("vxlan", exposed=True)
    for table in (("bridge", "fdb"), ("ip", "neigh")):
        until(f"no entry for it in {table}", lambda table=table: len(netns("node1", *table, "show", "dev", "flannel.1").stdout.splitlines()) == 2)
    until("by the router too", lambda: "10.244.3.0/24" not in routes("router"))


def test_switched_to_router(cluster: dict[str, str]) -> None:
    pings = Pings("a1", cluster["b"])
    switch("router")
    assert pings.lost() == 0
    until("its end of the tunnel is forgotten", lambda: "flannel" not in json.dumps(get("node/node1")["metadata"]["annotations"]))
    check_matrix("router")
    assert hops("pod/a1", cluster["b"]) == 3, "one more than with routes"
    assert hops("pod/a1", cluster["a2"]) == 0
    assert redirects() == [], "the shorter way is not for nodes to know"


def test_switched_to_bgp(cluster: dict[str, str]) -> None:
    """From a mode in which nodes have no routes at all; test_e2e_bgp.py has what BGP itself does."""
    pings = Pings("a1", cluster["b"])
    switch("bgp")
    assert pings.lost() == 0
    check_matrix("bgp")
    assert hops("pod/a1", cluster["b"]) == 2


@pytest.mark.slow
def test_agents_die(cluster: dict[str, str]) -> None:
    switch("router")
    for agent in ("node1/node-network", "router/router-agent"):  # what they set stays while they are away
        before = components()[agent]["pid"]
        pings = Pings("a1", cluster["b"])
        kill(before)
        until("it runs again", lambda a=agent, pid=before: components()[a]["pid"] not in (None, pid))
        assert pings.lost() == 0
    in_force("router", exposed=True)


def test_switched_back_without_the_router_knowing(cluster: dict[str, str]) -> None:
    pings = Pings("a1", cluster["b"])
    switch("routes", expose="")
    until("the router has forgotten the pods", lambda: "10.244.1.0/24" not in routes("router"))
    assert pings.lost() == 0
    assert ask("client", cluster["a1"], "tcp")["unreachable"] == [[3, 0, ROUTER]]
    until("nor refused back", lambda: netns("router", "ip", "rule", "show", "priority", "119").stdout == "")


def test_nonsense_changes_nothing(cluster: dict[str, str]) -> None:
    before = {m: routes(m) for m in NODES}
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "node-network", "namespace": "kube-system"},
           "data": {"mode": "pigeons"}})  # fmt: skip
    log = Path(f"/var/lib/nsk8s/{NAME}/logs/node1/node-network.log")
    until("it is said", lambda: "mode: 'pigeons' is none of routes, vxlan, router, bgp; still routes" in log.read_text())
    assert {m: routes(m) for m in NODES} == before


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "mtu"), [("vxlan", 1450), ("router", 1500), ("bgp", 1500)])
def test_a_cluster_that_begins_with_a_mode(tmp_path: Path, mode: str, mtu: int) -> None:
    """After the others: it takes their cluster away."""
    nsk8s("down", "-q", ok=False)
    file = tmp_path / "cluster.yaml"
    file.write_text(f"nodes: 2\nnetwork: {{mode: {mode}}}\nloadBalancer: {{mode: 'off'}}\n")
    nsk8s("up", "-q", "-f", str(file))
    MACHINES.pop("node3", None)
    apply(*(pod(name, nodeName=node) for name, node in PODS.items()))
    until("the pods are ready", lambda: all(pods(f"app={name}") for name in PODS))
    in_force(mode, exposed=False)
    ip = get("pod/b")["status"]["podIP"]
    assert f"mtu {mtu} " in in_pod("a1", "ip", "link", "show", "eth0")
    assert hops("pod/a1", ip) == (3 if mode == "router" else 2)
    assert "1 received" in ping("pod/a1", ip, "-M", "do", "-s", str(mtu - 28))
    assert "1 received" not in ping("pod/a1", ip, "-M", "do", "-s", str(mtu - 27))
    assert "10.96.0.1" in in_pod("a1", "nslookup", "kubernetes.default.svc.cluster.local")  # `up` waited for it
    refused = nsk8s("up", "-f", "-", text="network: {mode: routes}\n", ok=False)
    assert "ConfigMap kube-system/node-network" in refused.stderr
    nsk8s("node", "add", "late")
    MACHINES["late"] = get("node/late")["status"]["addresses"][0]["address"]
    NUMBER["late"] = int(get("node/late")["spec"]["podCIDR"].split(".")[2])
    try:
        until("the new node is known", lambda: as_wanted(mode))
    finally:
        del MACHINES["late"]
