"""iptables mode's rules: a decision in, chains out. Upstream: pkg/proxy/iptables/proxier.go. Pure.

Words stand in upstream's order and comments are upstream's, so that a listing reads like any course's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from nsk8s.net.chainset import Chain, Jump, Rules, quote
from nsk8s.proxy import names
from nsk8s.proxy.decision import Decision
from nsk8s.proxy.endpoints import Endpoint

CANARY = "KUBE-PROXY-CANARY"
CANARY_TABLES = ("mangle", "nat", "filter")
MARK_MASQ, POSTROUTING, NODEPORTS = "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-NODEPORTS"
SERVICES, EXTERNAL_SERVICES = "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"
FORWARD, FIREWALL, PROXY_FIREWALL = "KUBE-FORWARD", "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL"
LARGE_CLUSTER_ENDPOINTS = 1000
"""Above so many endpoints (summed over service ports) comments on endpoint rules are left out."""
LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class LocalDetector:
    """How to tell traffic of this node's pods: by source, or by the interface it comes from. Neither: it cannot be told."""

    cidr: str = ""
    interface: str = ""
    """A bridge, or a prefix followed by `+`."""

    @classmethod
    def by_cidr(cls, cidr: str) -> LocalDetector:
        return cls(cidr=cidr)

    @classmethod
    def by_interface(cls, name: str) -> LocalDetector:
        return cls(interface=name)

    @property
    def is_local(self) -> str:
        """iptables' words that match pods' traffic."""
        return f"-s {self.cidr}" if self.cidr else f"-i {self.interface}"

    @property
    def is_not_local(self) -> str:
        return f"! {self.is_local}"

    def nft(self, family: str, *, negated: bool = False) -> str:
        """The same in nftables' words; `family` is ip or ip6."""
        unequal = "!= " if negated else ""
        if self.cidr:
            return f"{family} saddr {unequal}{self.cidr}"
        name = f"{self.interface[:-1]}*" if self.interface.endswith("+") else self.interface
        return f'iifname {unequal}"{name}"'

    def __bool__(self) -> bool:
        return bool(self.cidr or self.interface)


@dataclass(frozen=True, slots=True)
class Context:
    """What the rules of all services of one family have in common on this node."""

    ipv6: bool = False
    detector: LocalDetector = field(default_factory=LocalDetector)
    masquerade_all: bool = False
    masquerade_bit: int = 14
    random_fully: bool = True
    localhost_node_ports: bool = True
    node_ip: str = ""
    large_cluster: bool = False
    tcp_be_liberal: bool = False

    @property
    def mark(self) -> str:
        return f"{1 << self.masquerade_bit:#x}"


@dataclass(frozen=True, slots=True)
class PortRules:
    """What one service port adds to each of the chains that all share."""

    services: Rules = ()
    node_ports: Rules = ()
    filter_services: Rules = ()
    external_services: Rules = ()
    health_checks: Rules = ()
    proxy_firewall: Rules = ()


def jumps(ipv6: bool = False, localhost_node_ports: bool = True) -> list[Jump]:
    """The jumps from the built-in chains, in upstream's order: each missing one is put on top, so the last comes first."""
    new = "-m conntrack --ctstate NEW "

    def jump(table: str, hook: str, to: str, comment: str, match: str = "") -> Jump:
        said = f"-m comment --comment {quote(comment)} " if comment else ""
        return Jump(table, hook, f"{match}{said}-j {to}")

    visible, portals = "kubernetes externally-visible service portals", "kubernetes service portals"
    firewall = "kubernetes load balancer firewall"
    wanted = [
        jump("filter", "INPUT", EXTERNAL_SERVICES, visible, new),
        jump("filter", "FORWARD", EXTERNAL_SERVICES, visible, new),
        jump("filter", "INPUT", NODEPORTS, "kubernetes health check service ports"),
        jump("filter", "FORWARD", SERVICES, portals, new),
        jump("filter", "OUTPUT", SERVICES, portals, new),
        jump("filter", "FORWARD", FORWARD, "kubernetes forwarding rules"),
        jump("filter", "INPUT", PROXY_FIREWALL, firewall, new),
        jump("filter", "OUTPUT", PROXY_FIREWALL, firewall, new),
        jump("filter", "FORWARD", PROXY_FIREWALL, firewall, new),
        jump("nat", "OUTPUT", SERVICES, portals),
        jump("nat", "PREROUTING", SERVICES, portals),
        jump("nat", "POSTROUTING", POSTROUTING, "kubernetes postrouting rules"),
    ]
    if localhost_node_ports and not ipv6:
        wanted += [jump("filter", "INPUT", FIREWALL, ""), jump("filter", "OUTPUT", FIREWALL, "")]
    return wanted


