"""Services of type LoadBalancer from the outside client, in both modes: who takes the packets, who is seen, what fails over.

Which node took a connection is read from a counter of SYN packets in each node's own netfilter, before any of kube-proxy's rules.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from e2e_cluster import NAME, apply, becomes, components, get, kill, netns, nsk8s, pods, until, until_proxied

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
NODES = ("control-plane", "node1", "node2", "node3")
CLIENT, CLIENT6 = "203.0.113.10", "[2001:db8:203::10]"
VIP6 = "fd00:10:100::1"
NODE_IPS = {n: f"192.168.56.{10 + i}" for i, n in enumerate(NODES)}
CLUSTER = """
name: {name}
network:
  ipFamilies: {families}
loadBalancer:
  mode: {mode}
  pool: 10.100.0.0/29
timing:
  nodeLeaseDuration: 4
  nodeStatusUpdateFrequency: 2
  nodeMonitorPeriod: 1
  nodeMonitorGracePeriod: 4
"""
ONE_MODE = pytest.mark.parametrize("mode", ["ecmp"], indirect=True)
"""For what the modes share."""
SLOW_IN_L2 = pytest.mark.parametrize("mode", ["ecmp", pytest.param("l2", marks=pytest.mark.slow)], indirect=True)
ASK = """
import json, socket, sys
kind, ip, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for _ in range(count):
    try:
        with socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM) as s:
            s.settimeout(10)
            s.connect((ip, 80))
            if kind == 'tcp':
                s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')
                data = b''
                while chunk := s.recv(65536):
                    data += chunk
                print(data.partition(b'\\r\\n\\r\\n')[2].decode().strip())
            else:
                s.send(b'hello')
                print(s.recv(65536).decode().strip())
    except OSError as e:
        print(json.dumps({'error': type(e).__name__ + ': ' + str(e)}))
