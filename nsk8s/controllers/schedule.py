"""Cron schedules: five fields, names, steps, @hourly and the like, time zones. Pure.

Upstream: robfig/cron as used by pkg/controller/cronjob.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: i for i, name in enumerate(_MONTH_NAMES, 1)}
_DAYS = {name: i for i, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_MACROS = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_YEARS_AHEAD = 5
"""A schedule without a match so far ahead (30 February) never fires."""


@dataclass(frozen=True)
class Schedule:
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    """Day of month or day of week is `*`: both must match; otherwise one of them is enough."""
    every: timedelta | None = None
    """`@every 1h30m`: a fixed interval instead of fields."""

    def _day(self, t: datetime) -> bool:
        of_month, of_week = t.day in self.days, t.isoweekday() % 7 in self.weekdays
        return (of_month and of_week) if self.any_day else (of_month or of_week)

    def after(self, t: datetime, zone: tzinfo = UTC) -> datetime | None:
        """The first time after `t` (in UTC), read on clocks of `zone`; None if there is none in the next years."""
        if self.every is not None:
            return t.replace(microsecond=0) + self.every
        local = t.astimezone(zone).replace(second=0, microsecond=0, tzinfo=None) + timedelta(minutes=1)
        limit = local.year + _YEARS_AHEAD
        while local.year <= limit:
            if local.month not in self.months:
                year, month = divmod(local.year * 12 + local.month, 12)
                local = datetime(year, month + 1, 1)
            elif not self._day(local):
                local = local.replace(hour=0, minute=0) + timedelta(days=1)
            elif local.hour not in self.hours:
                local = local.replace(minute=0) + timedelta(hours=1)
            elif local.minute not in self.minutes:
                local += timedelta(minutes=1)
            else:
                found = local.replace(tzinfo=zone).astimezone(UTC)
                # A time that the clocks skip in spring does not exist; one they repeat in autumn fires once.
                if found > t and found.astimezone(zone).replace(tzinfo=None) == local:
                    return found
                local += timedelta(minutes=1)
        return None


def parse(text: str) -> tuple[Schedule, tzinfo | None]:
    """The schedule, and the zone of a `TZ=…` prefix. Raises ValueError in words."""
    zone: tzinfo | None = None
    found = re.match(r"(?:CRON_)?TZ=(\S+)\s+(.*)", text.strip())
    if found:
        zone, text = parse_zone(found.group(1)), found.group(2)
    text = text.strip()
    if text.startswith("@every "):
        return _every(text[7:].strip()), zone
    fields = _MACROS.get(text.lower(), text).split()
    if len(fields) != 5:
        raise ValueError(f"expected exactly 5 fields, found {len(fields)}: [{text}]")
    schedule = Schedule(
        _field(fields[0], 0, 59), _field(fields[1], 0, 23), _field(fields[2], 1, 31), _field(fields[3], 1, 12, _MONTHS),
        frozenset(d % 7 for d in _field(fields[4], 0, 7, _DAYS)),
        any_day=fields[2][0] in "*?" or fields[4][0] in "*?",
    )  # fmt: skip
    return schedule, zone


def parse_zone(name: str) -> ZoneInfo:
    """Raises ValueError for a zone that does not exist."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as e:
        raise ValueError(f"unknown time zone {name}") from e


def _every(text: str) -> Schedule:
    parts = re.findall(r"(\d+)(h|m|s)", text)
    seconds = sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts)
    if not parts or "".join(n + unit for n, unit in parts) != text or not seconds:
        raise ValueError(f"failed to parse duration @every {text}")
    empty: frozenset[int] = frozenset()
    return Schedule(empty, empty, empty, empty, empty, any_day=True, every=timedelta(seconds=seconds))


def _field(text: str, low: int, high: int, names: dict[str, int] | None = None) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step_text = part.partition("/")
        if step_text and (not step_text.isdigit() or step_text == "0"):
            raise ValueError(f"step of range should be a positive number: {part}")
        step = int(step_text or 1)
        if span in ("*", "?"):
            first, last = low, min(high, 6) if high == 7 else high
        else:
            first_text, dash, last_text = span.partition("-")
            first = _number(first_text, names)
            last = _number(last_text, names) if dash else high if step_text else first
        if first < low:
            raise ValueError(f"beginning of range ({first}) below minimum ({low}): {part}")
        if last > high:
            raise ValueError(f"end of range ({last}) above maximum ({high}): {part}")
        if first > last:
            raise ValueError(f"beginning of range ({first}) beyond end of range ({last}): {part}")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _number(text: str, names: dict[str, int] | None) -> int:
    if names and text.lower() in names:
        return names[text.lower()]
    if not text.isdigit():
        raise ValueError(f"failed to parse int from {text}")
    return int(text)
