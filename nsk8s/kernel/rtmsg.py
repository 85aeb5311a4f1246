"""rtnetlink messages as bytes: builders and parsers for `rtnl`. Lean and pure (no socket is opened here).

A `Request` is (message type, flags, body); `rtnl.Rtnl.execute` frames and sends any number of them at once.  Addresses are text
("10.244.1.2", "10.244.1.2/24", "default"), interfaces are kernel indexes, MACs are "aa:bb:cc:dd:ee:ff".
Constants: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,if_bridge,neighbour,fib_rules}.h.
"""

from __future__ import annotations

# Not `socket`: with enum and selectors it takes 2 ms of a plugin's start.
import _socket as socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Request = tuple[int, int, bytes]

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 1, 2, 4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_DUMP = 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

IFF_UP, IFF_LOOPBACK, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x8, 0x100, 0x200

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_TXQLEN, IFLA_OPERSTATE = 1, 3, 4, 5, 10, 13, 16
IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_NET_NS_FD = 18, 19, 20, 26, 28
IFLA_STATS64, IFLA_EXT_MASK, IFLA_PROMISCUITY, IFLA_LINK_NETNSID = 23, 29, 30, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
RTEXT_FILTER_BRVLAN, RTEXT_FILTER_SKIP_STATS = 2, 8

IFLA_BR_FORWARD_DELAY, IFLA_BR_HELLO_TIME, IFLA_BR_MAX_AGE, IFLA_BR_AGEING_TIME, IFLA_BR_STP_STATE = 1, 2, 3, 4, 5
IFLA_BR_VLAN_FILTERING, IFLA_BR_MCAST_SNOOPING, IFLA_BR_NF_CALL_IPTABLES = 7, 23, 36
IFLA_BR_NF_CALL_IP6TABLES, IFLA_BR_VLAN_DEFAULT_PVID = 37, 39
BRIDGE_ATTRS = {
    "forward_delay": (IFLA_BR_FORWARD_DELAY, "I"),
    "ageing_time": (IFLA_BR_AGEING_TIME, "I"),
    "stp": (IFLA_BR_STP_STATE, "I"),
    "vlan_filtering": (IFLA_BR_VLAN_FILTERING, "B"),
    "mcast_snooping": (IFLA_BR_MCAST_SNOOPING, "B"),
    "nf_call_iptables": (IFLA_BR_NF_CALL_IPTABLES, "B"),
    "nf_call_ip6tables": (IFLA_BR_NF_CALL_IP6TABLES, "B"),
    "vlan_default_pvid": (IFLA_BR_VLAN_DEFAULT_PVID, "H"),
}
"""Bridge attributes by name; times are centiseconds."""

IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_ISOLATED = 4, 8, 9, 33
PORT_ATTRS = {
    "hairpin": IFLA_BRPORT_MODE,
    "learning": IFLA_BRPORT_LEARNING,
    "flood": IFLA_BRPORT_UNICAST_FLOOD,
    "isolated": IFLA_BRPORT_ISOLATED,
}
"""Flags of a bridge port by name (one byte each)."""

IFLA_VLAN_ID = 1
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT = 1, 3, 4, 7, 15
IFLA_VXLAN_LOCAL6 = 17

IFLA_BRIDGE_FLAGS, IFLA_BRIDGE_VLAN_INFO = 0, 2
BRIDGE_FLAGS_SELF = 2
BRIDGE_VLAN_INFO_PVID, BRIDGE_VLAN_INFO_UNTAGGED = 2, 4
BRIDGE_VLAN_INFO_RANGE_BEGIN, BRIDGE_VLAN_INFO_RANGE_END = 8, 16

IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 3, 4, 8
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_PERMANENT = 0x2, 0x8, 0x40, 0x80

RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY = 1, 2, 3, 4, 5, 6
RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH, RTA_TABLE = 7, 8, 9, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RT_SCOPE_UNIVERSE, RT_SCOPE_SITE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 200, 253, 254
RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 1, 2, 6, 7, 8
ROUTE_TYPES = {
    "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6, "unreachable": 7,
    "prohibit": 8, "throw": 9,
}  # fmt: skip
RTNH_F_ONLINK = 4
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC = 2, 3, 4
RTM_F_CLONED = 0x200

NDA_DST, NDA_LLADDR = 1, 2
NTF_USE, NTF_SELF, NTF_ROUTER = 0x01, 0x02, 0x80
NUD_REACHABLE, NUD_FAILED, NUD_NOARP, NUD_PERMANENT = 0x02, 0x20, 0x40, 0x80

FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_OIFNAME = 1, 2, 3, 6, 10, 15, 16, 17
FR_ACT_TO_TBL, FR_ACT_UNREACHABLE = 1, 7

RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x1, 0x4, 0x10, 0x40
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x100, 0x400

OPER_STATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")

AF_BRIDGE = 7
_NEW = NLM_F_CREATE | NLM_F_EXCL
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_ATTR = struct.Struct("=HH")
_U32 = struct.Struct("=I")


# ── attributes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def attr(kind: int, payload: bytes) -> bytes:
    size = 4 + len(payload)
    return _ATTR.pack(size, kind) + payload + b"\0" * (-size & 3)


def attr_text(kind: int, text: str) -> bytes:
    return attr(kind, text.encode() + b"\0")


def attr_u32(kind: int, value: int) -> bytes:
    return attr(kind, _U32.pack(value))


def nested(kind: int, *parts: bytes) -> bytes:
    return attr(kind | 0x8000, b"".join(parts))


def attrs(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(kind, payload) of each attribute from `start` on; the nested and byte-order bits are cleared."""
    end = len(data)
    while start + 4 <= end:
        size, kind = _ATTR.unpack_from(data, start)
        if size < 4:
            return
        yield kind & 0x3FFF, data[start + 4 : start + size]
        start += (size + 3) & ~3


# ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_ip(text: str) -> tuple[int, bytes]:
    """(address family, packed address). Raises OSError (EINVAL) when `text` is no IP address."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise OSError(22, f"not an IP address: {text!r}") from None


def pack_prefix(text: str) -> tuple[int, bytes, int]:
    """(address family, packed address, prefix length); a bare address is a host prefix. Raises OSError (EINVAL)."""
    address, slash, length = text.partition("/")
    family, raw = pack_ip(address)
    bits = len(raw) * 8
    if not slash:
        return family, raw, bits
    if not length.isascii() or not length.isdigit() or int(length) > bits:
        raise OSError(22, f"not an IP prefix: {text!r}")
    return family, raw, int(length)


def ip_text(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def mac_text(raw: bytes) -> str:
    return raw.hex(":")


def pack_mac(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6:
        raise OSError(22, f"not a MAC address: {text!r}")
    return raw


# ── plain values ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Value:
    """A record with named slots that compares and prints by them."""

    __slots__: tuple[str, ...] = ()

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Value) and other._key() == self._key()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in self.__slots__)})"


class Link(_Value):
    """An interface. `peer` is the other end's index (veth) or the lower link's (vlan), 0 if none; `peer_netnsid` is the
    kernel's id of the namespace that one is in, None when it is this one. `port` and `bridge` hold the names of
    PORT_ATTRS and BRIDGE_ATTRS for a bridge's port and for a bridge. `vlan` is a vlan link's id."""

    __slots__ = (
        "alias", "bridge", "flags", "index", "kind", "mac", "master", "mtu", "name", "operstate", "peer", "peer_netnsid",
        "port", "port_of", "promiscuity", "txqlen", "vlan",
    )  # fmt: skip

    def __init__(self, index: int, flags: int) -> None:
        self.index = index
        self.flags = flags
        self.name = ""
        self.kind = ""
        self.mtu = 0
        self.mac = ""
        self.master = 0
        self.peer = 0
        self.peer_netnsid: int | None = None
        self.operstate = "unknown"
        self.promiscuity = 0
        self.txqlen = 0
        self.alias = ""
        self.port_of = ""
        self.port: dict[str, bool] = {}
        self.bridge: dict[str, int] = {}
        self.vlan = 0

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


