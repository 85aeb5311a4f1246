"""What the server does to every object's metadata, and what it asks of it. Pure.

Upstream: apiserver/pkg/registry/rest (BeforeCreate, BeforeUpdate), apimachinery/pkg/api/validation.
"""

from __future__ import annotations

from nsk8s.api.meta import Object
from nsk8s.api.names import label_value_problems, path_segment_problems, qualified_name_problems
from nsk8s.api.scheme import Cause, Kind
from nsk8s.apiserver.cache import clone
from nsk8s.errors import BadRequest

ANNOTATIONS_LIMIT = 256 * 1024
_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def prepare_new(kind: Kind, obj: Object, namespace: str, uid: str, now: str) -> str:
    """Fill in what only the server may say about a new object. Returns the generateName to use, if any."""
    obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
    metadata = obj["metadata"]
    if metadata.get("resourceVersion"):
        raise BadRequest("resourceVersion should not be set on objects to be created")
    for field in (*_SERVER_OWNED, "selfLink", "resourceVersion"):
        metadata.pop(field, None)
    metadata["uid"] = uid
    metadata["creationTimestamp"] = now
    if kind.namespaced:
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    return str(metadata["generateName"]) if metadata.get("generateName") and not metadata.get("name") else ""


def carry_over(kind: Kind, new: Object, old: Object) -> None:
    """Give an updated object back what a client may not change."""
    new["apiVersion"], new["kind"] = kind.api_version, kind.kind
    metadata, have = new["metadata"], old["metadata"]
    metadata.pop("selfLink", None)
    for field in (*_SERVER_OWNED, "namespace", "name", "generateName"):
        if field in have:
            metadata[field] = have[field]
        else:
            metadata.pop(field, None)
    for field in ("labels", "annotations", "finalizers", "ownerReferences"):
        if field in metadata and not metadata[field]:
            del metadata[field]
    if "managedFields" not in metadata and "managedFields" in have:
        metadata["managedFields"] = clone(have["managedFields"])


def check_metadata(kind: Kind, new: Object, old: Object | None) -> list[Cause]:
    metadata = new["metadata"]
    causes: list[Cause] = []
    name = str(metadata.get("name", ""))
    if old is None:
        causes += [Cause("metadata.name", f'Invalid value: "{name}": {p}') for p in path_segment_problems(name)]
        if len(name) > 253:
            causes.append(Cause("metadata.name", f'Invalid value: "{name}": must be no more than 253 bytes'))
        if "\0" in name:
            causes.append(Cause("metadata.name", "Invalid value: may not contain a NUL byte"))
    have = old["metadata"] if old else {}
    labels = metadata.get("labels")
    if labels and labels != have.get("labels"):
        causes += _check_labels(labels)
    annotations = metadata.get("annotations")
    if annotations and annotations != have.get("annotations"):
        causes += _check_annotations(annotations)
    finalizers = metadata.get("finalizers")
    if finalizers and finalizers != have.get("finalizers"):
        causes += _check_finalizers(finalizers, have)
    owners = metadata.get("ownerReferences")
    if owners and owners != have.get("ownerReferences"):
        causes += _check_owners(owners)
    return causes


def _check_labels(labels: dict[str, str]) -> list[Cause]:
    causes = []
    for key, value in labels.items():
        causes += [Cause("metadata.labels", f'Invalid value: "{key}": {p}') for p in qualified_name_problems(key)]
        causes += [Cause("metadata.labels", f'Invalid value: "{value}": {p}') for p in label_value_problems(value)]
    return causes


def _check_annotations(annotations: dict[str, str]) -> list[Cause]:
    causes = []
    for key in annotations:
        problems = qualified_name_problems(key.lower())
        causes += [Cause("metadata.annotations", f'Invalid value: "{key}": {p}') for p in problems]
    if sum(len(k) + len(v) for k, v in annotations.items()) > ANNOTATIONS_LIMIT:
        causes.append(
            Cause("metadata.annotations", f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes", "FieldValueTooLong")
        )
    return causes


def _check_finalizers(finalizers: list[str], have: Object) -> list[Cause]:
    causes = []
    for finalizer in finalizers:
        problems = qualified_name_problems(finalizer)
        causes += [Cause("metadata.finalizers", f'Invalid value: "{finalizer}": {p}') for p in problems]
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        causes.append(
            Cause(
                "metadata.finalizers",
                f"Invalid value: {finalizers}: finalizer orphan and foregroundDeletion cannot be both set",
            )
        )
    if have.get("deletionTimestamp"):
        added = sorted(set(finalizers) - set(have.get("finalizers") or ()))
        if added:
            quoted = ", ".join(f'"{a}"' for a in added)
            causes.append(
                Cause(
                    "metadata.finalizers",
                    "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
                    f"[]string{{{quoted}}}",
                    "FieldValueForbidden",
                )
            )
    return causes


def _check_owners(owners: list[Object]) -> list[Cause]:
    causes = []
    for owner in owners:
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                causes.append(
                    Cause(f"metadata.ownerReferences.{field}", 'Invalid value: "": must not be empty')
                )
    controllers = [o for o in owners if o.get("controller")]
    if len(controllers) > 1:
        first, second = (f"{o.get('kind')}/{o.get('name')}" for o in controllers[:2])
        causes.append(
            Cause(
                "metadata.ownerReferences",
                'Invalid value: Only one reference can have Controller set to true. Found "true" in references for '
                f"{first} and {second}",
            )
        )
    return causes
