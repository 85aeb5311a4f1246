"""A node's rules for NetworkPolicies: the nftables table `inet nsk8s-policy`. Pure.

Two base chains in the forward hook, which sees what is routed and (bridge-nf-call-iptables) what is switched between two pods of
the node, after DNAT and before SNAT: addresses are the pods' own, whatever kube-proxy's mode. `egress` looks a packet's source
up, `ingress` its destination; both must let it pass, so an `accept` in one is only that one's. What a node sends itself or
receives itself passes other hooks, and so always may. Only what IPVS sends on (kube-proxy's ipvs mode) is not forwarded: it
comes by the output hook, and the sender's address tells it from the node's own (`egress-sent`, `ingress-sent`).

A pod's chain is named for what it says: pods under the same policies share it. Who a selector means is a set of addresses.
Packets of the reply direction always pass; those of the opening direction are asked about one by one, so that a policy also ends
connections that it no longer allows.

While there is any policy, an address behind the pod bridge (or in the node's pod subnet) that is no pod known to the agent is
held: nothing to or from it is forwarded. So a pod has no moment without its policies, and no link-local or invented address
to go round them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_network

from nsk8s.net.nftset import NftChain, NftSet, NftTable
from nsk8s.networkpolicy.model import EGRESS, INGRESS, Block, Peer, Pod, Policy, Port, Rule, World

TABLE = "nsk8s-policy"
FAMILY = "inet"
BRIDGE = "cni0"
_PRIORITY = {EGRESS: -20, INGRESS: -10}
"""Before iptables' filter table (0), so that a drop is a drop whatever stands there; far after DNAT, another hook."""
_ALWAYS = (
    "ct direction reply ct state { established, related }",
    "ct state related",
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }",
)
"""Replies and errors about what was allowed; what IPv6 has in place of ARP."""
_NODES_OWN = "fib saddr type local accept"
_ADDRESS = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}


def held(cidrs: Sequence[str], bridge: str = BRIDGE) -> NftTable:
    """Nothing is known yet: no pod's packet is forwarded, neither by subnet (`cidrs`: all pods') nor by bridge."""
    rules = {EGRESS: [*_ALWAYS_ACCEPT], INGRESS: [*_ALWAYS_ACCEPT]}
    for direction, side, interface in ((EGRESS, "saddr", "iifname"), (INGRESS, "daddr", "oifname")):
        rules[direction].append(f'{interface} "{bridge}" drop')
        rules[direction] += [f"{_family(c)} {side} {c} drop" for c in cidrs]
    return NftTable(FAMILY, TABLE, "NetworkPolicies, not yet known", _bases(rules))


_ALWAYS_ACCEPT = tuple(f"{match} accept" for match in _ALWAYS)


def table(world: World, node: str, cidrs: Sequence[str], bridge: str = BRIDGE) -> NftTable:
    """The whole table for one node, whose pod subnets are `cidrs`."""
    return _Renderer(world, node).table(cidrs, bridge)


def _bases(rules: Mapping[str, Iterable[str]]) -> dict[str, NftChain]:
    """Direction → its rules, as base chains in both hooks."""
    chains = {}
    for direction, each in rules.items():
        same = tuple(each)
        priority = _PRIORITY[direction]
        chains[direction.lower()] = NftChain(same, f"type filter hook forward priority {priority}")
        own = (_NODES_OWN, *same) if same else ()
        chains[f"{direction.lower()}-sent"] = NftChain(own, f"type filter hook output priority {priority}")
    return chains


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def _digest(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:12]


def _short(text: str) -> str:
    """As much of a comment as the kernel keeps."""
    return text if len(text.encode()) <= 120 else text.encode()[:117].decode(errors="ignore") + "..."


def _words(peer: Peer | None) -> str:
    """A peer as it is told to people, and told apart from others."""
    if peer is None:
        return "every pod"
    if isinstance(peer, Block):
        return f"pods in {peer.network}" + (f" but {', '.join(map(str, peer.holes))}" if peer.holes else "")
    pods = "no pod" if peer.pods.nothing else f"pods {peer.pods}" if peer.pods.requirements else "every pod"
    where = peer.namespace if peer.namespaces is None else f"namespaces {peer.namespaces}".rstrip()
    return f"{pods} in {where}"


