"""What a request is about, read from its method, path and query. Pure. Upstream: apiserver/pkg/endpoints/request.RequestInfo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from nsk8s.errors import BadRequest

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SPECIAL_SUBRESOURCES = frozenset(("status", "finalize"))
MAX_QUERY_FIELDS = 1000


@dataclass(slots=True)
class RequestInfo:
    """Upstream's attributes of a request; `verb` is the lower-case HTTP method when it is not about a resource."""

    method: str
    path: str
    verb: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    tail: str = ""
    """What follows the subresource (`proxy/metrics` → `metrics`)."""
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def param(self, name: str) -> str:
        values = self.query.get(name)
        return values[0] if values else ""

    def flag(self, name: str) -> bool:
        """A boolean as upstream reads it: given at all, and not `false` or `0`."""
        values = self.query.get(name)
        return values is not None and bool(values) and values[0].lower() not in ("false", "0")

    def number(self, name: str) -> int | None:
        """A non-negative integer; None if absent. Raises BadRequest."""
        text = self.param(name)
        if not text:
            return None
        digits = text[1:] if text[:1] in "+-" else text
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise BadRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        return int(text)


def parse(method: str, target: str) -> RequestInfo:
    """The RequestInfo of a request line. Raises BadRequest for paths and queries that no client should send."""
    raw_path, _, raw_query = target.partition("?")
    try:
        path = unquote(raw_path, errors="strict")
        pairs = parse_qsl(raw_query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except (UnicodeDecodeError, ValueError) as e:
        raise BadRequest("the request's path or query is not valid UTF-8") from e
    if "\0" in path:
        raise BadRequest("the request's path contains a NUL byte")
    query: dict[str, list[str]] = {}
    for key, value in pairs:
        query.setdefault(key, []).append(value)
    info = RequestInfo(method, path, method.lower(), query=query)
    # Segments are split before they are decoded: an encoded slash is part of a name, and no name has one.
    segments = [s for s in raw_path.split("/") if s]
    parts = [unquote(s) for s in segments]
    if any("/" in p or p in (".", "..") for p in parts):
        return info
    if parts[:1] == ["api"] and len(parts) >= 3:
        info.version, parts = parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 4:
        info.group, info.version, parts = parts[1], parts[2], parts[3:]
    else:
        return info
    return _resource(info, parts)


def _resource(info: RequestInfo, parts: list[str]) -> RequestInfo:
    info.is_resource = True
    watching = False
    if parts[0] == "watch" and len(parts) > 1:
        watching, parts = True, parts[1:]
    if parts[0] == "namespaces" and len(parts) > 1:
        info.namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _SPECIAL_SUBRESOURCES:
            parts = parts[2:]
    info.resource = parts[0]
    info.name = parts[1] if len(parts) > 1 else ""
    info.subresource = parts[2] if len(parts) > 2 else ""
    info.tail = "/".join(parts[3:])
    info.verb = _VERBS.get(info.method, "get" if info.method in ("GET", "HEAD") else info.method.lower())
    if info.verb == "get" and not info.name:
        info.verb = "list"
    if info.verb == "delete" and not info.name:
        info.verb = "deletecollection"
    if info.verb in ("list", "get") and not info.subresource and (watching or info.flag("watch")):
        info.verb = "watch"
    return info
