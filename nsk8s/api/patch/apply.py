"""Server-side apply and the book of who owns which field (metadata.managedFields). Pure.

Upstream: structured-merge-diff/merge (Updater), apimachinery/pkg/util/managedfields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nsk8s.api.meta import Object, copied, rfc3339
from nsk8s.api.patch.fieldset import (
    FieldSet,
    Path,
    compare,
    element_of,
    fields_of,
    from_fields_v1,
    merged,
    shown,
    to_fields_v1,
    without,
)
from nsk8s.api.patch.shape import Shape, shape_of
from nsk8s.api.scheme import Kind
from nsk8s.errors import BadRequest, Conflict

MAX_UPDATE_MANAGERS = 10
"""More entries of operation Update than this are folded into one. Upstream: capmanagers.go."""
_ANCIENT = "ancient-changes"

_UNOWNED: frozenset[Path] = frozenset(
    {("f:apiVersion",), ("f:kind",), ("f:metadata",)}
    | {("f:metadata", f"f:{key}") for key in (
        "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
        "resourceVersion")}
)  # fmt: skip
"""What nobody owns. Upstream: stripmeta.go."""


@dataclass(frozen=True)
class Entry:
    """One entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    fields: FieldSet
    time: str = ""
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Entries with the same identity are one: appliers are the same across versions."""
        version = "" if self.operation == "Apply" else self.api_version
        return self.manager, self.operation, version, self.subresource

    def described(self) -> str:
        """How a conflict names the manager."""
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return text if self.operation == "Apply" else f"{text} using {self.api_version}"


def entries_of(obj: Object) -> list[Entry]:
    """managedFields as entries; what is not of FieldsV1 is dropped."""
    out = []
    for raw in obj["metadata"].get("managedFields") or []:
        if not isinstance(raw, dict) or raw.get("operation") not in ("Apply", "Update"):
            continue
        fields = raw.get("fieldsV1")
        out.append(
            Entry(
                str(raw.get("manager", "")), raw["operation"], str(raw.get("apiVersion", "")),
                from_fields_v1(fields if isinstance(fields, dict) else None),
                str(raw.get("time") or ""), str(raw.get("subresource", "")),
            )
        )  # fmt: skip
    return out


def _store(obj: Object, entries: Iterable[Entry]) -> None:
    """Write the book, appliers first, then by time and name; nothing if nobody owns anything."""
    kept = sorted((e for e in entries if e.fields), key=lambda e: (e.operation != "Apply", e.time, e.manager))
    if not kept:
        obj["metadata"].pop("managedFields", None)
        return
    out = []
    for e in kept:
        raw: dict[str, Any] = {"manager": e.manager, "operation": e.operation, "apiVersion": e.api_version}
        if e.time:
            raw["time"] = e.time
        raw |= {"fieldsType": "FieldsV1", "fieldsV1": to_fields_v1(e.fields)}
        if e.subresource:
            raw["subresource"] = e.subresource
        out.append(raw)
    obj["metadata"]["managedFields"] = out


def _bare(obj: Object) -> Object:
    """The object without its book, so that the book is not itself tracked."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    return {**obj, "metadata": metadata}


def _owned(fields: Iterable[Path]) -> FieldSet:
    return frozenset(p for p in fields if p not in _UNOWNED)


def _in_subresource(fields: FieldSet, subresource: str, *, has_status: bool) -> FieldSet:
    """Writing an object does not make one an owner of its status, nor writing its status of anything else."""
    if subresource == "status":
        return frozenset(p for p in fields if p[0] == "f:status")
    if has_status:
        return frozenset(p for p in fields if p[0] != "f:status")
    return fields


def track_update(
    kind: Kind, old: Object | None, new: Object, manager: str, now: datetime, *, subresource: str = ""
) -> None:
    """Book the fields that a create, update or patch wrote: they are `manager`'s now, and what went is nobody's.

    `old` is the stored object (None on create). The book that counts is the old one, whatever `new` carries, unless
    `new` carries an emptied one (`managedFields: []` or `[{}]`), which resets it.
    """
    before: Object = old if old is not None else {"metadata": {}}
    carried = new["metadata"].get("managedFields")
    reset = carried is not None and not any(isinstance(e, dict) and e for e in carried)
    entries = [] if reset else entries_of(before)
    difference = compare(_bare(before) if old is not None else {}, _bare(new), shape_of(kind))
    written = _in_subresource(_owned(difference.written), subresource, has_status=kind.strategy.has_status)
    gone = frozenset(difference.removed)
    mine = Entry(manager, "Update", kind.api_version, frozenset(), rfc3339(now), subresource)
    out = []
    for entry in entries:
        if entry.identity == mine.identity:
            fields = (entry.fields - gone) | written
            changed = fields != entry.fields or bool(written)
            mine = replace(mine, fields=fields, time=mine.time if changed else entry.time)
        else:
            out.append(replace(entry, fields=entry.fields - gone - written))
    if not mine.fields:
        mine = replace(mine, fields=written)
    _store(new, _capped([*out, mine]))


