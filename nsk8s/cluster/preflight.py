"""What this machine must have, checked before anything is made. Counterpart: kubeadm's preflight. Touches: /proc, PATH, sockets.

Nothing here changes anything; kernel features are tried out in throwaway namespaces, never in the root one (even listing
legacy iptables rules there would load tables).
"""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nsk8s.cluster.state import STATE_ROOT, Paths, Record
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import machine, mounts, probe
from nsk8s.kernel.cgroup import Cgroups
from nsk8s.net import topology

if TYPE_CHECKING:  # pydantic is dear, and most commands need no more than require_root
    from nsk8s.config import ClusterConfig

MIN_FREE_BYTES = 64 * 1024 * 1024
DEFAULT_API_PORT = 6443
PORTS_TRIED = 100


@dataclass(frozen=True)
class Check:
    """One line of `nsk8s doctor`."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    required: bool = True


def tools() -> list[Check]:
    """Programs that are run."""
    wanted = (
        ("iptables-restore", "iptables", True),
        ("ip", "iproute2", True),
        ("tcpdump", "tcpdump", False),
        ("conntrack", "conntrack", False),
        ("curl", "curl", False),
        ("ping", "iputils-ping", False),
        ("bird", "bird2", False),
        ("kubectl", "", False),
    )
    out = []
    for program, package, required in wanted:
        path = probe.which(program)
        fix = f"apt-get install {package}" if package else "optional: `nsk8s get|apply|logs …` do without it"
        out.append(Check(program, path is not None, path or "missing", "" if path else fix, required))
    return out


def kernel() -> list[Check]:
    """Features of the running kernel."""
    out = []
    for name, error, fix in probe.features():
        out.append(Check(name, not error, error or "works", fix if error else ""))
    for name, error, fix in probe.optional_features():
        out.append(Check(name, not error, error or "works", fix if error else "", False))
    groups = Cgroups()
    mounted = groups.version != "none"
    out.append(Check("cgroups", mounted, groups.version, "" if mounted else "mount -t cgroup2 none /sys/fs/cgroup"))
    return out


def limits(nodes: int, pods: int) -> list[Check]:
    """Machine-wide limits that a big cluster meets; nsk8s never writes them."""
    wanted = (
        ("net.ipv4.neigh.default.gc_thresh3", 256 + 3 * pods - pods // 5 + nodes * 8),
        ("net.ipv6.neigh.default.gc_thresh3", 256 + 3 * pods - pods // 5 + nodes * 8),
        ("net.netfilter.nf_conntrack_max", 16384),
        ("fs.inotify.max_user_instances", 64),
        ("kernel.pid_max", 8 * pods + 64 * nodes),
    )
    out = []
    for key, need in wanted:
        try:
            have = int(Path("/proc/sys", *key.split(".")).read_text())
        except (OSError, ValueError):
            continue
        out.append(Check(key, have >= need, f"{have} (needs {need})", f"sysctl -w {key}={need}" if have < need else "", False))
    return out


def full_neighbour_table(proc: Path = Path("/proc")) -> Check | None:
    """The check that fails when the machine's clusters together know more neighbours than the kernel keeps; None while it does.

    It is one table for all namespaces. When it overflows no new address is found any more, and that looks like a cut cable.
    """
    try:
        entries = int((proc / "net/stat/arp_cache").read_text().splitlines()[1].split()[0], 16)
        limit = int((proc / "sys/net/ipv4/neigh/default/gc_thresh3").read_text())
    except (OSError, ValueError, IndexError):
        return None
    if entries < limit:
        return None
    found = f"the kernel's neighbour table is full ({entries} of {limit} entries, of all clusters together)"
    return Check("neighbours", False, found, f"sysctl -w net.ipv4.neigh.default.gc_thresh3={4 * limit}, or fewer pods")


def iptables_variant() -> Check:
    """Which iptables this machine's `iptables` is."""
    found = probe.iptables_version()
    return Check("iptables variant", bool(found), found or "missing", "" if found else "apt-get install iptables")


def checks(nodes: int = 4, pods: int = 110) -> list[Check]:
    """Everything `nsk8s doctor` shows."""
    root = Check("root", os.geteuid() == 0, f"uid {os.geteuid()}", "" if os.geteuid() == 0 else "use sudo")
    if not root.ok:
        return [root, *tools()]
    return [root, *tools(), iptables_variant(), *kernel(), _disk(), *limits(nodes, pods)]


def _disk() -> Check:
    where = STATE_ROOT if STATE_ROOT.exists() else STATE_ROOT.parent
    free = shutil.disk_usage(where).free
    ok = free >= MIN_FREE_BYTES
    return Check("disk", ok, f"{free // 2**20} MiB free in {where}", "" if ok else f"free some space in {where}")


