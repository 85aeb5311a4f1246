"""The objects that make the ingress controller run in a cluster, as `ingress: true` applies them. Pure.

Names and labels are those of ingress-nginx' own manifest for clouds, so that course texts and the real one fit.
"""

from __future__ import annotations

from typing import Any

from nsk8s.api.meta import Object
from nsk8s.ingress.model import CONTROLLER, DEFAULT_CLASS_ANNOTATION

NAMESPACE = "ingress-nginx"
NAME = "ingress-nginx-controller"
ACCOUNT = "ingress-nginx"
IMAGE = "nsk8s/ingress"
CLASS = "nginx"
LABELS = {
    "app.kubernetes.io/component": "controller",
    "app.kubernetes.io/instance": "ingress-nginx",
    "app.kubernetes.io/name": "ingress-nginx",
}
RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["services", "secrets"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "ingressclasses"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses/status"], "verbs": ["patch", "update"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]


def objects() -> list[Object]:
    """In the order they are applied."""
    rbac = "rbac.authorization.k8s.io"
    account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": ACCOUNT}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": ACCOUNT}, "rules": RULES},
        {
            "apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ACCOUNT},
            "roleRef": role, "subjects": [account],
        },
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": CLASS, "annotations": {DEFAULT_CLASS_ANNOTATION: "true"}},
            "spec": {"controller": CONTROLLER},
        },
        _service(),
        _deployment(),
    ]  # fmt: skip


def _service() -> Object:
    ports = [{"name": n, "port": p, "protocol": "TCP", "targetPort": n} for n, p in (("http", 80), ("https", 443))]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": dict(LABELS)},
        # Local, as ingress-nginx has it: the web server sees the clients' addresses.
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": dict(LABELS), "ports": ports},
    }


def _deployment() -> Object:
    ports = [("http", 80), ("https", 443), ("healthz", 10254)]
    container = {
        "name": "controller",
        "image": IMAGE,
        "args": [f"--publish-service={NAMESPACE}/{NAME}"],
        "ports": [{"name": n, "containerPort": p, "protocol": "TCP"} for n, p in ports],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "healthz"}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "healthz"}, "initialDelaySeconds": 30, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "100m", "memory": "90Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": dict(LABELS)},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": dict(LABELS)},
            "template": {
                "metadata": {"labels": dict(LABELS)},
                "spec": {
                    "serviceAccountName": ACCOUNT,
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "terminationGracePeriodSeconds": 30,
                    "containers": [container],
                },
            },
        },
    }
