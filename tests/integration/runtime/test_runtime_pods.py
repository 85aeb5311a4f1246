"""Pods from RunPodSandbox to RemovePodSandbox on a node of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runtime_node import Pod, RuntimeFailure


def test_pod_runs_logs_and_goes(node, client):
    events = node.connect()
    events.send("GetContainerEvents")
    before = node.mounts()
    pod = Pod(node, client)
    status = pod.status()
    assert status["state"] == "SANDBOX_READY"
    assert re.fullmatch(r"10\.244\.1\.\d+", status["network"]["ip"])
    container = pod.start("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    done = pod.wait_exit(container)
    assert (done["state"], done["exitCode"], done["reason"]) == ("CONTAINER_EXITED", 3, "Error")
    lines = Path(done["logPath"]).read_text().splitlines()
    assert sorted(re.sub(r"^\S+ ", "", line) for line in lines) == ["stderr F err", "stdout F out"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", line) for line in lines)
    for kind in ("CREATED", "STARTED", "STOPPED"):
        assert events.wait_event(kind, container)["podSandboxId"] == pod.id
    pod.remove()
    events.wait_event("DELETED", pod.id)
    events.close()
    assert client.call("ListPodSandbox")["items"] == []
    assert client.call("ListContainers")["containers"] == []
    assert node.mounts() == before
    assert node.cgroups.children(node.cgroup) == []


def test_unknown_image(pod):
    with pytest.raises(RuntimeFailure) as e:
        pod.client.call("PullImage", {"image": {"image": "does/not-exist:1"}})
    assert e.value.code == "NotFound"
    assert "nsk8s/echo" in e.value.message
