"""What a container sees: an overlay over the image and /usr, its own /proc, /dev and /sys, the masks, the volumes.

Runs in the container's first process, in its new mount and pid namespace, before anything of the container's own runs.
Touches: mounts. Upstream: runc's libcontainer/rootfs_linux.go; lists of paths from containerd's oci.WithDefaultPathMasks.
"""

from __future__ import annotations

import errno
import os
import stat

from nsk8s.kernel import mounts
from nsk8s.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx"))
_NO_DEV_EXEC_SUID = sc.MS_NODEV | sc.MS_NOEXEC | sc.MS_NOSUID
_RO = sc.MS_RDONLY


def _quote(path: str) -> str:
    """A path inside overlay's options."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def overlay_options(lowers: list[str], upper: str, work: str, volatile: bool) -> str:
    """Pure."""
    text = f"lowerdir={':'.join(_quote(p) for p in lowers)},upperdir={_quote(upper)},workdir={_quote(work)}"
    return text + (",volatile" if volatile else "")


def _overlay(target: str, lowers: list[str], upper: str, work: str) -> None:
    """Mount one overlay, `volatile` (no fsync for a layer nobody keeps) where the kernel has it (5.10)."""
    try:
        sc.mount("overlay", target, "overlay", sc.MS_NODEV, overlay_options(lowers, upper, work, True))
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        sc.mount("overlay", target, "overlay", sc.MS_NODEV, overlay_options(lowers, upper, work, False))


def build(spec: dict[str, Any]) -> str:
    """Mount everything of a container below `<dir>/rootfs` and return that path; the caller pivots there. Raises OSError."""
    sc.mount(None, "/", None, sc.MS_REC | sc.MS_SLAVE)
    base = spec["dir"]
    if spec["tmpfs"]:
        # An upper layer cannot lie on an overlay. This tmpfs lives as long as the container's mount namespace.
        sc.mount("tmpfs", base, "tmpfs", sc.MS_NODEV, "mode=0700")
        for name in ("upper", "work", "usr", "usrwork", "rootfs"):
            os.mkdir(f"{base}/{name}", 0o755)
    root = base + "/rootfs"
    _overlay(root, spec["layers"], base + "/upper", base + "/work")
    for index, path in enumerate(spec["trees"]):
        if index == 0:
            _overlay(root + path, [path], base + "/usr", base + "/usrwork")
        else:
            mounts.make_mountpoint(root + path, path)
            mounts.bind(path, root + path, _RO | sc.MS_NODEV)
    _proc_and_sys(root, spec)
    _dev(root, spec)
    for mount in sorted(spec["mounts"], key=lambda m: m["containerPath"].count("/")):
        _volume(root, mount, spec["privileged"])
    if not spec["privileged"]:
        _mask(root)
    if spec["workingDir"]:
        os.makedirs(mounts.inside(root, spec["workingDir"]), exist_ok=True)
    if spec["readonly"]:
        for path in (root + spec["trees"][0], root):
            sc.mount(None, path, None, sc.MS_BIND | sc.MS_REMOUNT | _RO | mounts.statvfs_flags(path))
    return str(root)


def enter(root: str) -> None:
    """Make `root` the root and let go of the old one."""
    os.chdir(root)
    sc.pivot_root(".", ".")
    sc.umount(".", sc.MNT_DETACH)
    os.chdir("/")


def _proc_and_sys(root: str, spec: dict[str, Any]) -> None:
    sc.mount("proc", root + "/proc", "proc", _NO_DEV_EXEC_SUID)
    readonly = 0 if spec["privileged"] else _RO
    sc.mount("sysfs", root + "/sys", "sysfs", _NO_DEV_EXEC_SUID | readonly)
    groups = list(spec["cgroupMounts"])
    where = root + "/sys/fs/cgroup"
    if groups and groups[0][0]:
        sc.mount("tmpfs", where, "tmpfs", _NO_DEV_EXEC_SUID, "mode=755")
    for folder, kind, options in groups:
        target = f"{where}/{folder}" if folder else where
        if folder:
            os.mkdir(target)
            for name in folder.split(","):
                if name != folder:
                    os.symlink(folder, f"{where}/{name}")
        sc.mount("cgroup", target, kind, _NO_DEV_EXEC_SUID | readonly, options or None)
    if groups and groups[0][0]:
        sc.mount(None, where, None, sc.MS_REMOUNT | sc.MS_BIND | _NO_DEV_EXEC_SUID | readonly)


def _dev(root: str, spec: dict[str, Any]) -> None:
    dev = root + "/dev"
    sc.mount("tmpfs", dev, "tmpfs", sc.MS_NOSUID | sc.MS_STRICTATIME, "mode=755,size=65536k")
    os.mkdir(dev + "/pts")
    sc.mount("devpts", dev + "/pts", "devpts", sc.MS_NOSUID | sc.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    os.mkdir(dev + "/shm")
    mounts.bind(spec["shm"], dev + "/shm") if spec["shm"] else sc.mount(
        "shm", dev + "/shm", "tmpfs", _NO_DEV_EXEC_SUID, "mode=1777,size=65536k"
    )
    os.mkdir(dev + "/mqueue")
    try:
        sc.mount("mqueue", dev + "/mqueue", "mqueue", _NO_DEV_EXEC_SUID)
    except OSError as e:
        if e.errno != errno.ENODEV:
            raise
        os.rmdir(dev + "/mqueue")  # a kernel without POSIX message queues
    for name, major, minor in DEVICES:
        _device(f"{dev}/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor), f"/dev/{name}")
    if spec["privileged"]:
        _all_devices(dev)
    for name, target in _LINKS:
        if not os.path.lexists(f"{dev}/{name}"):
            os.symlink(target, f"{dev}/{name}")


def _device(path: str, mode: int, number: int, host: str) -> None:
    try:
        os.mknod(path, mode, number)
        os.chmod(path, mode & 0o777)
    except PermissionError:
        mounts.make_mountpoint(path, host)
        mounts.bind(host, path, recursive=False)


def _all_devices(dev: str) -> None:
    """A privileged container has the machine's devices, as copies of their nodes."""
    skip = {"pts", "shm", "mqueue", "console", "ptmx", "tty"}
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir("/dev" + folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}"
                if (not folder and entry.name in skip) or os.path.lexists(dev + path):
                    continue
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    os.mkdir(dev + path, info.st_mode & 0o777)
                    todo.append(path)
                elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                    os.mknod(dev + path, info.st_mode, info.st_rdev)
                    os.chown(dev + path, info.st_uid, info.st_gid)
                    os.chmod(dev + path, info.st_mode & 0o777)


