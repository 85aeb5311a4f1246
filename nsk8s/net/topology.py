"""The machines of a cluster and the cables between them, as values. Pure.

    node.eth0 ── switch (bridge lan0, one port a node, named after it) ── router.eth0   router.eth1 ── client.eth0
    node.eth0 ── switch-b, for each further rack, with a subnet of its own ── router.eth2 …
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
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
    address: str = ""
    """With prefix length, e.g. `192.168.56.11/24`."""
    master: str = ""


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
    gateway: str = ""
    """Default route; empty for none (the router has none: what it does not know is unreachable)."""
    bridge: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)


_NO_IPV6 = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
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
    **_NO_IPV6,
}
_FORWARDING = {
    **_HOST,
    "net/ipv4/ip_forward": "1",
    # Where the router leads pods to nodes, packets leave it the way they came: nobody is told of a shorter one.
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}
_BRIDGE_NF = "net/bridge/bridge-nf-call-{}tables"
SYSCTLS: Mapping[Role, Mapping[str, str]] = {
    # Bridged replies must pass netfilter, or a service whose endpoint shares the client's bridge never answers.
    "node": {**_FORWARDING, **{_BRIDGE_NF.format(f): v for f, v in (("ip", "1"), ("ip6", "1"), ("arp", "0"))}},
    # A switch is a switch: no conntrack, no filter.
    "switch": {**_HOST, **{_BRIDGE_NF.format(f): "0" for f in ("ip", "ip6", "arp")}},
    "router": _FORWARDING,
    "client": _HOST,
}


def netns_name(config: ClusterConfig, machine: str) -> str:
    return f"{config.name}-{machine}"


def switch_name(config: ClusterConfig, rack: Rack) -> str:
    """The first rack's is `switch`, whatever the rack is called."""
    return SWITCH if rack == config.all_racks[0] else f"{SWITCH}-{rack.name}"


def router_port(number: int) -> str:
    """The router's interface to a rack, by the rack's place: eth1 is the world outside."""
    return f"eth{number + 1}" if number else "eth0"


def node(config: ClusterConfig, name: str, rack: str = "") -> Machine:
    """A node (the control plane is one too)."""
    gateway = str(config.rack(rack).subnet[1])
    return Machine(name, "node", netns_name(config, name), gateway=gateway, sysctls=SYSCTLS["node"])


def node_cable(config: ClusterConfig, name: str, ip: IPv4Address, rack: str = "") -> Cable:
    """The cable from a node to its rack's switch; its port there carries the node's name (cut to 15 bytes)."""
    where = config.rack(rack)
    return Cable(
        Port(name, "eth0", f"{ip}/{where.subnet.prefixlen}"), Port(switch_name(config, where), name[:15], master=BRIDGE)
    )


def infrastructure_names(config: ClusterConfig) -> list[str]:
    """The machines that are no nodes."""
    return [*(switch_name(config, rack) for rack in config.all_racks), ROUTER, CLIENT]


def infrastructure(config: ClusterConfig) -> tuple[list[Machine], list[Cable]]:
    """The switches, the router and the outside client."""
    outside = config.subnets.outside
    switches = {switch_name(config, rack): rack for rack in config.all_racks}
    machines = [
        *(Machine(name, "switch", netns_name(config, name), bridge=BRIDGE, sysctls=SYSCTLS["switch"]) for name in switches),
        Machine(ROUTER, "router", netns_name(config, ROUTER), sysctls=SYSCTLS["router"]),
        Machine(
            CLIENT, "client", netns_name(config, CLIENT), gateway=str(config.router_outside_ip), sysctls=SYSCTLS["client"]
        ),
    ]
    cables = [
        Cable(
            Port(ROUTER, router_port(i), f"{rack.subnet[1]}/{rack.subnet.prefixlen}"), Port(name, ROUTER, master=BRIDGE)
        )
        for i, (name, rack) in enumerate(switches.items())
    ]
    cables.append(
        Cable(
            Port(ROUTER, "eth1", f"{config.router_outside_ip}/{outside.prefixlen}"),
            Port(CLIENT, "eth0", f"{config.client_ip}/{outside.prefixlen}"),
        )
    )
    return machines, cables
