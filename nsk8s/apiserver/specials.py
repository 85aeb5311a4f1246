"""Subresources that are more than a part of their object: binding, eviction, token, scale, finalize, ephemeralcontainers.

Upstream: pkg/registry/core/pod/storage, core/serviceaccount/storage, apps/*/storage (ScaleREST), core/namespace/storage.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from nsk8s.api import selectors
from nsk8s.api.kinds.others import TOKEN_REQUEST
from nsk8s.api.meta import Object, is_condition_true, rfc3339, set_condition
from nsk8s.api.models.autoscaling_v1 import Scale
from nsk8s.api.models.core import Binding
from nsk8s.api.models.policy import Eviction
from nsk8s.api.scale import apply_scale, scale_of
from nsk8s.api.scheme import Cause, Kind, Strategy
from nsk8s.apiserver import content, failures, tokens
from nsk8s.apiserver.cache import clone
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.deletion import parse_options
from nsk8s.apiserver.respond import json_response
from nsk8s.apiserver.server import Request, Server
from nsk8s.apiserver.verbs import form, namespace_of, parse_object, patcher, typed
from nsk8s.errors import BadRequest, Conflict, InternalError, MethodNotAllowed, TooManyRequests

_PLAIN = Strategy(has_status=False, has_generation=False)
BINDING = Kind("", "v1", "Binding", "bindings", True, Binding, strategy=_PLAIN)
EVICTION = Kind("policy", "v1", "Eviction", "evictions", True, Eviction, strategy=_PLAIN)
SCALE = Kind("autoscaling", "v1", "Scale", "scales", True, Scale, strategy=_PLAIN)
SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def register(server: Server, accounts: tokens.ServiceAccountTokens) -> None:
    async def token(request: Request, call: Call) -> web.StreamResponse:
        return await create_token(request, call, accounts)

    server.subresources.update(
        {
            ("pods", "binding"): bind_pod,
            ("pods", "eviction"): evict,
            ("pods", "ephemeralcontainers"): ephemeral_containers,
            ("pods", "resize"): refused,
            ("serviceaccounts", "token"): token,
            ("namespaces", "finalize"): finalize,
            ("*", "scale"): scale,
            ("*", "proxy"): refused,
        }
    )
    server.virtual["bindings"] = bind_by_body


def as_kind(call: Call, kind: Kind) -> Call:
    """The same call about another kind (the body of a subresource)."""
    return replace(call, kind=kind)


async def refused(request: Request, call: Call) -> web.StreamResponse:
    raise MethodNotAllowed(
        f"{call.kind.plural}/{call.info.subresource} is not supported by nsk8s"
        + ("; use kubectl port-forward, or reach the address from inside the cluster" if call.info.subresource == "proxy" else "")
    )


async def bind_pod(request: Request, call: Call) -> web.StreamResponse:
    body = parse_object(as_kind(call, BINDING), await request.body(), request.header("Content-Type"))
    name = body["metadata"].get("name") or call.info.name
    if name != call.info.name:
        raise BadRequest(f"the name of the object ({name}) does not match the name on the URL ({call.info.name})")
    return await _bind(request, call, call.info.name, body)


async def bind_by_body(request: Request, call: Call) -> web.StreamResponse:
    """POST …/bindings: the old way to bind, the pod is named in the body."""
    pods = request.server.scheme.resource("", "v1", "pods")
    body = parse_object(call, await request.body(), request.header("Content-Type"))
    if pods is None or not body["metadata"].get("name"):
        raise BadRequest("name is required")
    return await _bind(request, as_kind(call, pods), body["metadata"]["name"], body)


async def _bind(request: Request, call: Call, name: str, body: Object) -> web.StreamResponse:
    target = body.get("target") or {}
    if target.get("kind") not in (None, "", "Node"):
        problem = f'Unsupported value: "{target.get("kind")}": supported values: "Node", "<empty>"'
        raise failures.invalid(BINDING, name, [Cause("target.kind", problem, "FieldValueNotSupported")])
    node = target.get("name")
    if not node:
        raise failures.invalid(BINDING, name, [Cause("target.name", "Required value", "FieldValueRequired")])
    uid = body["metadata"].get("uid")

    def bind(pod: Object) -> Object:
        metadata, spec = pod["metadata"], pod["spec"]
        if uid and uid != metadata["uid"]:
            have = metadata["uid"]
            raise _binding_conflict(name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {have}")
        if metadata.get("deletionTimestamp"):
            raise _binding_conflict(name, f"pod {name} is being deleted, cannot be assigned to a host")
        if spec.get("nodeName"):
            raise _binding_conflict(name, f'pod {name} is already assigned to node "{spec["nodeName"]}"')
        if spec.get("schedulingGates"):
            raise _binding_conflict(name, f"pod {name} has non-empty .spec.schedulingGates")
        spec["nodeName"] = node
        annotations = body["metadata"].get("annotations")
        if annotations:
            metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
        status = pod.setdefault("status", {})
        scheduled = {"type": "PodScheduled", "status": "True"}
        old = [c for c in status.get("conditions") or [] if c.get("type") != "PodScheduled" or c.get("status") == "True"]
        status["conditions"] = set_condition(old, scheduled, datetime.now(UTC))
        return pod

    await request.server.registry.force(call, namespace_of(call), name, bind)
    return json_response(SUCCESS, 201, call.warnings)


def _binding_conflict(name: str, why: str) -> Conflict:
    return Conflict(
        f'Operation cannot be fulfilled on pods/binding "{name}": {why}', details={"name": name, "kind": "pods/binding"}
    )


async def evict(request: Request, call: Call) -> web.StreamResponse:
    """Delete a pod if its PodDisruptionBudget allows that now."""
    body = parse_object(as_kind(call, EVICTION), await request.body(), request.header("Content-Type"))
    name, namespace = call.info.name, namespace_of(call)
    if body["metadata"].get("name") not in (None, "", name):
        raise BadRequest("name in URL does not match name in Eviction object")
    options = parse_options(body.get("deleteOptions") or {}, {})
    server = request.server
    pod = await server.registry.get(call.kind, namespace, name)
    if not _may_go_anyway(pod):
        await _use_budget(server, call, pod, dry_run=call.dry_run or options.dry_run)
    delete_call = as_kind(call, call.kind)
    await server.registry.delete(delete_call, namespace, name, options)
    return json_response(SUCCESS, 201, call.warnings)


def _may_go_anyway(pod: Object) -> bool:
    """Pods that have ended, have not begun or are going already do not count against a budget."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed", "Pending") or bool(
        pod["metadata"].get("deletionTimestamp")
    )


