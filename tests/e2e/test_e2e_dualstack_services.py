"""Services in a dual-stack cluster: each family's packets, names and rules, and a living Service that gains and loses one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import test_e2e_cli
from e2e_cluster import apply, becomes, get, in_pod, netns, nsk8s, pod, pods, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
MACHINES = ("control-plane", "node1", "node2")
NODES = {"IPv4": {"node1": "192.168.56.11", "node2": "192.168.56.12"},
         "IPv6": {"node1": "fd00:192:168:56::11", "node2": "fd00:192:168:56::12"}}  # fmt: skip
CLIENT = {"IPv4": "203.0.113.10", "IPv6": "2001:db8:203::10"}
DNS = {"IPv4": "10.96.0.10", "IPv6": "fd00:10:96::a"}
FAMILIES = ("IPv4", "IPv6")
NODE_PORT = 30080
DRAWS = 25
"""Of two endpoints one is missed in fewer than one of ten million runs."""
LOOK_UP = """
import json, socket, struct, sys
server, answers = sys.argv[1], {}
for name, kind in (word.split(",") for word in sys.argv[2:]):
    s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\\0" + struct.pack(">HH", int(kind), 1)
    s.sendto(struct.pack(">6H", 7, 0, 1, 0, 0, 0) + question, (server, 53))
    raw = s.recv(4096)
    count, at, found = struct.unpack_from(">H", raw, 6)[0], 12 + len(question), []
    for _ in range(count):
        while raw[at] and raw[at] < 192:
            at += raw[at] + 1
        at += 2 if raw[at] else 1
        sort, _, _, size = struct.unpack_from(">HHIH", raw, at)
        data = raw[at + 10:at + 10 + size]
        at += 10 + size
        if sort in (1, 28):
            found.append(socket.inet_ntop(socket.AF_INET if sort == 1 else socket.AF_INET6, data))
        else:
            found.append(data.hex())
    answers[f"{name},{kind}"] = [raw[3] & 15, sorted(found)]
