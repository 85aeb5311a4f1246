"""What kube-proxy would write on a node in a mode that it need not run in: `nsk8s rules --mode`. Pure, but for the event loop.

A proxier with a kernel of paper: the same decisions and the same texts, held as values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.net import chainset, nftset
from nsk8s.net.chainset import ChainSet
from nsk8s.net.ipvs import Counts, Item, Items, Real, Server, SetType, Value
from nsk8s.net.nftset import NftTable
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nodeaddresses import PRIMARY, NodePortAddresses
from nsk8s.proxy.rules import Context, LocalDetector
from nsk8s.proxy.sync import Proxier

ZONE_LABEL = "topology.kubernetes.io/zone"
FIRST_PROXY_PORT = 40001
"""userspace mode takes any free port; here they are counted."""


class _PaperIptables:
    main, has_random_fully = "iptables", True

    def __init__(self) -> None:
        self.held = ChainSet()

    async def save(self, table: str = "") -> str:
        return chainset.render(self.held)

    async def restore(self, text: str | Iterable[str]) -> None:
        self.held = chainset.apply(self.held, "".join(text))


class _PaperNft:
    def __init__(self) -> None:
        self.held: NftTable | None = None

    async def run(self, script: str) -> None:
        self.held = nftset.apply(self.held, script)

    def chains(self, family: str, table: str) -> list[str]:
        return []

    def sets(self, family: str, table: str) -> dict[str, int]:
        return {}


class _PaperSockets:
    def __init__(self) -> None:
        self.port = FIRST_PROXY_PORT - 1

    async def listen(self, protocol: str, next_endpoint: Any) -> Any:
        self.port += 1
        return SimpleNamespace(port=self.port, close=lambda: None)

    def outward_address(self) -> str:
        return ""

    def claim(self, protocol: str, port: int) -> Any:
        return SimpleNamespace(close=lambda: None)


class PaperIpvs:
    """Holds items as the kernel does."""

    def __init__(self, node_addresses: Iterable[str]) -> None:
        self.held: dict[Item, Value] = {}
        self.sets: dict[str, SetType] = {}
        self.own = list(node_addresses)

    def ensure(self, sets: Mapping[str, SetType]) -> None:
        self.sets.update(sets)

    def read(self, ipv6: bool, sets: Iterable[str]) -> dict[Item, Value]:
        return dict(self.held)

    def counts(self, servers: Collection[Server]) -> dict[Real, Counts]:
        return {}

    def put(self, items: Items) -> None:
        self.held.update(items)

    def remove(self, items: Iterable[Item]) -> None:
        for item in items:
            self.held.pop(item, None)

    def node_addresses(self, ipv6: bool) -> list[str]:
        return [ip for ip in self.own if (":" in ip) == ipv6]


class _NodePorts(NodePortAddresses):
    """For a node that is elsewhere: of its addresses only those that its Node tells are known."""

    def current(self) -> list[str] | None:
        return None if self.match_all else sorted(self.select(self._node_ips))


@dataclass(frozen=True)
class Preview:
    """What would be in the kernel: one of the first two; ipvs mode's items beside its few rules."""

    iptables: ChainSet | None = None
    nftables: NftTable | None = None
    ipvs: Items | None = None


def preview(
    mode: str, services: Iterable[Object], slices: Iterable[Object], node: Object, *,
    cluster_cidr: str = "", masquerade_all: bool = False, ipv6: bool = False,
) -> Preview:  # fmt: skip
    """The rules of these Services on this node, in a fresh start of `mode`. Raises KeyError for a mode that is not there."""
    addresses = (node.get("status") or {}).get("addresses") or []
    ips = tuple(a["address"] for a in addresses if a.get("type") == "InternalIP" and (":" in a["address"]) == ipv6)[:1]
    context = Context(
        ipv6=ipv6, detector=LocalDetector.by_cidr(cluster_cidr) if cluster_cidr else LocalDetector(),
        masquerade_all=masquerade_all, node_ip=ips[0] if ips else "", localhost_node_ports=not ipv6 and mode == "iptables",
    )  # fmt: skip
    ports = _NodePorts((PRIMARY,) if mode == "nftables" else (), ipv6, ips)
    kernel: Any = _PaperNft() if mode == "nftables" else _PaperIptables()
    state = PaperIpvs(ips)
    proxier = _proxier(mode, kernel, context, meta.name(node), ports, state)
    proxier.node_changed(zone=meta.labels(node).get(ZONE_LABEL, ""), context=context, node_ips=ips)
    for service in services:
        proxier.service_changed(None, service)
    for each in slices:
        proxier.slice_changed(None, each)
    asyncio.run(proxier.write_for_show())
    if mode == "nftables":
        return Preview(nftables=kernel.held)
    return Preview(iptables=kernel.held, ipvs=state.held if mode == "ipvs" else None)


def _proxier(
    mode: str, kernel: Any, context: Context, node: str, ports: NodePortAddresses, state: PaperIpvs
) -> Proxier:
    metrics = Metrics(mode)
    if mode == "nftables":
        from nsk8s.proxy.nftables import NftablesProxier

        return NftablesProxier(kernel, context, node, ports, metrics)
    if mode == "ipvs":
        from nsk8s.proxy.ipvs import IpvsProxier

        return IpvsProxier(kernel, state, context, node, ports, metrics)
    if mode == "userspace":
        from nsk8s.proxy.userspace import UserspaceProxier

        return UserspaceProxier(kernel, context, node, ports, metrics, _PaperSockets())  # type: ignore[arg-type]
    from nsk8s.proxy.iptables import IptablesProxier

    return IptablesProxier(kernel, context, node, ports, metrics)
