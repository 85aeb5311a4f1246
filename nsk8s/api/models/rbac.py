"""Models of rbac. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field
from nsk8s.api.models.meta import LabelSelector, ObjectMeta


class PolicyRule(Model):
    verbs: list[str] = field(1, required=True, list_type="atomic")
    apiGroups: list[str] = field(2, list_type="atomic")
    resources: list[str] = field(3, list_type="atomic")
    resourceNames: list[str] = field(4, list_type="atomic")
    nonResourceURLs: list[str] = field(5, list_type="atomic")


class Subject(Model, atomic=True):
    kind: str = field(1, required=True)
    apiGroup: str = field(2)
    name: str = field(3, required=True)
    namespace: str = field(4)


class RoleRef(Model, atomic=True):
    apiGroup: str = field(1, required=True)
    kind: str = field(2, required=True)
    name: str = field(3, required=True)


class Role(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    rules: list[PolicyRule] = field(2, list_type="atomic")


class RoleBinding(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    subjects: list[Subject] = field(2, list_type="atomic")
    roleRef: RoleRef = field(3, required=True)


class ClusterRole(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    rules: list[PolicyRule] = field(2, list_type="atomic")
    aggregationRule: AggregationRule = field(3)


class AggregationRule(Model):
    clusterRoleSelectors: list[LabelSelector] = field(1, list_type="atomic")


class ClusterRoleBinding(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    subjects: list[Subject] = field(2, list_type="atomic")
    roleRef: RoleRef = field(3, required=True)
