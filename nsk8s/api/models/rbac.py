"""rbac.authorization.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field
from nsk8s.api.models.meta import LabelSelector, ObjectMeta


class PolicyRule(Model):
    """Which verbs are allowed on which resources."""

    verbs: list[str] = field(1, "What may be done; * is everything.", required=True, list_type="atomic")
    apiGroups: list[str] = field(2, "The API groups; \"\" is the core group.", list_type="atomic")
    resources: list[str] = field(3, "The resources; pods/log is a subresource.", list_type="atomic")
    resourceNames: list[str] = field(4, "Only objects of these names; empty means all.", list_type="atomic")
    nonResourceURLs: list[str] = field(5, "Paths that are no resources; only in ClusterRoles.", list_type="atomic")


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
    """Permissions within one namespace."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    rules: list[PolicyRule] = field(2, list_type="atomic")


class RoleBinding(Model):
    """Grants a role to subjects within one namespace."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    subjects: list[Subject] = field(2, list_type="atomic")
    roleRef: RoleRef = field(3, required=True)


class ClusterRole(Model):
    """Permissions in the whole cluster, or in any namespace it is bound in."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    rules: list[PolicyRule] = field(2, list_type="atomic")
    aggregationRule: AggregationRule = field(3)


class AggregationRule(Model):
    clusterRoleSelectors: list[LabelSelector] = field(1, list_type="atomic")


class ClusterRoleBinding(Model):
    """Grants a ClusterRole to subjects in the whole cluster."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    subjects: list[Subject] = field(2, list_type="atomic")
    roleRef: RoleRef = field(3, required=True)
