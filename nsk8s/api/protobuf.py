"""Kubernetes protobuf bodies → JSON objects, driven by the field numbers in the models. Pure.

kubectl 1.32 and later sends what it creates imperatively (`create deployment`, `create token`, `auth can-i` …) this way and
does not fall back to JSON. Answers are always JSON. Upstream: apimachinery/pkg/runtime/serializer/protobuf, generated.proto.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from nsk8s.api.meta import Object, rfc3339, rfc3339_micro
from nsk8s.api.models.base import Field, Model
from nsk8s.errors import BadRequest

MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEPTH = 64
"""Far more than any built-in kind nests; a forged body must not exhaust the stack."""


class _Malformed(Exception):
    """Bytes that are no such message."""


@lru_cache(maxsize=1)
def _models() -> dict[tuple[str, str], type[Model]]:
    """(apiVersion, kind) → model: the built-in kinds, and those that only travel."""
    from nsk8s.api.kinds import BUILTIN
    from nsk8s.api.models import authentication, autoscaling_v1, policy

    known = {(k.api_version, k.kind): k.model for k in BUILTIN}
    known["authentication.k8s.io/v1", "TokenRequest"] = authentication.TokenRequest
    known["autoscaling/v1", "Scale"] = autoscaling_v1.Scale
    known["policy/v1", "Eviction"] = policy.Eviction
    return known


def decode(body: bytes) -> Object:
    """The object in an enveloped body; raises BadRequest."""
    if not body.startswith(MAGIC):
        raise BadRequest("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        api_version, kind, raw = _envelope(body[len(MAGIC) :])
        model = _model(api_version, kind)
        obj = _message(model, raw, 0)
    except _Malformed as e:
        raise BadRequest(f"unable to decode the protobuf body: {e}") from None
    return {"apiVersion": api_version, "kind": kind, **obj}


def _model(api_version: str, kind: str) -> type[Model]:
    if kind == "DeleteOptions":
        from nsk8s.api.models.meta import DeleteOptions

        return DeleteOptions
    model = _models().get((api_version, kind))
    if model is None:
        raise BadRequest(f'no kind "{kind}" is registered for version "{api_version}" in scheme')
    return model


def _envelope(data: bytes) -> tuple[str, str, bytes]:
    """runtime.Unknown: 1 TypeMeta {1 apiVersion, 2 kind}, 2 raw, 3 contentEncoding, 4 contentType."""
    api_version = kind = ""
    raw = b""
    for number, value in _fields(data):
        if number == 1:
            for part, text in _fields(_bytes(value)):
                if part == 1:
                    api_version = _text(text)
                elif part == 2:
                    kind = _text(text)
        elif number == 2:
            raw = _bytes(value)
        elif number == 3 and value:
            raise BadRequest("an encoded protobuf body is not supported")
    if not api_version or not kind:
        raise _Malformed("the envelope names no apiVersion and kind")
    return api_version, kind, raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7
        if shift > 63:
            break
    raise _Malformed("a number is cut off or too long")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value): numbers as unsigned integers (fixed ones as their bytes), everything else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {wire}")
        if at + length > len(data):
            raise _Malformed("a field is cut off")
        yield number, data[at : at + length]
        at += length


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _Malformed("a number where a message or text belongs")
    return value


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise _Malformed("text that is not UTF-8") from None


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise _Malformed("a message or text where a number belongs")
    return value - 2**64 if value >= 2**63 else value


def _float(value: int | bytes) -> float:
    raw = _bytes(value)
    if len(raw) != 8:
        raise _Malformed("a floating point number of the wrong size")
    return float(struct.unpack("<d", raw)[0])


def _sub(value: int | bytes) -> dict[int, int | bytes]:
    return dict(_fields(_bytes(value)))


def _moment(value: int | bytes) -> datetime | None:
    """Timestamp {1 seconds, 2 nanos}; an empty message is the zero time."""
    parts = _sub(value)
    if not parts:
        return None
    try:
        start = datetime(1970, 1, 1, tzinfo=UTC)
        return start + timedelta(seconds=_number(parts.get(1, 0)), microseconds=_number(parts.get(2, 0)) // 1000)
    except OverflowError:
        raise _Malformed("a time out of range") from None


def _time(value: int | bytes) -> str | None:
    moment = _moment(value)
    return rfc3339(moment) if moment else None


def _micro_time(value: int | bytes) -> str | None:
    moment = _moment(value)
    return rfc3339_micro(moment) if moment else None


def _int_or_string(value: int | bytes) -> int | str:
    parts = _sub(value)
    return _text(parts.get(3, b"")) if parts.get(1, 0) == 1 else _number(parts.get(2, 0))


def _raw(value: int | bytes) -> Any:
    text = _bytes(_sub(value).get(1, b""))
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        raise _Malformed("embedded JSON cannot be parsed") from None


_READ: dict[str, Callable[[int | bytes], Any]] = {
    "str": _text,
    "bool": lambda v: bool(_number(v)),
    "int32": _number,
    "int64": _number,
    "float64": _float,
    "Bytes": lambda v: base64.b64encode(_bytes(v)).decode(),
    "Time": _time,
    "MicroTime": _micro_time,
    "Quantity": lambda v: _text(_sub(v).get(1, b"")) or None,
    "IntOrString": _int_or_string,
    "Raw": _raw,
}
_PLAIN = frozenset(("str", "bool", "int32", "int64", "float64", "Bytes"))
"""Types whose zero value is sent even when the field is not set."""


_numbered: dict[type[Model], dict[int, Field]] = {}


def _by_number(model: type[Model]) -> dict[int, Field]:
    known = _numbered.get(model)
    if known is None:
        known = _numbered[model] = {f.number: f for f in model.own_fields() if f.number}
    return known


def _message(model: type[Model], data: bytes, depth: int) -> Object:
    if depth > _DEPTH:
        raise _Malformed("nested too deeply")
    known = _by_number(model)
    out: Object = {}
    for number, value in _fields(data):
        f = known.get(number)
        if f is None:
            continue
        if f.inline:
            assert f.model is not None
            out.update(_message(f.model, _bytes(value), depth + 1))
        elif f.container == "list":
            out.setdefault(f.name, []).extend(_items(f, value, depth))
        elif f.container == "map":
            key, item = _entry(f, value, depth)
            out.setdefault(f.name, {})[key] = item
        else:
            item = _value(f, value, depth)
            if item is None or (not item and not f.pointer and f.item in _PLAIN):
                out.pop(f.name, None)
            else:
                out[f.name] = item
    return out


def _value(f: Field, value: int | bytes, depth: int) -> Any:
    if f.model is not None:
        return _message(f.model, _bytes(value), depth + 1)
    return _READ[f.item](value)


def _items(f: Field, value: int | bytes, depth: int) -> list[Any]:
    """One item, or several numbers packed into one field."""
    if f.item in ("int32", "int64") and isinstance(value, bytes):
        out, at = [], 0
        while at < len(value):
            number, at = _varint(value, at)
            out.append(_number(number))
        return out
    return [_value(f, value, depth)]


def _entry(f: Field, value: int | bytes, depth: int) -> tuple[str, Any]:
    """One entry of a map: {1 key, 2 value}; a map of lists has {1: item …} as its values."""
    parts = _sub(value)
    key = _text(parts.get(1, b""))
    if f.nested:
        return key, [_READ[f.item](v) for number, v in _fields(_bytes(parts.get(2, b""))) if number == 1]
    if 2 not in parts:
        return key, {} if f.model is not None else {"str": "", "Bytes": "", "bool": False}.get(f.item, 0)
    item = _value(f, parts[2], depth)
    return key, "0" if item is None and f.item == "Quantity" else item
