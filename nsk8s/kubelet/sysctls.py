"""Which sysctls a pod may set on this node: the safe ones, and those the node was told to allow. Pure.

Upstream: kubelet/sysctl (allowlist.go, safe_sysctls.go), component-helpers/node/util/sysctl (namespace.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nsk8s.api.meta import Object

SAFE = frozenset((
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
))  # fmt: skip
"""What needs no leave: it ends at the pod's own namespaces and harms no other pod."""
FORBIDDEN = "SysctlForbidden"
_PATTERN = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]")
_IPC = ("kernel.shm", "kernel.msg", "fs.mqueue.")


def normalize(name: str) -> str:
    """Dots as separators, whichever of the two forms it is in: `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`."""
    first = next((c for c in name if c in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))


def namespace_of(name: str) -> str:
    """`ipc` or `net`, whichever the setting belongs to; empty when it is the whole machine's."""
    if name == "kernel.sem" or name.startswith(_IPC):
        return "ipc"
    return "net" if name.startswith("net.") else ""


def patterns(given: Iterable[str]) -> tuple[str, ...]:
    """--allowed-unsafe-sysctls: names, or beginnings that end in an asterisk. Raises ValueError in upstream's words."""
    if isinstance(given, str):
        raise TypeError("want a list")
    found = []
    for raw in given:
        text = normalize(str(raw).strip())
        if len(text) > 253 or not _PATTERN.fullmatch(text) or "*" in text[:-1]:
            raise ValueError(f'sysctl pattern "{raw}" must be a name, or a beginning of one and *, of at most 253 characters')
        if not namespace_of(text.removesuffix("*")):
            raise ValueError(f'the sysctl "{raw}" is not known to be namespaced')
        found.append(text)
    return tuple(found)


def problem(pod: Object, allowed: Iterable[str]) -> str:
    """Why the node must refuse the pod for its sysctls; empty when it need not."""
    spec = pod["spec"]
    for entry in (spec.get("securityContext") or {}).get("sysctls") or []:
        name = normalize(entry["name"])
        if name not in SAFE and not any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in allowed):
            return f'forbidden sysctl: "{name}" not allowlisted'
        shared = namespace_of(name)
        if (shared == "net" and spec.get("hostNetwork")) or (shared == "ipc" and spec.get("hostIPC")):
            return f'forbidden sysctl: "{name}" not allowed with host {shared} enabled'
    return ""


def as_cri(pod: Object) -> dict[str, str]:
    """The pod's sysctls as the runtime takes them."""
    asked = (pod["spec"].get("securityContext") or {}).get("sysctls") or []
    return {normalize(s["name"]): str(s["value"]) for s in asked}