class Address(_Value):
    """An address of an interface: `ip` "10.1.2.3", prefix length, scope (RT_SCOPE_*), IFA_F_* flags, label."""

    __slots__ = ("family", "flags", "index", "ip", "label", "prefixlen", "scope")

    def __init__(self, family: int, index: int, ip: str, prefixlen: int, scope: int = 0, flags: int = 0, label: str = ""):
        self.family = family
        self.index = index
        self.ip = ip
        self.prefixlen = prefixlen
        self.scope = scope
        self.flags = flags
        self.label = label

    @property
    def cidr(self) -> str:
        return f"{self.ip}/{self.prefixlen}"


class Route(_Value):
    """A route. `dst` is "default" or a prefix, `kind` a key of ROUTE_TYPES, `nexthops` (gateway, index) when multipath."""

    __slots__ = (
        "advmss", "dst", "family", "flags", "gateway", "index", "kind", "mtu", "nexthops", "priority", "protocol",
        "scope", "src", "table",
    )  # fmt: skip

    def __init__(self, family: int, dst: str) -> None:
        self.family = family
        self.dst = dst
        self.gateway = ""
        self.index = 0
        self.src = ""
        self.priority = 0
        self.table = RT_TABLE_MAIN
        self.scope = 0
        self.kind = "unicast"
        self.protocol = 0
        self.flags = 0
        self.mtu = 0
        self.advmss = 0
        self.nexthops: tuple[tuple[str, int], ...] = ()


class Neighbour(_Value):
    """An ARP, ND or (family AF_BRIDGE) forwarding entry."""

    __slots__ = ("family", "flags", "index", "ip", "mac", "master", "state")

    def __init__(self, family: int, index: int, state: int, flags: int, ip: str, mac: str, master: int) -> None:
        self.family = family
        self.index = index
        self.state = state
        self.flags = flags
        self.ip = ip
        self.mac = mac
        self.master = master


class Rule(_Value):
    """A policy-routing rule that looks up a table. An empty `src`, `dst` or `iif` matches everything."""

    __slots__ = ("dst", "family", "fwmark", "fwmask", "iif", "priority", "src", "table")

    def __init__(self, family: int, priority: int, table: int) -> None:
        self.family = family
        self.priority = priority
        self.table = table
        self.src = ""
        self.dst = ""
        self.iif = ""
        self.fwmark = 0
        self.fwmask = 0


# ── requests: links ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return _IFINFO.pack(family, 0, index, flags, change)


def link_new(
    name: str,
    kind: str,
    *,
    data: Sequence[bytes] = (),
    up: bool = False,
    master: int = 0,
    mtu: int = 0,
    mac: str = "",
    lower: int = 0,
    netns_fd: int | None = None,
) -> Request:
    """RTM_NEWLINK for a link of any kind; `data` are the kind's own attributes, `lower` the link it sits on."""
    body = _ifinfo(0, IFF_UP if up else 0, IFF_UP if up else 0) + attr_text(IFLA_IFNAME, name)
    if lower:
        body += attr_u32(IFLA_LINK, lower)
    body += _common(mtu, mac, master, netns_fd, None)
    body += nested(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, kind), *((nested(IFLA_INFO_DATA, *data),) if data else ()))
    return RTM_NEWLINK, _NEW, body


def veth_new(
    name: str,
    peer: str,
    *,
    peer_netns_fd: int | None = None,
    peer_pid: int | None = None,
    peer_mac: str = "",
    peer_mtu: int = 0,
    up: bool = False,
    master: int = 0,
    mtu: int = 0,
    mac: str = "",
    netns_fd: int | None = None,
) -> Request:
    """A veth pair whose ends are born in the namespaces they live in.

    The peer is never created up: the kernel opens it before the pair is joined and answers ENOTCONN.
    """
    other = _ifinfo() + attr_text(IFLA_IFNAME, peer) + _common(peer_mtu or mtu, peer_mac, 0, peer_netns_fd, peer_pid)
    return link_new(
        name, "veth", data=[nested(VETH_INFO_PEER, other)], up=up, master=master, mtu=mtu, mac=mac, netns_fd=netns_fd
    )


