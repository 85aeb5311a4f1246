"""managedFields on the way to the store: when a write is booked. Pure; the booking itself is nsk8s.api.patch.apply.

Upstream books every write. Here a write is booked if its client named a field manager (kubectl and client libraries do) or if
the object has a book already; the cluster's own components name none, and so a pod's many status updates cost nothing. What
was written before the first booking belongs to `before-first-apply`, as upstream has it for objects from before its time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsk8s.api.meta import Object, parse_time
from nsk8s.api.patch import apply
from nsk8s.apiserver.call import Call

UNBOOKED = frozenset(("events", "events.events.k8s.io", "leases.coordination.k8s.io"))
"""Kinds whose every object is written by one client only, often."""
BEFORE = "before-first-apply"


def track_create(call: Call, obj: Object, now: datetime) -> None:
    if call.applying:
        return
    obj["metadata"].pop("managedFields", None)
    if call.field_manager and call.kind.group_resource not in UNBOOKED:
        apply.track_update(call.kind, None, obj, call.manager, now)


def track_update(call: Call, new: Object, old: Object, now: datetime, *, status: bool) -> None:
    if call.applying:
        return
    booked = bool(old["metadata"].get("managedFields"))
    if (call.field_manager or booked) and call.kind.group_resource not in UNBOOKED:
        subresource = call.info.subresource if call.info.is_resource else ""
        apply.track_update(call.kind, old, new, call.manager, now, subresource=subresource)
    else:
        new["metadata"].pop("managedFields", None)


def begin_book(call: Call, live: Object) -> None:
    """Before the first apply to an object that has no book: everything so far is somebody else's."""
    if not live["metadata"].get("managedFields"):
        made = parse_time(live["metadata"]["creationTimestamp"])
        apply.track_update(call.kind, None, live, BEFORE, made)


def without_times(obj: Object) -> dict[str, Any]:
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    entries = [{k: v for k, v in e.items() if k != "time"} for e in obj["metadata"].get("managedFields") or []]
    return {**obj, "metadata": {**metadata, "managedFields": entries}}
