"""What node-network wants on a node: conflist, routes, masquerade. Upstream: flanneld (host-gw), ip-masq-agent. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.net.chainset import Chain, ChainSet, Jump

CONFLIST = "10-nsk8s.conflist"
BRIDGE = "cni0"
MASQ_CHAIN = "NSK8S-MASQ"
MASQ_JUMP = Jump("nat", "POSTROUTING", f'-m comment --comment "nsk8s: traffic that leaves the cluster" -j {MASQ_CHAIN}')


def pod_cidrs(node: Object) -> list[str]:
    """A Node's pod subnets, one a family; empty until the node-ipam controller gave it some."""
    spec = node.get("spec") or {}
    return list(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []))


def internal_ips(node: Object) -> list[str]:
    addresses = (node.get("status") or {}).get("addresses") or []
    return [a["address"] for a in addresses if a.get("type") == "InternalIP" and a.get("address")]


def routes(nodes: Iterable[Object], own: str) -> dict[str, str]:
    """destination → gateway: one for each other node's pod subnet, through its InternalIP of the same family."""
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


def conflist(cidrs: Sequence[str], data_dir: str = "/var/lib/cni/networks") -> str:
    """The CNI configuration list (JSON text): a bridge with the node's own subnet behind it.

    ipMasq is off: it would masquerade pod traffic to other nodes too. What leaves the cluster is masqueraded by `masquerade`.
    portmap serves hostPort; it does nothing for a pod without one.
    """
    anywhere = {4: "0.0.0.0/0", 6: "::/0"}
    versions = sorted({ip_network(c).version for c in cidrs})
    ipam: dict[str, Any] = {
        "type": "host-local",
        "ranges": [[{"subnet": c}] for c in cidrs],
        "routes": [{"dst": anywhere[v]} for v in versions],
        "dataDir": data_dir,
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": ipam,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "nsk8s", "plugins": [bridge, portmap]}, indent=2) + "\n"


def masquerade(cluster_cidrs: Sequence[str], inside_cidrs: Sequence[str], *, ipv6: bool, random_fully: bool) -> ChainSet:
    """The chain that gives packets from pods the node's address once they leave the cluster; empty without a CIDR of the family.

    Nothing to pods (cluster CIDR), nodes or services (`inside_cidrs`) is masqueraded, nor what does not come from a pod.
    """
    clusters = [c for c in cluster_cidrs if (ip_network(c).version == 6) == ipv6]
    if not clusters:
        return ChainSet({"nat": {}})
    inside = [c for c in inside_cidrs if (ip_network(c).version == 6) == ipv6]
    local = '-m comment --comment "nsk8s: inside the cluster"'
    fully = " --random-fully" if random_fully else ""
    stay = [f"{local} -d {c} -j RETURN" for c in dict.fromkeys((*clusters, *inside))]
    leave = [f'-s {c} -m comment --comment "nsk8s: out of the cluster" -j MASQUERADE{fully}' for c in clusters]
    multicast = "ff00::/8" if ipv6 else "224.0.0.0/4"
    return ChainSet({"nat": {MASQ_CHAIN: Chain((*stay, f"{local} -d {multicast} -j RETURN", *leave))}})
