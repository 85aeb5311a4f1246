"""Structural schemas of custom resources: unknown fields go, defaults come, the rest is checked. Pure.

Upstream: apiextensions-apiserver/pkg/apiserver/schema (pruning, defaulting), kube-openapi/pkg/validation. Rules in CEL
(x-kubernetes-validations) are not evaluated; whoever creates such a CustomResourceDefinition is warned.
"""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from nsk8s.api.meta import Object, parse_time
from nsk8s.api.scheme import Cause

Schema = Mapping[str, Any]
_OBJECT_FIELDS = ("apiVersion", "kind", "metadata")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float),
}  # fmt: skip


def prune(value: Any, schema: Schema, path: str = "", *, top: bool = False) -> list[str]:
    """Drop, in place, what the schema does not know. The paths of what went."""
    gone: list[str] = []
    if isinstance(value, dict):
        keep = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        embedded = top or bool(schema.get("x-kubernetes-embedded-resource"))
        properties = schema.get("properties") or {}
        additional = schema.get("additionalProperties")
        for key in list(value):
            if embedded and key in _OBJECT_FIELDS:
                continue
            below = f"{path}.{key}" if path else key
            if key in properties:
                gone += prune(value[key], properties[key], below)
            elif isinstance(additional, Mapping):
                gone += prune(value[key], additional, below)
            elif not keep and additional is not True:
                del value[key]
                gone.append(below)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for i, item in enumerate(value):
            gone += prune(item, schema["items"], f"{path}[{i}]")
    return gone


def fill(value: Any, schema: Schema) -> None:
    """Put in defaults, in place; null where that is not allowed counts as absent if there is a default."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for key, sub in properties.items():
            if "default" in sub and (key not in value or (value[key] is None and not sub.get("nullable"))):
                value[key] = copy.deepcopy(sub["default"])
            if key in value:
                fill(value[key], sub)
        additional = schema.get("additionalProperties")
        if isinstance(additional, Mapping):
            for key in value.keys() - properties.keys():
                fill(value[key], additional)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            fill(item, schema["items"])


def check(value: Any, schema: Schema, path: str = "") -> list[Cause]:
    """What is wrong with `value`, in upstream's words."""
    if value is None and schema.get("nullable"):
        return []
    wrong = _check_type(value, schema, path)
    if wrong:
        return wrong
    causes = _check_enum(value, schema, path)
    if isinstance(value, str):
        causes += _check_string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        causes += _check_number(value, schema, path)
    elif isinstance(value, list):
        causes += _check_list(value, schema, path)
    elif isinstance(value, dict):
        causes += _check_object(value, schema, path)
    return causes + _check_combined(value, schema, path)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else "null" if value is None else str(value).lower() \
        if isinstance(value, bool) else str(value)  # fmt: skip


def _named(path: str) -> str:
    return path or "<nil>"


def _invalid(path: str, value: Any, text: str) -> Cause:
    return Cause(_named(path), f"Invalid value: {_shown(value)}: {_named(path)} in body {text}")


def _check_type(value: Any, schema: Schema, path: str) -> list[Cause]:
    if schema.get("x-kubernetes-int-or-string"):
        wanted: tuple[type, ...] = (int, str)
        name = "integer or string"
    else:
        name = schema.get("type") or ""
        wanted = _TYPES.get(name, ())
    if not wanted:
        return []
    fits = isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)
    if name == "integer" and isinstance(value, float) and value.is_integer():
        fits = True
    if fits:
        return []
    got = next((n for n, types in _TYPES.items() if type(value) in types), "null")
    text = f'Invalid value: "{got}": {_named(path)} in body must be of type {name}: "{got}"'
    return [Cause(_named(path), text, "FieldValueTypeInvalid")]


def _check_enum(value: Any, schema: Schema, path: str) -> list[Cause]:
    choices = schema.get("enum")
    if not choices or value in choices:
        return []
    supported = ", ".join(_shown(c) for c in choices)
    return [Cause(_named(path), f"Unsupported value: {_shown(value)}: supported values: {supported}", "FieldValueNotSupported")]


def _check_string(value: str, schema: Schema, path: str) -> list[Cause]:
    causes = []
    if schema.get("maxLength") is not None and len(value) > schema["maxLength"]:
        causes.append(Cause(_named(path), f"Too long: may not be more than {schema['maxLength']} bytes", "FieldValueTooLong"))
    if schema.get("minLength") is not None and len(value) < schema["minLength"]:
        causes.append(_invalid(path, value, f"should be at least {schema['minLength']} chars long"))
    pattern = schema.get("pattern")
    if pattern and not _pattern_matches(pattern, value):
        causes.append(_invalid(path, value, f"should match '{pattern}'"))
    if schema.get("format") and not _format_fits(schema["format"], value):
        causes.append(_invalid(path, value, f"must be of type {schema['format']}: {_shown(value)}"))
    return causes


