"""The forms in which an object or list goes out: itself, a Table row, its metadata. Pure apart from the time handed in.

Upstream: apiserver/pkg/endpoints/handlers/response.go, rest/table.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Kind
from nsk8s.apiserver.cache import Change
from nsk8s.apiserver.content import OBJECT, TABLE, Accept
from nsk8s.apiserver.registry import as_version
from nsk8s.errors import BadRequest

INCLUDE = ("None", "Metadata", "Object")


def partial(obj: Object, version: str) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}", "metadata": obj["metadata"]}


def _row(kind: Kind, obj: Object, now: datetime, version: str, include: str) -> Object:
    row: Object = {"cells": kind.printer.cells(obj, now)}
    if include == "Metadata":
        row["object"] = partial(obj, version)
    elif include == "Object":
        row["object"] = obj
    return row


def table(
    kind: Kind, objects: Iterable[Object], meta: Mapping[str, Any], version: str, include: str, *, columns: bool = True
) -> Object:
    """A Table; `columns` False leaves the definitions out, as later events of a watch do."""
    now = datetime.now(UTC)
    definitions = [
        {"name": c.name, "type": c.type, "format": c.format, "description": c.description, "priority": c.priority}
        for c in kind.printer.columns
    ]
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": dict(meta),
        "columnDefinitions": definitions if columns else None,
        "rows": [_row(kind, as_version(kind, o), now, version, include) for o in objects],
    }


class Form:
    """One way to write objects of one kind: what a client's Accept header and `includeObject` came to."""

    def __init__(self, kind: Kind, accept: Accept, include: str) -> None:
        if include and include not in INCLUDE:
            raise BadRequest(f'includeObject: Unsupported value: "{include}": supported values: "None", "Metadata", "Object"')
        self.kind = kind
        self.accept = accept
        self.include = include or "Metadata"
        self.key = (kind.group, kind.version, accept.form, accept.version, self.include if accept.form == TABLE else "")

    def one(self, obj: Object) -> Object:
        if self.accept.form == OBJECT:
            return as_version(self.kind, obj)
        if self.accept.form == TABLE:
            meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return table(self.kind, [obj], meta, self.accept.version, self.include)
        return partial(obj, self.accept.version)

    def many(self, objects: list[Object], meta: Mapping[str, Any]) -> Object:
        version = self.accept.version
        if self.accept.form == TABLE:
            return table(self.kind, objects, meta, version, self.include)
        if self.accept.form == OBJECT:
            return {
                "kind": f"{self.kind.kind}List",
                "apiVersion": self.kind.api_version,
                "metadata": meta,
                "items": [as_version(self.kind, o) for o in objects],
            }
        return {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{version}",
            "metadata": meta,
            "items": [partial(o, version) for o in objects],
        }

    def event(self, change: Change, kind: str, *, first: bool = False) -> bytes:
        """A line of a watch; encoded once for all watchers that want this form of this change.

        `kind` is what the change is to the watcher: leaving a selection is a DELETED. `first` puts a Table's columns in.
        """
        key = (kind, self.key, first)
        line = change.encoded.get(key)
        if line is None:
            obj = change.leaving() if kind == "DELETED" else change.obj
            line = change.encoded[key] = self.line(kind, obj, first=first)
        return line

    def line(self, kind: str, obj: Object, *, first: bool = False) -> bytes:
        if self.accept.form == TABLE:
            meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            shown = table(self.kind, [obj], meta, self.accept.version, self.include, columns=first)
        else:
            shown = self.one(obj)
        return b'{"type":"' + kind.encode() + b'","object":' + orjson.dumps(shown) + b"}\n"
