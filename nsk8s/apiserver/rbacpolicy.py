"""The default roles and bindings, as data. Pure. Upstream: plugin/pkg/auth/authorizer/rbac/bootstrappolicy."""

from __future__ import annotations

from typing import Any

from nsk8s.api.meta import Object

_GROUP = "rbac.authorization.k8s.io"
READ = ["get", "list", "watch"]
WRITE = ["create", "delete", "deletecollection", "patch", "update"]
EVERY = ["*"]


def rule(groups: str, resources: str, verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    """A rule of comma-separated groups (`core` = the core group) and resources."""
    out: dict[str, Any] = {
        "apiGroups": ["" if g == "core" else g for g in groups.split(",")],
        "resources": resources.split(","),
        "verbs": verbs,
    }
    if names:
        out["resourceNames"] = names
    return out


def urls(paths: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"nonResourceURLs": paths, "verbs": verbs}


def _cluster_role(name: str, rules: list[dict[str, Any]], labels: dict[str, str] | None = None) -> Object:
    return {"metadata": {"name": name, "labels": dict(labels or {})}, "rules": rules}


def _role(namespace: str, name: str, rules: list[dict[str, Any]]) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "rules": rules}


def user(name: str) -> dict[str, str]:
    return {"apiGroup": _GROUP, "kind": "User", "name": name}


def group(name: str) -> dict[str, str]:
    return {"apiGroup": _GROUP, "kind": "Group", "name": name}


def account(name: str, namespace: str = "kube-system") -> dict[str, str]:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def _binding(
    role: str, subjects: list[dict[str, str]], *, kind: str = "ClusterRole", name: str = "", namespace: str = ""
) -> Object:
    metadata: dict[str, Any] = {"name": name or role}
    if namespace:
        metadata["namespace"] = namespace
    return {"metadata": metadata, "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": role}, "subjects": subjects}


_EVENTS = rule("core,events.k8s.io", "events", ["create", "patch", "update"])
_VIEW_CORE = (
    "bindings,configmaps,endpoints,events,limitranges,namespaces,namespaces/status,persistentvolumeclaims,"
    "persistentvolumeclaims/status,pods,pods/log,pods/status,replicationcontrollers,replicationcontrollers/scale,"
    "replicationcontrollers/status,resourcequotas,resourcequotas/status,serviceaccounts,services,services/status"
)
_APPS = (
    "daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale"
)
_APPS_STATUS = "controllerrevisions,daemonsets/status,deployments/status,replicasets/status,statefulsets/status"


def _view() -> list[dict[str, Any]]:
    return [
        rule("core", _VIEW_CORE, READ),
        rule("discovery.k8s.io", "endpointslices", READ),
        rule("events.k8s.io", "events", READ),
        rule("apps", f"{_APPS},{_APPS_STATUS}", READ),
        rule("autoscaling", "horizontalpodautoscalers,horizontalpodautoscalers/status", READ),
        rule("batch", "cronjobs,cronjobs/status,jobs,jobs/status", READ),
        rule("networking.k8s.io", "ingresses,ingresses/status,networkpolicies", READ),
        rule("policy", "poddisruptionbudgets,poddisruptionbudgets/status", READ),
    ]


def _edit() -> list[dict[str, Any]]:
    return [
        *_view(),
        rule("core", "pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy", READ),
        rule("core", "serviceaccounts", ["impersonate"]),
        rule("core", "pods,pods/attach,pods/exec,pods/portforward,pods/proxy", WRITE),
        rule("core", "pods/eviction", ["create"]),
        rule("core", "configmaps,endpoints,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,"
                     "secrets,serviceaccounts,services,services/proxy", WRITE),
        rule("core", "serviceaccounts/token", ["create"]),
        rule("events.k8s.io", "events", WRITE),
        rule("apps", _APPS, WRITE),
        rule("autoscaling", "horizontalpodautoscalers", WRITE),
        rule("batch", "cronjobs,jobs", WRITE),
        rule("networking.k8s.io", "ingresses,networkpolicies", WRITE),
        rule("policy", "poddisruptionbudgets", WRITE),
        rule("coordination.k8s.io", "leases", READ + WRITE),
        rule("discovery.k8s.io", "endpointslices", WRITE),
    ]  # fmt: skip


def _admin() -> list[dict[str, Any]]:
    return [
        *_edit(),
        rule("authorization.k8s.io", "localsubjectaccessreviews", ["create"]),
        rule(_GROUP, "rolebindings,roles", READ + WRITE),
    ]


