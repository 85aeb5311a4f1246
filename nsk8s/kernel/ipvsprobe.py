"""Whether this kernel can do kube-proxy's ipvs mode, tried out in a child's own network namespace. Touches: fork, modprobe.

Upstream: pkg/proxy/ipvs/supported.go.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import modules
from nsk8s.kernel import syscalls as sc
from nsk8s.kernel.probe import tried, which
from nsk8s.net.ipvs import Balance, Server, SetType

NO_IP_VS = "this kernel has no ip_vs"
REMEDY = "use iptables or nftables; or a kernel with CONFIG_IP_VS, as distributions have (linux-modules-extra-$(uname -r))"
_PROBE_SERVER = Server("tcp", "198.51.100.0", 20000)
_SET_TYPES = ("hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:port")
_MATCHES = {
    "xt_set": "-m set --match-set probe dst", "xt_ipvs": "-m ipvs --vaddr 198.51.100.1 --vproto tcp --vport 80",
    "xt_physdev": "-m physdev ! --physdev-is-in", "xt_addrtype": "-m addrtype --dst-type LOCAL",
}  # fmt: skip


def require(scheduler: str = "rr") -> list[str]:
    """Load what is missing and try all of it; returns the modules that were loaded. Raises Nsk8sError: what is not to be had."""
    if not modules.has_ip_vs():
        raise Nsk8sError(f"mode: ipvs is not possible: {NO_IP_VS}", REMEDY)
    loaded = modules.load_for_ipvs(scheduler)
    lacking = missing(scheduler)
    if lacking:
        raise Nsk8sError(f"mode: ipvs is not possible: this kernel lacks {', '.join(lacking)}", REMEDY)
    return loaded


def missing(scheduler: str = "rr") -> list[str]:
    """What of ipvs mode's needs is not to be had, each with the kernel's words. Loads nothing itself, though the kernel may."""
    found = tried([(name, attempt, "") for name, attempt in _attempts(scheduler)])
    return [f"{name} ({error})" for name, error, _ in found if error]


def _attempts(scheduler: str) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "network namespaces", _own_namespace
    yield "ip_vs", lambda: _try_server(Balance())
    yield f"ip_vs_{scheduler}", lambda: _try_server(Balance(scheduler))
    yield "CONFIG_IP_VS_NFCT", _try_conntrack
    yield "dummy", _try_dummy
    for kind in _SET_TYPES:
        yield f"ip_set {kind}", lambda kind=kind: _try_set(kind)  # type: ignore[misc]
    for name, match in _MATCHES.items():
        yield name, lambda match=match: _try_match(match)  # type: ignore[misc]


def _own_namespace() -> None:
    from nsk8s.kernel.rtnl import Rtnl

    sc.unshare(sc.CLONE_NEWNET)
    with Rtnl() as links:
        lo = links.link_get("lo")
        assert lo is not None
        links.link_set(lo.index, up=True)


def _try_server(balance: Balance) -> None:
    from nsk8s.kernel.ipvs import Ipvs

    with Ipvs() as ipvs:
        try:
            ipvs.put_servers({_PROBE_SERVER: balance})
        except FileNotFoundError:
            raise OSError("no such scheduler") from None


def _try_conntrack() -> None:
    if not os.path.exists("/proc/sys/net/ipv4/vs/conntrack"):
        raise OSError("IPVS was built without conntrack")


def _try_dummy() -> None:
    from nsk8s.kernel.rtnl import Rtnl

    with Rtnl() as links:
        links.link_add_dummy("probe")


def _try_set(kind: str) -> None:
    from nsk8s.kernel.ipset import IpSets

    with IpSets() as ipsets:
        ipsets.ensure({"probe" if kind == "hash:ip" else f"probe-{kind}": SetType(kind)})


def _try_match(match: str) -> None:
    path = which("iptables-restore")
    if path is None:
        raise OSError("iptables-restore is missing")
    text = f"*filter\n-A OUTPUT {match} -j ACCEPT\nCOMMIT\n"
    with tempfile.NamedTemporaryFile() as lock:
        env = {**os.environ, "XTABLES_LOCKFILE": lock.name}
        done = subprocess.run([path, "-w", "5"], input=text, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise OSError(" ".join(done.stderr.split())[:120])
