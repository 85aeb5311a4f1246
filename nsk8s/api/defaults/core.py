"""Defaults of the core group but Pods. Pure. Upstream: pkg/apis/core/v1/defaults.go, registry/core/service."""

from __future__ import annotations

import base64

from nsk8s.api.defaults.pod import default_claim_spec, default_template
from nsk8s.api.meta import Object

_AFFINITY_SECONDS = 10800


def default_namespace(obj: Object) -> None:
    """Also the label that lets selectors name a namespace, and the finalizer that lets it be emptied."""
    name = obj["metadata"].get("name")
    if name:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
    obj.setdefault("spec", {})
    status = obj.setdefault("status", {})
    if not status.get("phase"):
        status["phase"] = "Active"


def create_namespace(obj: Object) -> None:
    """The `kubernetes` finalizer: the namespace controller removes it when the namespace is empty."""
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")
    obj["status"] = {"phase": "Active"}


def update_namespace(new: Object, old: Object) -> None:
    """spec.finalizers change through namespaces/finalize only."""
    new["spec"] = dict(old.get("spec") or {})


def default_secret(obj: Object) -> None:
    """The type; stringData is folded into data, as upstream's conversion does."""
    obj.setdefault("type", "Opaque")
    texts = obj.pop("stringData", None)
    if texts:
        data = obj.setdefault("data", {})
        for key, value in texts.items():
            data[key] = base64.b64encode(str(value).encode()).decode()


def default_service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    kind = spec.setdefault("type", "ClusterIP")
    affinity = spec.setdefault("sessionAffinity", "None")
    if affinity == "None":
        spec.pop("sessionAffinityConfig", None)
    elif affinity == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", _AFFINITY_SECONDS)
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    if kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs")):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer", "ClusterIP"):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def update_service(new: Object, old: Object) -> None:
    """What an update leaves out is kept: cluster addresses, families, node ports; a type that needs none drops them.

    Upstream: registry/core/service patchAllocatedValues and dropTypeDependentFields.
    """
    spec, before = new.setdefault("spec", {}), old.get("spec") or {}
    kind, was = spec.get("type", "ClusterIP"), before.get("type", "ClusterIP")
    if kind == "ExternalName":
        if was != "ExternalName":
            for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if spec.get(key) == before.get(key):
                    spec.pop(key, None)
    elif was != "ExternalName":
        _carry_addresses(spec, before)
    _carry_node_ports(spec, before, kind, was)
    if kind != "LoadBalancer":
        new.setdefault("status", {})["loadBalancer"] = {}  # nobody waits for whoever takes the load balancer down
        for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(key) == before.get(key):
                spec.pop(key, None)
    external = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs"))
    if (kind, spec.get("externalTrafficPolicy")) == ("LoadBalancer", "Local"):
        if before.get("healthCheckNodePort"):
            spec.setdefault("healthCheckNodePort", before["healthCheckNodePort"])
    elif spec.get("healthCheckNodePort") == before.get("healthCheckNodePort"):
        spec.pop("healthCheckNodePort", None)
    if not external and spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy"):
        spec.pop("externalTrafficPolicy", None)


def _carry_addresses(spec: Object, before: Object) -> None:
    """Upstream: NormalizeClusterIPs. A client that knows clusterIP only leaves clusterIPs out, or as they were."""
    single = spec.get("clusterIP")
    if single and single != before.get("clusterIP") and spec.get("clusterIPs") in (None, [], before.get("clusterIPs")):
        spec["clusterIPs"] = [single]
    for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if not spec.get(key) and before.get(key):
            spec[key] = before[key]


def _carry_node_ports(spec: Object, before: Object, kind: str, was: str) -> None:
    """A port of the same name keeps its node port; a type that has none drops those that it had, if nobody asks for new ones."""
    ports, had = spec.get("ports") or [], before.get("ports") or []
    if kind not in ("NodePort", "LoadBalancer"):
        if {p.get("nodePort") for p in ports} <= {p.get("nodePort") for p in had} | {None, 0}:
            for port in ports:
                port.pop("nodePort", None)
    elif was in ("NodePort", "LoadBalancer"):
        known = {p.get("name", ""): p["nodePort"] for p in had if p.get("nodePort")}
        taken = {(p.get("protocol", "TCP"), p["nodePort"]) for p in ports if p.get("nodePort")}
        for port in ports:
            kept = port.get("protocol", "TCP"), known.get(port.get("name", ""))
            if not port.get("nodePort") and kept[1] and kept not in taken:
                port["nodePort"] = kept[1]
                taken.add(kept)


def default_endpoints(obj: Object) -> None:
    for subset in obj.get("subsets") or []:
        for port in subset.get("ports") or []:
            port.setdefault("protocol", "TCP")


def default_replication_controller(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    template = spec.get("template")
    if template is not None:
        labels = (template.get("metadata") or {}).get("labels") or {}
        if labels and not spec.get("selector"):
            spec["selector"] = dict(labels)
        if labels and not obj["metadata"].get("labels"):
            obj["metadata"]["labels"] = dict(labels)
        default_template(template)


def default_pod_template(obj: Object) -> None:
    default_template(obj.setdefault("template", {}))


def default_persistent_volume(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    if spec.get("hostPath") is not None:
        spec["hostPath"].setdefault("type", "")
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def default_persistent_volume_claim(obj: Object) -> None:
    default_claim_spec(obj.setdefault("spec", {}))
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def default_limit_range(obj: Object) -> None:
    """For type Container: default ← max, defaultRequest ← default ← min."""
    for item in (obj.get("spec") or {}).get("limits") or []:
        if item.get("type") != "Container":
            continue
        for target, source in (("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")):
            for name, amount in (item.get(source) or {}).items():
                item.setdefault(target, {}).setdefault(name, amount)


def default_node(obj: Object) -> None:
    obj.setdefault("spec", {})
    status = obj.setdefault("status", {})
    if status.get("capacity") and not status.get("allocatable"):
        status["allocatable"] = dict(status["capacity"])
