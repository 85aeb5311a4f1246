"""A machine made of namespaces: network always, mount and UTS for nodes. Touches: namespaces, mounts, sysctls, /run/netns.

The network namespace gets a name in /run/netns, as `ip netns` would give it.  The mount namespace is pinned by a bind mount
of its own (such mounts are never copied into other mount namespaces, so nothing can keep a dead machine alive), and the UTS
namespace inside it.  Everything is made in a throwaway child, and its inode is known before it gets a name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import mounts
from nsk8s.kernel import syscalls as sc

NETNS_DIR = Path("/run/netns")
OWN_ETC = ("cni", "kubernetes")
"""Folders of /etc that a node has for itself: what podman or a real cluster configured there is the machine's."""
UTS_PIN = "/run/nsk8s/uts"
"""Inside a node's mount namespace."""


def netns_path(name: str) -> Path:
    return NETNS_DIR / name


def inode(path: str | Path) -> int | None:
    """The inode of the namespace pinned at `path`; None when nothing is pinned there."""
    try:
        st = os.stat(path)
    except OSError:
        return None
    return st.st_ino if st.st_dev == os.stat("/proc/self/ns/net").st_dev else None


def prepare_netns_dir() -> bool:
    """Make /run/netns a shared mount, as iproute2 does; True when it was not one before (then it is ours to undo)."""
    made = not NETNS_DIR.exists()
    NETNS_DIR.mkdir(mode=0o755, exist_ok=True)
    if str(NETNS_DIR) not in mounts.mount_points("/run/netns"):
        sc.mount(str(NETNS_DIR), str(NETNS_DIR), None, sc.MS_BIND | sc.MS_REC)
        made = True
    sc.mount(None, str(NETNS_DIR), None, sc.MS_SHARED | sc.MS_REC)
    return made


def undo_netns_dir() -> None:
    """Undo prepare_netns_dir, unless somebody else's namespaces are there by now."""
    if not NETNS_DIR.exists() or any(NETNS_DIR.iterdir()):
        return
    with contextlib.suppress(OSError):
        sc.umount(str(NETNS_DIR))
        NETNS_DIR.rmdir()


def prepare_pin_dir(path: Path) -> None:
    """A private tmpfs for mount-namespace pins (the kernel refuses them on shared mounts)."""
    path.mkdir(parents=True, exist_ok=True)
    if str(path) not in mounts.mount_points(str(path)):
        sc.mount("nsk8s", str(path), "tmpfs", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC, "mode=700,size=1m")
        sc.mount(None, str(path), None, sc.MS_PRIVATE)


def write_sysctls(values: Mapping[str, str]) -> None:
    """Write `net/ipv4/ip_forward`-style keys in the calling process's namespaces. One that the kernel lacks is skipped only
    for IPv6 (a kernel without it has nothing to switch off)."""
    for key, value in values.items():
        try:
            with open(f"/proc/sys/{key}", "w", encoding="ascii") as f:
                f.write(value)
        except FileNotFoundError:
            if not key.startswith("net/ipv6/"):
                raise Nsk8sError(
                    f"this kernel has no sysctl {key.replace('/', '.')}",
                    "modprobe br_netfilter" if key.startswith("net/bridge/") else "",
                ) from None


def create(
    netns: str,
    sysctls: Mapping[str, str],
    record: Callable[[dict[str, int]], None],
    node_root: Path | None = None,
    hostname: str = "",
    pin: Path | None = None,
    shown: Sequence[str] = (),
) -> None:
    """Make a machine. `record({"net": inode, "mnt": inode})` is called before it gets its name.

    With `node_root` (its kept disk: `etc/` and `var/` below) it also gets a mount namespace, pinned at `pin`, and a host name;
    `shown` are folders of this machine that it is to see at their own paths, read-only.
    Raises Nsk8sError, FileExistsError when the name is taken.
    """
    target = netns_path(netns)
    if target.exists():
        raise FileExistsError(errno.EEXIST, "a network namespace of this name exists", str(target))
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready_r)
        os.close(go_w)  # or the child would wait for itself
        _child(ready_w, go_r, sysctls, node_root, hostname, shown)
    os.close(ready_w)
    os.close(go_r)
    try:
        with os.fdopen(ready_r, "rb") as f:
            answer = f.read()
        if answer != b"ok":
            raise Nsk8sError(f"cannot make {netns}: {answer.decode(errors='replace') or 'the child died'}")
        proc = f"/proc/{pid}/ns"
        found = {"net": os.stat(f"{proc}/net").st_ino}
        if pin is not None:
            found["mnt"] = os.stat(f"{proc}/mnt").st_ino
        record(found)
        _pin(f"{proc}/net", target)
        if pin is not None:
            _pin(f"{proc}/mnt", pin)
    finally:
        os.close(go_w)
        os.waitpid(pid, 0)


def _pin(source: str, target: Path) -> None:
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        sc.mount(source, str(target), None, sc.MS_BIND)
    except OSError as e:
        target.unlink()
        if e.errno == errno.EINVAL and source.endswith("/mnt"):
            # A mount namespace may be pinned only in an older one; Linux 6.18 tells age by numbers drawn per processor.
            raise Nsk8sError(
                "the kernel refuses to keep a node's mount namespace in this one, which it takes for the younger",
                "run nsk8s in the machine's own mount namespace: nsenter --target 1 --mount nsk8s up",
            ) from e
        raise