def _node() -> list[dict[str, Any]]:
    return [
        rule("authentication.k8s.io", "tokenreviews", ["create"]),
        rule("authorization.k8s.io", "localsubjectaccessreviews,subjectaccessreviews", ["create"]),
        rule("core", "services", READ),
        rule("core", "nodes", ["create", *READ]),
        rule("core", "nodes/status", ["patch", "update"]),
        rule("core", "nodes", ["delete", "patch", "update"]),
        _EVENTS,
        rule("core", "pods", READ),
        rule("core", "pods", ["create", "delete"]),
        rule("core", "pods/status", ["patch", "update"]),
        rule("core", "pods/eviction", ["create"]),
        rule("core", "endpoints,persistentvolumeclaims,persistentvolumes", ["get"]),
        rule("discovery.k8s.io", "endpointslices", READ),
        rule("certificates.k8s.io", "certificatesigningrequests", ["create", *READ]),
        rule("coordination.k8s.io", "leases", ["create", "delete", "get", "patch", "update"]),
        rule("node.k8s.io", "runtimeclasses", READ),
        rule("storage.k8s.io", "csinodes,volumeattachments", ["create", "delete", "get", "patch", "update"]),
        rule("storage.k8s.io", "csidrivers", READ),
    ]


def _scheduler() -> list[dict[str, Any]]:
    return [
        _EVENTS,
        rule("coordination.k8s.io", "leases", ["create"]),
        rule("coordination.k8s.io", "leases", ["get", "list", "watch", "update", "patch"]),
        rule("core", "nodes", [*READ, "patch"]),
        rule("core", "pods", ["delete", *READ]),
        rule("core", "bindings,pods/binding", ["create"]),
        rule("core", "pods/status", ["patch", "update"]),
        rule("core", "replicationcontrollers,services,persistentvolumeclaims,persistentvolumes,namespaces", READ),
        rule("core", "persistentvolumeclaims,persistentvolumes", ["patch", "update"]),
        rule("apps", "replicasets,statefulsets", READ),
        rule("policy", "poddisruptionbudgets", READ),
        rule("scheduling.k8s.io", "priorityclasses", READ),
        rule("storage.k8s.io", "csidrivers,csinodes,csistoragecapacities,storageclasses", READ),
        rule("authentication.k8s.io", "tokenreviews", ["create"]),
        rule("authorization.k8s.io", "subjectaccessreviews", ["create"]),
    ]


def _controller_manager() -> list[dict[str, Any]]:
    """Upstream gives each controller an account of its own; here they share one identity, which needs what all of them need."""
    return [rule("*", "*", EVERY), urls(["*"], EVERY)]


_DISCOVERY = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi",
              "/openapi/*", "/readyz", "/version", "/version/"]


def cluster_roles() -> list[Object]:
    return [
        _cluster_role("cluster-admin", [rule("*", "*", EVERY), urls(["*"], EVERY)]),
        _cluster_role("admin", _admin()),
        _cluster_role("edit", _edit(), {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}),
        _cluster_role("view", _view(), {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}),
        _cluster_role("system:discovery", [urls(_DISCOVERY, ["get"])]),
        _cluster_role("system:monitoring", [urls(["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis",
                                                  "/readyz", "/readyz/*"], ["get"])]),
        _cluster_role("system:basic-user", [
            rule("authorization.k8s.io", "selfsubjectaccessreviews,selfsubjectrulesreviews", ["create"]),
            rule("authentication.k8s.io", "selfsubjectreviews", ["create"]),
        ]),
        _cluster_role("system:public-info-viewer", [urls(["/healthz", "/livez", "/readyz", "/version", "/version/"], ["get"])]),
        _cluster_role("system:service-account-issuer-discovery",
                      [urls(["/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
                             "/openid/v1/jwks/"], ["get"])]),
        _cluster_role("system:auth-delegator", [
            rule("authentication.k8s.io", "tokenreviews", ["create"]),
            rule("authorization.k8s.io", "subjectaccessreviews", ["create"]),
        ]),
        _cluster_role("system:node", _node()),
        _cluster_role("system:node-proxier", [
            rule("core", "endpoints,services", ["list", "watch"]),
            rule("core", "nodes", READ),
            _EVENTS,
            rule("discovery.k8s.io", "endpointslices", ["list", "watch"]),
            rule("networking.k8s.io", "servicecidrs", ["list", "watch"]),
        ]),
        _cluster_role("system:kube-scheduler", _scheduler()),
        _cluster_role("system:kube-controller-manager", _controller_manager()),
        _cluster_role("system:kube-dns", [rule("core", "endpoints,services", ["list", "watch"])]),
        _cluster_role("system:coredns", [
            rule("core", "endpoints,services,pods,namespaces", ["list", "watch"]),
            rule("core", "nodes", ["get", "list", "watch"]),
            rule("discovery.k8s.io", "endpointslices", ["list", "watch"]),
        ]),
        _cluster_role("system:node-network", [
            rule("core", "nodes", READ),
            rule("core", "nodes/status", ["patch"]),
            rule("networking.k8s.io", "networkpolicies", READ),
            rule("core", "pods,namespaces", READ),
            _EVENTS,
        ]),
        _cluster_role("system:cloud-controller-manager", [
            rule("core", "services", [*READ, "patch", "update"]),
            rule("core", "services/status", ["patch", "update"]),
            rule("core", "nodes", READ),
            rule("coordination.k8s.io", "leases", ["create", "get", "update"]),
            _EVENTS,
        ]),
        _cluster_role("system:load-balancer-speaker", [
            rule("core", "nodes,services", READ),
            rule("discovery.k8s.io", "endpointslices", READ),
            rule("networking.k8s.io", "servicecidrs", ["list", "watch"]),
            _EVENTS,
        ]),
        _cluster_role("system:kubelet-api-admin", [
            rule("core", "nodes", [*READ, "proxy"]),
            rule("core", "nodes/log,nodes/metrics,nodes/proxy,nodes/stats", EVERY),
        ]),
        _cluster_role("system:persistent-volume-provisioner", [
            rule("core", "persistentvolumes", ["create", "delete", *READ]),
            rule("core", "persistentvolumeclaims", [*READ, "update"]),
            rule("storage.k8s.io", "storageclasses", READ),
            _EVENTS,
        ]),
    ]  # fmt: skip