class _Renderer:
    def __init__(self, world: World, node: str) -> None:
        self._world, self._node = world, node
        self._chains: dict[str, NftChain] = {}
        self._sets: dict[str, NftSet] = {}
        self._elements: dict[str, dict[str, str]] = {}
        self._seen: dict[tuple[object, ...], str] = {}

    def table(self, cidrs: Sequence[str], bridge: str) -> NftTable:
        comment = "NetworkPolicies"
        if not self._world.policies:
            return NftTable(FAMILY, TABLE, comment, _bases({EGRESS: (), INGRESS: ()}))
        for family, kind in _ADDRESS.items():
            self._set(f"known-{family}", kind)
            self._set(f"self-{family}", f"{kind} . {kind}")
            for direction in (EGRESS, INGRESS):
                self._set(f"{direction.lower()}-{family}", f"{kind} : verdict", is_map=True)
        for ip, pod in self._world.by_address.items():
            if pod.node == self._node:
                self._local(ip, pod)
        self._chains |= _bases({
            direction: self._dispatch(direction, side, interface, cidrs, bridge)
            for direction, side, interface in ((EGRESS, "saddr", "iifname"), (INGRESS, "daddr", "oifname"))
        })  # fmt: skip
        return NftTable(FAMILY, TABLE, comment, self._chains, self._sets, self._elements)

    def _dispatch(self, direction: str, side: str, interface: str, cidrs: Sequence[str], bridge: str) -> Iterable[str]:
        yield from _ALWAYS_ACCEPT
        for family in _ADDRESS:
            yield f'{interface} "{bridge}" {family} {side} != @known-{family} drop'
        for cidr in cidrs:
            family = _family(cidr)
            yield f"{family} {side} {ip_network(cidr, strict=False)} {family} {side} != @known-{family} drop"
        for family in _ADDRESS:
            yield f"{family} saddr . {family} daddr @self-{family} accept"
        for family in _ADDRESS:
            yield f"{family} {side} vmap @{direction.lower()}-{family}"

    def _local(self, ip: str, pod: Pod) -> None:
        family = _family(ip)
        self._elements[f"known-{family}"][ip] = ""
        self._elements[f"self-{family}"][f"{ip} . {ip}"] = ""
        for direction in (EGRESS, INGRESS):
            policies = self._world.about(pod, direction)
            if policies:
                self._elements[f"{direction.lower()}-{family}"][ip] = f"goto {self._chain(direction, pod, policies)}"

    def _chain(self, direction: str, pod: Pod, policies: Sequence[Policy]) -> str:
        """The chain that says what these policies allow this pod; one for all pods to which it is the same."""
        named = pod.ports if direction == INGRESS else ()
        key = (direction, tuple(map(id, policies)), named)
        if key not in self._seen:
            rules = [r for p in policies for r in p.rules(direction) or ()]
            lines = list(dict.fromkeys(line for rule in rules for line in self._lines(direction, pod, rule)))
            comment = _short(", ".join(sorted(f"{p.namespace}/{p.name}" for p in policies)))
            name = f"{direction.lower()}-{_digest(comment, *lines)}"
            self._chains[name] = NftChain((*lines, "drop"), comment=comment)
            self._seen[key] = name
        return self._seen[key]

    def _lines(self, direction: str, pod: Pod, rule: Rule) -> Iterable[str]:
        side = "saddr" if direction == INGRESS else "daddr"
        peers: tuple[Peer | None, ...] = (None,) if rule.peers is None else rule.peers
        for port in (None,) if rule.ports is None else rule.ports:
            for peer in peers:
                if port is not None and port.name and direction == EGRESS:
                    yield from self._named(peer, port)
                    continue
                for what in _ports(port, pod):
                    for who in self._who(peer, side):
                        yield " ".join(filter(None, (who, what, "accept")))

    def _who(self, peer: Peer | None, side: str) -> Iterable[str]:
        if peer is None:
            yield ""
        elif isinstance(peer, Block):
            if peer.network in peer.holes:
                return
            family = "ip" if peer.network.version == 4 else "ip6"
            match = f"{family} {side} {peer.network}"
            if peer.holes:
                match += f" {family} {side} != {{ {', '.join(map(str, peer.holes))} }}"
            yield match
        else:
            for family in _ADDRESS:
                yield f"{family} {side} @{self._members(peer, family)}"

    def _members(self, peer: Peer, family: str) -> str:
        """The set of a selector's pods."""
        words = _words(peer)
        name = f"pods-{_digest(words)}-{family}"
        if name not in self._sets:
            self._set(name, _ADDRESS[family], words)
            self._elements[name] = {ip: "" for ip, _ in self._peers(peer, family)}
        return name

    def _named(self, peer: Peer | None, port: Port) -> Iterable[str]:
        """A named port of others: each pod's own number."""
        for family in _ADDRESS:
            words = f"{port.protocol} port {port.name} of {_words(peer)}"
            name = f"ports-{_digest(words)}-{family}"
            if name not in self._sets:
                self._set(name, f"{_ADDRESS[family]} . inet_proto . inet_service", words)
                self._elements[name] = {
                    f"{ip} . {port.protocol} . {number}": ""
                    for ip, pod in self._peers(peer, family) for number in pod.numbers(port.name, port.protocol)
                }  # fmt: skip
            yield f"{family} daddr . meta l4proto . th dport @{name} accept"

    def _peers(self, peer: Peer | None, family: str) -> Iterable[tuple[str, Pod]]:
        for ip, pod in self._world.by_address.items():
            if _family(ip) != family:
                continue
            if peer is None or (
                peer.contains(ip) if isinstance(peer, Block) else peer.matches(pod, self._world.namespaces)
            ):
                yield ip, pod

    def _set(self, name: str, kind: str, comment: str = "", *, is_map: bool = False) -> None:
        self._sets[name] = NftSet(f"type {kind}", is_map, _short(comment))
        self._elements.setdefault(name, {})


def _ports(port: Port | None, pod: Pod) -> Iterable[str]:
    if port is None:
        yield ""
    elif port.name:
        for number in pod.numbers(port.name, port.protocol):
            yield f"meta l4proto {port.protocol} th dport {number}"
    elif not port.first:
        yield f"meta l4proto {port.protocol}"
    else:
        span = f"{port.first}-{port.last}" if port.last > port.first else str(port.first)
        yield f"meta l4proto {port.protocol} th dport {span}"
