"""ONE table of services × sources with the literal expectation, for kube-proxy's tracer tests and for those with real packets.

The machine that is asked about is `node`: 192.168.77.11, pods a (10.244.1.2) and b (10.244.1.3) behind cni0. Pod r (10.244.2.2) is
on node2 (192.168.77.12), whose way to service addresses leads through `node`. `outside` is 192.168.77.1, `client` the same machine
as 203.0.113.10. Each service has endpoints among a, b, r and `node` itself. The same table holds for IPv6: see `six`.

An expectation reads: "a" (reaches pod a, which sees the client's own address), "a masq" (sees the node's address), "a|r" (one of
both), "a|r sticky" (one of both, again and again the same), "REJECT" (an ICMP port unreachable comes back), "DROP" (silence, and
nothing leaves), "PASS" (untouched by Services: it leaves the node, or meets a closed port of the node), "CLOSED" (accepted, and closed
at once). Where iptables and nftables differ, as upstream, both are given, and userspace mode's where `proxied` does not tell it.
ipvs mode's, where it is not iptables mode's, is in `IN_IPVS`; there are two more words for it: "a vip" (the pod sees the Service's own
address, which is the node's too), "r lost" (it reaches the pod, whose answer does not pass the node and means nothing to the client).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, NamedTuple

Object = dict[str, Any]

NODE, NODE2, OUTSIDE, CLIENT, GATEWAY = "192.168.77.11", "192.168.77.12", "192.168.77.1", "203.0.113.10", "10.244.1.1"
PODS = {"a": "10.244.1.2", "b": "10.244.1.3", "r": "10.244.2.2", "node": NODE}
SOURCES = {"a": PODS["a"], "b": PODS["b"], "r": PODS["r"], "node": NODE, "node2": NODE2, "outside": OUTSIDE, "client": CLIENT}
INTERFACES = {"a": "cni0", "b": "cni0", "r": "eth0", "node": "", "node2": "eth0", "outside": "eth0", "client": "eth0"}
SECOND_ADDRESS = "192.168.77.99"
"""Another address of `node`, which nodePortAddresses may leave out."""
TARGET_PORT, SECOND_TARGET_PORT = 8080, 8081
POD_CIDR, SERVICE_CIDR = "10.244.0.0/16", "10.96.0.0/16"
ZONE = "east"

Wanted = str | tuple[str, str] | tuple[str, str, str]
"""What happens; a pair is (iptables mode, nftables mode), a third is userspace mode's, where that is not `proxied` (below)."""


def ep(pod: str, *, ready: bool | None = True, serving: bool | None = None, terminating: bool = False,
       zones: tuple[str, ...] = (), nodes: tuple[str, ...] = ()) -> Object:  # fmt: skip
    conditions = {"ready": ready, "serving": ready if serving is None else serving, "terminating": terminating}
    hints = {"forZones": [{"name": z} for z in zones], "forNodes": [{"name": n} for n in nodes]}
    return {
        "addresses": [PODS[pod]], "nodeName": "node2" if pod == "r" else "node1",
        "conditions": {k: v for k, v in conditions.items() if v is not None}, "hints": {k: v for k, v in hints.items() if v},
    }  # fmt: skip


DRAINING = {"ready": False, "serving": True, "terminating": True}


@dataclass(frozen=True)
class Case:
    """A service with its endpoints, and what becomes of packets: (source, destination, expectation).

    Destinations: cluster, node (the node port), node99 (at the node's second address), localhost, vip, external; each with `:port`
    for another port and `/udp` or `/sctp` for another protocol.
    """

    name: str
    spec: Object
    endpoints: tuple[Object, ...]
    flows: tuple[tuple[str, str, Wanted], ...]
    ports: tuple[tuple[str, int, str, int], ...] = (("", 80, "TCP", TARGET_PORT),)
    ip_mode: str = "VIP"
    exposed: frozenset[str] = field(default=frozenset())
    """What it has besides a ClusterIP: node, vip, external."""


