"""JSON from a client → an object of its kind: types checked, unknown and null fields dropped and named. Pure.

Upstream: apimachinery's strict JSON serializer (sigs.k8s.io/json) and what a round trip through Go's types does to an object:
zero values of `omitempty` fields vanish, quantities and times come out canonical.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from nsk8s.api.meta import Object, rfc3339, rfc3339_micro
from nsk8s.api.models.base import Field, Model
from nsk8s.api.quantity import canonical
from nsk8s.api.scheme import Kind
from nsk8s.errors import BadRequest

_INT_RANGE = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
_BLANKS = b" \t\r\n"
_GO_NAMES = {"str": "string", "bool": "bool", "int32": "int32", "int64": "int64", "float64": "float64",
             "Bytes": "[]uint8", "Time": "v1.Time", "MicroTime": "v1.MicroTime", "Quantity": "resource.Quantity",
             "IntOrString": "intstr.IntOrString", "Raw": "runtime.RawExtension"}  # fmt: skip


class _TypeMismatch(Exception):
    """A value that does not fit its field; the text is Go's."""


class _Decoder:
    """One walk over one object; collects the paths of unknown fields."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def struct(self, model: type[Model], data: dict[str, Any], path: str, go: str) -> None:
        """Check and clean `data` in place. `path` has list indexes (for messages), `go` has none (Go's spelling)."""
        fields = model.fields()
        dropped = []
        for key, value in data.items():
            f = fields.get(key)
            if f is None:
                self.unknown.append(f"{path}.{key}" if path else str(key))
                dropped.append(key)
                continue
            if value is None:
                dropped.append(key)
                continue
            item = f.item
            if item and not f.container:
                value = self.scalar(model, f, value, go)
                data[key] = value
            else:
                value = self.composite(model, f, value, f"{path}.{key}" if path else key, f"{go}.{key}" if go else key)
                data[key] = value
            if not value and not f.pointer and not f.required and not (f.model and not f.container) \
                    and item not in ("IntOrString", "Raw"):
                dropped.append(key)
        for key in dropped:
            del data[key]

    def composite(self, model: type[Model], f: Field, value: Any, path: str, go: str) -> Any:
        if f.container == "list":
            if type(value) is not list:
                raise _mismatch(value, model, go, f"[]{_go_type(f)}")
            if f.model is not None:
                value[:] = [{} if item is None else item for item in value]
                for i, item in enumerate(value):
                    self.item(model, f, item, f"{path}[{i}]", go)
                return value
            return [_zero(f.item) if v is None else self.scalar(model, f, v, go.rpartition(".")[0]) for v in value]
        if type(value) is not dict:
            expected = f"map[string]{'[]' * f.nested}{_go_type(f)}" if f.container else _go_type(f)
            raise _mismatch(value, model, go, expected)
        if f.container == "map":
            return {str(k): self.map_value(model, f, v, f"{path}.{k}", go) for k, v in value.items()}
        assert f.model is not None
        self.struct(f.model, value, path, go)
        return value

    def item(self, model: type[Model], f: Field, item: Any, path: str, go: str) -> None:
        assert f.model is not None
        if type(item) is not dict:
            raise _mismatch(item, model, go, _go_type(f))
        self.struct(f.model, item, path, go)

    def map_value(self, model: type[Model], f: Field, value: Any, path: str, go: str) -> Any:
        if f.nested:
            if value is not None and type(value) is not list:
                raise _mismatch(value, model, go, f"[]{_go_type(f)}")
            return [self.scalar(model, f, v, go.rpartition(".")[0]) for v in value or []]
        if f.model is not None:
            value = {} if value is None else value
            self.item(model, f, value, path, go)
            return value
        if value is None:
            return _zero(f.item)
        return self.scalar(model, f, value, go.rpartition(".")[0])

    def scalar(self, model: type[Model], f: Field, value: Any, go: str) -> Any:
        """The canonical form of a scalar of `f`; `go` is the path of the structure that holds it."""
        item = f.item
        kind = type(value)
        if item == "str" and kind is str:
            return value
        if item == "bool" and kind is bool:
            return value
        bounds = _INT_RANGE.get(item)
        if bounds and (kind is int or (kind is float and value.is_integer())):
            if bounds[0] <= value <= bounds[1]:
                return int(value)
        elif item in _READERS:
            return _READERS[item](value, lambda: _mismatch(value, model, _join(go, f.name), _GO_NAMES[item]))
        raise _mismatch(value, model, _join(go, f.name), _GO_NAMES[item])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _zero(item: str) -> Any:
    return {"str": "", "bool": False, "Bytes": "", "Quantity": "0"}.get(item, 0 if item in _INT_RANGE else None)


def _go_type(f: Field) -> str:
    return f"v1.{f.model.__name__}" if f.model else _GO_NAMES[f.item]


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value}" if isinstance(value, float) or abs(value) > 2**31 else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _mismatch(value: Any, model: type[Model], go: str, expected: str) -> _TypeMismatch:
    return _TypeMismatch(
        f"json: cannot unmarshal {_json_type(value)} into Go struct field {model.__name__}.{go} of type {expected}"
    )


Fail = Callable[[], _TypeMismatch]


def _quantity(value: Any, fail: Fail) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise fail()
    try:
        return canonical(value)
    except ValueError as e:
        raise _TypeMismatch(str(e)) from None


def _int_or_string(value: Any, fail: Fail) -> int | str:
    if isinstance(value, str):
        return value
    if type(value) is int and -(2**31) <= value < 2**31:
        return value
    raise fail()


_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _parse_time(value: Any, layout: str) -> datetime:
    if isinstance(value, str) and (found := _TIME.fullmatch(value)):
        fraction = (found.group(1) or "")[:7]
        try:
            return datetime.fromisoformat(value[:19] + fraction.ljust(7, "0") * bool(fraction) + (
                "+00:00" if found.group(2) in "Zz" else found.group(2))).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise _TypeMismatch(f'parsing time {_quoted(value)} as "{layout}": cannot parse {_quoted(value)} as "2006"')


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _time(value: Any, fail: Fail) -> str:
    return rfc3339(_parse_time(value, "2006-01-02T15:04:05Z07:00"))


def _micro_time(value: Any, fail: Fail) -> str:
    return rfc3339_micro(_parse_time(value, "2006-01-02T15:04:05.000000Z07:00"))


def _bytes(value: Any, fail: Fail) -> str:
    if not isinstance(value, str):
        raise fail()
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        bad = next((i for i, c in enumerate(value) if not re.match("[A-Za-z0-9+/=]", c)), len(value) // 4 * 4)
        raise _TypeMismatch(f"illegal base64 data at input byte {bad}") from None
    return value


def _float(value: Any, fail: Fail) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fail()
    return value


_READERS: dict[str, Callable[[Any, Fail], Any]] = {
    "Quantity": _quantity,
    "IntOrString": _int_or_string,
    "Time": _time,
    "MicroTime": _micro_time,
    "Bytes": _bytes,
    "float64": _float,
    "Raw": lambda value, fail: value,
}


def decode(kind: Kind, data: Any) -> tuple[Object, list[str]]:
    """(object, paths of fields the kind does not have). `data` is changed in place and returned.

    Raises BadRequest, in upstream's words, if a value has the wrong type. For kinds without a model (custom resources)
    only metadata is checked: their schema is applied elsewhere.
    """
    decoder = _Decoder()
    if not isinstance(data, dict):
        raise BadRequest(f"couldn't get version/kind; json parse error: json: cannot unmarshal {_json_type(data)} "
                         "into Go value of type struct { APIVersion string; Kind string }")  # fmt: skip
    try:
        if kind.model is not None:
            decoder.struct(kind.model, data, "", "")
        else:
            _decode_metadata(decoder, data)
    except _TypeMismatch as e:
        raise BadRequest(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {e}'
        ) from None
    except RecursionError:
        raise BadRequest("the object is nested too deeply") from None
    data.setdefault("metadata", {})
    return data, decoder.unknown


def _decode_metadata(decoder: _Decoder, data: Object) -> None:
    from nsk8s.api.models.meta import ObjectMeta

    metadata = data.get("metadata")
    if metadata is None:
        data["metadata"] = {}
    elif not isinstance(metadata, dict):
        raise _mismatch(metadata, ObjectMeta, "metadata", "v1.ObjectMeta")
    else:
        decoder.struct(ObjectMeta, metadata, "metadata", "metadata")


def duplicate_fields(raw: bytes | str) -> list[str]:
    """The paths of the keys that a JSON text has more than once in one object; [] for what is no JSON."""
    if _names_are_unique(raw):
        return []
    twice: dict[int, list[str]] = {}
    kept: list[dict[str, Any]] = []  # an object that a later duplicate replaces must keep its identity until the walk

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            keys = [key for key, _ in items]
            twice[id(out)] = [key for key in out if keys.count(key) > 1]
            kept.append(out)
        return out

    try:
        data = json.loads(raw, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return []
    found: list[str] = []
    if twice:
        _walk_duplicates(data, "", twice, found)
    return found


def _names_are_unique(raw: bytes | str) -> bool:
    """Whether a look at the text is enough: parsed and written again, which merges equal names, it has as many names.

    False only means that a closer look is needed (which costs five times as much).
    """
    text = raw.encode() if isinstance(raw, str) else raw
    if b"\\u" in text:
        return False  # an escaped quotation mark would be counted after, and not before
    try:
        again = orjson.dumps(orjson.loads(text))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        return False
    return text.translate(None, _BLANKS).count(b'":') == again.translate(None, _BLANKS).count(b'":')


def _walk_duplicates(value: Any, path: str, twice: dict[int, list[str]], found: list[str]) -> None:
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        found.extend(f"{prefix}{key}" for key in twice.get(id(value), ()))
        for key, child in value.items():
            _walk_duplicates(child, f"{prefix}{key}", twice, found)
    elif isinstance(value, list):
        for i, child in enumerate(value):
            _walk_duplicates(child, f"{path}[{i}]", twice, found)


def strict_error(kind: Kind, unknown: Sequence[str], duplicate: Sequence[str] = ()) -> BadRequest:
    """What fieldValidation=Strict answers."""
    return BadRequest(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: strict decoding error: '
        + ", ".join(field_warnings(unknown, duplicate))
    )


def field_warnings(unknown: Sequence[str], duplicate: Sequence[str] = ()) -> list[str]:
    """What fieldValidation=Warn puts in Warning headers, one text each."""
    return [f'duplicate field "{p}"' for p in duplicate] + [f'unknown field "{p}"' for p in unknown]
