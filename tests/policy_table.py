"""NetworkPolicies to ask about: upstream's recipes with what they should do, generated ones, and the world they are about. Pure.

Namespaces x, y and z (labelled ns=NAME) with pods a, b and c (labelled pod=NAME) each, as in upstream's own tests; a on node1, b on
node2, c on both by turns; both address families; ports 80 (named serve-80-tcp, serve-80-udp) and 81. `outside` is no pod.
"""

from __future__ import annotations

import random
from typing import Any

from nsk8s.networkpolicy.model import Pod, Policy, World

Object = dict[str, Any]
NAMESPACES, NAMES, PORTS, PROTOCOLS = "xyz", "abc", (80, 81), ("tcp", "udp")
SUBNETS = {"node1": ("10.244.1.0/24", "fd00:244:1::/64"), "node2": ("10.244.2.0/24", "fd00:244:2::/64")}
OUTSIDE = ("203.0.113.10", "fd00:113::10")


EXTRA: dict[str, tuple[tuple[str, str, int], ...]] = {"a": (), "b": (("extra", "tcp", 81),), "c": (("extra", "tcp", 80),)}
"""One name for two numbers."""


def _pods() -> dict[str, Pod]:
    found = {}
    for i, namespace in enumerate(NAMESPACES):
        for j, name in enumerate(NAMES):
            node = {"a": "node1", "b": "node2", "c": f"node{1 + i % 2}"}[name]
            host, n = 10 + 3 * i + j, node[-1]
            ports = tuple((f"serve-80-{p}", p, 80) for p in PROTOCOLS) + EXTRA[name]
            found[f"{namespace}/{name}"] = Pod(
                namespace, name, {"pod": name}, (f"10.244.{n}.{host}", f"fd00:244:{n}::{host}"), node, ports
            )
    return found


PODS = _pods()


def world(*policies: Object) -> World:
    return World(tuple(map(Policy.of, policies)), tuple(PODS.values()), {n: {"ns": n, "kubernetes.io/metadata.name": n} for n in NAMESPACES})


def policy(namespace: str = "x", name: str = "p", **spec: Any) -> Object:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": {}, **spec}}


def labelled(**labels: str) -> Object:
    return {"matchLabels": labels}


_A = {"podSelector": labelled(pod="a")}
_BLOCK = {"cidr": "10.244.1.0/24", "except": ["10.244.1.10/32"]}

