"""This node's end of the VXLAN. Upstream: flannel's backend/vxlan. Touches: netlink (links, addresses, ARP and FDB entries).

Nothing is learnt and nothing asked for: every other node's end is written down here, as flannel does, so that no packet is
ever flooded.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress
from socket import AF_INET, AF_INET6

from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.nodenetwork import plan
from nsk8s.nodenetwork.plan import OVERLAY, Overlay, Peer

ALIAS = "nsk8s"
"""Tells our device from one that a real flanneld made: that one is left alone."""


class NoVxlan(Exception):
    """This node can have no VXLAN; the text says why."""


def _is_ours(link: rtmsg.Link) -> bool:
    return link.kind == "vxlan" and link.alias == ALIAS


def is_foreign(overlay: Overlay = OVERLAY) -> bool:
    """Whether somebody else has a device of that name here: then so are the Node's annotations theirs."""
    with Rtnl() as rtnl:
        link = rtnl.link_get(overlay.device)
    return link is not None and not _is_ours(link)


def _family(overlay: Overlay) -> int:
    return AF_INET6 if overlay.family == 6 else AF_INET


def ensure_device(ip: str, cidr: str, overlay: Overlay = OVERLAY) -> rtmsg.Link:
    """The device, made on top of the link that has `ip`, with the first address of the node's subnet. Raises NoVxlan, OSError."""
    with Rtnl() as rtnl:
        link = rtnl.link_get(overlay.device)
        if link is not None and not _is_ours(link):
            raise NoVxlan(f"{overlay.device} is there and not nsk8s' own ({link.kind or 'no kind'}, no alias {ALIAS})")
        if link is None:
            lower = next((rtnl.link_by_index(a.index) for a in rtnl.addrs() if a.ip == ip), None)
            if lower is None:
                raise NoVxlan(f"no link of this node has the node's address {ip}")
            try:
                link = rtnl.link_add_vxlan(
                    overlay.device, plan.VNI, local=ip, lower=lower.index, port=plan.VXLAN_PORT,
                    mtu=lower.mtu - overlay.overhead,
                )  # fmt: skip
                rtnl.link_set(link.index, alias=ALIAS)
            except OSError as e:
                if e.errno == errno.EOPNOTSUPP:
                    raise NoVxlan("this kernel has no vxlan (CONFIG_VXLAN; modprobe vxlan)") from e
                raise
        wanted = f"{plan.vtep_address(cidr)}/{128 if overlay.family == 6 else 32}"
        held = {a.cidr for a in rtnl.addrs(link.index, _family(overlay)) if a.scope != rtmsg.RT_SCOPE_LINK}
        for other in held - {wanted}:
            rtnl.addr_del(link.index, other)
        if wanted not in held:
            rtnl.addr_add(link.index, wanted)
        if not link.up:
            rtnl.link_set(link.index, up=True)
        return link


def ensure_peers(index: int, peers: Iterable[Peer], overlay: Overlay = OVERLAY) -> tuple[list[str], list[str]]:
    """Make the device's permanent ARP and forwarding entries exactly those of `peers`; (gateways set, gateways removed)."""
    wanted = list(peers)
    arp, fdb = {p.gateway: p.mac for p in wanted}, {p.mac: p.public_ip for p in wanted}
    with Rtnl() as rtnl:
        permanent = [n for n in rtnl.neighs(index, _family(overlay)) if n.state & rtmsg.NUD_PERMANENT]
        have_arp = {n.ip: n.mac for n in permanent}
        have_fdb = {n.mac: n.ip for n in rtnl.neighs(index, rtmsg.AF_BRIDGE) if n.ip}
        # Where to before what for: the first packet must find both.
        for mac, ip in fdb.items():
            if have_fdb.get(mac) != ip:
                rtnl.neigh_replace(index, ip, mac, fdb=True)
        done = [gateway for gateway, mac in arp.items() if have_arp.get(gateway) != mac]
        for gateway in done:
            rtnl.neigh_replace(index, gateway, arp[gateway])
        removed = [gateway for gateway in have_arp if gateway not in arp]
        for gateway in removed:
            with suppress(FileNotFoundError):  # ENOENT: gone already
                rtnl.neigh_del(index, gateway)
        for mac in have_fdb.keys() - fdb.keys():
            with suppress(FileNotFoundError):
                rtnl.neigh_del(index, have_fdb[mac], mac, fdb=True)
    return done, removed


def remove_device(overlay: Overlay = OVERLAY) -> bool:
    """Take the device away, and all that hangs on it; whether there was one."""
    with Rtnl() as rtnl:
        link = rtnl.link_get(overlay.device)
        if link is None or not _is_ours(link):
            return False
        rtnl.link_delete(link.index)
    return True
