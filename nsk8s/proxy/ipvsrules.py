"""ipvs mode: a decision in, items out (virtual servers, set entries, addresses); and the few chains that ask the sets. Pure.

Upstream: pkg/proxy/ipvs/proxier.go, ipset.go. Chains, sets, their order and comments are upstream's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from nsk8s.net.chainset import Chain, Jump, quote
from nsk8s.net.ipvs import Address, Balance, Entry, Item, Items, Real, Server, SetType, Value, entries_of, set_name
from nsk8s.proxy.decision import Decision
from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.names import IPVS_FILTER, IPVS_LOAD_BALANCER, IPVS_NODE_PORT, IPVS_OUT_FILTER, IPVS_SOURCE_RANGES
from nsk8s.proxy.rules import FORWARD, MARK_MASQ, POSTROUTING, PROXY_FIREWALL, SERVICES, Context, fixed_nat

LOOP_BACK, CLUSTER_IP, EXTERNAL_IP = "KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP"
EXTERNAL_IP_LOCAL = "KUBE-EXTERNAL-IP-LOCAL"
LOAD_BALANCER, LOAD_BALANCER_LOCAL = "KUBE-LOAD-BALANCER", "KUBE-LOAD-BALANCER-LOCAL"
LOAD_BALANCER_FW = "KUBE-LOAD-BALANCER-FW"
SOURCE_IP, SOURCE_CIDR = "KUBE-LOAD-BALANCER-SOURCE-IP", "KUBE-LOAD-BALANCER-SOURCE-CIDR"
HEALTH_CHECK, IPVS_IPS = "KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-IPVS-IPS"
NODE_PORT = {"tcp": "KUBE-NODE-PORT-TCP", "udp": "KUBE-NODE-PORT-UDP", "sctp": "KUBE-NODE-PORT-SCTP-HASH"}
NODE_PORT_LOCAL = {
    "tcp": "KUBE-NODE-PORT-LOCAL-TCP", "udp": "KUBE-NODE-PORT-LOCAL-UDP", "sctp": "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
}  # fmt: skip
SETS = {
    LOOP_BACK: ("hash:ip,port,ip", "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
    CLUSTER_IP: ("hash:ip,port", "Kubernetes service cluster ip + port for masquerade purpose"),
    EXTERNAL_IP: ("hash:ip,port", "Kubernetes service external ip + port for masquerade and filter purpose"),
    EXTERNAL_IP_LOCAL: ("hash:ip,port", "Kubernetes service external ip + port with externalTrafficPolicy=local"),
    LOAD_BALANCER: ("hash:ip,port", "Kubernetes service lb portal"),
    LOAD_BALANCER_FW: ("hash:ip,port", "Kubernetes service load balancer ip + port for load balancer with sourceRange"),
    LOAD_BALANCER_LOCAL: ("hash:ip,port", "Kubernetes service load balancer ip + port with externalTrafficPolicy=local"),
    SOURCE_IP: ("hash:ip,port,ip", "Kubernetes service load balancer ip + port + source IP for packet filter purpose"),
    SOURCE_CIDR: ("hash:ip,port,net", "Kubernetes service load balancer ip + port + source cidr for packet filter purpose"),
    NODE_PORT["tcp"]: ("bitmap:port", "Kubernetes nodeport TCP port for masquerade purpose"),
    NODE_PORT_LOCAL["tcp"]: ("bitmap:port", "Kubernetes nodeport TCP port with externalTrafficPolicy=local"),
    NODE_PORT["udp"]: ("bitmap:port", "Kubernetes nodeport UDP port for masquerade purpose"),
    NODE_PORT_LOCAL["udp"]: ("bitmap:port", "Kubernetes nodeport UDP port with externalTrafficPolicy=local"),
    NODE_PORT["sctp"]: ("hash:ip,port", "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'"),
    NODE_PORT_LOCAL["sctp"]: (
        "hash:ip,port", "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'",
    ),
    HEALTH_CHECK: ("bitmap:port", "Kubernetes health check node port"),
    IPVS_IPS: ("hash:ip", "Addresses on the ipvs interface"),
}  # fmt: skip
"""Every set's type, and the comment of the rules that ask it."""


def sets(ipv6: bool) -> dict[str, SetType]:
    """The sets of a family by name."""
    family = "inet6" if ipv6 else "inet"
    return {set_name(name, ipv6): SetType(kind, family) for name, (kind, _) in SETS.items()}


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """The node's own addresses of a family, kube-ipvs0's not among them: those that serve node ports, and all."""

    node_ports: tuple[str, ...] = ()
    every: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PortItems:
    """What one service port adds; `denied`: (address, protocol, port) of load balancers that the node itself may not ask."""

    items: dict[Item, Value]
    denied: tuple[tuple[str, str, int], ...] = ()


def port_items(
    decision: Decision, local: Iterable[Endpoint], context: Context, here: NodeAddresses, scheduler: str = "rr"
) -> PortItems:
    """Everything that one service port contributes on this node; `local` are its endpoints here, ready or not."""
    writer = _Writer(decision, context, here, scheduler)
    writer.write(local)
    return PortItems(writer.items, tuple(writer.denied))


class _Writer:
    def __init__(self, decision: Decision, context: Context, here: NodeAddresses, scheduler: str) -> None:
        self.decision, self.service = decision, decision.service
        self.context, self.here = context, here
        self.items: dict[Item, Value] = {}
        self.denied: list[tuple[str, str, int]] = []
        self.balance = Balance(scheduler, self.service.affinity_s, scheduler == "mh")

    def write(self, local: Iterable[Endpoint]) -> None:
        service, protocol = self.service, self.service.protocol
        for e in local:
            self._entry(LOOP_BACK, f"{e.ip},{protocol}:{e.port},{e.ip}")
        self._portal(service.cluster_ip, CLUSTER_IP, service.internal_local, bind=True)
        for ip in service.external_ips:
            self._portal(ip, EXTERNAL_IP_LOCAL if service.external_local else EXTERNAL_IP, service.external_local)
        for ip in service.vips:
            self._portal(ip, LOAD_BALANCER, service.external_local)
            if service.external_local:
                self._entry(LOAD_BALANCER_LOCAL, self._at(ip))
            if service.source_ranges:
                self._firewall(ip)
        if service.node_port and self.here.node_ports:
            self._node_port()
        if service.health_check_node_port:
            self._entry(HEALTH_CHECK, str(service.health_check_node_port))

    def _at(self, ip: str) -> str:
        return f"{ip},{self.service.protocol}:{self.service.port}"

    def _entry(self, name: str, text: str) -> None:
        self.items[Entry(set_name(name, self.context.ipv6), text)] = None

    def _portal(self, ip: str, name: str, is_local: bool, *, bind: bool = False) -> None:
        """An address of the Service's own. One that the node has on another link already is not bound a second time."""
        self._entry(name, self._at(ip))
        self._server(ip, self.service.port, is_local)
        if bind or ip not in self.here.every:
            self.items[Address(ip)] = None
            self._entry(IPVS_IPS, ip)

    def _server(self, ip: str, port: int, is_local: bool) -> None:
        """A virtual server. Where a Local policy has no endpoint here all serve, as upstream: so pods at least get through."""
        server = Server(self.service.protocol, ip, port)
        self.items[server] = self.balance
        for e in (is_local and self.decision.local) or self.decision.cluster:
            self.items[Real(server, e.ip, e.port)] = 1

    def _firewall(self, ip: str) -> None:
        service = self.service
        self._entry(LOAD_BALANCER_FW, self._at(ip))
        for cidr in service.source_ranges:
            self._entry(SOURCE_CIDR, f"{self._at(ip)},{entry_network(cidr)}")
        node_ip = self.context.node_ip
        if node_ip and any(ip_address(node_ip) in ip_network(cidr) for cidr in service.source_ranges):
            # The address is on kube-ipvs0, and so the source of the node's own packets to it.
            self._entry(SOURCE_IP, f"{self._at(ip)},{ip}")
        else:
            self.denied.append((ip, service.protocol, service.port))

    def _node_port(self) -> None:
        service, port = self.service, self.service.node_port
        texts = [f"{ip},sctp:{port}" for ip in self.here.node_ports] if service.protocol == "sctp" else [str(port)]
        for text in texts:
            self._entry(NODE_PORT[service.protocol], text)
            if service.external_local:
                self._entry(NODE_PORT_LOCAL[service.protocol], text)
        for ip in self.here.node_ports:
            self._server(ip, port, service.external_local)