RECIPES: dict[str, tuple[list[Object], list[str], list[str]]] = {
    # name: (policies, what may pass, what may not), each "SOURCE DESTINATION PROTOCOL PORT"
    "no policy": ([], ["y/a x/a tcp 80", "outside x/a udp 81", "x/a outside tcp 80"], []),
    "deny all ingress of an app": (
        [policy(podSelector=labelled(pod="a"), ingress=[])],
        ["x/a y/b tcp 80", "x/a outside tcp 80", "y/a x/b tcp 80"],
        ["y/a x/a tcp 80", "x/b x/a tcp 80", "outside x/a udp 80"],
    ),
    "limit traffic to an app": (
        [policy(podSelector=labelled(pod="a"), ingress=[{"from": [{"podSelector": labelled(pod="b")}]}])],
        ["x/b x/a tcp 80", "x/b x/a udp 81"],
        ["x/c x/a tcp 80", "y/b x/a tcp 80"],
    ),
    "deny all in a namespace": (
        [policy(policyTypes=["Ingress"])], ["x/a y/a tcp 80"], ["y/a x/a tcp 80", "x/b x/c tcp 81", "outside x/b tcp 80"],
    ),
    "deny from other namespaces": (
        [policy(ingress=[{"from": [{"podSelector": {}}]}])], ["x/a x/b tcp 80", "x/c x/a udp 81"], ["y/a x/b tcp 80", "outside x/a tcp 80"],
    ),
    "allow from all namespaces": (
        [policy(podSelector=labelled(pod="a"), ingress=[{"from": [{"namespaceSelector": {}}]}])],
        ["y/a x/a tcp 80", "z/c x/a udp 81"], ["outside x/a tcp 80"],
    ),
    "allow from a namespace": (
        [policy(ingress=[{"from": [{"namespaceSelector": labelled(ns="y")}]}])],
        ["y/a x/a tcp 80", "y/c x/b udp 81"], ["z/a x/a tcp 80", "x/a x/b tcp 80"],
    ),
    "allow some pods of another namespace": (
        [policy(ingress=[{"from": [{"namespaceSelector": labelled(ns="y"), **_A}]}])],
        ["y/a x/b tcp 80"], ["y/b x/b tcp 80", "x/a x/b tcp 80", "z/a x/b tcp 80"],
    ),
    "either, not both": (
        [policy(ingress=[{"from": [{"namespaceSelector": labelled(ns="y")}, _A]}])],
        ["y/b x/b tcp 80", "x/a x/b tcp 80"], ["z/a x/b tcp 80", "x/c x/b tcp 80"],
    ),
    "allow external clients": (
        [policy(policyTypes=["Ingress"]), policy(name="q", podSelector=labelled(pod="a"), ingress=[{}])],
        ["outside x/a tcp 80", "z/b x/a udp 81"], ["outside x/b tcp 80"],
    ),
    "allow one port": (
        [policy(ingress=[{"ports": [{"port": 80}]}])], ["outside x/a tcp 80"], ["y/a x/a tcp 81", "y/a x/a udp 80"],
    ),
    "a named port": (
        [policy(ingress=[{"ports": [{"port": "serve-80-udp", "protocol": "UDP"}, {"port": "extra"}]}])],
        ["y/a x/a udp 80", "y/a x/b tcp 81", "y/a x/c tcp 80"],
        ["y/a x/a tcp 81", "y/a x/a tcp 80", "y/a x/b udp 81", "y/a x/b tcp 80", "y/a x/c tcp 81"],
    ),
    "a range of ports": (
        [policy(ingress=[{"ports": [{"port": 81, "endPort": 90}, {"protocol": "UDP"}]}])],
        ["y/a x/a tcp 81", "y/a x/a udp 80"], ["y/a x/a tcp 80"],
    ),
    "several selectors": (
        [policy(ingress=[{"from": [_A, {"podSelector": labelled(pod="b")}]}])], ["x/a x/c tcp 80", "x/b x/c tcp 80"], ["x/c x/a tcp 80"],
    ),
    "an expression": (
        [policy(ingress=[{"from": [{"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]}}]}])],
        ["y/a x/a tcp 80"], ["x/b x/a tcp 80"],
    ),
    "a namespace by its name": (
        [policy(ingress=[{"from": [{"namespaceSelector": labelled(**{"kubernetes.io/metadata.name": "z"})}]}])],
        ["z/a x/a tcp 80"], ["y/b x/a tcp 80"],
    ),
    "deny all egress": (
        [policy(podSelector=labelled(pod="a"), policyTypes=["Egress"])],
        ["y/a x/a tcp 80", "x/b y/a tcp 80"], ["x/a y/a tcp 80", "x/a x/b udp 80", "x/a outside tcp 80"],
    ),
    "deny egress but DNS": (
        [policy(policyTypes=["Egress"], egress=[{"ports": [{"port": 80, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}]}])],
        ["x/a z/a udp 80", "x/a outside tcp 80"], ["x/a z/a udp 81", "x/a y/a tcp 81"],
    ),
    "deny traffic out of the cluster": (
        [policy(policyTypes=["Egress"], egress=[{"to": [{"namespaceSelector": {}}]}])],
        ["x/a z/a udp 80", "x/a x/b tcp 81"], ["x/a outside tcp 80"],
    ),
    "egress to a named port": (
        [policy(egress=[{"ports": [{"port": "extra"}]}], policyTypes=["Egress"])],
        ["x/a y/b tcp 81", "x/a x/b tcp 81", "x/a y/c tcp 80"],
        ["x/a y/b tcp 80", "x/a y/a tcp 81", "x/a outside tcp 81", "x/a y/c tcp 81"],
    ),
    "both ends must allow": (
        [policy("x", egress=[{"to": [{"namespaceSelector": labelled(ns="y")}]}], policyTypes=["Egress"]),
         policy("y", ingress=[{"from": [{"namespaceSelector": labelled(ns="x"), **_A}]}])],
        ["x/a y/b tcp 80"], ["x/b y/b tcp 80", "x/a z/b tcp 80", "z/a y/b tcp 80"],
    ),
    "egress rules imply the type": (
        [policy(egress=[{"to": [_A]}])], ["x/b x/b tcp 80"], ["x/b x/a tcp 80", "x/b y/a tcp 80", "y/a x/b tcp 80"],
    ),
    "a block but for some": (
        [policy(policyTypes=["Ingress"], ingress=[{"from": [{"ipBlock": _BLOCK}]}])],
        ["y/a x/b tcp 80"], ["x/a x/b tcp 80", "y/b x/b tcp 80", "outside x/b tcp 80"],
    ),
    "egress to a block": (
        [policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}])],
        ["x/a outside tcp 80"], ["x/a y/a tcp 80"],
    ),
}  # fmt: skip


def addresses(source: str, destination: str, family: int = 0) -> tuple[str, str]:
    """Of two pods or `outside`; family 0 is IPv4, 1 is IPv6."""
    return tuple((OUTSIDE if who == "outside" else PODS[who].ips)[family] for who in (source, destination))  # type: ignore[return-value]


# ── generated ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def generated(seed: int) -> list[Object]:
    """One to three policies that say something of everything."""
    r = random.Random(seed)
    return [_policy(r, f"p{i}") for i in range(r.choice((1, 1, 2, 3)))]


def _policy(r: random.Random, name: str) -> Object:
    spec: Object = {"podSelector": _pod_selector(r)}
    types = r.choice((None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]))
    if types:
        spec["policyTypes"] = types
    for key, side, chance in (("ingress", "from", 0.8), ("egress", "to", 0.6)):
        if r.random() < chance:
            spec[key] = [_rule(r, side) for _ in range(r.choice((0, 1, 1, 2)))]
    return {"metadata": {"namespace": r.choice(NAMESPACES), "name": name}, "spec": spec}


def _rule(r: random.Random, side: str) -> Object:
    rule: Object = {}
    if r.random() < 0.8:
        rule[side] = [_peer(r) for _ in range(r.choice((1, 1, 2)))]
    if r.random() < 0.6:
        rule["ports"] = [_port(r) for _ in range(r.choice((1, 2)))]
    return rule


def _selector(r: random.Random, key: str, values: str) -> Object:
    match r.randrange(6):
        case 0:
            return {}
        case 1:
            op = r.choice(("In", "NotIn"))
            return {"matchExpressions": [{"key": key, "operator": op, "values": r.sample(values, 2)}]}
        case 2:
            return {"matchExpressions": [{"key": r.choice((key, "none")), "operator": r.choice(("Exists", "DoesNotExist"))}]}
    return {"matchLabels": {key: r.choice(values)}}


def _pod_selector(r: random.Random) -> Object:
    return _selector(r, "pod", NAMES)


def _peer(r: random.Random) -> Object:
    match r.randrange(4):
        case 0:
            return {"podSelector": _pod_selector(r)}
        case 1:
            return {"namespaceSelector": _selector(r, "ns", NAMESPACES)}
        case 2:
            return {"podSelector": _pod_selector(r), "namespaceSelector": _selector(r, "ns", NAMESPACES)}
    family = r.randrange(2)
    some = [p.ips[family] for p in PODS.values()] + [OUTSIDE[family]]
    cidr = r.choice((["0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", f"{r.choice(some)}/32"],
                     ["::/0", "fd00:244::/32", "fd00:244:1::/64", f"{r.choice(some)}/128"])[family])  # fmt: skip
    block: Object = {"cidr": cidr}
    if r.random() < 0.5:
        block["except"] = r.sample((["10.244.1.8/29", "10.244.2.0/24", f"{r.choice(some)}/32"],
                                    ["fd00:244:2::/64", f"{r.choice(some)}/128", "fd00:244:1::8/125"])[family], r.choice((1, 2)))  # fmt: skip
    return {"ipBlock": block}


def _port(r: random.Random) -> Object:
    protocol = r.choice(PROTOCOLS)
    port: Object = {"protocol": protocol.upper()} if protocol == "udp" or r.random() < 0.5 else {}
    match r.randrange(4):
        case 0:
            port["port"] = r.choice(PORTS)
        case 1:
            port |= {"port": r.choice((1, 81)), "endPort": r.choice((81, 65535))}
        case 2:
            port["port"] = r.choice((f"serve-80-{protocol}", "extra", "nothing"))
    return port
