"""Volumes of pods: made, kept current, mounted into containers, taken away. Touches: files, mounts, the API (by ObjectCache).

Upstream: kubelet/volumemanager and pkg/volume/{emptydir,hostpath,configmap,secret,projected,downwardapi}. Everything of a pod
lies below ROOT/pods/UID; persistent volumes are refused in words.
"""

from __future__ import annotations

import base64
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.client.rest import Unreachable
from nsk8s.errors import Nsk8sError, StatusError
from nsk8s.kernel import mounts, syscalls
from nsk8s.kubelet import atomic
from nsk8s.kubelet.atomic import File
from nsk8s.kubelet.env import ConfigError, expand, pod_field, resource_field
from nsk8s.kubelet.objects import ObjectCache, TokenManager

PLUGIN = {
    "emptyDir": "kubernetes.io~empty-dir",
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "projected": "kubernetes.io~projected",
    "downwardAPI": "kubernetes.io~downward-api",
}
RESYNC_S = 60.0
"""KubeletConfiguration.syncFrequency's default: how old a ConfigMap in a volume or an environment may get."""


class MountError(Nsk8sError):
    """A volume cannot be set up; the message is that of the FailedMount event."""


def source_of(volume: Object) -> str:
    """`emptyDir`, `configMap` …: which source a volume has."""
    return next((k for k in volume if k != "name" and volume[k] is not None), "emptyDir")


def needs_refresh(pod: Object) -> bool:
    return any(source_of(v) in ("configMap", "secret", "projected", "downwardAPI") for v in pod["spec"].get("volumes") or [])


def select_items(
    data: Mapping[str, bytes], items: list[Object] | None, default_mode: int, optional: bool, what: str
) -> dict[str, File]:
    """The files of a ConfigMap or Secret: all keys, or the listed ones under their paths. Raises ConfigError."""
    if not items:
        return {key: File(value, default_mode) for key, value in data.items()}
    out = {}
    for item in items:
        if item["key"] not in data:
            if optional:
                continue
            raise ConfigError(f"{what} references non-existent config key: {item['key']}")
        out[_safe(item["path"])] = File(data[item["key"]], int(item["mode"]) if item.get("mode") is not None else default_mode)
    return out