def own_servers(items: Items, ipv6: bool) -> list[Server]:
    """Of a state that was read, the virtual servers that kube-proxy made: at kube-ipvs0's addresses, and at its node ports."""
    sets = entries_of(items)
    node_ports = {p: frozenset(sets.get(set_name(name, ipv6), ())) for p, name in NODE_PORT.items()}

    def is_ours(server: Server) -> bool:
        port = f"{server.ip},sctp:{server.port}" if server.protocol == "sctp" else str(server.port)
        return Address(server.ip) in items or port in node_ports.get(server.protocol, ())

    return [i for i in items if isinstance(i, Server) and is_ours(i)]


def entry_network(cidr: str) -> str:
    """A network as `ipset list` prints it: a whole address without its length."""
    return cidr.removesuffix("/128" if ":" in cidr else "/32")


# ── the chains ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def jumps() -> list[Jump]:
    """The jumps from the built-in chains, in upstream's order: each missing one is put on top, so the last comes first."""
    wanted = (
        ("nat", "OUTPUT", SERVICES, "kubernetes service portals"),
        ("nat", "PREROUTING", SERVICES, "kubernetes service portals"),
        ("nat", "POSTROUTING", POSTROUTING, "kubernetes postrouting rules"),
        ("filter", "FORWARD", FORWARD, "kubernetes forwarding rules"),
        ("filter", "INPUT", IPVS_NODE_PORT, "kubernetes health check rules"),
        ("filter", "INPUT", PROXY_FIREWALL, "kube-proxy firewall rules"),
        ("filter", "FORWARD", PROXY_FIREWALL, "kube-proxy firewall rules"),
        ("filter", "INPUT", IPVS_FILTER, "kubernetes ipvs access filter"),
        ("filter", "OUTPUT", IPVS_OUT_FILTER, "kubernetes ipvs access filter"),
    )
    return [Jump(table, hook, f"-m comment --comment {quote(said)} -j {to}") for table, hook, to, said in wanted]


_ASK = (
    (LOOP_BACK, "nat", POSTROUTING, "MASQUERADE", "dst,dst,src", ""),
    (LOAD_BALANCER, "nat", SERVICES, IPVS_LOAD_BALANCER, "dst,dst", ""),
    (LOAD_BALANCER_LOCAL, "nat", IPVS_LOAD_BALANCER, "RETURN", "dst,dst", ""),
    (NODE_PORT_LOCAL["tcp"], "nat", IPVS_NODE_PORT, "RETURN", "dst", "tcp"),
    (NODE_PORT["tcp"], "nat", IPVS_NODE_PORT, MARK_MASQ, "dst", "tcp"),
    (NODE_PORT_LOCAL["udp"], "nat", IPVS_NODE_PORT, "RETURN", "dst", "udp"),
    (NODE_PORT["udp"], "nat", IPVS_NODE_PORT, MARK_MASQ, "dst", "udp"),
    (NODE_PORT_LOCAL["sctp"], "nat", IPVS_NODE_PORT, "RETURN", "dst,dst", "sctp"),
    (NODE_PORT["sctp"], "nat", IPVS_NODE_PORT, MARK_MASQ, "dst,dst", "sctp"),
    (LOAD_BALANCER_FW, "filter", PROXY_FIREWALL, IPVS_SOURCE_RANGES, "dst,dst", ""),
    (SOURCE_CIDR, "filter", IPVS_SOURCE_RANGES, "RETURN", "dst,dst,src", ""),
    (SOURCE_IP, "filter", IPVS_SOURCE_RANGES, "RETURN", "dst,dst,src", ""),
)
"""(set, table, chain, target, what of a packet is looked up, protocol): rules that are there while the set has entries."""


def tables(
    filled: Collection[str], denied: Sequence[tuple[str, str, int]], context: Context
) -> tuple[dict[str, Chain], dict[str, Chain]]:
    """The chains of tables filter and nat. `filled`: names (IPv4's) of the sets that have entries."""
    return _filter(filled, denied, context), _nat(filled, context)


