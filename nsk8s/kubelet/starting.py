"""Starting one container: back-off, image, environment, mounts, create, start, postStart. Touches: the runtime, files, the API.

Upstream: kuberuntime_container.go startContainer and generateContainerConfig.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.client.rest import Unreachable
from nsk8s.errors import StatusError
from nsk8s.kubelet import dns
from nsk8s.kubelet.backoff import Backoff, duration
from nsk8s.kubelet.config import Config
from nsk8s.kubelet.containerconfig import container_config, log_directory
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure
from nsk8s.kubelet.env import ConfigError, make_environment, references
from nsk8s.kubelet.images import ImageManager
from nsk8s.kubelet.killing import Deadline, Killer, run_hook
from nsk8s.kubelet.objects import ObjectCache
from nsk8s.kubelet.pleg import Pleg
from nsk8s.kubelet.podruntime import EXITED, PodRuntime, container_hash, field_path, pod_label
from nsk8s.kubelet.problems import StartProblem
from nsk8s.kubelet.services import ServiceCache
from nsk8s.kubelet.static import is_static
from nsk8s.kubelet.volumes import VolumeManager, freshness

LOG_NAME = re.compile(r"(\d+)\.log")


def next_attempt(container: Object, runtime: PodRuntime, old: Object | None) -> int:
    """The attempt number (= restartCount) of the container to be made now. Pure."""
    newest = runtime.container(container["name"])
    if newest is not None:
        return newest.attempt + 1
    for status in [
        *((old or {}).get("containerStatuses") or []), *((old or {}).get("initContainerStatuses") or [])
    ]:  # fmt: skip
        if status.get("name") == container["name"] and status.get("containerID"):
            return int(status.get("restartCount") or 0) + 1
    return 0


def logged_attempts(folder: str) -> int:
    """One more than the highest N among the N.log files of a container; 0 without any.

    What the runtime remembers is lost when a node boots, the logs are not. Upstream: calcRestartCountByLogDir.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    return max((int(found[1]) + 1 for found in map(LOG_NAME.match, names) if found), default=0)


def backoff_key(pod: Object, container: Object) -> str:
    return f"{meta.uid(pod)}/{container['name']}/{container_hash(container)}"