def _volume(root: str, mount: dict[str, Any], privileged: bool) -> None:
    source = mount["hostPath"]
    target = mounts.inside(root, mount["containerPath"])
    mounts.make_mountpoint(target, source)
    flags = (_RO if mount.get("readonly") else 0) | (0 if privileged else sc.MS_NODEV)
    if mount.get("nosuid"):
        flags |= sc.MS_NOSUID
    mounts.bind(source, target, flags)
    sc.mount(None, target, None, sc.MS_PRIVATE | sc.MS_REC)
    if not privileged or mount.get("readonly"):
        # A remount reaches one mount only: those below a recursive bind need it as well.
        for point in mounts.mount_points(target)[1:]:
            sc.mount(None, point, None, sc.MS_BIND | sc.MS_REMOUNT | flags | mounts.statvfs_flags(point) | _ro_of(point))


def _ro_of(path: str) -> int:
    return sc.MS_RDONLY if os.statvfs(path).f_flag & os.ST_RDONLY else 0


def _mask(root: str) -> None:
    null = root + "/dev/null"
    for path in MASKED:
        try:
            mode = os.stat(root + path).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            sc.mount("tmpfs", root + path, "tmpfs", _RO | _NO_DEV_EXEC_SUID, "size=0k")
        else:
            sc.mount(null, root + path, None, sc.MS_BIND)
    for path in READONLY:
        target = root + path
        try:
            sc.mount(target, target, None, sc.MS_BIND | sc.MS_REC)
        except FileNotFoundError:
            continue
        sc.mount(None, target, None, sc.MS_BIND | sc.MS_REMOUNT | _RO | _NO_DEV_EXEC_SUID)
