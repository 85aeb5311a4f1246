"""Indented lines with tabs, and the alignment of Go's text/tabwriter. Pure.

A describer writes lines with tabs between their cells. Adjacent lines that have a cell in a column make that column as wide as
its widest cell; a line that has no such cell ends it. Upstream: kubectl/pkg/describe's PrefixWriter over tabwriter(0, 8, 2, ' ').
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsk8s.api import meta

PADDING = 2
MAX_ANNOTATION = 140


class Text:
    """Lines, two blanks in for each level."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def line(self, level: int, *cells: object) -> None:
        """One line; a cell may hold line breaks or tabs of its own."""
        self._lines += ("  " * level + "\t".join(str(c) for c in cells)).split("\n")

    def flush(self) -> None:
        """What follows is aligned apart from what went before."""
        self._lines.append("\f")

    def render(self) -> str:
        parts: list[list[str]] = [[]]
        for line in self._lines:
            if line == "\f":
                parts.append([])
            else:
                parts[-1].append(line)
        return "".join(f"{line}\n" for part in parts for line in align(part))


def align(lines: list[str]) -> list[str]:
    """Lines with tabs → lines with blanks."""
    table = [line.split("\t") for line in lines]
    out = [""] * len(table)

    def column(first: int, last: int, index: int) -> None:
        """Lay out the block of lines first..last that share the columns before `index`."""
        i = first
        while i < last:
            if len(table[i]) - 1 <= index:  # its cell here is its last: not part of a column
                out[i] += table[i][index] if index < len(table[i]) else ""
                i += 1
                continue
            end = i
            while end < last and len(table[end]) - 1 > index:
                end += 1
            width = max(len(table[k][index]) for k in range(i, end)) + PADDING
            for k in range(i, end):
                out[k] += table[k][index].ljust(width)
            column(i, end, index + 1)
            i = end

    column(0, len(table), 0)
    return out


def or_none(value: Any) -> str:
    return str(value) if value else "<none>"


def or_unset(value: Any) -> str:
    return str(value) if value not in (None, "") else "<unset>"


def go(value: Any) -> str:
    """Go's %v: true, false, <nil>."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def date(timestamp: str | None) -> str:
    """RFC 1123 with the zone as a number, as upstream prints times."""
    if not timestamp:
        return "Mon, 01 Jan 0001 00:00:00 +0000"
    return rfc1123(meta.parse_time(timestamp))


def rfc1123(t: datetime) -> str:
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[t.weekday()]
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[t.month - 1]
    return f"{day}, {t.day:02} {month} {t.year:04} {t:%H:%M:%S} +0000"


def pairs(out: Text, title: str, values: dict[str, str] | None, indent: str = "") -> None:
    """`Labels:  a=b`, one a line."""
    if not values:
        out.line(0, f"{indent}{title}:", "<none>")
        return
    for i, key in enumerate(sorted(values)):
        out.line(0, f"{indent}{title}:" if i == 0 else indent, f"{key}={values[key]}")


def annotation_lines(out: Text, values: dict[str, str] | None, indent: str = "") -> None:
    """`Annotations:  a: b`; long values on lines of their own, cut off after 140 characters."""
    shown = {k: v for k, v in (values or {}).items() if k != "kubectl.kubernetes.io/last-applied-configuration"}
    if not shown:
        out.line(0, f"{indent}Annotations:", "<none>")
        return
    for i, key in enumerate(sorted(shown)):
        head = f"{indent}Annotations:" if i == 0 else indent
        value = shown[key].removesuffix("\n")
        if len(value) + len(key) + 2 <= MAX_ANNOTATION and "\n" not in value:
            out.line(0, head, f"{key}: {value}")
            continue
        out.line(0, head, f"{key}:")
        for part in value.split("\n"):
            limit = MAX_ANNOTATION - 2
            out.line(0, indent, f"  {part if len(part) <= limit else part[:limit] + '...'}")


def selector(values: dict[str, str] | None) -> str:
    """A set as `a=b,c=d`."""
    return ",".join(f"{k}={v}" for k, v in sorted((values or {}).items())) or "<none>"