def require(config: ClusterConfig) -> None:
    """Raise Nsk8sError (one line, with the remedy) for the first thing without which `up` cannot work."""
    require_root()
    for check in [*tools(), _disk()]:
        if check.required and not check.ok:
            raise Nsk8sError(f"{check.name}: {check.found}", check.fix)
    if config.iptables != "auto" and not probe.which(f"iptables-{config.iptables}-restore"):
        raise Nsk8sError(f"iptables-{config.iptables}-restore is missing", "apt-get install iptables")
    for name, error, fix in probe.features():
        if error:
            raise Nsk8sError(f"this kernel cannot do {name}: {error}", fix)
    require_network(config)
    if config.kubelet.config:
        _require_kubelet_config(config)
    if config.network.policy:
        from nsk8s.kernel import nft

        nft.detect()
    if Cgroups().version == "none":
        raise Nsk8sError("no control groups are mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    if STATE_ROOT.exists() and mounts.filesystem_type(str(STATE_ROOT)) == "overlay":
        raise Nsk8sError(f"{STATE_ROOT} is on an overlay", "mount a real file system or a tmpfs there")


def _require_kubelet_config(config: ClusterConfig) -> None:
    """Raise Nsk8sError for what the kubelets would not start with."""
    import yaml

    from nsk8s.cluster.specs import node_files
    from nsk8s.kubelet.config import from_document

    from_document(yaml.safe_load(node_files(config)["var/lib/kubelet/config.yaml"]), "kubelet.config")


def _asked_for(config: ClusterConfig) -> dict[str, str]:
    """Optional features that these settings need, each with the setting. Pure."""
    wanted = {"vxlan": "network.mode vxlan"} if config.network.mode == "vxlan" else {}
    wanted |= {"ip_vs": "proxy.mode ipvs"} if config.proxy.mode == "ipvs" else {}
    return wanted | ({"IPv6": f"network.ipFamilies {config.network.ip_families}"} if config.has_ipv6 else {})


def require_network(config: ClusterConfig) -> None:
    """Raise Nsk8sError when this kernel cannot do the mode, the address families or the links asked for."""
    from nsk8s import link
    from nsk8s.cluster import links

    asked = _asked_for(config)
    for name, error, fix in probe.optional_features(list(asked)) if asked else []:
        if error:
            raise Nsk8sError(f"{asked[name]}: this kernel cannot do {name}: {error}", fix)
    if config.network.mode == "bgp":
        from nsk8s.kernel import bird

        if bird.program() is None:
            raise Nsk8sError("network.mode bgp: bird is missing on this machine", bird.REMEDY)
    for node in config.nodes:
        wanted = link.from_document(node.link.model_dump())
        if wanted.is_shaped:
            links.require(wanted)


def require_root() -> None:
    if os.geteuid() != 0:
        raise Nsk8sError("nsk8s makes network namespaces and needs root", "use sudo")


def require_names_free(config: ClusterConfig, machines: list[str], record: Record) -> None:
    """Every namespace name that `up` will use is free or recorded as ours."""
    for name in machines:
        netns = topology.netns_name(config, name)
        path = machine.netns_path(netns)
        if not os.path.lexists(path):
            continue
        ours = record.namespaces.get(netns)
        found = machine.inode(path)
        if ours is None or (found is not None and found != ours["net"]):
            raise Nsk8sError(
                f"a network namespace {netns} exists that nsk8s did not make",
                f"`ip netns del {netns}` if it is of no use, or choose another name with --name",
            )


def port_is_free(port: int) -> bool:
    """Whether 127.0.0.1:port can be listened on."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_api_port(config: ClusterConfig, taken: set[int]) -> int:
    """The port asked for, or the first free one from 6443 that no other (perhaps stopped) cluster has. Raises Nsk8sError."""
    if config.api_port is not None:
        if not port_is_free(config.api_port):
            raise Nsk8sError(f"port {config.api_port} on 127.0.0.1 is in use", "choose another with --api-port, or none at all")
        return config.api_port
    for port in range(DEFAULT_API_PORT, DEFAULT_API_PORT + PORTS_TRIED):
        if port not in taken and port_is_free(port):
            return port
    raise Nsk8sError(f"no free port between {DEFAULT_API_PORT} and {DEFAULT_API_PORT + PORTS_TRIED}", "give one with --api-port")


def require_disk_for(paths: Paths) -> None:
    """Fail before anything is half-written when the state directory cannot take a file."""
    try:
        paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        trial = paths.state / ".trial"
        trial.write_bytes(b"\0" * 65536)
        trial.unlink()
    except OSError as e:
        raise Nsk8sError(f"cannot write below {paths.state}: {e.strerror}", "free some disk space, then try again") from e
