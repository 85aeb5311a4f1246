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

MODES = ("routes", "vxlan", "router")
EXPOSABLE = ("pods", "services")
NAMESPACE, CONFIG_MAP = "kube-system", "node-network"
"""A ConfigMap of this name overrides what the components were started with: `mode: vxlan`, `expose: pods,services`."""
SETTLE_S = 2.0
"""After a change of mode the old ways stay so long: new ones are there on every machine before old ones go."""


@dataclass(frozen=True)
class Settings:
    """`network` of cluster.yaml."""

    mode: str = "routes"
    expose: frozenset[str] = frozenset()

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
    return Settings(mode, parse_expose(str(data["expose"])) if "expose" in data else started_with.expose)


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
