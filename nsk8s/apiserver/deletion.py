"""What a DELETE does to an object: remove it now, mark it and wait, or nothing. Pure.

Upstream: apiserver/pkg/registry/rest/delete.go (BeforeDelete), generic/registry/store.go (its finalizers for garbage collection).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from nsk8s.api.meta import Object, parse_time, rfc3339
from nsk8s.api.scheme import Kind
from nsk8s.apiserver import failures
from nsk8s.errors import BadRequest, Conflict

ORPHAN, FOREGROUND, BACKGROUND = "Orphan", "Foreground", "Background"
ORPHAN_FINALIZER, FOREGROUND_FINALIZER = "orphan", "foregroundDeletion"


class Verdict(Enum):
    REMOVE = "remove"
    MARK = "mark"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    grace_s: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False

    def check(self, kind: Kind, obj: Object) -> None:
        """Raise Conflict unless the preconditions hold."""
        metadata = obj["metadata"]
        for what, wanted, have in (
            ("UID", self.uid, metadata.get("uid")),
            ("ResourceVersion", self.resource_version, metadata["resourceVersion"]),
        ):
            if wanted and wanted != have:
                name = str(metadata["name"])
                raise Conflict(
                    f'Operation cannot be fulfilled on {kind.group_resource} "{name}": Precondition failed: '
                    f"{what} in precondition: {wanted}, {what} in object meta: {have}",
                    details=failures.details(kind, name),
                )


def parse_options(body: Any, query: dict[str, str]) -> DeleteOptions:
    """DeleteOptions from the request's body (may be empty) or else its query. Raises BadRequest."""
    if body is not None and not isinstance(body, dict):
        raise BadRequest("the body of a DELETE must be a DeleteOptions object")
    source: dict[str, Any] = body or {}
    if not source:
        grace_text = query.get("gracePeriodSeconds", "")
        if grace_text and not grace_text.lstrip("-").isdigit():
            raise BadRequest(f'strconv.ParseInt: parsing "{grace_text}": invalid syntax')
        source = {k: v for k, v in query.items() if k in ("propagationPolicy", "orphanDependents")}
        if grace_text:
            source["gracePeriodSeconds"] = int(grace_text)
        if "orphanDependents" in source:
            source["orphanDependents"] = source["orphanDependents"] not in ("false", "0")
    grace = source.get("gracePeriodSeconds")
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise BadRequest("gracePeriodSeconds must be an integer")
    propagation = source.get("propagationPolicy") or ""
    orphan = source.get("orphanDependents")
    if propagation and orphan is not None:
        raise BadRequest("orphanDependents and deletionPropagation cannot be both set")
    if propagation not in ("", ORPHAN, FOREGROUND, BACKGROUND):
        raise BadRequest(
            f'propagationPolicy: Unsupported value: "{propagation}": supported values: "Background", "Foreground", "Orphan"'
        )
    if orphan is not None:
        propagation = ORPHAN if orphan else BACKGROUND
    preconditions = source.get("preconditions") or {}
    dry_run = source.get("dryRun") or []
    if not isinstance(preconditions, dict) or not isinstance(dry_run, list):
        raise BadRequest("the body of a DELETE must be a DeleteOptions object")
    if dry_run and dry_run != ["All"]:
        raise BadRequest(f'dryRun: Unsupported value: {dry_run}: supported values: "All"')
    return DeleteOptions(
        grace_s=max(grace, 1) if grace is not None and grace < 0 else grace,
        propagation=propagation,
        uid=str(preconditions.get("uid") or ""),
        resource_version=str(preconditions.get("resourceVersion") or ""),
        dry_run=bool(dry_run),
    )


def decide_delete(kind: Kind, obj: Object, options: DeleteOptions, now: datetime) -> tuple[Verdict, Object]:
    """What to do, and the object as it then is (`obj` is changed in place)."""
    metadata = obj["metadata"]
    have = list(metadata.get("finalizers") or ())
    before = (have, metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds"))
    finalizers = _garbage_collection_finalizers(have, options.propagation)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    grace = _grace(kind, obj, options)
    held = bool(finalizers) or (kind.group_resource == "namespaces" and bool((obj.get("spec") or {}).get("finalizers")))
    if grace == 0 and not held:
        return Verdict.REMOVE, obj
    pending = metadata.get("deletionGracePeriodSeconds")
    if not metadata.get("deletionTimestamp"):
        metadata["deletionTimestamp"] = rfc3339(now + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace
        _bump_generation(kind, metadata)
    elif pending is not None and grace < pending:
        # A shorter grace counts from when deletion was asked for.
        asked = parse_time(metadata["deletionTimestamp"]) - timedelta(seconds=pending)
        metadata["deletionTimestamp"] = rfc3339(asked + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace
    if kind.group_resource == "namespaces":
        obj.setdefault("status", {})["phase"] = "Terminating"
    after = (finalizers, metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds"))
    return (Verdict.KEEP if after == before else Verdict.MARK), obj


def _grace(kind: Kind, obj: Object, options: DeleteOptions) -> int:
    """Seconds to wait; 0 = none. The kind's strategy says what it wants without being asked, and 0 where grace is pointless."""
    if kind.strategy.graceful is None:
        return 0
    own = kind.strategy.graceful(obj)
    if own == 0 and not _spec_grace_zero(obj):
        return 0
    if options.grace_s is not None:
        return options.grace_s
    pending = obj["metadata"].get("deletionGracePeriodSeconds")
    return int(pending) if pending is not None else own


def _spec_grace_zero(obj: Object) -> bool:
    """The strategy's 0 comes from the object's own terminationGracePeriodSeconds: an explicit option may lengthen it."""
    spec = obj.get("spec") or {}
    phase = (obj.get("status") or {}).get("phase")
    return spec.get("terminationGracePeriodSeconds") == 0 and bool(spec.get("nodeName")) and phase not in ("Failed", "Succeeded")


def _bump_generation(kind: Kind, metadata: dict[str, Any]) -> None:
    if kind.strategy.has_generation and "generation" in metadata:
        metadata["generation"] += 1


def _garbage_collection_finalizers(have: list[str], propagation: str) -> list[str]:
    if not propagation:
        return have
    kept = [f for f in have if f not in (ORPHAN_FINALIZER, FOREGROUND_FINALIZER)]
    if propagation == ORPHAN:
        return [*kept, ORPHAN_FINALIZER]
    if propagation == FOREGROUND:
        return [*kept, FOREGROUND_FINALIZER]
    return kept
