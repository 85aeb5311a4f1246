"""Strategic merge patch: lists merge by key, and `$` directives. Pure. Upstream: apimachinery/pkg/util/strategicpatch.

Which lists merge, and by what key, comes from the models. A model of None stands for a part without one (a map of
strings, raw JSON): there, maps merge and lists are replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nsk8s.api.meta import copied
from nsk8s.api.models.base import Field, Model
from nsk8s.errors import BadRequest

_PATCH = "$patch"
_RETAIN_KEYS = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE_FROM = "$deleteFromPrimitiveList/"

ModelOf = type[Model] | None


def strategic_merge_patch(obj: Any, patch: dict[str, Any], model: ModelOf) -> Any:
    """`obj` (may be changed) after the patch; raises BadRequest for a patch whose directives make no sense."""
    if not isinstance(obj, dict):
        obj = {}
    try:
        return _merge_map(obj, copied(patch), model)
    except RecursionError:
        raise BadRequest("the patch is nested too deeply") from None


def _field(model: ModelOf, key: str) -> Field | None:
    return model.fields().get(key) if model is not None else None


def _below(field: Field | None) -> ModelOf:
    """The model of what a field holds (of one item, for lists); a map's keys are no fields."""
    return field.model if field is not None and field.container != "map" else None


def _merge_map(have: dict[str, Any], patch: dict[str, Any], model: ModelOf) -> dict[str, Any]:
    if _PATCH in patch:
        return _directive(patch.pop(_PATCH), patch, have, model)
    _retain_keys(have, patch)
    _set_orders(have, patch, model)
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            _delete_from(have, key.removeprefix(_DELETE_FROM), value)
            continue
        if value is None:
            have.pop(key, None)
            continue
        field = _field(model, key)
        old = have.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if field is not None and "replace" in field.strategies:
                have[key] = _bare(value)
            else:
                have[key] = _merge_map(old, value, _below(field))
        elif isinstance(old, list) and isinstance(value, list):
            have[key] = _merge_list(old, value, field)
        else:
            have[key] = _bare(value)
    return have


def _directive(directive: Any, patch: dict[str, Any], have: dict[str, Any], model: ModelOf) -> dict[str, Any]:
    match directive:
        case "replace":
            bare: dict[str, Any] = _bare(patch)
            return bare
        case "delete":
            return {}
        case "merge":
            return _merge_map(have, patch, model)
    raise BadRequest(f"unknown patch type: {directive!r}")


def _bare(value: Any) -> Any:
    """A new value without directives and nulls (which have nothing to act on)."""
    if isinstance(value, dict):
        if value.get(_PATCH) == "delete":
            return {}
        return {k: _bare(v) for k, v in value.items() if v is not None and not k.startswith("$")}
    if isinstance(value, list):
        return [
            _bare(v) for v in value
            if not (isinstance(v, dict) and (v.get(_PATCH) == "delete" or set(v) == {_PATCH}))
        ]  # fmt: skip
    return value


def _retain_keys(have: dict[str, Any], patch: dict[str, Any]) -> None:
    """`$retainKeys` names the only keys that may be left (unions: a Deployment's strategy, a volume's source)."""
    if _RETAIN_KEYS not in patch:
        return
    keep = patch.pop(_RETAIN_KEYS)
    if not isinstance(keep, list):
        raise BadRequest("invalid patch format of $retainKeys: it must be a list of keys")
    for key, value in patch.items():
        if value is not None and not key.startswith((_DELETE_FROM, _ORDER)) and key not in keep:
            raise BadRequest(f"invalid patch format of $retainKeys: {key!r} is in the patch, but not among the keys kept")
    for key in [k for k in have if k not in keep]:
        del have[key]


def _delete_from(have: dict[str, Any], key: str, values: Any) -> None:
    if not isinstance(values, list):
        raise BadRequest(f"invalid patch format of {_DELETE_FROM}{key}: it must be a list")
    if isinstance(have.get(key), list):
        have[key] = [v for v in have[key] if v not in values]


