"""System calls that Python 3.11 has no wrapper for. Lean: imported by the supervisor, the runtime and every sandbox.

Touches: namespaces, mounts, capabilities, process attributes.  Every function raises OSError with the call's errno.
Constants are the kernel's (include/uapi/linux/{sched,mount,prctl,capability}.h).
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24

MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)

# Syscall numbers differ per architecture; both have pivot_root and capset under these.
_MACHINE = os.uname().machine
_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(_MACHINE, 41)
_NR_OPEN_TREE, _NR_MOUNT_SETATTR = 428, 442
_AT_FDCWD, _AT_EMPTY_PATH, _OPEN_TREE_CLONE, _MOUNT_ATTR_RDONLY = -100, 0x1000, 1, 1
_NR_CAPSET = {"x86_64": 126, "aarch64": 91}.get(_MACHINE, 91)


def trim_heap() -> None:
    """Give freed memory back to the machine, where the C library can (glibc's malloc_trim)."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _check(result: int, *what: object) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), " ".join(str(w) for w in what) or None)
    return result


def setns(fd: int, nstype: int = 0) -> None:
    """Move the calling thread into the namespace behind `fd` (os.setns needs Python 3.12)."""
    _check(_libc.setns(fd, nstype))


def unshare(flags: int) -> None:
    """Give the calling process new namespaces of these kinds."""
    _check(_libc.unshare(flags))


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    _check(
        _libc.mount(text(source), text(target), text(fstype), ctypes.c_ulong(flags), text(data)),
        fstype or source or "",
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    _check(_libc.syscall(_NR_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old)), new_root)


def open_tree_readonly(path: str) -> int:
    """A descriptor of `path` on a read-only mount of its own that is attached nowhere (Linux 5.12)."""
    fd = _check(_libc.syscall(_NR_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC), path)
    try:
        wanted = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr: set, clear, propagation, user namespace
        _check(_libc.syscall(_NR_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, wanted, len(wanted)), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def sethostname(name: str) -> None:
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, len(raw)), name)


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    return _check(
        _libc.prctl(option, ctypes.c_ulong(a), ctypes.c_ulong(b), ctypes.c_ulong(c), ctypes.c_ulong(d)), "prctl", option
    )


def set_process_name(name: str) -> None:
    """The `comm` shown by ps and top: at most 15 bytes are kept."""
    buffer = ctypes.create_string_buffer(os.fsencode(name)[:15])
    _check(_libc.prctl(PR_SET_NAME, buffer, 0, 0, 0))


def seccomp_filter(program: bytes) -> None:
    """Put a BPF system call filter (8 bytes an instruction) on the calling thread, for good and for its children."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(fprog, len(fprog))
    mode_filter = 2
    _check(_libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(mode_filter), buffer, ctypes.c_ulong(0), ctypes.c_ulong(0)), "seccomp")


_title_area: tuple[int, int] | None = None


def prepare_argv() -> tuple[int, int]:
    """(address, length) of the area behind argv and environ; environ is first moved away, so that getenv keeps working.

    Once in a process is enough for all its forks, which then touch less of the memory they share.
    """
    global _title_area
    if _title_area is not None:
        return _title_area
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    arg_start, arg_end, env_start, env_end = (int(x) for x in fields[45:49])
    if not arg_start or arg_end <= arg_start:
        _title_area = (0, 0)
        return _title_area
    end = env_end if env_start == arg_end else arg_end
    environ = ctypes.POINTER(ctypes.c_void_p).in_dll(_libc, "environ")
    strdup = _libc.strdup
    strdup.restype, strdup.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    index = 0
    while environ and environ[index]:
        address = environ[index]
        if address is not None and arg_start <= address < env_end:
            environ[index] = strdup(address)
        index += 1
    _title_area = (arg_start, end - arg_start)
    return _title_area


def overwrite_argv(title: bytes) -> None:
    """Replace what /proc/self/cmdline shows, as far as there is room. Upstream: setproctitle (whose package imports logging)."""
    address, room = prepare_argv()
    if room:
        # The kernel shows everything up to the end of argv, and beyond it only when the byte before that is not NUL.
        ctypes.memmove(address, title[: room - 1].ljust(room, b"\0"), room)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capability sets; each is a bit mask of CAP_* numbers (version 3, 64 bits)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    data = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, inheritable & low, effective >> high, permitted >> high, inheritable >> high
    )
    _check(_libc.syscall(_NR_CAPSET, header, data))
