"""The verbs about containers: create, start, stop, remove, list, logs, exec, attach, port-forward, stats.

Touches: files, processes (through the sandbox processes and forks). Upstream: containerd's internal/cri/server/container_*.go.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from nsk8s.kernel import process
from nsk8s.runtime import execs, images, layers, spec, store
from nsk8s.runtime.errors import CriError, FailedPrecondition, InvalidArgument, Unavailable, describe
from nsk8s.runtime.node import CREATED, EXITED, READY, RUNNING, Container, Node, Request, Sandbox
from nsk8s.runtime.sandboxes import Sandboxes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsk8s.runtime import wire


class Containers:
    def __init__(self, node: Node, sandboxes: Sandboxes) -> None:
        self.node = node
        self.sandboxes = sandboxes
        self.images: dict[str, images.Image] = {}
        self.sequence = 0
        self.pending: dict[int, tuple[Request, bool]] = {}
        """Requests passed on to a sandbox process, by sequence number; True: its answer is the request's answer, otherwise
        only a refusal is."""
        self.verbs = {
            "CreateContainer": self.create,
            "StartContainer": self.start,
            "StopContainer": self.stop,
            "RemoveContainer": self.remove,
            "ContainerStatus": lambda r, p: {"status": node.container(p).status()},
            "ListContainers": lambda r, p: {"containers": [c.status() for c in node.containers.values()]},
            "ExecSync": self.exec_sync,
            "ReopenContainerLog": self.reopen_log,
            "PortForward": self.port_forward,
            "ContainerStats": lambda r, p: {"stats": self.stats(node.container(p))},
            "ListContainerStats": lambda r, p: {
                "stats": [self.stats(c) for c in node.containers.values() if c.state == RUNNING]
            },
            "PodSandboxStats": lambda r, p: {"stats": self.pod_stats(node.sandbox(p))},
        }

    # ── create, start ───────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, _request: Request, params: dict[str, Any]) -> dict[str, Any]:
        sandbox, config = self.node.sandbox(params), params.get("config")
        if not isinstance(config, dict) or not isinstance(config.get("metadata"), dict) or not config["metadata"].get("name"):
            raise InvalidArgument("CreateContainer needs a config with metadata.name")
        if sandbox.state != READY:
            raise FailedPrecondition(f'sandbox "{sandbox.id}" is not ready')
        name = str((config.get("image") or {}).get("image") or "")
        image = images.resolve(name)
        container_id = store.new_id()
        folder, directory = f"{self.node.state_dir}/containers/{container_id}", f"{self.node.root_dir}/containers/{container_id}"
        pod = sandbox.record["cgroup"].rpartition("/")[0]
        try:
            if not self.node.trees:
                self.node.trees = layers.machine_trees()
            trees = self.node.trees + (layers.package_trees() if image.package else [])
            built = spec.build(
                sandbox.record, config, image, container_id=container_id, directory=directory, cgroup=f"{pod}/{container_id}",
                layers=layers.image_layers(self.node.images_dir, image), trees=trees, tmpfs=self.node.upper_on_tmpfs,
                cgroup_mounts=list(self.node.cgroups.mounts_for_container()),
            )  # fmt: skip
            record = {
                "id": container_id, "sandbox": sandbox.id, "config": config, "imageRef": image.ref,
                "createdAt": time.time_ns(), "stopSignal": image.stop_signal, "spec": built,
            }  # fmt: skip
            os.mkdir(folder, 0o700)
            store.write_json(folder + "/container.json", record)
        except OSError as e:
            raise CriError(f"failed to create container: {describe(e)}") from e
        container = Container(record, sandbox, folder)
        self.node.containers[container_id] = sandbox.containers[container_id] = container
        try:
            os.mkdir(directory, 0o711)
            if not self.node.upper_on_tmpfs:
                for part in ("upper", "work", "usr", "usrwork", "rootfs"):
                    os.mkdir(f"{directory}/{part}", 0o755)
            self.node.cgroups.create(built["cgroup"])
            default = {"pidsLimit": spec.DEFAULT_PIDS} if self.node.cgroups.has("pids") else {}
            self.node.cgroups.limit(built["cgroup"], {**default, **spec.limits(config)})
            self.node.cgroups.die_together(built["cgroup"])
        except OSError as e:
            self.sandboxes.delete_container(container)
            raise CriError(f"failed to create container: {describe(e)}") from e
        self.node.emit("CREATED", container_id, sandbox.id)
        return {"containerId": container_id}

    def start(self, request: Request, params: dict[str, Any]) -> None:
        container = self.node.container(params)
        if container.state != CREATED or container.starting or "pid" in container.live:
            raise FailedPrecondition(f"container is in {container.state} state")
        sandbox = container.sandbox
        if sandbox.state != READY or sandbox.peer is None:
            raise FailedPrecondition(f"sandbox container {sandbox.id} is not running")
        container.starting.append(request)
        sandbox.peer.send({"op": "start", "id": container.id, "seq": self.expect(request)})

    def expect(self, request: Request, at_once: bool = False) -> int:
        self.sequence += 1
        self.pending[self.sequence] = (request, at_once)
        return self.sequence

    def event(self, event: dict[str, Any]) -> None:
        """A message of a sandbox process."""
        kind = event.get("event")
        if kind == "answer":
            self.answer(event)
            return
        container = self.node.containers.get(event.get("id", ""))
        if container is None:
            return
        container.live = event["status"]
        starting, container.starting = container.starting, []
        if kind == "started":
            for request in starting:
                request.ok()
            self.node.emit("STARTED", container.id, container.sandbox.id)
        elif kind == "exited":
            for request in starting:
                if container.live.get("reason") == "StartError":
                    request.fail(CriError(start_error(container.live["message"])))
                else:
                    request.ok()
            self.node.emit("STOPPED", container.id, container.sandbox.id)
            self.node.ended(container)

    def answer(self, event: dict[str, Any]) -> None:
        request, at_once = self.pending.pop(event.get("seq") or 0, (None, False))
        if request is None:
            return
        if "error" in event:
            for container in self.node.containers.values():
                if request in container.starting:
                    container.starting.remove(request)
            request.fail(CriError(event["error"]))
        elif at_once:
            request.ok()

    # ── stop, remove ────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self, request: Request, params: dict[str, Any]) -> None:
        try:
            container = self.node.container(params)
        except CriError as e:
            if e.code != "NotFound":
                raise
            request.ok()
            return
        if not container.has_process or container.sandbox.pause is None:
            request.ok()
            return
        timeout_s = float(params.get("timeout") or 0)
        container.waiting.append(lambda error: request.fail(error) if error else request.ok())
        if timeout_s <= 0:
            self.node.kill(container)
            return
        self.signal(container, getattr(signal, container.record["stopSignal"], signal.SIGTERM))
        self.node.loop.call_later(timeout_s, lambda: self.node.kill(container))

    @staticmethod
    def signal(container: Container, signum: int) -> bool:
        return process.send_signal({k: container.live[k] for k in ("pid", "start", "boot")}, signum)

    def remove(self, request: Request, params: dict[str, Any]) -> None:
        try:
            container = self.node.container(params)
        except CriError as e:
            if e.code != "NotFound":
                raise
            request.ok()
            return

        def gone(_error: CriError | None) -> None:
            if container.id in self.node.containers:
                self.sandboxes.delete_container(container)
            request.ok()

        if container.starting:
            raise FailedPrecondition(f"container {container.id} is in starting state, can't be removed")
        if container.has_process and container.sandbox.pause is not None:
            container.waiting.append(gone)
            self.node.kill(container)
        else:
            gone(None)

    # ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def running(self, params: dict[str, Any]) -> Container:
        container = self.node.container(params)
        if container.state != RUNNING:
            raise FailedPrecondition(f"container is in {container.state} state")
        return container

    @staticmethod
    def command(params: dict[str, Any]) -> list[str]:
        cmd = params.get("cmd")
        if not isinstance(cmd, list) or not cmd or not all(isinstance(c, str) for c in cmd):
            raise InvalidArgument("cmd cannot be empty")
        return cmd

    def exec_sync(self, request: Request, params: dict[str, Any]) -> None:
        container, cmd = self.running(params), self.command(params)
        timeout_s = float(params.get("timeout") or 0)
        live, built = container.live, container.spec
        self.node.exec_workers.run(
            lambda: execs.sync(live, built, cmd, timeout_s, self.node.cgroups), finish(request), dies_with_us=False
        )

    def exec(self, request: Request, params: dict[str, Any], peer: wire.Connection) -> None:
        """The helper keeps the descriptors; ours are closed when it has forked."""
        container = self.running(params)
        self.command(params)
        fds = checked_fds(params, peer)
        live, built = container.live, container.spec
        try:
            if self.node.exec_workers.busy >= self.node.exec_workers.limit:
                raise Unavailable("too many commands run already")
            self.node.exec_workers.run(
                lambda: execs.stream(live, built, params, fds, self.node.cgroups),
                finish(request), keep=tuple(fds), dies_with_us=False,
            )  # fmt: skip
        finally:
            for fd in fds:
                os.close(fd)

    def attach(self, request: Request, params: dict[str, Any], peer: wire.Connection) -> None:
        container = self.running(params)
        if bool(params.get("tty")) != container.spec["tty"]:
            raise InvalidArgument(f"container {container.id} was started with tty={str(container.spec['tty']).lower()}")
        fds = checked_fds(params, peer)
        sandbox = container.sandbox
        assert sandbox.peer is not None
        streams = ["tty"] if params.get("tty") else [s for s in ("stdin", "stdout", "stderr") if params.get(s)]
        sequence = self.expect(request)

        def ended(_error: CriError | None) -> None:
            if self.pending.pop(sequence, None) is None:
                request.ok({"exitCode": container.live.get("exitCode", 0)})
            else:  # before the sandbox process took the streams: who asked must look into the log
                request.fail(FailedPrecondition(f"container is in {container.state} state"))

        container.waiting.append(ended)
        sandbox.peer.send(
            {"op": "attach", "id": container.id, "streams": streams, "tty": bool(params.get("tty")), "seq": sequence}, fds
        )
        for fd in fds:
            os.close(fd)

    def reopen_log(self, request: Request, params: dict[str, Any]) -> None:
        container = self.running(params)
        assert container.sandbox.peer is not None
        container.sandbox.peer.send({"op": "reopen", "id": container.id, "seq": self.expect(request, at_once=True)})

    def port_forward(self, request: Request, params: dict[str, Any]) -> None:
        sandbox = self.node.sandbox(params)
        port = params.get("port")
        if not isinstance(port, int) or not 0 < port < 65536:
            raise InvalidArgument(f"invalid port {port!r}")
        if sandbox.state != READY:
            raise FailedPrecondition(f"sandbox container {sandbox.id} is not running")
        ours, theirs = socket.socketpair()
        netns = sandbox.record["netns"]

        def done(_result: Any, error: CriError | None) -> None:
            try:
                if error is not None:
                    request.fail(error)
                    return
                ours.setblocking(False)
                _, fds, _, _ = socket.recv_fds(ours, 1, 1)
                request.ok({}, tuple(fds))
                for fd in fds:
                    os.close(fd)
            except OSError as e:
                request.fail(Unavailable(describe(e)))
            finally:
                ours.close()
                theirs.close()

        self.node.exec_workers.run(lambda: execs.dial(netns, port, theirs), done, keep=(theirs.fileno(),))

    # ── stats ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def stats(self, container: Container) -> dict[str, Any]:
        config = container.record["config"]
        return {
            "attributes": {
                "id": container.id,
                "metadata": config["metadata"],
                "labels": config.get("labels") or {},
                "annotations": config.get("annotations") or {},
            },
            **usage(self.node.cgroups.stats(container.spec["cgroup"]) if container.state != EXITED else {}),
        }

    def pod_stats(self, sandbox: Sandbox) -> dict[str, Any]:
        pod = sandbox.record["cgroup"].rpartition("/")[0]
        groups = [sandbox.record["cgroup"], *(c.spec["cgroup"] for c in sandbox.containers.values() if c.state == RUNNING)]
        total: dict[str, int] = {}
        for group in groups:
            for key, value in self.node.cgroups.stats(group).items():
                total[key] = total.get(key, 0) + value
        config = sandbox.record["config"]
        return {
            "attributes": {
                "id": sandbox.id,
                "metadata": config["metadata"],
                "labels": config.get("labels") or {},
                "annotations": config.get("annotations") or {},
                "cgroup": pod,
            },
            "linux": {
                **usage(total),
                "containers": [self.stats(c) for c in sandbox.containers.values() if c.state == RUNNING],
            },
        }


def usage(stats: dict[str, int]) -> dict[str, Any]:
    """CRI's cpu, memory and process numbers."""
    now = time.time_ns()
    out: dict[str, Any] = {}
    if "cpuNs" in stats:
        out["cpu"] = {"timestamp": now, "usageCoreNanoSeconds": {"value": stats["cpuNs"]}}
    if "workingSet" in stats:
        out["memory"] = {
            "timestamp": now,
            "workingSetBytes": {"value": stats["workingSet"]},
            "usageBytes": {"value": stats["memoryUsage"]},
            "rssBytes": {"value": stats["rss"]},
        }
    if "pids" in stats:
        out["process"] = {"timestamp": now, "processCount": {"value": stats["pids"]}}
    return out


def start_error(text: str) -> str:
    """As containerd and runc say it together."""
    return (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
        f"unable to start container process: error during container init: {text}: unknown"
    )


def finish(request: Request) -> Any:
    return lambda result, error: request.fail(error) if error is not None else request.ok(result)


def checked_fds(params: dict[str, Any], peer: wire.Connection) -> list[int]:
    """The descriptors that came with a request, as many as it announced. Raises InvalidArgument."""
    fds = peer.take_fds()
    wanted = 1 if params.get("tty") else sum(bool(params.get(s)) for s in ("stdin", "stdout", "stderr"))
    if len(fds) != wanted:
        for fd in fds:
            os.close(fd)
        raise InvalidArgument(f"{wanted} file descriptors were announced and {len(fds)} came")
    return fds
