"""Events are one kind in two groups, v1 and events.k8s.io/v1, kept once, in the core group's form. Pure.

Upstream: pkg/apis/events/v1/conversion.go.
"""

from __future__ import annotations

from nsk8s.api.meta import Object

STORED = "core/v1"
"""storage_version of the kind in events.k8s.io: a bare `v1` could mean either group."""
_RENAMED = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_BACK = {new: old for old, new in _RENAMED.items()}


def to_core(obj: Object, version: str) -> Object:
    """The event as the core group has it."""
    return {_BACK.get(k, k): v for k, v in obj.items()} | {"apiVersion": "v1"}


def to_events_group(obj: Object, version: str) -> Object:
    """The event as events.k8s.io has it, or as it is stored if `version` is STORED."""
    if version == STORED:
        return to_core(obj, version)
    return {_RENAMED.get(k, k): v for k, v in obj.items()} | {"apiVersion": "events.k8s.io/v1"}
