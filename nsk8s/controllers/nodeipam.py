"""Node IPAM: every node gets a pod CIDR of its own. Touches: the API (CidrSet is pure).

Upstream: pkg/controller/nodeipam/ipam (range_allocator.go, cidrset). Ours: with --node-cidr-first-address the node with that
InternalIP gets the first subnet, the next address the second, and so on while they are free, so that every run looks the same.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL
from nsk8s.client.informer import wait_synced
from nsk8s.client.resources import NODES
from nsk8s.controllers.context import Address, Context, Network, Settings
from nsk8s.errors import Nsk8sError

DEFAULT_MASK_IPV4, DEFAULT_MASK_IPV6 = 24, 64
"""Upstream's defaults for a node's subnet."""
RETRY_S = 30.0


class CidrSet:
    """The subnets of one size in one network, and which are taken."""

    def __init__(self, network: Network, mask_size: int) -> None:
        if not network.prefixlen <= mask_size <= network.max_prefixlen:
            raise Nsk8sError(
                f"--node-cidr-mask-size {mask_size} does not fit the cluster CIDR {network}",
                f"choose a mask size from {network.prefixlen} to {network.max_prefixlen}",
            )
        self.network = network
        self.mask_size = mask_size
        self.size = 1 << min(mask_size - network.prefixlen, 16)
        """How many subnets there are (at most 65,536 are used, as upstream)."""
        self._taken: set[int] = set()
        self._lowest = 0  # every index below is taken

    def subnet(self, index: int) -> Network:
        base = int(self.network.network_address) + (index << (self.network.max_prefixlen - self.mask_size))
        return type(self.network)((base, self.mask_size))

    def _indices(self, cidr: Network) -> range:
        """The subnets that `cidr`, of whatever size, touches."""
        if cidr.version != self.network.version or not cidr.overlaps(self.network):
            return range(0)
        shift = self.network.max_prefixlen - self.mask_size
        start = int(self.network.network_address)
        first = max(0, (int(cidr.network_address) - start) >> shift)
        last = min(self.size - 1, (int(cidr.broadcast_address) - start) >> shift)
        return range(first, last + 1)

    def occupy(self, cidr: Network) -> bool:
        """Take what `cidr` touches; False if it lies outside or some of it was taken."""
        indices = self._indices(cidr)
        free = bool(indices) and self._taken.isdisjoint(indices)
        self._taken.update(indices)
        return free

    def release(self, cidr: Network) -> None:
        indices = self._indices(cidr)
        self._taken.difference_update(indices)
        if indices:
            self._lowest = min(self._lowest, indices[0])

    def allocate(self, preferred: int | None = None) -> Network | None:
        """A free subnet: the preferred one if it is free, else the first; None if there is none."""
        if preferred is not None and 0 <= preferred < self.size and preferred not in self._taken:
            self._taken.add(preferred)
            return self.subnet(preferred)
        index = self._lowest
        while index < self.size and index in self._taken:
            index += 1
        self._lowest = index
        if index >= self.size:
            return None
        self._taken.add(index)
        return self.subnet(index)


def preferred_index(node: Object, firsts: Iterable[Address]) -> int | None:
    """Which subnet a node would like, by its InternalIP's distance from the nearest of `firsts` below it. Pure."""
    for entry in (node.get("status") or {}).get("addresses") or []:
        if entry.get("type") != "InternalIP":
            continue
        try:
            address = ipaddress.ip_address(entry.get("address", ""))
        except ValueError:
            continue
        distances = (int(address) - int(first) for first in firsts if first.version == address.version)
        below = [distance for distance in distances if distance >= 0]
        if below:
            return min(below)
    return None


def node_cidrs(node: Object) -> list[Network]:
    """spec.podCIDRs of a node; what cannot be read is left out. Pure."""
    spec = node.get("spec") or {}
    found = []
    for text in spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []):
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue
    return found


