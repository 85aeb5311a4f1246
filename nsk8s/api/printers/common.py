"""What printers share: columns from a compact text, ages, joined lists. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from nsk8s.api import selectors
from nsk8s.api.duration import age
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Column, Printer
from nsk8s.errors import BadRequest

NONE = "<none>"


def columns(text: str) -> tuple[Column, ...]:
    """`"Name | Ready:integer | *Node"`: a type after the colon (string if none), `*` for what only `-o wide` shows."""
    out: list[Column] = []
    for word in text.split("|"):
        name, _, kind = word.strip().partition(":")
        wide = name.startswith("*")
        name = name.lstrip("*")
        form = "name" if name == "Name" and not out else ""
        out.append(Column(name, kind or "string", 1 if wide else 0, form))
    return tuple(out)


def printer(text: str, cells: Callable[[Object, datetime], list[Any]]) -> Printer:
    return Printer(columns(text), cells)


def name_of(obj: Object) -> str:
    return str(obj["metadata"].get("name", ""))


def age_of(obj: Object, now: datetime) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def spec_of(obj: Object) -> Object:
    return obj.get("spec") or {}


def status_of(obj: Object) -> Object:
    return obj.get("status") or {}


def joined(values: Iterable[str], separator: str = ",") -> str:
    return separator.join(values) or NONE


def first_three(values: Sequence[str], empty: str = NONE) -> str:
    """`a,b,c + 2 more...`"""
    if not values:
        return empty
    more = f" + {len(values) - 3} more..." if len(values) > 3 else ""
    return ",".join(values[:3]) + more


def selector_text(selector: Object | None) -> str:
    """A LabelSelector as text; `<none>` for one that is absent or empty."""
    if selector is None:
        return NONE
    try:
        return str(selectors.from_label_selector(selector)) or NONE
    except BadRequest:
        return "<error>"


def labels_text(labels: dict[str, str] | None) -> str:
    return joined(f"{k}={v}" for k, v in sorted((labels or {}).items()))


def containers_and_images(template: Object | None) -> tuple[str, str]:
    containers = spec_of(template or {}).get("containers") or []
    return ",".join(c.get("name", "") for c in containers), ",".join(c.get("image", "") for c in containers)


def title_bool(value: bool | None) -> str:
    return "<unset>" if value is None else str(bool(value))
