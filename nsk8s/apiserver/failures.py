"""API errors in upstream's words. Pure. Upstream: apimachinery/pkg/api/errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nsk8s.api.scheme import Cause, Kind
from nsk8s.errors import AlreadyExists, Conflict, Forbidden, GatewayTimeout, Gone, Invalid, NotFound


def details(kind: Kind, name: str = "", **more: Any) -> dict[str, Any]:
    out: dict[str, Any] = {"name": name} if name else {}
    if kind.group:
        out["group"] = kind.group
    return {**out, "kind": kind.plural, **more}


def not_found(kind: Kind, name: str) -> NotFound:
    return NotFound(f'{kind.group_resource} "{name}" not found', details=details(kind, name))


def unknown_path() -> NotFound:
    return NotFound("the server could not find the requested resource", details={})


def already_exists(kind: Kind, name: str) -> AlreadyExists:
    return AlreadyExists(f'{kind.group_resource} "{name}" already exists', details=details(kind, name))


def conflict(kind: Kind, name: str, why: str) -> Conflict:
    return Conflict(
        f'Operation cannot be fulfilled on {kind.group_resource} "{name}": {why}', details=details(kind, name)
    )


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def modified(kind: Kind, name: str) -> Conflict:
    return conflict(kind, name, MODIFIED)


def forbidden(kind: Kind, name: str, why: str) -> Forbidden:
    subject = f'{kind.group_resource} "{name}"' if name else kind.group_resource
    return Forbidden(f"{subject} is forbidden: {why}", details=details(kind, name))


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> Invalid:
    texts = [f"{c.field}: {c.message}" if c.field else c.message for c in causes]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    shown = ({"name": name} if name else {}) | ({"group": kind.group} if kind.group else {})
    return Invalid(
        f'{qualified} "{name}" is invalid: {text}',
        details={
            **shown,
            "kind": kind.kind,
            "causes": [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes],
        },
    )


def unprocessable(kind: Kind, name: str) -> Invalid:
    return Invalid("the patched object is not an object of the kind", details=details(kind, name))


def expired(revision: int, oldest: int) -> Gone:
    return Gone(f"too old resource version: {revision} ({oldest})")


def too_large(revision: int, current: int) -> GatewayTimeout:
    return GatewayTimeout(
        f"Too large resource version: {revision}, current: {current}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )
