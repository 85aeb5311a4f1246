"""What node-network wants on a node: conflist, VXLAN peers, masquerade. Upstream: flanneld (vxlan), ip-masq-agent. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.net import podnet
from nsk8s.net.chainset import Chain, ChainSet, Jump

CONFLIST = "10-nsk8s.conflist"
BRIDGE = "cni0"
VXLAN_DEVICE, VNI, VXLAN_PORT = "flannel.1", 1, 8472
VXLAN_OVERHEAD = 50
"""Ethernet, IP, UDP and VXLAN headers around a packet."""
BACKEND_DATA, BACKEND_TYPE, PUBLIC_IP, SUBNET_MANAGER = (
    f"flannel.alpha.coreos.com/{key}" for key in ("backend-data", "backend-type", "public-ip", "kube-subnet-manager")
)
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
MASQ_CHAIN = "NSK8S-MASQ"
MASQ_JUMP = Jump("nat", "POSTROUTING", f'-m comment --comment "nsk8s: traffic that leaves the cluster" -j {MASQ_CHAIN}')


@dataclass(frozen=True)
class Peer:
    """Another node's end of the VXLAN: `gateway` is its address inside, `public_ip` where its packets are sent."""

    cidr: str
    gateway: str
    mac: str
    public_ip: str


def vtep_annotations(node: Object, mac: str) -> dict[str, str | None]:
    """What flannel writes on its own Node for the others; without a MAC, what takes that away."""
    ip = next((ip for ip in podnet.internal_ips(node) if ":" not in ip), "")
    wanted: dict[str, str | None] = {
        BACKEND_DATA: json.dumps({"VNI": VNI, "VtepMAC": mac}, separators=(",", ":")),
        BACKEND_TYPE: "vxlan",
        SUBNET_MANAGER: "true",
        PUBLIC_IP: ip,
    }
    return wanted if mac else dict.fromkeys(wanted)


def vtep_address(cidr: str) -> str:
    """The address of a node's own end: the first of its subnet, which no pod has."""
    return str(ip_network(cidr).network_address)


def peers(nodes: Iterable[Object], own: str) -> list[Peer]:
    """The other nodes that have an end of the VXLAN, as their annotations say. Those without are reached by plain routes."""
    found = []
    for node in sorted(nodes, key=meta.name):
        held = meta.annotations(node)
        if meta.name(node) == own or held.get(BACKEND_TYPE) != "vxlan" or held.get(SUBNET_MANAGER) != "true":
            continue
        try:
            data = json.loads(held[BACKEND_DATA])
            mac, vni = data["VtepMAC"], data.get("VNI", VNI)
            public_ip = str(IPv4Address(held[PUBLIC_IP]))
            cidr = next(c for c in podnet.pod_cidrs(node) if ":" not in c)
            peer = Peer(str(ip_network(cidr)), vtep_address(cidr), str(mac).lower(), public_ip)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
            continue
        if vni == VNI and MAC.fullmatch(peer.mac):
            found.append(peer)
    return found


def conflist(cidrs: Sequence[str], data_dir: str = "/var/lib/cni/networks", mtu: int = 0) -> str:
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
    bridge: dict[str, Any] = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        **({"mtu": mtu} if mtu else {}),
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
