"""IP virtual servers over generic netlink, in the current network namespace. Touches: netlink (NETLINK_GENERIC, family IPVS).

What ipvsadm does. Numbers are the kernel's (include/uapi/linux/ip_vs.h). pyroute2 has an `IPVS`, too, which cannot
change a virtual server and makes none of IPv6.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import rtmsg as m
from nsk8s.kernel.ipset import PROTOCOLS
from nsk8s.kernel.nlbatch import Message, Netlink, raise_first
from nsk8s.net.ipvs import Balance, Counts, Real, Server

_NETLINK_GENERIC, _CTRL, _GETFAMILY = 16, 16, 3
_NEW_SERVICE, _SET_SERVICE, _DEL_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_DEST, _SET_DEST, _DEL_DEST, _GET_DEST, _SET_CONFIG = 5, 6, 7, 8, 12
_ATTR_SERVICE, _ATTR_DEST, _TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP = 1, 2, 4, 5, 6
_SVC_AF, _SVC_PROTOCOL, _SVC_ADDR, _SVC_PORT, _SVC_SCHED, _SVC_FLAGS, _SVC_TIMEOUT, _SVC_NETMASK = 1, 2, 3, 4, 6, 7, 8, 9
_SVC_FWMARK = 5
_DEST_ADDR, _DEST_PORT, _DEST_METHOD, _DEST_WEIGHT, _DEST_UPPER, _DEST_LOWER = 1, 2, 3, 4, 5, 6
_DEST_ACTIVE, _DEST_INACTIVE, _DEST_STATS, _DEST_FAMILY = 7, 8, 10, 11
_STATS_CONNS = 1
_PERSISTENT, _MH_PORT, _EVERY_FLAG = 0x1, 0x10, 0xFFFFFFFF
_BY_MASQUERADING = 0
_GENL = struct.Struct("=BBH")
_NAMES = {number: name for name, number in PROTOCOLS.items()}


class NoIpvs(Nsk8sError):
    """This kernel has no ip_vs, or nobody has loaded it."""


class Ipvs:
    """A socket in the current network namespace. Raises NoIpvs."""

    def __init__(self) -> None:
        self._netlink = Netlink(_NETLINK_GENERIC)
        body = _GENL.pack(_GETFAMILY, 1, 0) + m.attr_text(2, "IPVS")
        try:
            answers = self._netlink.dump(_CTRL, body, flags=m.NLM_F_ACK)
        except FileNotFoundError:
            self._netlink.close()
            raise NoIpvs("the kernel has no IP virtual servers (ip_vs)", "modprobe ip_vs; a kernel with CONFIG_IP_VS") from None
        self._family = struct.unpack_from("=H", dict(m.attrs(answers[0], 4))[1])[0]

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> Ipvs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def servers(self, ipv6: bool | None = None) -> dict[Server, Balance]:
        """The virtual servers of a family, or all. Those of a firewall mark, which have no address, are passed over."""
        found = {}
        for body in self._netlink.dump(self._family, _GENL.pack(_GET_SERVICE, 1, 0), "ipvsadm -Ln"):
            for kind, value in m.attrs(body, 4):
                parsed = _parse_server(dict(m.attrs(value))) if kind == _ATTR_SERVICE else None
                if parsed is not None and (ipv6 is None or (":" in parsed[0].ip) == ipv6):
                    found[parsed[0]] = parsed[1]
        return found

    def reals(self, server: Server) -> dict[Real, tuple[int, Counts]]:
        """Its real servers: weight, and what the kernel counts of each; none when there is no such virtual server."""
        body = _GENL.pack(_GET_DEST, 1, 0) + m.nested(_ATTR_SERVICE, _key(server))
        found = {}
        try:
            bodies = self._netlink.dump(self._family, body, f"ipvsadm -Ln {server}")
        except OSError as e:
            if e.errno != errno.ESRCH:
                raise
            return {}
        for answer in bodies:
            for kind, value in m.attrs(answer, 4):
                if kind == _ATTR_DEST:
                    real, weight, counts = _parse_real(server, dict(m.attrs(value)))
                    found[real] = weight, counts
        return found

    def put_servers(self, servers: Mapping[Server, Balance]) -> None:
        """Add virtual servers; those that are there get this way of balancing, and keep their real servers."""
        self._put(_NEW_SERVICE, _SET_SERVICE, [(_service(s, b), str(s)) for s, b in servers.items()])

    def put_reals(self, reals: Mapping[Real, int]) -> None:
        """Add real servers with their weights, or change the weights. Raises OSError, ESRCH without the virtual server."""
        self._put(_NEW_DEST, _SET_DEST, [(_destination(r, w), f"{r.server} -> {r}") for r, w in reals.items()])

    def delete_servers(self, servers: Iterable[Server]) -> None:
        """Their real servers go with them; one that is not there is no matter."""
        messages = [self._message(_DEL_SERVICE, m.nested(_ATTR_SERVICE, _key(s))) for s in servers]
        raise_first(self._netlink.execute(messages, "ipvsadm -D"), errno.ESRCH)

    def delete_reals(self, reals: Iterable[Real]) -> None:
        messages = [self._message(_DEL_DEST, _destination(r, 0)) for r in reals]
        raise_first(self._netlink.execute(messages, "ipvsadm -d"), errno.ESRCH, errno.ENOENT)

    def set_timeouts(self, tcp_s: int, tcp_fin_s: int, udp_s: int) -> None:
        """How long the kernel remembers a silent connection; 0 leaves what is."""
        wanted = ((_TIMEOUT_TCP, tcp_s), (_TIMEOUT_TCP_FIN, tcp_fin_s), (_TIMEOUT_UDP, udp_s))
        body = b"".join(m.attr_u32(kind, seconds) for kind, seconds in wanted if seconds)
        raise_first(self._netlink.execute([self._message(_SET_CONFIG, body)], "ipvsadm --set"))

    def _put(self, new: int, change: int, bodies: list[tuple[bytes, str]]) -> None:
        failures = self._netlink.execute(self._message(new, body) for body, _ in bodies)
        there = []
        for (body, said), failure in zip(bodies, failures, strict=True):
            if failure is not None and failure.errno != errno.EEXIST:
                raise OSError(failure.errno, f"{failure.strerror} (ipvsadm {said})")
            if failure is not None:
                there.append(self._message(change, body))
        raise_first(self._netlink.execute(there, "ipvsadm -E"))

    def _message(self, command: int, body: bytes) -> Message:
        return self._family, 0, _GENL.pack(command, 1, 0) + body


def _key(server: Server) -> bytes:
    family, raw = m.pack_ip(server.ip)
    return (
        m.attr(_SVC_AF, struct.pack("=H", family)) + m.attr(_SVC_PROTOCOL, struct.pack("=H", PROTOCOLS[server.protocol]))
        + m.attr(_SVC_ADDR, raw) + m.attr(_SVC_PORT, struct.pack(">H", server.port))
    )  # fmt: skip


def _service(server: Server, balance: Balance) -> bytes:
    flags = (_PERSISTENT if balance.persistent_s else 0) | (_MH_PORT if balance.source_hash else 0)
    # A client is one address: IPv4 says so by a mask, IPv6 by a prefix length.
    netmask = 128 if ":" in server.ip else 0xFFFFFFFF
    return m.nested(
        _ATTR_SERVICE, _key(server), m.attr_text(_SVC_SCHED, balance.scheduler),
        m.attr(_SVC_FLAGS, struct.pack("=II", flags, _EVERY_FLAG)), m.attr_u32(_SVC_TIMEOUT, balance.persistent_s),
        m.attr_u32(_SVC_NETMASK, netmask),
    )  # fmt: skip


def _destination(real: Real, weight: int) -> bytes:
    family, raw = m.pack_ip(real.ip)
    return m.nested(_ATTR_SERVICE, _key(real.server)) + m.nested(
        _ATTR_DEST, m.attr(_DEST_FAMILY, struct.pack("=H", family)), m.attr(_DEST_ADDR, raw),
        m.attr(_DEST_PORT, struct.pack(">H", real.port)), m.attr_u32(_DEST_METHOD, _BY_MASQUERADING),
        m.attr_u32(_DEST_WEIGHT, weight), m.attr_u32(_DEST_UPPER, 0), m.attr_u32(_DEST_LOWER, 0),
    )  # fmt: skip


def _parse_server(data: Mapping[int, bytes]) -> tuple[Server, Balance] | None:
    if _SVC_FWMARK in data or _SVC_ADDR not in data:
        return None
    number = _u16(data[_SVC_PROTOCOL])
    server = Server(_NAMES.get(number, str(number)), _ip(data[_SVC_ADDR], _u16(data[_SVC_AF])), _port(data[_SVC_PORT]))
    flags = _u32(data[_SVC_FLAGS])
    persistent_s = _u32(data[_SVC_TIMEOUT]) if flags & _PERSISTENT else 0
    return server, Balance(data[_SVC_SCHED].rstrip(b"\0").decode(), persistent_s, bool(flags & _MH_PORT))


def _parse_real(server: Server, data: Mapping[int, bytes]) -> tuple[Real, int, Counts]:
    family = _u16(data[_DEST_FAMILY]) if _DEST_FAMILY in data else socket.AF_INET6 if ":" in server.ip else socket.AF_INET
    stats = dict(m.attrs(data.get(_DEST_STATS, b"")))
    counts = Counts(_u32(data[_DEST_ACTIVE]), _u32(data[_DEST_INACTIVE]), _u32(stats.get(_STATS_CONNS, b"\0\0\0\0")))
    return Real(server, _ip(data[_DEST_ADDR], family), _port(data[_DEST_PORT])), _u32(data[_DEST_WEIGHT]), counts


def _ip(raw: bytes, family: int) -> str:
    return m.ip_text(raw[:16] if family == socket.AF_INET6 else raw[:4])


def _port(raw: bytes) -> int:
    return int.from_bytes(raw[:2], "big")


def _u16(raw: bytes) -> int:
    return int(struct.unpack_from("=H", raw)[0])


def _u32(raw: bytes) -> int:
    return int(struct.unpack_from("=I", raw)[0])
