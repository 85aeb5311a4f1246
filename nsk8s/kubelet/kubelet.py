"""The node agent: pods bound to this node become processes, and their state goes back to the API. Touches: everything below it.

Upstream: kubelet/kubelet.go. This module only joins the parts; decisions are in the pure modules (actions, status, env, dns,
admission, backoff).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.client.informer import Informer
from nsk8s.client.resources import NODES, PODS
from nsk8s.client.rest import Client
from nsk8s.kubelet import admission, dns, logs, sysctls
from nsk8s.kubelet.backoff import Backoff
from nsk8s.kubelet.config import Config
from nsk8s.kubelet.containerconfig import log_directory
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure, socket_path
from nsk8s.kubelet.images import ImageManager
from nsk8s.kubelet.killing import Deadline, Killer
from nsk8s.kubelet.node import NodeKeeper
from nsk8s.kubelet.objects import ObjectCache, TokenManager
from nsk8s.kubelet.pleg import Pleg
from nsk8s.kubelet.podruntime import POD_LOGS, PodRuntime
from nsk8s.kubelet.podworker import SYNC, PodWorker
from nsk8s.kubelet.prober import Prober
from nsk8s.kubelet.services import ServiceCache
from nsk8s.kubelet.starting import Starter
from nsk8s.kubelet.static import StaticPods, is_mirror
from nsk8s.kubelet.status import rejected_status
from nsk8s.kubelet.statusmanager import StatusManager
from nsk8s.kubelet.volumes import VolumeManager, has_size_limits

log = logging.getLogger("kubelet")

HOUSEKEEPING_S = 10.0
ORPHAN_GRACE_S = 2.0
"""How long a sandbox that nobody knows must have been seen before it is killed: its pod's watch event may be on its way."""