"""


@pytest.fixture(scope="module", params=["ecmp", "l2"])
def mode(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    wanted = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    families = "[IPv4]" if request.param == "ecmp" else "[IPv4, IPv6]"  # dual-stack and ecmp: test_e2e_dualstack_services
    wanted.write_text(CLUSTER.format(name=NAME, mode=request.param, families=families))
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(wanted))
        apply(*(deployment(name, nodes) for name, nodes in (("red", ["node1", "node2"]), ("blue", ["node3"]))))
        apply(service("red", "10.100.0.1"), service("red-local", "10.100.0.2", "red", local=True))
        until("two addresses", lambda: all(external(n) for n in ("red", "red-local")))
        apply(service("blue"))  # not before: whoever is served first has the lowest
        until("three ready pods", lambda: len(pods("lb=yes")) == 3)
        until("three addresses", lambda: all(external(n) for n in ("red", "red-local", "blue")))
        if request.param == "l2":
            six = service("red6", app="red", local=True)
            six["spec"] |= {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}
            apply(six)
            until("an address of each family", lambda: len(get("service/red6")["status"]["loadBalancer"].get("ingress") or []) == 2)
        for name in ("red", "red-local", "blue", *(["red6"] if request.param == "l2" else [])):
            until_served(name, name.rstrip("6").removesuffix("-local"))
        for n in NODES:
            count_syns(n)
        yield request.param
    finally:
        nsk8s("down", "-q", ok=False)


def deployment(name: str, nodes: list[str]) -> dict[str, Any]:
    """An echo server on each of `nodes`."""
    where = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": nodes}]}]
    labels = {"app": name, "lb": "yes"}
    return {
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": where}}},
            "containers": [{"name": "echo", "image": "nsk8s/echo", "env": [
                {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}}],
        }}},
    }  # fmt: skip


def service(name: str, ip: str = "", app: str = "", *, local: bool = False) -> dict[str, Any]:
    """Ports 80 of TCP and UDP, to the echo servers of `app`."""
    spec: dict[str, Any] = {
        "type": "LoadBalancer", "selector": {"app": app or name}, "externalTrafficPolicy": "Local" if local else "Cluster",
        "ports": [{"name": p, "protocol": p.upper(), "port": 80, "targetPort": 8080} for p in ("tcp", "udp")],
    }  # fmt: skip
    if ip:
        spec["loadBalancerIP"] = ip
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def until_served(name: str, app: str) -> None:
    """Wait until every node's rules have the Service's addresses and all of its pods: any of them may be asked."""
    until_proxied(*NODES, service=f"default/{name}", selector=f"app={app}", families=2 if name.endswith("6") else 1)
    for ip in (i["ip"] for i in get(f"service/{name}")["status"]["loadBalancer"]["ingress"]):
        save = "ip6tables-save" if ":" in ip else "iptables-save"
        for node in NODES:
            until(f"{node} takes {ip}", lambda node=node, save=save, ip=ip: f" {ip}/" in netns(node, save, "-t", "nat").stdout)


def external(name: str) -> str:
    ingress = get(f"service/{name}")["status"]["loadBalancer"].get("ingress") or [{"ip": ""}]
    return str(ingress[0]["ip"])


def connect(ip: str, count: int = 1, kind: str = "tcp", machine: str = "client") -> list[dict[str, Any]]:
    """What so many new connections are answered; those that fail hold `error`."""
    done = netns(machine, sys.executable, "-c", ASK, kind, ip, str(count), timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def answered(ip: str, count: int = 1, kind: str = "tcp") -> list[dict[str, Any]]:
    """So many good answers in a row; waits until rules and routes are there."""

    def good() -> list[dict[str, Any]]:
        answers = connect(ip, count, kind)
        return [] if any("error" in a for a in answers) else answers

    found: list[dict[str, Any]] = until(f"{count} answers from {ip}", good)
    return found


def answering(ip: str, count: int, kind: str = "tcp") -> set[str]:
    """The nodes of the pods that answered so many connections."""
    return {a["node"] for a in answered(ip, count, kind)}


def sources(answers: list[dict[str, Any]]) -> set[str]:
    return {a["client"].rpartition(":")[0] for a in answers}


def count_syns(node: str) -> None:
    rules = "".join(
        f"add rule inet lbtest pre iifname eth0 {address} tcp flags & (syn|ack) == syn counter\n"
        for address in (*(f"ip daddr 10.100.0.{i}" for i in range(1, 7)), f"ip6 daddr {VIP6}")
    )
    text = "add table inet lbtest\nadd chain inet lbtest pre { type filter hook prerouting priority -350; }\n" + rules
    done = netns(node, "bash", "-c", f"nft -f - <<'EOF'\n{text}EOF")
    assert done.returncode == 0, done.stderr


def syns(ip: str) -> dict[str, int]:
    """Node → connections to `ip` that came in there; nodes without are left out. Nodes that are off count nothing."""
    found = {}
    for node in NODES:
        listed = netns(node, "nft", "list", "table", "inet", "lbtest").stdout
        match = re.search(rf"daddr {re.escape(ip)} .*packets (\d+)", listed)
        if match and int(match[1]):
            found[node] = int(match[1])
    return found


def since(before: dict[str, int], ip: str) -> dict[str, int]:
    return {n: c - before.get(n, 0) for n, c in syns(ip).items() if c > before.get(n, 0)}


def events(name: str) -> list[tuple[str, str]]:
    return [(e["reason"], e["message"]) for e in get("events")["items"] if e["involvedObject"]["name"] == name]


def announcers(name: str) -> list[str]:
    """The nodes that Events say are announcing a Service, the last one first."""
    said = [e for e in get("events")["items"] if e["involvedObject"]["name"] == name and e["reason"] == "nodeAssigned"]
    said.sort(key=lambda e: int(e["metadata"]["resourceVersion"]), reverse=True)  # of one second there may be several
    found = [re.fullmatch(r'announcing from node "(\S+)" with protocol "layer2"', e["message"]) for e in said]
    assert all(found), said
    return [f[1] for f in found if f]


def announcer(name: str) -> str:
    """The node that the last Event says is announcing a Service; "" before there is one."""
    return next(iter(announcers(name)), "")


def bridge_ip(node: str) -> str:
    """The first address of a node's pod subnet."""
    return str(ip_network(get(f"node/{node}")["spec"]["podCIDR"])[1])