def case(name: str, spec: Object, endpoints: tuple[Object, ...] | list[Object], *flows: tuple[str, str, Wanted], **more: Any) -> Case:
    exposed = set()
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        exposed.add("node")
    if spec.get("type") == "LoadBalancer":
        exposed.add("vip")
    if spec.pop("external", False):
        exposed.add("external")
    return Case(name, spec, tuple(endpoints), flows, exposed=frozenset(exposed), **more)


NP, LB = {"type": "NodePort"}, {"type": "LoadBalancer"}
ET_LOCAL, IN_LOCAL = {"externalTrafficPolicy": "Local"}, {"internalTrafficPolicy": "Local"}
A, B, R = ep("a"), ep("b"), ep("r")
DROP_OR_PROXIED = "DROP", "DROP", "r masq"

CASES = (
    case("one", {}, [A],
         ("b", "cluster", "a"), ("a", "cluster", "a masq"), ("r", "cluster", "a"), ("node", "cluster", "a masq"),
         ("outside", "cluster", "a masq"), ("node2", "cluster", "a masq"), ("client", "cluster", "a masq"),
         ("b", "cluster:81", ("PASS", "REJECT")), ("node", "cluster:81", ("PASS", "REJECT")),
         ("outside", "cluster:81", ("PASS", "REJECT")), ("b", "cluster/udp", ("PASS", "REJECT"))),
    case("remote", {}, [R],
         ("b", "cluster", "r"), ("node", "cluster", "r masq"), ("outside", "cluster", "r masq"), ("r", "cluster", "r masq")),
    case("three", {}, [A, B, R],
         ("b", "cluster", "a|b masq|r"), ("node", "cluster", "a masq|b masq|r masq"), ("outside", "cluster", "a masq|b masq|r masq")),
    case("hostnet", {}, [ep("node")],
         ("b", "cluster", "node"), ("outside", "cluster", "node"), ("node", "cluster", "node")),
    case("none", {**LB, "external": True}, [],
         *((s, d, "REJECT") for s in ("b", "node", "outside") for d in ("cluster", "node")),
         # KUBE-EXTERNAL-SERVICES hangs on INPUT and FORWARD only: the node's own packets leave.
         ("b", "vip", "REJECT"), ("outside", "vip", "REJECT"), ("node", "vip", ("PASS", "REJECT", "CLOSED")),
         ("b", "external", ("REJECT", "REJECT", "PASS")), ("outside", "external", "REJECT")),
    case("nodeport", NP, [R],
         ("b", "node", "r masq"), ("node", "node", "r masq"), ("outside", "node", "r masq"), ("node2", "node", "r masq"),
         ("r", "node", "r masq"), ("client", "node", "r masq"), ("node", "localhost", ("r masq", "PASS")),
         ("outside", "node99", ("r masq", "PASS")), ("b", "node:39999", "PASS"), ("outside", "node:39999", "PASS")),
    case("nodeport-own", NP, [A],
         ("a", "node", "a masq"), ("b", "node", "a masq"), ("outside", "node", "a masq"), ("node", "localhost", ("a masq", "PASS"))),
    case("local-both", NP | ET_LOCAL, [A, R],
         *((s, "node", ("a", "a", "a masq|r masq")) for s in ("outside", "client", "node2")), ("b", "node", "a|r"),
         ("a", "node", "a masq|r"), ("node", "node", "a masq|r masq"), ("b", "cluster", "a|r")),
    case("local-away", LB | ET_LOCAL | {"external": True}, [R],
         *((s, "node", DROP_OR_PROXIED) for s in ("outside", "client", "node2")), ("b", "node", "r"),
         ("node", "node", "r masq"), ("outside", "vip", DROP_OR_PROXIED), ("b", "vip", "r"), ("node", "vip", "r masq"),
         ("outside", "external", DROP_OR_PROXIED), ("b", "external", ("r", "r", "PASS")), ("b", "cluster", "r")),
    case("internal-local", IN_LOCAL, [B, R],
         ("a", "cluster", ("b", "b", "b masq|r masq")), *((s, "cluster", ("b masq", "b masq", "b masq|r masq"))
                                                          for s in ("b", "node", "outside"))),
    case("internal-away", IN_LOCAL, [R],
         *((s, "cluster", DROP_OR_PROXIED) for s in ("a", "node", "outside", "r"))),
    case("internal-away-exposed", NP | IN_LOCAL, [R],
         ("a", "cluster", DROP_OR_PROXIED), ("outside", "node", "r masq"), ("a", "node", "r masq"), ("node", "node", "r masq")),
    case("both-local", NP | IN_LOCAL | ET_LOCAL, [A, R],
         ("b", "cluster", ("a", "a", "a masq|r masq")), ("outside", "node", ("a", "a", "a masq|r masq")), ("b", "node", "a|r")),
    case("external", {"external": True}, [A],
         ("outside", "external", "a masq"), *((s, "external", ("a masq", "a masq", "PASS")) for s in ("b", "node", "a"))),
    case("external-local", {"external": True} | ET_LOCAL, [A],
         ("outside", "external", "a"), ("b", "external", ("a", "a", "PASS")), ("node", "external", ("a masq", "a masq", "PASS"))),
    case("lb", LB, [A],
         ("outside", "vip", "a masq"), ("b", "vip", "a masq"), ("node", "vip", "a masq"), ("a", "vip", "a masq")),
    case("lb-local", LB | ET_LOCAL, [A],
         ("outside", "vip", "a"), ("client", "vip", "a"), ("b", "vip", "a"), ("node", "vip", "a masq")),
    case("lb-ranges", LB | {"loadBalancerSourceRanges": [" 203.0.113.0/24 "]}, [A],
         ("client", "vip", "a masq"), *((s, "vip", ("DROP", "DROP", "a masq")) for s in ("outside", "b", "node")),
         ("outside", "node", "a masq"), ("outside", "cluster", "a masq")),
    case("lb-ranges-node", LB | {"loadBalancerSourceRanges": [NODE + "/32", "10.244.0.0/16"]}, [A],
         ("b", "vip", "a masq"), ("node", "vip", "a masq"), *((s, "vip", ("DROP", "DROP", "a masq")) for s in ("outside", "client"))),
    case("lb-ranges-none", LB | {"loadBalancerSourceRanges": ["203.0.113.0/24"]}, [],
         ("client", "vip", "REJECT"), ("outside", "vip", ("REJECT", "DROP")), ("b", "vip", ("REJECT", "DROP"))),
    case("lb-ranges-local", LB | ET_LOCAL | {"loadBalancerSourceRanges": ["203.0.113.0/24"]}, [A],
         ("client", "vip", "a"), ("outside", "vip", ("DROP", "DROP", "a masq")), ("outside", "node", "a")),
    case("lb-proxy", LB, [A],
         ("b", "vip", "PASS"), ("node", "vip", "PASS"), ("outside", "vip", "PASS"), ("outside", "node", "a masq"),
         ip_mode="Proxy"),
    case("ports", NP, [A],
         ("b", "cluster:80", "a"), ("b", "cluster:443", "a"), ("b", "cluster:53", "a"), ("b", "cluster:53/udp", "a"),
         ("b", "cluster:53/sctp", ("a", "a", "PASS")), ("outside", "node", "a masq"), ("outside", "node/udp", "a masq"),
         ("b", "cluster:443/udp", ("PASS", "REJECT")), ("b", "cluster:444", ("PASS", "REJECT")),
         ("outside", "node/sctp", ("a masq", "a masq", "PASS")),
         ports=(("http", 80, "TCP", TARGET_PORT), ("https", 443, "TCP", SECOND_TARGET_PORT), ("dns-tcp", 53, "TCP", TARGET_PORT),
                ("dns", 53, "UDP", TARGET_PORT), ("dns-sctp", 53, "SCTP", TARGET_PORT))),
    case("udp", LB, [A, R],
         ("b", "cluster/udp", "a|r"), ("node", "cluster/udp", "a masq|r masq"), ("outside", "vip/udp", "a masq|r masq"),
         ("outside", "node/udp", "a masq|r masq"), ("b", "cluster", ("PASS", "REJECT")),
         ports=(("", 80, "UDP", TARGET_PORT),)),
    case("udp-none", NP, [],
         ("b", "cluster/udp", "REJECT"), ("outside", "node/udp", "REJECT"), ("node", "cluster/udp", "REJECT"),
         ports=(("", 80, "UDP", TARGET_PORT),)),
    case("sticky", NP | {"sessionAffinity": "ClientIP"}, [A, B, R],
         ("b", "cluster", "a|b masq|r sticky"), ("node", "cluster", "a masq|b masq|r masq sticky"),
         ("outside", "node", "a masq|b masq|r masq sticky")),
    case("draining", NP, [ep("a", **DRAINING), ep("r", **DRAINING)],
         ("b", "cluster", ("a|r", "a|r", "CLOSED")), ("outside", "node", ("a masq|r masq", "a masq|r masq", "CLOSED"))),
    case("draining-beside-ready", {}, [ep("a", **DRAINING), R], ("b", "cluster", "r"), ("node", "cluster", "r masq")),
    case("draining-here", LB | ET_LOCAL, [ep("a", **DRAINING), R],
         ("b", "cluster", "r"), ("b", "vip", "r"), *(("outside", d, ("a", "a", "r masq")) for d in ("vip", "node"))),
    case("unready", NP, [ep("a", ready=False), ep("b", ready=False, serving=False, terminating=True)],
         ("b", "cluster", "REJECT"), ("outside", "node", "REJECT")),
    case("serving-but-unready", {}, [ep("a", ready=False, serving=True)], ("b", "cluster", "REJECT")),
    case("publish-not-ready", {"publishNotReadyAddresses": True}, [ep("a", ready=True, serving=False, terminating=True)],
         ("b", "cluster", "a")),
    case("zone-hints", NP, [ep("a", zones=("west",)), ep("r", zones=(ZONE, "north"))],
         ("b", "cluster", ("r", "r", "a masq|r masq")), *((s, d, ("r masq", "r masq", "a masq|r masq"))
                                                          for s, d in (("node", "cluster"), ("outside", "node")))),
    case("zone-hints-missing", {}, [ep("b"), ep("r", zones=(ZONE,))], ("a", "cluster", "b|r")),
    case("zone-hints-elsewhere", {}, [ep("b", zones=("west",)), ep("r", zones=("north",))], ("a", "cluster", "b|r")),
    case("zone-hints-local", NP | ET_LOCAL, [ep("a", zones=("west",)), ep("r", zones=(ZONE,))],
         ("outside", "node", ("a", "a", "a masq|r masq")), *(("b", d, ("r", "r", "a masq|r masq")) for d in ("node", "cluster"))),
    case("sctp", LB | {"external": True}, [A, R],
         ("b", "cluster/sctp", "a|r"), ("a", "cluster/sctp", "a masq|r"), ("r", "cluster/sctp", "a|r masq"),
         *((s, d, "a masq|r masq") for s, d in (
             ("node", "cluster/sctp"), ("outside", "cluster/sctp"), ("b", "node/sctp"), ("node", "node/sctp"), ("a", "node/sctp"),
             ("outside", "node/sctp"), ("node2", "node/sctp"), ("client", "node/sctp"), ("b", "vip/sctp"), ("node", "vip/sctp"),
             ("outside", "vip/sctp"), ("client", "vip/sctp"), ("b", "external/sctp"), ("outside", "external/sctp"))),
         ("node", "localhost/sctp", ("a masq|r masq", "PASS")), ("b", "cluster:81/sctp", ("PASS", "REJECT")),
         ports=(("t", 80, "TCP", TARGET_PORT), ("u", 80, "UDP", TARGET_PORT), ("s", 80, "SCTP", TARGET_PORT))),
    case("sctp-local", LB | ET_LOCAL | {"external": True}, [A],
         *((s, d, "a") for s in ("outside", "client") for d in ("node/sctp", "vip/sctp", "external/sctp")),
         ("b", "vip/sctp", "a"), ("a", "node/sctp", "a masq"), ("node", "vip/sctp", "a masq"),
         ports=(("", 80, "SCTP", TARGET_PORT),)),
    case("sctp-away", LB | ET_LOCAL | IN_LOCAL, [R],
         *((s, d, "DROP") for s in ("outside", "node2") for d in ("node/sctp", "vip/sctp")), ("b", "cluster/sctp", "DROP"),
         ("node", "cluster/sctp", "DROP"), ("b", "vip/sctp", "r"), ("node", "node/sctp", "r masq"),
         ports=(("", 80, "SCTP", TARGET_PORT),)),
    case("sctp-none", LB | {"external": True}, [],
         *((s, d, "REJECT") for s in ("b", "node", "outside") for d in ("cluster/sctp", "node/sctp")),
         *((s, d, "REJECT") for s in ("b", "outside") for d in ("vip/sctp", "external/sctp")),
         ports=(("", 80, "SCTP", TARGET_PORT),)),
    case("sctp-hostnet", NP, [ep("node")],
         ("b", "cluster/sctp", "node"), ("outside", "node/sctp", "node"), ("outside", "node:39999/sctp", "PASS"),
         ports=(("", 80, "SCTP", TARGET_PORT),)),
    case("sctp-ranges", LB | {"loadBalancerSourceRanges": ["203.0.113.0/24"]}, [A],
         ("client", "vip/sctp", "a masq"), *((s, "vip/sctp", "DROP") for s in ("outside", "b", "node")),
         ports=(("", 80, "SCTP", TARGET_PORT),)),
    case("sctp-sticky", {"sessionAffinity": "ClientIP"}, [A, B, R],
         ("node", "cluster/sctp", "a masq|b masq|r masq sticky"),
         ports=(("", 80, "SCTP", TARGET_PORT),)),
    case("node-hints", {"trafficDistribution": "PreferSameNode"},
         [ep("b", nodes=("node1",), zones=("west",)), ep("r", nodes=("node2",), zones=(ZONE,))],
         ("a", "cluster", ("b", "b", "b masq|r masq")), ("node", "cluster", ("b masq", "b masq", "b masq|r masq"))),
)  # fmt: skip

