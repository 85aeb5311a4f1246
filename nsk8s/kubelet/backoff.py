"""Back-off of container restarts and image pulls. Pure: time is passed in.

Upstream: client-go/util/flowcontrol.Backoff as kuberuntime uses it: 10 s doubling to 5 min, forgotten after 10 quiet minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 10.0
MAX_S = 300.0


@dataclass(slots=True)
class _Entry:
    delay_s: float
    updated: float


class Backoff:
    """Keys are strings, times seconds of one clock."""

    def __init__(self, first_s: float = FIRST_S, max_s: float = MAX_S) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._entries: dict[str, _Entry] = {}

    def remaining(self, key: str, event: float, now: float) -> float:
        """Seconds still to wait after what happened at `event` (the container's end, the failed pull); 0: go ahead."""
        entry = self._entries.get(key)
        if entry is None or event - entry.updated > 2 * self._max_s:
            return 0.0
        return max(0.0, event + entry.delay_s - now)

    def delay(self, key: str) -> float:
        """The present delay of a key, 0 when there is none."""
        entry = self._entries.get(key)
        return entry.delay_s if entry else 0.0

    def next(self, key: str, event: float, now: float) -> None:
        """An attempt is being made: the next one after a failure waits twice as long (or `first_s` if this is the first)."""
        entry = self._entries.get(key)
        if entry is None or event - entry.updated > 2 * self._max_s:
            self._entries[key] = _Entry(self._first_s, now)
        else:
            entry.delay_s = min(entry.delay_s * 2, self._max_s)
            entry.updated = now

    def forget(self, prefix: str) -> None:
        """Drop every key that starts with `prefix` (a pod that has gone)."""
        for key in [k for k in self._entries if k.startswith(prefix)]:
            del self._entries[key]


def duration(seconds: float) -> str:
    """Go's spelling of whole seconds: 10s, 2m40s, 5m0s."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest}s"
    return f"{minutes // 60}h{minutes % 60}m{rest}s"
