"""Events are one kind in two groups, v1 and events.k8s.io/v1, kept once, in the core group's form. Pure.

Upstream: pkg/apis/events/v1/conversion.go.
"""

from __future__ import annotations

from nsk8s.api.meta import Object

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


def convert_event(obj: Object, api_version: str) -> Object:
    """The event as `v1` (how it is stored) or as `events.k8s.io/v1`."""
    if obj.get("apiVersion") == api_version:
        return obj
    names = _RENAMED if api_version == "events.k8s.io/v1" else _BACK
    return {names.get(k, k): v for k, v in obj.items()} | {"apiVersion": api_version}
