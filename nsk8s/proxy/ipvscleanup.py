"""Taking away what ipvs mode keeps in the kernel beside iptables. Upstream: pkg/proxy/ipvs/cleanup.go.

Touches: netlink (IPVS, ip sets, kube-ipvs0, conntrack).
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from nsk8s.kernel import ipvsstate
from nsk8s.kernel.conntrack import Conntrack
from nsk8s.proxy import ipvsrules

log = logging.getLogger("proxy")


def clean_up() -> None:
    """Remove virtual servers, kube-ipvs0 and the sets; the rules that ask the sets must be gone before. Raises Nsk8sError.

    Ours are the virtual servers at kube-ipvs0's addresses, and those at the node ports that the sets name; others' stay.
    """
    state = ipvsstate.IpvsState()
    for ipv6 in (False, True):
        items = state.read(ipv6, ipvsrules.sets(ipv6))
        ours = ipvsrules.own_servers(items, ipv6)
        state.remove(ours)
        _forget_flows({(s.ip, s.port) for s in ours if s.protocol == "udp"}, ipv6)
    ipvsstate.delete_device()
    for ipv6 in (False, True):
        state.destroy_sets(ipvsrules.sets(ipv6))


def _forget_flows(addresses: Collection[tuple[str, int]], ipv6: bool) -> None:
    """What was translated by IPVS would leave untranslated for as long as conntrack knows it."""
    try:
        with Conntrack(ipv6) as table:
            table.delete(f for f in table.flows() if (f.dst, f.dport) in addresses)
    except OSError as e:
        log.error("cleaning stale UDP conntrack entries failed: %s", e)
