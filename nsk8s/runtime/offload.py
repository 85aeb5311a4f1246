"""A new pod's link is made like its node's own: where that leaves no checksum and no segmentation to others, neither does it.

Touches: ioctl and netlink in the node and the pod. Counterpart: Calico's CNI plugin, which switches tx checksums off. It is the
runtime's, and not a plugin's, so that it holds for anybody's plugins.
"""

from __future__ import annotations

import contextlib
import os

from nsk8s.kernel.ethtool import Ethtool
from nsk8s.kernel.rtnl import Rtnl, entered

UPLINK = "eth0"


def follow_node(netns: str, ifname: str) -> None:
    """Switch offloads off at both ends of a pod's link, and on its bridge, if they are off at the node's. Otherwise one ioctl."""
    with contextlib.suppress(OSError), Ethtool() as node:  # a node without eth0 has nothing to follow
        if node.is_offloading(UPLINK):
            return
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with entered(fd):
                pod, inside = Ethtool(), Rtnl()
        finally:
            os.close(fd)
        with pod, inside, Rtnl() as outside:
            pod.set_offloading(ifname, False)
            link = inside.link_get(ifname)
            far = outside.link_by_index(link.peer) if link is not None and link.kind == "veth" else None
            bridge = outside.link_by_index(far.master) if far is not None and far.master else None
            for other in (far, bridge):
                if other is not None:
                    node.set_offloading(other.name, False)
