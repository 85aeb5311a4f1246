"""Spans of time as kubectl shows them. Pure. Upstream: apimachinery/pkg/util/duration."""

from __future__ import annotations

from datetime import datetime, timedelta

from nsk8s.api.meta import parse_time


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def human_duration(span: timedelta) -> str:
    """`5s`, `3m20s`, `47h`, `2d3h`: two units at most, coarser the longer it is. Upstream: HumanDuration."""
    seconds = int(span.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 24 * 8:
        return _two(hours // 24, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{hours // 24}d"
    years = hours // 24 // 365
    if hours < 24 * 365 * 8:
        return _two(years, "y", hours // 24 % 365, "d")
    return f"{years}y"


def age(timestamp: str | None, now: datetime) -> str:
    """How long ago a metav1.Time was; `<unknown>` without one."""
    if not timestamp:
        return "<unknown>"
    try:
        return human_duration(now - parse_time(timestamp))
    except ValueError:
        return "<unknown>"
