"""What NetworkPolicies mean: may this source send to that destination? Upstream: api/networking/v1, its documentation. Pure.

A selected pod is isolated in the directions of its policies, and then only what one of their rules names may pass. A connection
needs the leave of both ends: egress of the source, ingress of the destination. Left to those who implement it, and decided so:

* A host-network pod has the node's address and is the node: no policy selects it, and no selector finds it as a peer.
* A pod's own node reaches it always (the kubelet's probes), it reaches its own node, and itself by way of a Service.
* A pod that has ended (Succeeded, Failed) has no address. Where two claim one, the younger pod has it.
* A named port is one of the destination pod, whatever the peer; what is no pod has no named ports.
* A malformed part never widens: a bad rule allows nothing, a bad podSelector isolates its whole namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.selectors import EVERYTHING, NOTHING, LabelSelector, from_label_selector

INGRESS, EGRESS = "Ingress", "Egress"
Network = IPv4Network | IPv6Network
NamedPort = tuple[str, str, int]
"""Name, protocol (tcp, udp, sctp), number."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with addresses of its own, as far as policies ask about it."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    ips: tuple[str, ...]
    node: str = ""
    ports: tuple[NamedPort, ...] = ()
    created: str = ""

    @classmethod
    def of(cls, obj: Object) -> Pod | None:
        """None for a pod without an address of its own: not yet, not any more, or the node's."""
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
            return None
        found = [i.get("ip", "") for i in status.get("podIPs") or ()] or [status.get("podIP", "")]
        ips = tuple(dict.fromkeys(filter(None, map(_address, found))))
        if not ips:
            return None
        return cls(
            meta.namespace(obj), meta.name(obj), meta.labels(obj), ips, spec.get("nodeName", ""), tuple(_named(spec)),
            (obj.get("metadata") or {}).get("creationTimestamp") or "",
        )  # fmt: skip

    def numbers(self, name: str, protocol: str) -> list[int]:
        """The numbers of a named port."""
        return sorted({number for n, p, number in self.ports if (n, p) == (name, protocol)})


def _named(spec: Object) -> Iterable[NamedPort]:
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in (*(spec.get("containers") or ()), *sidecars):
        for port in container.get("ports") or ():
            if port.get("name") and isinstance(port.get("containerPort"), int):
                yield port["name"], (port.get("protocol") or "TCP").lower(), port["containerPort"]


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Selected:
    """A peer by selectors: in the policy's own `namespace`, unless `namespaces` selects others."""

    namespace: str
    pods: LabelSelector
    namespaces: LabelSelector | None = None

    def matches(self, pod: Pod, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
        """`namespaces`: name → labels."""
        if self.namespaces is None:
            if pod.namespace != self.namespace:
                return False
        elif pod.namespace not in namespaces or not self.namespaces.matches(namespaces[pod.namespace]):
            return False  # one not yet heard of is none: NotIn would find it
        return self.pods.matches(pod.labels)


@dataclass(frozen=True, slots=True)
class Block:
    """A peer by address."""

    network: Network
    holes: tuple[Network, ...] = ()

    def contains(self, address: str) -> bool:
        ip = ip_address(address)
        return ip in self.network and not any(ip in hole for hole in self.holes)


Peer = Selected | Block


@dataclass(frozen=True, slots=True)
class Port:
    """Ports of one protocol: all (`first` 0), a range, or a name."""

    protocol: str
    first: int = 0
    last: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Any of the peers with any of the ports; None stands for all there are."""

    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy. Rules of a direction it is not about are None."""

    namespace: str
    name: str
    selector: LabelSelector
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    problems: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, obj: Object) -> Policy:
        problems: list[str] = []
        spec = obj.get("spec") or {}
        namespace = meta.namespace(obj)
        try:
            selector = from_label_selector(spec.get("podSelector") or {})
        except Exception as e:  # whatever is wrong with it
            problems.append(f"podSelector: {e}")
            selector = EVERYTHING
        types = spec.get("policyTypes") or ([INGRESS, EGRESS] if spec.get("egress") else [INGRESS])
        return cls(
            namespace, meta.name(obj), selector,
            _rules(spec.get("ingress"), "from", namespace, problems) if INGRESS in types else None,
            _rules(spec.get("egress"), "to", namespace, problems) if EGRESS in types else None,
            tuple(problems),
        )  # fmt: skip

    def rules(self, direction: str) -> tuple[Rule, ...] | None:
        return self.ingress if direction == INGRESS else self.egress

    def selects(self, pod: Pod) -> bool:
        return pod.namespace == self.namespace and self.selector.matches(pod.labels)


