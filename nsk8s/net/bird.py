"""BIRD's configuration, from the cluster's Nodes: every node announces its pods' subnets. Pure.

Upstream: Calico's confd templates (bird.cfg.template, bird_ipam.cfg.template). What differs: a node announces its subnet and not
blocks, and what nobody in it has is refused instead of dropped.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.net import podnet
from nsk8s.net.podnet import Bgp

METRIC = {4: 32, 6: 2048}
"""Of BIRD's routes in the kernel: behind a bridge's own (0; 256 in IPv6) and behind nsk8s' (0; 1024), which are there while the
mode changes."""
GR_TIME_S = 30
"""How long neighbours keep the routes of one whose BIRD was killed; upstream's default is 120."""
GR_WAIT_S = GR_TIME_S
"""How long a BIRD that was killed waits, at most, for its neighbours to tell everything before it changes the kernel's routes:
as long as they keep its own, or one that is slow to speak again is forgotten. BIRD's default is 240."""
HEAD = """# Written by {author} from the cluster's Nodes; what is changed here does not stay.
log stderr {{ info, remote, warning, error, auth, fatal, bug }};
router id {router_id};
graceful restart wait {wait};

protocol device {{
}}
"""


_DIRECT = """# The network of the uplink: through it the next hops are found.
protocol direct {{
    {channels}
    interface "{uplink}";
}}
"""
_KERNEL = """# The default route is learnt, for next hops in other racks. What BGP says goes into the kernel, where it stays.
protocol kernel {{
    learn;
    persist;
    graceful restart;
    scan time 10;
    metric {metric};
    ipv{version} {{
        import where net = {default};
        export where source ~ [ RTS_BGP, RTS_STATIC ];
    }};
}}
"""
_OWN = """# What is announced. The bridge's own route is better: this one refuses what comes before there is a bridge.
protocol static own{six} {{
    ipv{version};
    route {cidr} unreachable;
}}
"""
_TIMERS = """    hold time {hold};
    graceful restart;
    graceful restart time {restart};
    connect delay time 1;
    connect retry time 2;
    error wait time 1, 5;
"""
_NODES = """template bgp nodes{six} {{
    local {ip} as {asn};
    multihop;
{timers}    ipv{version} {{
        import where net ~ {pods};
        export where proto = "own{six}";
        next hop self;
        gateway recursive;
    }};
}}
"""


@dataclass(frozen=True)
class Speaker:
    """A node as BGP knows it: one address a family, and its pods' subnets."""

    name: str
    ips: Mapping[int, str]
    cidrs: Mapping[int, str]


def speakers(nodes: Iterable[Object]) -> list[Speaker]:
    """The Nodes that have an address and pods' subnets of the same family, by name."""
    found = []
    for node in sorted(nodes, key=meta.name):
        ips: dict[int, str] = {}
        cidrs: dict[int, str] = {}
        for ip in podnet.internal_ips(node):
            ips.setdefault(6 if ":" in ip else 4, ip)
        for cidr in podnet.pod_cidrs(node):
            try:
                network = ip_network(cidr)
            except ValueError:
                continue
            if network.version in ips:
                cidrs.setdefault(network.version, str(network))
        if cidrs:
            found.append(Speaker(meta.name(node), {v: ips[v] for v in cidrs}, cidrs))
    return found


def router_id(name: str, ips: Mapping[int, str]) -> str:
    """The IPv4 address; without one, 32 bits of the name."""
    if 4 in ips:
        return ips[4]
    number = zlib.crc32(name.encode()) or 1
    return ".".join(str(byte) for byte in number.to_bytes(4, "big"))