IN_IPVS: dict[tuple[str, str, str], str] = {
    # Another port of an address on kube-ipvs0 is refused; all that asks comes by INPUT, so the node's own packets are, too.
    **{("one", s, "cluster:81"): "REJECT" for s in ("b", "node", "outside")}, ("one", "b", "cluster/udp"): "REJECT",
    ("ports", "b", "cluster:443/udp"): "REJECT", ("ports", "b", "cluster:444"): "REJECT", ("udp", "b", "cluster"): "REJECT",
    ("sctp", "b", "cluster:81/sctp"): "REJECT", ("none", "node", "vip"): "REJECT",
    # No node port answers on localhost.
    **{(c, "node", "localhost"): "PASS" for c in ("nodeport", "nodeport-own")}, ("sctp", "node", "localhost/sctp"): "PASS",
    # KUBE-LOOP-BACK knows this node's endpoints only: one elsewhere that asks itself by way of this node hears nobody.
    ("remote", "r", "cluster"): "r lost", ("sctp", "r", "cluster/sctp"): "a|r lost",
    # Under a Local policy everybody gets the endpoints here, pods and the node, too …
    ("local-both", "b", "node"): "a", ("local-both", "a", "node"): "a masq", ("local-both", "node", "node"): "a masq",
    ("both-local", "b", "node"): "a", ("draining-here", "b", "vip"): "a", ("zone-hints-local", "b", "node"): "a",
    # … unmarked, so that a pod sees the address that the node asked, for it is the node's own.
    ("external-local", "node", "external"): "a vip", ("lb-local", "node", "vip"): "a vip", ("sctp-local", "node", "vip/sctp"): "a vip",
    # Where none is here all are tried, which helps pods only: others get an answer that is not from whom they asked.
    **{("local-away", s, "node"): "r lost" for s in ("outside", "client", "node2")}, ("local-away", "node", "node"): "r masq",
    **{("local-away", "outside", d): "r lost" for d in ("vip", "external")}, ("local-away", "node", "vip"): "r vip",
    **{("sctp-away", s, d): "r lost" for s in ("outside", "node2") for d in ("node/sctp", "vip/sctp")},
    ("sctp-away", "b", "cluster/sctp"): "r", ("sctp-away", "node", "cluster/sctp"): "r masq",
    ("internal-away-exposed", "a", "cluster"): "r",
    # A virtual server without real ones answers with an ICMP port unreachable, whatever the policy; source ranges come before it.
    **{("internal-away", s, "cluster"): "REJECT" for s in ("a", "node", "outside", "r")},
    **{("lb-ranges-none", s, "vip"): "DROP" for s in ("outside", "b")},
}  # fmt: skip
"""(case, source, destination) → what happens in ipvs mode, where that is not what happens in iptables mode."""

