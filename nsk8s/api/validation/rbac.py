"""Roles and bindings. Pure. Upstream: pkg/apis/rbac/validation."""

from __future__ import annotations

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import Causes, check_selector, named

_GROUP = "rbac.authorization.k8s.io"


def _check_rules(causes: Causes, rules: list[Object], *, namespaced: bool) -> None:
    for i, rule in enumerate(rules):
        at = f"rules[{i}]"
        if not rule.get("verbs"):
            causes.required(f"{at}.verbs", "verbs must contain at least one value")
        urls = rule.get("nonResourceURLs") or []
        if urls:
            if namespaced:
                causes.invalid(f"{at}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                causes.invalid(f"{at}.nonResourceURLs", urls,
                               "rules cannot apply to both regular resources and non-resource URLs")  # fmt: skip
            continue
        if not rule.get("apiGroups"):
            causes.required(f"{at}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            causes.required(f"{at}.resources", "resource rules must supply at least one resource")


def validate_role(obj: Object) -> list[Cause]:
    causes = named(obj, names.path_segment_problems)
    _check_rules(causes, obj.get("rules") or [], namespaced=True)
    return causes


def validate_cluster_role(obj: Object) -> list[Cause]:
    causes = named(obj, names.path_segment_problems)
    _check_rules(causes, obj.get("rules") or [], namespaced=False)
    aggregation = obj.get("aggregationRule")
    if aggregation is not None:
        selectors = aggregation.get("clusterRoleSelectors") or []
        if not selectors:
            causes.required("aggregationRule.clusterRoleSelectors", "at least one clusterRoleSelector required if "
                            "aggregationRule is non-nil")  # fmt: skip
        for i, selector in enumerate(selectors):
            check_selector(causes, f"aggregationRule.clusterRoleSelectors[{i}]", selector)
    return causes


def _validate_binding(obj: Object, kinds: tuple[str, ...], *, namespaced: bool) -> Causes:
    causes = named(obj, names.path_segment_problems)
    reference = obj.get("roleRef") or {}
    if reference.get("apiGroup") != _GROUP:
        causes.unsupported("roleRef.apiGroup", reference.get("apiGroup", ""), (_GROUP,))
    if reference.get("kind") not in kinds:
        causes.unsupported("roleRef.kind", reference.get("kind", ""), kinds)
    if not reference.get("name"):
        causes.required("roleRef.name")
    else:
        causes.problems("roleRef.name", reference["name"], names.path_segment_problems(reference["name"]))
    for i, subject in enumerate(obj.get("subjects") or []):
        _check_subject(causes, f"subjects[{i}]", subject, namespaced=namespaced)
    return causes


def _check_subject(causes: Causes, at: str, subject: Object, *, namespaced: bool) -> None:
    name, group = subject.get("name", ""), subject.get("apiGroup", "")
    if not name:
        causes.required(f"{at}.name")
    match subject.get("kind"):
        case "ServiceAccount":
            if name:
                causes.problems(f"{at}.name", name, names.subdomain_problems(name))
            if group:
                causes.unsupported(f"{at}.apiGroup", group, ("",))
            if not namespaced and not subject.get("namespace"):
                causes.required(f"{at}.namespace")
        case "User" | "Group":
            if group != _GROUP:
                causes.unsupported(f"{at}.apiGroup", group, (_GROUP,))
        case other:
            causes.unsupported(f"{at}.kind", other or "", ("ServiceAccount", "User", "Group"))


def validate_role_binding(obj: Object) -> list[Cause]:
    return _validate_binding(obj, ("Role", "ClusterRole"), namespaced=True)


def validate_cluster_role_binding(obj: Object) -> list[Cause]:
    return _validate_binding(obj, ("ClusterRole",), namespaced=False)


def validate_role_binding_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    if new.get("roleRef") != old.get("roleRef"):
        causes.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")
    return causes
