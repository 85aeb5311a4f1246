"""Nodes: their subnets, their silence, what then happens to their pods; and pods that no node takes."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterator
from typing import Any

import pytest
from controllers_cluster import Cluster, deployment, running, service


@pytest.fixture
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own that gives nodes up after 5 seconds, with IPv6 subnets for four."""
    flags = ("--node-monitor-grace-period=5s", "--pod-gc-quarantine=1s", "--leader-elect=false",
             "--cluster-cidr=10.244.0.0/16,fd00:10:244::/62")  # fmt: skip
    yield from running(tmp_path_factory.mktemp("impatient"), *flags)


def wait_event(cluster: Cluster, words: str, selector: str, *where: str) -> None:
    """Events are written by the way: what they tell of may be seen before."""
    cluster.eventually(lambda: words in cluster.kubectl("get", "events", "--field-selector", selector, *where))


def _taints(node: Any) -> set[tuple[str, str]]:
    return {(t["key"], t["effect"]) for t in node["spec"].get("taints") or []}


def test_every_node_has_the_subnet_of_its_address(cluster: Cluster) -> None:
    nodes = cluster.eventually(
        lambda: all("podCIDR" in n["spec"] for n in cluster.get("nodes")["items"]) and cluster.get("nodes")["items"]
    )
    assert {n["metadata"]["name"]: n["spec"]["podCIDR"] for n in nodes} == {
        "node0": "10.244.0.0/24", "node1": "10.244.1.0/24", "node2": "10.244.2.0/24", "node3": "10.244.3.0/24",
    }  # fmt: skip
    assert all(n["spec"]["podCIDRs"] == [n["spec"]["podCIDR"]] for n in nodes)
    assert all(ipaddress.ip_network(n["spec"]["podCIDR"]).prefixlen == 24 for n in nodes)


def test_every_namespace_has_a_service_account_and_the_root_ca(cluster: Cluster, namespace: str) -> None:
    for name in ("default", "kube-system", namespace):
        cluster.eventually(
            lambda name=name: cluster.run("-n", name, "get", "sa/default", "cm/kube-root-ca.crt", check=False).returncode == 0
        )
    cluster.kubectl("-n", namespace, "delete", "sa", "default")
    cluster.kubectl("-n", namespace, "delete", "cm", "kube-root-ca.crt")
    cluster.eventually(
        lambda: cluster.run("-n", namespace, "get", "sa/default", "cm/kube-root-ca.crt", check=False).returncode == 0
    )


def test_a_pod_that_fits_nowhere_says_why_and_is_woken(cluster: Cluster, namespace: str) -> None:
    pod: Any = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big", "namespace": namespace},
        "spec": {"nodeSelector": {"disk": "fast"}, "containers": [{"name": "app", "image": "busybox"}]},
    }  # fmt: skip
    cluster.apply(pod)
    message = (
        "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
        "3 node(s) didn't match Pod's node affinity/selector. preemption: 0/4 nodes are available: "
        "4 Preemption is not helpful for scheduling."
    )
    def conditions() -> list[Any]:
        return list(cluster.get("-n", namespace, "pod", "big")["status"].get("conditions", []))

    condition = cluster.eventually(lambda: next((c for c in conditions() if c["type"] == "PodScheduled"), None))
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Unschedulable", message)
    wait_event(cluster, message, "reason=FailedScheduling", "-n", namespace)
    cluster.kubectl("label", "node", "node2", "disk=fast")
    cluster.eventually(lambda: cluster.get("-n", namespace, "pod", "big")["spec"].get("nodeName") == "node2")
    cluster.kubectl("label", "node", "node2", "disk-")


def test_preemption_makes_room_for_the_more_important(cluster: Cluster, namespace: str) -> None:
    def pod(name: str, **spec: Any) -> dict[str, Any]:
        container = {"name": "app", "image": "busybox", "resources": {"requests": {"cpu": "3"}}}
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"containers": [container], **spec},
        }  # fmt: skip

    cluster.apply({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": f"vip-{namespace}"}, "value": 1000,
    }, *(pod(f"small-{i}") for i in range(3)))  # fmt: skip
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
    cluster.apply(pod("vip", priorityClassName=f"vip-{namespace}"))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/vip", "--timeout=60s")
    left = {p["metadata"]["name"] for p in cluster.get("-n", namespace, "pods")["items"]}
    assert len(left) == 3
    wait_event(cluster, "Preempted by pod", "reason=Preempted", "-n", namespace)


