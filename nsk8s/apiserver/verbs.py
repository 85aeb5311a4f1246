"""The verbs every kind has: get, list, watch, create, update, patch, delete, deletecollection, and status.

Thin: bodies are decoded, the registry does it, the answer is formed. Touches: HTTP.
Upstream: apiserver/pkg/endpoints/handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import orjson
from aiohttp import web

from nsk8s.api.decode import decode, duplicate_fields, field_warnings, strict_error
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Kind
from nsk8s.apiserver import content, failures, structural
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.deletion import DeleteOptions, parse_options
from nsk8s.apiserver.forms import Form
from nsk8s.apiserver.listing import WatchStream, error_line, list_objects, selection
from nsk8s.apiserver.notices import notice
from nsk8s.apiserver.respond import json_response, success
from nsk8s.apiserver.server import Request, Server, details_of
from nsk8s.errors import BadRequest, InternalError, StatusError, UnsupportedMediaType

CRD_RESOURCE = "customresourcedefinitions.apiextensions.k8s.io"
RETURNS_DELETED = frozenset(
    ("pods", "services", "serviceaccounts", "persistentvolumes", "persistentvolumeclaims", "podtemplates", "resourcequotas")
)
"""What a completed DELETE of these answers is the object instead of a Status."""


def register(server: Server) -> None:
    server.verbs.update(
        get=get, list=list_, watch=watch, create=create, update=update, patch=patch, delete=delete,
        deletecollection=delete_collection,
    )  # fmt: skip
    server.subresources["*", "status"] = status


def form(request: Request, kind: Kind) -> Form:
    return Form(kind, content.negotiate(request.header("Accept")), request.info.param("includeObject"))


def namespace_of(call: Call) -> str:
    return call.info.namespace if call.kind.namespaced else ""


def parse_object(call: Call, raw: bytes, content_type: str) -> Object:
    """The object of a body, typed, defaulted to the kind of the path, unknown fields treated as fieldValidation says."""
    data = content.parse_body(raw, content_type)
    return typed(call, data, raw if content.media_type(content_type) in ("", content.JSON) else b"")


def typed(call: Call, data: Any, raw: bytes = b"") -> Object:
    kind = call.kind
    if isinstance(data, dict):
        check_type(data, kind)
    obj, unknown = decode(kind, data)
    if kind.schema is not None:
        unknown += structural.prune(obj, kind.schema, top=True)
    if kind.group_resource == CRD_RESOURCE and structural.uses_rules(obj.get("spec")):
        call.warnings.append("x-kubernetes-validations: rules in CEL are not evaluated by nsk8s")
    if call.field_validation != "Ignore":
        duplicate = duplicate_fields(raw) if raw else []
        if unknown or duplicate:
            if call.field_validation == "Strict":
                raise strict_error(kind, unknown, duplicate)
            call.warnings.extend(field_warnings(unknown, duplicate))
    return obj


def check_type(data: dict[str, Any], kind: Kind) -> None:
    """A body may leave out what the path says, and must not contradict it. Raises BadRequest."""
    version, name = data.get("apiVersion"), data.get("kind")
    if name and name != kind.kind:
        raise BadRequest(
            f'{name} in version "{str(version or "").rpartition("/")[2]}" cannot be handled as a {kind.kind}: '
            f"the kind in the data ({name}) does not match the expected kind ({kind.kind})"
        )
    if version and version != kind.api_version:
        raise BadRequest(
            f"the API version in the data ({version}) does not match the expected API version ({kind.api_version})"
        )
    data["apiVersion"], data["kind"] = kind.api_version, kind.kind


async def get(request: Request, call: Call) -> web.StreamResponse:
    out = form(request, call.kind)
    obj = await request.server.registry.get(call.kind, namespace_of(call), call.info.name)
    return json_response(out.one(obj))


async def list_(request: Request, call: Call) -> web.StreamResponse:
    out = form(request, call.kind)
    objects, meta = await list_objects(request.server.cache, call.info, selection(call.info, call.kind))
    return json_response(out.many(objects, meta))


async def watch(request: Request, call: Call) -> web.StreamResponse:
    out = form(request, call.kind)
    stream = WatchStream(request.server.cache, call.info, selection(call.info, call.kind), out)
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
    )
    if request.info.method == "HEAD":
        return response
    response.enable_chunked_encoding()
    async with aclosing(stream.batches()) as batches:
        try:
            async for batch in batches:
                if not response.prepared:
                    await response.prepare(request.http)
                if batch:
                    await response.write(batch)
        except StatusError as e:
            if not response.prepared:
                raise
            await response.write(error_line(e))
        except ConnectionError:
            return response
        except Exception as e:
            if not response.prepared:
                raise
            await response.write(error_line(InternalError(f"Internal error occurred: {e}")))
            raise
    await response.write_eof()
    return response


async def create(request: Request, call: Call) -> web.StreamResponse:
    out = form(request, call.kind)
    obj = parse_object(call, await request.body(), request.header("Content-Type"))
    made = await request.server.registry.create(call, obj, namespace_of(call))
    if without_effect := notice(call.kind, request.server.cache, request.server.acted_on):
        call.warnings.append(without_effect)
    return json_response(out.one(made), 201, call.warnings)


async def update(request: Request, call: Call) -> web.StreamResponse:
    return await _replace(request, call, status_only=False)


async def status(request: Request, call: Call) -> web.StreamResponse:
    """The status subresource: read as the whole object, written as its status alone."""
    if call.info.verb == "get":
        return await get(request, call)
    if call.info.verb == "patch":
        return await _patch(request, call, status_only=True)
    return await _replace(request, call, status_only=True)


async def _replace(request: Request, call: Call, *, status_only: bool) -> web.StreamResponse:
    out = form(request, call.kind)
    obj = parse_object(call, await request.body(), request.header("Content-Type"))
    name, namespace = call.info.name, namespace_of(call)
    _check_target(obj, name, namespace)

    def replace(old: Object) -> Object:
        return orjson.loads(raw)  # type: ignore[no-any-return]

    raw = orjson.dumps(obj)
    new = await request.server.registry.update(call, namespace, name, replace, status=status_only)
    return json_response(out.one(new), 200, call.warnings)


def _check_target(obj: Object, name: str, namespace: str) -> None:
    metadata = obj["metadata"]
    if metadata.get("name", name) != name:
        raise BadRequest(f"the name of the object ({metadata.get('name')}) does not match the name on the URL ({name})")
    if metadata.get("namespace") and metadata["namespace"] != namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")


async def patch(request: Request, call: Call) -> web.StreamResponse:
    return await _patch(request, call, status_only=False)


def patcher(call: Call, content_type: str, raw: bytes) -> Callable[[Object], Object]:
    """The function from an object to its patched state. Raises BadRequest, UnsupportedMediaType, Invalid."""
    from nsk8s.api import patch as patches

    kind = call.kind
    media = content.media_type(content_type)
    if media == content.JSON_PATCH:
        document = content.parse_json(raw)
        if not isinstance(document, list):
            raise BadRequest("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
        apply: Callable[[Object], Object] = lambda old: patches.json_patch(old, document)  # noqa: E731
    elif media in (content.MERGE_PATCH, content.STRATEGIC_PATCH):
        document = content.parse_json(raw)
        if not isinstance(document, dict):
            raise BadRequest("the patch must be a JSON object")
        if media == content.MERGE_PATCH:
            apply = lambda old: patches.merge_patch(old, document)  # noqa: E731
        elif kind.model is None:
            raise _unsupported(content.STRATEGIC_PATCH, [content.JSON_PATCH, content.MERGE_PATCH, content.APPLY_PATCH])
        else:
            apply = lambda old: patches.strategic_merge_patch(old, document, kind.model)  # noqa: E731
    else:
        raise _unsupported(
            media, [content.JSON_PATCH, content.MERGE_PATCH, content.STRATEGIC_PATCH, content.APPLY_PATCH]
        )

    def patched(old: Object) -> Object:
        revision = old["metadata"]["resourceVersion"]
        new = apply(old)
        if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            raise failures.unprocessable(kind, call.info.name)
        _check_target(new, call.info.name, namespace_of(call))
        new["metadata"].setdefault("resourceVersion", revision)
        return typed(call, new)

    return patched


def _unsupported(media: str, accepted: list[str]) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
        + (f" (got {media})" if media else "")
    )


async def _patch(request: Request, call: Call, *, status_only: bool) -> web.StreamResponse:
    out = form(request, call.kind)
    raw = await request.body()
    content_type = request.header("Content-Type")
    name, namespace = call.info.name, namespace_of(call)
    if content.media_type(content_type) == content.APPLY_PATCH:
        from nsk8s.apiserver import apply

        new, created = await apply.server_side_apply(request.server.registry, call, namespace, name, raw, status=status_only)
        if created and (without_effect := notice(call.kind, request.server.cache, request.server.acted_on)):
            call.warnings.append(without_effect)
        return json_response(out.one(new), 201 if created else 200, call.warnings)
    new = await request.server.registry.update(
        call, namespace, name, patcher(call, content_type, raw), status=status_only, keep_version=True
    )
    return json_response(out.one(new), 200, call.warnings)


async def delete_options(request: Request) -> DeleteOptions:
    raw = await request.body()
    body = content.parse_body(raw, request.header("Content-Type")) if raw.strip() else None
    return parse_options(body, {k: v[0] for k, v in request.info.query.items() if v})


async def delete(request: Request, call: Call) -> web.StreamResponse:
    options = await delete_options(request)
    out = form(request, call.kind)
    obj, gone = await request.server.registry.delete(call, namespace_of(call), call.info.name, options)
    if gone and call.kind.group_resource not in RETURNS_DELETED:
        return json_response(success(details_of(call.kind, obj)), 200, call.warnings)
    return json_response(out.one(obj), 200, call.warnings)


async def delete_collection(request: Request, call: Call) -> web.StreamResponse:
    options = await delete_options(request)
    out = form(request, call.kind)
    objects, meta = await list_objects(request.server.cache, call.info, selection(call.info, call.kind))
    deleted: list[Object] = []
    for obj in objects:
        metadata = obj["metadata"]
        try:
            last, _ = await request.server.registry.delete(call, metadata.get("namespace", ""), metadata["name"], options)
        except StatusError as e:
            if e.reason != "NotFound":
                raise
            continue
        deleted.append(last)
    return json_response(out.many(deleted, meta), 200, call.warnings)
