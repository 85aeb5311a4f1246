"""What kube-proxy knows of its own Node, and how it tells that node's pods. Upstream: cmd/kube-proxy/app/server*.go. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.proxy.addresses import parse_cidr
from nsk8s.proxy.config import Config
from nsk8s.proxy.rules import LocalDetector

ZONE_LABEL = "topology.kubernetes.io/zone"
DELETION_TAINT = "ToBeDeletedByClusterAutoscaler"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What kube-proxy reads from its own Node. Pure."""

    zone: str = ""
    ips: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    eligible: bool = True
    bound_ipv6: bool = False
    """Whether kube-proxy's bind address is IPv6's."""

    @classmethod
    def of(cls, node: Object | None, bind_address: str = "0.0.0.0") -> NodeFacts:
        """`bind_address`: kube-proxy's; one that is not unspecified is the node's address, whatever the node says."""
        bound, bound_ipv6 = () if ip_address(bind_address).is_unspecified else (bind_address,), ":" in bind_address
        if node is None:
            return cls(ips=bound, bound_ipv6=bound_ipv6)
        spec, status = node.get("spec") or {}, node.get("status") or {}
        # The first address of each family counts, InternalIP before ExternalIP.
        ordered = sorted(status.get("addresses") or [], key=lambda a: a.get("type") != "InternalIP")
        ips = [a["address"] for a in ordered if a.get("type") in ("InternalIP", "ExternalIP")]
        tainted = any(t.get("key") == DELETION_TAINT for t in spec.get("taints") or [])
        cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
        eligible = not tainted and not meta.is_deleting(node)
        return cls(meta.labels(node).get(ZONE_LABEL, ""), (*bound, *ips), tuple(cidrs), eligible, bound_ipv6)

    def ip(self, ipv6: bool) -> str:
        return next((i for i in self.ips if (":" in i) == ipv6), "")

    def has(self, ipv6: bool) -> bool:
        """Whether the node has an address of the family; one that says nothing (yet) has the bind address'."""
        return bool(self.ip(ipv6)) if self.ips else ipv6 == self.bound_ipv6


def detector(config: Config, facts: NodeFacts, ipv6: bool) -> LocalDetector:
    """How to tell this node's pods' traffic, as detectLocalMode says. Pure."""
    if config.detect_local_mode == "BridgeInterface":
        return LocalDetector.by_interface(config.bridge_interface)
    if config.detect_local_mode == "InterfaceNamePrefix":
        return LocalDetector.by_interface(config.interface_name_prefix + "+")
    cidrs = facts.pod_cidrs if config.detect_local_mode == "NodeCIDR" else config.cluster_cidr.split(",")
    for network in map(parse_cidr, cidrs):
        if network is not None and (network.version == 6) == ipv6:
            return LocalDetector.by_cidr(str(network))
    return LocalDetector()
