"""What a controller has asked for and its cache has not shown yet, so that a stale cache never acts twice. Pure.

Upstream: pkg/controller/controller_utils.go (UIDTrackingControllerExpectations).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

TIMEOUT_S = 300.0
"""After so long an expectation counts as met: an event may have been missed across a relist."""


@dataclass
class _Expected:
    creations: int = 0
    deletions: set[str] = field(default_factory=set)
    since: float = 0.0


class Expectations:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_key: dict[str, _Expected] = {}

    def satisfied(self, key: str) -> bool:
        """Whether the cache shows everything that was asked for under `key`."""
        expected = self._by_key.get(key)
        if expected is None:
            return True
        if (expected.creations <= 0 and not expected.deletions) or self._clock() - expected.since > TIMEOUT_S:
            del self._by_key[key]
            return True
        return False

    def expect_creations(self, key: str, count: int) -> None:
        self._entry(key).creations += count

    def expect_deletions(self, key: str, uids: Iterable[str]) -> None:
        self._entry(key).deletions.update(uids)

    def created(self, key: str, count: int = 1) -> None:
        """A creation was seen, or is known to have failed."""
        expected = self._by_key.get(key)
        if expected is not None:
            expected.creations -= count

    def deleted(self, key: str, uid: str) -> None:
        """The object was seen to go (or to be marked for deletion), or deleting it is known to have failed."""
        expected = self._by_key.get(key)
        if expected is not None:
            expected.deletions.discard(uid)

    def forget(self, key: str) -> None:
        self._by_key.pop(key, None)

    def _entry(self, key: str) -> _Expected:
        entry = self._by_key.setdefault(key, _Expected())
        entry.since = self._clock()
        return entry
