"""Bodies in, representations out: media types, JSON, YAML, protobuf, Table and PartialObjectMetadata. Pure.

Upstream: apiserver/pkg/endpoints/handlers/negotiation, apimachinery/pkg/runtime/serializer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from nsk8s.errors import BadRequest, NotAcceptable, UnsupportedMediaType

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

BODY_LIMIT = 3 * 1024 * 1024
DEPTH_LIMIT = 120
"""Levels of nesting in a body; no real object has more than about fifty."""
YAML_NODE_LIMIT = 500_000

OBJECT, TABLE, PARTIAL, PARTIAL_LIST = "", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"


@dataclass(frozen=True, slots=True)
class Accept:
    """What the client gets: the objects, a Table or only metadata; `version` is meta.k8s.io's."""

    form: str = OBJECT
    version: str = "v1"


def media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


@lru_cache(maxsize=256)
def negotiate(header: str) -> Accept:
    """The first clause of an Accept header that can be served. Raises NotAcceptable."""
    if not header:
        return Accept()
    fallback: Accept | None = None
    for clause in header.split(","):
        kind, *raw = [p.strip() for p in clause.split(";")]
        params = dict(p.split("=", 1) for p in raw if "=" in p)
        if kind.lower() in (JSON, "*/*", "application/*"):
            form = params.get("as", "")
            if not form:
                return Accept()
            if form in (TABLE, PARTIAL, PARTIAL_LIST) and params.get("g") == "meta.k8s.io" \
                    and params.get("v") in ("v1", "v1beta1"):
                return Accept(PARTIAL if form == PARTIAL_LIST else form, params["v"])
        elif kind.lower() == PROTOBUF and "as" not in params:
            # Protobuf is understood but not spoken: every client that asks for it also reads JSON.
            fallback = Accept()
    if fallback:
        return fallback
    raise NotAcceptable(
        "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io, "
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
    )


def check_depth(data: Any, limit: int = DEPTH_LIMIT) -> None:
    """Raise BadRequest if JSON is nested deeper than `limit`."""
    level = [data] if isinstance(data, dict | list) else []
    for _ in range(limit):
        if not level:
            return
        children = (c for node in level for c in (node.values() if isinstance(node, dict) else node))
        level = [c for c in children if isinstance(c, dict | list)]
    raise BadRequest(f"the body is nested more than {limit} levels deep")


def parse_json(raw: bytes) -> Any:
    """JSON of a body. Raises BadRequest."""
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"couldn't get version/kind; json parse error: {e}") from None
    if isinstance(data, dict | list) and raw.count(b"{") + raw.count(b"[") > DEPTH_LIMIT:
        check_depth(data)
    return data


def parse_yaml(raw: bytes) -> Any:
    """YAML of a body as JSON would have it: no timestamps, text keys, no alias bombs. Raises BadRequest."""
    import yaml

    from nsk8s.apiserver.yamlloader import Loader

    try:
        data = yaml.load(raw, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise BadRequest(f"error converting YAML to JSON: {e}") from None
    budget = YAML_NODE_LIMIT
    level: list[Any] = [data]
    for _ in range(DEPTH_LIMIT):
        level = [c for n in level if isinstance(n, dict | list) for c in (n.values() if isinstance(n, dict) else n)]
        budget -= len(level)
        if budget < 0:
            raise BadRequest("error converting YAML to JSON: too many nodes")
        if not level:
            break
    else:
        raise BadRequest(f"the body is nested more than {DEPTH_LIMIT} levels deep")
    try:
        return orjson.loads(orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS))
    except (orjson.JSONEncodeError, orjson.JSONDecodeError, TypeError) as e:
        raise BadRequest(f"error converting YAML to JSON: {e}") from None


def parse_body(raw: bytes, content_type: str) -> Any:
    """The object in a request's body. A missing Content-Type means JSON. Raises BadRequest, UnsupportedMediaType."""
    kind = media_type(content_type)
    if kind in ("", JSON, "*/*"):
        return parse_json(raw)
    if kind == YAML:
        return parse_yaml(raw)
    if kind == PROTOBUF:
        from nsk8s.api import protobuf

        return protobuf.decode(raw)
    raise UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {JSON}, {YAML}, {PROTOBUF}"
    )
