"""May this user do that: RBAC over the cached roles and bindings, masters, and what a node may do. Pure over the cache.

Upstream: plugin/pkg/auth/authorizer/rbac, plugin/pkg/auth/authorizer/node, pkg/registry/rbac/validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsk8s.api.meta import Object
from nsk8s.apiserver.cache import Cache, Change
from nsk8s.apiserver.call import User

MASTERS = "system:masters"
NODES = "system:nodes"
_RBAC = (
    "roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io",
)  # fmt: skip
Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is to be allowed: a resource (then `resource` is set) or a path."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


def _has(values: Sequence[str] | None, wanted: str) -> bool:
    return bool(values) and (wanted in values or "*" in values)  # type: ignore[operator]


def rule_allows(rule: Rule, a: Attributes) -> bool:
    if not _has(rule.get("verbs"), a.verb):
        return False
    if a.path:
        return any(u == "*" or u == a.path or (u.endswith("*") and a.path.startswith(u[:-1]))
                   for u in rule.get("nonResourceURLs") or ())  # fmt: skip
    if not _has(rule.get("apiGroups"), a.group):
        return False
    resources = rule.get("resources") or ()
    full = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
    if not ("*" in resources or full in resources or (a.subresource and f"*/{a.subresource}" in resources)):
        return False
    names = rule.get("resourceNames")
    return not names or a.name in names


def subject_matches(subject: Mapping[str, Any], user: User, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "User":
        return bool(name == user.name)
    if kind == "Group":
        return name in user.groups
    if kind == "ServiceAccount":
        return f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}" == user.name
    return False


@dataclass(slots=True)
class _Rules:
    cluster: list[Rule]
    by_namespace: dict[str, list[Rule]]


class Authorizer:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._rules: dict[tuple[str, tuple[str, ...]], _Rules] = {}
        self._decisions: dict[tuple[str, tuple[str, ...], Attributes], bool] = {}
        for resource in _RBAC:
            cache.resource(resource).on_change(self._forget)

    def _forget(self, change: Change) -> None:
        self._rules.clear()
        self._decisions.clear()

    def allows(self, user: User, a: Attributes) -> bool:
        if MASTERS in user.groups:
            return True
        key = (user.name, user.groups, a)
        known = self._decisions.get(key)
        if known is None:
            known = any(rule_allows(rule, a) for rule in self.rules(user, a.namespace))
            if len(self._decisions) > 20_000:
                self._decisions.clear()
            self._decisions[key] = known
        if known:
            return True
        return NODES in user.groups and self._node_allows(user, a)

    def rules(self, user: User, namespace: str) -> Iterator[Rule]:
        """The RBAC rules that hold for `user`: everywhere, and in `namespace` if one is given."""
        key = (user.name, user.groups)
        rules = self._rules.get(key)
        if rules is None:
            if len(self._rules) > 2000:
                self._rules.clear()
            rules = self._rules[key] = self._collect(user)
        yield from rules.cluster
        if namespace:
            yield from rules.by_namespace.get(namespace, ())

    def _collect(self, user: User) -> _Rules:
        rules = _Rules([], {})
        for binding in self._cache.resource(_RBAC[3]).values():
            if any(subject_matches(s, user, "") for s in binding.get("subjects") or ()):
                rules.cluster.extend(self._role_rules(binding, ""))
        for binding in self._cache.resource(_RBAC[1]).values():
            namespace = binding["metadata"]["namespace"]
            if any(subject_matches(s, user, namespace) for s in binding.get("subjects") or ()):
                rules.by_namespace.setdefault(namespace, []).extend(self._role_rules(binding, namespace))
        return rules

    def _role_rules(self, binding: Object, namespace: str) -> Sequence[Rule]:
        ref = binding.get("roleRef") or {}
        if ref.get("kind") == "Role":
            role = self._cache.get(_RBAC[0], namespace, ref.get("name", ""))
        else:
            role = self._cache.get(_RBAC[2], "", ref.get("name", ""))
        return (role or {}).get("rules") or ()

    def _node_allows(self, user: User, a: Attributes) -> bool:
        """Upstream's node authorizer: secrets, config maps and tokens only for the pods that run there."""
        node = user.name.removeprefix("system:node:")
        if node == user.name or a.path:
            return False
        if a.resource in ("secrets", "configmaps") and a.verb in ("get", "list", "watch") and a.namespace and a.name:
            return any(a.name in _referenced(pod, a.resource) for pod in self._pods_on(node, a.namespace))
        if a.resource == "serviceaccounts" and a.subresource == "token" and a.verb == "create":
            return any((p.get("spec") or {}).get("serviceAccountName") == a.name for p in self._pods_on(node, a.namespace))
        return False

    def _pods_on(self, node: str, namespace: str) -> Iterator[Object]:
        for pod in self._cache.resource("pods").values(namespace):
            if (pod.get("spec") or {}).get("nodeName") == node:
                yield pod


def _referenced(pod: Object, resource: str) -> set[str]:
    """The names of the Secrets or ConfigMaps that a pod's volumes and environment mention."""
    spec = pod.get("spec") or {}
    volume_key, name_key, env_key, from_key = (
        ("secret", "secretName", "secretKeyRef", "secretRef")
        if resource == "secrets"
        else ("configMap", "name", "configMapKeyRef", "configMapRef")
    )
    names: set[str] = set()
    for volume in spec.get("volumes") or ():
        names.add((volume.get(volume_key) or {}).get(name_key, ""))
        for source in (volume.get("projected") or {}).get("sources") or ():
            names.add((source.get(volume_key) or {}).get("name", ""))
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            for env in container.get("env") or ():
                names.add(((env.get("valueFrom") or {}).get(env_key) or {}).get("name", ""))
            for source in container.get("envFrom") or ():
                names.add((source.get(from_key) or {}).get("name", ""))
    if resource == "secrets":
        names.update(ref.get("name", "") for ref in spec.get("imagePullSecrets") or ())
    names.discard("")
    return names