# ── one service port ────────────────────────────────────────────────────────────────────────────────────────────────────


def port_rules(decision: Decision, context: Context) -> PortRules:
    """What one service port adds to the shared chains on this node."""
    return _Writer(decision, context).shared()


def own_chains(decision: Decision, context: Context) -> dict[str, Rules]:
    """A service port's own chains in table nat: what is jumped to may come after what jumps."""
    return {name: tuple(rules) for name, rules in _Writer(decision, context).own().items()}


class _Writer:
    """The names and match texts of one service port, and the rules made of them."""

    def __init__(self, decision: Decision, context: Context) -> None:
        service = decision.service
        self.decision = decision
        self.service = service
        self.context = context
        self.name = str(service.name)
        self.protocol = service.protocol
        shared = names.service_hash(self.name, self.protocol)
        self.svc, self.svl = f"KUBE-SVC-{shared}", f"KUBE-SVL-{shared}"
        self.ext, self.fw = f"KUBE-EXT-{shared}", f"KUBE-FW-{shared}"
        self.texts: dict[Endpoint, str] = {}
        self.sep: dict[Endpoint, str] = {}
        self.has_external = decision.usable and service.externally_accessible
        self.has_firewall = decision.usable and bool(service.vips and service.source_ranges)

    def _comment(self, text: str = "") -> str:
        return f"-m comment --comment {quote(self.name + text)}"

    def _to(self, address: str, port: int) -> str:
        return f"-m {self.protocol} -p {self.protocol} -d {address} --dport {port}"

    def shared(self) -> PortRules:
        return PortRules(
            services=tuple(self._services()),
            node_ports=tuple(self._node_ports()),
            filter_services=tuple(self._filter_services()),
            external_services=tuple(self._external_services()),
            health_checks=tuple(self._health_checks()),
            proxy_firewall=tuple(self._proxy_firewall()),
        )

    def _services(self) -> Iterable[str]:
        service = self.service
        if not self.decision.internal_verdict:
            to = self.svl if service.internal_local else self.svc
            yield f"{self._comment(' cluster IP')} {self._to(service.cluster_ip, service.port)} -j {to}"
        if self.decision.usable:
            for ip in service.external_ips:
                yield f"{self._comment(' external IP')} {self._to(ip, service.port)} -j {self.ext}"
            for ip in service.vips:
                to = self.fw if self.has_firewall else self.ext
                yield f"{self._comment(' loadbalancer IP')} {self._to(ip, service.port)} -j {to}"

    def _node_ports(self) -> Iterable[str]:
        if self.service.node_port and self.decision.usable:
            match = f"-m {self.protocol} -p {self.protocol} --dport {self.service.node_port}"
            yield f"{self._comment()} {match} -j {self.ext}"

    def _filter_services(self) -> Iterable[str]:
        verdict = self.decision.internal_verdict
        if verdict:
            to = self._to(self.service.cluster_ip, self.service.port)
            yield f"{self._comment(_why(self.decision))} {to} -j {verdict}"

    def _external_services(self) -> Iterable[str]:
        verdict, service = self.decision.external_verdict, self.service
        if not verdict:
            return
        comment = self._comment(_why(self.decision))
        for ip in (*service.external_ips, *service.vips):
            yield f"{comment} {self._to(ip, service.port)} -j {verdict}"
        if service.node_port:
            match = f"-m {self.protocol} -p {self.protocol} --dport {service.node_port}"
            yield f"{comment} -m addrtype --dst-type LOCAL {match} -j {verdict}"

    def _health_checks(self) -> Iterable[str]:
        port = self.service.health_check_node_port
        if port:
            yield f"{self._comment(' health check node port')} -m tcp -p tcp --dport {port} -j ACCEPT"

    def _proxy_firewall(self) -> Iterable[str]:
        if self.has_firewall:
            comment = self._comment(f" traffic not accepted by {self.fw}")
            for ip in self.service.vips:
                yield f"{comment} {self._to(ip, self.service.port)} -j DROP"

    def own(self) -> dict[str, list[str]]:
        """The port's own chains. The entry rule of the internal chain comes before its balancing rules."""
        decision, chains = self.decision, dict[str, list[str]]()
        self.texts = {e: str(e) for e in decision.reachable}
        self.sep = {e: names.endpoint_chain(self.name, self.protocol, text) for e, text in self.texts.items()}
        if self.has_external:
            chains[self.ext] = list(self._external_chain())
        if self.has_firewall:
            chains[self.fw] = list(self._firewall_chain())
        internal = self.svl if self.service.internal_local else self.svc
        entry = [] if decision.internal_verdict else list(self._internal_entry())
        for name, endpoints in ((self.svc, decision.cluster), (self.svl, decision.local)):
            if endpoints:
                chains[name] = [*(entry if name == internal else ()), *self._balance(endpoints)]
        chains.update(self._endpoint_chains())
        return chains

    def _internal_entry(self) -> Iterable[str]:
        match = f"{self._comment(' cluster IP')} {self._to(self.service.cluster_ip, self.service.port)}"
        if self.context.masquerade_all:
            yield f"{match} -j {MARK_MASQ}"
        elif self.context.detector:
            yield f"{match} {self.context.detector.is_not_local} -j {MARK_MASQ}"

    def _external_chain(self) -> Iterable[str]:
        def comment(what: str) -> str:
            return f"-m comment --comment {quote(f'{what} {self.name} external destinations')}"

        if not self.service.external_local:
            yield f"{comment('masquerade traffic for')} -j {MARK_MASQ}"
        else:
            if self.context.detector:
                yield f"{comment('pod traffic for')} {self.context.detector.is_local} -j {self.svc}"
            local = "-m addrtype --src-type LOCAL"
            yield f"{comment('masquerade LOCAL traffic for')} {local} -j {MARK_MASQ}"
            yield f"{comment('route LOCAL traffic for')} {local} -j {self.svc}"
        if not self.decision.external_verdict:
            yield f"-j {self.svl if self.service.external_local else self.svc}"

    def _firewall_chain(self) -> Iterable[str]:
        comment = self._comment(" loadbalancer IP")
        for cidr in self.service.source_ranges:
            yield f"{comment} -s {cidr} -j {self.ext}"
        # A VIP that is bound on this node is also the source of the node's own packets to it.
        node_ip = self.context.node_ip
        if node_ip and any(ip_address(node_ip) in ip_network(cidr) for cidr in self.service.source_ranges):
            for vip in self.service.vips:
                yield f"{comment} -s {vip} -j {self.ext}"
        yield f"-m comment --comment {quote(f'other traffic to {self.name} will be dropped by {PROXY_FIREWALL}')}"

    def _balance(self, endpoints: Sequence[Endpoint]) -> list[str]:
        rules, texts, sep = [], self.texts, self.sep
        comments = [""] * len(endpoints)
        if not self.context.large_cluster:
            opened = f"-m comment --comment {quote(f'{self.name} -> ')[:-1]}"
            comments = [f'{opened}{texts[e]}" ' for e in endpoints]
        if self.service.affinity_s:
            for comment, e in zip(comments, endpoints, strict=True):
                recent = f"-m recent --name {sep[e]} --rcheck --seconds {self.service.affinity_s} --reap"
                rules.append(f"{comment}{recent} -j {sep[e]}")
        left = len(endpoints)
        for comment, e in zip(comments, endpoints, strict=True):
            share = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            rules.append(f"{comment}{share}-j {sep[e]}")
            left -= 1
        return rules

    def _endpoint_chains(self) -> Iterable[tuple[str, list[str]]]:
        comment = "" if self.context.large_cluster else self._comment() + " "
        dnat = f"-m {self.protocol} -p {self.protocol} -j DNAT --to-destination"
        for e, name in self.sep.items():
            remember = f"-m recent --name {name} --set " if self.service.affinity_s else ""
            yield name, [f"{comment}-s {e.ip} -j {MARK_MASQ}", f"{comment}{remember}{dnat} {self.texts[e]}"]


