"""The events at the end of a description. Pure."""

from __future__ import annotations

from datetime import datetime

from nsk8s.api.duration import age
from nsk8s.api.meta import Object
from nsk8s.cli.describers.text import Text


def events(out: Text, found: list[Object], now: datetime) -> None:
    """Type, Reason, Age (with counts), From, Message; the latest last, those of one second in the order listed."""
    if not found:
        out.line(0, "Events:", "<none>")
        return
    out.flush()
    out.line(0, "Events:")
    out.line(1, "Type", "Reason", "Age", "From", "Message")
    out.line(1, "----", "------", "----", "----", "-------")
    for e in sorted(found, key=lambda e: e.get("lastTimestamp") or ""):
        source = (e.get("source") or {}).get("component") or e.get("reportingComponent") or ""
        out.line(
            1, e.get("type", ""), e.get("reason", ""), _interval(e, now), source, (e.get("message") or "").strip()
        )  # fmt: skip


def _interval(event: Object, now: datetime) -> str:
    first = age(event.get("eventTime") or event.get("firstTimestamp"), now)
    series = event.get("series")
    if series:
        return f"{age(series.get('lastObservedTime'), now)} (x{series.get('count', 0)} over {first})"
    if (event.get("count") or 0) > 1:
        return f"{age(event.get('lastTimestamp'), now)} (x{event['count']} over {first})"
    return first
