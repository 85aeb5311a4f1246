"""How a model is declared: a class body with one `field` a line, read once and on first use. Pure.

    class ContainerPort(Model):
        name: str = field(1)
        containerPort: int32 = field(3, required=True)
        ports: list[ContainerPort] = field(6, merge_key="containerPort", list_type="map", list_keys=("containerPort",))

One declaration serves decoding, OpenAPI, strategic merge, server-side apply and protobuf (the number is the field's in
upstream's generated.proto). Objects stay dictionaries: a model is never instantiated.

`X | None` is a pointer in upstream's Go type: its zero value differs from absence, so it is kept. Other optional fields
are `omitempty`: their zero value is the same as absence, and decoding drops it, as a round trip through Go does.

Why not pydantic: the same 370 classes as pydantic models with defer_build took 120 ms and 8 MB to import (this: 25 ms, 3 MB),
the first Pod another 40 ms and 4 MB, and what they produce would have to be turned back into dictionaries.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

int32: TypeAlias = int
int64: TypeAlias = int
float64: TypeAlias = float
Bytes: TypeAlias = str
"""base64 text."""
Time: TypeAlias = str
MicroTime: TypeAlias = str
Quantity: TypeAlias = str
IntOrString: TypeAlias = int | str
Raw: TypeAlias = Any
"""Any JSON: RawExtension, FieldsV1, JSONSchema's default and enum."""

SCALARS = frozenset(("str", "bool", "int32", "int64", "float64", "Bytes", "Time", "MicroTime", "Quantity",
                     "IntOrString", "Raw"))  # fmt: skip


@dataclass(slots=True)
class Field:
    """One field of a model. `container` is "", "list" or "map"; `item` is a name from SCALARS or "" when `model` says it."""

    number: int
    doc: str = ""
    required: bool = False
    merge_key: str = ""
    patch_strategy: str = ""
    list_type: str = ""
    list_keys: tuple[str, ...] = ()
    default: Any = None
    enum: tuple[str, ...] = ()
    inline: bool = False
    name: str = ""
    container: str = ""
    item: str = ""
    model: type[Model] | None = None
    pointer: bool = False
    nested: bool = False
    """A map of lists (`extra` of a user): the item is itself a list."""

    @property
    def strategies(self) -> tuple[str, ...]:
        """merge, replace, retainKeys: as in x-kubernetes-patch-strategy."""
        if self.patch_strategy:
            return tuple(self.patch_strategy.split(","))
        return ("merge",) if self.merge_key else ()


def field(number: int, doc: str = "", **options: Any) -> Any:
    """A field: protobuf number, description, and any of Field's options (required, merge_key, list_type …)."""
    return Field(number, doc, **options)


class Model:
    """The base of all models; `fields()` and `own_fields()` are what readers use."""

    _fields: ClassVar[dict[str, Field] | None] = None
    _own: ClassVar[list[Field] | None] = None
    atomic: ClassVar[bool] = False
    """Server-side apply owns such a structure as a whole (x-kubernetes-map-type: atomic)."""

    def __init_subclass__(cls, *, atomic: bool = False) -> None:
        cls.atomic = atomic

    @classmethod
    def own_fields(cls) -> list[Field]:
        """The fields as declared, inlined structures still whole (as protobuf has them)."""
        own = cls.__dict__.get("_own")
        if own is None:
            own = []
            scope = vars(sys.modules[cls.__module__])
            for attribute, annotation in inspect.get_annotations(cls).items():
                declared = cls.__dict__.get(attribute)
                if isinstance(declared, Field):
                    declared.name = declared.name or attribute
                    _read_annotation(declared, annotation, scope)
                    own.append(declared)
            cls._own = own
        return own

    @classmethod
    def fields(cls) -> Mapping[str, Field]:
        """JSON name → field, inlined structures spread out (as JSON has them)."""
        spread = cls.__dict__.get("_fields")
        if spread is None:
            spread = {}
            for f in cls.own_fields():
                if f.inline:
                    assert f.model is not None
                    spread.update(f.model.fields())
                else:
                    spread[f.name] = f
            cls._fields = spread
        return spread


_ANNOTATION = re.compile(r"(?:(list|dict)\[(?:str, )?)?(list\[)?(\w+)\]*( \| None)?")


def _read_annotation(f: Field, annotation: str, scope: Mapping[str, Any]) -> None:
    found = _ANNOTATION.fullmatch(annotation)
    if not found:
        raise TypeError(f"cannot read the annotation {annotation!r} of {f.name}")
    container, nested, item, optional = found.groups()
    f.container = {"list": "list", "dict": "map", None: ""}[container]
    f.nested = bool(nested)
    f.pointer = bool(optional)
    if item in SCALARS:
        f.item = item
    else:
        f.model = scope[item]
