"""authorization.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field
from nsk8s.api.models.meta import FieldSelectorRequirement, LabelSelectorRequirement, ObjectMeta


class SubjectAccessReview(Model):
    """Asks whether somebody may do something."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: SubjectAccessReviewSpec = field(2, "What is wanted.", required=True)
    status: SubjectAccessReviewStatus = field(3, "What is known; written by controllers.")


class SelfSubjectAccessReview(Model):
    """Asks whether one may do something oneself."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: SelfSubjectAccessReviewSpec = field(2, "What is wanted.", required=True)
    status: SubjectAccessReviewStatus = field(3, "What is known; written by controllers.")


class LocalSubjectAccessReview(Model):
    """Asks whether somebody may do something in a namespace."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: SubjectAccessReviewSpec = field(2, "What is wanted.", required=True)
    status: SubjectAccessReviewStatus = field(3, "What is known; written by controllers.")


class ResourceAttributes(Model):
    namespace: str = field(1)
    verb: str = field(2)
    group: str = field(3)
    version: str = field(4)
    resource: str = field(5)
    subresource: str = field(6)
    name: str = field(7)
    fieldSelector: FieldSelectorAttributes = field(8)
    labelSelector: LabelSelectorAttributes = field(9)


class LabelSelectorAttributes(Model):
    rawSelector: str = field(1)
    requirements: list[LabelSelectorRequirement] = field(2, list_type="atomic")


class FieldSelectorAttributes(Model):
    rawSelector: str = field(1)
    requirements: list[FieldSelectorRequirement] = field(2, list_type="atomic")


class NonResourceAttributes(Model):
    path: str = field(1)
    verb: str = field(2)


class SubjectAccessReviewSpec(Model):
    resourceAttributes: ResourceAttributes = field(1)
    nonResourceAttributes: NonResourceAttributes = field(2)
    user: str = field(3)
    groups: list[str] = field(4, list_type="atomic")
    extra: dict[str, list[str]] = field(5)
    uid: str = field(6)


class SelfSubjectAccessReviewSpec(Model):
    resourceAttributes: ResourceAttributes = field(1)
    nonResourceAttributes: NonResourceAttributes = field(2)


class SubjectAccessReviewStatus(Model):
    allowed: bool = field(1, required=True)
    denied: bool = field(4)
    reason: str = field(2)
    evaluationError: str = field(3)


class SelfSubjectRulesReview(Model):
    """Asks what one may do in a namespace."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: SelfSubjectRulesReviewSpec = field(2, "What is wanted.", required=True)
    status: SubjectRulesReviewStatus = field(3, "What is known; written by controllers.")


class SelfSubjectRulesReviewSpec(Model):
    namespace: str = field(1)


class SubjectRulesReviewStatus(Model):
    resourceRules: list[ResourceRule] = field(1, required=True, list_type="atomic")
    nonResourceRules: list[NonResourceRule] = field(2, required=True, list_type="atomic")
    incomplete: bool = field(3, required=True)
    evaluationError: str = field(4)


class ResourceRule(Model):
    verbs: list[str] = field(1, required=True, list_type="atomic")
    apiGroups: list[str] = field(2, list_type="atomic")
    resources: list[str] = field(3, list_type="atomic")
    resourceNames: list[str] = field(4, list_type="atomic")


class NonResourceRule(Model):
    verbs: list[str] = field(1, required=True, list_type="atomic")
    nonResourceURLs: list[str] = field(2, list_type="atomic")
