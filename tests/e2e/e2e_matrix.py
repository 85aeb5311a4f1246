"""Who is seen as whom: every pair of pods, nodes and the outside, for TCP, UDP and ICMP, against one table for all routing modes.

Both ends of a real exchange say what they see, ports too; and the connection tracking of every node on the way has the entry of
that very exchange, which names both ends' answers or there was NAT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from e2e_cluster import get, netns

PORT = 7007
PODS = {"a1": "node1", "a2": "node1", "b": "node2"}
PROTOCOLS = ("tcp", "udp", "icmp")
CLIENT = {4: "203.0.113.10", 6: "2001:db8:203::10"}
ROUTER = {4: "203.0.113.1", 6: "2001:db8:203::1"}
"""Its outer address: what it says to the outside comes from there."""
MACHINES = ("control-plane", "node1", "node2")
TUNNEL = {4: "flannel.1", 6: "flannel-v6.1"}
PREFIX = {4: 24, 6: 64}
HOMES = {**PODS, "node1": "node1", "node2": "node2"}
"""Where a pod or a node's own process is; the client is on none."""
TABLE = {
    # (who asks, whom): what it is seen as
    ("a2", "a1"): "a2",  # a pod, a pod of the same node
    ("a1", "b"): "a1",  # of another node
    ("b", "a1"): "b",
    ("a1", "node1"): "a1",  # its node
    ("a1", "node2"): "a1",  # another node
    ("b", "node1"): "b",
    ("a1", "client"): "node1",  # outside: masqueraded
    ("b", "client"): "node2",
    ("node1", "a1"): "node1's bridge",  # a node, a pod of its own
    ("node1", "b"): "node1",  # of another node
    ("node2", "a1"): "node2",
    ("node1", "node1"): "node1",  # itself
    ("node1", "node2"): "node1",  # another node
    ("node2", "node1"): "node2",
    ("node1", "client"): "node1",  # outside
    ("client", "a1"): "client",  # outside, a pod: where the router knows pods
    ("client", "b"): "client",
    ("client", "node1"): "client",  # a node
    ("client", "node2"): "client",
}
IN_VXLAN = {("node1", "b"): "node1's tunnel", ("node2", "a1"): "node2's tunnel"}
UNEXPOSED = {("client", "a1"): PROTOCOLS, ("client", "b"): ("tcp",)}
"""What the router has no route for, without `expose: [pods]` and outside mode router. (Linux says so five times at once, then
once a second.)"""
REFUSED = "refused by the router, which has no route"

Ask = Callable[..., dict[str, Any]]


class Seen(NamedTuple):
    """One exchange: names of the own address and of the one that the far end saw; the nodes that track exactly that."""

    own: str
    seen: str
    tracked: tuple[str, ...]


class Exchange(NamedTuple):
    source: str
    target: str
    protocol: str
    family: int


