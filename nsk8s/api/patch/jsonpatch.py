"""JSON Patch, RFC 6902. Pure. Upstream: evanphx/json-patch behind the API server's patch handler."""

from __future__ import annotations

from typing import Any

from nsk8s.api.meta import Object, copied
from nsk8s.errors import BadRequest, Invalid, RequestEntityTooLarge

MAX_OPERATIONS = 10_000
"""Upstream's limit of operations in one patch."""
_GROWTH_LIMIT = 3 * 1024 * 1024
"""Values that `copy` may add in all, in characters of JSON; a few nested copies could otherwise fill the memory."""


class _PatchFailed(Exception):
    """An operation that cannot be done on this document."""


def json_patch(obj: Object, operations: list[Any]) -> Any:
    """`obj` after all operations, or BadRequest (malformed) or Invalid (does not apply, `test` failed)."""
    if len(operations) > MAX_OPERATIONS:
        raise RequestEntityTooLarge(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    document: Any = obj
    copied = 0
    for operation in operations:
        if not isinstance(operation, dict):
            raise BadRequest("json: cannot unmarshal array element into Go value of type jsonpatch.Operation")
        try:
            if operation.get("op") == "copy":
                copied += _size(_get(document, _path(operation, "from")))
                if copied > _GROWTH_LIMIT:
                    raise _PatchFailed(f"the patch copies more than {_GROWTH_LIMIT} bytes")
            document = _apply(document, operation)
        except _PatchFailed as e:
            raise Invalid(f"the server rejected our request due to an error in our request: {e}") from None
    return document


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 2 + sum(len(k) + 4 + _size(v) for k, v in value.items())
    if isinstance(value, list):
        return 2 + sum(1 + _size(v) for v in value)
    return len(value) + 2 if isinstance(value, str) else 8


def _path(operation: dict[str, Any], key: str) -> list[str]:
    text = operation.get(key)
    if not isinstance(text, str):
        raise BadRequest(f"missing or invalid '{key}' in the JSON patch operation {operation.get('op')!r}")
    if text and not text.startswith("/"):
        raise BadRequest(f"invalid JSON pointer {text!r}: it must start with '/'")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    op = operation.get("op")
    path = _path(operation, "path")
    match op:
        case "add" | "replace" | "test":
            if "value" not in operation and op != "test":
                raise BadRequest(f"the JSON patch operation {op!r} needs a value")
            value = copied(operation.get("value"))
            if op == "test":
                _test(document, path, value)
                return document
            if op == "replace":
                _get(document, path)
                return _set(document, path, value)
            return _add(document, path, value)
        case "remove":
            return _remove(document, path)
        case "move":
            source = _path(operation, "from")
            if path[: len(source)] == source and path != source:
                raise _PatchFailed("a value cannot be moved into itself")
            value = _get(document, source)
            return _add(_remove(document, source), path, value)
        case "copy":
            return _add(document, path, copied(_get(document, _path(operation, "from"))))
    raise BadRequest(f"unexpected kind of JSON patch operation: {op!r}")


def _index(parent: list[Any], token: str, *, adding: bool = False) -> int:
    if adding and token == "-":
        return len(parent)
    digits = token.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise _PatchFailed(f"invalid array index {token!r}")
    index = int(token)
    limit = len(parent) + (1 if adding else 0)
    if index < 0:
        index += limit  # evanphx/json-patch counts from the end, as upstream lets it
    if not 0 <= index < limit:
        raise _PatchFailed(f"array index {token} is out of bounds")
    return index


def _get(document: Any, path: list[str]) -> Any:
    value = document
    for token in path:
        if isinstance(value, dict):
            if token not in value:
                raise _PatchFailed(f"path /{'/'.join(path)} does not exist")
            value = value[token]
        elif isinstance(value, list):
            value = value[_index(value, token)]
        else:
            raise _PatchFailed(f"path /{'/'.join(path)} does not exist")
    return value


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        parent.insert(_index(parent, path[-1], adding=True), value)
    else:
        raise _PatchFailed(f"path /{'/'.join(path)} does not exist")
    return document


def _set(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        parent[_index(parent, path[-1])] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        raise _PatchFailed("the whole document cannot be removed")
    _get(document, path)
    parent = _get(document, path[:-1])
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        del parent[_index(parent, path[-1])]
    return document


def _same(a: Any, b: Any) -> bool:
    """JSON equality: true is not 1."""
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _test(document: Any, path: list[str], value: Any) -> None:
    try:
        have = _get(document, path)
    except _PatchFailed:
        if value is None:
            return
        raise
    if not _same(have, value):
        raise _PatchFailed(f"testing value /{'/'.join(path)} failed")