def _common(mtu: int, mac: str, master: int, netns_fd: int | None, pid: int | None) -> bytes:
    body = b""
    if mtu:
        body += attr_u32(IFLA_MTU, mtu)
    if mac:
        body += attr(IFLA_ADDRESS, pack_mac(mac))
    if master:
        body += attr_u32(IFLA_MASTER, master)
    if netns_fd is not None:
        body += attr_u32(IFLA_NET_NS_FD, netns_fd)
    if pid is not None:
        body += attr_u32(IFLA_NET_NS_PID, pid)
    return body


def link_change(
    index: int = 0,
    *,
    by_name: str = "",
    up: bool | None = None,
    promisc: bool | None = None,
    allmulti: bool | None = None,
    txqlen: int | None = None,
    name: str = "",
    master: int | None = None,
    mtu: int = 0,
    mac: str = "",
    alias: str | None = None,
    netns_fd: int | None = None,
    netns_pid: int | None = None,
) -> Request:
    """Change an existing link, named by index or by name; what is left out stays. `master` 0 takes it off its bridge."""
    flags = change = 0
    for value, bit in ((up, IFF_UP), (promisc, IFF_PROMISC), (allmulti, IFF_ALLMULTI)):
        flags |= bit if value else 0
        change |= bit if value is not None else 0
    body = _ifinfo(index, flags, change)
    if by_name or name:
        body += attr_text(IFLA_IFNAME, by_name or name)
    body += _common(mtu, mac, 0, netns_fd, netns_pid)
    if master is not None:
        body += attr_u32(IFLA_MASTER, master)
    if txqlen is not None:
        body += attr_u32(IFLA_TXQLEN, txqlen)
    if alias is not None:
        body += attr(IFLA_IFALIAS, alias.encode())
    return RTM_NEWLINK, 0, body


def port_change(index: int = 0, by_name: str = "", /, **flags: bool) -> Request:
    """Set flags (names of PORT_ATTRS) of a link that already is a bridge's port."""
    data = [attr(PORT_ATTRS[key], b"\1" if value else b"\0") for key, value in flags.items()]
    body = _ifinfo(index) + (attr_text(IFLA_IFNAME, by_name) if by_name else b"")
    body += nested(IFLA_LINKINFO, attr_text(IFLA_INFO_SLAVE_KIND, "bridge"), nested(IFLA_INFO_SLAVE_DATA, *data))
    return RTM_NEWLINK, 0, body


def bridge_data(**values: int) -> list[bytes]:
    """Attributes of a bridge (names of BRIDGE_ATTRS) for link_new or bridge_change."""
    return [attr(BRIDGE_ATTRS[key][0], struct.pack("=" + BRIDGE_ATTRS[key][1], value)) for key, value in values.items()]


def bridge_change(index: int, **values: int) -> Request:
    info = nested(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, "bridge"), nested(IFLA_INFO_DATA, *bridge_data(**values)))
    return RTM_NEWLINK, 0, _ifinfo(index) + info


def link_delete(index: int = 0, *, by_name: str = "") -> Request:
    return RTM_DELLINK, 0, _ifinfo(index) + (attr_text(IFLA_IFNAME, by_name) if by_name else b"")


def link_get(index: int = 0, *, by_name: str = "") -> Request:
    body = _ifinfo(index) + (attr_text(IFLA_IFNAME, by_name) if by_name else b"")
    return RTM_GETLINK, 0, body + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def link_stats_get(index: int) -> Request:
    return RTM_GETLINK, 0, _ifinfo(index)


def link_dump(master: int = 0, kind: str = "") -> Request:
    body = _ifinfo() + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    if master:
        body += attr_u32(IFLA_MASTER, master)
    if kind:
        body += nested(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, kind))
    return RTM_GETLINK, NLM_F_DUMP, body


