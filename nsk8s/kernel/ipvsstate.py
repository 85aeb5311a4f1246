"""What ipvs mode keeps in the kernel, as one state: kube-ipvs0, virtual servers, sets. Touches: netlink, in the current netns.

Upstream: pkg/proxy/ipvs/netlink_linux.go, util/ipvs_linux.go, ipset/ipset.go. A kernel's refusal is an `Nsk8sError`.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address

from nsk8s.errors import Nsk8sError
from nsk8s.kernel.ipset import IpSets
from nsk8s.kernel.ipvs import Ipvs
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.net.ipvs import DEVICE, Address, Balance, Counts, Entry, Item, Items, Real, Server, SetType, Value


class IpvsState:
    """Reads and changes it. Sockets are opened for each call: a proxy that does nothing holds none."""

    def ensure(self, sets: Mapping[str, SetType]) -> None:
        """Make kube-ipvs0 and the sets, where they are not there."""
        with _refusals(), Rtnl() as links, IpSets() as ipsets:
            if links.link_get(DEVICE) is None:
                links.link_add_dummy(DEVICE)
            ipsets.ensure(sets)

    def read(self, ipv6: bool, sets: Iterable[str]) -> dict[Item, Value]:
        """One family's addresses on kube-ipvs0, virtual and real servers, and these sets' entries."""
        found: dict[Item, Value] = dict.fromkeys(map(Address, bound(ipv6)))
        with _refusals(), Ipvs() as ipvs, IpSets() as ipsets:
            for name in sets:
                found.update(dict.fromkeys(Entry(name, text) for text in ipsets.entries(name) or ()))
            servers = ipvs.servers(ipv6)
            for server, balance in servers.items():
                found[server] = balance
                for real, (weight, _) in ipvs.reals(server).items():
                    found[real] = weight
        return found

    def counts(self, servers: Collection[Server]) -> dict[Real, Counts]:
        """What the kernel counts of these virtual servers' real ones."""
        if not servers:
            return {}
        with _refusals(), Ipvs() as ipvs:
            return {real: counts for server in servers for real, (_, counts) in ipvs.reals(server).items()}

    def put(self, items: Items) -> None:
        """Add or change. A Service's address comes last: until then its packets leave the node as if there were no Service."""
        servers = {i: v for i, v in items.items() if isinstance(i, Server) and isinstance(v, Balance)}
        reals = {i: v for i, v in items.items() if isinstance(i, Real) and isinstance(v, int)}
        entries = [i for i in items if isinstance(i, Entry)]
        addresses = [i.ip for i in items if isinstance(i, Address)]
        with _refusals():
            if entries:
                with IpSets() as ipsets:
                    ipsets.add(entries)
            if servers or reals:
                with Ipvs() as ipvs:
                    ipvs.put_servers(servers)
                    ipvs.put_reals(reals)
            self._bind(addresses)

    def remove(self, items: Iterable[Item]) -> None:
        """Take away; what is not there is no matter. The other way round."""
        items = list(items)
        addresses = [i.ip for i in items if isinstance(i, Address)]
        entries = [i for i in items if isinstance(i, Entry)]
        with _refusals():
            self._unbind(addresses)
            if any(isinstance(i, Real | Server) for i in items):
                with Ipvs() as ipvs:
                    ipvs.delete_reals(i for i in items if isinstance(i, Real))
                    ipvs.delete_servers(i for i in items if isinstance(i, Server))
            if entries:
                with IpSets() as ipsets:
                    ipsets.delete(entries)

    def node_addresses(self, ipv6: bool) -> list[str]:
        """The node's addresses of a family: none of kube-ipvs0's, of loopback's, and none that is link-local."""
        with _refusals(), Rtnl() as links:
            device = links.link_get(DEVICE)
            skipped = device.index if device else 0
            held = {a.ip for a in links.addrs() if a.index != skipped and (":" in a.ip) == ipv6}
        usable = (ip for ip in held if not ip_address(ip).is_loopback and not (ipv6 and ip_address(ip).is_link_local))
        return sorted(usable, key=ip_address)

    def destroy_sets(self, sets: Iterable[str]) -> None:
        with _refusals(), IpSets() as ipsets:
            ipsets.destroy(sets)

    def _bind(self, addresses: Collection[str]) -> None:
        if not addresses:
            return
        with Rtnl() as links:
            index = _device(links)
            for ip in addresses:
                with contextlib.suppress(FileExistsError):
                    links.addr_add(index, _whole(ip), nodad=":" in ip)

    def _unbind(self, addresses: Collection[str]) -> None:
        if not addresses:
            return
        with Rtnl() as links:
            index = _device(links)
            for ip in addresses:
                try:
                    links.addr_del(index, _whole(ip))
                except OSError as e:
                    if e.errno != errno.EADDRNOTAVAIL:
                        raise


def bound(ipv6: bool) -> list[str]:
    """The addresses on kube-ipvs0; none without it."""
    with _refusals(), Rtnl() as links:
        device = links.link_get(DEVICE)
        if device is None:
            return []
        held = [a.ip for a in links.addrs(device.index) if (":" in a.ip) == ipv6]
        return [ip for ip in held if not (ipv6 and ip_address(ip).is_link_local)]


def delete_device() -> None:
    """Delete kube-ipvs0, and with it every Service's address."""
    with _refusals(), Rtnl() as links:
        device = links.link_get(DEVICE)
        if device is not None:
            links.link_delete(device.index)


def _device(links: Rtnl) -> int:
    device = links.link_get(DEVICE)
    if device is None:
        raise Nsk8sError(f"somebody deleted {DEVICE}")
    return int(device.index)


def _whole(ip: str) -> str:
    return f"{ip}/128" if ":" in ip else f"{ip}/32"


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise Nsk8sError(f"ipvs: {e.strerror or e}") from e
