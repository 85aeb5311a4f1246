"""The machines of a cluster and the cables between them, as values. Pure.

    node.eth0 ── switch (bridge lan0, one port a node, named after it) ── router.eth0   router.eth1 ── client.eth0
    node.eth0 ── switch-b, for each further rack, with a subnet of its own ── router.eth2 …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # pydantic is dear, and most commands need no more than names
    from nsk8s.config import ClusterConfig, Rack

BRIDGE = "lan0"
SWITCH, ROUTER, CLIENT, CONTROL_PLANE = "switch", "router", "client", "control-plane"

Role = Literal["node", "switch", "router", "client"]


@dataclass(frozen=True)
class Port:
    """One end of a cable: a machine and the interface's name there; `master` is the bridge it is plugged into."""

    machine: str
    name: str
    addresses: tuple[str, ...] = ()
    """With prefix lengths, e.g. `192.168.56.11/24`: one a family."""
    master: str = ""

    @property
    def mac(self) -> str:
        """Of an end with addresses, made of the first: a machine keeps its card when it is switched off, and neighbours need
        not find out (up to 45 s) that their entries are wrong. Empty for the others: the kernel draws one."""
        if not self.addresses:
            return ""
        ip = ip_address(self.addresses[0].partition("/")[0])
        return "02:00:" + ":".join(f"{byte:02x}" for byte in ip.packed[-4:])


@dataclass(frozen=True)
class Cable:
    """A veth pair, made in `a`'s namespace with its peer directly in `b`'s."""

    a: Port
    b: Port

    @property
    def port(self) -> Port:
        """The end that the machine is plugged into: a switch's port, or for the client the router's interface."""
        return self.b if self.b.master else self.a


@dataclass(frozen=True)
class Machine:
    """One machine: `netns` is its name in `ip netns list`."""

    name: str
    role: Role
    netns: str
    gateways: tuple[str, ...] = ()
    """Default routes, one a family; empty for none (the router has none: what it does not know is unreachable)."""
    bridge: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)


_NO_IPV6 = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
_IPV6_CONF = {
    "disable_ipv6": "0",
    # Every address and route is written down, none advertised; and none is looked for twice: links come up at once.
    "accept_ra": "0",
    "autoconf": "0",
    "use_tempaddr": "0",
    "accept_dad": "0",
    "accept_redirects": "0",
    # A link that is taken down and up again has its addresses, as with IPv4.
    "keep_addr_on_down": "1",
}
_IPV6 = {
    **{f"net/ipv6/conf/{which}/{key}": value for key, value in _IPV6_CONF.items() for which in ("all", "default")},
    "net/ipv6/icmp/echo_ignore_all": "0",
    "net/ipv6/icmp/ratelimit": "0",
}
# There is no send_redirects: an IPv6 router tells of shorter ways only where its gateways are link-local, and here none is.
_IPV6_FORWARDING = {f"net/ipv6/conf/{which}/forwarding": "1" for which in ("all", "default")}
_HOST = {
    # A new namespace inherits or defaults these from the machine: everything a packet's way depends on is said here.
    "net/ipv4/ip_forward": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv4/icmp_echo_ignore_all": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
    # The limit is per destination and would hide from a class which of many packets were refused.
    "net/ipv4/icmp_ratelimit": "0",
}
_FORWARDING = {
    **_HOST,
    "net/ipv4/ip_forward": "1",
    # Where the router leads pods to nodes, packets leave it the way they came: nobody is told of a shorter one.
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}
_BRIDGE_NF = "net/bridge/bridge-nf-call-{}tables"
_SYSCTLS: Mapping[Role, Mapping[str, str]] = {
    # Bridged replies must pass netfilter, or a service whose endpoint shares the client's bridge never answers.
    "node": {**_FORWARDING, **{_BRIDGE_NF.format(f): v for f, v in (("ip", "1"), ("ip6", "1"), ("arp", "0"))}},
    # A switch is a switch: no conntrack, no filter.
    "switch": {**_HOST, **{_BRIDGE_NF.format(f): "0" for f in ("ip", "ip6", "arp")}},
    "router": _FORWARDING,
    "client": _HOST,
}


