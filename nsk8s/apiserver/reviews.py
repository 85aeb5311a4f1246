"""Kinds that are asked and answered, never stored: access reviews, token reviews, who am I.

Upstream: pkg/registry/authorization, pkg/registry/authentication.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from nsk8s.api.meta import Object, rfc3339
from nsk8s.apiserver.authz import MASTERS, Attributes
from nsk8s.apiserver.call import Call, User
from nsk8s.apiserver.respond import json_response
from nsk8s.apiserver.server import Request, Server
from nsk8s.apiserver.verbs import parse_object
from nsk8s.errors import BadRequest


def register(server: Server) -> None:
    server.virtual.update(
        {
            "selfsubjectaccessreviews.authorization.k8s.io": self_access,
            "subjectaccessreviews.authorization.k8s.io": access,
            "localsubjectaccessreviews.authorization.k8s.io": access,
            "selfsubjectrulesreviews.authorization.k8s.io": self_rules,
            "tokenreviews.authentication.k8s.io": token,
            "selfsubjectreviews.authentication.k8s.io": self_subject,
        }
    )


async def _body(request: Request, call: Call) -> Object:
    body = parse_object(call, await request.body(), request.header("Content-Type"))
    body.setdefault("spec", {})
    return body


def _attributes(spec: dict[str, Any]) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if bool(resource) == bool(path):
        raise BadRequest("exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be specified")
    if path:
        return Attributes(path.get("verb", ""), path=path.get("path", ""))
    resource = resource or {}
    return Attributes(
        resource.get("verb", ""), resource.get("group", ""), resource.get("resource", ""), resource.get("subresource", ""),
        resource.get("namespace", ""), resource.get("name", ""),
    )  # fmt: skip


def _decision(request: Request, user: User, spec: dict[str, Any]) -> dict[str, Any]:
    allowed = request.server.authorizer.allows(user, _attributes(spec))
    return {"allowed": True} if allowed else {"allowed": False, "reason": ""}


async def self_access(request: Request, call: Call) -> web.StreamResponse:
    body = await _body(request, call)
    body["status"] = _decision(request, request.user, body["spec"])
    return json_response(body, 201, call.warnings)


async def access(request: Request, call: Call) -> web.StreamResponse:
    body = await _body(request, call)
    spec = body["spec"]
    if not spec.get("user") and not spec.get("groups"):
        raise BadRequest("spec.user or spec.groups must be specified")
    if call.kind.namespaced and (spec.get("resourceAttributes") or {}).get("namespace") != call.info.namespace:
        raise BadRequest(f"spec.resourceAttributes.namespace must match namespace: {call.info.namespace}")
    user = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))
    body["status"] = _decision(request, user, spec)
    return json_response(body, 201, call.warnings)


async def self_rules(request: Request, call: Call) -> web.StreamResponse:
    body = await _body(request, call)
    namespace = body["spec"].get("namespace", "")
    if not namespace:
        raise BadRequest("no namespace on request")
    resources: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    if MASTERS in request.user.groups:
        resources.append({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        paths.append({"verbs": ["*"], "nonResourceURLs": ["*"]})
    for rule in request.server.authorizer.rules(request.user, namespace):
        if rule.get("nonResourceURLs"):
            paths.append({"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]})
        if rule.get("resources"):
            shown = {k: rule[k] for k in ("verbs", "apiGroups", "resources", "resourceNames") if rule.get(k)}
            resources.append(shown)
    body["status"] = {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}
    return json_response(body, 201, call.warnings)


def user_info(user: User) -> dict[str, Any]:
    info: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = user.extra
    return info


async def token(request: Request, call: Call) -> web.StreamResponse:
    body = await _body(request, call)
    spec = body["spec"]
    if not spec.get("token"):
        raise BadRequest("token is required for TokenReview in authentication")
    audiences = spec.get("audiences") or request.server.authenticator.audiences
    user = request.server.authenticator.token(spec["token"], audiences)
    if user is None:
        body["status"] = {"authenticated": False, "user": {}, "error": "[invalid bearer token]"}
    else:
        body["status"] = {"authenticated": True, "user": user_info(user), "audiences": list(audiences)}
    return json_response(body, 201, call.warnings)


async def self_subject(request: Request, call: Call) -> web.StreamResponse:
    body = await _body(request, call)
    body.pop("spec", None)
    body["metadata"] = {"creationTimestamp": rfc3339(datetime.now(UTC))}
    body["status"] = {"userInfo": user_info(request.user)}
    return json_response(body, 201, call.warnings)
