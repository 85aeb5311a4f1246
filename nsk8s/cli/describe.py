"""An object and its events as indented text, for every kind alike: kubectl's form for kinds it has no describer for. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nsk8s.api import meta
from nsk8s.api.duration import human_duration
from nsk8s.api.meta import Object

HIDDEN = {"managedFields", "name", "namespace", "labels", "annotations"}


def title(key: str) -> str:
    """`podIP` → `Pod IP`, `nodeName` → `Node Name`."""
    out = ""
    for i, c in enumerate(key):
        if c.isupper() and i and (not key[i - 1].isupper() or (i + 1 < len(key) and key[i + 1].islower())):
            out += " "
        out += c
    return out[:1].upper() + out[1:]


def _pairs(label: str, values: dict[str, str]) -> list[str]:
    if not values:
        return [f"{label:<14}<none>"]
    lines = [f"{k}: {v}" if label == "Annotations:" else f"{k}={v}" for k, v in sorted(values.items())]
    return [f"{label if i == 0 else '':<14}{line}" for i, line in enumerate(lines)]


def _tree(value: Any, indent: int) -> list[str]:
    pad = "  " * indent
    lines: list[str] = []
    if isinstance(value, dict):
        for key in sorted(value):
            inner = value[key]
            if isinstance(inner, dict | list):
                lines.append(f"{pad}{title(key)}:")
                lines += _tree(inner, indent + 1)
            else:
                lines.append(f"{pad}{title(key)}:  {inner}")
    elif isinstance(value, list):
        for item in value:
            lines += _tree(item, indent) if isinstance(item, dict | list) else [f"{pad}{item}"]
    return lines


def describe(obj: Object, events: list[Object], now: datetime | None = None) -> str:
    """The text, ending with a line break."""
    lines = [f"{'Name:':<14}{meta.name(obj)}"]
    if meta.namespace(obj):
        lines.append(f"{'Namespace:':<14}{meta.namespace(obj)}")
    lines += _pairs("Labels:", meta.labels(obj))
    lines += _pairs("Annotations:", meta.annotations(obj))
    rest: Object = {k: v for k, v in obj.items() if k not in ("metadata", "apiVersion", "kind")}
    lines += [f"{'API Version:':<14}{obj.get('apiVersion', '')}", f"{'Kind:':<14}{obj.get('kind', '')}"]
    lines += ["Metadata:", *_tree({k: v for k, v in obj["metadata"].items() if k not in HIDDEN}, 1)]
    lines += _tree(rest, 0)
    lines += event_lines(events, now or datetime.now(UTC))
    return "\n".join(lines) + "\n"


def event_lines(events: list[Object], now: datetime) -> list[str]:
    """kubectl's event table: Type, Reason, Age (with counts), From, Message."""
    if not events:
        return [f"{'Events:':<14}<none>"]
    rows = [["Type", "Reason", "Age", "From", "Message"], ["----", "------", "----", "----", "-------"]]
    for e in sorted(events, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or ""):
        last = e.get("lastTimestamp") or e.get("eventTime")
        age = human_duration(now - meta.parse_time(last)) if last else "<unknown>"
        count = e.get("count") or 1
        if count > 1 and e.get("firstTimestamp"):
            age = f"{age} (x{count} over {human_duration(now - meta.parse_time(e['firstTimestamp']))})"
        source = (e.get("source") or {}).get("component") or e.get("reportingComponent") or ""
        rows.append([e.get("type", ""), e.get("reason", ""), age, source, e.get("message", "").strip()])
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    return ["Events:", *("  " + "  ".join([*(c.ljust(w) for c, w in zip(r[:4], widths, strict=True)), r[4]]) for r in rows)]