print(json.dumps(answers))
"""


def web(**spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "selector": {"kind": "web"}, "ports": ports, **spec}}  # fmt: skip


def backend(name: str, node: str) -> dict[str, Any]:
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}  # ready is who listens
    serving = {"name": "main", "image": "nsk8s/echo", "ports": [{"containerPort": 8080}], "readinessProbe": probe}
    made = pod(name, nodeName=node, containers=[serving])
    made["metadata"]["labels"]["kind"] = "web"
    return made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("dualstack") / "cluster.yaml"
    file.write_text("nodes: 2\nnetwork: {ipFamilies: [IPv4, IPv6]}\n")
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(file))
        apply(web(), backend("w1", "node1"), backend("w2", "node2"), pod("debug", nodeName="node1"))
        until("the pods are ready", lambda: len(pods("kind=web")) == 2 and pods("app=debug"))
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def url(address: str, port: int) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/"


def asked(place: str, *urls: str, times: int = 1) -> list[list[tuple[str, str]]]:
    """For each URL (pod, the client it saw) of `times` connections, one after the other; less where there was no answer."""
    words = ["curl", "-s", "-m", "5", "-w", "|", "-H", "Connection: close", *(u for u in urls for _ in range(times))]
    bodies = nsk8s("enter", place, "--", *words, ok=False).stdout.split("|")[:-1]
    assert len(bodies) == len(urls) * times, bodies
    found = [json.loads(body) if body else {} for body in bodies]
    seen = [(f["pod"], f["client"].rpartition(":")[0].strip("[]")) if f else ("", "") for f in found]
    return [[s for s in seen[i * times : (i + 1) * times] if s[0]] for i in range(len(urls))]


def resolved(server: str, *questions: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(in_pod("debug", "python3", "-c", LOOK_UP, server, *questions))
    return found


def ips(name: str) -> dict[str, str]:
    four, six = (i["ip"] for i in get(f"pod/{name}")["status"]["podIPs"])
    return {"IPv4": four, "IPv6": six}


def slices() -> dict[str, set[str]]:
    """Address type → ready addresses of the Service's EndpointSlices."""
    found: dict[str, set[str]] = {}
    for s in get("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]:
        ready = {a for e in s.get("endpoints") or [] if e["conditions"]["ready"] for a in e["addresses"]}
        found.setdefault(s["addressType"], set()).update(ready)
    return found


def rules(machine: str, family: str = "IPv6") -> str:
    """A family's, in either mode."""
    save, table = ("ip6tables-save", "ip6") if family == "IPv6" else ("iptables-save", "ip")
    return netns(machine, save).stdout + netns(machine, "nft", "list", "table", table, "kube-proxy").stdout


def everybody_knows(*addresses: str) -> None:
    """Wait until all are in the rules of every machine: the API knows them before."""
    for machine in MACHINES:
        becomes(f"the rules of {machine}", lambda machine=machine: {
            a for a in addresses if a not in rules(machine, "IPv6" if ":" in a else "IPv4")}, set())  # fmt: skip


def everybody_is_answered(vips: dict[str, str], backends: set[str]) -> None:
    """In both families, by the ClusterIP and by each node's port; a pod is seen by its own address."""
    own, places = ips("debug"), [(f, n) for f in FAMILIES for n in NODES[f]]
    ports = [url(NODES[family][node], NODE_PORT) for family, node in places]
    gateways = {str(ip_network(cidr)[1]) for n in get("nodes")["items"] for cidr in n["spec"]["podCIDRs"]}
    inside = asked("pod/debug", *(url(vips[f], 80) for f in FAMILIES), times=DRAWS)
    for family, found in zip(FAMILIES, inside, strict=True):
        assert {who for who, _ in found} == backends, family
        assert {seen for _, seen in found} == {own[family]}, "no address changes between pods"
    for found in asked("node1", *(url(vips[f], 80) for f in FAMILIES), times=4):
        assert len(found) == 4
    for (family, node), found in zip(places, asked("client", *ports, times=DRAWS), strict=True):
        assert {who for who, _ in found} == backends, (family, node)
        assert {seen for _, seen in found} <= {NODES[family][node], *gateways}, "policy Cluster: who answers, answers the node"
    for (family, node), found in zip(places, asked("pod/debug", *ports, times=2), strict=True):
        assert len(found) == 2, (family, node)


def test_the_clusters_own_services(cluster: None) -> None:
    spec = get("service/kube-dns", "-n", "kube-system")["spec"]
    assert (spec["clusterIPs"], spec["ipFamilies"], spec["ipFamilyPolicy"]) == (list(DNS.values()), list(FAMILIES), "RequireDualStack")
    spec = get("service/kubernetes")["spec"]
    assert (spec["clusterIPs"], spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["10.96.0.1"], ["IPv4"], "SingleStack")


@pytest.mark.skipif(test_e2e_cli.KUBECTL is None, reason="no kubectl on PATH to compare with")
@pytest.mark.parametrize("line", ["get svc,endpointslices -A -o wide", "describe svc kube-dns -n kube-system", "describe pod debug",
                                  "describe node node1", "get nodes -o wide"])  # fmt: skip
def test_prints_what_kubectl_prints(cluster: None, line: str) -> None:
    test_e2e_cli.test_prints_what_kubectl_prints(None, line)


def test_a_living_service_gains_and_loses_a_family(cluster: None) -> None:
    four, port = get("service/web")["spec"]["clusterIP"], NODE_PORT
    name = "web.default.svc.cluster.local"
    aaaa, a = f"{name},28", f"{name},1"
    becomes("endpoints of one family", lambda: set(slices()), {"IPv4"})
    # NOERROR: the name is there, the family is not.
    becomes("its name", lambda: resolved(DNS["IPv4"], a, aaaa), {a: [0, [four]], aaaa: [0, []]})
    assert asked("client", url(NODES["IPv6"]["node1"], port)) == [[]]

    apply(web(ipFamilyPolicy="RequireDualStack"))
    spec = get("service/web")["spec"]
    vips = dict(zip(spec["ipFamilies"], spec["clusterIPs"], strict=True))
    assert vips["IPv4"] == four
    backends = {n: ips(n) for n in ("w1", "w2")}
    becomes("endpoints of both families", slices, {f: {b[f] for b in backends.values()} for f in FAMILIES})
    everybody_knows(*vips.values(), *(b[f] for b in backends.values() for f in FAMILIES))
    everybody_is_answered(vips, set(backends))
    subsets = get("endpoints/web")["subsets"]
    assert {e["ip"] for s in subsets for e in s["addresses"]} == {b["IPv4"] for b in backends.values()}, "the primary family's"
    # Every node on the way has tracked the very translation.
    lines = netns("node1", "conntrack", "-L", "-f", "ipv6", "-p", "tcp", "-d", vips["IPv6"]).stdout.splitlines()
    own = ips("debug")["IPv6"]
    tracked = {tuple(re.findall(r"(?:src|dst)=(\S+)", line)) for line in lines}
    assert {(own, vips["IPv6"], b["IPv6"], own) for b in backends.values()} <= tracked

    pointer = f"{ip_address(vips['IPv6']).reverse_pointer},12"
    for server in DNS.values():  # asked by either family
        everybody_knows(server)
        found = until("names of both", lambda server=server: (r := resolved(server, a, aaaa, pointer))[aaaa][1] and r[pointer][1] and r)
        assert (found[a], found[aaaa]) == ([0, [four]], [0, [vips["IPv6"]]])
        assert bytes.fromhex(found[pointer][1][0]).startswith(b"\x03web\x07default\x03svc")
    assert f"{vips['IPv6']}" in in_pod("debug", "getent", "ahostsv6", "web")

    text = nsk8s("rules", "web", "-6", "--node", "node1").stdout
    assert all(f"[{b['IPv6']}]:8080 (pod {n} on node" in text for n, b in backends.items())

    nsk8s("delete", "pod", "w2")
    becomes("no endpoint in any family is left of it", slices, {f: {backends["w1"][f]} for f in FAMILIES})
    until("nor a rule", lambda: all(backends["w2"][f] not in rules(m, f) for m in MACHINES for f in FAMILIES))
    both = [url(vips[f], 80) for f in FAMILIES]
    until("all goes to the other", lambda: [{w for w, _ in found} for found in asked("pod/debug", *both, times=8)] == [{"w1"}] * 2)
    apply(backend("w2", "node2"))
    until("it is back", lambda: all(len(found) == 2 for found in slices().values()))

    apply(web(ipFamilyPolicy="SingleStack"))
    spec = get("service/web")["spec"]
    assert (spec["clusterIPs"], spec["ipFamilies"], spec["ports"][0]["nodePort"]) == ([four], ["IPv4"], port)
    until("its second slices are gone", lambda: set(slices()) == {"IPv4"})
    until("its second rules are gone", lambda: all("default/web" not in rules(m) for m in MACHINES))
    becomes("its second name is gone", lambda: resolved(DNS["IPv6"], a, aaaa), {a: [0, [four]], aaaa: [0, []]})
    assert [len(found) for found in asked("pod/debug", url(four, 80), url(NODES["IPv4"]["node2"], port), times=4)] == [4, 4]


def test_a_headless_service_names_every_address(cluster: None) -> None:
    apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bare"}, "spec": {
        "clusterIP": "None", "ipFamilyPolicy": "PreferDualStack", "selector": {"kind": "web"}, "ports": [{"name": "http", "port": 8080}],
    }})  # fmt: skip
    name = "bare.default.svc.cluster.local"
    backends = [ips(n) for n in ("w1", "w2")]
    wanted = {f"{name},1": [0, sorted(b["IPv4"] for b in backends)], f"{name},28": [0, sorted(b["IPv6"] for b in backends)]}
    becomes("all addresses", lambda: resolved(DNS["IPv6"], *wanted), wanted)
    label = backends[0]["IPv6"].replace(":", "-")
    assert resolved(DNS["IPv4"], f"{label}.{name},28", f"{label}.{name},1") == {
        f"{label}.{name},28": [0, [backends[0]["IPv6"]]], f"{label}.{name},1": [0, []],
    }  # fmt: skip