UNALLOCATED = "10.96.200.200"
LOOSE: tuple[tuple[str, str, int, Wanted], ...] = (
    ("b", UNALLOCATED, 80, "PASS"), ("node", UNALLOCATED, 80, "PASS"), ("outside", UNALLOCATED, 80, "PASS"),
    ("b", PODS["a"], TARGET_PORT, "a"), ("b", PODS["r"], TARGET_PORT, "r"),
)  # fmt: skip
"""Packets that are no Service's: (source, address, port, expectation)."""


# ── the objects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def six(address: str) -> str:
    """The IPv6 twin of an address or network of the table."""
    host, slash, length = address.partition("/")
    for prefix, twin, bits in (
        ("10.244.1.", "fd00:10:244:1::", 64), ("10.244.2.", "fd00:10:244:2::", 64), ("10.244.0.", "fd00:10:244::", 0),
        ("10.96.", "fd00:10:96::", 96), ("192.168.77.", "fd00:192:168:77::", 64), ("203.0.113.", "2001:db8:203::", 64),
        ("198.51.100.", "2001:db8:51::", 64),
    ):  # fmt: skip
        if host.startswith(prefix):
            tail = host[len(prefix) :].replace(".", ":")
            made = str(ip_address(twin + tail))
            if not slash:
                return made
            return f"{made}/128" if length == "32" else f"{made}/{bits or 48}"
    return {"127.0.0.1": "::1"}[host]


