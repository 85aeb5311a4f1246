"""The lower layers of containers: a synthesised root without the machine's own data, and what an image adds. Touches: files.

Made once a node, below `<state-dir>/images/`; a container's overlay lies on top. Upstream: an unpacked image snapshot.
"""

from __future__ import annotations

import os

from nsk8s.kernel import mounts
from nsk8s.runtime.images import BUSYBOX_BIN, Image

_VERSION = "1"
_LINKABLE = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS = (
    "usr", "etc", "proc", "sys", "dev", "run", "run/lock", "tmp", "var", "var/cache", "var/lib", "var/lib/misc", "var/local",
    "var/log", "var/mail", "var/opt", "var/spool", "var/tmp", "opt", "srv", "root", "home", "mnt", "media", "boot",
    "etc/ssl", "etc/opt",
)  # fmt: skip
_MODES = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "run/lock": 0o1777, "var/mail": 0o2775, "var/local": 0o2775}
_COPIED = (
    "alternatives", "bash.bashrc", "ca-certificates.conf", "debian_version", "ethertypes", "gai.conf", "host.conf",
    "inputrc", "issue", "issue.net", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types",
    "networks", "os-release", "profile", "protocols", "rpc", "services", "shells", "ssl/certs", "ssl/openssl.cnf",
    "terminfo", "timezone", "pki/tls/certs", "python3", "python3.11", "python3.12", "python3.13", "iproute2", "crypto-policies",
)  # fmt: skip
"""From the machine's /etc, where present: what programs below /usr need and what tells nothing about the machine's users."""

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
sync:x:4:65534:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
shadow:x:42:
www-data:x:33:
users:x:100:
nogroup:x:65534:
"""
_NSSWITCH = """\
passwd:         files
group:          files
shadow:         files
hosts:          files dns
networks:       files
protocols:      files
services:       files
ethers:         files
rpc:            files
"""
_FILES = {
    "etc/passwd": _PASSWD, "etc/group": _GROUP, "etc/nsswitch.conf": _NSSWITCH, "etc/fstab": "",
    "etc/hosts": "127.0.0.1\tlocalhost\n", "etc/hostname": "", "etc/resolv.conf": "", "etc/machine-id": "",
}  # fmt: skip


def _write(path: str, text: str, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, text.encode())
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _copy(source: str, target: str) -> None:
    """A file (content), a link (as it is) or a folder of these; private files, manual pages and other kinds are left out."""
    if source.endswith(".gz"):
        return  # /etc/alternatives has a link for each manual page
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
        for name in os.listdir(source):
            _copy(f"{source}/{name}", f"{target}/{name}")
    elif os.path.isfile(source) and os.stat(source).st_mode & 0o004:
        with open(source, "rb") as f:
            content = f.read()
        with open(target, "wb") as f:
            f.write(content)


def base_layer(images_dir: str) -> str:
    """The folder that every container's root starts from; made when it is not there yet. Safe to call at the same time twice."""
    final = f"{images_dir}/base-{_VERSION}"
    if os.path.isdir(final):
        return final
    part = f"{final}.{os.getpid()}.part"
    mounts.remove_tree(part)
    old = os.umask(0o022)
    try:
        os.makedirs(part, 0o755)
        for folder in _FOLDERS:
            os.mkdir(f"{part}/{folder}", 0o755)
            if folder in _MODES:
                os.chmod(f"{part}/{folder}", _MODES[folder])
        os.symlink("/run", part + "/var/run")
        os.symlink("/run/lock", part + "/var/lock")
        for name in _LINKABLE:
            if os.path.islink("/" + name):
                os.symlink(os.readlink("/" + name), f"{part}/{name}")
        for name in _COPIED:
            if os.path.lexists("/etc/" + name):
                os.makedirs(os.path.dirname(f"{part}/etc/{name}"), exist_ok=True)
                _copy("/etc/" + name, f"{part}/etc/{name}")
        for name, text in _FILES.items():
            _write(f"{part}/{name}", text)
        _write(part + "/etc/shadow", "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n", 0o640)
        os.symlink("/proc/mounts", part + "/etc/mtab")
    finally:
        os.umask(old)
    return _publish(part, final)


def _publish(part: str, final: str) -> str:
    try:
        os.rename(part, final)
    except OSError:
        if not os.path.isdir(final):
            raise
        mounts.remove_tree(part)
    return final


def image_layers(images_dir: str, image: Image) -> list[str]:
    """Lower folders for overlay, topmost first."""
    layers = [base_layer(images_dir)]
    if image.busybox and os.access("/usr/bin/busybox", os.X_OK):
        layers.insert(0, _busybox_layer(images_dir))
    if image.files:
        final = f"{images_dir}/{image.ref.removeprefix('sha256:')[:24]}"
        if not os.path.isdir(final):
            part = f"{final}.{os.getpid()}.part"
            old = os.umask(0o022)
            try:
                for path, text in image.files.items():
                    _write(part + path, text, 0o755 if text.startswith("#!") else 0o644)
            finally:
                os.umask(old)
            _publish(part, final)
        layers.insert(0, final)
    return layers


def _busybox_layer(images_dir: str) -> str:
    final = f"{images_dir}/busybox-{_VERSION}"
    if os.path.isdir(final):
        return final
    part = f"{final}.{os.getpid()}.part"
    mounts.remove_tree(part)
    os.makedirs(part + BUSYBOX_BIN)
    for applet in _applets():
        os.symlink("/usr/bin/busybox", f"{part}{BUSYBOX_BIN}/{applet}")
    return _publish(part, final)


def _applets() -> list[str]:
    """What this machine's busybox was built with."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.posix_spawn(
        "/usr/bin/busybox", ["busybox", "--list"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    with open(read, encoding="ascii") as f:
        names = f.read().split()
    os.waitpid(pid, 0)
    return [name for name in names if "/" not in name]


def machine_trees() -> list[str]:
    """Folders of the machine that every container sees: /usr (as an overlay), then what is bound read-only: file systems
    mounted below /usr, and /bin and the like where they are real folders."""
    trees = ["/usr"]
    trees += [p for p in mounts.mount_points("/usr") if p != "/usr"]
    trees += ["/" + name for name in _LINKABLE if os.path.isdir("/" + name) and not os.path.islink("/" + name)]
    return trees


def package_trees() -> list[str]:
    """Where the installed nsk8s and its Python lie, outside /usr: bound read-only into images that run our own code."""
    import sys

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))]
    found += [package, os.path.join(os.path.dirname(package), "cni")]
    trees: list[str] = []
    for path in found:
        inside = any(path == t or path.startswith(t + "/") for t in ["/usr", *trees])
        if not inside and path not in ("/", "") and os.path.isdir(path):
            trees.append(path)
    return trees