def _rules(raw: Any, side: str, namespace: str, problems: list[str]) -> tuple[Rule, ...]:
    found = []
    for one in raw or ():
        try:
            peers, ports = one.get(side), one.get("ports")
            found.append(Rule(_each(_peer, peers, namespace, problems), _each(_port, ports, "", problems)))
        except Exception as e:
            problems.append(f"{side}: {e}")
    return tuple(found)


def _each(read: Any, raw: Any, namespace: str, problems: list[str]) -> Any:
    """What can be read of a list; None for an empty one, which stands for everything."""
    if not raw:
        return None
    good = []
    for one in raw:
        try:
            good.append(read(one, namespace))
        except Exception as e:
            problems.append(str(e))
    return tuple(good)


def _peer(raw: Mapping[str, Any], namespace: str) -> Peer:
    block = raw.get("ipBlock")
    if block is not None:
        network = ip_network(block["cidr"], strict=False)
        holes = [ip_network(e, strict=False) for e in block.get("except") or ()]
        same = [h for h in holes if h.version == network.version]
        return Block(network, tuple(collapse_addresses(same)))  # type: ignore[type-var]
    pods, namespaces = raw.get("podSelector"), raw.get("namespaceSelector")
    if pods is None and namespaces is None:
        return Selected(namespace, NOTHING)
    return Selected(
        namespace, EVERYTHING if pods is None else from_label_selector(pods),
        None if namespaces is None else from_label_selector(namespaces),
    )  # fmt: skip


def _port(raw: Mapping[str, Any], _: str) -> Port:
    protocol, port = (raw.get("protocol") or "TCP").lower(), raw.get("port")
    if protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"protocol {protocol} is not known")
    if port is None:
        return Port(protocol)
    if isinstance(port, str):
        return Port(protocol, name=port)
    last = raw.get("endPort") or port
    if not 0 < port <= last <= 65535:
        raise ValueError(f"ports {port} to {last}: no such range")
    return Port(protocol, port, last)


@dataclass(frozen=True)
class World:
    """Everything a decision depends on."""

    policies: tuple[Policy, ...] = ()
    pods: tuple[Pod, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """A node's name → its own addresses (`allowed` needs it, the rules do not)."""

    @cached_property
    def by_address(self) -> Mapping[str, Pod]:
        """The younger of two pods has the address."""
        found: dict[str, Pod] = {}
        for pod in sorted(self.pods, key=lambda p: (p.created, p.namespace, p.name)):
            for ip in pod.ips:
                found[ip] = pod
        return found

    def about(self, pod: Pod, direction: str) -> tuple[Policy, ...]:
        """The policies that isolate a pod in a direction; none if it is not isolated."""
        return tuple(p for p in self.policies if p.rules(direction) is not None and p.selects(pod))

    def allowed(self, source: str, destination: str, protocol: str, port: int = 0) -> bool:
        """Whether a connection from an address to another may be opened. `port` 0 for a protocol that has none (icmp)."""
        sender, receiver = self.by_address.get(source), self.by_address.get(destination)
        if sender is not None and sender is receiver:
            return True
        ends = ((sender, EGRESS, destination, receiver), (receiver, INGRESS, source, sender))
        for pod, direction, other, peer in ends:
            if pod is None or other in self.nodes.get(pod.node, ()):
                continue
            policies = self.about(pod, direction)
            rules = [r for p in policies for r in p.rules(direction) or ()]
            if policies and not any(
                self._of(rule, other, peer) and _with(rule, receiver, protocol, port) for rule in rules
            ):
                return False
        return True

    def _of(self, rule: Rule, address: str, pod: Pod | None) -> bool:
        if rule.peers is None:
            return True
        return any(
            p.contains(address) if isinstance(p, Block) else pod is not None and p.matches(pod, self.namespaces)
            for p in rule.peers
        )


def _with(rule: Rule, receiver: Pod | None, protocol: str, port: int) -> bool:
    if rule.ports is None:
        return True
    for wanted in rule.ports:
        if wanted.protocol != protocol:
            continue
        if wanted.name:
            if receiver is not None and port in receiver.numbers(wanted.name, protocol):
                return True
        elif not wanted.first or wanted.first <= port <= wanted.last:
            return True
    return False
