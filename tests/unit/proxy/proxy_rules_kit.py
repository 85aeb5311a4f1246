"""One node's rules from Services and EndpointSlices, as text and as a value, through the same code that the proxier runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from nsk8s.errors import Nsk8sError
from nsk8s.kernel.iptables import IptablesError
from nsk8s.kernel.nft import NftError
from nsk8s.net import chainset, ipvs, ipvstrace, nftset, nfttrace, trace
from nsk8s.net.chainset import ChainSet
from nsk8s.net.ipvs import Counts, Entry, Item, Items, Real, Server, Value
from nsk8s.net.nftset import NftTable
from nsk8s.net.trace import Host, Packet, Verdict
from nsk8s.proxy.iptables import IptablesProxier
from nsk8s.proxy.ipvs import IpvsProxier, Settings
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nftables import NftablesProxier
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.preview import PaperIpvs
from nsk8s.proxy.rules import Context, LocalDetector
from nsk8s.proxy.sync import Proxier
from nsk8s.proxy.userspace import UserspaceProxier

Object = dict[str, Any]
NODE_IP = "192.168.56.11"
HOST = Host(frozenset({NODE_IP, "10.244.1.1"}))
CONTEXT = Context(detector=LocalDetector.by_cidr("10.244.0.0/16"), node_ip=NODE_IP)


class FakeIptables:
    """Holds rules as the kernel does: --noflush restores, -X refused while a rule jumps there, nothing kept of a failed load."""

    main, version, variant, ipv6, has_random_fully = "iptables", (1, 8, 9), "nft", False, True

    def __init__(self) -> None:
        self.held = ChainSet()
        self.texts: list[str] = []
        self.fail_next = False

    async def save(self, table: str = "") -> str:
        tables = {n: chains for n, chains in self.held.tables.items() if table in ("", n)}
        return chainset.render(ChainSet(tables))

    async def chain(self, table: str, chain: str) -> str | None:
        found = self.held.chain(table, chain)
        return None if found is None else "\n".join([f"-N {chain}", *(f"-A {chain} {r}" for r in found.rules), ""])

    async def restore(self, text: str | Iterable[str]) -> None:
        text = "".join(text)
        self.texts.append(text)
        if self.fail_next:
            self.fail_next = False
            raise IptablesError("line 3 failed")
        after = chainset.apply(self.held, text)
        for table, chains in after.tables.items():
            for name, chain in chains.items():
                for rule in chain.rules:
                    target = chainset.target(rule)
                    if target.startswith("KUBE-") and target not in chains:
                        raise IptablesError(f"{table} {name}: no chain {target}")
        self.held = after


class FakeNft:
    """Holds one table as the kernel does: a script has its whole effect or none, what is pointed to cannot go."""

    path, version = "nft", (1, 0, 6)

    def __init__(self) -> None:
        self.held: NftTable | None = None
        self.texts: list[str] = []
        self.fail_next = False

    async def run(self, script: str) -> None:
        self.texts.append(script)
        if self.fail_next:
            self.fail_next = False
            raise NftError("nft: line 3 failed")
        if re.search(r'comment "[^"]{129}', script):
            raise NftError("nft: comment too long, 128 characters maximum allowed")
        self.held = nftset.apply(self.held, script)

    def chains(self, family: str, table: str) -> list[str]:
        return list(self.held.chains) if self.held else []

    def sets(self, family: str, table: str) -> dict[str, int]:
        def timeout(spec: str) -> int:
            return int(spec.rpartition("; timeout ")[2].rstrip("s")) if "; timeout " in spec else 0

        return {n: timeout(s.spec) for n, s in self.held.sets.items()} if self.held else {}

    def has_rules(self, family: str, table: str, chain: str) -> bool:
        return bool(self.held and self.held.rules(chain))


class FakeSockets:
    """Ports that nobody listens on: 40001 and so on, in the order asked for."""

    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        self.claimed: set[tuple[str, int]] = set()
        self.taken: set[int] = set()
        self.next = 40000

    async def listen(self, protocol: str, next_endpoint: Any) -> Any:
        self.next += 1
        port = self.next
        self.open[port] = protocol
        return SimpleNamespace(port=port, close=lambda: self.open.pop(port), next_endpoint=next_endpoint)

    def outward_address(self) -> str:
        return ""

    def claim(self, protocol: str, port: int) -> Any:
        if port in self.taken or (protocol, port) in self.claimed:
            raise OSError(98, "Address already in use")
        self.claimed.add((protocol, port))
        return SimpleNamespace(close=lambda: self.claimed.discard((protocol, port)))


class FakeIpvs(PaperIpvs):
    """Refuses what the kernel refuses: an entry of no set, a real server of no virtual one. Real servers have connections."""

    def __init__(self, node_addresses: tuple[str, ...]) -> None:
        super().__init__(node_addresses)
        self.connections: dict[Real, int] = {}
        self.fail_next = False
        self.puts: list[dict[Item, Value]] = []

    def counts(self, servers: Collection[Server]) -> dict[Real, Counts]:
        return {
            i: Counts(0, self.connections.get(i, 0)) for i in self.held if isinstance(i, Real) and i.server in servers
        }

    def put(self, items: Items) -> None:
        self.puts.append(dict(items))
        if self.fail_next:
            self.fail_next = False
            raise Nsk8sError("ipvs: the kernel said no")
        there = {*self.held, *items}
        for item in items:
            assert not isinstance(item, Entry) or item.set in self.sets, f"no set for {item}"
            assert not isinstance(item, Real) or item.server in there, f"no virtual server for {item}"
        super().put(items)

    def remove(self, items: Iterable[Item]) -> None:
        items = list(items)
        super().remove(items)
        for item in [i for i in self.held if isinstance(i, Real) and i.server in items]:
            del self.held[item]


class Kit:
    """A proxier on a fake kernel. `sync()` returns the text it wrote (empty if none)."""

    def __init__(
        self, context: Context = CONTEXT, addresses: tuple[str, ...] = (), zone: str = "", mode: str = "iptables", *,
        node_addresses: tuple[str, ...] = (), settings: Settings | None = None,
    ) -> None:  # fmt: skip
        self.mode = mode
        self.metrics = Metrics(mode)
        self.iptables, self.nft = FakeIptables(), FakeNft()
        self.iptables.ipv6 = context.ipv6
        if mode == "nftables":
            ports = NodePortAddresses(addresses or ("primary",), context.ipv6, node_ips=(context.node_ip,))
            ports.current = lambda: None if ports.match_all else ports.select([context.node_ip])  # type: ignore[method-assign]
            self.proxier: Proxier = NftablesProxier(self.nft, context, "node1", ports, self.metrics)  # type: ignore[arg-type]
        elif mode == "ipvs":
            ports = NodePortAddresses(addresses, context.ipv6, node_ips=(context.node_ip,))
            self.ipvs = FakeIpvs(node_addresses or (context.node_ip,))
            self.proxier = IpvsProxier(self.iptables, self.ipvs, context, "node1", ports, self.metrics, settings)  # type: ignore[arg-type]
        elif mode == "userspace":
            ports = NodePortAddresses((), context.ipv6)
            self.sockets = FakeSockets()
            self.proxier = UserspaceProxier(self.iptables, context, "node1", ports, self.metrics, self.sockets)  # type: ignore[arg-type]
        else:
            ports = NodePortAddresses(addresses, context.ipv6, node_ips=(context.node_ip,))
            self.proxier = IptablesProxier(self.iptables, context, "node1", ports, self.metrics)  # type: ignore[arg-type]
        if zone:
            self.proxier.node_changed(zone=zone, context=context, node_ips=(context.node_ip,))
        self.objects: dict[tuple[str, str], Object] = {}

    def put(self, *objects: Object) -> Kit:
        for obj in objects:
            key = obj["kind"], obj["metadata"]["name"]
            change = self.proxier.service_changed if obj["kind"] == "Service" else self.proxier.slice_changed
            change(self.objects.get(key), obj)
            self.objects[key] = obj
        return self

    def delete(self, kind: str, name: str) -> Kit:
        old = self.objects.pop((kind, name))
        (self.proxier.service_changed if kind == "Service" else self.proxier.slice_changed)(old, None)
        return self

    def sync(self, *, ok: bool | None = True) -> str:
        texts = self.nft.texts if self.mode == "nftables" else self.iptables.texts
        before = len(texts)
        self.proxier._clean_conntrack = lambda: None  # type: ignore[method-assign]
        went_well = asyncio.run(self.proxier.sync())
        assert ok is None or went_well == ok
        return "".join(texts[before:])

    @property
    def held(self) -> ChainSet:
        return self.iptables.held

    @property
    def table(self) -> NftTable:
        assert self.nft.held is not None
        return self.nft.held

    def outcomes(self, packet: Packet, host: Host) -> dict[Verdict, float]:
        """Where a packet goes under the rules that are in the fake kernel, whichever the mode."""
        if self.mode == "ipvs":
            return ipvstrace.outcomes(self.held, self.ipvs.held, packet, replace(host, sets=dict.fromkeys(self.ipvs.sets, ())))
        return nfttrace.outcomes(self.table, packet, host) if self.mode == "nftables" else trace.outcomes(self.held, packet, host)

    def dump(self) -> str:
        """What is in the fake kernel, as text that can be loaded."""
        if self.mode == "ipvs":
            return chainset.render(self.held) + ipvs.render(self.ipvs.held, self.ipvs.sets)
        return nftset.render(self.table) if self.mode == "nftables" else chainset.render(self.held)


def service(name: str, ip: str, *, ns: str = "ns", port: str = "p80", number: int = 80, node_port: int = 0, protocol: str = "TCP",
            vips: tuple[str, ...] = (), **spec: Any) -> Object:  # fmt: skip
    ports = [{"name": port, "port": number, "protocol": protocol, **({"nodePort": node_port} if node_port else {})}]
    return {
        "kind": "Service", "metadata": {"namespace": ns, "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": v} for v in vips]}},
    }  # fmt: skip


def ep(ip: str, node: str = "node2", *, ready: bool = True, serving: bool = True, terminating: bool = False,
       zones: tuple[str, ...] = (), nodes: tuple[str, ...] = ()) -> Object:  # fmt: skip
    hints = {"forZones": [{"name": z} for z in zones], "forNodes": [{"name": n} for n in nodes]}
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    return {"addresses": [ip], "nodeName": node, "conditions": conditions, "hints": hints}


def slice_of(name: str, *endpoints: Object, ns: str = "ns", port: str = "p80", number: int = 80, protocol: str = "TCP") -> Object:
    return {
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": ns, "name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": port, "port": number, "protocol": protocol}], "endpoints": list(endpoints),
    }  # fmt: skip