def places(families: Sequence[int]) -> dict[int, dict[str, str]]:
    """The cluster's addresses: family → name → address."""
    found: dict[int, dict[str, str]] = {f: {"client": CLIENT[f], "router": ROUTER[f]} for f in families}
    for node in get("nodes")["items"]:
        name = node["metadata"]["name"]
        for held in (a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"):
            found.setdefault(family_of(held), {})[name] = held
        for cidr in map(ip_network, node["spec"]["podCIDRs"]):
            found[cidr.version] |= {f"{name}'s tunnel": str(cidr[0]), f"{name}'s bridge": str(cidr[1])}
    for name in PODS:
        for held in (i["ip"] for i in get(f"pod/{name}")["status"]["podIPs"]):
            found[family_of(held)][name] = held
    return {f: found[f] for f in families}


def wanted(mode: str, families: Iterable[int], *, exposed: bool) -> dict[Exchange, Seen | str]:
    """The table, as `found` would have it."""
    rows: dict[Exchange, Seen | str] = {}
    for (source, target), otherwise in TABLE.items():
        seen = IN_VXLAN.get((source, target), otherwise) if mode == "vxlan" else otherwise
        nodes = tuple(sorted({HOMES[place] for place in (source, target) if place in HOMES}))
        row = Seen(source if source in PODS else seen, seen, nodes)
        refused = () if exposed or mode == "router" else UNEXPOSED.get((source, target), ())
        for protocol in refused or PROTOCOLS:
            rows |= {Exchange(source, target, protocol, f): REFUSED if refused else row for f in families}
    return rows


def found(ask: Ask, addresses: Mapping[int, Mapping[str, str]], exchanges: Iterable[Exchange]) -> dict[Exchange, Seen | str]:
    """What both ends say and the nodes track; `addresses` are each family's, by name. What went wrong is named instead."""
    answers: dict[Exchange, Any] = {}
    for exchange in exchanges:
        known, protocol = addresses[exchange.family], exchange.protocol
        no_route = [[3 if exchange.family == 4 else 1, 0, known["router"]]]  # ICMP's type and code, and who says so
        answer = ask(exchange.source, known[exchange.target], protocol)
        if answer[protocol] == "ENETUNREACH" and answer["unreachable"] == no_route:
            answers[exchange] = REFUSED
        elif answer["unreachable"]:
            answers[exchange] = f"{answer[protocol]}, {answer['unreachable']}"
        else:
            answers[exchange] = answer[protocol]
            if protocol == "icmp" and isinstance(answer[protocol], list):
                answers[exchange] = [f"{end}#{answer['icmp_id']}" for end in answer[protocol]]
    entries = {(node, family): set(tracked(node, family)) for node in ("node1", "node2") for family in addresses}
    rows: dict[Exchange, Seen | str] = {}
    for exchange, said in answers.items():
        rows[exchange] = said if isinstance(said, str) else _seen(exchange, said, addresses[exchange.family], entries)
    return rows


def _seen(exchange: Exchange, said: list[str], known: Mapping[str, str], entries: Mapping[tuple[str, int], set[Any]]) -> Seen:
    own, seen = map(split, said)
    to = (known[exchange.target], 0 if exchange.protocol == "icmp" else PORT)
    entry = (exchange.protocol, own, to, to, seen)
    names = {address: name for name, address in known.items()}
    far = names.get(seen[0], seen[0])
    if own[0] == seen[0] and own[1] != seen[1]:
        far += f", port {seen[1]} for {own[1]}"  # that is NAT, too
    return Seen(names.get(own[0], own[0]), far, tuple(n for n in ("node1", "node2") if entry in entries[n, exchange.family]))


def differences(ask: Ask, addresses: Mapping[int, Mapping[str, str]], mode: str, *, exposed: bool) -> list[str]:
    """Where the cluster is not as the table."""
    want = wanted(mode, addresses, exposed=exposed)
    have = found(ask, addresses, want)
    return [f"{mode}: {exchange} is {have[exchange]}, not {want[exchange]}" for exchange in want if have[exchange] != want[exchange]]


def tracked(node: str, family: int) -> Iterator[tuple[Any, ...]]:
    """A node's connection tracking: (protocol, source, destination, source and destination of the reply), each (address, port).

    ICMP has an id, which counts as the port of the end that asks. (NAT may give the reply another; the question's counts.)
    """
    out = netns(node, "conntrack", "-L", "-f", f"ipv{family}").stdout
    for line in out.splitlines():
        protocol = line.split()[0].removesuffix("v6")
        hosts = re.findall(r"(?:src|dst)=(\S+)", line)
        if protocol == "icmp" and "type=" in line:
            number = int(re.findall(r" id=(\d+)", line)[0])
            yield protocol, (hosts[0], number), (hosts[1], 0), (hosts[2], 0), (hosts[3], number)
        elif protocol in ("tcp", "udp"):
            ports = [int(p) for p in re.findall(r"(?:sport|dport)=(\d+)", line)]
            yield protocol, *zip(hosts, ports, strict=True)


def split(end: str) -> tuple[str, int]:
    """The address and the port of `10.244.1.2:40000` and `[fd00::2]:40000`; the id of `fd00::2#17`."""
    address, _, number = end.rpartition("#" if "#" in end else ":")
    return address.strip("[]"), int(number)


def family_of(address: str) -> int:
    return ip_address(address).version


def settled(mode: str, addresses: Mapping[int, Mapping[str, str]], *, exposed: bool) -> bool:
    """Whether every node has the mode's ways to the others' pods and no other, and the router those that it is to know."""
    subnets = ways_wanted("router", "router", addresses, exposed=True)
    for machine in (*MACHINES, "router"):
        have = {dst: via for dst, via in ways(machine).items() if dst in subnets}
        if have != ways_wanted(machine, mode, addresses, exposed=exposed):
            return False
    return mode == "vxlan" or not any("flannel" in netns(m, "ip", "-br", "link").stdout for m in MACHINES)


def ways_wanted(machine: str, mode: str, addresses: Mapping[int, Mapping[str, str]], *, exposed: bool) -> dict[str, tuple[str, ...]]:
    """What `ways` finds once a mode is in force."""
    found = {}
    for family, known in addresses.items():
        first = _rack(known["control-plane"], family)
        racks = {_rack(known[m], family) for m in MACHINES}
        for other in (m for m in MACHINES if m != machine):
            inside = known[f"{other}'s tunnel"]
            if machine == "router":
                is_known = mode == "router" or exposed or (mode != "vxlan" and len(racks) > 1)
                way = (known[other], "eth0" if ip_address(known[other]) in first else "eth2", "118")
            elif mode == "vxlan":
                is_known, way = True, (inside, TUNNEL[family], "118")
            else:
                rack = _rack(known[machine], family)
                gateway = known[other] if ip_address(known[other]) in rack else str(rack[1])
                is_known, way = mode != "router", (gateway, "eth0", "bird" if mode == "bgp" else "118")
            if is_known:
                found[f"{inside}/{PREFIX[family]}"] = way
    return found


def _rack(address: str, family: int) -> IPv4Network | IPv6Network:
    return ip_network((address, PREFIX[family]), strict=False)


def ways(machine: str) -> dict[str, tuple[str, ...]]:
    """destination → (gateway, link, protocol) of a machine's routes to networks that node-network, router-agent or BIRD wrote."""
    lines = [r for f in ("-4", "-6") for r in json.loads(netns(machine, "ip", "-j", f, "route").stdout or "[]")]
    return {
        r["dst"]: (r.get("gateway", ""), r.get("dev", ""), r["protocol"])
        for r in lines
        if r.get("protocol") in ("118", "bird") and r.get("type", "unicast") == "unicast" and "/" in r["dst"]
    }
