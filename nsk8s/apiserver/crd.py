"""CustomResourceDefinitions: kinds that come and go while the server runs. Touches: the scheme, the registry.

A definition becomes one Kind a served version; its status says whether its names were free; deleting it deletes its objects
first. Upstream: apiextensions-apiserver/pkg/controller/{establish,status,finalizer}, pkg/apiserver/customresource_handler.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from nsk8s.api.duration import age
from nsk8s.api.kinds.common import scale, status
from nsk8s.api.meta import Object, set_condition
from nsk8s.api.names import subdomain_problems
from nsk8s.api.scheme import Cause, Column, Kind, Printer, Strategy, Subresource
from nsk8s.apiserver import jsonpath, structural
from nsk8s.apiserver.cache import DELETED, Change
from nsk8s.apiserver.call import SYSTEM, Call
from nsk8s.apiserver.deletion import DeleteOptions
from nsk8s.apiserver.request import RequestInfo
from nsk8s.apiserver.server import Server
from nsk8s.errors import NotFound, StatusError

log = logging.getLogger("crd")

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
RETRY_S = 1.0


def convert(group: str) -> Any:
    """Strategy None: only the apiVersion differs."""

    def to_version(obj: Object, version: str) -> Object:
        return {**obj, "apiVersion": f"{group}/{version}"}

    return to_version


def kinds_of(definition: Object) -> list[Kind]:
    """The kinds of a definition, one a served version. Pure."""
    spec = definition["spec"]
    stored = next((v["name"] for v in spec["versions"] if v.get("storage")), "")
    return [_kind(spec, version, stored) for version in spec["versions"] if version.get("served")]


def _kind(spec: Object, version: Object, stored: str) -> Kind:
    names = spec["names"]
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {"x-kubernetes-preserve-unknown-fields": True}
    subresources = version.get("subresources") or {}
    has_status = "status" in subresources
    found: list[Subresource] = [status(names["kind"])] if has_status else []
    if "scale" in subresources:
        found.append(scale())
    return Kind(
        spec["group"], version["name"], names["kind"], names["plural"], spec["scope"] == "Namespaced",
        schema=schema,
        singular=names.get("singular") or "",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(found),
        strategy=Strategy(
            default=lambda obj: structural.fill(obj, schema),
            validate=lambda obj: _check(obj, schema),
            has_status=has_status,
        ),
        printer=_printer(version),
        fields={f["jsonPath"].lstrip("."): _selectable(f["jsonPath"]) for f in version.get("selectableFields") or ()},
        storage_version=stored,
        convert=convert(spec["group"]),
    )  # fmt: skip


def _check(obj: Object, schema: structural.Schema) -> list[Cause]:
    name = str(obj["metadata"].get("name", ""))
    causes = [Cause("metadata.name", f'Invalid value: "{name}": {p}') for p in subdomain_problems(name)]
    return causes + structural.check(obj, schema)


def _selectable(path: str) -> Any:
    def get(obj: Object) -> str:
        found = jsonpath.find(obj, path)
        value = found[0] if found else ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return get


def _printer(version: Object) -> Printer:
    columns = version.get("additionalPrinterColumns") or [
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    ]
    shown = [Column("Name", format="name")] + [
        Column(c["name"], c["type"], c.get("priority", 0), c.get("format", ""), c.get("description", "")) for c in columns
    ]

    def cells(obj: Object, now: datetime) -> list[Any]:
        return [obj["metadata"].get("name", ""), *(_cell(obj, c["jsonPath"], c["type"], now) for c in columns)]

    return Printer(shown, cells)


def _cell(obj: Object, path: str, kind: str, now: datetime) -> Any:
    found = jsonpath.find(obj, path)
    if not found or found[0] is None:
        return None
    value = found[0]
    if kind == "date":
        return age(value, now) if isinstance(value, str) else "<invalid>"
    if kind in ("integer", "number"):
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else str(value)


class CustomResources:
    """Keeps the scheme in step with the cached definitions; `run` does what needs writing."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._kinds: dict[str, list[Kind]] = {}
        self._todo: asyncio.Queue[str] = asyncio.Queue()
        definitions = server.cache.resource(DEFINITIONS)
        definitions.on_change(self._changed)
        for definition in definitions.values():
            self._serve(definition)
            self._todo.put_nowait(definition["metadata"]["name"])

    def _changed(self, change: Change) -> None:
        name = change.obj["metadata"]["name"]
        if change.type == DELETED:
            self._withdraw(name)
            return
        before = change.prev["spec"] if change.prev else None
        if change.obj["spec"] != before:
            self._serve(change.obj)
        self._todo.put_nowait(name)

    def _serve(self, definition: Object) -> None:
        name = definition["metadata"]["name"]
        self._withdraw(name)
        if self._conflict(definition):
            return
        kinds = kinds_of(definition)
        for kind in kinds:
            self._server.scheme.add(kind)
        self._kinds[name] = kinds
        paths = [(v.get("subresources") or {}).get("scale") for v in definition["spec"]["versions"] if v.get("served")]
        found = next((p for p in paths if p), None)
        if found:
            self._server.scale_paths[name] = found

    def _withdraw(self, name: str) -> None:
        for kind in self._kinds.pop(name, ()):
            self._server.scheme.remove(kind)
            self._server.cache.resource(kind.group_resource).close_watchers()
        self._server.scale_paths.pop(name, None)

    def _conflict(self, definition: Object) -> str:
        """Which of its names another kind of the group has already; "" if none."""
        spec, own = definition["spec"], definition["metadata"]["name"]
        names = spec["names"]
        for kind in self._server.scheme.kinds():
            if kind.group != spec["group"] or kind.group_resource == own:
                continue
            taken = {kind.plural, kind.singular_name, *kind.short_names}
            for wanted in (names["plural"], names.get("singular"), *(names.get("shortNames") or ())):
                if wanted in taken:
                    return f'"{wanted}" is already in use'
            if kind.kind == names["kind"]:
                return f'"{names["kind"]}" is already in use'
        return ""

    async def run(self) -> None:
        while True:
            name = await self._todo.get()
            try:
                await self._reconcile(name)
            except StatusError as e:
                log.warning("definition %s: %s", name, e.message)
                asyncio.get_running_loop().call_later(RETRY_S, self._todo.put_nowait, name)

    def _call(self, kind: Kind, name: str, subresource: str = "") -> Call:
        info = RequestInfo("PUT", "", "update", True, kind.group, kind.version, "", kind.plural, subresource, name)
        return Call(SYSTEM, info, kind)

    async def _reconcile(self, name: str) -> None:
        kind = self._server.scheme.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        definition = self._server.cache.get(DEFINITIONS, "", name)
        if kind is None or definition is None:
            return
        if definition["metadata"].get("deletionTimestamp"):
            await self._finalize(kind, definition)
            return
        if CLEANUP not in (definition["metadata"].get("finalizers") or ()):
            await self._server.registry.force(self._call(kind, name), "", name, _with_finalizer)
        conflict = self._conflict(definition)
        if not conflict and name not in self._kinds:
            self._serve(definition)
        now = datetime.now(UTC)

        def mark(obj: Object) -> Object:
            state = obj.setdefault("status", {})
            conditions = set_condition(
                state.get("conditions") or [],
                {"type": "NamesAccepted", "status": "False" if conflict else "True",
                 "reason": "NameConflict" if conflict else "NoConflicts", "message": conflict or "no conflicts found"},
                now,
            )  # fmt: skip
            if not conflict:
                state["acceptedNames"] = obj["spec"]["names"]
                established = {"type": "Established", "status": "True", "reason": "InitialNamesAccepted",
                               "message": "the initial names have been accepted"}  # fmt: skip
                conditions = set_condition(conditions, established, now)
            state["conditions"] = conditions
            return obj

        await self._server.registry.force(self._call(kind, name, "status"), "", name, mark)

    async def _finalize(self, kind: Kind, definition: Object) -> None:
        """Delete the objects of a definition under deletion; when none is left, let it go."""
        name = definition["metadata"]["name"]
        kinds = self._kinds.get(name) or kinds_of(definition)[:1]
        left = list(self._server.cache.resource(kinds[0].group_resource).values()) if kinds else []
        for obj in left:
            metadata = obj["metadata"]
            if metadata.get("deletionTimestamp"):
                continue
            try:
                call = self._call(kinds[0], metadata["name"])
                await self._server.registry.delete(call, metadata.get("namespace", ""), metadata["name"], DeleteOptions())
            except NotFound:
                continue
        if kinds and self._server.cache.resource(kinds[0].group_resource).size:
            asyncio.get_running_loop().call_later(RETRY_S, self._todo.put_nowait, name)
            return
        await self._server.registry.force(self._call(kind, name), "", name, _without_finalizer)


def _with_finalizer(obj: Object) -> Object:
    obj["metadata"]["finalizers"] = [*(obj["metadata"].get("finalizers") or ()), CLEANUP]
    return obj


def _without_finalizer(obj: Object) -> Object:
    obj["metadata"]["finalizers"] = [f for f in obj["metadata"].get("finalizers") or () if f != CLEANUP]
    if not obj["metadata"]["finalizers"]:
        del obj["metadata"]["finalizers"]
    return obj