def _capped(entries: list[Entry]) -> list[Entry]:
    """At most MAX_UPDATE_MANAGERS updaters: the oldest of each version become one."""
    updaters = sorted((e for e in entries if e.operation == "Update" and e.fields), key=lambda e: e.time)
    surplus = len(updaters) - MAX_UPDATE_MANAGERS
    if surplus <= 0:
        return entries
    folded: dict[str, Entry] = {}
    for entry in updaters[: surplus + 1]:
        known = folded.get(entry.api_version)
        fields = entry.fields | (known.fields if known else frozenset())
        folded[entry.api_version] = replace(entry, manager=_ANCIENT, subresource="", fields=fields)
    rest = [e for e in entries if e not in updaters[: surplus + 1]]
    return [*rest, *folded.values()]


def _defaulted(kind: Kind, obj: Object) -> Object:
    """For comparing: an atomic value that left out its defaults (fieldRef without apiVersion) is the same value."""
    if kind.strategy.default is None:
        return obj
    full: Object = copied(obj)
    kind.strategy.default(full)
    return full


def apply(
    kind: Kind, live: Object | None, config: Object, manager: str, now: datetime, *, force: bool = False,
    subresource: str = "",
) -> Object:  # fmt: skip
    """The object that results when `manager` applies `config` to `live` (None: it does not exist yet).

    Fields of the configuration become the manager's, shared with whoever wants the same value; fields it applied before and
    no longer does go, unless somebody else owns them. Raises Conflict (causes of reason FieldManagerConflict) where
    another manager owns a field with another value, unless forced, and BadRequest for a configuration that cannot be merged.
    """
    metadata = config.get("metadata")
    if not isinstance(metadata, dict):
        metadata = config["metadata"] = {}
    if metadata.get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    shape = shape_of(kind)
    wanted = copied(_bare(config))
    _check_keys(wanted, shape, "")
    before: Object = live if live is not None else {"metadata": {}}
    entries = entries_of(before)
    mine = Entry(
        manager, "Apply", kind.api_version, _owned(fields_of(wanted, shape)), rfc3339(now), subresource
    )
    last = next((e for e in entries if e.identity == mine.identity), None)
    others = [e for e in entries if e.identity != mine.identity]
    have = copied(_bare(before))
    result: Object = merged(have, wanted, shape)
    if last is not None:
        _prune(result, shape, last.fields, mine.fields.union(*(e.fields for e in others)))
    difference = compare(_defaulted(kind, have) if live is not None else {}, _defaulted(kind, result), shape)
    written = difference.written
    conflicts = [(e, p) for e in others for p in sorted(e.fields & written)]
    if conflicts and not force:
        raise _conflict(conflicts)
    gone = frozenset(difference.removed)
    others = [replace(e, fields=e.fields - written - gone) for e in others]
    if last is not None and last.fields == mine.fields and not difference:
        mine = replace(mine, time=last.time)
    _store(result, [mine, *others])
    return result


def _check_keys(value: Any, shape: Shape, path: str) -> None:
    """Every item of an associative list must have its keys, once."""
    if isinstance(value, dict) and not shape.atomic:
        for key, child in value.items():
            _check_keys(child, shape.child(key), f"{path}.{key}")
    elif isinstance(value, list) and (shape.keys or shape.is_set):
        seen: set[str] = set()
        for item in value:
            try:
                element = element_of(shape, item)
            except ValueError as e:
                raise BadRequest(f"failed to create typed patch object: {path}: {e}") from None
            if element in seen:
                raise BadRequest(
                    f"failed to create typed patch object: {path}: duplicate entries for key {shown((element,))}"
                )
            seen.add(element)
            if not shape.is_set:
                _check_keys(item, shape.item(), f"{path}{shown((element,))}")


def _prune(obj: Object, shape: Shape, last: FieldSet, owned: FieldSet) -> None:
    """Take out what was applied last time (and the structures around it) where nobody owns anything any more."""
    alive: set[Path] = {()}
    for path in owned:
        for length in range(1, len(path) + 1):
            alive.add(path[:length])
    alive |= _UNOWNED
    doomed: set[Path] = set()
    for path in last:
        for length in range(1, len(path) + 1):
            if path[:length] not in alive:
                doomed.add(path[:length])
                break
    without(obj, shape, doomed)


def _conflict(conflicts: list[tuple[Entry, Path]]) -> Conflict:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {e.described()}", "field": shown(p)}
        for e, p in conflicts
    ]
    if len(conflicts) == 1:
        entry, path = conflicts[0]
        text = f"Apply failed with 1 conflict: conflict with {entry.described()}: {shown(path)}"
    else:
        lines: list[str] = []
        by_manager: dict[str, list[str]] = {}
        for entry, path in conflicts:
            by_manager.setdefault(entry.described(), []).append(shown(path))
        for described, paths in sorted(by_manager.items()):
            lines += [f"conflicts with {described}:", *(f"- {p}" for p in paths)]
        text = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    return Conflict(text, details={"causes": causes})