def for_node(
    own: str, nodes: Iterable[Object], bgp: Bgp, *, uplink: str, pods: Sequence[str], gateways: Sequence[str] = ()
) -> str:
    """The whole bird.conf of a node; empty while the node has no subnet. `pods` are all pods' ranges: nothing else is learnt.

    In a mesh its neighbours are all other nodes; else its gateways, which reflect.
    """
    known = speakers(nodes)
    me = next((s for s in known if s.name == own), None)
    if me is None:
        return ""
    parts = [HEAD.format(author="node-network", router_id=router_id(own, me.ips), wait=GR_WAIT_S)]
    parts += [_direct(sorted(me.cidrs), uplink)]
    symbols = _symbols(known)
    for version, cidr in sorted(me.cidrs.items()):
        six = "6" if version == 6 else ""
        parts += [_kernel(version), _own(version, cidr), _template(version, me.ips[version], bgp, pods)]
        if bgp.topology == "mesh":
            others = {f"mesh{six}_{symbols[s.name]}": s.ips[version] for s in known if s.name != own and version in s.ips}
        else:
            others = {f"reflector{six}": g for g in gateways if (":" in g) == (version == 6)}
        parts += [_neighbour(name, f"nodes{six}", ip, bgp) for name, ip in others.items()]
    return "\n".join(parts)


def for_reflector(ips: Mapping[int, str], nodes: Iterable[Object], bgp: Bgp, *, pods: Sequence[str]) -> str:
    """The whole bird.conf of the router as a route reflector: it tells all nodes of all others, and routes nothing itself."""
    parts = [HEAD.format(author="router-agent", router_id=router_id("router", ips), wait=GR_WAIT_S)]
    known = speakers(nodes)
    symbols = _symbols(known)
    for version in sorted({v for s in known for v in s.ips}):
        six = "6" if version == 6 else ""
        channel = f"ipv{version} {{\n        import where net ~ {_prefixes(version, pods)};\n        export all;\n    }};"
        cluster = router_id("router", ips)
        parts.append(
            f"template bgp clients{six} {{\n    local as {bgp.asn};\n    rr client;\n    rr cluster id {cluster};\n"
            f"{_timers(bgp)}    {channel}\n}}\n"
        )
        there = [s for s in known if version in s.ips]
        parts += [_neighbour(f"client{six}_{symbols[s.name]}", f"clients{six}", s.ips[version], bgp) for s in there]
    return "\n".join(parts)


def _symbols(known: Iterable[Speaker]) -> dict[str, str]:
    """Node → a name that birdc takes without quotes: letters, digits, underscores."""
    found: dict[str, str] = {}
    for speaker in known:
        symbol = re.sub(r"[^a-z0-9]", "_", speaker.name)
        found[speaker.name] = symbol if symbol not in found.values() else f"{symbol}_{zlib.crc32(speaker.name.encode()):x}"
    return found


def _prefixes(version: int, pods: Sequence[str]) -> str:
    return f"[ {', '.join(f'{c}+' for c in pods if (':' in c) == (version == 6))} ]"


def _direct(versions: Iterable[int], uplink: str) -> str:
    return _DIRECT.format(channels=" ".join(f"ipv{v};" for v in versions), uplink=uplink)


def _kernel(version: int) -> str:
    return _KERNEL.format(version=version, metric=METRIC[version], default="0.0.0.0/0" if version == 4 else "::/0")


def _own(version: int, cidr: str) -> str:
    return _OWN.format(six="6" if version == 6 else "", version=version, cidr=cidr)


def _timers(bgp: Bgp) -> str:
    return _TIMERS.format(hold=bgp.hold_s, restart=GR_TIME_S)


def _template(version: int, ip: str, bgp: Bgp, pods: Sequence[str]) -> str:
    six = "6" if version == 6 else ""
    return _NODES.format(six=six, version=version, ip=ip, asn=bgp.asn, timers=_timers(bgp), pods=_prefixes(version, pods))


def _neighbour(name: str, template: str, ip: str, bgp: Bgp) -> str:
    return f"protocol bgp {name} from {template} {{\n    neighbor {ip} as {bgp.asn};\n}}\n"
