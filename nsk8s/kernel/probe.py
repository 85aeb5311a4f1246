"""What this kernel and machine can do, tried out in a throwaway child's own namespaces. Touches: fork, namespaces, PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from nsk8s.kernel import syscalls as sc

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def which(program: str) -> str | None:
    """Where a program is; the system's own folders count even when a user's PATH lacks them."""
    return shutil.which(program, path=os.environ.get("PATH", "/usr/bin:/bin") + ":" + SBIN)


def iptables_version() -> str:
    """`v1.8.9 (nf_tables)`; empty without iptables."""
    path = which("iptables")
    if path is None:
        return ""
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.strip().removeprefix("iptables ")


def features() -> list[tuple[str, str, str]]:
    """(feature, error or "", fix) for everything a cluster cannot do without."""
    return tried(_FEATURES)


def optional_features(names: Sequence[str] | None = None) -> list[tuple[str, str, str]]:
    """The same for what only some settings need: all of it, or what is named."""
    return tried([f for f in _OPTIONAL if names is None or f[0] in names])


def tried(features: Sequence[tuple[str, Callable[[], None], str]]) -> list[tuple[str, str, str]]:
    """Each feature's error, or none: tried one after the other in one child, whose namespaces are its own as soon as it asks."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        lines = []
        try:
            for name, function, fix in features:
                try:
                    function()
                    lines.append(f"{name}\t\t{fix}")
                except Exception as e:
                    lines.append(f"{name}\t{' '.join(str(e).split())}\t{fix}")
        finally:
            os.write(write, "\n".join(lines).encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        text = f.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return [(a, b, c) for a, b, c in (line.split("\t") for line in text.splitlines())]


def _namespaces() -> None:
    sc.unshare(sc.CLONE_NEWNET | sc.CLONE_NEWNS | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC)
    sc.mount(None, "/", None, sc.MS_PRIVATE | sc.MS_REC)


def _veth_and_bridge() -> None:
    from nsk8s.kernel.rtnl import Rtnl

    with Rtnl() as netlink:
        netlink.link_add_bridge("br0")
        netlink.link_add_veth("veth0", "veth1")


def _bridge_netfilter() -> None:
    """There, or a module that `up` can load: nothing loads it by itself, and a fresh machine has not."""
    if os.path.exists("/proc/sys/net/bridge/bridge-nf-call-iptables"):
        return
    modprobe = which("modprobe")
    if modprobe is None:
        raise OSError("br_netfilter is not loaded, and there is no modprobe")
    if subprocess.run([modprobe, "--dry-run", "--quiet", "br_netfilter"], check=False).returncode:
        raise OSError("br_netfilter is neither in this kernel nor a module of it")


def _overlay() -> None:
    # On a tmpfs of this throwaway mount namespace: the machine's own disks are left alone.
    base = tempfile.gettempdir()
    sc.mount("probe", base, "tmpfs", 0, "size=1m")
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{base}/{name}")
    sc.mount("probe", f"{base}/merged", "overlay", 0, f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work")


def _iptables_nat() -> None:
    path = which("iptables-restore")
    if path is None:
        raise OSError("iptables-restore is missing")
    # The traits kube-proxy's rules need: comment, statistic, mark, conntrack, addrtype, DNAT, MASQUERADE.
    rules = """*nat
:PROBE - [0:0]
-A PROBE -m comment --comment probe -m statistic --mode random --probability 0.5 -j RETURN
-A PROBE -m addrtype --dst-type LOCAL -j MARK --or-mark 0x4000
-A PROBE -p tcp -j DNAT --to-destination 192.0.2.1:80
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
COMMIT
*filter
:PROBE - [0:0]
-A PROBE -m conntrack --ctstate NEW -j REJECT
COMMIT
"""
    env = {**os.environ, "XTABLES_LOCKFILE": "/dev/null"}
    answer = subprocess.run([path, "-w", "5"], input=rules, capture_output=True, text=True, check=False, env=env)
    if answer.returncode:
        raise OSError(" ".join(answer.stderr.split())[:200])


def _ipv6() -> None:
    """Addresses, and ip6tables with NAT (kube-proxy, and what leaves the cluster)."""
    if not os.path.isdir("/proc/sys/net/ipv6"):
        raise OSError("it is switched off for the whole machine, or not part of the kernel")
    path = which("ip6tables-restore")
    if path is None:
        raise OSError("ip6tables-restore is missing")
    sc.unshare(sc.CLONE_NEWNET)
    env = {**os.environ, "XTABLES_LOCKFILE": "/dev/null"}
    rules = "*nat\n-A POSTROUTING -s fd00::/8 -j MASQUERADE\nCOMMIT\n"
    answer = subprocess.run([path, "-w", "5"], input=rules, capture_output=True, text=True, check=False, env=env)
    if answer.returncode:
        raise OSError(" ".join(answer.stderr.split())[:200])


def _vxlan() -> None:
    from nsk8s.kernel.rtnl import Rtnl

    sc.unshare(sc.CLONE_NEWNET)
    with Rtnl() as netlink:
        netlink.link_add_vxlan("vxlan0", 1, local="192.0.2.1")


def _tbf() -> None:
    from nsk8s.kernel import tcmsg

    _qdisc(lambda index: tcmsg.tbf_set(index, tcmsg.tbf(8_000_000, 80_000)))


def _netem() -> None:
    from nsk8s.kernel import tcmsg

    _qdisc(lambda index: tcmsg.netem_set(index, tcmsg.Netem(1000)))


def _ip_vs() -> None:
    """There and whole; or a module that `up` would load."""
    from nsk8s.kernel import ipvsprobe, modules

    if not modules.has_ip_vs():
        raise OSError(ipvsprobe.NO_IP_VS)
    lacking = ipvsprobe.missing() if os.path.exists("/proc/net/ip_vs") else []
    if lacking:
        raise OSError(f"it lacks {', '.join(lacking)}")


def _qdisc(request: Callable[[int], Any]) -> None:
    from nsk8s.kernel.rtnl import Rtnl

    sc.unshare(sc.CLONE_NEWNET)
    with Rtnl() as netlink:
        index = netlink.link_add_veth("veth0", "veth1").index
        try:
            netlink.execute(request(index))
        except FileNotFoundError:
            raise OSError("it was built without it, and there is no such module") from None


_FEATURES = (
    ("namespaces", _namespaces, "a kernel with CONFIG_NET_NS, CONFIG_UTS_NS, CONFIG_IPC_NS, CONFIG_PID_NS"),
    ("veth and bridge", _veth_and_bridge, "modprobe veth bridge"),
    ("bridge netfilter", _bridge_netfilter, "a kernel with br_netfilter; apt-get install kmod linux-modules-extra-$(uname -r)"),
    ("overlay", _overlay, "modprobe overlay"),
    ("iptables with NAT and conntrack", _iptables_nat, "apt-get install iptables; modprobe nf_nat nf_conntrack"),
)
_OPTIONAL = (
    ("vxlan", _vxlan, "modprobe vxlan; or another network.mode than vxlan"),
    ("tbf (link rates)", _tbf, "a kernel with CONFIG_NET_SCH_TBF; modprobe sch_tbf"),
    ("netem (link delay and loss)", _netem, "a kernel with sch_netem; apt-get install linux-modules-extra-$(uname -r)"),
    ("ip_vs", _ip_vs, "a distribution's kernel (linux-modules-extra-$(uname -r)); or another proxy.mode than ipvs"),
    ("IPv6", _ipv6, "boot without ipv6.disable=1, and modprobe ip6table_nat; or network.ipFamilies: [IPv4]"),
)