class Starter:
    def __init__(
        self, config: Config, runtime: RuntimeClient, pleg: Pleg, recorder: EventRecorder, images: ImageManager,
        objects: ObjectCache, services: ServiceCache, volumes: VolumeManager, killer: Killer,
        allocatable: Mapping[str, str], node_hostname: str,
    ) -> None:  # fmt: skip
        self._config = config
        self._runtime = runtime
        self._pleg = pleg
        self._recorder = recorder
        self._images = images
        self._objects = objects
        self._services = services
        self._volumes = volumes
        self._killer = killer
        self._allocatable = allocatable
        self._hostname = node_hostname
        self._backoff = Backoff(max_s=config.backoff_max_s)

    def forget(self, uid: str) -> None:
        self._backoff.forget(uid)
        self._images.forget(uid)

    async def start(
        self, pod: Object, container: Object, sandbox_id: str, ips: Sequence[str], old_status: Object | None, seen_at: float
    ) -> None:
        """Returns when the container runs (and its postStart hook has). Raises StartProblem, RuntimeFailure (Unavailable)."""
        runtime = self._pleg.get(meta.uid(pod))
        self._check_backoff(pod, container, runtime)
        where = field_path(pod, container["name"])
        try:
            await self._images.ensure(pod, container)
        except StartProblem as e:
            self._recorder.event(pod, WARNING, "Failed", f"Error: {e.reason}", field_path=where)
            raise
        logged = logged_attempts(f"{log_directory(pod)}/{container['name']}")
        attempt = max(next_attempt(container, runtime, old_status), logged)
        try:
            config = await self._configure(pod, container, attempt, ips, seen_at)
        except (ConfigError, OSError) as e:
            self._recorder.event(pod, WARNING, "Failed", f"Error: {e}", field_path=where)
            raise StartProblem("CreateContainerConfigError", str(e)) from e
        container_id = await self._create(pod, sandbox_id, config, where, container)
        try:
            await self._runtime.call("StartContainer", containerId=container_id)
        except RuntimeFailure as e:
            if e.code == "Unavailable":
                raise
            await self._pleg.refresh_container(container_id, tell=False)
            self._recorder.event(pod, WARNING, "Failed", f"Error: {e.description}", field_path=where)
            raise StartProblem("RunContainerError", e.description) from e
        self._recorder.event(pod, NORMAL, "Started", f"Started container {container['name']}", field_path=where)
        await self._pleg.refresh_container(container_id, tell=False)
        hook = (container.get("lifecycle") or {}).get("postStart")
        if hook:
            await self._post_start(pod, container, container_id, hook, ips, where)

    def _check_backoff(self, pod: Object, container: Object, runtime: PodRuntime) -> None:
        ended = next((c for c in runtime.history(container["name"]) if c.state == EXITED), None)
        if ended is None:
            return
        key, finished, now = backoff_key(pod, container), ended.finished_at / 1e9, time.time()
        wait_s = self._backoff.remaining(key, finished, now)
        if wait_s > 0:
            name = container["name"]
            where = field_path(pod, name)
            self._recorder.event(
                pod, WARNING, "BackOff", f"Back-off restarting failed container {name} in pod {pod_label(pod)}", field_path=where
            )
            raise StartProblem(
                "CrashLoopBackOff",
                f"back-off {duration(self._backoff.delay(key))} restarting failed container={name} pod={pod_label(pod)}",
                wait_s,
            )
        self._backoff.next(key, finished, now)

    async def _create(self, pod: Object, sandbox_id: str, config: dict[str, Any], where: str, container: Object) -> str:
        try:
            answer = await self._runtime.call("CreateContainer", podSandboxId=sandbox_id, config=config)
        except RuntimeFailure as e:
            if e.code == "Unavailable":
                raise
            self._recorder.event(pod, WARNING, "Failed", f"Error: {e.description}", field_path=where)
            raise StartProblem("CreateContainerError", e.description) from e
        self._recorder.event(pod, NORMAL, "Created", f"Created container: {container['name']}", field_path=where)
        return str(answer["containerId"])

    async def _post_start(
        self, pod: Object, container: Object, container_id: str, hook: Object, ips: Sequence[str], where: str
    ) -> None:
        outcome = await run_hook(hook, container, container_id, ips[0] if ips else "", self._runtime, 120)
        if outcome.ok:
            return
        message = f"PostStartHook failed: {outcome.message}" if outcome.message else "PostStartHook failed"
        self._recorder.event(pod, WARNING, "FailedPostStartHook", message, field_path=where)
        running = self._pleg.get(meta.uid(pod)).by_id(container_id)
        if running is not None:
            grace = float(pod["spec"].get("terminationGracePeriodSeconds", 30))
            await self._killer.kill_container(pod, running, Deadline(grace), "FailedPostStartHook")
        raise StartProblem("PostStartHookError", outcome.message)

    async def _configure(
        self, pod: Object, container: Object, attempt: int, ips: Sequence[str], seen_at: float
    ) -> dict[str, Any]:
        """The ContainerConfig, with the files it mounts. Raises ConfigError, OSError."""
        environment = await self._environment(pod, container, ips, seen_at)
        mounts = self._volumes.container_mounts(pod, container, environment)
        folder = self._volumes.pod_dir(meta.uid(pod))
        inside = {m["containerPath"] for m in mounts}
        if "/etc/hosts" not in inside:
            mounts.append({"containerPath": "/etc/hosts", "hostPath": self._write_hosts(pod, folder, ips), "readonly": False})
        termination = f"{folder}/containers/{container['name']}/{attempt:08x}"
        os.makedirs(os.path.dirname(termination), mode=0o750, exist_ok=True)
        with open(termination, "w"):
            os.chmod(termination, 0o666)
        path = container.get("terminationMessagePath") or "/dev/termination-log"
        if path not in inside:
            mounts.append({"containerPath": path, "hostPath": termination, "readonly": False})
        return container_config(
            pod, container, attempt=attempt, environment=environment, mounts=mounts, termination_file=termination,
            memory_capacity=Quantity.parse(self._allocatable["memory"]).ceil, target_id=self._target(pod, container),
        )  # fmt: skip

    def _target(self, pod: Object, container: Object) -> str:
        """The running container that an ephemeral one names. Raises ConfigError."""
        name = container.get("targetContainerName")
        if not name:
            return ""
        found = self._pleg.get(meta.uid(pod)).container(name)
        if found is None or not found.running:
            raise ConfigError(f"unable to find target container {name}")
        return found.id

    def _write_hosts(self, pod: Object, folder: str, ips: Sequence[str]) -> str:
        path = f"{folder}/etc-hosts"
        name, domain = dns.hostname(pod, self._hostname, self._config.cluster_domain)
        node_hosts = ""
        if pod["spec"].get("hostNetwork"):
            try:
                with open("/etc/hosts", encoding="utf-8", errors="replace") as f:
                    node_hosts = f.read()
            except FileNotFoundError:
                node_hosts = "127.0.0.1\tlocalhost\n"
        with open(path, "w", encoding="utf-8") as f:
            f.write(dns.hosts_file(pod, ips, name, domain, node_hosts))
        return path

    async def _environment(self, pod: Object, container: Object, ips: Sequence[str], seen_at: float) -> dict[str, str]:
        if not self._services.synced.is_set() and not is_static(pod):  # which may be what the API server itself is waiting for
            raise ConfigError("services have not yet been read at least once, cannot construct envvars")
        found: dict[tuple[str, str], Object | None] = {}
        try:
            for kind, name in references({"spec": {"containers": [container]}}):
                found[kind, name] = await self._objects.get(kind, meta.namespace(pod), name, freshness(seen_at))
        except (StatusError, Unreachable) as e:
            raise ConfigError(e.message) from e
        host_ips = self._config.node_ips
        return make_environment(
            pod, container, services=self._services.visible(meta.namespace(pod)), get=lambda kind, name: found.get((kind, name)),
            runtime_fields={
                "status.podIP": ips[0] if ips else "",
                "status.podIPs": ",".join(ips),
                "status.hostIP": host_ips[0] if host_ips else "",
                "status.hostIPs": ",".join(host_ips),
            },
            allocatable=self._allocatable,
        )  # fmt: skip
