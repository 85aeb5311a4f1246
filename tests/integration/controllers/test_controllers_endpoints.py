"""Endpoints and EndpointSlices follow the pods behind a Service."""

from __future__ import annotations

from typing import Any

from controllers_cluster import Cluster, deployment, service


def _slices(cluster: Cluster, namespace: str, name: str) -> list[Any]:
    return list(cluster.get("-n", namespace, "endpointslices", "-l", f"kubernetes.io/service-name={name}")["items"])


def _ready(cluster: Cluster, namespace: str, name: str) -> int:
    return sum(e["conditions"]["ready"] for s in _slices(cluster, namespace, name) for e in s.get("endpoints") or [])


def _subsets(cluster: Cluster, namespace: str, name: str) -> tuple[int, int]:
    found = cluster.get("-n", namespace, "endpoints", name).get("subsets") or []
    return sum(len(s.get("addresses") or []) for s in found), sum(len(s.get("notReadyAddresses") or []) for s in found)


def test_slices_and_endpoints_follow_scale_readiness_and_deletion(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web", 3, namespace=namespace), service("web", namespace))
    cluster.eventually(lambda: _ready(cluster, namespace, "web") == 3)
    (s,) = _slices(cluster, namespace, "web")
    assert s["addressType"] == "IPv4"
    assert s["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}], "the named port is resolved in the pod"
    assert s["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io"
    assert {e["nodeName"] for e in s["endpoints"]} == {"node1", "node2", "node3"}
    assert all(e["targetRef"]["kind"] == "Pod" for e in s["endpoints"])
    cluster.eventually(lambda: _subsets(cluster, namespace, "web") == (3, 0))

    victim = cluster.get("-n", namespace, "pods")["items"][0]["metadata"]["name"]
    cluster.kubelets.refuse = lambda pod: pod["metadata"]["name"] == victim
    cluster.kubelets.poke()
    cluster.eventually(lambda: _ready(cluster, namespace, "web") == 2)
    cluster.eventually(lambda: _subsets(cluster, namespace, "web") == (2, 1))
    cluster.kubelets.refuse = lambda pod: False
    cluster.kubelets.poke()

    cluster.kubectl("-n", namespace, "scale", "deploy/web", "--replicas=120")
    cluster.eventually(lambda: _ready(cluster, namespace, "web") == 120)
    sizes = [len(s["endpoints"]) for s in _slices(cluster, namespace, "web")]
    assert len(sizes) == 2
    assert max(sizes) <= 100
    cluster.kubectl("-n", namespace, "scale", "deploy/web", "--replicas=0")
    cluster.eventually(lambda: [s["endpoints"] for s in _slices(cluster, namespace, "web")] in ([None], [[]]))
    cluster.eventually(lambda: _subsets(cluster, namespace, "web") == (0, 0))
    cluster.kubectl("-n", namespace, "delete", "service", "web")
    cluster.eventually(lambda: not cluster.get("-n", namespace, "endpointslices,endpoints")["items"])


def test_hand_made_endpoints_are_mirrored(cluster: Cluster, namespace: str) -> None:
    wanted = service("outside", namespace)
    del wanted["spec"]["selector"]
    wanted["spec"]["ports"] = [{"port": 80, "targetPort": 8080}]
    cluster.apply(wanted, {
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "outside", "namespace": namespace},
        "subsets": [{"addresses": [{"ip": "203.0.113.10"}], "ports": [{"port": 8080}]}],
    })  # fmt: skip
    (s,) = cluster.eventually(lambda: _slices(cluster, namespace, "outside"))
    assert s["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"
    assert [e["addresses"] for e in s["endpoints"]] == [["203.0.113.10"]]
    cluster.kubectl("-n", namespace, "delete", "endpoints", "outside")
    cluster.eventually(lambda: not _slices(cluster, namespace, "outside"))
