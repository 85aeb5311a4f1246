"""managedFields: who wrote which field. Pure. Upstream: structured-merge-diff, apimachinery/pkg/util/managedfields."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsk8s.api.meta import Object
from nsk8s.apiserver.call import Call


def track_create(call: Call, obj: Object, now: datetime) -> None:
    obj["metadata"].pop("managedFields", None)


def track_update(call: Call, new: Object, old: Object, now: datetime, *, status: bool) -> None:
    return


def without_times(obj: Object) -> dict[str, Any]:
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    entries = [{k: v for k, v in e.items() if k != "time"} for e in obj["metadata"].get("managedFields") or []]
    return {**obj, "metadata": {**metadata, "managedFields": entries}}