async def _use_budget(server: Server, call: Call, pod: Object, *, dry_run: bool) -> None:
    kind = server.scheme.resource("policy", "v1", "poddisruptionbudgets")
    if kind is None:
        return
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    labels = pod["metadata"].get("labels") or {}
    budgets = [
        b
        for b in server.cache.resource(kind.group_resource).values(namespace)
        if selectors.from_label_selector((b.get("spec") or {}).get("selector")).matches(labels)
    ]
    if not budgets:
        return
    if len(budgets) > 1:
        raise InternalError("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
    state = budgets[0].get("status") or {}
    healthy_enough = 0 < state.get("desiredHealthy", 0) <= state.get("currentHealthy", 0)
    always = (budgets[0].get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
    if not is_condition_true(pod, "Ready") and (always or healthy_enough):
        return

    def take(budget: Object) -> Object:
        status = budget.get("status") or {}
        if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
            raise _disruption("The disruption budget {} is still being processed by the server.", budget, retry=10)
        if status.get("disruptionsAllowed", 0) <= 0:
            healthy = f"{status.get('desiredHealthy', 0)} healthy pods and has {status.get('currentHealthy', 0)} currently"
            raise _disruption(f"The disruption budget {{}} needs {healthy}", budget)
        status["disruptionsAllowed"] -= 1
        status["disruptedPods"] = {**(status.get("disruptedPods") or {}), name: rfc3339(datetime.now(UTC))}
        return {**budget, "status": status}

    budget_call = Call(call.user, call.info, kind, dry_run, user_agent=call.user_agent)
    await server.registry.update(budget_call, namespace, budgets[0]["metadata"]["name"], take, status=True, keep_version=True)


def _disruption(text: str, budget: Object, retry: int = 0) -> TooManyRequests:
    message = text.format(budget["metadata"]["name"])
    details: dict[str, Any] = {"causes": [{"reason": "DisruptionBudget", "message": message}]}
    if retry:
        details["retryAfterSeconds"] = retry
    return TooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", details=details)


async def create_token(request: Request, call: Call, accounts: tokens.ServiceAccountTokens) -> web.StreamResponse:
    """TokenRequest: a token for the account, as long as asked (≥ 10 minutes), bound to a Pod, Secret or Node if asked."""
    body = parse_object(as_kind(call, TOKEN_REQUEST), await request.body(), request.header("Content-Type"))
    namespace, name = namespace_of(call), call.info.name
    account = await request.server.registry.get(call.kind, namespace, name)
    spec = body.setdefault("spec", {})
    seconds = spec.get("expirationSeconds") or tokens.DEFAULT_EXPIRATION_S
    if seconds < tokens.MIN_EXPIRATION_S or seconds > tokens.MAX_EXPIRATION_S:
        limit = (
            "may not specify a duration less than 10 minutes" if seconds < tokens.MIN_EXPIRATION_S
            else "may not specify a duration larger than 2^32 seconds"
        )  # fmt: skip
        raise failures.invalid(TOKEN_REQUEST, name, [Cause("spec.expirationSeconds", f"Invalid value: {seconds}: {limit}")])
    bound = _bound_object(request.server, spec.get("boundObjectRef"), namespace, account)
    token, expiry = accounts.issue(account, spec.get("audiences") or (), seconds, bound)
    spec.setdefault("audiences", accounts.audiences)
    spec["expirationSeconds"] = seconds
    body["metadata"] = {"name": name, "namespace": namespace, "creationTimestamp": rfc3339(datetime.now(UTC))}
    body["status"] = {"token": token, "expirationTimestamp": rfc3339(datetime.fromtimestamp(expiry, UTC))}
    return json_response(body, 201, call.warnings)


def _bound_object(server: Server, ref: Object | None, namespace: str, account: Object) -> tuple[str, Object] | None:
    if not ref:
        return None
    kind, name, uid = ref.get("kind", ""), ref.get("name", ""), ref.get("uid", "")
    plural = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}.get(kind)
    if plural is None:
        raise BadRequest(f"cannot bind a token for serviceaccount {account['metadata']['name']!r} to an object of kind {kind!r}")
    stub = server.scheme.resource("", "v1", plural)
    assert stub is not None
    obj = server.cache.get(plural, namespace if stub.namespaced else "", name)
    if obj is None:
        raise failures.not_found(stub, name)
    if uid and uid != obj["metadata"]["uid"]:
        raise failures.conflict(stub, name, f"the UID in the bound object reference ({uid}) does not match the UID in record. "
                                            "The object might have been deleted and then recreated")  # fmt: skip
    if kind == "Pod" and (obj.get("spec") or {}).get("serviceAccountName") != account["metadata"]["name"]:
        account_name = account["metadata"]["name"]
        raise BadRequest(
            f'cannot bind token for serviceaccount "{account_name}" to pod running with different serviceaccount name.'
        )
    return kind, obj


async def scale(request: Request, call: Call) -> web.StreamResponse:
    """autoscaling/v1 Scale: a view of the workload's replicas."""
    registry, name, namespace = request.server.registry, call.info.name, namespace_of(call)
    content.negotiate(request.header("Accept"))
    paths = request.server.scale_paths.get(call.kind.group_resource)
    if call.info.verb == "get":
        return json_response(scale_of(call.kind, await registry.get(call.kind, namespace, name), paths))
    as_scale = as_kind(call, SCALE)
    raw = await request.body()
    if call.info.verb == "patch":
        apply = patcher(as_scale, request.header("Content-Type"), raw)
    else:
        body = parse_object(as_scale, raw, request.header("Content-Type"))

        def apply(old: Object) -> Object:
            return clone(body)  # type: ignore[no-any-return]

    def resize(obj: Object) -> Object:
        wanted = apply(scale_of(call.kind, obj, paths))
        replicas = (wanted.get("spec") or {}).get("replicas", 0)
        if isinstance(replicas, int) and replicas < 0:
            problem = f"Invalid value: {replicas}: must be greater than or equal to 0"
            raise failures.invalid(SCALE, name, [Cause("spec.replicas", problem)])
        return apply_scale(call.kind, obj, wanted, paths)

    new = await registry.update(call, namespace, name, resize, keep_version=True)
    return json_response(scale_of(call.kind, new, paths), 200, call.warnings)


async def finalize(request: Request, call: Call) -> web.StreamResponse:
    """Namespaces: the only way to change spec.finalizers; without any, a namespace under deletion goes."""
    body = parse_object(call, await request.body(), request.header("Content-Type"))
    finalizers = (body.get("spec") or {}).get("finalizers") or []
    revision = body["metadata"].get("resourceVersion")

    def change(old: Object) -> Object:
        if revision and revision != old["metadata"]["resourceVersion"]:
            raise failures.modified(call.kind, call.info.name)
        spec = dict(old.get("spec") or {})
        spec["finalizers"] = finalizers
        if not finalizers:
            del spec["finalizers"]
        return {**old, "spec": spec}

    new = await request.server.registry.force(call, "", call.info.name, change)
    return json_response(form(request, call.kind).one(new), 200, call.warnings)


async def ephemeral_containers(request: Request, call: Call) -> web.StreamResponse:
    """Only spec.ephemeralContainers of what is sent counts, and they can only be added."""
    registry, name, namespace = request.server.registry, call.info.name, namespace_of(call)
    out = form(request, call.kind)
    if call.info.verb == "get":
        return json_response(out.one(await registry.get(call.kind, namespace, name)))
    raw = await request.body()
    if call.info.verb == "patch":
        apply = patcher(call, request.header("Content-Type"), raw)
    else:
        body = parse_object(call, raw, request.header("Content-Type"))

        def apply(old: Object) -> Object:
            return clone(body)  # type: ignore[no-any-return]

    def change(old: Object) -> Object:
        wanted = typed(call, apply(clone(old)))
        before = (old.get("spec") or {}).get("ephemeralContainers") or []
        after = (wanted.get("spec") or {}).get("ephemeralContainers") or []
        by_name = {c.get("name"): c for c in after}
        names = [c.get("name") for s in ("initContainers", "containers") for c in old["spec"].get(s) or ()]
        for container in before:
            if by_name.get(container["name"]) is None:
                text = f'Forbidden: existing ephemeral containers "{container["name"]}" may not be removed'
                raise failures.invalid(call.kind, name, [Cause("spec.ephemeralContainers", text, "FieldValueForbidden")])
        for i, container in enumerate(after):
            problem = "" if container.get("name") and container["name"] not in names else "name is missing or in use"
            if problem:
                cause = Cause(f"spec.ephemeralContainers[{i}].name", f"Invalid value: {problem}")
                raise failures.invalid(call.kind, name, [cause])
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            container.setdefault("terminationMessagePolicy", "File")
            container.setdefault("imagePullPolicy", "IfNotPresent")
            container.setdefault("resources", {})
        kept = {c["name"]: c for c in before}
        old["spec"]["ephemeralContainers"] = [kept.get(c["name"], c) for c in after]
        return old

    new = await registry.force(call, namespace, name, change)
    return json_response(out.one(new), 200, call.warnings)


