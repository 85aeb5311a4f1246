"""Linux capabilities by name, and which of them a container gets. Pure.

Upstream: capabilities(7); containerd's default set (oci.defaultUnixCaps) without MKNOD.
"""

from __future__ import annotations

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE",
    "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
"""In the kernel's order: the index is the bit (include/uapi/linux/capability.h)."""

DEFAULT = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW",
    "SYS_CHROOT", "AUDIT_WRITE", "SETFCAP",
)  # fmt: skip


def mask(names: list[str] | tuple[str, ...]) -> int:
    """The bit mask of names such as `NET_ADMIN` or `CAP_NET_ADMIN`, any case. Raises ValueError naming the unknown one."""
    bits = 0
    for name in names:
        bare = name.upper().removeprefix("CAP_")
        if bare not in NAMES:
            raise ValueError(f'unknown capability "{name}"')
        bits |= 1 << NAMES.index(bare)
    return bits


ALL = (1 << len(NAMES)) - 1


def for_container(add: list[str], drop: list[str], privileged: bool) -> int:
    """The set of a container. `ALL` in `add` or `drop` means every one; what is dropped by name goes even then, and what is
    added by name stays even when ALL is dropped, as in containerd (add ALL, drop ALL, add, drop)."""
    if privileged:
        return ALL
    bits = mask(DEFAULT)
    added, dropped = [c.upper() for c in add], [c.upper() for c in drop]
    if "ALL" in added or "CAP_ALL" in added:
        bits = ALL
    if "ALL" in dropped or "CAP_ALL" in dropped:
        bits = 0
    every = {"ALL", "CAP_ALL"}
    bits |= mask([c for c in added if c not in every])
    return bits & ~mask([c for c in dropped if c not in every])