def _set_orders(have: dict[str, Any], patch: dict[str, Any], model: ModelOf) -> None:
    """Merge each list that has a `$setElementOrder/`, and put it into that order; takes both out of the patch."""
    for directive in [k for k in patch if k.startswith(_ORDER)]:
        order = patch.pop(directive)
        key = directive.removeprefix(_ORDER)
        wanted, old = patch.get(key), have.get(key)
        if not isinstance(order, list) or not isinstance(wanted, list | None) or not isinstance(old, list | None):
            raise BadRequest(f"invalid patch format of {directive}: it must be a list, and so must {key}")
        field = _field(model, key)
        merge_key = field.merge_key if field is not None else ""
        identity = _identity(merge_key)
        _check_order(directive, order, wanted or [], identity)
        deleted = f"{_DELETE_FROM}{key}"
        if deleted in patch:
            _delete_from(have, key, patch.pop(deleted))
            old = have.get(key)
        if old is None and wanted is None:
            patch.pop(key, None)
            continue
        if wanted is None:
            # An explicit null deletes; absence leaves what is there, to be ordered.
            if key in patch:
                continue
            merged = list(old or [])
        elif old is None:
            merged = _bare(wanted)
        else:
            merged = _merge_list(list(old), wanted, field)
        patch.pop(key, None)
        have[key] = _ordered(merged, order, old or [], identity)


def _identity(merge_key: str) -> Callable[[Any], Any]:
    """What tells the items of a list apart."""
    if not merge_key:
        return lambda item: item
    return lambda item: item.get(merge_key) if isinstance(item, dict) else item


def _check_order(directive: str, order: list[Any], wanted: list[Any], identity: Callable[[Any], Any]) -> None:
    """Every item of the patch must be in the order, and in the same sequence."""
    positions = [identity(o) for o in order]
    at = 0
    for item in wanted:
        if isinstance(item, dict) and _PATCH in item:
            continue
        while at < len(positions) and positions[at] != identity(item):
            at += 1
        if at == len(positions):
            raise BadRequest(f"the order in patch list doesn't match {directive} list: {order}")


def _ordered(merged: list[Any], order: list[Any], server: list[Any], identity: Callable[[Any], Any]) -> list[Any]:
    """Items that the order names stand in that order; the others keep their place among them as the server had it."""
    keys = [identity(o) for o in order]
    before = [identity(s) for s in server]

    def position(keys: list[Any], item: Any) -> int:
        key = identity(item)
        return keys.index(key) if key in keys else -1

    named = sorted((m for m in merged if identity(m) in keys), key=lambda m: position(keys, m))
    others = sorted((m for m in merged if identity(m) not in keys), key=lambda m: position(before, m))
    out: list[Any] = []
    while named and others:
        theirs, ours = position(before, others[0]), position(before, named[0])
        out.append(others.pop(0) if 0 <= theirs < ours else named.pop(0))
    return out + named + others


def _merge_list(have: list[Any], patch: list[Any], field: Field | None) -> list[Any]:
    if field is None or "merge" not in field.strategies:
        return list(_bare(patch))
    if any(isinstance(item, dict) for item in (*have, *patch)):
        return _merge_objects(have, patch, field)
    both: list[Any] = []
    for value in (*have, *patch):
        if value not in both:
            both.append(value)
    return _ordered(both, patch, have, _identity(""))


def _merge_objects(have: list[Any], patch: list[Any], field: Field) -> list[Any]:
    key = field.merge_key
    if not key:
        raise BadRequest(f"cannot merge lists without merge key for {field.name}")
    old = list(have)
    items: list[dict[str, Any]] = []
    replace = False
    for item in patch:
        if not isinstance(item, dict):
            raise BadRequest(f"invalid item in the patch of {field.name}: an object is needed")
        match item.get(_PATCH):
            case None:
                items.append(item)
            case "delete":
                _need_key(item, key)
                old = [o for o in old if not (isinstance(o, dict) and o.get(key) == item[key])]
            case "replace":
                replace = True
            case "merge":
                raise BadRequest("merging lists cannot yet be specified in the patch")
            case other:
                raise BadRequest(f"unknown patch type: {other!r}")
    if replace:
        return list(_bare(items))
    merged = list(old)
    for item in items:
        _need_key(item, key)
        at = next((i for i, o in enumerate(merged) if isinstance(o, dict) and o.get(key) == item[key]), None)
        if at is None:
            merged.append(_bare(item))
        else:
            merged[at] = _merge_map(merged[at], dict(item), field.model)
    return _ordered(merged, items, old, _identity(key))


def _need_key(item: dict[str, Any], key: str) -> None:
    if key not in item:
        raise BadRequest(f"map: {item} does not contain declared merge key: {key}")
