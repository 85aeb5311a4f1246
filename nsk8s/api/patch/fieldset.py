"""Sets of fields: which paths an object has, how they are written in managedFields, what differs between two objects. Pure.

A path is a tuple of elements in FieldsV1's own spelling: `f:name` (a field), `k:{"name":"a"}` (an item of a list by its
keys), `v:"x"` (an item of a set). Upstream: structured-merge-diff/fieldpath and /typed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nsk8s.api.patch.shape import Shape

Path = tuple[str, ...]
FieldSet = frozenset[Path]
_MISSING = object()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def element_of(shape: Shape, item: Any) -> str:
    """The path element of a list's item; raises ValueError if it lacks all keys."""
    if shape.is_set:
        return f"v:{_json(item)}"
    if not isinstance(item, dict):
        raise ValueError("an associative list's item must be an object")
    keys = {k: item.get(k, shape.key_default(k)) for k in shape.keys}
    keys = {k: v for k, v in keys.items() if v is not None}
    if not keys:
        raise ValueError(f"associative list with keys has an element that omits key field {_json(shape.keys[0])}")
    return f"k:{_json(keys)}"


def _items(shape: Shape, values: list[Any]) -> dict[str, Any]:
    """Path element → item; of duplicates the first counts."""
    out: dict[str, Any] = {}
    for value in values:
        try:
            out.setdefault(element_of(shape, value), value)
        except ValueError:
            continue
    return out


def _is_leaf(shape: Shape, value: Any) -> bool:
    if shape.atomic:
        return True
    if isinstance(value, list):
        return not (shape.keys or shape.is_set)
    return not isinstance(value, dict)


def fields_of(value: Any, shape: Shape) -> FieldSet:
    """The set of fields that a configuration mentions, all of which its applier will own."""
    out: set[Path] = set()
    _collect(value, shape, (), out)
    return frozenset(out)


def _collect(value: Any, shape: Shape, path: Path, out: set[Path]) -> None:
    if _is_leaf(shape, value):
        out.add(path)
    elif isinstance(value, list):
        for element, item in _items(shape, value).items():
            below = (*path, element)
            out.add(below)
            if not shape.is_set:
                _collect(item, shape.item(), below, out)
    else:
        for key, child in value.items():
            below = (*path, f"f:{key}")
            if child is None or child == {} or not shape.declares(key):
                out.add(below)
            if child is not None:
                _collect(child, shape.child(key), below, out)


@dataclass
class Difference:
    """Fields that are only in the new object, only in the old one, or in both with different values."""

    added: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)

    @property
    def written(self) -> FieldSet:
        return frozenset(self.added | self.modified)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.modified)


def compare(old: Any, new: Any, shape: Shape) -> Difference:
    out = Difference()
    _compare(old, new, shape, (), out)
    return out


def _compare(old: Any, new: Any, shape: Shape, path: Path, out: Difference) -> None:
    if old is _MISSING or new is _MISSING:
        target = out.added if old is _MISSING else out.removed
        value = new if old is _MISSING else old
        if path:
            target.add(path)
        _collect(value, shape, path, target)
        return
    if old == new and type(old) is type(new):
        return
    if type(old) is not type(new) or _is_leaf(shape, new):
        out.modified.add(path)
    elif isinstance(new, list):
        before, after = _items(shape, old), _items(shape, new)
        for element in {**before, **after}:
            _compare(before.get(element, _MISSING), after.get(element, _MISSING), shape.item(), (*path, element), out)
    else:
        for key in {**old, **new}:
            _compare(old.get(key, _MISSING), new.get(key, _MISSING), shape.child(key), (*path, f"f:{key}"), out)


def to_fields_v1(fields: Iterable[Path]) -> dict[str, Any]:
    """FieldsV1: nested objects, `.` where a path that has others below it is itself in the set."""
    root: dict[str, Any] = {}
    members = set(fields)
    for path in sorted(members):
        node = root
        for element in path:
            node = node.setdefault(element, {})
    for path in members:
        node = root
        for element in path:
            node = node[element]
        if node:
            node["."] = {}
    return root


def from_fields_v1(fields: Mapping[str, Any] | None) -> FieldSet:
    """The set that FieldsV1 stands for; what is no element of a path is ignored."""
    return frozenset(_leaves(fields or {}, ()))


def _leaves(node: Mapping[str, Any], path: Path) -> Iterator[Path]:
    for element, below in node.items():
        if element == ".":
            yield path
        elif element[:2] in ("f:", "k:", "v:", "i:"):
            here = (*path, element)
            if isinstance(below, Mapping) and below:
                yield from _leaves(below, here)
            else:
                yield here


def shown(path: Path) -> str:
    """`.spec.template.spec.containers[name="a"].image`, as conflicts name it."""
    out = []
    for element in path:
        tag, _, text = element.partition(":")
        if tag == "f":
            out.append(f".{text}")
        elif tag == "k":
            out.append("[" + ",".join(f"{k}={_json(v)}" for k, v in json.loads(text).items()) + "]")
        elif tag == "v":
            out.append(f"[={text}]")
        else:
            out.append(f"[{text}]")
    return "".join(out)


def without(value: Any, shape: Shape, doomed: set[Path], path: Path = (), keys: tuple[str, ...] = ()) -> Any:
    """`value` (changed in place) without the fields and items at the paths in `doomed`; an item that stays keeps the
    fields (`keys`) it is known by."""
    if _is_leaf(shape, value):
        return value
    if isinstance(value, list):
        kept = []
        for item in value:
            try:
                below = (*path, element_of(shape, item))
            except ValueError:
                kept.append(item)
                continue
            if below not in doomed:
                kept.append(item if shape.is_set else without(item, shape.item(), doomed, below, shape.keys))
        return kept
    for key in list(value):
        below = (*path, f"f:{key}")
        if key in keys:
            continue
        if below in doomed:
            del value[key]
        else:
            value[key] = without(value[key], shape.child(key), doomed, below)
    return value


def merged(old: Any, new: Any, shape: Shape) -> Any:
    """`old` with `new` laid over it: what `new` says counts, what it is silent about stays."""
    if new is None:
        return None
    if _is_leaf(shape, new) or type(old) is not type(new):
        return new
    if isinstance(new, list):
        return _merged_lists(old, new, shape)
    out = dict(old)
    for key, value in new.items():
        out[key] = merged(old[key], value, shape.child(key)) if key in old else value
    return out


def _merged_lists(old: list[Any], new: list[Any], shape: Shape) -> list[Any]:
    """Items in the order of `new`; those only in `old` keep their place before what followed them."""
    before, after = _items(shape, old), _items(shape, new)
    left, right = list(before), list(after)
    out: list[Any] = []
    done: set[str] = set()
    while left or right:
        if left and (left[0] in done or left[0] not in after):
            element = left.pop(0)
            if element not in done:
                out.append(before[element])
            continue
        element = right.pop(0)
        done.add(element)
        inner = element in before and not shape.is_set
        out.append(merged(before[element], after[element], shape.item()) if inner else after[element])
    return out
