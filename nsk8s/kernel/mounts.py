"""Mounts above the bare system calls: look up, bind, make read-only, undo. Lean. Touches: mounts, /proc/self/mountinfo."""

from __future__ import annotations

import errno
import os
import stat

from nsk8s.kernel import syscalls as sc


def mount_points(below: str = "/") -> list[str]:
    """Mount points at or below a path in this mount namespace, in the order they were made."""
    prefix = below.rstrip("/") + "/"
    out = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            where = line.split(" ", 5)[4]
            if "\\" in where:
                where = where.encode("latin-1", "surrogateescape").decode("unicode_escape")
            if where == below or where.startswith(prefix):
                out.append(where)
    return out


def unmount(target: str) -> None:
    """Detach every mount that lies on `target`; none is fine."""
    while True:
        try:
            sc.umount(target, sc.MNT_DETACH)
        except OSError as e:
            if e.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise


def statvfs_flags(path: str) -> int:
    """The MS_* flags that a read-only remount must keep, as a locked mount refuses to lose them."""
    have = os.statvfs(path).f_flag
    flags = 0
    for st_flag, ms_flag in ((os.ST_NOSUID, sc.MS_NOSUID), (os.ST_NODEV, sc.MS_NODEV), (os.ST_NOEXEC, sc.MS_NOEXEC)):
        if have & st_flag:
            flags |= ms_flag
    return flags


def bind(source: str, target: str, flags: int = 0, recursive: bool = True) -> None:
    """Bind `source` on `target`; flags (MS_RDONLY, MS_NODEV …) need a second call, which is made when given."""
    sc.mount(source, target, None, sc.MS_BIND | (sc.MS_REC if recursive else 0))
    if flags:
        sc.mount(None, target, None, sc.MS_BIND | sc.MS_REMOUNT | flags | statvfs_flags(target))


def make_mountpoint(target: str, like: str | None = None) -> None:
    """Make `target` (and its parents) exist: a folder, or an empty file when `like` is not a folder."""
    if os.path.lexists(target):
        return
    if like is None or stat.S_ISDIR(os.stat(like).st_mode):
        os.makedirs(target, exist_ok=True)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def inside(root: str, path: str, limit: int = 40) -> str:
    """Where `path` lies below `root` when symbolic links are followed as a process chrooted to `root` would. Parts that do not
    exist are kept as they are. Raises OSError (ELOOP). Upstream: filepath-securejoin."""
    done: list[str] = []
    todo = [p for p in path.split("/") if p and p != "."][::-1]
    while todo:
        part = todo.pop()
        if part == ".." :
            if done:
                done.pop()
            continue
        try:
            link = os.readlink("/".join([root, *done, part]))
        except OSError:
            done.append(part)
            continue
        limit -= 1
        if limit < 0:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if link.startswith("/"):
            done = []
        todo += [p for p in link.split("/") if p and p != "."][::-1]
    return "/".join([root, *done]) if done else root


def remove_tree(path: str) -> None:
    """Delete a folder and all below without following links or crossing mounts; what is gone already is fine.

    (shutil.rmtree would import the compression modules.) Raises OSError (EBUSY) at a mount point.
    """
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            try:
                os.unlink(entry.path)
            except FileNotFoundError:
                continue
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return


def filesystem_type(path: str) -> str:
    """The type of the file system that holds `path` (`ext4`, `overlay`, `tmpfs` …)."""
    device = os.stat(path).st_dev
    want = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    best = -1
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            fields = left.split(" ")
            where = fields[4]
            if fields[2] == want and (path == where or path.startswith(where.rstrip("/") + "/")) and len(where) > best:
                found, best = right.split(" ", 1)[0], len(where)
    return found
