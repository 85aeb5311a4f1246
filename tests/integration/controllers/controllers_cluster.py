"""A control plane of real processes on loopback, and nodes that only pretend (as kwok does): bound pods become Ready."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import real_kubectl
from patience import PATIENCE

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.controller import Controller
from nsk8s.client.informer import Informer
from nsk8s.client.resources import LEASES, NODES, PODS
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import NotFound, StatusError

LEASE_NAMESPACE = "kube-node-lease"


class FakeKubelets:
    """Nodes in a thread of their own. `refuse(pod)` keeps pods from becoming ready; `silent` nodes say nothing."""

    def __init__(self, kubeconfig_path: Path, nodes: dict[str, Object]) -> None:
        self._config = kubeconfig.load(kubeconfig_path)
        self._nodes = nodes
        self.silent: set[str] = set()
        self.refuse: Callable[[Object], bool] = lambda pod: False
        self._addresses = 0
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def poke(self) -> None:
        """Look at all pods again, after `refuse` or `silent` changed."""
        self.loop.call_soon_threadsafe(lambda: [self._work.queue.add(meta.key(p)) for p in self._pods.items()])

    async def _run(self) -> None:
        async with Client(self._config, "kwok") as self._client:
            self._pods = Informer(self._client, PODS)
            self._work = Controller("kwok", self._pod, workers=8)
            self._work.watch(self._pods)
            for name, spec in self._nodes.items():
                await self.register(name, spec)
            self._ready.set()
            tasks = [asyncio.ensure_future(t) for t in (self._pods.run(), self._work.run(), self._beat())]
            await self._stop.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def register(self, name: str, spec: Object) -> None:
        number = int(name.removeprefix("node") or 0) if name.startswith("node") else 0
        allocatable = {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "10Gi"}
        now = meta.rfc3339(datetime.now(UTC))
        await self._client.create(NODES, {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **spec.get("labels", {})}},
            "spec": {"taints": spec.get("taints")} if spec.get("taints") else {},
            "status": {
                "capacity": allocatable, "allocatable": allocatable,
                "addresses": [{"type": "InternalIP", "address": f"192.168.56.{10 + number}"}],
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
                     "lastHeartbeatTime": now, "lastTransitionTime": now},
                ],
            },
        })  # fmt: skip

    async def _beat(self) -> None:
        while True:
            for name in self._nodes:
                if name not in self.silent:
                    with contextlib.suppress(StatusError, Unreachable):
                        await self._renew(name)
                        await self._post_ready(name)
            await asyncio.sleep(0.5)

    async def _renew(self, name: str) -> None:
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": meta.rfc3339_micro(datetime.now(UTC))}
        try:
            await self._client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
        except NotFound:
            await self._client.create(LEASES, {"metadata": {"name": name, "namespace": LEASE_NAMESPACE}, "spec": spec})

    async def _post_ready(self, name: str) -> None:
        node = await self._client.get(NODES, name)
        if not meta.is_condition_true(node, "Ready"):
            now = datetime.now(UTC)
            node["status"]["conditions"] = meta.set_condition(
                node["status"]["conditions"],
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": meta.rfc3339(now)},
                now,
            )
            await self._client.update_status(NODES, node)

    async def _pod(self, key: str) -> float | None:
        pod = self._pods.get(key)
        if pod is None or pod["spec"].get("nodeName") not in self._nodes or pod["spec"]["nodeName"] in self.silent:
            return None
        if meta.is_deleting(pod):
            with contextlib.suppress(NotFound):
                await self._client.delete(PODS, meta.name(pod), meta.namespace(pod), grace_period_s=0)
            return None
        phase = (pod.get("status") or {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            return None
        command = pod["spec"]["containers"][0].get("command") or []
        if command[:1] in (["true"], ["false"]):
            ended = {"phase": "Succeeded" if command == ["true"] else "Failed", "podIP": self._address(pod)}
            await self._client.patch(PODS, meta.name(pod), {"status": ended}, meta.namespace(pod), subresource="status")
            return None
        ready = "False" if self.refuse(pod) else "True"
        if phase == "Running" and (meta.find_condition(pod, "Ready") or {}).get("status") == ready:
            return None
        now = datetime.now(UTC)
        conditions = (pod.get("status") or {}).get("conditions") or []
        for kind in ("Ready", "ContainersReady"):
            conditions = meta.set_condition(conditions, {"type": kind, "status": ready}, now)
        ip = self._address(pod)
        status = {
            "phase": "Running", "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": meta.rfc3339(now),
        }  # fmt: skip
        await self._client.patch(PODS, meta.name(pod), {"status": status}, meta.namespace(pod), subresource="status")
        return None

    def _address(self, pod: Object) -> str:
        known = (pod.get("status") or {}).get("podIP")
        if known:
            return str(known)
        self._addresses += 1
        return f"10.244.{self._addresses // 250}.{self._addresses % 250 + 1}"


class Cluster:
    """The processes and a kubectl for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "admin.conf"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kubelets: FakeKubelets

    def start(self, name: str, *argv: str) -> None:
        log = (self.directory / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen([sys.executable, "-m", *argv], stdout=log, stderr=log)

    def start_api(self, port: int = 0) -> None:
        self.start(
            "apiserver", "nsk8s.apiserver.main", "--data-dir", str(self.directory / "data"), "--bind-address", "127.0.0.1",
            "--advertise-address", "192.168.56.10", "--secure-port", str(port), "--write-kubeconfig", str(self.kubeconfig),
        )  # fmt: skip

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.wait(30)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *argv], input=stdin, capture_output=True, text=True, timeout=60,
            env={**os.environ, "HOME": str(self.directory)},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"kubectl {' '.join(argv)}: {done.stderr}"
        return done

    def kubectl(self, *argv: str, stdin: str = "") -> str:
        return self.run(*argv, stdin=stdin).stdout

    def get(self, *argv: str) -> Any:
        return json.loads(self.kubectl("get", *argv, "-o", "json"))

    def apply(self, *objects: Object) -> str:
        return self.kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(o) for o in objects))

    def eventually(self, check: Callable[[], Any], timeout_s: float = 45.0) -> Any:
        """What `check` answers once it is true; its last failure otherwise."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        while True:
            try:
                answer = check()
                if answer:
                    return answer
                problem: object = answer
            except AssertionError as e:
                problem = e
            if time.monotonic() > deadline:
                raise AssertionError(f"not true within {timeout_s} s: {problem}")
            time.sleep(0.1)


CONTROL_PLANE_TAINT = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
NODES_OF_A_CLASS: dict[str, Object] = {
    "node0": {"taints": [CONTROL_PLANE_TAINT]}, "node1": {}, "node2": {}, "node3": {},
}  # fmt: skip


def running(directory: Path, *kcm_flags: str, nodes: dict[str, Object] = NODES_OF_A_CLASS) -> Iterator[Cluster]:
    """A cluster whose control plane runs until the generator is closed."""
    real_kubectl.require()
    cluster = Cluster(directory)
    try:
        cluster.start_api()
        cluster.eventually(cluster.kubeconfig.exists)
        cluster.eventually(lambda: cluster.run("get", "--raw", "/readyz", check=False).returncode == 0)
        (directory / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        cluster.start(
            "kcm", "nsk8s.controllers.main", "--kubeconfig", str(cluster.kubeconfig), "--allocate-node-cidrs",
            "--cluster-cidr", "10.244.0.0/16", "--node-cidr-first-address", "192.168.56.10",
            "--root-ca-file", str(directory / "ca.crt"), *kcm_flags,
        )  # fmt: skip
        alone = [f for f in kcm_flags if f.startswith("--leader-elect")]
        cluster.start("scheduler", "nsk8s.scheduler.main", "--kubeconfig", str(cluster.kubeconfig), *alone)
        cluster.kubelets = FakeKubelets(cluster.kubeconfig, dict(nodes))
        cluster.kubelets.start()
        yield cluster
        cluster.kubelets.stop()
    finally:
        for process in cluster.processes.values():
            process.terminate()
        for process in cluster.processes.values():
            process.wait(30)


def deployment(name: str, replicas: int, image: str = "nsk8s/echo", namespace: str = "default", **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{
                "name": "app", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
            }]}},
            **spec,
        },
    }  # fmt: skip


def service(name: str, namespace: str = "default", **spec: Any) -> Object:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}], **spec},
    }  # fmt: skip
