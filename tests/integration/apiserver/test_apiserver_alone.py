"""`nsk8s component`: an empty API alone, then a scheduler and a controller manager beside it; what was written outlives kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")

CRD = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.sea.example"},
    "spec": {
        "group": "sea.example", "scope": "Namespaced", "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {"length": {"type": "integer"}}}},
        }}}],
    },
}  # fmt: skip


class Alone:
    """Components started by the command, each by itself, in one directory."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory, self.stack = directory, stack
        self.port = free_port()
        self.kubeconfig = directory / "kc"

    def component(self, name: str, *flags: str) -> subprocess.Popen[bytes]:
        log = self.stack.enter_context((self.directory / f"{name}.log").open("ab"))
        command = [sys.executable, "-c", "from nsk8s.cli.main import main; main()", "component", name, *flags]
        process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        self.stack.callback(process.wait, 30)
        self.stack.callback(process.terminate)
        return process

    def api(self) -> subprocess.Popen[bytes]:
        self.kubeconfig.unlink(missing_ok=True)
        process = self.component(
            "kube-apiserver", "--data-dir", "d", "--bind-address", "127.0.0.1", "--secure-port", str(self.port),
            "--write-kubeconfig", "kc",
        )  # fmt: skip
        self.eventually(self.kubeconfig.exists)
        return process

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory)}
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=60, env=environment
        )
        assert not check or done.returncode == 0, done.stderr + self.logs()
        return done.stdout

    def logs(self) -> str:
        return "".join(p.read_text() for p in self.directory.glob("*.log"))

    def eventually(self, holds: Callable[[], Any], timeout_s: float = 40) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := holds()):
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)
        return found


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    with ExitStack() as stack:
        yield Alone(tmp_path, stack)


def test_an_empty_api_keeps_what_it_was_given_over_kill_9(alone: Alone) -> None:
    api = alone.api()
    assert alone.kubectl("get", "namespaces", "-o", "name").split() == [
        "namespace/default", "namespace/kube-node-lease", "namespace/kube-public", "namespace/kube-system"
    ]  # fmt: skip
    assert not alone.kubectl("get", "endpointslices", "-A", "-o", "name"), "loopback is no endpoint"
    alone.kubectl("create", "namespace", "harbour")
    alone.kubectl("-n", "harbour", "create", "configmap", "tide", "--from-literal=high=noon")
    alone.kubectl("apply", "-f", "-", stdin=json.dumps(CRD))
    alone.kubectl("wait", "--for=condition=Established", "crd/boats.sea.example", "--timeout=30s")
    boat = {"apiVersion": "sea.example/v1", "kind": "Boat", "metadata": {"name": "ark"}, "spec": {"length": 300}}
    alone.kubectl("-n", "harbour", "apply", "-f", "-", stdin=json.dumps(boat))
    before = alone.kubectl("-n", "harbour", "get", "boat/ark", "cm/tide", "-o", "json")

    api.send_signal(signal.SIGKILL)
    api.wait(30)
    alone.api()

    assert alone.kubectl("-n", "harbour", "get", "boat/ark", "cm/tide", "-o", "json") == before
    assert alone.kubectl("-n", "harbour", "get", "boats", "-o", "jsonpath={.items[*].spec.length}") == "300"


def test_scheduler_and_controllers_start_beside_it_and_take_over_after_kill_9(alone: Alone) -> None:
    alone.api()
    scheduler = alone.component("kube-scheduler", "--kubeconfig", "kc")
    alone.component("kube-controller-manager", "--kubeconfig", "kc")
    alone.kubectl("create", "deployment", "web", "--image=busybox", "--replicas=2")

    def pods(selector: str = "") -> list[str]:
        return alone.kubectl("get", "pods", "-o", "name", *([selector] if selector else [])).split()

    alone.eventually(lambda: len(pods()) == 2)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "status": {"capacity": {"cpu": "4", "memory": "8Gi", "pods": "20"},
                       "conditions": [{"type": "Ready", "status": "True"}]}}  # fmt: skip
    alone.kubectl("create", "-f", "-", stdin=json.dumps(node))
    alone.eventually(lambda: len(pods("--field-selector=spec.nodeName=n1")) == 2)

    taken: list[float] = []
    for replicas in (3, 4, 5):  # a busy machine makes it slower; a lease that is waited for makes it slow each time
        scheduler.kill()
        scheduler.wait(30)
        alone.kubectl("scale", "deployment", "web", f"--replicas={replicas}")
        alone.eventually(lambda n=replicas: len(pods()) == n)
        begun = time.monotonic()
        scheduler = alone.component("kube-scheduler", "--kubeconfig", "kc")
        alone.eventually(lambda n=replicas: len(pods("--field-selector=spec.nodeName=n1")) == n, 60)
        taken.append(time.monotonic() - begun)
        if taken[-1] < 10:
            break
    assert min(taken) < 10, "a dead scheduler's lease (15 s) is not waited for"


def test_a_component_that_cannot_start_says_why_in_one_line(alone: Alone) -> None:
    alone.api()
    taken = alone.component("kube-apiserver", "--data-dir", "other", "--bind-address", "127.0.0.1", "--secure-port", str(alone.port))
    assert taken.wait(60) == 1
    assert f"port {alone.port} on 127.0.0.1 is already in use" in alone.logs()
    same = alone.component("kube-apiserver", "--data-dir", "d", "--bind-address", "127.0.0.1", "--secure-port", str(free_port()))
    assert same.wait(60) == 1
    assert "is in use by another process" in alone.logs()
    missing = alone.component("kube-scheduler", "--kubeconfig", "nowhere")
    assert missing.wait(60) == 1
    assert "cannot read kubeconfig nowhere" in alone.logs()
    assert "Traceback" not in alone.logs()