def vlan_change(
    index: int, first: int, last: int = 0, *, add: bool = True, pvid: bool = False, untagged: bool = False,
    on_bridge: bool = False,
) -> Request:  # fmt: skip
    """Add VLANs first..last to a bridge's port (or, `on_bridge`, to the bridge itself), or remove them."""
    flags = (BRIDGE_VLAN_INFO_PVID if pvid else 0) | (BRIDGE_VLAN_INFO_UNTAGGED if untagged else 0)
    spec = [attr(IFLA_BRIDGE_FLAGS, struct.pack("=H", BRIDGE_FLAGS_SELF))] if on_bridge else []
    if last > first:
        spec.append(attr(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags | BRIDGE_VLAN_INFO_RANGE_BEGIN, first)))
        spec.append(attr(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags | BRIDGE_VLAN_INFO_RANGE_END, last)))
    else:
        spec.append(attr(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags, first)))
    body = _ifinfo(index, family=AF_BRIDGE) + nested(IFLA_AF_SPEC, *spec)
    return (RTM_SETLINK if add else RTM_DELLINK), 0, body


def vlan_dump() -> Request:
    return RTM_GETLINK, NLM_F_DUMP, _ifinfo(family=AF_BRIDGE) + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN)


# ── requests: addresses, routes, neighbours, rules ──────────────────────────────────────────────────────────────────────


def addr_change(
    index: int, address: str, *, add: bool = True, replace: bool = False, broadcast: str = "", nodad: bool = False,
    scope: int = 0,
) -> Request:  # fmt: skip
    """Add (or remove) `address` ("10.1.2.3/24"). No broadcast address is set unless given, as with the real plugins."""
    family, raw, length = pack_prefix(address)
    body = _IFADDR.pack(family, length, 0, scope, index) + attr(IFA_LOCAL, raw) + attr(IFA_ADDRESS, raw)
    if broadcast:
        body += attr(IFA_BROADCAST, pack_ip(broadcast)[1])
    if nodad and family == socket.AF_INET6:
        body += attr_u32(IFA_FLAGS, IFA_F_NODAD)
    if not add:
        return RTM_DELADDR, 0, body
    return RTM_NEWADDR, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), body


def addr_dump(index: int = 0, family: int = 0) -> Request:
    return RTM_GETADDR, NLM_F_DUMP, _IFADDR.pack(family, 0, 0, 0, index)


def route_change(
    dst: str,
    *,
    add: bool = True,
    replace: bool = False,
    gateway: str = "",
    index: int = 0,
    src: str = "",
    priority: int = 0,
    table: int = RT_TABLE_MAIN,
    scope: int | None = None,
    kind: str = "unicast",
    protocol: int = RTPROT_BOOT,
    onlink: bool = False,
    mtu: int = 0,
    advmss: int = 0,
    family: int = 0,
    nexthops: Sequence[str] = (),
) -> Request:
    """A route to `dst` ("default" or a prefix). "default" takes its family from the gateway, or `family`, or is IPv4.

    `nexthops` are gateways of equal weight (ECMP), in place of `gateway`.
    """
    if dst == "default":
        family = pack_ip(gateway)[0] if gateway else family or socket.AF_INET
        raw, length = b"", 0
    else:
        family, raw, length = pack_prefix(dst)
    if scope is None:
        on_link = kind == "unicast" and not gateway and not nexthops and family == socket.AF_INET
        scope = RT_SCOPE_HOST if kind == "local" else RT_SCOPE_LINK if on_link else RT_SCOPE_UNIVERSE
    if not add and protocol == RTPROT_BOOT:
        protocol = 0
    body = _RTMSG.pack(
        family, length, 0, 0, table if table < 256 else 0, protocol, scope, ROUTE_TYPES[kind],
        RTNH_F_ONLINK if onlink else 0,
    )  # fmt: skip
    body += attr_u32(RTA_TABLE, table)
    if length:
        body += attr(RTA_DST, raw)
    if gateway:
        body += attr(RTA_GATEWAY, pack_ip(gateway)[1])
    if nexthops:
        hops = (attr(RTA_GATEWAY, pack_ip(hop)[1]) for hop in nexthops)
        # struct rtnexthop: length, flags, weight - 1, interface
        body += attr(RTA_MULTIPATH, b"".join(struct.pack("=HBBi", 8 + len(hop), 0, 0, index) + hop for hop in hops))
    elif index:
        body += attr_u32(RTA_OIF, index)
    if src:
        body += attr(RTA_PREFSRC, pack_ip(src)[1])
    if priority:
        body += attr_u32(RTA_PRIORITY, priority)
    if mtu or advmss:
        metrics = (attr_u32(RTAX_MTU, mtu) if mtu else b"") + (attr_u32(RTAX_ADVMSS, advmss) if advmss else b"")
        body += nested(RTA_METRICS, metrics)
    if not add:
        return RTM_DELROUTE, 0, body
    return RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), body