def test_a_load_balancer_has_an_address_of_each_family(cluster: None) -> None:
    def balancer(**spec: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb"},
                "spec": {"type": "LoadBalancer", "selector": {"app": "w2"}, "ports": [{"port": 80, "targetPort": 8080}], **spec}}  # fmt: skip

    def given() -> list[str]:
        return [i["ip"] for i in get("service/lb")["status"]["loadBalancer"].get("ingress", [])]

    def ways(destination: str) -> set[str]:
        """The router's gateways to it."""
        return set(re.findall(r"via (\S+)", netns("router", "ip", "-6", "route", "show", "exact", destination).stdout))

    pool = "fd00:10:100::/112"
    until("every node can terminate it", lambda: ways(pool) == {"fd00:192:168:56::10", *NODES["IPv6"].values()})
    apply(balancer())
    until("an address", lambda: given() == ["10.100.0.1"])
    apply(balancer(ipFamilyPolicy="PreferDualStack"))
    until("two addresses", lambda: given() == ["10.100.0.1", "fd00:10:100::1"])
    urls = [url(ip, 80) for ip in given()]
    everybody_knows(*given())  # any of them may be asked
    becomes("both answer", lambda: [len(found) for found in asked("client", *urls, times=3)], [3, 3])
    (seen,) = {s for _, s in asked("client", urls[1])[0]}
    assert seen in {"fd00:192:168:56::10", *NODES["IPv6"].values(), str(ip_network(get("node/node2")["spec"]["podCIDRs"][1])[1])}
    apply(balancer(ipFamilyPolicy="PreferDualStack", externalTrafficPolicy="Local"))
    until("a way of its own", lambda: ways("fd00:10:100::1") == {NODES["IPv6"]["node2"]})
    becomes("the client is seen", lambda: asked("client", *urls, times=2), [[("w2", CLIENT[f])] * 2 for f in FAMILIES])
    apply(balancer(ipFamilyPolicy="SingleStack"))
    until("one address again", lambda: given() == ["10.100.0.1"])
    until("its way is gone", lambda: ways("fd00:10:100::1") == set())
    # Nobody has it: a node sends it back to the router, which refuses it, rather than both passing it on until its TTL ends.
    done = netns("client", "ping", "-n", "-c", "1", "-W", "2", "fd00:10:100::1")
    assert "unreachable" in done.stdout, done.stdout
    nsk8s("delete", "service", "lb")


