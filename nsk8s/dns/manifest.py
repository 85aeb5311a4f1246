"""The objects that make the cluster DNS run in a cluster, as `nsk8s up` applies them. Pure.

Names, labels, ports and the Corefile are those of kubeadm's CoreDNS manifest, so that the real image can take the place of ours:
point the Deployment at it. Upstream: kubeadm/phases/addons/dns, coredns/deployment.
"""

from __future__ import annotations

from nsk8s.api.meta import Object
from nsk8s.dns.corefile import corefile

IMAGE = "nsk8s/dns"
NAMESPACE = "kube-system"
LABELS = {"k8s-app": "kube-dns"}


def _meta(name: str, labels: dict[str, str] | None = None, *, namespaced: bool = True) -> Object:
    meta: Object = {"name": name}
    if namespaced:
        meta["namespace"] = NAMESPACE
    if labels:
        meta["labels"] = dict(labels)
    return meta


def objects(
    cluster_ip: str = "10.96.0.10",
    domain: str = "cluster.local",
    *,
    image: str = IMAGE,
    replicas: int = 1,
    cluster_ips: tuple[str, ...] = (),
    forward: tuple[str, ...] = (),
) -> list[Object]:
    """In the order they are applied. `cluster_ips`: both addresses of a dual-stack cluster, `cluster_ip` first."""
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta("coredns")},
        _cluster_role(),
        _cluster_role_binding(),
        _service(cluster_ip, cluster_ips),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta("coredns"), "data": {"Corefile": corefile(domain, forward)}},
        _deployment(image, replicas),
    ]


def _cluster_role() -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": _meta("system:coredns", {"kubernetes.io/bootstrapping": "rbac-defaults"}, namespaced=False),
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }


def _cluster_role_binding() -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {
            **_meta("system:coredns", {"kubernetes.io/bootstrapping": "rbac-defaults"}, namespaced=False),
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}],
    }


def _service(cluster_ip: str, cluster_ips: tuple[str, ...]) -> Object:
    spec: Object = {
        "type": "ClusterIP",
        "clusterIP": cluster_ip,
        "selector": dict(LABELS),
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
        ],
    }
    if len(cluster_ips) > 1:
        spec |= {"clusterIPs": list(cluster_ips), "ipFamilyPolicy": "RequireDualStack"}
    labels = {**LABELS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    metadata = _meta("kube-dns", labels)
    metadata["annotations"] = {"prometheus.io/port": "9153", "prometheus.io/scrape": "true"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _deployment(image: str, replicas: int) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta("coredns", LABELS),
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "selector": {"matchLabels": dict(LABELS)},
            "template": {
                "metadata": {"labels": dict(LABELS)},
                "spec": {
                    "serviceAccountName": "coredns",
                    "priorityClassName": "system-cluster-critical",
                    "tolerations": [
                        {"key": "CriticalAddonsOnly", "operator": "Exists"},
                        {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
                    ],
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "dnsPolicy": "Default",
                    "containers": [_container(image)],
                    "volumes": [
                        {
                            "name": "config-volume",
                            "configMap": {"name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]},
                        }
                    ],
                },
            },
        },
    }


def _container(image: str) -> Object:
    return {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "resources": {"limits": {"memory": "170Mi"}, "requests": {"cpu": "100m", "memory": "70Mi"}},
        "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": True}],
        "ports": [
            {"containerPort": 53, "name": "dns", "protocol": "UDP"},
            {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
            {"containerPort": 9153, "name": "metrics", "protocol": "TCP"},
        ],
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": 8080, "scheme": "HTTP"},
            "initialDelaySeconds": 60, "timeoutSeconds": 5, "successThreshold": 1, "failureThreshold": 5,
        },
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181, "scheme": "HTTP"}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }  # fmt: skip
