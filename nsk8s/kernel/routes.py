"""Routes to other nodes' pods, marked as ours. Touches: netlink (routes of the current network namespace).

Every route carries nsk8s' own protocol number (`ip route` shows `proto 118`), and only routes that carry it are ever removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from nsk8s.kernel.rtnl import Rtnl

PROTOCOL = 118
"""Free in include/uapi/linux/rtnetlink.h and iproute2's rt_protos; 118 is the `v` of no routing daemon."""


def ours(rtnl: Rtnl) -> dict[str, str]:
    """destination → gateway of the routes in the main table that carry our mark."""
    return {r.dst: r.gateway for r in rtnl.routes() if r.protocol == PROTOCOL}


def changes(have: Mapping[str, str], want: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """(routes to set, destinations to remove) that turn `have` into `want`; both map destination → gateway. Pure."""
    return {dst: via for dst, via in want.items() if have.get(dst) != via}, [dst for dst in have if dst not in want]


def ensure(want: Mapping[str, str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Make our routes exactly `want` (destination → gateway): (destinations set, removed, destination → why it failed).

    A route that another program put there for the same destination is not touched: that destination fails.
    """
    done: list[str] = []
    removed: list[str] = []
    failed: dict[str, str] = {}
    with Rtnl() as rtnl:
        held = {r.dst: r for r in rtnl.routes() if r.kind == "unicast"}
        have = {dst: r.gateway for dst, r in held.items() if r.protocol == PROTOCOL}
        to_set, to_remove = changes(have, want)
        for dst in to_remove:
            with suppress(ProcessLookupError):  # ESRCH: gone already
                rtnl.route_del(dst, protocol=PROTOCOL)
            removed.append(dst)
        for dst, gateway in to_set.items():
            foreign = held.get(dst)
            if foreign is not None and foreign.protocol != PROTOCOL:
                failed[dst] = f"there is a route to {dst} that is not nsk8s' own (protocol {foreign.protocol})"
                continue
            try:
                rtnl.route_replace(dst, gateway=gateway, protocol=PROTOCOL)
            except OSError as e:
                failed[dst] = e.strerror or str(e)
            else:
                done.append(dst)
    return done, removed, failed