def of_family(address: str, ipv6: bool) -> str:
    return six(address) if ipv6 else address


class Addresses(NamedTuple):
    cluster: str
    node_port: int
    vip: str
    external: str


def addresses(index: int) -> Addresses:
    return Addresses(f"10.96.1.{index}", 30100 + index * 5, f"198.51.100.{index}", f"198.51.100.{100 + index}")


def objects(index: int, each: Case) -> list[Object]:
    """The dual-stack Service of a case and its EndpointSlices, as controllers would make them."""
    at = addresses(index)
    ports = []
    for i, (name, number, protocol, target) in enumerate(each.ports):
        # TCP, UDP and SCTP may share a node port, as they may share a port.
        node_port = {"nodePort": at.node_port + (i if protocol == "TCP" else 0)} if "node" in each.exposed else {}
        ports.append({"name": name, "port": number, "protocol": protocol, "targetPort": target, **node_port})
    spec: Object = {
        "type": "ClusterIP", "clusterIP": at.cluster, "clusterIPs": [at.cluster, six(at.cluster)], "ports": ports,
        "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"], **each.spec,
    }  # fmt: skip
    if "external" in each.exposed:
        spec["externalIPs"] = [at.external, six(at.external)]
    if "loadBalancerSourceRanges" in spec:
        spec["loadBalancerSourceRanges"] = [t for r in spec["loadBalancerSourceRanges"] for t in (r, six(r.strip()))]
    status: Object = {}
    if "vip" in each.exposed:
        status = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": each.ip_mode} for ip in (at.vip, six(at.vip))]}}
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": each.name, "namespace": "default"},
        "spec": spec, "status": status,
    }  # fmt: skip
    return [service, *(slice_of(each, ipv6) for ipv6 in (False, True))]


