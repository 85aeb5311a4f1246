"""On which of a node's addresses node ports answer. Upstream: pkg/proxy/util/nodeport_addresses.go. Touches: netlink."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from nsk8s.kernel.rtnl import Rtnl
from nsk8s.proxy.addresses import Network, parse_cidr

PRIMARY = "primary"
_LOOPBACK_START = ip_address("127.0.0.0")


class NodePortAddresses:
    """The setting nodePortAddresses, for one family: empty, CIDRs, or the word `primary`."""

    def __init__(self, setting: Sequence[str], ipv6: bool = False, node_ips: Sequence[str] = ()) -> None:
        self._setting = tuple(setting)
        self._networks = tuple(n for n in map(parse_cidr, setting) if n is not None)
        self._version = 6 if ipv6 else 4
        self._node_ips = tuple(node_ips)

    def set_node_ips(self, node_ips: Sequence[str]) -> bool:
        """The node's own addresses, for `primary`; True when that makes a difference."""
        moved = PRIMARY in self._setting and tuple(node_ips) != self._node_ips
        self._node_ips = tuple(node_ips)
        return moved

    @property
    def match_all(self) -> bool:
        """No CIDR of this family, or a zero one: every LOCAL address."""
        if PRIMARY in self._setting:
            return False
        return not self._ours or any(n.prefixlen == 0 for n in self._ours)

    @property
    def contains_loopback(self) -> bool:
        if self.match_all:
            return True
        if PRIMARY in self._setting:
            return False
        return any(n.network_address.is_loopback or _LOOPBACK_START in n for n in self._ours)

    @property
    def _ours(self) -> tuple[Network, ...]:
        return tuple(n for n in self._networks if n.version == self._version)

    def select(self, held: Sequence[str]) -> list[str]:
        """Of the addresses a machine holds, those that serve node ports. Pure."""
        wanted = tuple(ip_network(ip) for ip in self._node_ips) if PRIMARY in self._setting else self._networks
        found = dict.fromkeys(a for a in held if ip_address(a).version == self._version)
        return [a for a in found if any(ip_address(a) in n for n in wanted)]

    def current(self) -> list[str] | None:
        """The addresses right now; None for all."""
        if self.match_all:
            return None
        with Rtnl() as rtnl:
            return sorted(self.select([a.ip for a in rtnl.addrs()]))
