"""rtnetlink over a raw socket: links, addresses, routes, neighbours, rules. Lean: for the per-pod hot path and plugins.

Touches: netlink, and (only while a socket for another namespace is opened) the calling thread's network namespace.
A kernel refusal is an OSError with the kernel's errno, and so FileExistsError (EEXIST), PermissionError …; ENODEV stays a plain
OSError. Its text holds the kernel's own explanation (extended ack) and what was asked.  pyroute2 does the same with more comfort
at ten times the time and memory: see docs/architecture.md.
"""

from __future__ import annotations

# Not `socket`: with enum and selectors it takes 2 ms of a plugin's start.
import _socket as socket
import errno
import os
import struct
import sys

from nsk8s.kernel import rtmsg as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Any

    Event = tuple[int, m.Link | m.Address | m.Route | m.Neighbour]

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_CLONE_NEWNET = 0x40000000
_HEADER = struct.Struct("=IHHII")
# One send must fit the kernel's receive path for the acks (each accounts for about 1 kB of the 208 kB buffer).
_MESSAGES_PER_SEND = 100
_BYTES_PER_SEND = 60_000


def open_netns(path: str) -> int:
    """A descriptor of the network namespace at `path` (/run/netns/NAME, /proc/PID/ns/net). Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _setns(fd: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(fd, _CLONE_NEWNET)
    else:
        from nsk8s.kernel import syscalls  # ctypes: only for whoever really enters a namespace

        syscalls.setns(fd, _CLONE_NEWNET)


class entered:
    """`with entered(fd):` the calling thread is in the network namespace `fd`, and back in its own afterwards."""

    def __init__(self, netns_fd: int) -> None:
        self.netns_fd = netns_fd

    def __enter__(self) -> None:
        # thread-self: in a thread that called setns, /proc/self/ns/net is the main thread's.
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self.netns_fd)
        except BaseException:
            os.close(self.home)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            _setns(self.home)
        finally:
            os.close(self.home)


class Rtnl:
    """One rtnetlink socket, in the current network namespace or in the one behind `netns_fd`."""

    def __init__(self, netns_fd: int | None = None) -> None:
        if netns_fd is None:
            self._socket = _open_socket()
        else:
            with entered(netns_fd):
                self._socket = _open_socket()
        self._seq = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    # ── sending ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def execute(self, *requests: m.Request) -> list[list[bytes]]:
        """Send all requests in one go; the answer bodies of each. Raises the first error.

        The kernel works through the whole batch also after an error, in order, so a batch is for requests that may all be
        tried. Not for dumps (use `dump`).
        """
        answers: list[list[bytes]] = []
        for chunk in _chunks(requests):
            answers += self._execute(chunk)
        return answers

    def _execute(self, requests: Sequence[m.Request]) -> list[list[bytes]]:
        first = self._seq + 1
        parts = []
        for kind, flags, body in requests:
            self._seq = (self._seq + 1) & 0x7FFFFFFF
            flags |= m.NLM_F_REQUEST | m.NLM_F_ACK
            parts.append(_HEADER.pack(16 + len(body), kind, flags, self._seq, 0) + body)
        self._socket.send(b"".join(parts))
        answers: list[list[bytes]] = [[] for _ in requests]
        failure: OSError | None = None
        waiting = len(requests)
        while waiting:
            for kind, flags, seq, body in m.split(self._socket.recv(65536)):
                which = seq - first
                if not 0 <= which < len(requests):
                    continue  # an answer to something sent before, whose reader gave up
                if kind == m.NLMSG_ERROR:
                    waiting -= 1
                    failure = failure or _error(body, flags, requests[which])
                else:
                    answers[which].append(body)
        if failure is not None:
            raise failure
        return answers

    def dump(self, request: m.Request) -> list[bytes]:
        """The bodies of a dump; repeated when the kernel says that the table changed under it."""
        kind, flags, body = request
        for _ in range(20):
            self._seq = (self._seq + 1) & 0x7FFFFFFF
            head = _HEADER.pack(16 + len(body), kind, flags | m.NLM_F_REQUEST | m.NLM_F_DUMP, self._seq, 0)
            self._socket.send(head + body)
            answers, whole = self._read_dump(request)
            if whole:
                return answers
        raise OSError(errno.EAGAIN, "the kernel's table changed during each of 20 dumps")

    def _read_dump(self, request: m.Request) -> tuple[list[bytes], bool]:
        answers: list[bytes] = []
        whole = True
        while True:
            for kind, flags, seq, body in m.split(self._socket.recv(65536)):
                if seq != self._seq:
                    continue
                whole = whole and not flags & m.NLM_F_DUMP_INTR
                if kind == m.NLMSG_DONE:
                    code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code < 0:
                        raise OSError(-code, f"{os.strerror(-code)} ({_describe(request)})")
                    return answers, whole
                if kind == m.NLMSG_ERROR:
                    failure = _error(body, flags, request)
                    if failure is not None:
                        raise failure
                    return answers, whole
                answers.append(body)

    # ── links ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def link_add_veth(self, name: str, peer: str, **options: Any) -> m.Link:
        """Make a veth pair and return this end (`peer` is in peer_netns_fd or peer_pid's namespace, or here).

        Options: those of `rtmsg.veth_new` (peer_netns_fd, peer_pid, peer_mac, peer_mtu, up, master, mtu, mac).
        The peer is down: bring it up from its namespace.
        """
        return m.parse_link(self.execute(m.veth_new(name, peer, **options), m.link_get(by_name=name))[1][0])

    def link_add_bridge(
        self, name: str, *, up: bool = True, mtu: int = 0, mac: str = "", **attributes: int
    ) -> m.Link:
        """Make a bridge; `attributes` are names of BRIDGE_ATTRS. Give a MAC, or the lowest of its ports' becomes its own."""
        request = m.link_new(name, "bridge", data=m.bridge_data(**attributes), up=up, mtu=mtu, mac=mac)
        return m.parse_link(self.execute(request, m.link_get(by_name=name))[1][0])

    def link_add_dummy(self, name: str) -> m.Link:
        """A link that leads nowhere and is down: a place for addresses."""
        return m.parse_link(self.execute(m.link_new(name, "dummy"), m.link_get(by_name=name))[1][0])

    def link_add_vlan(self, name: str, lower: int, vlan: int, *, up: bool = False, mtu: int = 0, mac: str = "") -> m.Link:
        data = [m.attr(m.IFLA_VLAN_ID, struct.pack("=H", vlan))]
        request = m.link_new(name, "vlan", data=data, lower=lower, up=up, mtu=mtu, mac=mac)
        return m.parse_link(self.execute(request, m.link_get(by_name=name))[1][0])

    def link_add_vxlan(
        self, name: str, vni: int, *, local: str, lower: int = 0, port: int = 8472, learning: bool = False,
        up: bool = False, mtu: int = 0, mac: str = "",
    ) -> m.Link:  # fmt: skip
        """A VXLAN end; 8472 is Linux' own port and flannel's (IANA's is 4789). The underlay is of `local`'s family."""
        family, raw = m.pack_ip(local)
        own = m.IFLA_VXLAN_LOCAL6 if family == socket.AF_INET6 else m.IFLA_VXLAN_LOCAL
        data = [m.attr_u32(m.IFLA_VXLAN_ID, vni), m.attr(own, raw)]
        if lower:
            data.append(m.attr_u32(m.IFLA_VXLAN_LINK, lower))
        data.append(m.attr(m.IFLA_VXLAN_LEARNING, b"\1" if learning else b"\0"))
        data.append(m.attr(m.IFLA_VXLAN_PORT, struct.pack(">H", port)))
        request = m.link_new(name, "vxlan", data=data, up=up, mtu=mtu, mac=mac)
        return m.parse_link(self.execute(request, m.link_get(by_name=name))[1][0])

    def link_set(self, index: int, **changes: Any) -> None:
        """Change up, promisc, allmulti, txqlen, name, master (0 = none), mtu, mac, alias, netns_fd or netns_pid of a link."""
        self.execute(m.link_change(index, **changes))

    def port_set(self, index: int, **flags: bool) -> None:
        """Set hairpin, isolated, learning or flood of a bridge's port."""
        self.execute(m.port_change(index, "", **flags))

    def bridge_set(self, index: int, **values: int) -> None:
        """Set attributes of a bridge: names of BRIDGE_ATTRS (vlan_filtering, stp, nf_call_iptables …)."""
        self.execute(m.bridge_change(index, **values))

    def link_delete(self, index: int) -> None:
        self.execute(m.link_delete(index))

    def link_get(self, name: str) -> m.Link | None:
        """The link of that name, or None."""
        return self._get(m.link_get(by_name=name))

    def link_by_index(self, index: int) -> m.Link | None:
        return self._get(m.link_get(index))

    def _get(self, request: m.Request) -> m.Link | None:
        try:
            return m.parse_link(self.execute(request)[0][0])
        except OSError as e:
            # ERANGE: a name of more than 15 bytes, which no link can have.
            if e.errno in (errno.ENODEV, errno.ERANGE):
                return None
            raise

    def link_stats(self, index: int) -> dict[str, int]:
        """Packets, bytes, errors and drops of a link: names of rtmsg.COUNTERS."""
        return m.parse_link_stats(self.execute(m.link_stats_get(index))[0][0])

    def links(self, *, master: int = 0, kind: str = "") -> list[m.Link]:
        """All links, or those of one bridge or of one kind (filtered in the kernel)."""
        return [m.parse_link(body) for body in self.dump(m.link_dump(master, kind))]

    def vlan_add(self, index: int, first: int, last: int = 0, **options: bool) -> None:
        """Let VLANs first..last through a bridge's port; options: pvid, untagged, on_bridge (`index` is the bridge)."""
        self.execute(m.vlan_change(index, first, last, **options))

    def vlan_del(self, index: int, first: int, last: int = 0, *, on_bridge: bool = False) -> None:
        self.execute(m.vlan_change(index, first, last, add=False, on_bridge=on_bridge))

    def vlans(self) -> dict[int, dict[int, tuple[bool, bool]]]:
        """{link index: {vlan: (is pvid, untagged)}} of bridges and their ports."""
        found: dict[int, dict[int, tuple[bool, bool]]] = {}
        for body in self.dump(m.vlan_dump()):
            index, vlans = m.parse_vlans(body)
            found.setdefault(index, {}).update(vlans)
        return found

    # ── addresses, routes, neighbours, rules ───────────────────────────────────────────────────────────────────────────

    def addr_add(self, index: int, address: str, **options: Any) -> None:
        """Add "10.1.2.3/24"; options: replace, broadcast, nodad, scope. Raises FileExistsError if it is there."""
        self.execute(m.addr_change(index, address, **options))

    def addr_del(self, index: int, address: str) -> None:
        self.execute(m.addr_change(index, address, add=False))

    def addrs(self, index: int = 0, family: int = 0) -> list[m.Address]:
        found = [m.parse_address(body) for body in self.dump(m.addr_dump(index, family))]
        return [a for a in found if not index or a.index == index]

    def route_add(self, dst: str, **options: Any) -> None:
        """Add a route; options: gateway, index, src, priority, table, scope, kind, protocol, onlink, mtu, advmss."""
        self.execute(m.route_change(dst, **options))

    def route_replace(self, dst: str, **options: Any) -> None:
        self.execute(m.route_change(dst, replace=True, **options))

    def route_del(self, dst: str, **options: Any) -> None:
        options.setdefault("scope", 255)  # RT_SCOPE_NOWHERE: any scope
        self.execute(m.route_change(dst, add=False, **options))

    def routes(self, family: int = 0, *, table: int = m.RT_TABLE_MAIN, index: int = 0) -> list[m.Route]:
        """The routes of a table (0 = all tables) and family (0 = both), or those that leave by one link."""
        found: list[m.Route] = []
        for each in (family,) if family else (socket.AF_INET, socket.AF_INET6):
            try:
                found += [m.parse_route(body) for body in self.dump(m.route_dump(each, table, index))]
            except OSError as e:
                if e.errno != errno.ENOENT:  # the table does not exist: it has no routes
                    raise
        return [r for r in found if not table or r.table == table]

    def route_get(self, dst: str, src: str = "") -> m.Route:
        """The route a packet to `dst` would take. Raises OSError (ENETUNREACH …)."""
        return m.parse_route(self.execute(m.route_get(dst, src))[0][0])

    def neigh_replace(self, index: int, ip: str = "", mac: str = "", **options: Any) -> None:
        """Set an ARP/ND entry (options: state, fdb, append); with fdb=True a VXLAN forwarding entry."""
        self.execute(m.neigh_change(index, ip, mac, **options))

    def neigh_del(self, index: int, ip: str = "", mac: str = "", *, fdb: bool = False) -> None:
        self.execute(m.neigh_change(index, ip, mac, add=False, state=0, fdb=fdb))

    def neigh_use(self, index: int, ip: str) -> None:
        """Ask for an entry as a packet to it would. Raises FileNotFoundError without such an entry."""
        self.execute(m.neigh_use(index, ip))

    def neighs(self, index: int = 0, family: int = 0) -> list[m.Neighbour]:
        """ARP and ND entries, or the bridge forwarding table with family=AF_BRIDGE."""
        found = [m.parse_neighbour(body) for body in self.dump(m.neigh_dump(0 if family == m.AF_BRIDGE else index, family))]
        return [n for n in found if not index or n.index == index]

    def rule_add(self, priority: int, table: int, **options: Any) -> None:
        """Add a policy rule (table 0: refuse); options: family, src, dst, iif, fwmark, fwmask."""
        self.execute(m.rule_change(priority, table, **options))

    def rule_del(self, priority: int, table: int, **options: Any) -> None:
        self.execute(m.rule_change(priority, table, add=False, **options))

    def rules(self, family: int = 0) -> list[m.Rule]:
        families = (family,) if family else (socket.AF_INET, socket.AF_INET6)
        return [m.parse_rule(body) for each in families for body in self.dump(m.rule_dump(each))]

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def subscribe(self, groups: int) -> None:
        """From now on this socket receives changes of `groups` (RTMGRP_*): use a Rtnl of its own for that, and poll it."""
        self._socket.bind((0, 0))  # a socket without an address of its own is passed over
        self._socket.setblocking(False)
        for number in range(32):
            if groups >> number & 1:
                self._socket.setsockopt(_SOL_NETLINK, 1, number + 1)  # NETLINK_ADD_MEMBERSHIP

    def read_events(self) -> list[Event]:
        """What has changed: (RTM_NEWLINK … RTM_DELNEIGH, value); empty when nothing is waiting.

        Raises OSError ENOBUFS when the kernel dropped events: list again.
        """
        events: list[Event] = []
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return events
            for kind, _, _, body in m.split(data):
                event = _event(kind, body)
                if event is not None:
                    events.append(event)


def _event(kind: int, body: bytes) -> Event | None:
    if kind in (m.RTM_NEWLINK, m.RTM_DELLINK):
        # Bridge ports also send AF_BRIDGE messages, without most attributes.
        return None if body[0] == m.AF_BRIDGE else (kind, m.parse_link(body))
    if kind in (m.RTM_NEWADDR, m.RTM_DELADDR):
        return kind, m.parse_address(body)
    if kind in (m.RTM_NEWROUTE, m.RTM_DELROUTE):
        return kind, m.parse_route(body)
    if kind in (m.RTM_NEWNEIGH, m.RTM_DELNEIGH):
        return kind, m.parse_neighbour(body)
    return None


def _open_socket() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
        sock.setsockopt(_SOL_NETLINK, option, 1)
    return sock


def _chunks(requests: Iterable[m.Request]) -> Iterable[list[m.Request]]:
    chunk: list[m.Request] = []
    size = 0
    for request in requests:
        if chunk and (len(chunk) == _MESSAGES_PER_SEND or size + len(request[2]) > _BYTES_PER_SEND):
            yield chunk
            chunk, size = [], 0
        chunk.append(request)
        size += 16 + len(request[2])
    if chunk:
        yield chunk


_VERBS = {
    m.RTM_NEWLINK: "set link", m.RTM_DELLINK: "delete link", m.RTM_GETLINK: "get link", m.RTM_SETLINK: "set vlan",
    m.RTM_NEWADDR: "add address", m.RTM_DELADDR: "delete address", m.RTM_GETADDR: "list addresses",
    m.RTM_NEWROUTE: "add route", m.RTM_DELROUTE: "delete route", m.RTM_GETROUTE: "get route",
    m.RTM_NEWNEIGH: "add neighbour", m.RTM_DELNEIGH: "delete neighbour", m.RTM_NEWRULE: "add rule",
    m.RTM_DELRULE: "delete rule",
}  # fmt: skip


def _describe(request: m.Request) -> str:
    """What a request asked, for error messages only: "add route 10.1.0.0/24"."""
    kind, flags, body = request
    verb = _VERBS.get(kind, f"netlink message {kind}")
    subject = ""
    if kind in (m.RTM_NEWLINK, m.RTM_DELLINK, m.RTM_GETLINK, m.RTM_SETLINK):
        link = m.parse_link(body)
        subject = link.name or f"#{link.index}"
        verb = "add link" if flags & m.NLM_F_CREATE else verb
    elif kind in (m.RTM_NEWADDR, m.RTM_DELADDR):
        subject = m.parse_address(body).cidr
    elif kind in (m.RTM_NEWROUTE, m.RTM_DELROUTE, m.RTM_GETROUTE):
        route = m.parse_route(body)
        subject = route.dst + (f" via {route.gateway}" if route.gateway else "")
    return f"{verb} {subject}".rstrip()


def _error(body: bytes, flags: int, request: m.Request) -> OSError | None:
    """The error an NLMSG_ERROR stands for; None for an ack."""
    code = -struct.unpack_from("=i", body)[0]
    if code == 0:
        return None
    text = ""
    if flags & m.NLM_F_ACK_TLVS:
        start = 20 if flags & m.NLM_F_CAPPED else 4 + struct.unpack_from("=I", body, 4)[0]
        text = dict(m.attrs(body, start)).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
    return OSError(code, f"{os.strerror(code)}{': ' + text if text else ''} ({_describe(request)})")