class Kubelet:
    def __init__(self, config: Config, client: Client) -> None:
        self.config = config
        self.client = client
        self.hostname = os.uname().nodename
        self.recorder = EventRecorder(client, "kubelet", config.node_name)
        self.runtime = RuntimeClient(socket_path(config.runtime_endpoint), config.runtime_timeout_s)
        self.pleg = Pleg(self.runtime, self._runtime_changed, ipv6_first=":" in config.node_ips[0] if config.node_ips else False)
        self.node = NodeKeeper(client, self.runtime, self.recorder, config, self._network_ready)
        self.services = ServiceCache(client)
        self.objects = ObjectCache(client)
        self.tokens = TokenManager(client)
        self.volumes = VolumeManager(config.root_dir, self.objects, self.tokens, self.node.allocatable)
        self.prober = Prober(self.runtime, self.recorder, self._runtime_changed, self.pod_ip)
        self.killer = Killer(self.runtime, self.pleg, self.recorder, self.pod_ip)
        self.statuses = StatusManager(client)
        images = ImageManager(self.runtime, self.recorder, Backoff(max_s=config.backoff_max_s))
        self.starter = Starter(
            config, self.runtime, self.pleg, self.recorder, images, self.objects, self.services, self.volumes, self.killer,
            self.node.allocatable, self.hostname,
        )  # fmt: skip
        self.pods = Informer(client, PODS, field_selector=f"spec.nodeName={config.node_name}")
        self.pods.add_handler(self._pod_changed)
        self.nodes = Informer(client, NODES, field_selector=f"metadata.name={config.node_name}")
        self.nodes.add_handler(self.node.seen)
        self.statics = StaticPods(self, config.static_pod_path)
        self.workers: dict[str, PodWorker] = {}
        self._waiting_for_network: dict[str, PodWorker] = {}
        self._orphans: dict[str, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Until cancelled. Pods are looked at only once the runtime has said what runs already."""
        self.recorder.event(self.node.reference, NORMAL, "Starting", "Starting kubelet.")
        parts = [
            self.recorder.run(), self.node.run(), self.pleg.run(), self.services.run(), self.nodes.run(),
            self._run_pods(), self._run_statics(), self._housekeep(),
        ]  # fmt: skip
        tasks = [asyncio.ensure_future(p) for p in parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for worker in self.workers.values():
                worker.stop()
            for task in (*tasks, *self._tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.runtime.close()

    async def _run_pods(self) -> None:
        await self.pleg.synced.wait()
        await self.pods.run()

    async def _run_statics(self) -> None:
        await self.pleg.synced.wait()
        await self.statics.run()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something beside; failures are logged."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)

    def _spawned_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("%s", task.exception())

    # what comes in

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        if pod is not None and is_mirror(pod):
            self.statics.mirror_changed(old, new)
            return
        if old is not None and (new is None or meta.uid(old) != meta.uid(new)):
            worker = self.workers.get(meta.uid(old))
            if worker is not None:
                worker.removed()
        if new is None:
            return
        worker = self.workers.get(meta.uid(new))
        if worker is not None:
            spec_changed = worker.pod["spec"] != new["spec"] or worker.pod["metadata"].get("deletionTimestamp") != (
                new["metadata"].get("deletionTimestamp")
            )
            self.statuses.observe(new)
            if spec_changed or _foreign_change(worker.pod, new) or meta.is_deleting(new):
                worker.update(new)
            else:
                worker.pod = new
            return
        self._add(new)

    def _add(self, pod: Object) -> None:
        worker = PodWorker(self, pod)
        phase = (pod.get("status") or {}).get("phase")
        known = self.pleg.pods.get(meta.uid(pod))
        if known is None and phase not in ("Succeeded", "Failed") and not meta.is_deleting(pod):
            active = [w.pod for w in self.workers.values() if w.holds_resources]
            forbidden = sysctls.problem(pod, self.config.allowed_unsafe_sysctls)
            refusal = (
                admission.Rejection(sysctls.FORBIDDEN, forbidden) if forbidden
                else admission.admit(pod, active, self._own_node(), self.node.allocatable)
            )  # fmt: skip
            if refusal is not None:
                worker.rejected = True
                self.recorder.event(pod, WARNING, refusal.reason, refusal.message)
                self.statuses.set(pod, rejected_status(pod, refusal.reason, refusal.message, datetime.now(UTC)))
        self.workers[worker.uid] = worker
        worker.wake()

    def add_static(self, pod: Object) -> None:
        self._add(pod)

    def remove_static(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.removed()

    def _own_node(self) -> Object:
        return self.nodes.get(self.config.node_name) or self.node.node

    def _runtime_changed(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.wake()

    def wait_for_network(self, worker: PodWorker) -> None:
        if worker.uid not in self._waiting_for_network:
            self.recorder.event(
                worker.pod, WARNING, "NetworkNotReady", f"network is not ready: {self.node.not_ready_message}"
            )
        self._waiting_for_network[worker.uid] = worker

    def _network_ready(self) -> None:
        waiting, self._waiting_for_network = self._waiting_for_network, {}
        for worker in waiting.values():
            worker.wake()

    # what the parts ask

    def pod_ip(self, pod: Object) -> str:
        if pod["spec"].get("hostNetwork"):
            return self.config.node_ips[0] if self.config.node_ips else "127.0.0.1"
        ips = self.pleg.get(meta.uid(pod)).ips
        return ips[0] if ips else str((pod.get("status") or {}).get("podIP") or "")

    def node_dns(self) -> dns.DNSConfig:
        """The node's own resolv.conf, as it is now: for each pod that is made, as upstream."""
        try:
            with open(self.config.resolv_conf, encoding="utf-8", errors="replace") as f:
                return dns.parse_resolv_conf(f.read())
        except OSError:
            return dns.DNSConfig()

    def find_pod(self, namespace: str, name: str) -> tuple[Object, PodRuntime] | None:
        """A pod of this node by name, for logs and exec."""
        for worker in self.workers.values():
            if meta.name(worker.pod) == name and meta.namespace(worker.pod) == namespace and not worker.gone:
                return worker.pod, self.pleg.get(worker.uid)
        return None

    async def remove_from_runtime(self, containers: list[str], sandboxes: list[str]) -> None:
        for container_id in containers:
            found = next((c for p in self.pleg.pods.values() for c in p.containers if c.id == container_id), None)
            await self._remove("RemoveContainer", "containerId", container_id)
            self.pleg.drop_container(container_id)
            self.prober.forget_container(container_id)
            if found is not None and found.log_path.startswith(POD_LOGS):
                _remove_log(found.log_path)
        for sandbox_id in sandboxes:
            await self._remove("RemovePodSandbox", "podSandboxId", sandbox_id)
            self.pleg.drop_sandbox(sandbox_id)

    async def _remove(self, method: str, key: str, value: str) -> None:
        try:
            await self.runtime.call(method, None, **{key: value})
        except RuntimeFailure as e:
            if e.code != "NotFound":
                raise

    def erase(self, worker: PodWorker) -> None:
        """Forget a pod that is over, and its files."""
        self.prober.remove(worker.uid)
        self.statuses.forget(worker.uid)
        self.starter.forget(worker.uid)
        self.volumes.remove(worker.uid)
        shutil.rmtree(log_directory(worker.pod), ignore_errors=True)
        if self.workers.get(worker.uid) is worker:
            del self.workers[worker.uid]

    # housekeeping

    async def _housekeep(self) -> None:
        await self.pods.synced.wait()
        while True:
            try:
                await self._kill_orphans()
                self._remove_orphaned_dirs()
                await self._rotate_logs()
                await self._evict_outgrown()
                self.objects.prune()
            except RuntimeFailure as e:
                log.debug("housekeeping: %s", e)
            except Exception:
                log.exception("housekeeping")
            await asyncio.sleep(HOUSEKEEPING_S if not self._orphans else ORPHAN_GRACE_S)

    async def _kill_orphans(self) -> None:
        """Sandboxes of pods that the API does not know: the pod was deleted while no kubelet ran."""
        now = time.monotonic()
        unknown = {uid for uid in self.pleg.pods if uid not in self.workers}
        self._orphans = {uid: self._orphans.get(uid, now) for uid in unknown}
        for uid, since in list(self._orphans.items()):
            if now - since < ORPHAN_GRACE_S:
                continue
            runtime = self.pleg.get(uid)
            log.info("Killing orphaned pod %s/%s (%s)", runtime.namespace, runtime.name, uid)
            pod: Object = {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": runtime.name, "namespace": runtime.namespace, "uid": uid}, "spec": {"containers": []},
            }  # fmt: skip
            self.spawn(self._kill_orphan(pod, runtime))
            self._orphans[uid] = now + 60

    async def _kill_orphan(self, pod: Object, runtime: PodRuntime) -> None:
        grace_s = max((c.grace_s for c in runtime.containers), default=30)
        await self.killer.kill_pod(pod, runtime, Deadline(max(1, grace_s)))
        await self.remove_from_runtime([c.id for c in runtime.containers], [s.id for s in runtime.sandboxes])
        self.volumes.remove(meta.uid(pod))
        shutil.rmtree(log_directory(pod), ignore_errors=True)

    def _remove_orphaned_dirs(self) -> None:
        for uid in self.volumes.known_uids():
            if uid not in self.workers and uid not in self.pleg.pods:
                self.volumes.remove(uid)

    async def _evict_outgrown(self) -> None:
        for worker in list(self.workers.values()):
            if worker.state == SYNC and has_size_limits(worker.pod):
                message = await asyncio.to_thread(self.volumes.outgrown, worker.pod)
                if message:
                    worker.evict(message)

    async def _rotate_logs(self) -> None:
        """Rename logs that have grown too long and have the runtime open new ones. Upstream: container_log_manager."""
        for runtime in list(self.pleg.pods.values()):
            for container in runtime.containers:
                if not container.running or not container.log_path:
                    continue
                try:
                    if os.stat(container.log_path).st_size < self.config.log_max_bytes:
                        continue
                except OSError:
                    continue
                logs.rotate(container.log_path, self.config.log_max_files)
                await self.runtime.call("ReopenContainerLog", containerId=container.id)


def _foreign_change(old: Object, new: Object) -> bool:
    """Labels, annotations or conditions that others write have changed: the downward API and readiness gates show them."""
    if meta.labels(old) != meta.labels(new) or meta.annotations(old) != meta.annotations(new):
        return True
    gates = {g["conditionType"] for g in new["spec"].get("readinessGates") or []}
    if not gates:
        return False

    def states(pod: Object) -> dict[str, str]:
        found = (pod.get("status") or {}).get("conditions") or []
        return {c["type"]: c.get("status", "") for c in found if c["type"] in gates}

    return states(old) != states(new)


def _remove_log(path: str) -> None:
    folder, name = os.path.split(path)
    try:
        for entry in os.listdir(folder):
            if entry == name or entry.startswith(name + "."):
                os.unlink(os.path.join(folder, entry))
    except OSError as e:
        log.debug("removing %s: %s", path, e)