def _why(decision: Decision) -> str:
    return " has no local endpoints" if decision.usable else " has no endpoints"


# ── the shared chains ───────────────────────────────────────────────────────────────────────────────────────────────────


def fixed_nat(context: Context) -> dict[str, Rules]:
    """KUBE-POSTROUTING and KUBE-MARK-MASQ. The mark is XORed away so that a packet that passes again is not masked twice."""
    mark = context.mark
    fully = " --random-fully" if context.random_fully else ""
    return {
        POSTROUTING: (
            f"-m mark ! --mark {mark}/{mark} -j RETURN",
            f"-j MARK --xor-mark {mark}",
            f'-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE{fully}',
        ),
        MARK_MASQ: (f"-j MARK --or-mark {mark}",),
    }


def fixed_filter(context: Context) -> dict[str, Rules]:
    """KUBE-FORWARD, and KUBE-FIREWALL where node ports answer on localhost (kubelet writes the identical rule)."""
    mark = context.mark
    invalid = () if context.tcp_be_liberal else ("-m conntrack --ctstate INVALID -j DROP",)
    chains: dict[str, Rules] = {
        FORWARD: (
            *invalid,
            f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT',
            '-m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
        )
    }
    if context.localhost_node_ports and not context.ipv6:
        chains[FIREWALL] = (
            f'-m comment --comment "block incoming localnet connections" -d {LOOPBACK} ! -s {LOOPBACK} '
            "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        )
    return chains


def node_port_jumps(context: Context, addresses: Sequence[str] | None) -> Rules:
    """The rules that end KUBE-SERVICES: into KUBE-NODEPORTS for every LOCAL address (None), or for these addresses.

    Loopback never works for IPv6, and for IPv4 only with localhost node ports.
    """
    comment = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    if addresses is None:
        match = "-m addrtype --dst-type LOCAL"
        if context.ipv6:
            match += " ! -d ::1/128"
        elif not context.localhost_node_ports:
            match += f" ! -d {LOOPBACK}"
        return (f"{comment} {match} -j {NODEPORTS}",)
    usable = [a for a in addresses if not ip_address(a).is_loopback or (context.localhost_node_ports and not context.ipv6)]
    return tuple(f"{comment} -d {a} -j {NODEPORTS}" for a in usable)


def filter_table(ports: Iterable[PortRules], context: Context) -> dict[str, Chain]:
    """Table filter, always written whole."""
    shared: dict[str, list[str]] = {SERVICES: [], EXTERNAL_SERVICES: [], FORWARD: [], NODEPORTS: [], PROXY_FIREWALL: []}
    for port in ports:
        shared[SERVICES] += port.filter_services
        shared[EXTERNAL_SERVICES] += port.external_services
        shared[NODEPORTS] += port.health_checks
        shared[PROXY_FIREWALL] += port.proxy_firewall
    fixed = fixed_filter(context)
    return {name: Chain((*rules, *fixed.pop(name, ()))) for name, rules in shared.items()} | {
        name: Chain(rules) for name, rules in fixed.items()
    }


def nat_table(ports: Iterable[PortRules], context: Context, node_port_addresses: Sequence[str] | None) -> dict[str, Chain]:
    """The chains of table nat that all services share; each port's own chains come on top."""
    services: list[str] = []
    node_ports: list[str] = []
    for port in ports:
        services += port.services
        node_ports += port.node_ports
    services += node_port_jumps(context, node_port_addresses)
    return {SERVICES: Chain(tuple(services)), NODEPORTS: Chain(tuple(node_ports))} | {
        name: Chain(rules) for name, rules in fixed_nat(context).items()
    }