def _match(name: str, what: str, ipv6: bool, *, comment: bool = True) -> str:
    said = f"-m comment --comment {quote(SETS[name][1])} " if comment else ""
    return f"{said}-m set --match-set {set_name(name, ipv6)} {what}"


def _asked(table: str, chain: str, filled: Collection[str], ipv6: bool) -> Iterator[str]:
    for name, where, source, target, what, protocol in _ASK:
        if (where, source) == (table, chain) and name in filled:
            yield f"{f'-p {protocol} ' if protocol else ''}{_match(name, what, ipv6)} -j {target}"


def _nat(filled: Collection[str], context: Context) -> dict[str, Chain]:
    six = context.ipv6
    fixed = fixed_nat(context)
    chains: dict[str, Iterable[str]] = {
        SERVICES: _services(filled, context),
        POSTROUTING: (*_asked("nat", POSTROUTING, filled, six), *fixed[POSTROUTING]),
        IPVS_NODE_PORT: _asked("nat", IPVS_NODE_PORT, filled, six),
        IPVS_LOAD_BALANCER: (*_asked("nat", IPVS_LOAD_BALANCER, filled, six), f"-j {MARK_MASQ}"),
        MARK_MASQ: fixed[MARK_MASQ],
    }
    return {name: Chain(tuple(rules)) for name, rules in chains.items()}


def _services(filled: Collection[str], context: Context) -> Iterator[str]:
    """KUBE-SERVICES marks what is to be masqueraded; who serves it the virtual servers say, later."""
    six = context.ipv6
    yield f"-s {'::1/128' if six else '127.0.0.0/8'} -j RETURN"
    yield from _asked("nat", SERVICES, filled, six)
    if CLUSTER_IP in filled:
        if context.masquerade_all:
            yield f"{_match(CLUSTER_IP, 'dst,dst', six)} -j {MARK_MASQ}"
        elif context.detector:
            yield f"{_match(CLUSTER_IP, 'dst,dst', six)} {context.detector.is_not_local} -j {MARK_MASQ}"
        else:  # of the node's own packets at least, whose source is the Service's own address
            yield f"{_match(CLUSTER_IP, 'src,dst', six)} -j {MARK_MASQ}"
    for name in (EXTERNAL_IP, EXTERNAL_IP_LOCAL):
        if name in filled:
            match = _match(name, "dst,dst", six)
            if name == EXTERNAL_IP:
                yield f"{match} -j {MARK_MASQ}"
            yield f"{match} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT"
            yield f"{match} -m addrtype --dst-type LOCAL -j ACCEPT"
    yield f"-m addrtype --dst-type LOCAL -j {IPVS_NODE_PORT}"
    for name in (CLUSTER_IP, LOAD_BALANCER):
        if name in filled:
            yield f"{_match(name, 'dst,dst', six, comment=False)} -j ACCEPT"


def _filter(filled: Collection[str], denied: Sequence[tuple[str, str, int]], context: Context) -> dict[str, Chain]:
    six, mark = context.ipv6, context.mark
    passing = [(n, "dst,dst") for n in (LOAD_BALANCER, CLUSTER_IP, EXTERNAL_IP, EXTERNAL_IP_LOCAL)] + [(HEALTH_CHECK, "dst")]
    chains: dict[str, Iterable[str]] = {
        FORWARD: (
            f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT',
            '-m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
        ),
        IPVS_NODE_PORT: (f"{_match(HEALTH_CHECK, 'dst', six)} -j ACCEPT",),
        PROXY_FIREWALL: _asked("filter", PROXY_FIREWALL, filled, six),
        IPVS_SOURCE_RANGES: (*_asked("filter", IPVS_SOURCE_RANGES, filled, six), "-j DROP"),
        # What else the node listens on is not to be had at a Service's address.
        IPVS_FILTER: (
            *(f"{_match(name, what, six, comment=False)} -j RETURN" for name, what in passing),
            f"-m conntrack --ctstate NEW {_match(IPVS_IPS, 'dst', six, comment=False)} -j REJECT",
        ),
        IPVS_OUT_FILTER: (
            f"-s {ip} -m ipvs --vaddr {ip} --vproto {protocol} --vport {port} -j DROP" for ip, protocol, port in denied
        ),
    }
    return {name: Chain(tuple(rules)) for name, rules in chains.items()}