def _child(
    ready: int, go: int, sysctls: Mapping[str, str], node_root: Path | None, hostname: str, shown: Sequence[str]
) -> NoReturn:  # fmt: skip
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        flags = sc.CLONE_NEWNET
        if node_root is not None:
            flags |= sc.CLONE_NEWNS | sc.CLONE_NEWUTS
        sc.unshare(flags)
        write_sysctls(sysctls)
        if node_root is not None:
            sc.sethostname(hostname)
            furnish(node_root, shown)
        os.write(ready, b"ok")
        code = 0
    except BaseException as e:
        os.write(ready, str(e).encode()[:1000])
    finally:
        os.close(ready)
        with contextlib.suppress(OSError):
            while os.read(go, 1):  # the parent closes its end when everything is pinned (or when it dies)
                pass
        os._exit(code)


def furnish(node_root: Path, shown: Sequence[str] = ()) -> None:
    """Give the calling process's fresh mount namespace a machine's own /etc, /var, /run and /sys, and the folders `shown`."""
    sc.mount(None, "/", None, sc.MS_SLAVE | sc.MS_REC)
    opened = [_open_folder(folder) for folder in shown]  # by their paths no longer, once /var and /run are the node's
    cgroup = [m for m in mounts.mount_points("/sys/fs/cgroup") if m == "/sys/fs/cgroup"]
    for below in ("etc", ".etc-work", "var/lib/kubelet", "var/lib/cni/networks", "var/lib/containers", "var/log/pods"):
        (node_root / below).mkdir(parents=True, exist_ok=True)
    for own in OWN_ETC:
        directory = node_root / "etc" / own
        directory.mkdir(exist_ok=True)
        os.setxattr(directory, "trusted.overlay.opaque", b"y")  # nothing of the machine's own shines through
    for name, mode in (("tmp", 0o1777), ("cache", 0o755), ("spool", 0o755)):
        directory = node_root / "var" / name
        if not directory.exists():
            directory.mkdir()
            directory.chmod(mode)
    for link, where in (("run", "/run"), ("lock", "/run/lock")):
        if not os.path.lexists(node_root / "var" / link):
            (node_root / "var" / link).symlink_to(where)

    # Other machines' namespaces are pinned below /run: a copy of those mounts here would keep them alive.
    for point in reversed(mounts.mount_points("/run")):
        if any(folder == point or folder.startswith(point + "/") for folder in shown):
            continue  # detached, nothing of it could be mounted any more
        with contextlib.suppress(OSError):
            sc.umount(point, sc.MNT_DETACH)
    overlay = f"lowerdir=/etc,upperdir={node_root}/etc,workdir={node_root}/.etc-work"
    try:
        sc.mount("nsk8s", "/etc", "overlay", sc.MS_NOSUID | sc.MS_NODEV, overlay)
    except OSError as e:
        raise Nsk8sError(f"cannot lay an overlay over /etc ({e.strerror}); the state directory must not be on an overlay") from e
    mounts.bind(str(node_root / "var"), "/var")
    sc.mount("nsk8s", "/run", "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=755")
    for fresh in ("/run/lock", "/run/netns", "/run/nsk8s"):
        os.mkdir(fresh, 0o755)
    os.chmod("/run/nsk8s", 0o700)

    if cgroup:
        os.mkdir("/run/.cgroup")
        mounts.bind("/sys/fs/cgroup", "/run/.cgroup")
        sc.mount(None, "/run/.cgroup", None, sc.MS_PRIVATE | sc.MS_REC)
    sc.mount(None, "/run", None, sc.MS_PRIVATE)
    sc.mount("nsk8s", "/sys", "sysfs", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)
    if cgroup:
        sc.mount(None, "/sys", None, sc.MS_PRIVATE)
        sc.mount("/run/.cgroup", "/sys/fs/cgroup", None, sc.MS_MOVE)
        os.rmdir("/run/.cgroup")
    for folder, fd in zip(shown, opened, strict=True):
        mounts.make_mountpoint(folder)
        mounts.bind(f"/proc/self/fd/{fd}", folder, sc.MS_RDONLY, recursive=False)
        os.close(fd)
    os.close(os.open(UTS_PIN, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    sc.mount("/proc/self/ns/uts", UTS_PIN, None, sc.MS_BIND)


def _open_folder(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise Nsk8sError(f"{path}, which nodes are to see, cannot be opened ({e.strerror})", "put it back where it was") from e


def enter(netns: str | Path, mnt: str | Path | None = None) -> None:
    """Move the calling process (for good) into a machine: its network and, if it is a node, mount and UTS namespaces.

    Single-threaded processes only, as a throwaway child or a component about to start. Raises OSError.
    """
    net_fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    mnt_fd = os.open(mnt, os.O_RDONLY | os.O_CLOEXEC) if mnt is not None else -1
    try:
        sc.setns(net_fd, sc.CLONE_NEWNET)
        if mnt_fd >= 0:
            sc.setns(mnt_fd, sc.CLONE_NEWNS)
            uts_fd = os.open(UTS_PIN, os.O_RDONLY | os.O_CLOEXEC)
            sc.setns(uts_fd, sc.CLONE_NEWUTS)
            os.close(uts_fd)
    finally:
        os.close(net_fd)
        if mnt_fd >= 0:
            os.close(mnt_fd)


@contextlib.contextmanager
def inside(netns: str | Path) -> Iterator[None]:
    """`with inside(path):` sockets made here belong to that network namespace."""
    from nsk8s.kernel.rtnl import entered

    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(fd):
            yield
    finally:
        os.close(fd)


def discard(path: Path, expected_inode: int | None) -> bool:
    """Unpin a namespace and remove its name, if it is the one recorded (None: whatever is there). False when it is not ours."""
    if not os.path.lexists(path):
        return True
    found = inode(path)
    if found is not None and expected_inode is not None and found != expected_inode:
        return False
    mounts.unmount(str(path))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return True
