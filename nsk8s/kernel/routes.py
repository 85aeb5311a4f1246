"""Routes to other nodes' pods, marked as ours. Touches: netlink (routes of the current network namespace).

Every route carries nsk8s' own protocol number (`ip route` shows `proto 118`), and only routes that carry it are ever removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_interface, ip_network
from typing import NamedTuple

from nsk8s.kernel import rtmsg
from nsk8s.kernel.bird import PROTOCOL as LEARNT
from nsk8s.kernel.rtnl import Rtnl

PROTOCOL = 118
"""Free in include/uapi/linux/rtnetlink.h and iproute2's rt_protos; 118 is the `v` of no routing daemon."""


OWN_METRIC = 1024
"""Of the route that refuses what nobody in the own subnet has: the bridge's, with metric 0, comes first."""


class Via(NamedTuple):
    """A gateway; with a link's index it counts as a neighbour there although no address says so (`onlink`).

    A link's index and no gateway: the destination itself is a neighbour there.
    """

    gateway: str
    onlink: int = 0


class Around(NamedTuple):
    """What this machine reaches without a gateway, and its default gateways."""

    networks: tuple[str, ...]
    gateways: tuple[str, ...]

    def gateway(self, ip: str) -> str:
        """Through whom packets to `ip` go: itself, when it is on a link of this machine or when nobody leads further."""
        address = ip_address(ip)
        if any(address in ip_network(n) for n in self.networks):
            return ip
        return next((g for g in self.gateways if (":" in g) == (":" in ip)), ip)


def around() -> Around:
    with Rtnl() as rtnl:
        networks = {str(ip_interface(a.cidr).network) for a in rtnl.addrs() if a.scope == rtmsg.RT_SCOPE_UNIVERSE}
        defaults = sorted((r for r in rtnl.routes() if r.dst == "default" and r.gateway), key=lambda r: r.priority)
    return Around(tuple(sorted(networks)), tuple(r.gateway for r in defaults))


def uplink() -> tuple[str, tuple[str, ...]]:
    """The name of the link that the default route leaves by (eth0 where there is none), and the default gateways."""
    with Rtnl() as rtnl:
        defaults = sorted((r for r in rtnl.routes() if r.dst == "default" and r.gateway), key=lambda r: r.priority)
        link = rtnl.link_by_index(defaults[0].index) if defaults else None
    return (link.name if link else "eth0"), tuple(r.gateway for r in defaults)


def ours() -> dict[str, Via]:
    """destination → gateway of the routes in the main table that carry our mark."""
    with Rtnl() as rtnl:
        return {r.dst: _via(r) for r in rtnl.routes() if r.kind == "unicast" and r.protocol == PROTOCOL}


def learnt() -> dict[str, str]:
    """destination → kind of the routes in the main table that a BIRD put there."""
    with Rtnl() as rtnl:
        return {r.dst: r.kind for r in rtnl.routes() if r.protocol == LEARNT}


def forget_learnt() -> list[str]:
    """Remove what a BIRD left behind."""
    with Rtnl() as rtnl:
        found = [r for r in rtnl.routes() if r.protocol == LEARNT]
        for r in found:
            with suppress(ProcessLookupError):
                rtnl.route_del(r.dst, kind=r.kind, priority=r.priority, protocol=LEARNT)
    return [r.dst for r in found]


def changes(have: Mapping[str, Via], want: Mapping[str, Via]) -> tuple[dict[str, Via], list[str]]:
    """(routes to set, destinations to remove) that turn `have` into `want`. Pure."""
    return {dst: via for dst, via in want.items() if have.get(dst) != via}, [dst for dst in have if dst not in want]


def ensure(want: Mapping[str, Via], *, own: Iterable[str] = ()) -> tuple[list[str], list[str], dict[str, str]]:
    """Make our routes exactly `want`: (destinations set, removed, destination → why it failed).

    Packets to `own` subnets are refused unless a better route, the bridge's, has them: the default route would send them back
    to where they came from. A route that another program put there for the same destination is not touched: that one fails.
    """
    done: list[str] = []
    removed: list[str] = []
    failed: dict[str, str] = {}
    with Rtnl() as rtnl:
        table = rtnl.routes()
        # BIRD's lie beside ours, with a metric of their own, while the mode changes.
        held = {r.dst: r for r in table if r.kind == "unicast" and r.protocol != LEARNT}
        have = {dst: _via(r) for dst, r in held.items() if r.protocol == PROTOCOL}
        refused = {r.dst for r in table if r.kind == "unreachable" and r.protocol == PROTOCOL}
        to_set, to_remove = changes(have, want)
        for dst in to_remove:
            with suppress(ProcessLookupError):  # ESRCH: gone already
                rtnl.route_del(dst, protocol=PROTOCOL)
            removed.append(dst)
        for dst, via in to_set.items():
            foreign = held.get(dst)
            if foreign is not None and foreign.protocol != PROTOCOL:
                failed[dst] = f"there is a route to {dst} that is not nsk8s' own (protocol {foreign.protocol})"
                continue
            try:
                rtnl.route_replace(
                    dst, gateway=via.gateway, index=via.onlink, onlink=bool(via.gateway and via.onlink), protocol=PROTOCOL
                )
            except OSError as e:
                failed[dst] = e.strerror or str(e)
            else:
                done.append(dst)
        for dst in refused - set(own):
            with suppress(ProcessLookupError):
                rtnl.route_del(dst, kind="unreachable", priority=OWN_METRIC, protocol=PROTOCOL)
        for dst in set(own) - refused:
            rtnl.route_replace(dst, kind="unreachable", priority=OWN_METRIC, protocol=PROTOCOL)
    return done, removed, failed


def _via(route: rtmsg.Route) -> Via:
    return Via(route.gateway, route.index if route.flags & rtmsg.RTNH_F_ONLINK or not route.gateway else 0)
