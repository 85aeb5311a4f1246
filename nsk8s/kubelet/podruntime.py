"""What the runtime knows of a pod: its sandboxes and containers as values. Pure.

Upstream: kubelet/container.PodStatus, and the labels and annotations of kuberuntime/labels.go, by which a restarted kubelet
finds everything again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
CONTAINER_HASH = "io.kubernetes.container.hash"
RESTART_COUNT = "io.kubernetes.container.restartCount"
TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
TERMINATION_POLICY = "io.kubernetes.container.terminationMessagePolicy"
GRACE_PERIOD = "io.kubernetes.pod.terminationGracePeriod"

CREATED, RUNNING, EXITED, UNKNOWN = "CONTAINER_CREATED", "CONTAINER_RUNNING", "CONTAINER_EXITED", "CONTAINER_UNKNOWN"
SANDBOX_READY = "SANDBOX_READY"
CONTAINER_ID_PREFIX = "nsk8s://"
POD_LOGS = "/var/log/pods"


@dataclass(frozen=True, slots=True)
class Sandbox:
    id: str
    pod_uid: str
    pod_name: str
    namespace: str
    attempt: int
    ready: bool
    created_at: int
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """One container, living or dead. Times are nanoseconds since the epoch, 0 for not yet."""

    id: str
    sandbox_id: str
    pod_uid: str
    name: str
    attempt: int
    state: str
    created_at: int
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    hash: str = ""
    log_path: str = ""
    termination_path: str = ""
    termination_policy: str = "File"
    pid: int = 0
    grace_s: int = 30

    @property
    def running(self) -> bool:
        return self.state == RUNNING


@dataclass(slots=True)
class PodRuntime:
    """Sandboxes and containers of one pod, newest first."""

    uid: str
    name: str = ""
    namespace: str = ""
    sandboxes: list[Sandbox] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)

    def container(self, name: str) -> Container | None:
        """The newest container of that name."""
        return next((c for c in self.containers if c.name == name), None)

    def history(self, name: str) -> list[Container]:
        return [c for c in self.containers if c.name == name]

    def by_id(self, container_id: str) -> Container | None:
        return next((c for c in self.containers if c.id == container_id), None)

    @property
    def sandbox(self) -> Sandbox | None:
        """The newest sandbox, ready or not."""
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def ips(self) -> tuple[str, ...]:
        sandbox = self.sandbox
        return sandbox.ips if sandbox is not None and sandbox.ready else ()

    @property
    def active(self) -> bool:
        """Anything of the pod still runs."""
        return any(s.ready for s in self.sandboxes) or any(c.state == RUNNING for c in self.containers)


def sort_ips(ips: Sequence[str], *, ipv6_first: bool) -> tuple[str, ...]:
    """One address a family, the node's primary family first, whatever the network gave. Upstream: Kubelet.sortPodIPs."""
    firsts = (next((ip for ip in ips if (":" in ip) == ipv6), "") for ipv6 in (ipv6_first, not ipv6_first))
    return tuple(ip for ip in firsts if ip)


def parse_sandbox(status: Mapping[str, Any], *, ipv6_first: bool = False) -> Sandbox:
    """A Sandbox from CRI's PodSandboxStatus."""
    metadata = status.get("metadata") or {}
    network = status.get("network") or {}
    ips = [network.get("ip") or "", *(a.get("ip") or "" for a in network.get("additionalIps") or [])]
    return Sandbox(
        id=status["id"],
        pod_uid=metadata.get("uid") or (status.get("labels") or {}).get(POD_UID, ""),
        pod_name=metadata.get("name", ""),
        namespace=metadata.get("namespace", ""),
        attempt=int(metadata.get("attempt") or 0),
        ready=status.get("state") == SANDBOX_READY,
        created_at=int(status.get("createdAt") or 0),
        ips=sort_ips(ips, ipv6_first=ipv6_first),
    )


