"""What the runtime knows: sandboxes, containers, who listens; shared by the groups of verbs. Touches: the state folder.

Upstream: containerd's internal/cri/store.
"""

from __future__ import annotations

import os
import signal
import time

from nsk8s.kernel import mounts, process
from nsk8s.kernel.cgroup import Cgroups
from nsk8s.runtime import store, wire
from nsk8s.runtime.errors import CriError, InvalidArgument, NotFound
from nsk8s.runtime.helpers import Helpers
from nsk8s.runtime.loop import Loop
from nsk8s.runtime.network import Network
from nsk8s.runtime.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nsk8s.runtime.lane import Lane

READY, NOTREADY = "SANDBOX_READY", "SANDBOX_NOTREADY"
CREATED, RUNNING, EXITED, UNKNOWN = "CONTAINER_CREATED", "CONTAINER_RUNNING", "CONTAINER_EXITED", "CONTAINER_UNKNOWN"
KILLED_EXIT = 128 + signal.SIGKILL


class Request:
    """One request of one connection, answered once."""

    __slots__ = ("_peer", "answered", "id")

    def __init__(self, peer: wire.Connection, request_id: Any) -> None:
        self._peer = peer
        self.id = request_id
        self.answered = False

    def ok(self, result: dict[str, Any] | None = None, fds: tuple[int, ...] = ()) -> None:
        if not self.answered:
            self.answered = True
            self._peer.send({"id": self.id, "result": result or {}}, fds)

    def fail(self, error: CriError) -> None:
        if not self.answered:
            self.answered = True
            self._peer.send({"id": self.id, "error": error.body()})


class Sandbox:
    """A pod's sandbox. `record["phase"]` is what is written down: CREATING, READY, STOPPING, STOPPED or REMOVING."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.id: str = record["id"]
        self.dir: str = record["dir"]
        self.pause: dict[str, Any] | None = None
        """pid, start, boot of the sandbox process while it lives."""
        self.peer: wire.Connection | None = None
        self.on_outlive: Callable[[], None] | None = None
        """Called when a new sandbox process has answered (or died)."""
        self.lane: Lane | None = None
        """Where it keeps others waiting, until it is made."""
        self.containers: dict[str, Container] = {}
        self.stopping: list[Callable[[CriError | None], None]] = []

    @property
    def state(self) -> str:
        return READY if self.pause is not None and self.record["phase"] == "READY" else NOTREADY

    def save(self, **changes: Any) -> None:
        self.record.update(changes)
        store.write_json(self.dir + "/sandbox.json", self.record)

    def status(self) -> dict[str, Any]:
        config = self.record["config"]
        ips = self.record.get("ips") or [] if self.state == READY else []
        return {
            "id": self.id,
            "metadata": config["metadata"],
            "state": self.state,
            "createdAt": self.record["createdAt"],
            "network": {"ip": ips[0] if ips else "", "additionalIps": [{"ip": ip} for ip in ips[1:]]},
            "pid": self.pause["pid"] if self.pause else 0,
            "labels": config.get("labels") or {},
            "annotations": config.get("annotations") or {},
        }


class Container:
    def __init__(self, record: dict[str, Any], sandbox: Sandbox, folder: str) -> None:
        self.record = record
        self.id: str = record["id"]
        self.sandbox = sandbox
        self.folder = folder
        self.live: dict[str, Any] = store.read_json(folder + "/status.json") or {}
        self.starting: list[Request] = []
        self.waiting: list[Callable[[CriError | None], None]] = []
        """Called when it has ended: StopContainer, Attach, the sandbox's stop."""
        self.removing = False

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.record["spec"]
        return spec

    @property
    def state(self) -> str:
        if "finishedAt" in self.live:
            return EXITED
        return RUNNING if "startedAt" in self.live else CREATED

    @property
    def has_process(self) -> bool:
        """Started or about to be, and not known to have ended."""
        return "pid" in self.live and "finishedAt" not in self.live

    def status(self) -> dict[str, Any]:
        config, live = self.record["config"], self.live
        return {
            "id": self.id,
            "podSandboxId": self.sandbox.id,
            "metadata": config["metadata"],
            "state": self.state,
            "createdAt": self.record["createdAt"],
            "startedAt": live.get("startedAt", 0),
            "finishedAt": live.get("finishedAt", 0),
            "exitCode": live.get("exitCode", 0),
            "image": {"image": config["image"]["image"]},
            "imageRef": self.record["imageRef"],
            "reason": live.get("reason", ""),
            "message": live.get("message", ""),
            "labels": config.get("labels") or {},
            "annotations": config.get("annotations") or {},
            "mounts": config.get("mounts") or [],
            "logPath": self.spec["logPath"],
            "pid": live["pid"] if self.has_process else 0,
        }