def slice_of(each: Case, ipv6: bool, endpoints: tuple[Object, ...] | None = None) -> Object:
    held = each.endpoints if endpoints is None else endpoints
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6" if ipv6 else "IPv4",
        "metadata": {
            "name": f"{each.name}-{6 if ipv6 else 4}", "namespace": "default",
            "labels": {"kubernetes.io/service-name": each.name},
        },
        "ports": [{"name": name, "port": target, "protocol": protocol} for name, _, protocol, target in each.ports],
        "endpoints": [{**e, "addresses": [of_family(e["addresses"][0], ipv6)]} for e in held],
    }  # fmt: skip


def node_object() -> Object:
    addresses_ = [{"type": "InternalIP", "address": of_family(NODE, v)} for v in (False, True)]
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": ZONE}},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", six("10.244.1.0/24")]},
        "status": {"addresses": addresses_},
    }  # fmt: skip


# ── the flows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Flow(NamedTuple):
    """One connection: who asks what, and what must come of it (in iptables, nftables, userspace, ipvs mode)."""

    case: str
    source: str
    protocol: str
    address: str
    port: int
    wanted: tuple[str, str, str, str]

    @property
    def sticky(self) -> bool:
        return self.wanted[0].endswith(" sticky")

    def expected(self, mode: str) -> str:
        return self.wanted[("iptables", "nftables", "userspace", "ipvs").index(mode)].removesuffix(" sticky")