def test_two_services_have_their_own_address_and_the_same_port(mode: str) -> None:
    assert (external("red"), external("red-local")) == ("10.100.0.1", "10.100.0.2")
    blue = external("blue")
    assert blue == "10.100.0.3", "the lowest that is free"
    if mode == "l2":
        assert [i["ip"] for i in get("service/red6")["status"]["loadBalancer"]["ingress"]] == [VIP6, "10.100.0.4"]
    becomes("red's pods", lambda: answering("10.100.0.1", 20), {"node1", "node2"})
    assert answering(blue, 5) == {"node3"}
    made = get("service/red")
    assert made["status"]["loadBalancer"]["ingress"] == [{"ip": "10.100.0.1", "ipMode": "VIP"}]
    assert "service.kubernetes.io/load-balancer-cleanup" in made["metadata"]["finalizers"]
    until("its Events", lambda: {
        ("EnsuringLoadBalancer", "Ensuring load balancer"), ("EnsuredLoadBalancer", "Ensured load balancer"),
    } <= set(events("red")))  # fmt: skip


def test_which_nodes_terminate_and_whom_the_pods_see(mode: str) -> None:
    answered("10.100.0.1")
    before = syns("10.100.0.1")
    answers = connect("10.100.0.1", 60)
    assert not [a for a in answers if "error" in a]
    took = since(before, "10.100.0.1")
    assert sum(took.values()) == 60, "every connection came in at exactly one node"
    bridges = {n: bridge_ip(n) for n in took}
    for answer in answers:  # policy Cluster: pods see the node that took the connection, a node's own pods its bridge
        source = answer["client"].rpartition(":")[0]
        assert source in {bridges[n] if n == answer["node"] else NODE_IPS[n] for n in took}
    if mode == "ecmp":
        assert set(took) == set(NODES), "any node can terminate the service net"
    else:
        becomes("who is said to announce it", lambda: {announcer("red")}, set(took))


def test_policy_local_keeps_the_clients_address_and_uses_only_nodes_with_an_endpoint(mode: str) -> None:
    answered("10.100.0.2")
    before = syns("10.100.0.2")
    answers = connect("10.100.0.2", 40)
    assert sources(answers) == {CLIENT}
    took = since(before, "10.100.0.2")
    assert sum(took.values()) == 40
    assert {n: sum(a["node"] == n for a in answers) for n in took} == took, "each node gave them to its own pod"
    if mode == "ecmp":
        assert set(took) == {"node1", "node2"}
    else:
        becomes("who is said to announce it", lambda: {announcer("red-local")}, set(took))


@pytest.mark.parametrize("mode", ["l2"], indirect=True)
def test_ipv6_comes_in_at_the_node_that_answers_for_it(mode: str) -> None:
    """By neighbour discovery; the router knows that node's MAC, and no interface has the address."""
    before = syns(VIP6)
    answers = [*answered(VIP6), *connect(VIP6, 20)]
    assert sources(answers) == {CLIENT6}
    (node,) = since(before, VIP6)
    assert {a["node"] for a in answers} == {node}
    until("its Event", lambda: node in announcers("red6"))
    told = netns("router", "ip", "-6", "neigh", "show", "to", VIP6).stdout.split()
    assert told[told.index("lladdr") + 1] == netns(node, "cat", "/sys/class/net/eth0/address").stdout.strip()
    for machine in (*NODES, "router"):
        assert VIP6 not in netns(machine, "ip", "-6", "addr").stdout


