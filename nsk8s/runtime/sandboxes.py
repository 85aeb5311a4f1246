"""The verbs about sandboxes: run, stop, remove, list, and what to do when a sandbox process dies.

A sandbox's record is written before anything is made, so that a runtime killed at any moment finds and undoes its half-made ones.
Touches: processes, namespaces, mounts, CNI (in forks). Upstream: containerd's internal/cri/server/sandbox_*.go.
"""

from __future__ import annotations

import contextlib
import os
import time

from nsk8s.kernel import mounts, process
from nsk8s.runtime import spec, store, wire
from nsk8s.runtime.errors import CriError, InvalidArgument, Unavailable, describe
from nsk8s.runtime.lane import Lane
from nsk8s.runtime.namespaces import Namespaces
from nsk8s.runtime.node import KILLED_EXIT, RUNNING, Container, Node, Request, Sandbox
from nsk8s.runtime.nursery import Nursery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PARALLEL = 2
"""Pods in flight: more gains nothing on the machines measured."""
PARALLEL_FOREIGN = 64
"""The same where somebody else's plugins may wait: one that hangs must not hold up pods that it has nothing to do with."""
_OWN_SYSCTLS = (("net/ipv4/ping_group_range", "0 2147483647"), ("net/ipv4/ip_unprivileged_port_start", "0"))
"""What containerd 2 sets (enable_unprivileged_icmp, enable_unprivileged_ports)."""


