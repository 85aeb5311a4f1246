"""How the parts of an object merge under server-side apply: granular or atomic, lists by key or as sets. Pure.

One view of two sources: the models (built-in kinds) and a CustomResourceDefinition's schema. Where neither says anything,
maps are granular and lists atomic. Upstream: structured-merge-diff/schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsk8s.api.models.base import Field, Model
from nsk8s.api.scheme import Kind


class Shape:
    """`atomic`: owned as a whole. `keys`: what identifies the items of a list ((): none). `is_set`: a list of unique values."""

    atomic = False
    keys: tuple[str, ...] = ()
    is_set = False

    def child(self, key: str) -> Shape:
        """The shape of a field or of a map's value."""
        return DEDUCED

    def declares(self, key: str) -> bool:
        """Is `key` a field of a structure (and not just a key of a map)?"""
        return False

    def item(self) -> Shape:
        """The shape of a list's items."""
        return DEDUCED

    def key_default(self, key: str) -> Any:
        """What an item counts as having where it lacks one of `keys`."""
        return None


class _Deduced(Shape):
    """Nothing is known."""


DEDUCED = _Deduced()


class _Whole(Shape):
    atomic = True


ATOMIC = _Whole()


class _Struct(Shape):
    """An object with a model."""

    def __init__(self, model: type[Model]) -> None:
        self._model = model
        self.atomic = model.atomic

    def child(self, key: str) -> Shape:
        f = self._model.fields().get(key)
        return _of_field(f) if f is not None else DEDUCED

    def declares(self, key: str) -> bool:
        return key in self._model.fields()

    def key_default(self, key: str) -> Any:
        f = self._model.fields().get(key)
        return f.default if f is not None else None


class _Map(Shape):
    def __init__(self, value: Shape) -> None:
        self._value = value

    def child(self, key: str) -> Shape:
        return self._value


class _List(Shape):
    def __init__(self, item: Shape, keys: tuple[str, ...], *, is_set: bool) -> None:
        self._item, self.keys, self.is_set = item, keys, is_set

    def item(self) -> Shape:
        return self._item

    def key_default(self, key: str) -> Any:
        return self._item.key_default(key)


def _of_field(f: Field) -> Shape:
    if f.list_type == "atomic" or (f.container == "list" and f.list_type not in ("map", "set")):
        return ATOMIC
    inner: Shape = _Struct(f.model) if f.model is not None else ATOMIC if f.item == "Raw" or f.nested else DEDUCED
    if f.container == "list":
        return _List(inner, f.list_keys, is_set=f.list_type == "set")
    if f.container == "map":
        return _Map(inner)
    return inner


class _Schema(Shape):
    """A part of a CustomResourceDefinition's OpenAPI schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        kind = schema.get("x-kubernetes-list-type")
        if schema.get("type") == "array":
            self.keys = tuple(schema.get("x-kubernetes-list-map-keys") or ()) if kind == "map" else ()
            self.is_set = kind == "set"
            self.atomic = not self.keys and not self.is_set
        else:
            self.atomic = schema.get("x-kubernetes-map-type") == "atomic"

    def child(self, key: str) -> Shape:
        properties = self._schema.get("properties") or {}
        if key in properties:
            return _Schema(properties[key])
        values = self._schema.get("additionalProperties")
        return _Schema(values) if isinstance(values, Mapping) else DEDUCED

    def declares(self, key: str) -> bool:
        return key in (self._schema.get("properties") or {})

    def item(self) -> Shape:
        items = self._schema.get("items")
        return _Schema(items) if isinstance(items, Mapping) else DEDUCED

    def key_default(self, key: str) -> Any:
        items = self._schema.get("items") or {}
        return ((items.get("properties") or {}).get(key) or {}).get("default")


class _Custom(_Schema):
    """A whole custom resource: its metadata has a model."""

    def child(self, key: str) -> Shape:
        from nsk8s.api.models.meta import ObjectMeta

        return _Struct(ObjectMeta) if key == "metadata" else super().child(key)

    def declares(self, key: str) -> bool:
        return key in ("apiVersion", "kind", "metadata") or super().declares(key)


def shape_of(kind: Kind) -> Shape:
    """The shape of objects of this kind."""
    return _Struct(kind.model) if kind.model is not None else _Custom(kind.schema or {})
