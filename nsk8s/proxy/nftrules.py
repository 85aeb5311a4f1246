"""nftables mode's rules: a decision in, chains, sets and map elements out. Upstream: pkg/proxy/nftables/proxier.go. Pure.

Names, order of rules and comments are upstream's; the README beside upstream's proxier says why each hook is where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from nsk8s.net.nftset import NftChain, NftSet, NftTable, Rules, said
from nsk8s.proxy import names
from nsk8s.proxy.decision import REJECT, Decision
from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.rules import Context

TABLE = "kube-proxy"
MARK_MASQ, MASQUERADING, SERVICES = "mark-for-masquerade", "masquerading", "services"
REJECT_CHAIN, FIREWALL_CHECK = "reject-chain", "firewall-check"
SERVICE_CHECK, NODE_PORT_CHECK, CLUSTER_IPS_CHECK = "service-endpoints-check", "nodeport-endpoints-check", "cluster-ips-check"
CLUSTER_IPS, NODE_PORT_IPS = "cluster-ips", "nodeport-ips"
SERVICE_IPS, SERVICE_NODE_PORTS = "service-ips", "service-nodeports"
NO_ENDPOINT_SERVICES, NO_ENDPOINT_NODE_PORTS = "no-endpoint-services", "no-endpoint-nodeports"
FIREWALL_IPS = "firewall-ips"
MAPS = (CLUSTER_IPS, SERVICE_IPS, SERVICE_NODE_PORTS, NO_ENDPOINT_SERVICES, NO_ENDPOINT_NODE_PORTS, FIREWALL_IPS)
"""The sets and maps whose elements belong to services."""

_BASE = {
    "filter-prerouting-pre-dnat": ("filter", "prerouting", -110, f"ct state new jump {FIREWALL_CHECK}"),
    "filter-output-pre-dnat": ("filter", "output", -110, f"ct state new jump {FIREWALL_CHECK}"),
    "filter-input": (
        "filter", "input", 0, f"ct state new jump {NODE_PORT_CHECK}", f"ct state new jump {SERVICE_CHECK}"),
    "filter-forward": (
        "filter", "forward", 0, f"ct state new jump {SERVICE_CHECK}", f"ct state new jump {CLUSTER_IPS_CHECK}"),
    "filter-output": (
        "filter", "output", 0, f"ct state new jump {SERVICE_CHECK}", f"ct state new jump {CLUSTER_IPS_CHECK}"),
    "nat-prerouting": ("nat", "prerouting", -100, f"jump {SERVICES}"),
    "nat-output": ("nat", "output", -100, f"jump {SERVICES}"),
    "nat-postrouting": ("nat", "postrouting", 100, f"jump {MASQUERADING}"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PortElements:
    """What one service port puts into the table: its own chains and sets, and (map, key) → (verdict, comment)."""

    chains: dict[str, Rules] = field(default_factory=dict)
    sets: dict[str, NftSet] = field(default_factory=dict)
    elements: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)


def is_own_chain(name: str) -> bool:
    """Whether a chain belongs to a service port: only their names have a slash."""
    return "/" in name


def is_own_set(name: str) -> bool:
    return name.startswith("affinity-")


# ── what all services share ─────────────────────────────────────────────────────────────────────────────────────────────


def skeleton(context: Context, node_port_ips: Sequence[str] | None, service_cidrs: Sequence[str] = ()) -> NftTable:
    """The table without any service. `node_port_ips`: who serves node ports; None for every local address."""
    ip, address = ("ip6", "ipv6_addr") if context.ipv6 else ("ip", "ipv4_addr")
    by_ip, by_port = f"{address} . inet_proto . inet_service : verdict", "inet_proto . inet_service : verdict"
    lookup = f"{ip} daddr . meta l4proto . th dport vmap @"
    not_localhost = f"{ip} daddr != {'::1' if context.ipv6 else '127.0.0.0/8'}"
    ports = "meta l4proto . th dport vmap @"
    served = f"fib daddr type local {not_localhost}" if node_port_ips is None else f"{ip} daddr @{NODE_PORT_IPS}"
    checked = not_localhost if node_port_ips is None else f"{ip} daddr @{NODE_PORT_IPS}"
    unallocated = [f"{ip} daddr {{ {', '.join(service_cidrs)} }} drop{said('Drop traffic to unallocated ClusterIPs')}"]
    chains = {
        MARK_MASQ: NftChain((f"mark set mark or {context.mark}",)),
        MASQUERADING: NftChain(
            (f"mark and {context.mark} == 0 return", f"mark set mark xor {context.mark}", "masquerade fully-random")
        ),
        SERVICES: NftChain((f"{lookup}{SERVICE_IPS}", f"{served} {ports}{SERVICE_NODE_PORTS}")),
        SERVICE_CHECK: NftChain((f"{lookup}{NO_ENDPOINT_SERVICES}",)),
        NODE_PORT_CHECK: NftChain((f"{checked} {ports}{NO_ENDPOINT_NODE_PORTS}",)),
        FIREWALL_CHECK: NftChain((f"{lookup}{FIREWALL_IPS}",)),
        CLUSTER_IPS_CHECK: NftChain((
            f"{ip} daddr @{CLUSTER_IPS} reject{said('Reject traffic to invalid ports of ClusterIPs')}",
            *(unallocated if service_cidrs else ()),
        )),
        REJECT_CHAIN: NftChain(("reject",), comment="helper for @no-endpoint-services / @no-endpoint-nodeports"),
    }  # fmt: skip
    for name, (kind, hook, priority, *rules) in _BASE.items():
        chains[name] = NftChain(tuple(map(str, rules)), f"type {kind} hook {hook} priority {priority}")
    sets = {
        CLUSTER_IPS: NftSet(f"type {address}", comment="Active ClusterIPs"),
        SERVICE_IPS: NftSet(f"type {by_ip}", True, "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
        SERVICE_NODE_PORTS: NftSet(f"type {by_port}", True, "NodePort traffic"),
        NO_ENDPOINT_SERVICES: NftSet(f"type {by_ip}", True, "vmap to drop or reject packets to services with no endpoints"),
        NO_ENDPOINT_NODE_PORTS: NftSet(
            f"type {by_port}", True, "vmap to drop or reject packets to service nodeports with no endpoints"),
        FIREWALL_IPS: NftSet(f"type {by_ip}", True, "destinations that are subject to LoadBalancerSourceRanges"),
    }  # fmt: skip
    elements: dict[str, dict[str, str]] = {name: {} for name in sets}
    if node_port_ips is not None:
        sets[NODE_PORT_IPS] = NftSet(f"type {address}", comment="IPs that accept NodePort traffic")
        elements[NODE_PORT_IPS] = {a: "" for a in node_port_ips if not ip_address(a).is_loopback}
    return NftTable("ip6" if context.ipv6 else "ip", TABLE, "rules for kube-proxy", chains, sets, elements)


# ── one service port ────────────────────────────────────────────────────────────────────────────────────────────────────


def port_elements(decision: Decision, context: Context) -> PortElements:
    """Everything that one service port contributes on this node."""
    return _Writer(decision, context).write()


class _Writer:
    def __init__(self, decision: Decision, context: Context) -> None:
        service = decision.service
        self.decision, self.service, self.context = decision, service, context
        self.ip = "ip6" if context.ipv6 else "ip"
        self.protocol = service.protocol
        name = service.name
        base = names.nft_base(f"{name.namespace}/{name.name}/{self.protocol}/{name.port}")
        self.cluster, self.local = f"service-{base}", f"local-{base}"
        self.external, self.firewall = f"external-{base}", f"firewall-{base}"
        self.has_external = decision.usable and service.externally_accessible
        self.has_firewall = bool(service.vips and service.source_ranges)
        self.endpoint: dict[Endpoint, str] = {}
        self.affinity: dict[Endpoint, str] = {}
        for e in decision.reachable:
            one = names.nft_base(f"{name.namespace}/{name.name}/{self.protocol}/{name.port}__{e.ip.replace(':', '.')}/{e.port}")
            self.endpoint[e] = f"endpoint-{one}"
            self.affinity[e] = f"affinity-{one}"

    def write(self) -> PortElements:
        sets = {}
        if self.service.affinity_s:
            address = "ipv6_addr" if self.context.ipv6 else "ipv4_addr"
            spec = f"type {address} ; flags dynamic,timeout ; timeout {self.service.affinity_s}s"
            sets = {name: NftSet(spec) for name in self.affinity.values()}
        return PortElements({n: tuple(r) for n, r in self._chains().items()}, sets, dict(self._elements()))

    # Elements ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _elements(self) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
        decision, service = self.decision, self.service
        comment = names.nft_comment(str(service.name))

        def key(address: str) -> str:
            return f"{address} . {self.protocol} . {service.port}"

        yield (CLUSTER_IPS, service.cluster_ip), ("", "")
        if decision.internal_verdict:
            yield (NO_ENDPOINT_SERVICES, key(service.cluster_ip)), (_verdict(decision.internal_verdict), comment)
        else:
            internal = self.local if service.internal_local else self.cluster
            yield (SERVICE_IPS, key(service.cluster_ip)), (f"goto {internal}", "")
        for address in (*service.external_ips, *service.vips):
            if decision.usable:
                yield (SERVICE_IPS, key(address)), (f"goto {self.external}", "")
            if decision.external_verdict:
                yield (NO_ENDPOINT_SERVICES, key(address)), (_verdict(decision.external_verdict), comment)
        if self.has_firewall:
            for address in service.vips:
                yield (FIREWALL_IPS, key(address)), (f"goto {self.firewall}", "")
        if service.node_port:
            port = f"{self.protocol} . {service.node_port}"
            if decision.usable:
                yield (SERVICE_NODE_PORTS, port), (f"goto {self.external}", "")
            if decision.external_verdict:
                yield (NO_ENDPOINT_NODE_PORTS, port), (_verdict(decision.external_verdict), comment)

    # Chains ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _chains(self) -> dict[str, list[str]]:
        """The port's own chains. The entry rule of the internal chain comes before its balancing rules."""
        decision, chains = self.decision, dict[str, list[str]]()
        if self.has_external:
            chains[self.external] = list(self._external_chain())
        if self.has_firewall:
            chains[self.firewall] = [self._firewall_rule()]
        internal = self.local if self.service.internal_local else self.cluster
        entry = [] if decision.internal_verdict else list(self._internal_entry())
        for name, endpoints in ((self.cluster, decision.cluster), (self.local, decision.local)):
            if endpoints:
                chains[name] = [*(entry if name == internal else ()), *self._balance(endpoints)]
        for endpoint in decision.reachable:
            chains[self.endpoint[endpoint]] = list(self._endpoint_chain(endpoint))
        return chains

    def _internal_entry(self) -> Iterable[str]:
        match = f"{self.ip} daddr {self.service.cluster_ip}"
        if self.context.masquerade_all:
            yield f"{match} jump {MARK_MASQ}"
        elif self.context.detector:
            yield f"{match} {self.context.detector.nft(self.ip, negated=True)} jump {MARK_MASQ}"

    def _external_chain(self) -> Iterable[str]:
        if not self.service.external_local:
            yield f"jump {MARK_MASQ}"
        else:
            if self.context.detector:
                yield f"{self.context.detector.nft(self.ip)} goto {self.cluster}{said('short-circuit pod traffic')}"
            yield f"fib saddr type local jump {MARK_MASQ}{said('masquerade local traffic')}"
            yield f"fib saddr type local goto {self.cluster}{said('short-circuit local traffic')}"
        if not self.decision.external_verdict:
            yield f"goto {self.local if self.service.external_local else self.cluster}"

    def _firewall_rule(self) -> str:
        sources = list(self.service.source_ranges)
        # A VIP that is bound on this node is also the source of the node's own packets to it.
        node_ip = self.context.node_ip
        if node_ip and any(ip_address(node_ip) in ip_network(cidr) for cidr in sources):
            sources += self.service.vips
        return f"{self.ip} saddr != {{ {', '.join(disjoint(sources))} }} drop"

    def _balance(self, endpoints: Sequence[Endpoint]) -> Iterable[str]:
        if self.service.affinity_s:
            for e in endpoints:
                yield f"{self.ip} saddr @{self.affinity[e]} goto {self.endpoint[e]}"
        choices = " , ".join(f"{i} : goto {self.endpoint[e]}" for i, e in enumerate(endpoints))
        yield f"numgen random mod {len(endpoints)} vmap {{ {choices} }}"

    def _endpoint_chain(self, endpoint: Endpoint) -> Iterable[str]:
        yield f"{self.ip} saddr {endpoint.ip} jump {MARK_MASQ}"
        if self.service.affinity_s:
            yield f"update @{self.affinity[endpoint]} {{ {self.ip} saddr }}"
        yield f"meta l4proto {self.protocol} dnat to {endpoint}"


def _verdict(verdict: str) -> str:
    # reject is a statement, not a verdict: a map can only go to a chain that rejects.
    return f"goto {REJECT_CHAIN}" if verdict == REJECT else "drop"


def disjoint(sources: Iterable[str]) -> list[str]:
    """The sources without those inside another, in their order: nft refuses overlapping intervals in one set."""
    networks = [ip_network(s) for s in sources]
    kept: list[int] = []
    for i in sorted(range(len(networks)), key=lambda i: (networks[i].network_address, networks[i].prefixlen, i)):
        # Who holds others comes before them, and right before them what it holds.
        if not kept or not networks[i].subnet_of(networks[kept[-1]]):  # type: ignore[arg-type]
            kept.append(i)
    found = [networks[i] for i in sorted(kept)]
    return [str(n.network_address) if n.prefixlen == n.max_prefixlen else str(n) for n in found]