@ONE_MODE
def test_health_check_node_port_and_source_ranges(mode: str) -> None:
    """What a cloud's load balancer would ask, and whom kube-proxy lets in by the address packets really have."""
    port = get("service/red-local")["spec"]["healthCheckNodePort"]

    def health(node: str) -> str:
        url = f"http://{NODE_IPS[node]}:{port}/healthz"
        return netns("client", "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url).stdout

    wanted = {"control-plane": "503", "node1": "200", "node2": "200", "node3": "503"}
    becomes("who has a pod of it", lambda: {n: health(n) for n in NODES}, wanted)
    ranged = service("ranged", app="blue")
    ranged["spec"]["loadBalancerSourceRanges"] = ["198.51.100.0/24"]
    apply(ranged)
    ip = until("an address", lambda: external("ranged"))
    until("the client is shut out", lambda: netns("client", "curl", "-s", "-m", "1", f"http://{ip}/").returncode == 28)
    ranged["spec"]["loadBalancerSourceRanges"] = [f"{CLIENT}/32"]
    apply(ranged)
    assert {a["node"] for a in answered(ip)} == {"node3"}
    nsk8s("delete", "service", "ranged")


def test_udp(mode: str) -> None:
    assert sources(answered("10.100.0.2", 5, "udp")) == {CLIENT}
    becomes("red's pods", lambda: answering("10.100.0.1", 20, "udp"), {"node1", "node2"})


@ONE_MODE
def test_from_inside_nothing_goes_over_the_router(mode: str) -> None:
    before = syns("10.100.0.1")
    for node in NODES:
        assert [a for a in connect("10.100.0.1", 2, machine=node) if "node" in a], node
    assert since(before, "10.100.0.1") == {}


@SLOW_IN_L2
def test_what_nobody_serves_is_refused_aloud(mode: str) -> None:
    """Not a loop between node and router until the TTL ends: an ICMP error, at an address and at a port that nobody serves."""
    for ip in ("10.100.0.6", "fd00:10:100::ffee") if mode == "l2" else ("10.100.0.6",):
        assert "No route to host" in connect(ip)[0]["error"]
    done = netns("client", "curl", "-s", "-m", "8", "-o", "/dev/null", "-w", "%{errormsg}", "http://10.100.0.1:81/")
    assert done.returncode == 7, done.stdout


@SLOW_IN_L2
def test_components_that_are_killed_cost_no_address_and_no_connection(mode: str) -> None:
    kept = {n: external(n) for n in ("red", "red-local", "blue")}
    running = components()
    victims = {k: c["pid"] for k, c in running.items() if c["name"] in ("cloud-controller-manager", "router-agent", "speaker")}
    assert len(victims) == (2 if mode == "ecmp" else 2 + len(NODES))
    for pid in victims.values():
        kill(pid)
    if mode == "ecmp":
        assert not [a for a in connect("10.100.0.1", 20) if "error" in a], "the routes stay"
    until("they run again", lambda: all(components()[v]["pid"] not in (0, old) for v, old in victims.items()))
    answered("10.100.0.1", 20)
    apply(service("late", app="blue"))
    assert until("an address", lambda: external("late")) == ("10.100.0.4" if mode == "ecmp" else "10.100.0.5")
    assert {n: external(n) for n in kept} == kept
    nsk8s("delete", "service", "late")


@ONE_MODE
def test_an_address_is_released_and_used_again(mode: str) -> None:
    apply(service("first", app="blue"))
    assert until("an address", lambda: external("first")) == "10.100.0.4"
    until_served("first", "blue")
    answered("10.100.0.4")
    nsk8s("delete", "service", "first")
    for node in NODES:
        until(f"{node} has no rule for it", lambda n=node: "10.100.0.4" not in netns(n, "iptables-save").stdout)
    assert "error" in connect("10.100.0.4")[0]
    apply(service("second", app="red"))
    assert until("the same address", lambda: external("second")) == "10.100.0.4"
    becomes("its pods", lambda: answering("10.100.0.4", 20), {"node1", "node2"})
    changed = service("second", app="red")
    changed["spec"]["type"] = "ClusterIP"
    del changed["spec"]["externalTrafficPolicy"]
    apply(changed)
    until("type ClusterIP gives it back", lambda: not get("service/second")["metadata"].get("finalizers"))
    becomes("its address", lambda: external("second"), "")
    for node in NODES:
        until(f"{node} has no rule for it", lambda n=node: "10.100.0.4" not in netns(n, "iptables-save").stdout)
    assert "error" in connect("10.100.0.4")[0], "and it leads nowhere"
    until("with an Event", lambda: "DeletedLoadBalancer" in dict(events("second")))
    nsk8s("delete", "service", "second")


@pytest.mark.slow
@ONE_MODE
def test_a_full_pool_and_a_wrong_wish_are_said_in_an_event(mode: str) -> None:
    names = [f"many{i}" for i in range(3)]
    apply(*(service(n, app="blue") for n in names), service("wish", "192.0.2.1", "blue"), service("taken", "10.100.0.1", "blue"))
    until("three more addresses", lambda: {external(n) for n in names} == {"10.100.0.4", "10.100.0.5", "10.100.0.6"})
    apply(service("pending", app="blue"))
    failed = "Error syncing load balancer: failed to ensure load balancer: "
    for name, why in (
        ("pending", "no address of the pool 10.100.0.0/29 is free (6 are in use)"),
        ("wish", "spec.loadBalancerIP 192.0.2.1 is not in the pool 10.100.0.0/29"),
        ("taken", "spec.loadBalancerIP 10.100.0.1 is in use by default/red"),
    ):
        until(f"{name}: {why}", lambda n=name, w=why: ("SyncLoadBalancerFailed", failed + w) in events(n))
        assert external(name) == ""
    nsk8s("delete", "service", "many1")
    until("what became free goes to who waits", lambda: external("pending"))
    nsk8s("delete", "service", *names[::2], "wish", "taken", "pending")


@SLOW_IN_L2
def test_a_node_that_is_excluded_by_label_takes_nothing(mode: str) -> None:
    label = "node.kubernetes.io/exclude-from-external-load-balancers"
    victim = "node1" if mode == "ecmp" else announcer("red")
    nsk8s("apply", "-f", "-", text=json.dumps(labelled(victim, {label: ""})))

    def spared() -> bool:
        before = syns("10.100.0.1")
        answers = connect("10.100.0.1", 30)
        return not [a for a in answers if "error" in a] and victim not in since(before, "10.100.0.1")

    until("no connection at the excluded node", spared)
    nsk8s("apply", "-f", "-", text=json.dumps(labelled(victim, {})))


def labelled(node: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}


def test_two_services_that_agree_share_an_address(mode: str) -> None:
    """TCP here, UDP there, and the address serves until the last has gone."""
    ip, sharers = "10.100.0.6", {"tcp": "red", "udp": "blue"}
    for kind, app in sharers.items():
        made = service(f"share-{kind}", ip, app)
        made["metadata"]["annotations"] = {"nsk8s.dev/allow-shared-ip": "web"}
        made["spec"]["ports"] = [p for p in made["spec"]["ports"] if p["name"] == kind]
        apply(made)
    for kind, app in sharers.items():
        until("the address", lambda kind=kind: external(f"share-{kind}") == ip)
        until_served(f"share-{kind}", app)
    assert answering(ip, 5, "udp") == {"node3"}
    becomes("red's pods", lambda: answering(ip, 20, "tcp"), {"node1", "node2"})
    nsk8s("delete", "service", "share-tcp")
    until("nobody takes TCP any more", lambda: "error" in connect(ip)[0])
    netns("router", "ip", "neigh", "flush", "to", ip)  # mode l2: somebody must still say whose it is
    assert answering(ip, 5, "udp") == {"node3"}
    nsk8s("delete", "service", "share-udp")


def test_when_a_node_dies_others_take_its_connections(mode: str) -> None:
    for ip in dying(mode):
        answered(ip, 5)
    answered("10.100.0.1", 5)
    victim = "node2"
    if mode == "l2":
        before = syns(VIP6)
        assert "error" not in connect(VIP6)[0]
        (victim,) = since(before, VIP6)
    other = {"node1": "node2", "node2": "node1"}[victim]
    nsk8s("node", "stop", victim)
    for ip in dying(mode):
        becomes(f"who answers at {ip}", lambda ip=ip: answering(ip, 20), {other})
        assert sources(answered(ip)) == {CLIENT6 if ":" in ip else CLIENT}
    answered("10.100.0.1", 20)
    if mode == "l2":
        becomes("who is said to announce them", lambda: [announcer("red6"), announcer("red-local")], [other, other])
    nsk8s("node", "start", victim)
    count_syns(victim)
    back_at = VIP6 if mode == "l2" else "10.100.0.2"

    def back() -> bool:
        before = syns(back_at)
        return not [a for a in connect(back_at, 30) if "error" in a] and victim in since(before, back_at)

    until("the node takes connections again", back, 60)


def dying(mode: str) -> list[str]:
    """Addresses of Services with policy Local on node1 and node2."""
    return ["10.100.0.2", VIP6] if mode == "l2" else ["10.100.0.2"]
