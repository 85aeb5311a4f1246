"""Workloads from `kubectl apply` to ready pods and away again, with the real API server, scheduler and controllers."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from controllers_cluster import Cluster, deployment


def _wait_rolled_out(cluster: Cluster, namespace: str, what: str) -> str:
    return cluster.kubectl("-n", namespace, "rollout", "status", what, "--timeout=60s")


def _conditions(obj: Any) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in obj["status"].get("conditions", [])}


def test_deployment_of_fifty_is_spread_evenly_and_complete(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web", 50, namespace=namespace))
    _wait_rolled_out(cluster, namespace, "deploy/web")
    pods = cluster.get("-n", namespace, "pods")["items"]
    assert sorted(Counter(p["spec"]["nodeName"] for p in pods).values()) == [16, 17, 17]
    assert {p["spec"]["nodeName"] for p in pods} == {"node1", "node2", "node3"}, "the control plane is tainted"
    status = cluster.get("-n", namespace, "deploy", "web")["status"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"], status["availableReplicas"]) == (50,) * 4
    assert "unavailableReplicas" not in status
    done = cluster.eventually(
        lambda: _conditions(cluster.get("-n", namespace, "deploy", "web")).get("Progressing")[1] == "NewReplicaSetAvailable"
        and cluster.get("-n", namespace, "deploy", "web")
    )
    assert _conditions(done)["Available"] == ("True", "MinimumReplicasAvailable")


def test_rolling_update_history_undo_restart_and_pause(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web", 4, namespace=namespace))
    _wait_rolled_out(cluster, namespace, "deploy/web")
    cluster.kubectl("-n", namespace, "set", "image", "deploy/web", "app=busybox")
    assert "successfully rolled out" in _wait_rolled_out(cluster, namespace, "deploy/web")
    sets = cluster.get("-n", namespace, "rs")["items"]
    assert sorted((s["metadata"]["annotations"]["deployment.kubernetes.io/revision"], s["spec"]["replicas"]) for s in sets) == [
        ("1", 0), ("2", 4)
    ]  # fmt: skip
    history = cluster.kubectl("-n", namespace, "rollout", "history", "deploy/web")
    assert [line.split()[0] for line in history.splitlines()[2:] if line.strip()] == ["1", "2"]

    cluster.kubectl("-n", namespace, "rollout", "undo", "deploy/web")
    _wait_rolled_out(cluster, namespace, "deploy/web")
    back = next(s for s in cluster.get("-n", namespace, "rs")["items"] if s["spec"]["replicas"] == 4)
    assert back["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    assert back["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"
    assert back["spec"]["template"]["spec"]["containers"][0]["image"] == "nsk8s/echo"

    before = {p["metadata"]["uid"] for p in cluster.get("-n", namespace, "pods")["items"]}
    cluster.kubectl("-n", namespace, "rollout", "restart", "deploy/web")
    _wait_rolled_out(cluster, namespace, "deploy/web")
    cluster.eventually(lambda: len(cluster.get("-n", namespace, "pods")["items"]) == 4)
    assert before.isdisjoint(p["metadata"]["uid"] for p in cluster.get("-n", namespace, "pods")["items"])

    cluster.kubectl("-n", namespace, "rollout", "pause", "deploy/web")
    cluster.kubectl("-n", namespace, "set", "image", "deploy/web", "app=alpine")
    cluster.eventually(
        lambda: _conditions(cluster.get("-n", namespace, "deploy", "web"))["Progressing"] == ("Unknown", "DeploymentPaused")
    )
    cluster.kubectl("-n", namespace, "scale", "deploy/web", "--replicas=6")
    cluster.eventually(lambda: cluster.get("-n", namespace, "deploy", "web")["status"].get("availableReplicas") == 6)
    assert {p["spec"]["containers"][0]["image"] for p in cluster.get("-n", namespace, "pods")["items"]} == {"nsk8s/echo"}
    cluster.kubectl("-n", namespace, "rollout", "resume", "deploy/web")
    _wait_rolled_out(cluster, namespace, "deploy/web")
    cluster.eventually(
        lambda: {p["spec"]["containers"][0]["image"] for p in cluster.get("-n", namespace, "pods")["items"]} == {"alpine"}
    )


def test_an_update_that_never_gets_ready_keeps_enough_old_pods_and_times_out(cluster: Cluster, namespace: str) -> None:
    cluster.kubelets.refuse = lambda pod: pod["spec"]["containers"][0]["image"] == "broken"
    cluster.apply(deployment("web", 4, namespace=namespace))
    _wait_rolled_out(cluster, namespace, "deploy/web")
    broken = {"progressDeadlineSeconds": 2, "template": {"spec": {"containers": [{"name": "app", "image": "broken"}]}}}
    cluster.kubectl("-n", namespace, "patch", "deploy/web", "-p", json.dumps({"spec": broken}))
    done = cluster.run("-n", namespace, "rollout", "status", "deploy/web", "--timeout=60s", check=False)
    assert done.returncode == 1
    assert "exceeded its progress deadline" in done.stderr

    def is_stuck() -> Any:
        found = cluster.get("-n", namespace, "deploy", "web")
        assert _conditions(found)["Progressing"] == ("False", "ProgressDeadlineExceeded")
        assert found["status"]["availableReplicas"] == 3, "25 % of 4 may be unavailable"
        return found

    web = cluster.eventually(is_stuck)
    assert _conditions(web)["Available"][0] == "True"
    assert web["status"]["replicas"] <= 5, "and 25 % of 4 may be too many"


def test_recreate_ends_all_old_pods_first(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web", 3, namespace=namespace, strategy={"type": "Recreate"}))
    _wait_rolled_out(cluster, namespace, "deploy/web")
    cluster.kubectl("-n", namespace, "set", "image", "deploy/web", "app=busybox")
    _wait_rolled_out(cluster, namespace, "deploy/web")
    pods = cluster.get("-n", namespace, "pods")["items"]
    assert [p["spec"]["containers"][0]["image"] for p in pods] == ["busybox"] * 3


def test_replicaset_replaces_adopts_and_releases(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("-n", namespace, "run", "stray", "--image=busybox", "--labels=app=web")
    cluster.apply({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "busybox"}]}}},
    })  # fmt: skip
    cluster.eventually(lambda: cluster.get("-n", namespace, "rs", "web")["status"].get("availableReplicas") == 3)
    names = [p["metadata"]["name"] for p in cluster.get("-n", namespace, "pods")["items"]]
    assert "stray" in names
    assert len(names) == 3
    assert cluster.get("-n", namespace, "pod", "stray")["metadata"]["ownerReferences"][0]["name"] == "web"

    cluster.kubectl("-n", namespace, "label", "pod", "stray", "app=other", "--overwrite")
    cluster.eventually(lambda: not cluster.get("-n", namespace, "pod", "stray")["metadata"].get("ownerReferences"))
    cluster.eventually(lambda: len(cluster.get("-n", namespace, "pods", "-l", "app=web")["items"]) == 3)

    cluster.kubectl("-n", namespace, "delete", "pod", next(n for n in names if n != "stray"))
    cluster.eventually(lambda: cluster.get("-n", namespace, "rs", "web")["status"].get("readyReplicas") == 3)


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_deleting_a_deployment_cascades_as_asked(cluster: Cluster, namespace: str, cascade: str) -> None:
    cluster.apply(deployment("web", 2, namespace=namespace))
    _wait_rolled_out(cluster, namespace, "deploy/web")
    cluster.kubectl("-n", namespace, "delete", "deploy", "web", f"--cascade={cascade}")
    if cascade == "orphan":
        rs = cluster.get("-n", namespace, "rs")["items"]
        assert [s["metadata"].get("ownerReferences") for s in rs] == [None]
        assert len(cluster.get("-n", namespace, "pods")["items"]) == 2
        cluster.apply(deployment("web", 2, namespace=namespace))  # and is adopted again
        cluster.eventually(lambda: cluster.get("-n", namespace, "rs")["items"][0]["metadata"].get("ownerReferences"))
        assert len(cluster.get("-n", namespace, "rs")["items"]) == 1
        return
    if cascade == "foreground":
        assert not cluster.get("-n", namespace, "rs,pods")["items"], "kubectl returns when the owner is gone: last of all"
    cluster.eventually(lambda: not cluster.get("-n", namespace, "rs,pods")["items"])


def test_daemonset_runs_everywhere_it_may_and_rolls(cluster: Cluster, namespace: str) -> None:
    cluster.apply({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {
            "metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "app", "image": "busybox"}]}}},
    })  # fmt: skip
    _wait_rolled_out(cluster, namespace, "ds/agent")
    pods = cluster.get("-n", namespace, "pods")["items"]
    assert sorted(p["spec"]["nodeName"] for p in pods) == ["node1", "node2", "node3"]
    cluster.kubectl("-n", namespace, "set", "image", "ds/agent", "app=alpine")
    _wait_rolled_out(cluster, namespace, "ds/agent")
    pods = cluster.eventually(lambda: len(p := cluster.get("-n", namespace, "pods")["items"]) == 3 and p)
    assert {p["spec"]["containers"][0]["image"] for p in pods} == {"alpine"}
    cluster.kubectl("-n", namespace, "rollout", "undo", "ds/agent")
    _wait_rolled_out(cluster, namespace, "ds/agent")
    status = cluster.get("-n", namespace, "ds", "agent")["status"]
    assert (status["desiredNumberScheduled"], status["numberAvailable"], status["updatedNumberScheduled"]) == (3, 3, 3)


def test_statefulset_in_order_with_partition(cluster: Cluster, namespace: str) -> None:
    cluster.apply({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": namespace},
        "spec": {"serviceName": "db", "replicas": 3, "selector": {"matchLabels": {"app": "db"}},
                 "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}},
                 "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "app", "image": "a"}]}}},
    })  # fmt: skip
    cluster.eventually(lambda: cluster.get("-n", namespace, "sts", "db")["status"].get("availableReplicas") == 3)
    pods = cluster.get("-n", namespace, "pods")["items"]
    assert [p["metadata"]["name"] for p in sorted(pods, key=lambda p: p["metadata"]["name"])] == ["db-0", "db-1", "db-2"]
    assert {(p["spec"]["hostname"], p["spec"]["subdomain"]) for p in pods} == {(f"db-{i}", "db") for i in range(3)}

    cluster.kubectl("-n", namespace, "set", "image", "sts/db", "app=b")

    def images() -> list[str]:
        found = sorted(cluster.get("-n", namespace, "pods")["items"], key=lambda p: p["metadata"]["name"])
        return [p["spec"]["containers"][0]["image"] for p in found]

    cluster.eventually(lambda: images() == ["a", "a", "b"])
    cluster.kubectl("-n", namespace, "patch", "sts", "db", "-p", '{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}')
    _wait_rolled_out(cluster, namespace, "sts/db")
    assert images() == ["b", "b", "b"]
    cluster.kubectl("-n", namespace, "scale", "sts/db", "--replicas=1")
    cluster.eventually(lambda: images() == ["b"])


def test_jobs_complete_fail_and_go_away(cluster: Cluster, namespace: str) -> None:
    def job(name: str, command: str, **spec: Any) -> dict[str, Any]:
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "busybox", "command": [command]}]}}
        return {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": template, **spec},
        }  # fmt: skip

    cluster.apply(
        job("good", "true", completions=5, parallelism=2),
        job("numbered", "true", completions=3, parallelism=3, completionMode="Indexed"),
        job("bad", "false", backoffLimit=0),
        job("short", "true", ttlSecondsAfterFinished=0),
        job("slow", "sleep", activeDeadlineSeconds=1),
    )  # fmt: skip
    for name in ("good", "numbered"):
        cluster.kubectl("-n", namespace, "wait", "--for=condition=complete", f"job/{name}", "--timeout=60s")
    good = cluster.get("-n", namespace, "job", "good")["status"]
    assert good["succeeded"] == 5
    assert good["uncountedTerminatedPods"] == {}
    assert cluster.get("-n", namespace, "job", "numbered")["status"]["completedIndexes"] == "0-2"
    for name, reason in (("bad", "BackoffLimitExceeded"), ("slow", "DeadlineExceeded")):
        cluster.kubectl("-n", namespace, "wait", "--for=condition=failed", f"job/{name}", "--timeout=60s")
        conditions = cluster.get("-n", namespace, "job", name)["status"]["conditions"]
        assert {c["reason"] for c in conditions} == {reason}
    cluster.eventually(lambda: cluster.run("-n", namespace, "get", "job", "short", check=False).returncode == 1)
    # Every pod is counted and let go.
    cluster.eventually(lambda: not any(p["metadata"].get("finalizers") for p in cluster.get("-n", namespace, "pods")["items"]))
    cluster.kubectl("-n", namespace, "delete", "job", "--all")
    cluster.eventually(lambda: not cluster.get("-n", namespace, "pods")["items"])


def test_cronjob_starts_jobs_and_keeps_a_short_history(cluster: Cluster, namespace: str) -> None:
    cluster.apply({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": namespace},
        "spec": {"schedule": "*/1 * * * *", "suspend": True, "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "app", "image": "busybox", "command": ["true"]}]}}}}},
    })  # fmt: skip
    cluster.kubectl("-n", namespace, "create", "job", "--from=cronjob/tick", "by-hand")
    cluster.kubectl("-n", namespace, "wait", "--for=condition=complete", "job/by-hand", "--timeout=60s")
    cluster.eventually(lambda: cluster.get("-n", namespace, "cronjob", "tick").get("status", {}).get("lastSuccessfulTime"))
    assert "lastScheduleTime" not in cluster.get("-n", namespace, "cronjob", "tick")["status"]


def test_deleting_a_namespace_takes_everything_with_it(cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", "doomed")
    cluster.apply(deployment("web", 3, namespace="doomed"))
    _wait_rolled_out(cluster, "doomed", "deploy/web")
    cluster.kubectl("-n", "doomed", "create", "configmap", "held")
    cluster.kubectl("-n", "doomed", "patch", "configmap", "held", "-p", '{"metadata":{"finalizers":["example.com/hold"]}}')
    cluster.kubectl("delete", "namespace", "doomed", "--wait=false")
    cluster.eventually(
        lambda: _conditions(cluster.get("namespace", "doomed")).get("NamespaceFinalizersRemaining")
        == ("True", "SomeFinalizersRemain")
    )
    cluster.eventually(lambda: not cluster.get("-n", "doomed", "pods,deploy,rs")["items"])
    cluster.kubectl("-n", "doomed", "patch", "configmap", "held", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    cluster.kubectl("wait", "--for=delete", "namespace/doomed", "--timeout=60s")