def parse_container(status: Mapping[str, Any]) -> Container:
    """A Container from CRI's ContainerStatus."""
    metadata = status.get("metadata") or {}
    labels = status.get("labels") or {}
    notes = status.get("annotations") or {}
    image = (status.get("image") or {}).get("image", "")
    log_path = status.get("logPath") or ""
    if log_path and not log_path.startswith("/"):
        folder = f"{labels.get(POD_NAMESPACE, '')}_{labels.get(POD_NAME, '')}_{labels.get(POD_UID, '')}"
        log_path = f"{POD_LOGS}/{folder}/{log_path}"
    return Container(
        id=status["id"],
        sandbox_id=status.get("podSandboxId", ""),
        pod_uid=labels.get(POD_UID, ""),
        name=metadata.get("name") or labels.get(CONTAINER_NAME, ""),
        attempt=int(notes.get(RESTART_COUNT) or metadata.get("attempt") or 0),
        state=status.get("state", UNKNOWN),
        created_at=int(status.get("createdAt") or 0),
        started_at=int(status.get("startedAt") or 0),
        finished_at=int(status.get("finishedAt") or 0),
        exit_code=int(status.get("exitCode") or 0),
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        image=image,
        image_ref=status.get("imageRef") or image,
        hash=notes.get(CONTAINER_HASH, ""),
        log_path=log_path,
        termination_path=notes.get(TERMINATION_PATH, ""),
        termination_policy=notes.get(TERMINATION_POLICY, "File"),
        pid=int(status.get("pid") or 0),
        grace_s=int(notes.get(GRACE_PERIOD) or 30),
    )


def group(sandboxes: Iterable[Sandbox], containers: Iterable[Container]) -> dict[str, PodRuntime]:
    """uid → PodRuntime. Containers without a uid label belong to their sandbox's pod."""
    pods: dict[str, PodRuntime] = {}
    owner: dict[str, str] = {}
    for sandbox in sorted(sandboxes, key=_newest_sandbox_first):
        pod = pods.setdefault(sandbox.pod_uid, PodRuntime(sandbox.pod_uid, sandbox.pod_name, sandbox.namespace))
        pod.sandboxes.append(sandbox)
        owner[sandbox.id] = sandbox.pod_uid
    for container in sorted(containers, key=_newest_first):
        uid = container.pod_uid or owner.get(container.sandbox_id, "")
        pods.setdefault(uid, PodRuntime(uid)).containers.append(container)
    return pods


def _newest_sandbox_first(s: Sandbox) -> tuple[int, int]:
    return -s.created_at, -s.attempt


def _newest_first(c: Container) -> tuple[int, int]:
    return -c.created_at, -c.attempt


def with_container(pod: PodRuntime, container: Container) -> None:
    """Put in or replace one container."""
    pod.containers = sorted([c for c in pod.containers if c.id != container.id] + [container], key=_newest_first)


def with_sandbox(pod: PodRuntime, sandbox: Sandbox) -> None:
    pod.sandboxes = sorted([s for s in pod.sandboxes if s.id != sandbox.id] + [sandbox], key=_newest_sandbox_first)


def container_hash(container: Object) -> str:
    """Upstream hashes name and image only: nothing else of a running pod's container may change in place."""
    text = f"{container.get('name', '')}\0{container.get('image', '')}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_sidecar(container: Object) -> bool:
    """A restartable init container."""
    return container.get("restartPolicy") == "Always"


def spec_containers(pod: Object) -> list[Object]:
    """Init, main and ephemeral containers, in that order."""
    spec = pod["spec"]
    return [
        *(spec.get("initContainers") or []), *(spec.get("containers") or []), *(spec.get("ephemeralContainers") or [])
    ]  # fmt: skip


def find_spec(pod: Object, name: str) -> Object | None:
    return next((c for c in spec_containers(pod) if c.get("name") == name), None)


def field_path(pod: Object, name: str) -> str:
    """`spec.containers{name}`: what events about a container point at."""
    spec = pod["spec"]
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        if any(c.get("name") == name for c in spec.get(kind) or []):
            return f"spec.{kind}{{{name}}}"
    return ""


def pod_label(pod: Object) -> str:
    """`name_namespace(uid)`: how messages name a pod."""
    return f"{meta.name(pod)}_{meta.namespace(pod)}({meta.uid(pod)})"


def garbage(pod: PodRuntime) -> tuple[list[str], list[str]]:
    """(container ids, sandbox ids) nobody needs any more: per name the newest and one dead before it stay, and a sandbox
    stays while it is the newest or holds a container that stays. Upstream: MaxPerPodContainer = 1."""
    seen: dict[str, int] = {}
    drop: list[str] = []
    needed: set[str] = set()
    for container in pod.containers:
        count = seen.get(container.name, 0)
        seen[container.name] = count + 1
        if count >= 2 and container.state != RUNNING:
            drop.append(container.id)
        else:
            needed.add(container.sandbox_id)
    sandboxes = [s.id for s in pod.sandboxes[1:] if not s.ready and s.id not in needed]
    return drop, sandboxes