def sysctls(role: Role, *, ipv6: bool = False) -> Mapping[str, str]:
    """What is written in a machine's namespace before anything else is there. A switch looks at no address: it needs no IPv6."""
    if not ipv6 or role == "switch":
        return {**_SYSCTLS[role], **_NO_IPV6}
    return {**_SYSCTLS[role], **_IPV6, **(_IPV6_FORWARDING if role in ("node", "router") else {})}


def netns_name(config: ClusterConfig, machine: str) -> str:
    return f"{config.name}-{machine}"


def switch_name(config: ClusterConfig, rack: Rack) -> str:
    """The first rack's is `switch`, whatever the rack is called."""
    return SWITCH if rack == config.all_racks[0] else f"{SWITCH}-{rack.name}"


def router_port(number: int) -> str:
    """The router's interface to a rack, by the rack's place: eth1 is the world outside."""
    return f"eth{number + 1}" if number else "eth0"


def inside_interfaces(config: ClusterConfig) -> list[str]:
    """The router's interfaces to the racks."""
    return [router_port(i) for i in range(len(config.all_racks))]


def node(config: ClusterConfig, name: str, rack: str = "") -> Machine:
    """A node (the control plane is one too)."""
    where = config.rack(rack)
    return Machine(
        name, "node", netns_name(config, name), gateways=tuple(config.router_ips(where)),
        sysctls=sysctls("node", ipv6=config.has_ipv6),
    )  # fmt: skip


def _with_length(addresses: Sequence[str], networks: Sequence[str]) -> tuple[str, ...]:
    """Addresses with the prefix lengths of the networks that they are in, one each."""
    return tuple(f"{ip}/{network.partition('/')[2]}" for ip, network in zip(addresses, networks, strict=True))


def node_cable(config: ClusterConfig, name: str, ip: IPv4Address, rack: str = "") -> Cable:
    """The cable from a node to its rack's switch; its port there carries the node's name (cut to 15 bytes)."""
    where = config.rack(rack)
    addresses = _with_length(config.node_ips(ip), config.rack_cidrs(where))
    return Cable(Port(name, "eth0", addresses), Port(switch_name(config, where), name[:15], master=BRIDGE))


def infrastructure_names(config: ClusterConfig) -> list[str]:
    """The machines that are no nodes."""
    return [*(switch_name(config, rack) for rack in config.all_racks), ROUTER, CLIENT]


def infrastructure(config: ClusterConfig) -> tuple[list[Machine], list[Cable]]:
    """The switches, the router and the outside client."""
    ipv6 = config.has_ipv6
    switches = {switch_name(config, rack): rack for rack in config.all_racks}
    machines = [
        *(Machine(name, "switch", netns_name(config, name), bridge=BRIDGE, sysctls=sysctls("switch")) for name in switches),
        Machine(ROUTER, "router", netns_name(config, ROUTER), sysctls=sysctls("router", ipv6=ipv6)),
        Machine(
            CLIENT, "client", netns_name(config, CLIENT), gateways=tuple(config.router_outside_ips),
            sysctls=sysctls("client", ipv6=ipv6),
        ),
    ]  # fmt: skip
    cables = [
        Cable(
            Port(ROUTER, router_port(i), _with_length(config.router_ips(rack), config.rack_cidrs(rack))),
            Port(name, ROUTER, master=BRIDGE),
        )
        for i, (name, rack) in enumerate(switches.items())
    ]
    cables.append(
        Cable(
            Port(ROUTER, "eth1", _with_length(config.router_outside_ips, config.outside_cidrs)),
            Port(CLIENT, "eth0", _with_length(config.client_ips, config.outside_cidrs)),
        )
    )
    return machines, cables