def _pattern_matches(pattern: str, value: str) -> bool:
    """RE2's syntax is close to Python's; a pattern that Python cannot read refuses nothing."""
    try:
        return re.search(pattern.replace(r"\z", r"\Z"), value) is not None
    except re.error:
        return True


def _format_fits(name: str, value: str) -> bool:
    try:
        match name:
            case "ipv4":
                ipaddress.IPv4Address(value)
            case "ipv6":
                ipaddress.IPv6Address(value)
            case "cidr":
                ipaddress.ip_network(value, strict=False)
            case "date-time":
                parse_time(value)
            case "uuid":
                return re.fullmatch(r"(?i)[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", value) is not None
    except ValueError:
        return False
    return True


def _check_number(value: float, schema: Schema, path: str) -> list[Cause]:
    causes = []
    low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if low is not None and (value < low or (value == low and schema.get("exclusiveMinimum"))):
        than = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        causes.append(_invalid(path, value, f"should be {than} {low:g}"))
    if high is not None and (value > high or (value == high and schema.get("exclusiveMaximum"))):
        than = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        causes.append(_invalid(path, value, f"should be {than} {high:g}"))
    if step and value % step:
        causes.append(_invalid(path, value, f"should be a multiple of {step:g}"))
    return causes


def _check_list(value: list[Any], schema: Schema, path: str) -> list[Cause]:
    causes = []
    if schema.get("maxItems") is not None and len(value) > schema["maxItems"]:
        text = f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
        causes.append(Cause(_named(path), text, "FieldValueTooMany"))
    if schema.get("minItems") is not None and len(value) < schema["minItems"]:
        causes.append(_invalid(path, len(value), f"should have at least {schema['minItems']} items"))
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or ()
    if kind in ("set", "map"):
        seen: list[Any] = []
        for i, item in enumerate(value):
            identity = {k: item.get(k) for k in keys} if kind == "map" and isinstance(item, dict) else item
            if identity in seen:
                causes.append(Cause(f"{path}[{i}]", f"Duplicate value: {_shown(identity)}", "FieldValueDuplicate"))
            seen.append(identity)
    items = schema.get("items")
    if isinstance(items, Mapping):
        for i, item in enumerate(value):
            causes += check(item, items, f"{path}[{i}]")
    return causes


def _check_object(value: Object, schema: Schema, path: str) -> list[Cause]:
    causes = []
    for key in schema.get("required") or ():
        if key not in value:
            causes.append(Cause(f"{path}.{key}" if path else key, "Required value", "FieldValueRequired"))
    if schema.get("maxProperties") is not None and len(value) > schema["maxProperties"]:
        causes.append(_invalid(path, len(value), f"should have at most {schema['maxProperties']} properties"))
    if schema.get("minProperties") is not None and len(value) < schema["minProperties"]:
        causes.append(_invalid(path, len(value), f"should have at least {schema['minProperties']} properties"))
    properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, child in value.items():
        below = f"{path}.{key}" if path else key
        if key in properties:
            causes += check(child, properties[key], below)
        elif isinstance(additional, Mapping):
            causes += check(child, additional, below)
    return causes


def _check_combined(value: Any, schema: Schema, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for sub in schema.get("allOf") or ():
        causes += check(value, sub, path)
    if schema.get("anyOf") and all(check(value, s, path) for s in schema["anyOf"]):
        causes.append(_invalid(path, "", "must validate at least one schema (anyOf)"))
    if schema.get("oneOf") and sum(not check(value, s, path) for s in schema["oneOf"]) != 1:
        causes.append(_invalid(path, "", "must validate one and only one schema (oneOf)"))
    if schema.get("not") is not None and not check(value, schema["not"], path):
        causes.append(_invalid(path, "", "must not validate the schema (not)"))
    return causes


def uses_rules(schema: Any) -> bool:
    """Does any part of a schema carry x-kubernetes-validations?"""
    if isinstance(schema, Mapping):
        return bool(schema.get("x-kubernetes-validations")) or any(uses_rules(v) for v in schema.values())
    return isinstance(schema, list) and any(uses_rules(v) for v in schema)