def test_a_silent_node_is_unknown_loses_its_endpoints_and_its_pods_and_comes_back(impatient: Cluster) -> None:
    cluster = impatient
    web = deployment("web", 6)
    web["spec"]["template"]["spec"]["tolerations"] = [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2},
    ]
    cluster.apply(web, service("web"))
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
    cluster.kubelets.silent.add("node2")
    silent_at = time.monotonic()

    def ready_condition() -> Any:
        return next(c for c in cluster.get("node", "node2")["status"]["conditions"] if c["type"] == "Ready")

    condition = cluster.eventually(lambda: (c := ready_condition())["status"] == "Unknown" and c)
    assert time.monotonic() - silent_at > 2
    assert (condition["reason"], condition["message"]) == ("NodeStatusUnknown", "Kubelet stopped posting node status.")

    def endpoint_nodes() -> set[str]:
        slices = cluster.get("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
        return {e["nodeName"] for s in slices for e in s["endpoints"] if e["conditions"]["ready"]}

    cluster.eventually(lambda: "node2" not in endpoint_nodes())
    cluster.eventually(
        lambda: _taints(cluster.get("node", "node2")) == {
            ("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute"),
        }
    )  # fmt: skip
    cluster.eventually(lambda: cluster.get("deploy", "web")["status"].get("availableReplicas") == 6)
    assert endpoint_nodes() == {"node1", "node3"}
    going = [p for p in cluster.get("pods")["items"] if p["metadata"].get("deletionTimestamp")]
    assert {p["spec"]["nodeName"] for p in going} == {"node2"}
    wait_event(cluster, "Marking for deletion", "reason=TaintManagerEviction")
    wait_event(cluster, "NodeNotReady", "involvedObject.kind=Node")

    cluster.kubelets.silent.clear()
    cluster.kubelets.poke()
    cluster.eventually(lambda: _taints(cluster.get("node", "node2")) == set())
    cluster.eventually(lambda: len(cluster.get("pods")["items"]) == 6)


def test_pods_of_a_deleted_node_are_collected_and_its_subnet_is_used_again(impatient: Cluster) -> None:
    cluster = impatient
    cluster.apply(deployment("web", 6))
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
    cluster.eventually(lambda: cluster.get("node", "node3")["spec"].get("podCIDR") == "10.244.3.0/24")
    cluster.kubelets.silent.add("node3")
    cluster.kubectl("delete", "node", "node3")
    cluster.eventually(lambda: {p["spec"].get("nodeName") for p in cluster.get("pods")["items"]} == {"node1", "node2"})
    cluster.eventually(lambda: cluster.get("deploy", "web")["status"].get("availableReplicas") == 6)
    asyncio.run_coroutine_threadsafe(cluster.kubelets.register("node3", {}), cluster.kubelets.loop).result(60)
    cluster.kubelets.silent.clear()
    cluster.eventually(lambda: cluster.get("node", "node3")["spec"].get("podCIDRs") == ["10.244.3.0/24", "fd00:10:244:3::/64"])

    asyncio.run_coroutine_threadsafe(cluster.kubelets.register("node4", {}), cluster.kubelets.loop).result(60)
    events = ("get", "events", "--field-selector", "involvedObject.name=node4,reason=CIDRNotAvailable", "-o", "name")
    cluster.eventually(lambda: cluster.kubectl(*events))
    assert "podCIDR" not in cluster.get("node", "node4")["spec"], "of both families, or none"
    cluster.kubectl("delete", "node", "node3")
    cluster.eventually(lambda: cluster.get("node", "node4")["spec"].get("podCIDRs") == ["10.244.4.0/24", "fd00:10:244:3::/64"])


@pytest.mark.slow
def test_an_api_server_that_was_away_costs_no_node_its_name(impatient: Cluster) -> None:
    """While nobody could be heard, silence proves nothing: no node is marked when the API server is back."""
    cluster = impatient
    cluster.apply(deployment("web", 3))
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
    before = {p["metadata"]["uid"] for p in cluster.get("pods")["items"]}
    address = cluster.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}").rpartition(":")[2]
    cluster.stop("apiserver")
    time.sleep(6)  # longer than the grace: this is the point of the test
    cluster.start_api(port=int(address))
    cluster.eventually(lambda: cluster.run("get", "--raw", "/readyz", check=False).returncode == 0)
    cluster.kubectl("scale", "deploy/web", "--replicas=4")
    cluster.eventually(lambda: cluster.get("deploy", "web")["status"].get("availableReplicas") == 4, 30)
    assert before <= {p["metadata"]["uid"] for p in cluster.get("pods")["items"]}
    assert "has been silent" not in cluster.log("kcm")
