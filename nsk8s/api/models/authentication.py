"""authentication.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Time, field, int64
from nsk8s.api.models.meta import ObjectMeta


class TokenReview(Model):
    """Asks whether a token is good, and whose it is."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: TokenReviewSpec = field(2, "What is wanted.", required=True)
    status: TokenReviewStatus = field(3, "What is known; written by controllers.")


class TokenReviewSpec(Model):
    token: str = field(1)
    audiences: list[str] = field(2, list_type="atomic")


class TokenReviewStatus(Model):
    authenticated: bool = field(1)
    user: UserInfo = field(2)
    audiences: list[str] = field(4, list_type="atomic")
    error: str = field(3)


class UserInfo(Model):
    username: str = field(1)
    uid: str = field(2)
    groups: list[str] = field(3, list_type="atomic")
    extra: dict[str, list[str]] = field(4)


class TokenRequest(Model):
    """Asks for a token for a ServiceAccount."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: TokenRequestSpec = field(2, "What is wanted.", required=True)
    status: TokenRequestStatus = field(3, "What is known; written by controllers.")


class TokenRequestSpec(Model):
    audiences: list[str] = field(1, required=True, list_type="atomic")
    expirationSeconds: int64 | None = field(4)
    boundObjectRef: BoundObjectReference = field(3)


class TokenRequestStatus(Model):
    token: str = field(1, required=True)
    expirationTimestamp: Time = field(2, required=True)


class BoundObjectReference(Model):
    kind: str = field(1)
    apiVersion: str = field(2)
    name: str = field(3)
    uid: str = field(4)


class SelfSubjectReview(Model):
    """Asks the API server who one is."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    status: SelfSubjectReviewStatus = field(2, "What is known; written by controllers.")


class SelfSubjectReviewStatus(Model):
    userInfo: UserInfo = field(1)
