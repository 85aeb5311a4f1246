"""A small system call filter: the classic ways out of a container answer EPERM. Lean. Touches: the calling process.

It is a list of what is denied, not of what is allowed, and the second fence only: capabilities are the first. What a container
was given a capability for is let through. Upstream: moby's and containerd's default seccomp profile.
"""

from __future__ import annotations

import errno
import os
import struct

from nsk8s.kernel import capabilities, syscalls

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86_64, aarch64); -1: the architecture has no such call. The capability that opens each group comes first.
_DENIED: dict[str, dict[str, tuple[int, int]]] = {
    "SYS_ADMIN": {
        "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "setns": (308, 268), "quotactl": (179, 60),
        "quotactl_fd": (443, 443), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
        "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
        "swapon": (167, 224), "swapoff": (168, 225), "bpf": (321, 280), "perf_event_open": (298, 241),
        "lookup_dcookie": (212, 18), "fanotify_init": (300, 262), "open_tree_attr": (467, 467),
    },
    "SYS_MODULE": {
        "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "create_module": (174, -1),
    },
    "SYS_BOOT": {"reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294)},
    "SYS_PACCT": {"acct": (163, 89)},
    "SYS_RAWIO": {"iopl": (172, -1), "ioperm": (173, -1)},
    "SYS_TIME": {"settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171)},
    "SYS_PTRACE": {"process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272)},
    "SYSLOG": {"syslog": (103, 116)},
    "DAC_READ_SEARCH": {"open_by_handle_at": (304, 265)},
    "": {
        "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "userfaultfd": (323, 282),
        "uselib": (134, -1), "ustat": (136, -1), "sysfs": (139, -1), "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    },
}  # fmt: skip
_UNSHARE = (272, 97)
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_SOCKET = (41, 198)
_AF_VSOCK = 40
"""Leads past every namespace to the hypervisor, as moby's profile says too."""
_NEW_NAMESPACES = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWCGROUP | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET
)  # fmt: skip
_X32_BIT = 0x40000000

_LD_W_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def denied_numbers(capability_mask: int, machine: str) -> list[int]:
    """The system call numbers that a container with these capabilities may not use. Pure."""
    column = 0 if machine == "x86_64" else 1
    out = []
    for capability, calls in _DENIED.items():
        if capability and capability_mask & capabilities.mask([capability]):
            continue
        out += [numbers[column] for numbers in calls.values() if numbers[column] >= 0]
    return out


def build(capability_mask: int, machine: str) -> bytes:
    """The BPF program; empty on an architecture that is not known. Pure."""
    arch = _AUDIT_ARCH.get(machine)
    if arch is None:
        return b""
    column = 0 if machine == "x86_64" else 1

    def op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, k)

    eperm, enosys, allow = op(_RET, _ERRNO | errno.EPERM), op(_RET, _ERRNO | errno.ENOSYS), op(_RET, _ALLOW)
    program = [op(_LD_W_ABS, 4), op(_JEQ, arch, 1, 0), eperm, op(_LD_W_ABS, 0)]  # other architectures: nothing at all
    if machine == "x86_64":
        program += [op(_JGE, _X32_BIT, 0, 1), enosys]
    for number in denied_numbers(capability_mask, machine):
        program += [op(_JEQ, number, 0, 1), eperm]
    program += [op(_JEQ, _SOCKET[column], 0, 3), op(_LD_W_ABS, 16), op(_JEQ, _AF_VSOCK, 0, 1), eperm, op(_LD_W_ABS, 0)]
    if not capability_mask & capabilities.mask(["SYS_ADMIN"]):
        # clone3's flags lie in memory, out of a filter's reach: without it the C library falls back to clone.
        program += [op(_JEQ, _CLONE3[column], 0, 1), enosys]
        # Both take the flags as first argument: its low half is at offset 16 on little-endian machines.
        program += [op(_JEQ, _UNSHARE[column], 1, 0), op(_JEQ, _CLONE[column], 0, 3)]
        program += [op(_LD_W_ABS, 16), op(_JSET, _NEW_NAMESPACES, 0, 1), eperm]
    program.append(allow)
    return b"".join(program)


def apply(capability_mask: int) -> None:
    """Filter the calling process from now on. Needs no_new_privs or CAP_SYS_ADMIN. Raises OSError."""
    program = build(capability_mask, os.uname().machine)
    if program:
        syscalls.seccomp_filter(program)