def test_a_range_that_was_added_is_served(cluster: None) -> None:
    """`kubectl get ipaddresses` names each address of a Service; a new ServiceCIDR is used at once, in both families."""
    apply({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
           "spec": {"cidrs": ["10.97.0.0/24", "fd00:10:97::/112"]}})  # fmt: skip
    wanted = ["10.97.0.9", "fd00:10:97::9"]
    spec = {"selector": {"kind": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "more"},
           "spec": {**spec, "ipFamilyPolicy": "RequireDualStack", "clusterIP": wanted[0], "clusterIPs": wanted}})  # fmt: skip
    shown = [line.split()[:2] for line in nsk8s("get", "ipaddresses").stdout.splitlines()]
    assert shown[0] == ["NAME", "PARENTREF"]
    assert {(ip, "services/default/more") for ip in wanted} < {(ip, ref) for ip, ref in shown}
    urls = [url(ip, 80) for ip in wanted]
    until("both are answered", lambda: all({w for w, _ in found} == {"w1", "w2"} for found in asked("pod/debug", *urls, times=12)))
    nsk8s("delete", "service", "more")
    nsk8s("delete", "servicecidr", "more", "--wait=false")
    assert not {row[0] for row in (line.split() for line in nsk8s("get", "ip").stdout.splitlines())} & set(wanted)


def test_local_traffic_keeps_the_clients_address_in_nftables_mode_too(cluster: None) -> None:
    apply(web(ipFamilyPolicy="PreferDualStack", externalTrafficPolicy="Local"))
    spec = get("service/web")["spec"]
    vips = dict(zip(spec["ipFamilies"], spec["clusterIPs"], strict=True))

    wanted = [[(who, CLIENT[f])] * 3 for f in FAMILIES for who in ("w1", "w2")]  # each node has one of them
    ports = [url(NODES[f][n], NODE_PORT) for f in FAMILIES for n in ("node1", "node2")]

    def seen() -> list[list[tuple[str, str]]]:
        return asked("client", *ports, times=3)

    becomes("in iptables mode", seen, wanted)
    for node in ("node1", "node2"):
        path = "/var/lib/kube-proxy/config.conf"
        nsk8s("enter", f"node/{node}", "--", "sed", "-i", "s/^mode: iptables/mode: nftables/", path)
    for node in ("node1", "node2"):
        until(f"{node}'s tables", lambda node=node: vips["IPv6"] in netns(node, "nft", "list", "table", "ip6", "kube-proxy").stdout)
        for save in ("iptables-save", "ip6tables-save"):
            until(f"no {save} on {node}", lambda node=node, save=save: "KUBE-SVC" not in netns(node, save).stdout)
    becomes("in nftables mode", seen, wanted)
    apply(web(ipFamilyPolicy="PreferDualStack", externalTrafficPolicy="Cluster"))
    until("every node serves both", lambda: all(len(set(found)) == 2 for found in asked("client", *ports, times=12)))
    everybody_knows(*vips.values(), *(ips(w)[f] for w in ("w1", "w2") for f in FAMILIES))
    everybody_is_answered(vips, {"w1", "w2"})