def in_every_mode(wanted: Wanted, protocol: str) -> tuple[str, str, str]:
    if isinstance(wanted, str):
        return wanted, wanted, proxied(wanted, protocol)
    return wanted if len(wanted) == 3 else (*wanted, proxied(wanted[0], protocol))


def proxied(wanted: str, protocol: str) -> str:
    """userspace mode's twin of what iptables mode does: every endpoint sees the node, for it is the node that asks; where there is
    none, a connection is accepted and closed, and a datagram meets silence."""
    if wanted == "PASS" or protocol == "sctp":  # which it does not proxy
        return "PASS"
    if wanted == "REJECT":
        return "DROP" if protocol == "udp" else "CLOSED"
    chosen, sticky, _ = wanted.partition(" sticky")
    return "|".join(one if one == "node" or one.endswith(" masq") else f"{one} masq" for one in chosen.split("|")) + sticky


def flows(ipv6: bool = False) -> Iterator[Flow]:
    for index, each in enumerate(CASES, 1):
        at = addresses(index)
        for source, destination, wanted in each.flows:
            where, _, protocol = destination.partition("/")
            where, _, port = where.partition(":")
            protocol = protocol or "tcp"
            address = {"cluster": at.cluster, "node": NODE, "node99": SECOND_ADDRESS, "localhost": "127.0.0.1", "vip": at.vip,
                       "external": at.external}[where]  # fmt: skip
            number = int(port) if port else at.node_port if where in ("node", "node99", "localhost") else 80
            three = in_every_mode(wanted, protocol)
            if ipv6 and where == "localhost":
                three = ("PASS", "PASS", three[2])  # iptables mode's node ports never answer on ::1
            ipvs = IN_IPVS.get((each.name, source, destination), three[0])
            if ipvs == "r lost" and source == "node2" and not ipv6:
                ipvs = "DROP"  # it comes back to node2 with node2's own address for source, which only IPv6 lets in
            yield Flow(each.name, source, protocol, of_family(address, ipv6), number, (*three, ipvs))
    for source, address, number, wanted in LOOSE:
        direct = wanted if isinstance(wanted, str) else wanted[0]
        yield Flow("no service", source, "tcp", of_family(address, ipv6), number, (direct,) * 4)