def _safe(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or not path:
        raise ConfigError(f"invalid path: {path!r} must be relative and may not contain '..'")
    return path


def config_data(obj: Object) -> dict[str, bytes]:
    return {
        **{k: str(v).encode("utf-8", "surrogateescape") for k, v in (obj.get("data") or {}).items()},
        **{k: base64.b64decode(v) for k, v in (obj.get("binaryData") or {}).items()},
    }


def secret_data(obj: Object) -> dict[str, bytes]:
    return {k: base64.b64decode(v) for k, v in (obj.get("data") or {}).items()}


def downward_files(pod: Object, items: list[Object], default_mode: int, allocatable: Mapping[str, str]) -> dict[str, File]:
    out = {}
    for item in items:
        if item.get("fieldRef"):
            text = pod_field(pod, item["fieldRef"].get("fieldPath", ""), {})
        else:
            text = resource_field(pod, item.get("resourceFieldRef") or {}, "", allocatable)
        mode = int(item["mode"]) if item.get("mode") is not None else default_mode
        out[_safe(item["path"])] = File(text.encode("utf-8", "surrogateescape"), mode)
    return out


class VolumeManager:
    def __init__(self, root: str, objects: ObjectCache, tokens: TokenManager, allocatable: Mapping[str, str]) -> None:
        self._root = root
        self._objects = objects
        self._tokens = tokens
        self._allocatable = allocatable

    def pod_dir(self, uid: str) -> str:
        return f"{self._root}/pods/{uid}"

    def path(self, pod: Object, volume: Object) -> str:
        """Where a volume's content lies on the node."""
        source = source_of(volume)
        if source == "hostPath":
            return str(volume["hostPath"].get("path", ""))
        return f"{self.pod_dir(meta.uid(pod))}/volumes/{PLUGIN.get(source, 'kubernetes.io~' + source.lower())}/{volume['name']}"

    async def set_up(self, pod: Object, not_before: float) -> None:
        """Make every volume exist and current. Raises MountError; StatusError and Unreachable become one too."""
        os.makedirs(self.pod_dir(meta.uid(pod)), mode=0o750, exist_ok=True)
        for volume in pod["spec"].get("volumes") or []:
            try:
                await self._set_up_one(pod, volume, not_before)
            except (ConfigError, StatusError, Unreachable, MountError) as e:
                raise MountError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {e.message}') from e
            except OSError as e:
                raise MountError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {e}') from e

    async def _set_up_one(self, pod: Object, volume: Object, not_before: float) -> None:
        source = source_of(volume)
        body: Object = volume.get(source) or {}
        path = self.path(pod, volume)
        gid = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        if source == "emptyDir":
            self._empty_dir(path, body, gid)
        elif source == "hostPath":
            check_host_path(body)
        elif source in ("configMap", "secret", "projected", "downwardAPI"):
            atomic.write(path, await self._files(pod, source, body, not_before), gid)
        else:
            raise MountError(f"volumes of type {source} are not supported by this kubelet")

    def _empty_dir(self, path: str, body: Object, gid: int | None) -> None:
        medium = body.get("medium") or ""
        if medium not in ("", "Memory"):
            raise MountError(f"emptyDir medium {medium} is not supported")
        if not os.path.isdir(path):
            os.makedirs(path)
            os.chmod(path, 0o777)
        if medium == "Memory" and not os.path.ismount(path):
            options = "mode=777"
            if body.get("sizeLimit"):
                options += f",size={Quantity.parse(body['sizeLimit']).ceil}"
            syscalls.mount("tmpfs", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
        if gid is not None:
            os.chown(path, -1, gid)
            os.chmod(path, 0o2777)

    async def _files(self, pod: Object, source: str, body: Object, not_before: float) -> dict[str, File]:
        mode = int(body["defaultMode"]) if body.get("defaultMode") is not None else 0o644
        if source == "configMap":
            return await self._object_files(pod, "configmaps", body.get("name", ""), body, mode, not_before)
        if source == "secret":
            return await self._object_files(pod, "secrets", body.get("secretName", ""), body, mode, not_before)
        if source == "downwardAPI":
            return downward_files(pod, body.get("items") or [], mode, self._allocatable)
        files: dict[str, File] = {}
        for part in body.get("sources") or []:
            own: Object = part.get("configMap") or part.get("secret") or {}
            if own:
                kind = "configmaps" if part.get("configMap") else "secrets"
                files |= await self._object_files(pod, kind, own.get("name", ""), own, mode, not_before)
            elif part.get("downwardAPI"):
                files |= downward_files(pod, part["downwardAPI"].get("items") or [], mode, self._allocatable)
            elif part.get("serviceAccountToken"):
                wanted = part["serviceAccountToken"]
                token = await self._tokens.get(pod, wanted.get("audience") or "", int(wanted.get("expirationSeconds") or 3600))
                fs_group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
                files[_safe(wanted["path"])] = File(token.encode(), 0o600 if fs_group is not None else mode)
            else:
                raise MountError(f"projected source {source_of(part)} is not supported")
        return files

    async def _object_files(
        self, pod: Object, kind: str, name: str, body: Object, mode: int, not_before: float
    ) -> dict[str, File]:
        obj = await self._objects.get(kind, meta.namespace(pod), name, not_before)
        optional = bool(body.get("optional"))
        noun = "configmap" if kind == "configmaps" else "secret"
        if obj is None:
            if optional:
                return {}
            raise MountError(f'{noun} "{name}" not found')
        data = config_data(obj) if kind == "configmaps" else secret_data(obj)
        return select_items(data, body.get("items"), mode, optional, noun)

    def container_mounts(self, pod: Object, container: Object, environment: Mapping[str, str]) -> list[dict[str, Any]]:
        """CRI mounts of a container's volumeMounts. Raises ConfigError."""
        volumes = {v["name"]: v for v in pod["spec"].get("volumes") or []}
        out = []
        for i, mount in enumerate(container.get("volumeMounts") or []):
            volume = volumes.get(mount["name"])
            if volume is None:
                raise ConfigError(f'cannot find volume "{mount["name"]}" to mount into container "{container["name"]}"')
            host = self.path(pod, volume)
            sub = mount.get("subPath") or ""
            if mount.get("subPathExpr"):
                sub = expand(mount["subPathExpr"], environment)
            if sub:
                where = f"{self.pod_dir(meta.uid(pod))}/volume-subpaths/{mount['name']}/{container['name']}/{i}"
                host = bind_subpath(host, sub, where)
            inside = mount["mountPath"]
            out.append({
                "containerPath": inside if inside.startswith("/") else "/" + inside,
                "hostPath": host,
                "readonly": bool(mount.get("readOnly")),
            })  # fmt: skip
        return out

    def outgrown(self, pod: Object) -> str:
        """The eviction message of a pod one of whose emptyDirs on disk holds more than its sizeLimit; empty for none. Reads the
        whole volume: not for the event loop. Upstream: eviction manager's emptyDirLimitEviction."""
        for volume in pod["spec"].get("volumes") or []:
            body = volume.get("emptyDir") or {}
            if body.get("sizeLimit") and body.get("medium") != "Memory":
                used = disk_usage(self.path(pod, volume))
                if used > Quantity.parse(body["sizeLimit"]).ceil:
                    return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{body["sizeLimit"]}". '
        return ""

    def tear_down(self, uid: str) -> None:
        """Unmount and remove a pod's volumes. Raises OSError."""
        for part in ("volume-subpaths", "volumes"):
            folder = f"{self.pod_dir(uid)}/{part}"
            if os.path.isdir(folder):
                for point in reversed(mounts.mount_points(folder)):
                    mounts.unmount(point)
                mounts.remove_tree(folder)

    def remove(self, uid: str) -> None:
        """Remove all that is left of a pod on disk."""
        self.tear_down(uid)
        shutil.rmtree(self.pod_dir(uid), ignore_errors=True)
        self._tokens.forget(uid)

    def known_uids(self) -> list[str]:
        try:
            return os.listdir(f"{self._root}/pods")
        except FileNotFoundError:
            return []


def has_size_limits(pod: Object) -> bool:
    bodies = [v.get("emptyDir") or {} for v in pod["spec"].get("volumes") or []]
    return any(b.get("sizeLimit") and b.get("medium") != "Memory" for b in bodies)


def disk_usage(folder: str) -> int:
    """Bytes of disk below a folder that may change meanwhile."""
    total, todo = 0, [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    total += info.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            continue
    return total


def bind_subpath(volume: str, sub: str, where: str) -> str:
    """Bind the file or folder `sub` of a volume to `where`, never following a link out of the volume: the pod may
    change the volume while we look. A missing folder is made, with the volume's own mode. Returns `where`.
    Raises ConfigError, OSError."""
    if sub.startswith("/") or ".." in sub.split("/"):
        raise ConfigError(f"subPath {sub!r} must be relative and may not contain '..'")
    if os.path.ismount(where):
        return where
    mode = stat.S_IMODE(os.stat(volume).st_mode)
    fd = os.open(mounts.inside(volume, sub) if _through_link(volume, sub) else volume, os.O_PATH | os.O_CLOEXEC)
    try:
        if not _through_link(volume, sub):
            for part in [p for p in sub.split("/") if p and p != "."]:
                try:
                    below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                except FileNotFoundError:
                    os.mkdir(part, 0o700, dir_fd=fd)
                    os.chmod(part, mode, dir_fd=fd)
                    below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = below
                if stat.S_ISLNK(os.fstat(fd).st_mode):
                    raise ConfigError(f"subPath {sub!r} leads through a symbolic link")
        source = f"/proc/self/fd/{fd}"
        mounts.make_mountpoint(where, like=source)
        mounts.bind(source, where)
        return where
    finally:
        os.close(fd)


def _through_link(volume: str, sub: str) -> bool:
    """A file the kubelet itself published with `..data` is a link, and one that no pod can change."""
    return os.path.islink(os.path.join(volume, atomic.DATA)) and os.path.islink(os.path.join(volume, sub.split("/", 1)[0]))


def check_host_path(body: Object) -> None:
    """hostPath.type: make what is to be made, refuse what is not as said. Raises MountError, OSError."""
    path, kind = str(body.get("path", "")), body.get("type") or ""
    if not path.startswith("/") or ".." in path.split("/"):
        raise MountError(f"hostPath {path!r} must be absolute and may not contain '..'")
    if kind == "DirectoryOrCreate":
        os.makedirs(path, mode=0o755, exist_ok=True)
    elif kind == "FileOrCreate" and not os.path.exists(path):
        with open(path, "a"):
            os.chmod(path, 0o644)
    tests: dict[str, tuple[Callable[[int], bool], str]] = {
        "": (lambda _mode: True, ""),
        "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
        "Directory": (stat.S_ISDIR, "a directory"),
        "FileOrCreate": (stat.S_ISREG, "a file"),
        "File": (stat.S_ISREG, "a file"),
        "Socket": (stat.S_ISSOCK, "a socket file"),
        "CharDevice": (stat.S_ISCHR, "a character device"),
        "BlockDevice": (stat.S_ISBLK, "a block device"),
    }
    if kind not in tests:
        raise MountError(f"hostPath type check failed: unknown type {kind}")
    test, noun = tests[kind]
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if kind == "":
            os.makedirs(path, mode=0o755, exist_ok=True)  # as docker and containerd do
            return
        raise MountError(f"hostPath type check failed: {path} is not {noun}") from None
    if not test(mode):
        raise MountError(f"hostPath type check failed: {path} is not {noun}")


def freshness(seen_at: float, period_s: float = RESYNC_S) -> float:
    """The `not_before` of a pod first seen at `seen_at`: newer than that, and no older than the sync period."""
    return max(seen_at, time.monotonic() - period_s * 0.75)