def cluster_role_bindings() -> list[Object]:
    everyone = [group("system:authenticated")]
    return [
        _binding("cluster-admin", [group("system:masters")]),
        _binding("system:discovery", everyone),
        _binding("system:basic-user", everyone),
        _binding("system:public-info-viewer", [group("system:authenticated"), group("system:unauthenticated")]),
        _binding("system:service-account-issuer-discovery", [group("system:serviceaccounts")]),
        _binding("system:monitoring", [group("system:monitoring")]),
        _binding("system:node", [group("system:nodes")]),
        _binding("system:node-proxier", [user("system:kube-proxy"), group("system:node-proxiers"), account("kube-proxy")]),
        _binding("system:kube-scheduler", [user("system:kube-scheduler")]),
        _binding("system:kube-controller-manager", [user("system:kube-controller-manager")]),
        _binding("system:cloud-controller-manager", [user("system:cloud-controller-manager"),
                                                     account("cloud-controller-manager")]),
        _binding("system:load-balancer-speaker", [group("system:load-balancer-speakers"), account("speaker")]),
        _binding("system:kube-dns", [account("kube-dns")]),
        _binding("system:coredns", [account("coredns")]),
        _binding("system:node-network", [group("system:node-network"), account("node-network")]),
    ]


def roles() -> list[Object]:
    return [
        _role("kube-system", "system:node-network", [rule("core", "configmaps", READ)]),
        _role("kube-system", "extension-apiserver-authentication-reader",
              [rule("core", "configmaps", READ, ["extension-apiserver-authentication"])]),
        _role("kube-system", "system::leader-locking-kube-controller-manager", [
            rule("core", "configmaps", ["watch"]), rule("coordination.k8s.io", "leases", ["get", "create", "update", "patch"])]),
        _role("kube-system", "system::leader-locking-kube-scheduler", [
            rule("core", "configmaps", ["watch"]), rule("coordination.k8s.io", "leases", ["get", "create", "update", "patch"])]),
        _role("kube-public", "system:controller:bootstrap-signer",
              [rule("core", "configmaps", READ), rule("core", "configmaps", ["update"], ["cluster-info"]), _EVENTS]),
    ]  # fmt: skip


def role_bindings() -> list[Object]:
    return [
        _binding("system:node-network", [group("system:node-network"), account("node-network"), user("system:router-agent")],
                 kind="Role", namespace="kube-system"),
        _binding("extension-apiserver-authentication-reader",
                 [user("system:kube-controller-manager"), user("system:kube-scheduler")],
                 kind="Role", name="system::extension-apiserver-authentication-reader", namespace="kube-system"),
        _binding("system::leader-locking-kube-controller-manager", [user("system:kube-controller-manager")], kind="Role",
                 namespace="kube-system"),
        _binding("system::leader-locking-kube-scheduler", [user("system:kube-scheduler")], kind="Role", namespace="kube-system"),
    ]  # fmt: skip