class Node:
    """Everything of one node's runtime."""

    def __init__(self, loop: Loop, root_dir: str, state_dir: str, cgroup_parent: str, network: Network) -> None:
        self.loop = loop
        self.root_dir = root_dir
        self.state_dir = state_dir
        self.images_dir = state_dir + "/images"  # made up in 5 ms in memory; on a disk a thousand links can take 0.3 s
        self.cgroup_parent = "/" + cgroup_parent.strip("/") if cgroup_parent.strip("/") else ""
        self.cgroups = Cgroups()
        self.network = network
        self.pod_workers = Workers(loop, 2)
        self.plugin_workers = Workers(loop, 64)
        self.plugin_helpers = Helpers(loop, 2, {"set_up": network.set_up, "tear_down": network.tear_down})
        self.exec_workers = Workers(loop, 256)
        self.sandboxes: dict[str, Sandbox] = {}
        self.containers: dict[str, Container] = {}
        self.listeners: list[tuple[wire.Connection, Any]] = []
        self.trees: list[str] = []
        self.emptying = False
        for folder in (self.images_dir, root_dir + "/containers", root_dir + "/trash"):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        for folder in ("sandboxes", "containers"):
            os.makedirs(f"{state_dir}/{folder}", mode=0o700, exist_ok=True)
        self.upper_on_tmpfs = mounts.filesystem_type(root_dir) in ("overlay", "aufs", "nfs", "fuse")

    def sandbox(self, params: dict[str, Any]) -> Sandbox:
        """The sandbox that a request names; a unique beginning of its id will do."""
        found: Sandbox = _find(self.sandboxes, params.get("podSandboxId"), "sandbox")
        return found

    def container(self, params: dict[str, Any]) -> Container:
        found: Container = _find(self.containers, params.get("containerId"), "container")
        return found

    def emit(self, kind: str, container_id: str, sandbox_id: str) -> None:
        event = {
            "containerId": container_id,
            "podSandboxId": sandbox_id,
            "containerEventType": f"CONTAINER_{kind}_EVENT",
            "createdAt": time.time_ns(),
        }
        for peer, request_id in list(self.listeners):
            peer.send({"id": request_id, "event": event})

    def ended(self, container: Container) -> None:
        """Tell everybody who waits for this container's end."""
        waiting, container.waiting = container.waiting, []
        for callback in waiting:
            callback(None)

    def kill(self, container: Container) -> None:
        """SIGKILL a container's processes, again until it is known to have ended."""
        if not container.has_process or container.sandbox.pause is None:
            return
        self.cgroups.kill(container.spec["cgroup"])
        process.send_signal({k: container.live[k] for k in ("pid", "start", "boot")}, signal.SIGKILL)
        self.loop.call_later(0.2, lambda: self.kill(container))

    def drop_cgroup(self, path: str, tries: int = 50) -> None:
        """Remove a group; what still runs in it is killed first."""
        try:
            self.cgroups.remove(path, 0)
        except OSError:
            if tries:
                self.cgroups.kill(path)
                self.loop.call_later(0.02 if tries > 40 else 0.2, lambda: self.drop_cgroup(path, tries - 1))
            return
        self.cgroups.remove_if_empty(path.rpartition("/")[0])

    def discard(self, path: str) -> None:
        """Get a folder out of the way at once; a helper deletes it."""
        try:
            os.rename(path, f"{self.root_dir}/trash/{os.path.basename(path)}.{time.time_ns()}")
        except FileNotFoundError:
            return
        if not self.emptying:
            self.emptying = True
            self.loop.call_later(0.2, self.empty_trash)

    def empty_trash(self) -> None:
        trash = self.root_dir + "/trash"
        names = os.listdir(trash)

        def done(_result: object, error: CriError | None) -> None:
            if os.listdir(trash) and not error:
                self.loop.call_soon(self.empty_trash)
            else:
                self.emptying = False

        def work() -> None:
            for name in names:
                mounts.remove_tree(f"{trash}/{name}")

        if names:
            self.exec_workers.run(work, done)
        else:
            self.emptying = False


def _find(table: dict[str, Any], wanted: object, kind: str) -> Any:
    if not isinstance(wanted, str) or not wanted:
        raise InvalidArgument(f"no {kind} id given")
    found = table.get(wanted)
    if found is None:
        matches = [item for key, item in table.items() if key.startswith(wanted)]
        if len(matches) != 1:
            raise NotFound(f'an error occurred when try to find {kind} "{wanted}": not found')
        found = matches[0]
    return found
