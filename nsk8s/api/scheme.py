"""A kind is data: names, scope, model, strategy, columns. Nothing here knows HTTP or storage. Pure.

The API server builds every handler, discovery document, OpenAPI schema and table from these values, and a
CustomResourceDefinition becomes one more of them at run time. Upstream: apimachinery/pkg/runtime.Scheme, registry/*/strategy.go,
pkg/printers/internalversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nsk8s.api.meta import Object

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Cause:
    """One validation failure, as in Status.details.causes."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


@dataclass(frozen=True)
class Column:
    """One column of a Table. priority 0 is always shown, 1 only with `-o wide`."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""


def _no_rows(obj: Object, now: datetime) -> list[Any]:
    return [obj["metadata"].get("name", "")]


@dataclass(frozen=True)
class Printer:
    """Columns and a pure function from an object to its cells (same order and length as `columns`)."""

    columns: Sequence[Column] = (Column("Name", format="name"),)
    cells: Callable[[Object, datetime], list[Any]] = _no_rows


@dataclass(frozen=True)
class Strategy:
    """What is particular to a kind on its way into the store; all pure, all optional.

    Objects handed in are private copies and may be changed in place.
    """

    default: Callable[[Object], None] | None = None
    """Fill in defaults (after decoding, on create, update and patch)."""
    prepare_create: Callable[[Object], None] | None = None
    """Clear what a client may not set on create (status, generation is handled generically)."""
    prepare_update: Callable[[Object, Object], None] | None = None
    """(new, old): carry over what an update may not touch."""
    prepare_status_update: Callable[[Object, Object], None] | None = None
    """(new, old): beyond the generic rule (only status and metadata of `new` count)."""
    validate: Callable[[Object], list[Cause]] | None = None
    validate_update: Callable[[Object, Object], list[Cause]] | None = None
    """(new, old): immutable fields and the like."""
    graceful: Callable[[Object], int] | None = None
    """Seconds of grace of a delete without gracePeriodSeconds; 0 deletes at once (Pods: the spec's value, 0 if unscheduled)."""
    has_status: bool = True
    """The kind has a /status subresource; writes to the main resource then leave status alone."""
    has_generation: bool = True
    """metadata.generation is 1 on create and +1 whenever anything but metadata and status changes."""


@dataclass(frozen=True)
class Subresource:
    """`pods/log`, `deployments/scale` … : name after the slash, kind in discovery, verbs."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind in one group-version."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    model: Any = None
    """A pydantic model class (nsk8s.api.models.*), or None: then `schema` describes it (CRDs)."""
    schema: Mapping[str, Any] | None = None
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[Subresource, ...] = ()
    strategy: Strategy = field(default_factory=Strategy)
    printer: Printer = field(default_factory=Printer)
    fields: Mapping[str, Callable[[Object], str]] = field(default_factory=dict)
    """Field selectors beyond metadata.name and metadata.namespace: path → value as text."""
    storage_version: str = ""
    """The version kept in the store when a group has several; empty = this one."""
    convert: Callable[[Object, str], Object] | None = None
    """(object, wanted version) → the same object in another version of the group."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """`deployments.apps`, `pods`: the spelling of error messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def singular_name(self) -> str:
        return self.singular or self.kind.lower()


class Scheme:
    """The kinds a server knows; CRDs are added and removed while it runs."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._by_resource: dict[tuple[str, str, str], Kind] = {}
        self._by_kind: dict[tuple[str, str, str], Kind] = {}
        self.generation = 0
        """Goes up with every change, so that discovery and OpenAPI know when to render again."""
        for kind in kinds:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        self._by_resource[kind.group, kind.version, kind.plural] = kind
        self._by_kind[kind.group, kind.version, kind.kind] = kind
        self.generation += 1

    def remove(self, kind: Kind) -> None:
        self._by_resource.pop((kind.group, kind.version, kind.plural), None)
        self._by_kind.pop((kind.group, kind.version, kind.kind), None)
        self.generation += 1

    def resource(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_resource.get((group, version, plural))

    def kind(self, group: str, version: str, kind: str) -> Kind | None:
        return self._by_kind.get((group, version, kind))

    def kinds(self) -> list[Kind]:
        return list(self._by_resource.values())

    def group_versions(self) -> list[tuple[str, str]]:
        """(group, version) pairs in the order the kinds were added, each once."""
        return list(dict.fromkeys((k.group, k.version) for k in self._by_resource.values()))
