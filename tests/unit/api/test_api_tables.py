"""What `kubectl get` shows: cells computed as upstream's printers do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nsk8s.api.duration import human_duration
from nsk8s.api.kinds import builtin

NOW = datetime(2026, 1, 1, 0, 10, 0, tzinfo=UTC)
CREATED = "2026-01-01T00:05:00Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (599, "9m59s"),
        (600, "10m"), (10799, "179m"), (10800, "3h"), (3600 * 7 + 60, "7h1m"), (3600 * 8 + 60, "8h"),
        (3600 * 47, "47h"), (3600 * 48, "2d"), (3600 * 50, "2d2h"), (3600 * 24 * 8, "8d"), (3600 * 24 * 729, "729d"),
        (3600 * 24 * 731, "2y1d"), (3600 * 24 * 365 * 9, "9y"),
    ],
)  # fmt: skip
def test_human_duration(seconds: int, text: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == text


def row(group: str, kind: str, obj: dict[str, Any], *, wide: bool = False) -> list[Any]:
    data = builtin(group, kind)
    obj.setdefault("metadata", {}).setdefault("name", "x")
    obj["metadata"].setdefault("creationTimestamp", CREATED)
    obj.setdefault("kind", kind)
    cells = data.printer.cells(obj, NOW)
    return [c for c, column in zip(cells, data.printer.columns, strict=True) if wide or not column.priority]


def pod(*statuses: dict[str, Any], phase: str = "Running", **more: Any) -> dict[str, Any]:
    names = [s["name"] for s in statuses]
    return {
        "metadata": more.get("metadata", {}),
        "spec": {"containers": [{"name": n} for n in names], **more.get("spec", {})},
        "status": {"phase": phase, "containerStatuses": list(statuses), **more.get("status", {})},
    }


def container(name: str = "c", **state: Any) -> dict[str, Any]:
    ready = "running" in state
    return {"name": name, "ready": ready, "restartCount": 0, "state": state}


RUNNING = container(running={})


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (pod(RUNNING), ["1/1", "Running", "0"]),
        (pod(container(waiting={"reason": "ContainerCreating"}), phase="Pending"), ["0/1", "ContainerCreating", "0"]),
        (pod(container(terminated={"reason": "Completed", "exitCode": 0}), phase="Succeeded"), ["0/1", "Completed", "0"]),
        (pod(container(terminated={"exitCode": 3}), phase="Failed"), ["0/1", "ExitCode:3", "0"]),
        (pod(container(terminated={"signal": 9, "exitCode": 137})), ["0/1", "Signal:9", "0"]),
        (pod(RUNNING, container("d", terminated={"reason": "Completed", "exitCode": 0})), ["1/2", "NotReady", "0"]),
        (pod(container("d", terminated={"reason": "Completed", "exitCode": 0}), RUNNING,
             status={"conditions": [{"type": "Ready", "status": "True"}]}), ["1/2", "Running", "0"]),
        (pod(RUNNING, metadata={"deletionTimestamp": CREATED}), ["1/1", "Terminating", "0"]),
        (pod(RUNNING, metadata={"deletionTimestamp": CREATED}, status={"reason": "NodeLost"}), ["1/1", "Unknown", "0"]),
        (pod(container(terminated={"reason": "Error", "exitCode": 1}), phase="Failed",
             metadata={"deletionTimestamp": CREATED}), ["0/1", "Error", "0"]),
        (pod(phase="Failed", status={"reason": "Evicted"}), ["0/0", "Evicted", "0"]),
        (pod(phase="Pending", status={"conditions": [{"type": "PodScheduled", "status": "False",
                                                      "reason": "SchedulingGated"}]}), ["0/0", "SchedulingGated", "0"]),
    ],
)  # fmt: skip
def test_pod_status(obj: dict[str, Any], wanted: list[str]) -> None:
    assert row("", "Pod", obj) == ["x", *wanted, "5m"]


def test_pod_restarts_show_the_last_one() -> None:
    crashed = {**container(waiting={"reason": "CrashLoopBackOff"}), "restartCount": 3,
               "lastState": {"terminated": {"finishedAt": "2026-01-01T00:09:50Z", "exitCode": 1}}}  # fmt: skip
    assert row("", "Pod", pod(crashed)) == ["x", "0/1", "CrashLoopBackOff", "3 (10s ago)", "5m"]


def test_init_containers() -> None:
    waiting = {"name": "c", "ready": False, "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
    spec = {"initContainers": [{"name": "i"}, {"name": "j"}]}

    def status(*inits: dict[str, Any]) -> list[Any]:
        return row("", "Pod", pod(waiting, phase="Pending", spec=spec, status={"initContainerStatuses": list(inits)}))

    done = container("i", terminated={"exitCode": 0, "reason": "Completed"})
    assert status(container("i", running={}))[2] == "Init:0/2"
    assert status(done, container("j", running={}))[2] == "Init:1/2"
    assert status(container("i", terminated={"exitCode": 2}))[2] == "Init:ExitCode:2"
    assert status(container("i", terminated={"exitCode": 2, "reason": "Error"}))[2] == "Init:Error"
    assert status(container("i", waiting={"reason": "ImagePullBackOff"}))[2] == "Init:ImagePullBackOff"
    assert status(done, {**done, "name": "j"})[2] == "PodInitializing"


def test_sidecars_count_as_containers() -> None:
    sidecar = {**container("s", running={}), "started": True}
    obj = pod(RUNNING, spec={"initContainers": [{"name": "s", "restartPolicy": "Always"}]},
              status={"initContainerStatuses": [sidecar]})  # fmt: skip
    assert row("", "Pod", obj)[1:3] == ["2/2", "Running"]


def test_pod_wide() -> None:
    obj = pod(RUNNING, spec={"nodeName": "n1", "readinessGates": [{"conditionType": "g"}]},
              status={"podIPs": [{"ip": "10.244.1.2"}], "podIP": "10.244.1.2"})  # fmt: skip
    assert row("", "Pod", obj, wide=True)[5:] == ["10.244.1.2", "n1", "<none>", "0/1"]
    assert row("", "Pod", pod(RUNNING), wide=True)[5:] == ["<none>", "<none>", "<none>", "<none>"]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
         ["ClusterIP", "10.96.0.1", "<none>", "80/TCP"]),
        ({"type": "ClusterIP", "clusterIP": "None"}, ["ClusterIP", "None", "<none>", "<none>"]),
        ({"type": "NodePort", "clusterIP": "10.96.0.1", "externalIPs": ["1.2.3.4", "1.2.3.5"],
          "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]},
         ["NodePort", "10.96.0.1", "1.2.3.4,1.2.3.5", "80:30080/TCP,53/UDP"]),
        ({"type": "LoadBalancer", "clusterIP": "10.96.0.1"}, ["LoadBalancer", "10.96.0.1", "<pending>", "<none>"]),
        ({"type": "ExternalName", "externalName": "a.b"}, ["ExternalName", "<none>", "a.b", "<none>"]),
    ],
)  # fmt: skip
def test_service(spec: dict[str, Any], wanted: list[str]) -> None:
    assert row("", "Service", {"spec": spec}) == ["x", *wanted, "5m"]


def test_node() -> None:
    node = {
        "metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.168.56.10"}],
            "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "Debian", "kernelVersion": "6.1",
                         "containerRuntimeVersion": "nsk8s://0.1"},
        },
    }  # fmt: skip
    assert row("", "Node", node, wide=True) == [
        "x", "Ready,SchedulingDisabled", "control-plane,edge", "5m", "v1.33.0", "192.168.56.10", "<none>", "Debian",
        "6.1", "nsk8s://0.1",
    ]  # fmt: skip
    assert row("", "Node", {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})[1] == "NotReady"
    assert row("", "Node", {})[1:3] == ["Unknown", "<none>"]


def test_workloads() -> None:
    template = {"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:2"}]}}
    selector = {"matchLabels": {"b": "2", "a": "1"}}
    spec = {"replicas": 3, "template": template, "selector": selector}
    status = {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1, "replicas": 3}
    assert row("apps", "Deployment", {"spec": spec, "status": status}, wide=True) == [
        "x", "1/3", 2, 1, "5m", "a,b", "i:1,i:2", "a=1,b=2"]  # fmt: skip
    assert row("apps", "ReplicaSet", {"spec": spec, "status": status}) == ["x", 3, 3, 1, "5m"]
    assert row("apps", "StatefulSet", {"spec": spec, "status": status}) == ["x", "1/3", "5m"]
    daemon = {"desiredNumberScheduled": 4, "currentNumberScheduled": 3, "numberReady": 2, "updatedNumberScheduled": 1}
    assert row("apps", "DaemonSet", {"spec": spec, "status": daemon}) == ["x", 4, 3, 2, 1, 0, "<none>", "5m"]


@pytest.mark.parametrize(
    ("spec", "status", "wanted"),
    [
        ({"completions": 2}, {"succeeded": 1, "startTime": CREATED}, ["Running", "1/2", "5m"]),
        ({"completions": 1}, {"succeeded": 1, "startTime": CREATED, "completionTime": "2026-01-01T00:05:07Z",
                              "conditions": [{"type": "Complete", "status": "True"}]}, ["Complete", "1/1", "7s"]),
        ({"completions": 1}, {"startTime": CREATED, "conditions": [
            {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:06:00Z"}]},
         ["Failed", "0/1", "60s"]),
        ({"parallelism": 3}, {}, ["Running", "0/1 of 3", ""]),
        ({}, {"conditions": [{"type": "Suspended", "status": "True"}]}, ["Suspended", "0/1", ""]),
    ],
)  # fmt: skip
def test_job(spec: dict[str, Any], status: dict[str, Any], wanted: list[str]) -> None:
    assert row("batch", "Job", {"spec": spec, "status": status}) == ["x", *wanted, "5m"]


def test_events() -> None:
    event = {
        "type": "Warning", "reason": "Failed", "message": " no\n", "count": 4, "firstTimestamp": CREATED,
        "lastTimestamp": "2026-01-01T00:09:00Z", "involvedObject": {"kind": "Pod", "name": "p"},
        "source": {"component": "kubelet"},
    }  # fmt: skip
    assert row("", "Event", event) == ["60s", "Warning", "Failed", "pod/p", "no"]
    assert row("", "Event", event, wide=True)[5:] == ["kubelet", "no", "5m", 4, "x"]
    new = {"note": "hi", "regarding": {"kind": "Node", "name": "n"}, "deprecatedLastTimestamp": CREATED}
    assert row("events.k8s.io", "Event", new) == ["5m", "", "", "node/n", "hi"]
    series = {"eventTime": CREATED, "series": {"count": 7, "lastObservedTime": "2026-01-01T00:09:30Z"}}
    assert row("", "Event", series, wide=True)[0] == "30s"


def test_small_kinds() -> None:
    assert row("", "Endpoints", {"subsets": [{"addresses": [{"ip": f"10.0.0.{i}"} for i in range(5)],
                                               "ports": [{"port": 80}]}]})[1] == (
        "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 2 more...")  # fmt: skip
    assert row("", "Endpoints", {})[1] == "<none>"
    assert row("", "PersistentVolumeClaim", {"status": {"phase": "Pending"}})[1:5] == ["Pending", "", "", ""]
    assert row("discovery.k8s.io", "EndpointSlice", {"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [
        {"addresses": ["10.0.0.1"]}]}) == ["x", "IPv4", "80", "10.0.0.1", "5m"]  # fmt: skip
    assert row("networking.k8s.io", "Ingress", {"spec": {"rules": [{"host": "a"}, {}], "tls": [{}]}})[1:5] == [
        "<none>", "a", "", "80, 443"]  # fmt: skip
    assert row("coordination.k8s.io", "Lease", {"spec": {"holderIdentity": "me"}}) == ["x", "me", "5m"]
    assert row("batch", "CronJob", {"spec": {"schedule": "* * * * *", "suspend": True}})[1:6] == [
        "* * * * *", "<none>", "True", 0, "<none>"]  # fmt: skip