def route_dump(family: int = 0, table: int = 0, index: int = 0) -> Request:
    body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    if table:
        body += attr_u32(RTA_TABLE, table)
    if index:
        body += attr_u32(RTA_OIF, index)
    return RTM_GETROUTE, NLM_F_DUMP, body


def route_get(dst: str, src: str = "") -> Request:
    family, raw = pack_ip(dst)
    body = _RTMSG.pack(family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0) + attr(RTA_DST, raw)
    if src:
        body += attr(RTA_SRC, pack_ip(src)[1])
    return RTM_GETROUTE, 0, body


def neigh_change(
    index: int, ip: str = "", mac: str = "", *, add: bool = True, state: int = NUD_PERMANENT, fdb: bool = False,
    append: bool = False,
) -> Request:  # fmt: skip
    """An ARP/ND entry, or with `fdb` a forwarding entry of the link itself (VXLAN: mac is behind the VTEP `ip`)."""
    family, raw = pack_ip(ip) if ip else (0, b"")
    body = _NDMSG.pack(AF_BRIDGE if fdb else family, index, state, NTF_SELF if fdb else 0, 0)
    if raw:
        body += attr(NDA_DST, raw)
    if mac:
        body += attr(NDA_LLADDR, pack_mac(mac))
    if not add:
        return RTM_DELNEIGH, 0, body
    return RTM_NEWNEIGH, NLM_F_CREATE | (NLM_F_APPEND if append else NLM_F_REPLACE), body


def neigh_use(index: int, ip: str) -> Request:
    """Treat an existing entry as if a packet were sent to it: what is stale or has failed is asked for again."""
    family, raw = pack_ip(ip)
    return RTM_NEWNEIGH, 0, _NDMSG.pack(family, index, 0, NTF_USE, 0) + attr(NDA_DST, raw)


def neigh_dump(index: int = 0, family: int = 0) -> Request:
    # With strict checking the kernel takes filters as attributes only; NDA_IFINDEX is 8.
    return RTM_GETNEIGH, NLM_F_DUMP, _NDMSG.pack(family, 0, 0, 0, 0) + (attr_u32(8, index) if index else b"")


def rule_change(
    priority: int, table: int, *, add: bool = True, family: int = 0, src: str = "", dst: str = "", iif: str = "",
    fwmark: int = 0, fwmask: int = 0,
) -> Request:  # fmt: skip
    """A rule `from src to dst iif … fwmark … lookup table` (table 0: `unreachable`); the family is that of src or dst,
    `family`, or IPv4."""
    body, lengths = b"", [0, 0]
    for position, kind, text in ((1, FRA_SRC, src), (0, FRA_DST, dst)):
        if text:
            family, raw, lengths[position] = pack_prefix(text)
            body += attr(kind, raw)
    head = _RTMSG.pack(
        family or socket.AF_INET, lengths[0], lengths[1], 0, table if table < 256 else 0, 0, 0,
        FR_ACT_TO_TBL if table else FR_ACT_UNREACHABLE, 0,
    )  # fmt: skip
    body += attr_u32(FRA_PRIORITY, priority) + (attr_u32(FRA_TABLE, table) if table else b"")
    if iif:
        body += attr_text(FRA_IIFNAME, iif)
    if fwmark or fwmask:
        body += attr_u32(FRA_FWMARK, fwmark) + attr_u32(FRA_FWMASK, fwmask or 0xFFFFFFFF)
    return (RTM_NEWRULE if add else RTM_DELRULE), (_NEW if add else 0), head + body


