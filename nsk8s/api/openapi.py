"""The OpenAPI v3 document of one group-version, rendered from its kinds. Pure.

Upstream: kube-openapi/pkg/builder3. What kubectl takes from it: the `patch` operation of each kind (fieldValidation,
patch types), the merge keys of lists, and the descriptions that `kubectl explain` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nsk8s.api.models.base import Field, Model
from nsk8s.api.models.meta import DeleteOptions, ObjectMeta, Status
from nsk8s.api.scheme import Kind
from nsk8s.api.version import KUBERNETES_VERSION

Schema = dict[str, Any]

_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_PREFIXES = {
    "meta": _META,
    "apiextensions": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "autoscaling": "io.k8s.api.autoscaling.v2",
    "autoscaling_v1": "io.k8s.api.autoscaling.v1",
}
_SCALARS: Mapping[str, Schema] = {
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "float64": {"type": "number", "format": "double"},
    "Bytes": {"type": "string", "format": "byte"},
}
_NAMED: Mapping[str, tuple[str, Schema]] = {
    "Quantity": ("io.k8s.apimachinery.pkg.api.resource.Quantity", {
        "description": "An exact amount: a number, optionally with a suffix of powers of ten (n u m k M G T P E), of two "
                       "(Ki Mi Gi Ti Pi Ei), or a decimal exponent.",
        "oneOf": [{"type": "string"}, {"type": "number"}]}),
    "IntOrString": ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", {
        "description": "A number, or a string such as a percentage or the name of a port.",
        "format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
    "Time": (f"{_META}.Time", {
        "description": "A time in RFC 3339, in whole seconds.", "type": "string", "format": "date-time"}),
    "MicroTime": (f"{_META}.MicroTime", {
        "description": "A time in RFC 3339, in microseconds.", "type": "string", "format": "date-time"}),
    "Raw": ("io.k8s.apimachinery.pkg.runtime.RawExtension", {
        "description": "Any JSON.", "x-kubernetes-preserve-unknown-fields": True}),
}  # fmt: skip
_API_VERSION_DOC = "The group and version this object is written in, such as apps/v1."
_KIND_DOC = "The kind of this object."
PATCH_TYPES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml",
               "application/strategic-merge-patch+json")  # fmt: skip
_STRATEGIC = "application/strategic-merge-patch+json"


def schema_name(model: type[Model]) -> str:
    """Upstream's name of a model's schema: io.k8s.api.core.v1.Pod."""
    module = model.__module__.rpartition(".")[2]
    prefix = _PREFIXES.get(module) or f"io.k8s.api.{module.partition('_')[0]}.v1"
    return f"{prefix}.{model.__name__}"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


class _Schemas:
    """The schemas a document needs, collected as they are referred to."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def model(self, model: type[Model]) -> str:
        name = schema_name(model)
        if name not in self.found:
            schema = self.found[name] = {"description": (model.__doc__ or "") if "__doc__" in model.__dict__ else ""}
            schema["type"] = "object"
            fields = model.fields()
            if fields:
                schema["properties"] = {key: self.field(key, f) for key, f in fields.items()}
            required = sorted(key for key, f in fields.items() if f.required)
            if required:
                schema["required"] = required
            if model.atomic:
                schema["x-kubernetes-map-type"] = "atomic"
            if not schema["description"]:
                del schema["description"]
        return name

    def item(self, f: Field) -> Schema:
        if f.model is not None:
            name = self.model(f.model)
        elif f.item in _NAMED:
            name, schema = _NAMED[f.item]
            self.found.setdefault(name, schema)
        else:
            return dict(_SCALARS[f.item])
        return {"allOf": [_ref(name)]}

    def field(self, key: str, f: Field) -> Schema:
        item = self.item(f)
        if f.nested:
            item = {"type": "array", "items": item}
        if f.container == "list":
            out: Schema = {"type": "array", "items": item}
        elif f.container == "map":
            out = {"type": "object", "additionalProperties": item}
        else:
            out = item
        doc = f.doc or {"apiVersion": _API_VERSION_DOC, "kind": _KIND_DOC}.get(key, "")
        if doc:
            out["description"] = doc
        if f.default is not None:
            out["default"] = f.default
        if f.enum and not f.container:
            out["enum"] = list(f.enum)
        if f.merge_key:
            out["x-kubernetes-patch-merge-key"] = f.merge_key
        if f.strategies:
            out["x-kubernetes-patch-strategy"] = ",".join(f.strategies)
        if f.list_type:
            place = {"list": "list", "map": "map"}.get(f.container, "map")
            out[f"x-kubernetes-{place}-type"] = f.list_type
        if f.list_keys:
            out["x-kubernetes-list-map-keys"] = list(f.list_keys)
        return out

    def custom(self, kind: Kind) -> str:
        """The schema of a kind that a CustomResourceDefinition describes."""
        group = ".".join(reversed(kind.group.split(".")))
        name = f"{group}.{kind.version}.{kind.kind}"
        schema: Schema = dict(kind.schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True})
        schema["properties"] = {
            "apiVersion": {"type": "string", "description": _API_VERSION_DOC},
            "kind": {"type": "string", "description": _KIND_DOC},
            **(schema.get("properties") or {}),
            "metadata": {"allOf": [_ref(self.model(ObjectMeta))], "description": "Standard object metadata."},
        }
        self.found[name] = schema
        return name

    def list_of(self, kind: Kind, name: str) -> None:
        self.found[f"{name}List"] = {
            "description": f"A list of {kind.kind} objects.",
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": _API_VERSION_DOC},
                "kind": {"type": "string", "description": _KIND_DOC},
                "metadata": {"allOf": [_ref(self.list_meta())], "description": "Standard list metadata."},
                "items": {"type": "array", "items": {"allOf": [_ref(name)]}, "description": "The objects."},
            },
            "x-kubernetes-group-version-kind": [
                {"group": kind.group, "version": kind.version, "kind": f"{kind.kind}List"}
            ],
        }

    def list_meta(self) -> str:
        name = f"{_META}.ListMeta"
        texts = {
            "continue": "The token with which the next page is asked for; empty on the last one.",
            "resourceVersion": "The state of the store that the list shows; watches start from it.",
        }
        properties: Schema = {key: {"type": "string", "description": text} for key, text in texts.items()}
        properties["remainingItemCount"] = {
            "type": "integer", "format": "int64", "description": "How many objects follow on later pages."
        }  # fmt: skip
        self.found.setdefault(name, {"type": "object", "properties": properties})
        return name


