"""Fixed neighbour entries for new pods, once the machine's table fills up. Touches: /proc, netlink.

The kernel keeps one ARP table for all namespaces, with room for `gc_thresh3` entries (1,024 unless somebody raised it), and an
entry in use is never collected; so it does for IPv6. A pod that its kubelet probes needs two: its own in the node, the gateway's
in the pod; so about 500 pods fill the table, and the next one answers nobody. Permanent entries do not count. While the table is
less than half full pods and nodes find each other by ARP, as anywhere, and a capture shows it; beyond that both ends of a new
pod's link are told.
"""

from __future__ import annotations

import contextlib
import os

from nsk8s.kernel.rtnl import Rtnl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CROWDED = 512
"""Half the usual gc_thresh3, and the usual gc_thresh2: from here on the kernel collects in haste."""
STATISTICS = {False: "/proc/1/net/stat/arp_cache", True: "/proc/1/net/stat/ndisc_cache"}
"""IPv4's and IPv6's. Shown in the initial network namespace only, where process 1 is; the first column counts every entry, as
hexadecimal digits (of IPv6 also multicast addresses, which do not count: one is told sooner then)."""


def is_crowded(statistics: str) -> bool:
    """Whether the table, by the text of `STATISTICS`, is so full that new pods are better told. Pure."""
    lines = statistics.splitlines()
    return len(lines) > 1 and int(lines[1].split()[0], 16) > CROWDED


def link_ends(result: dict[str, Any], ifname: str) -> list[dict[str, str]]:
    """Both ends of a pod's link by a CNI result in which the gateway is an interface of the node: `bridge`, `gatewayMac`,
    `gateway`, `podMac`, `ip` for each address. Pure."""
    interfaces = result.get("interfaces") or []
    outside = [i for i in interfaces if not i.get("sandbox") and i.get("mac")]
    found = []
    for ip in result.get("ips") or []:
        index = ip.get("interface")
        if index is None or not 0 <= index < len(interfaces) or interfaces[index].get("name") != ifname or not outside:
            continue
        address, gateway = str(ip["address"]).partition("/")[0], ip.get("gateway", "")
        if gateway and interfaces[index].get("mac"):
            found.append({
                "bridge": outside[0]["name"], "gatewayMac": outside[0]["mac"], "gateway": gateway,
                "podMac": interfaces[index]["mac"], "ip": address,
            })  # fmt: skip
    return found


def _crowded(ipv6: bool) -> bool:
    try:
        with open(STATISTICS[ipv6], encoding="ascii") as f:
            return is_crowded(f.read())
    except (OSError, ValueError):
        return False  # process 1 is in some container: nobody can tell


def pin_when_crowded(netns: str, result: dict[str, Any], ifname: str) -> None:
    """Tell both ends when there is need. Where that fails ARP does it, as long as there is room."""
    ends = link_ends(result, ifname)
    crowded = {ipv6 for ipv6 in {":" in end["ip"] for end in ends} if _crowded(ipv6)}
    if not crowded:
        return
    with contextlib.suppress(OSError):
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Rtnl() as node, Rtnl(fd) as pod:
                for end in (end for end in ends if (":" in end["ip"]) in crowded):
                    bridge, inside = node.link_get(end["bridge"]), pod.link_get(ifname)
                    if bridge is not None and inside is not None and bridge.mac == end["gatewayMac"]:
                        node.neigh_replace(bridge.index, end["ip"], end["podMac"])
                        pod.neigh_replace(inside.index, end["gateway"], end["gatewayMac"])
        finally:
            os.close(fd)


def unpin(result: dict[str, Any], ifname: str) -> None:
    """Make the node forget the pod of a CNI result; the pod's own side goes with its namespace."""
    ends = link_ends(result, ifname)
    if not ends:
        return
    with Rtnl() as node:
        for end in ends:
            bridge = node.link_get(end["bridge"])
            if bridge is not None:
                with contextlib.suppress(OSError):  # it never was there, or is gone
                    node.neigh_del(bridge.index, end["ip"])
