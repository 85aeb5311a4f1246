"""How the pod network is routed: the modes, and which machine leads to which pods. Pure.

Shared by node-network (on every node) and router-agent (on the router), which must agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object

MODES = ("routes", "vxlan", "router", "bgp")
TOPOLOGIES = ("mesh", "reflector")
EXPOSABLE = ("pods", "services")
NAMESPACE, CONFIG_MAP = "kube-system", "node-network"
"""A ConfigMap of this name overrides what the components were started with: `mode: vxlan`, `expose: pods,services`,
`bgpTopology: reflector`, `bgpAsn: "65001"`, `bgpHoldTime: "9"`."""
MIN_HOLD_S, MAX_HOLD_S = 3, 65535
"""RFC 4271: at least three seconds, and 16 bits. (0, for ever, is not taken: a dead node would stay.)"""
SETTLE_S = 2.0
"""After a change of mode the old ways stay so long: new ones are there on every machine before old ones go."""
BRIDGE_S = 2.0
"""After a change of BGP's settings sessions stay so long: whoever is told that one ends forgets at once what it told, and must
have other ways by then."""
FORGET_S = 1.0
"""So long after it took other settings BIRD knows nothing any more of what ended sessions told."""


@dataclass(frozen=True)
class Bgp:
    """`network.bgp` of cluster.yaml."""

    topology: str = "mesh"
    asn: int = 64512
    hold_s: int = 90


@dataclass(frozen=True)
class Settings:
    """`network` of cluster.yaml."""

    mode: str = "routes"
    expose: frozenset[str] = frozenset()
    bgp: Bgp = Bgp()

    @property
    def router_knows_pods(self) -> bool:
        return self.mode == "router" or "pods" in self.expose


DEFAULT = Settings()


def parse_expose(text: str) -> frozenset[str]:
    """`pods,services` as a set. Raises ValueError."""
    found = frozenset(word.strip() for word in text.split(",") if word.strip())
    unknown = sorted(found - set(EXPOSABLE))
    if unknown:
        raise ValueError(f"expose: {unknown[0]} is neither pods nor services")
    return found


def override(started_with: Settings, config_map: Mapping[str, Any] | None) -> Settings:
    """What is in force: a key that the ConfigMap lacks is as at the start. Raises ValueError for one that makes no sense."""
    data = (config_map or {}).get("data") or {}
    mode = str(data.get("mode", started_with.mode)).strip()
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r} is none of {', '.join(MODES)}")
    expose = parse_expose(str(data["expose"])) if "expose" in data else started_with.expose
    return Settings(mode, expose, _override_bgp(started_with.bgp, data))


def _override_bgp(started_with: Bgp, data: Mapping[str, Any]) -> Bgp:
    topology = str(data.get("bgpTopology", started_with.topology)).strip()
    if topology not in TOPOLOGIES:
        raise ValueError(f"bgpTopology: {topology!r} is none of {', '.join(TOPOLOGIES)}")
    numbers = []
    for key, default, low, high in (
        ("bgpAsn", started_with.asn, 1, 2**32 - 2), ("bgpHoldTime", started_with.hold_s, MIN_HOLD_S, MAX_HOLD_S)
    ):  # fmt: skip
        text = str(data.get(key, default)).strip()
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"{key}: {text!r} is not a number between {low} and {high}")
        numbers.append(int(text))
    return Bgp(topology, *numbers)


def pod_cidrs(node: Object) -> list[str]:
    """A Node's pod subnets, one a family; empty until the node-ipam controller gave it some."""
    spec = node.get("spec") or {}
    return list(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []))


def internal_ips(node: Object) -> list[str]:
    addresses = (node.get("status") or {}).get("addresses") or []
    return [a["address"] for a in addresses if a.get("type") == "InternalIP" and a.get("address")]


def routes(nodes: Iterable[Object], own: str = "") -> dict[str, str]:
    """destination → gateway: one for each node's pod subnet but `own`'s, through its InternalIP of the same family."""
    wanted: dict[str, str] = {}
    for node in sorted(nodes, key=meta.name):
        if meta.name(node) == own:
            continue
        for cidr in pod_cidrs(node):
            try:
                network = ip_network(cidr)
            except ValueError:
                continue
            gateway = next((ip for ip in internal_ips(node) if (":" in ip) == (network.version == 6)), "")
            if gateway:
                wanted[str(network)] = gateway
    return wanted