def rule_dump(family: int) -> Request:
    return RTM_GETRULE, NLM_F_DUMP, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    link = Link(index, flags)
    for kind, value in attrs(body, 16):
        if kind == IFLA_IFNAME:
            link.name = _text(value)
        elif kind == IFLA_ADDRESS:
            link.mac = mac_text(value)
        elif kind == IFLA_MTU:
            link.mtu = _u32(value)
        elif kind == IFLA_LINK:
            link.peer = _u32(value)
        elif kind == IFLA_MASTER:
            link.master = _u32(value)
        elif kind == IFLA_OPERSTATE:
            link.operstate = OPER_STATES[value[0]] if value[0] < len(OPER_STATES) else "unknown"
        elif kind == IFLA_IFALIAS:
            link.alias = _text(value)
        elif kind == IFLA_PROMISCUITY:
            link.promiscuity = _u32(value)
        elif kind == IFLA_TXQLEN:
            link.txqlen = _u32(value)
        elif kind == IFLA_LINK_NETNSID:
            link.peer_netnsid = struct.unpack("=i", value)[0]
        elif kind == IFLA_LINKINFO:
            _parse_linkinfo(link, value)
    return link


COUNTERS = ("rxPackets", "txPackets", "rxBytes", "txBytes", "rxErrors", "txErrors", "rxDropped", "txDropped")
"""The beginning of struct rtnl_link_stats64."""


def parse_link_stats(body: bytes) -> dict[str, int]:
    """COUNTERS of a link, by name."""
    raw = dict(attrs(body, 16)).get(IFLA_STATS64, bytes(64))
    return dict(zip(COUNTERS, struct.unpack_from("=8Q", raw), strict=True))


def _parse_linkinfo(link: Link, value: bytes) -> None:
    info = dict(attrs(value))
    link.kind = _text(info.get(IFLA_INFO_KIND, b""))
    link.port_of = _text(info.get(IFLA_INFO_SLAVE_KIND, b""))
    if link.kind == "bridge":
        data = dict(attrs(info.get(IFLA_INFO_DATA, b"")))
        link.bridge = {
            name: int.from_bytes(data[number], "little" if _LITTLE else "big")
            for name, (number, _) in BRIDGE_ATTRS.items()
            if number in data
        }
    elif link.kind == "vlan":
        link.vlan = struct.unpack("=H", dict(attrs(info.get(IFLA_INFO_DATA, b""))).get(IFLA_VLAN_ID, b"\0\0"))[0]
    if link.port_of == "bridge":
        data = dict(attrs(info.get(IFLA_INFO_SLAVE_DATA, b"")))
        link.port = {name: data[number] != b"\0" for name, number in PORT_ATTRS.items() if number in data}


def parse_vlans(body: bytes) -> tuple[int, dict[int, tuple[bool, bool]]]:
    """(link index, {vlan: (is pvid, untagged)}) of one entry of a VLAN dump."""
    index = _IFINFO.unpack_from(body)[2]
    vlans: dict[int, tuple[bool, bool]] = {}
    for kind, value in attrs(body, 16):
        if kind == IFLA_AF_SPEC:
            for sub, data in attrs(value):
                if sub == IFLA_BRIDGE_VLAN_INFO:
                    flags, vid = struct.unpack_from("=HH", data)
                    vlans[vid] = (bool(flags & BRIDGE_VLAN_INFO_PVID), bool(flags & BRIDGE_VLAN_INFO_UNTAGGED))
    return index, vlans