class Sandboxes:
    def __init__(self, node: Node, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.node = node
        self.on_event = on_event
        self.nursery = Nursery(node.state_dir, node.cgroups)
        self.namespaces = Namespaces()
        self.lanes = {False: Lane(PARALLEL), True: Lane(PARALLEL_FOREIGN)}
        """Pods in flight; True: those whose network is made by somebody else's plugins, or is the node's own."""
        self.verbs = {
            "RunPodSandbox": self.run,
            "StopPodSandbox": self.stop,
            "RemovePodSandbox": self.remove,
            "PodSandboxStatus": lambda r, p: {"status": node.sandbox(p).status()},
            "ListPodSandbox": lambda r, p: {
                "items": [s.status() for s in node.sandboxes.values() if s.record["phase"] != "CREATING"]
            },
        }

    # ── run ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, request: Request, params: dict[str, Any]) -> None:
        config = params.get("config")
        if not isinstance(config, dict):
            raise InvalidArgument("RunPodSandbox needs a config")
        record = self.make_record(config)
        lane = self.lanes[bool(record["hostNetwork"]) or self.node.network.is_foreign(record)]
        lane.enter(lambda: self.begin(request, record, lane))

    def make_record(self, config: dict[str, Any]) -> dict[str, Any]:
        """Everything that will be made, before it is. Raises InvalidArgument."""
        metadata = config.get("metadata")
        if not isinstance(metadata, dict) or not all(metadata.get(k) for k in ("name", "uid", "namespace")):
            raise InvalidArgument("the sandbox's metadata needs name, uid and namespace")
        if any(c in str(metadata["uid"]) for c in "/\0") or metadata["uid"] in (".", ".."):
            raise InvalidArgument(f"invalid pod uid {metadata['uid']!r}")
        sandbox_id = store.new_id()
        host_network = spec.namespace_option(config, "network") == "NODE"
        host_ipc = spec.namespace_option(config, "ipc") == "NODE"
        pid_mode = spec.namespace_option(config, "pid")
        if pid_mode not in ("CONTAINER", "POD"):
            raise InvalidArgument(f"pid namespace mode {pid_mode} is not supported: hostPID pods cannot run here")
        asked = spec.check_sysctls((config.get("linux") or {}).get("sysctls") or {}, host_network, host_ipc)
        own = [] if host_network else [*_OWN_SYSCTLS, *self.ipv6_sysctls()]
        directory = f"{self.node.state_dir}/sandboxes/{sandbox_id}"
        hostname = os.uname().nodename if host_network else str(config.get("hostname") or metadata["name"])[:64]
        return {
            "id": sandbox_id,
            "dir": directory,
            "phase": "CREATING",
            "config": config,
            "createdAt": time.time_ns(),
            "hostname": hostname,
            "hostNetwork": host_network,
            "hostIpc": host_ipc,
            "pidMode": pid_mode,
            "netns": "" if host_network else f"/run/netns/cni-{sandbox_id}",
            "cgroup": f"{self.node.cgroup_parent}/pod{metadata['uid']}/{sandbox_id}",
            "sysctls": own + asked,
            "sysctlsAsked": dict(asked),
        }

    @staticmethod
    def ipv6_sysctls() -> list[tuple[str, str]]:
        """A node without IPv6 has pods without it: on a large bridge IPv6 doubles the cost of a pod."""
        path = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"
        try:
            with open(path.format("default"), encoding="ascii") as f:
                off = f.read().strip() == "1"
        except OSError:
            return []
        return [(path.format(name).removeprefix("/proc/sys/"), "1") for name in ("all", "default")] if off else []

    def begin(self, request: Request, record: dict[str, Any], lane: Lane) -> None:
        sandbox = Sandbox(record)
        sandbox.lane = lane
        try:
            os.mkdir(sandbox.dir, 0o711)
            sandbox.save()
            self.node.sandboxes[sandbox.id] = sandbox
            self.write_files(sandbox)
            self.node.cgroups.create(record["cgroup"])
            self.node.cgroups.limit(record["cgroup"].rpartition("/")[0], spec.pod_limits(record["config"]))
            self.start_pause(sandbox)
        except (OSError, ValueError) as e:  # ValueError: text that the kernel cannot be told
            self.abandon(sandbox, request, CriError(f"failed to create sandbox: {describe(e)}"))
            return
        ended: list[tuple[Any, CriError | None]] = []

        def one_done() -> None:
            """The sandbox process has answered, the network is there: the last of the two goes on."""
            if ended and sandbox.on_outlive is None:
                result, error = ended[0]
                if error is not None:
                    self.abandon(sandbox, request, error)
                else:
                    self.finish_run(sandbox, request, result)

        def network_ready(result: Any, error: CriError | None) -> None:
            ended.append((result, error))
            one_done()

        sandbox.on_outlive = one_done
        if record["hostNetwork"]:
            network_ready({"ips": []}, None)
        else:
            self.network_run("set_up", record, network_ready)

    def network_run(self, verb: str, record: dict[str, Any], done: Callable[[Any, CriError | None], None]) -> None:
        """`set_up` or `tear_down`: here where that is quickest, where somebody else's plugins run in a fork of its own, else in
        a fork that stays."""
        node, ending = self.node, verb == "tear_down"
        call = node.network.tear_down if ending else node.network.set_up
        if node.network.is_quick(record, ending=ending):
            node.pod_workers.run_here(lambda: call(record), done)
        elif node.network.is_foreign(record, ending=ending):
            node.plugin_workers.run(lambda: call(record), done)
        else:
            node.plugin_helpers.run(verb, record, done)

    def write_files(self, sandbox: Sandbox) -> None:
        """hostname, hosts and resolv.conf, to be bound into the containers."""
        record = sandbox.record
        host = ""
        if not record["config"].get("dnsConfig"):
            try:
                with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as f:
                    host = f.read()
            except OSError:
                host = ""
        files = {
            "hostname": record["hostname"] + "\n",
            "hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{record['hostname']}\n",
            "resolv.conf": spec.resolv_conf(record["config"].get("dnsConfig"), host),
        }
        for name, text in files.items():
            fd = os.open(f"{sandbox.dir}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)
                os.write(fd, text.encode())
            finally:
                os.close(fd)

    def start_pause(self, sandbox: Sandbox) -> None:
        """Make the namespaces and the process that holds them; tell it to outlive us once it is written down.
        Raises OSError, ValueError."""
        record, metadata = sandbox.record, sandbox.record["config"]["metadata"]
        listener = wire.listen(sandbox.dir + "/sock")
        fds = [listener.fileno()]
        try:
            fds += self.namespaces.make(record)
            title = f"pause {metadata['namespace']}/{metadata['name']}"
            pid = self.nursery.fork([sandbox.dir, record["cgroup"], record["pidMode"], title], fds)
            pidfd = os.pidfd_open(pid)
        finally:
            listener.close()
            for fd in fds[1:]:
                os.close(fd)
        sandbox.pause = {"pid": pid, "start": process.start_time(pid) or -1, "boot": process.boot_id()}
        self.watch_pause(sandbox, pidfd)
        store.write_json(sandbox.dir + "/pause.json", sandbox.pause)
        self.connect(sandbox)
        assert sandbox.peer is not None
        sandbox.peer.send({"op": "outlive", "seq": 0})

    def watch_pause(self, sandbox: Sandbox, pidfd: int) -> None:
        def ended() -> None:
            sandbox.pause = None
            if sandbox.peer is not None:
                sandbox.peer.close()
                sandbox.peer = None
            self.outlives(sandbox)
            self.pause_died(sandbox)

        self.node.loop.watch_process(pidfd, ended)

    def connect(self, sandbox: Sandbox) -> None:
        """Talk to the sandbox process. Raises OSError."""
        peer = wire.connect(sandbox.dir + "/sock")

        def told(_peer: wire.Connection, event: dict[str, Any]) -> None:
            if event.get("seq") == 0:
                self.outlives(sandbox)
            else:
                self.on_event(event)

        sandbox.peer = wire.Connection(self.node.loop, peer, told)

    @staticmethod
    def outlives(sandbox: Sandbox) -> None:
        """The sandbox process has said that it will outlive us, or has died: either way, nobody need wait for it."""
        callback, sandbox.on_outlive = sandbox.on_outlive, None
        if callback is not None:
            callback()

    def finish_run(self, sandbox: Sandbox, request: Request, result: dict[str, Any]) -> None:
        if sandbox.pause is None:
            self.abandon(sandbox, request, CriError("failed to start sandbox: the sandbox process was killed"))
            return
        try:
            sandbox.save(phase="READY", ips=result["ips"], networkName=result.get("network", ""))
        except OSError as e:
            self.abandon(sandbox, request, CriError(f"failed to start sandbox: {describe(e)}"))
            return
        request.ok({"podSandboxId": sandbox.id})
        self.node.emit("CREATED", sandbox.id, sandbox.id)
        self.node.emit("STARTED", sandbox.id, sandbox.id)
        self.slot_free(sandbox)

    @staticmethod
    def slot_free(sandbox: Sandbox) -> None:
        lane, sandbox.lane = sandbox.lane, None
        if lane is not None:
            lane.leave()

    def abandon(self, sandbox: Sandbox, request: Request, error: CriError) -> None:
        """Undo a sandbox that did not come to be; nothing of it is left."""
        request.fail(error)
        self.slot_free(sandbox)
        self.undo(sandbox)

    def undo(self, sandbox: Sandbox) -> None:
        """Remove a half-made sandbox, however far it got; tried again until it works."""

        def stopped(error: CriError | None) -> None:
            if error is None:
                self.delete(sandbox)
            else:
                self.node.loop.call_later(2.0, lambda: self.undo(sandbox))

        if os.path.isdir(sandbox.dir):
            self.stop_sandbox(sandbox, stopped)
        else:
            self.node.sandboxes.pop(sandbox.id, None)

    # ── stop, remove ────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self, request: Request, params: dict[str, Any]) -> None:
        def done(error: CriError | None) -> None:
            if error is None:
                request.ok()
            else:
                request.fail(error)

        self.stop_sandbox(self.node.sandbox(params), done)

    def stop_sandbox(self, sandbox: Sandbox, done: Callable[[CriError | None], None]) -> None:
        """Kill the containers, DEL the network, end the sandbox process, take its mounts away. Idempotent, in this order."""
        if sandbox.record["phase"] in ("STOPPED", "REMOVING"):
            done(None)
            return
        sandbox.stopping.append(done)
        if len(sandbox.stopping) > 1:
            return
        if sandbox.record["phase"] == "READY":
            sandbox.save(phase="STOPPING")
        running = [c for c in sandbox.containers.values() if c.has_process]
        left = len(running)
        if not left or sandbox.pause is None:
            self.stop_network(sandbox)
            return

        def one_ended(_error: CriError | None) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.stop_network(sandbox)

        for container in running:
            container.waiting.append(one_ended)
            self.node.kill(container)

    def stop_network(self, sandbox: Sandbox) -> None:
        if sandbox.record["hostNetwork"]:
            self.stop_pause(sandbox, None, None)
            return
        record = sandbox.record
        self.network_run("tear_down", record, lambda result, error: self.stop_pause(sandbox, result, error))

    def stop_pause(self, sandbox: Sandbox, _result: Any, error: CriError | None, tries: int = 0) -> None:
        if error is not None:
            self.stopped(sandbox, error)
            return
        if sandbox.pause is not None or self.node.cgroups.processes(sandbox.record["cgroup"]):
            self.node.cgroups.kill(sandbox.record["cgroup"])
            if sandbox.pause is not None and sandbox.pause["start"] != -1:
                process.send_signal(sandbox.pause, 9)
            if tries > 600:
                self.stopped(sandbox, CriError("failed to stop sandbox: its processes do not end"))
                return
            delay_s = 0.002 if tries < 20 else 0.05
            self.node.loop.call_later(delay_s, lambda: self.stop_pause(sandbox, None, None, tries + 1))
            return
        try:
            self.unmount(sandbox.record)
        except OSError as e:
            self.stopped(sandbox, CriError(f"failed to stop sandbox: {describe(e)}"))
            return
        if sandbox.record["phase"] == "STOPPING":
            sandbox.save(phase="STOPPED")
            self.node.emit("STOPPED", sandbox.id, sandbox.id)
        self.node.drop_cgroup(sandbox.record["cgroup"])
        self.stopped(sandbox, None)

    @staticmethod
    def unmount(record: dict[str, Any]) -> None:
        if record["netns"]:
            mounts.unmount(record["netns"])
            with contextlib.suppress(FileNotFoundError):
                os.unlink(record["netns"])
        mounts.unmount(record["dir"] + "/shm")

    @staticmethod
    def stopped(sandbox: Sandbox, error: CriError | None) -> None:
        callbacks, sandbox.stopping = sandbox.stopping, []
        for callback in callbacks:
            callback(error)

    def remove(self, request: Request, params: dict[str, Any]) -> None:
        try:
            sandbox = self.node.sandbox(params)
        except CriError as e:
            if e.code != "NotFound":
                raise
            request.ok()  # CRI: removing what is gone succeeds
            return

        def stopped(error: CriError | None) -> None:
            if error is not None:
                request.fail(error)
                return
            self.delete(sandbox)
            request.ok()

        self.stop_sandbox(sandbox, stopped)

    def delete(self, sandbox: Sandbox) -> None:
        """Forget a stopped sandbox with its containers."""
        if sandbox.id not in self.node.sandboxes:
            return
        phase = sandbox.record["phase"]
        sandbox.save(phase="REMOVING" if phase != "CREATING" else "CREATING")
        for container in list(sandbox.containers.values()):
            self.delete_container(container)
        self.node.drop_cgroup(sandbox.record["cgroup"])
        del self.node.sandboxes[sandbox.id]
        mounts.remove_tree(sandbox.dir)
        if phase != "CREATING":
            self.node.emit("DELETED", sandbox.id, sandbox.id)

    def delete_container(self, container: Container) -> None:
        """The record goes last: until then a restarted runtime tries again."""
        self.node.drop_cgroup(container.spec["cgroup"])
        self.node.discard(container.spec["dir"])
        mounts.remove_tree(container.folder)
        self.node.containers.pop(container.id, None)
        container.sandbox.containers.pop(container.id, None)
        self.node.emit("DELETED", container.id, container.sandbox.id)

    # ── death of a sandbox process ──────────────────────────────────────────────────────────────────────────────────────

    def pause_died(self, sandbox: Sandbox) -> None:
        """Its containers died with it; write that down, since nobody else will."""
        for container in list(sandbox.containers.values()):
            self.container_lost(container)
        if sandbox.record["phase"] == "READY" and not sandbox.stopping:
            self.node.emit("STOPPED", sandbox.id, sandbox.id)

    def container_lost(self, container: Container) -> None:
        container.live = store.read_json(container.folder + "/status.json") or container.live
        starting, container.starting = container.starting, []
        for request in starting:
            request.fail(Unavailable("failed to start container: the sandbox process died"))
        if not container.has_process:
            if starting and container.state != RUNNING:
                self.mark_killed(container)
            self.node.ended(container)
            return
        self.node.cgroups.kill(container.spec["cgroup"])
        self.mark_killed(container)
        self.node.emit("STOPPED", container.id, container.sandbox.id)
        self.node.ended(container)

    @staticmethod
    def mark_killed(container: Container) -> None:
        container.live.setdefault("startedAt", container.live.get("createdPid", 0))
        container.live.update(
            exitCode=KILLED_EXIT, reason="Error", message="the sandbox process died", finishedAt=time.time_ns()
        )
        store.write_json(container.folder + "/status.json", container.live)

    # ── restart of the runtime ──────────────────────────────────────────────────────────────────────────────────────────

    def recover(self) -> None:
        """Take up what an earlier runtime left: go on with the living, note the dead, undo the half-made."""
        for sandbox_id in store.list_ids(self.node.state_dir + "/sandboxes"):
            directory = f"{self.node.state_dir}/sandboxes/{sandbox_id}"
            record = store.read_json(directory + "/sandbox.json")
            if record is None:
                mounts.remove_tree(directory)  # killed between mkdir and the record: nothing else was made
                continue
            self.node.sandboxes[sandbox_id] = Sandbox(record)
        for container_id in store.list_ids(self.node.state_dir + "/containers"):
            folder = f"{self.node.state_dir}/containers/{container_id}"
            record = store.read_json(folder + "/container.json")
            owner = self.node.sandboxes.get(record["sandbox"]) if record else None
            if record is None or owner is None:
                if record is not None:
                    self.node.drop_cgroup(record["spec"]["cgroup"])
                mounts.remove_tree(folder)
                continue
            container = Container(record, owner, folder)
            self.node.containers[container_id] = owner.containers[container_id] = container
        for sandbox in list(self.node.sandboxes.values()):
            self.recover_sandbox(sandbox)
        self.sweep()

    def recover_sandbox(self, sandbox: Sandbox) -> None:
        who = store.read_json(sandbox.dir + "/pause.json")
        pidfd = process.open_pidfd(who) if who else None
        if pidfd is not None:
            sandbox.pause = who
            self.watch_pause(sandbox, pidfd)
            try:
                self.connect(sandbox)
                for container in sandbox.containers.values():  # what happened before we listened
                    container.live = store.read_json(container.folder + "/status.json") or container.live
            except OSError:
                self.node.cgroups.kill(sandbox.record["cgroup"])  # alive but deaf: of no use, and its pod is remade
        else:
            for container in sandbox.containers.values():
                if container.has_process:
                    self.container_lost(container)
        if sandbox.record["phase"] == "CREATING":
            self.undo(sandbox)
        elif sandbox.record["phase"] == "REMOVING":
            self.delete(sandbox)

    def sweep(self) -> None:
        """Folders and control groups below ours that no record knows."""
        containers = self.node.root_dir + "/containers"
        for container_id in store.list_ids(containers):
            if container_id not in self.node.containers:
                self.node.discard(f"{containers}/{container_id}")
        if os.listdir(self.node.root_dir + "/trash"):
            self.node.loop.call_soon(self.node.empty_trash)
        if self.node.cgroup_parent:
            known = {s.record["cgroup"] for s in self.node.sandboxes.values()}
            known |= {c.spec["cgroup"] for c in self.node.containers.values()}
            for pod in self.node.cgroups.children(self.node.cgroup_parent):
                if not os.path.basename(pod).startswith("pod"):
                    continue
                for path in self.node.cgroups.children(pod):
                    if path not in known:
                        self.node.cgroups.kill(path)
                        self.node.drop_cgroup(path)
                self.node.cgroups.remove_if_empty(pod)
        valid = set(self.node.sandboxes)
        if self.node.network.stale(valid):
            self.node.pod_workers.run(lambda: self.node.network.collect(valid), lambda _result, _error: None)
