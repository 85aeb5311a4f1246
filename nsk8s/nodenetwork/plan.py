"""What node-network wants on a node: conflist, VXLAN peers, masquerade. Upstream: flanneld (vxlan), ip-masq-agent. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.kernel.routes import Via
from nsk8s.net import podnet
from nsk8s.net.chainset import Chain, ChainSet, Jump

CONFLIST = "10-nsk8s.conflist"
BRIDGE = "cni0"
VNI, VXLAN_PORT = 1, 8472
BACKEND_TYPE, SUBNET_MANAGER = "flannel.alpha.coreos.com/backend-type", "flannel.alpha.coreos.com/kube-subnet-manager"


@dataclass(frozen=True)
class Overlay:
    """One family's VXLAN: a device on every node, tunnelling over the same family, and the annotations that tell of its end."""

    family: int
    device: str
    overhead: int
    """Bytes of Ethernet, IP, UDP and VXLAN headers around a packet."""
    backend_data: str
    public_ip: str

    def has(self, address: str) -> bool:
        """Whether an address or network is of this family."""
        return (":" in address) == (self.family == 6)


OVERLAY = Overlay(4, "flannel.1", 50, "flannel.alpha.coreos.com/backend-data", "flannel.alpha.coreos.com/public-ip")
OVERLAY6 = Overlay(6, "flannel-v6.1", 70, "flannel.alpha.coreos.com/backend-v6-data", "flannel.alpha.coreos.com/public-ipv6")
OVERLAYS = (OVERLAY, OVERLAY6)

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


def vtep_annotations(node: Object, macs: Mapping[Overlay, str]) -> dict[str, str | None]:
    """What flannel writes on its own Node for the others; of an overlay without a MAC, what takes that away."""
    wanted: dict[str, str | None] = dict.fromkeys((BACKEND_TYPE, SUBNET_MANAGER))
    for overlay in OVERLAYS:
        mac = macs.get(overlay, "")
        wanted[overlay.backend_data] = json.dumps({"VNI": VNI, "VtepMAC": mac}, separators=(",", ":")) if mac else None
        wanted[overlay.public_ip] = next(filter(overlay.has, podnet.internal_ips(node)), "") if mac else None
        if mac:
            wanted |= {BACKEND_TYPE: "vxlan", SUBNET_MANAGER: "true"}
    return wanted


def vtep_address(cidr: str) -> str:
    """The address of a node's own end: the first of its subnet, which no pod has."""
    return str(ip_network(cidr).network_address)


def peers(nodes: Iterable[Object], own: str, overlay: Overlay = OVERLAY) -> list[Peer]:
    """The other nodes that have an end of the VXLAN, as their annotations say. Those without are reached by plain routes."""
    found = []
    for node in sorted(nodes, key=meta.name):
        held = meta.annotations(node)
        if meta.name(node) == own or held.get(BACKEND_TYPE) != "vxlan" or held.get(SUBNET_MANAGER) != "true":
            continue
        try:
            data = json.loads(held[overlay.backend_data])
            mac, vni = data["VtepMAC"], data.get("VNI", VNI)
            public_ip = str(ip_address(held[overlay.public_ip]))
            cidr = next(filter(overlay.has, podnet.pod_cidrs(node)))
            peer = Peer(str(ip_network(cidr)), vtep_address(cidr), str(mac).lower(), public_ip)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
            continue
        if vni == VNI and overlay.has(public_ip) and MAC.fullmatch(peer.mac):
            found.append(peer)
    return found


def neighbours(peers: Iterable[Peer], overlay: Overlay, device: int) -> dict[str, Via]:
    """Routes that must be there before those through the tunnel: IPv6 takes no gateway, `onlink` or not, that another has."""
    return {f"{p.gateway}/128": Via("", device) for p in peers} if overlay.family == 6 else {}


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