def mask_sizes(clusters: Sequence[Network], both: int, ipv4: int, ipv6: int) -> tuple[int, int]:
    """The size of a node's subnet, in IPv4 and IPv6, from the three flags (0: not given). Raises Nsk8sError. Pure.

    Upstream: cmd/kube-controller-manager/app/core.go setNodeCIDRMaskSizes, and what startNodeIpamController asks of the CIDRs.
    """
    versions = [n.version for n in clusters]
    if len(clusters) > 2:
        raise Nsk8sError(f"--cluster-cidr: length is {len(clusters)}, more than the two that can be", "one of each IP family")
    if len(set(versions)) < len(versions):
        raise Nsk8sError("--cluster-cidr: two CIDRs must be of different IP families", "e.g. 10.244.0.0/16,fd00:10:244::/56")
    if len(clusters) == 2 and both:
        raise Nsk8sError("usage of --node-cidr-mask-size is not allowed with dual-stack clusters",
                         "use --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6")  # fmt: skip
    if both and (ipv4 or ipv6):
        raise Nsk8sError("usage of --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6 is not allowed if "
                         "--node-cidr-mask-size is set")  # fmt: skip
    for given, version in ((ipv4, 4), (ipv6, 6)):
        if given and clusters and version not in versions:
            other = 10 - version
            raise Nsk8sError(f"usage of --node-cidr-mask-size-ipv{version} is not allowed for a single-stack IPv{other} cluster")
    return both or ipv4 or DEFAULT_MASK_IPV4, both or ipv6 or DEFAULT_MASK_IPV6


def make_sets(settings: Settings) -> list[CidrSet]:
    """One set per cluster CIDR; the service ranges are kept out of them. Raises Nsk8sError."""
    sets = [
        CidrSet(n, settings.node_cidr_mask_size if n.version == 4 else settings.node_cidr_mask_size_ipv6)
        for n in settings.cluster_cidrs
    ]
    for services in settings.service_cluster_ip_ranges:
        for pods in sets:
            pods.occupy(services)
    return sets


class NodeIpamController:
    def __init__(self, ctx: Context) -> None:
        if not ctx.settings.cluster_cidrs:
            raise Nsk8sError("--allocate-node-cidrs needs --cluster-cidr")
        self._client, self._recorder = ctx.client, ctx.recorder("cidrAllocator")
        self._first = ctx.settings.node_cidr_first_address
        self._nodes = ctx.informer(NODES)
        self._sets = make_sets(ctx.settings)
        self._held: dict[str, list[Network]] = {}
        self._waiting: set[str] = set()
        """Nodes that got nothing: looked at again when a subnet becomes free, and from time to time."""
        self._loop = Controller("node-ipam-controller", self._reconcile, workers=1)
        self._loop.watch(self._nodes)

    async def run(self) -> None:
        # What nodes have already is taken before anything is given away.
        await wait_synced(self._nodes)
        for node in self._nodes.items():
            self._occupy(meta.name(node), node_cidrs(node))
        await self._loop.run()

    def _occupy(self, name: str, cidrs: list[Network]) -> None:
        if cidrs and name not in self._held:
            self._held[name] = cidrs
            for cidr in cidrs:
                for pods in self._sets:
                    pods.occupy(cidr)

    def _release(self, cidrs: list[Network]) -> None:
        for cidr in cidrs:
            for pods in self._sets:
                pods.release(cidr)

    def _free(self, name: str) -> None:
        """A node is gone, or has other subnets than it was given."""
        cidrs = self._held.pop(name, [])
        self._release(cidrs)
        for waiting in self._waiting if cidrs else ():
            self._loop.queue.add(waiting)

    async def _reconcile(self, name: str) -> float | None:
        node = self._nodes.get(name)
        if node is None:
            self._waiting.discard(name)
            self._free(name)
            return None
        have = node_cidrs(node)
        if have:
            if self._held.get(name, have) != have:
                self._free(name)
            self._occupy(name, have)
            return None
        if name in self._held:  # given, and not yet in the cache
            cidrs = self._held[name]
        else:
            preferred = preferred_index(node, self._first)
            found = [pods.allocate(preferred) for pods in self._sets]
            cidrs = [c for c in found if c is not None]
            if len(cidrs) < len(found):
                self._release(cidrs)
                self._recorder.event(
                    node, NORMAL, "CIDRNotAvailable", f"Node {name} status is now: CIDRNotAvailable"
                )
                self._waiting.add(name)
                return RETRY_S
            self._waiting.discard(name)
            self._held[name] = cidrs
        body = {
            "metadata": {"uid": meta.uid(node)}, "spec": {"podCIDR": str(cidrs[0]), "podCIDRs": [str(c) for c in cidrs]},
        }  # fmt: skip
        try:
            await self._client.patch(NODES, name, body)
        except asyncio.CancelledError:
            raise
        except Exception:
            if self._nodes.get(name) is None:
                self._free(name)
            raise
        return None
