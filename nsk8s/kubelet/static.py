"""Static pods: manifests in a folder of the node, run without being asked by anybody, and shown at the API by mirror pods.

Upstream: kubelet/config/{file,common}.go, kubelet/pod/mirror_client.go. Reading manifests is pure; `StaticPods` touches files and
the API. A static pod's uid is a hash of where and what it is; its mirror is a pod object of the same name that says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import PODS
from nsk8s.client.rest import Unreachable
from nsk8s.errors import NotFound, StatusError

if TYPE_CHECKING:
    from nsk8s.kubelet.kubelet import Kubelet

log = logging.getLogger("static")

SOURCE, HASH, MIRROR, SEEN = (f"kubernetes.io/config.{n}" for n in ("source", "hash", "mirror", "seen"))
POLL_S = 1.0
"""How often the folder is looked at. Upstream watches it, and reads it every fileCheckFrequency (20 s)."""


class BadManifest(ValueError):
    """Why a file is no static pod."""


def is_static(pod: Object) -> bool:
    return meta.annotations(pod).get(SOURCE) == "file"


def is_mirror(pod: Object) -> bool:
    return MIRROR in meta.annotations(pod)


def parse(text: str, path: str, node: str, now: datetime) -> Object:
    """The pod of a manifest (YAML or JSON), complete. Raises BadManifest. Pure."""
    import yaml  # these three only where there are static pods

    from nsk8s.api.defaults.pod import default_pod
    from nsk8s.api.validation.pod import validate_pod
    from nsk8s.api.yamldoc import load

    try:
        pod: Any = load(text)
    except yaml.YAMLError as e:
        raise BadManifest(f"couldn't parse as pod: {e}") from e
    if not isinstance(pod, dict) or pod.get("kind") != "Pod" or pod.get("apiVersion") != "v1":
        raise BadManifest("couldn't parse as pod: want apiVersion v1 and kind Pod")
    metadata = pod.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name") or not isinstance(pod.get("spec"), dict):
        raise BadManifest("invalid pod: it needs metadata.name and spec")
    digest = hashlib.md5(json.dumps([node, path, pod], sort_keys=True, default=str).encode(), usedforsecurity=False).hexdigest()
    metadata["name"] = f"{metadata['name']}-{node}"
    metadata["namespace"] = metadata.get("namespace") or "default"
    metadata["uid"] = digest
    metadata["creationTimestamp"] = meta.rfc3339(now)
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}), SOURCE: "file", HASH: digest, SEEN: meta.rfc3339_micro(now)
    }  # fmt: skip
    spec = pod["spec"]
    spec["nodeName"] = node
    spec["tolerations"] = [*(spec.get("tolerations") or []), {"operator": "Exists", "effect": "NoExecute"}]
    try:
        default_pod(pod)
        causes = validate_pod(pod)
    except (TypeError, AttributeError, KeyError, ValueError) as e:
        raise BadManifest(f"invalid pod: {e}") from e
    if causes:
        raise BadManifest("invalid pod: " + "; ".join(f"{c.field}: {c.message}" for c in causes))
    refused = references(spec)
    if refused:
        raise BadManifest(f"static pods may not reference {', '.join(refused)}")
    return pod


def references(spec: Object) -> list[str]:
    """The API objects that a spec needs: a static pod has to run without them. Upstream: podutil.HasAPIObjectReference."""
    found: list[str] = ["serviceaccounts"] if spec.get("serviceAccountName") else []
    text = json.dumps([spec.get("volumes"), spec.get("containers"), spec.get("initContainers")], default=str)
    for keys, kind in (
        (('"configMap"', '"configMapKeyRef"', '"configMapRef"'), "configmaps"),
        (('"secret"', '"secretKeyRef"', '"secretRef"'), "secrets"), (('"persistentVolumeClaim"',), "persistentvolumeclaims"),
        (('"serviceAccountToken"',), "serviceaccounts"),
    ):  # fmt: skip
        if any(key + ": {" in text for key in keys) and kind not in found:
            found.append(kind)
    return found


def mirror_of(pod: Object, node: Object) -> Object:
    """The object that shows a static pod at the API. Pure."""
    metadata = {k: v for k, v in pod["metadata"].items() if k not in ("uid", "creationTimestamp")}
    metadata["annotations"] = {**metadata["annotations"], MIRROR: pod["metadata"]["uid"]}
    metadata["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Node", "name": meta.name(node), "uid": meta.uid(node), "controller": True}
    ]
    return {**pod, "metadata": metadata}


class StaticPods:
    """Keeps the pods of a folder running, by the kubelet's workers, and their mirrors as they should be."""

    def __init__(self, kubelet: Kubelet, folder: str) -> None:
        self._k = kubelet
        self._folder = folder
        self._files: dict[str, tuple[tuple[int, int], Object | None]] = {}
        self._mirrors: dict[str, Object] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        if self._folder:
            os.makedirs(self._folder, exist_ok=True)
        while True:
            self._wake.clear()
            try:
                self._scan()
                await self._reconcile_mirrors()
            except (StatusError, Unreachable) as e:
                log.debug("mirror pods: %s", e)
            except Exception:
                log.exception("static pods")
            try:
                await asyncio.wait_for(self._wake.wait(), POLL_S if self._folder else None)
            except TimeoutError:
                continue

    def mirror_changed(self, old: Object | None, new: Object | None) -> None:
        """A mirror pod of this node, as the API has it."""
        pod = new or old
        assert pod is not None
        if new is not None:
            self._mirrors[meta.key(pod)] = new
        else:
            self._mirrors.pop(meta.key(pod), None)
        self._k.statuses.mirror(meta.annotations(pod)[MIRROR], new)
        self._wake.set()

    def _scan(self) -> None:
        """Start what is new, end what has gone; a changed file is both."""
        have: dict[str, tuple[tuple[int, int], Object | None]] = {}
        if not self._folder:
            return  # mirrors of a time when there was one are still to be deleted
        try:
            entries = [e for e in os.scandir(self._folder) if e.is_file() and not e.name.startswith(".")]
        except FileNotFoundError:
            entries = []
        for entry in entries:
            info = entry.stat()
            stamp = info.st_mtime_ns, info.st_size
            known = self._files.get(entry.path)
            have[entry.path] = known if known and known[0] == stamp else (stamp, self._read(entry.path))
        before = {meta.uid(p): p for _, p in self._files.values() if p}
        now = {meta.uid(p): p for _, p in have.values() if p}
        self._files = have
        for uid in before.keys() - now.keys():
            self._k.remove_static(uid)
        for uid in now.keys() - before.keys():
            self._k.add_static(now[uid])

    def _read(self, path: str) -> Object | None:
        try:
            with open(path, encoding="utf-8") as f:
                return parse(f.read(), path, self._k.config.node_name, datetime.now(UTC))
        except (BadManifest, OSError, UnicodeDecodeError) as e:
            log.error("Could not process manifest file %s: %s", path, e)
            return None

    async def _reconcile_mirrors(self) -> None:
        wanted = {meta.key(p): p for _, p in self._files.values() if p}
        for key, mirror in list(self._mirrors.items()):
            pod = wanted.get(key)
            if pod is None or meta.annotations(mirror)[MIRROR] != meta.uid(pod) or meta.is_deleting(mirror):
                try:
                    await self._k.client.delete(
                        PODS, meta.name(mirror), meta.namespace(mirror), grace_period_s=0, uid=meta.uid(mirror)
                    )
                except NotFound:
                    self._mirrors.pop(key, None)
        node = self._k.nodes.get(self._k.config.node_name)
        if node is None or not self._k.pods.synced.is_set():
            return
        for key, pod in wanted.items():
            if key not in self._mirrors:
                log.info("creating a mirror pod for static pod %s", key)
                await self._k.client.create(PODS, mirror_of(pod, node), meta.namespace(pod))
