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
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "outside", "namespace": namespace, "labels": {"team": "x"}, "annotations": {"note": "y"}},
        "subsets": [{"addresses": [{"ip": "203.0.113.10"}], "ports": [{"port": 8080}]}],
    })  # fmt: skip
    (s,) = cluster.eventually(lambda: _slices(cluster, namespace, "outside"))
    assert s["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"
    assert [e["addresses"] for e in s["endpoints"]] == [["203.0.113.10"]]
    assert (s["metadata"]["labels"]["team"], s["metadata"]["annotations"]) == ("x", {"note": "y"})
    cluster.kubectl("-n", namespace, "annotate", "endpoints", "outside", "note-", "other=z")
    cluster.eventually(lambda: [s["metadata"].get("annotations") for s in _slices(cluster, namespace, "outside")] == [{"other": "z"}])
    many = [{"ip": f"198.51.{100 + i // 250}.{i % 250 + 1}"} for i in range(1003)]
    cluster.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "outside", "namespace": namespace},
                   "subsets": [{"addresses": many, "ports": [{"port": 8080}]}]})  # fmt: skip
    cluster.eventually(lambda: [len(s["endpoints"]) for s in _slices(cluster, namespace, "outside")] == [1000])
    cluster.eventually(lambda: [
        e["message"] for e in cluster.get("-n", namespace, "events")["items"] if e["reason"] == "TooManyAddressesToMirror"
    ] == ["A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 3 addresses were skipped"])
    cluster.kubectl("-n", namespace, "delete", "endpoints", "outside")
    cluster.eventually(lambda: not _slices(cluster, namespace, "outside"))


def test_endpoints_are_shared_out_to_zones_where_that_is_asked_for(cluster: Cluster, namespace: str) -> None:
    """service.kubernetes.io/topology-mode: Auto."""

    def hints() -> list[str]:
        found = _slices(cluster, namespace, "near")
        return sorted(z["name"] for s in found for e in s["endpoints"] or [] for z in (e.get("hints") or {}).get("forZones") or [])

    def events() -> list[tuple[str, str]]:
        found = cluster.get("-n", namespace, "events")["items"]
        return [(e["reason"], e["message"]) for e in found if e["involvedObject"]["name"] == "near"]

    wanted = service("near", namespace)
    wanted["metadata"].setdefault("annotations", {})["service.kubernetes.io/topology-mode"] = "Auto"
    cluster.apply(deployment("near", 4, namespace=namespace), wanted)
    cluster.eventually(lambda: _ready(cluster, namespace, "near") == 4)
    cluster.eventually(lambda: [r for r, m in events() if "zone not specified" in m] == ["TopologyAwareHintsDisabled"])
    try:
        for i, zone in enumerate(("z1", "z1", "z2", "z3")):
            cluster.kubectl("label", "node", f"node{i}", f"topology.kubernetes.io/zone={zone}")
        cluster.eventually(lambda: hints() == ["z1", "z1", "z2", "z3"])
        cluster.eventually(lambda: ("TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled, addressType: IPv4") in events())
        cluster.kubectl("-n", namespace, "annotate", "service", "near", "service.kubernetes.io/topology-mode-")
        cluster.eventually(lambda: not hints())
    finally:
        cluster.kubectl("label", "node", "node0", "node1", "node2", "node3", "topology.kubernetes.io/zone-")
