"""Impersonate-* headers: act as somebody else, if RBAC allows `impersonate` on all that is claimed. Pure over the authorizer.

Upstream: apiserver/pkg/endpoints/filters/impersonation.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from nsk8s.apiserver.authz import Attributes, Authorizer
from nsk8s.apiserver.call import ANONYMOUS, User
from nsk8s.errors import BadRequest, Forbidden

_ACCOUNT = "system:serviceaccount:"


def impersonated(user: User, headers: Mapping[str, str], groups: list[str], authorizer: Authorizer) -> User:
    """The user to act as; `user` itself without the headers. Raises BadRequest, Forbidden."""
    name = headers.get("Impersonate-User", "")
    uid = headers.get("Impersonate-Uid", "")
    extra: dict[str, list[str]] = {}
    for key, value in headers.items():
        if key.lower().startswith("impersonate-extra-"):
            extra.setdefault(unquote(key[18:]).lower(), []).append(value)
    if not name:
        if groups or uid or extra:
            raise BadRequest("requested impersonation without impersonating a user")
        return user
    wanted = [_subject(name)]
    wanted += [Attributes("impersonate", "", "groups", name=g) for g in groups]
    wanted += [Attributes("impersonate", "authentication.k8s.io", "uids", name=uid)] if uid else []
    wanted += [
        Attributes("impersonate", "authentication.k8s.io", "userextras", k, name=v) for k, vs in extra.items() for v in vs
    ]
    for a in wanted:
        if not authorizer.allows(user, a):
            resource = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
            where = f' in the namespace "{a.namespace}"' if a.namespace else " at the cluster scope"
            raise Forbidden(
                f'{a.resource} "{a.name}" is forbidden: User "{user.name}" cannot impersonate resource "{resource}" '
                f'in API group "{a.group}"{where}',
                details={"name": a.name, "kind": a.resource, **({"group": a.group} if a.group else {})},
            )
    effective = list(groups)
    if not groups and name.startswith(_ACCOUNT):
        namespace = name.removeprefix(_ACCOUNT).partition(":")[0]
        effective = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    everybody = "system:unauthenticated" if name == ANONYMOUS.name else "system:authenticated"
    if everybody not in effective:
        effective.append(everybody)
    return User(name, tuple(effective), uid, extra)


def _subject(name: str) -> Attributes:
    if name.startswith(_ACCOUNT) and name.count(":") == 3:
        _, _, namespace, account = name.split(":")
        return Attributes("impersonate", "", "serviceaccounts", namespace=namespace, name=account)
    return Attributes("impersonate", "", "users", name=name)