def _parameter(name: str, text: str) -> Schema:
    return {"name": name, "in": "query", "description": text, "schema": {"type": "string", "uniqueItems": True}}


_WRITE_PARAMETERS = (
    _parameter("dryRun", "All: go through every step but do not keep the result."),
    _parameter("fieldManager", "The name under which the fields that are written are recorded."),
    _parameter("fieldValidation", "What happens to unknown and duplicate fields: Strict (refused), Warn, or Ignore."),
)
_FORCE = _parameter("force", "Only for apply: take over fields that other managers own.")
_JSON = "application/json"


def _body(types: Iterable[str], name: str) -> Schema:
    return {"content": {t: {"schema": _ref(name)} for t in types}, "required": True}


def _answers(name: str) -> Schema:
    return {"200": {"description": "OK", "content": {_JSON: {"schema": _ref(name)}}}}


def _operations(kind: Kind, name: str, patch_name: str, delete_name: str, status_name: str) -> tuple[Schema, Schema]:
    """(operations on the collection, operations on one object)."""
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}

    def operation(action: str, answer: str, **more: Any) -> Schema:
        return {"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk,
                "responses": _answers(answer), **more}  # fmt: skip

    whole: Schema = {}
    one: Schema = {}
    verbs = kind.verbs
    if "list" in verbs:
        whole["get"] = operation("list", f"{name}List")
    if "create" in verbs:
        whole["post"] = operation("post", name, parameters=list(_WRITE_PARAMETERS), requestBody=_body(("*/*",), name))
    if "deletecollection" in verbs:
        whole["delete"] = operation("deletecollection", status_name)
    if "get" in verbs:
        one["get"] = operation("get", name)
    if "update" in verbs:
        one["put"] = operation("put", name, parameters=list(_WRITE_PARAMETERS), requestBody=_body(("*/*",), name))
    if "patch" in verbs:
        types = [t for t in PATCH_TYPES if kind.model is not None or t != _STRATEGIC]
        one["patch"] = operation(
            "patch", name, parameters=[*_WRITE_PARAMETERS, _FORCE], requestBody=_body(types, patch_name)
        )
    if "delete" in verbs:
        one["delete"] = operation("delete", status_name, requestBody=_body(("*/*",), delete_name))
    return whole, one


def document(kinds: Iterable[Kind]) -> Schema:
    """The document of the group-version that all of `kinds` belong to."""
    schemas = _Schemas()
    paths: Schema = {}
    patch_name = f"{_META}.Patch"
    schemas.found[patch_name] = {"description": "A patch, as its content type says.", "type": "object"}
    delete_name, status_name = schemas.model(DeleteOptions), schemas.model(Status)
    for kind in kinds:
        name = schemas.model(kind.model) if kind.model is not None else schemas.custom(kind)
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        schemas.found[name] = {**schemas.found[name], "x-kubernetes-group-version-kind": [gvk]}
        if "list" in kind.verbs:
            schemas.list_of(kind, name)
        whole, one = _operations(kind, name, patch_name, delete_name, status_name)
        base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        if kind.namespaced:
            base += "/namespaces/{namespace}"
        if whole:
            paths[f"{base}/{kind.plural}"] = whole
        if one:
            paths[f"{base}/{kind.plural}/{{name}}"] = one
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.found.items()))},
    }