def parse_address(body: bytes) -> Address:
    family, prefixlen, flags, scope, index = _IFADDR.unpack_from(body)
    found = dict(attrs(body, 8))
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS) or b"\0\0\0\0"
    if IFA_FLAGS in found:
        flags = _u32(found[IFA_FLAGS])
    return Address(family, index, ip_text(raw), prefixlen, scope, flags, _text(found.get(IFA_LABEL, b"")))


def parse_route(body: bytes) -> Route:
    family, length, _, _, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    found = dict(attrs(body, 12))
    dst = f"{ip_text(found[RTA_DST])}/{length}" if RTA_DST in found and family in (2, 10) else "default"
    route = Route(family, dst)
    route.table = _u32(found[RTA_TABLE]) if RTA_TABLE in found else table
    route.protocol, route.scope, route.flags = protocol, scope, flags
    route.kind = next((name for name, number in ROUTE_TYPES.items() if number == kind), str(kind))
    if RTA_GATEWAY in found:
        route.gateway = ip_text(found[RTA_GATEWAY])
    if RTA_OIF in found:
        route.index = _u32(found[RTA_OIF])
    if RTA_PREFSRC in found:
        route.src = ip_text(found[RTA_PREFSRC])
    if RTA_PRIORITY in found:
        route.priority = _u32(found[RTA_PRIORITY])
    if RTA_METRICS in found:
        metrics = dict(attrs(found[RTA_METRICS]))
        route.mtu = _u32(metrics.get(RTAX_MTU, b"\0\0\0\0"))
        route.advmss = _u32(metrics.get(RTAX_ADVMSS, b"\0\0\0\0"))
    if RTA_MULTIPATH in found:
        route.nexthops = tuple(_nexthops(found[RTA_MULTIPATH]))
    return route


def _nexthops(data: bytes) -> Iterator[tuple[str, int]]:
    at = 0
    while at + 8 <= len(data):
        size, _, _, index = struct.unpack_from("=HBBi", data, at)
        if size < 8:
            return
        gateway = dict(attrs(data[at : at + size], 8)).get(RTA_GATEWAY)
        yield (ip_text(gateway) if gateway else ""), index
        at += (size + 3) & ~3


def parse_neighbour(body: bytes) -> Neighbour:
    family, index, state, flags, _ = _NDMSG.unpack_from(body)
    found = dict(attrs(body, 12))
    dst = found.get(NDA_DST, b"")
    master = _u32(found[9]) if 9 in found else 0
    return Neighbour(
        family, index, state, flags, ip_text(dst) if len(dst) in (4, 16) else "", mac_text(found.get(NDA_LLADDR, b"")), master
    )


def parse_rule(body: bytes) -> Rule:
    family, dst_len, src_len, _, table, _, _, _, _ = _RTMSG.unpack_from(body)
    found = dict(attrs(body, 12))
    rule = Rule(family, _u32(found.get(FRA_PRIORITY, b"\0\0\0\0")), _u32(found[FRA_TABLE]) if FRA_TABLE in found else table)
    if FRA_SRC in found:
        rule.src = f"{ip_text(found[FRA_SRC])}/{src_len}"
    if FRA_DST in found:
        rule.dst = f"{ip_text(found[FRA_DST])}/{dst_len}"
    rule.iif = _text(found.get(FRA_IIFNAME, b""))
    rule.fwmark = _u32(found.get(FRA_FWMARK, b"\0\0\0\0"))
    rule.fwmask = _u32(found.get(FRA_FWMASK, b"\0\0\0\0"))
    return rule


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _u32(value: bytes) -> int:
    number: int = _U32.unpack(value)[0]
    return number


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def split(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body) of each message of a datagram."""
    at = 0
    while at + 16 <= len(data):
        size, kind, flags, seq, _ = struct.unpack_from("=IHHII", data, at)
        if size < 16:
            return
        yield kind, flags, seq, data[at + 16 : at + size]
        at += (size + 3) & ~3
