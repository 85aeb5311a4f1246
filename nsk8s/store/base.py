"""The store's seam: etcd's semantics as a Protocol. Pure apart from being async.

One global revision counts every change. A key holds bytes and knows the revisions that created and last changed it; a write
names the revision it was computed from (compare-and-swap), a list is a snapshot at one revision, a watch gives every change
after a revision once and in order, and compaction forgets old revisions. Upstream: etcd's KV and Watch services, kine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nsk8s.errors import Nsk8sError, ServiceUnavailable


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change. A deletion's `kv` has an empty value and the revision of the deletion; `prev` is what was there before."""

    kv: KeyValue
    prev: KeyValue | None
    deleted: bool = False

    @property
    def revision(self) -> int:
        return self.kv.mod_revision


@dataclass(frozen=True, slots=True)
class Page:
    """A range at `revision`: its first `limit` entries by key, and whether there are more."""

    items: list[KeyValue]
    revision: int
    more: bool
    remaining: int


class KeyExists(Nsk8sError):
    """Create of a key that is there."""


class KeyNotFound(Nsk8sError):
    """Update or delete of a key that is not there."""


class RevisionMismatch(Nsk8sError):
    """The key changed since the revision that the writer had read."""


class Compacted(Nsk8sError):
    """The revision asked for has been forgotten; `oldest` is the oldest one still known."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"revision {revision} has been compacted, the oldest is {oldest}")
        self.oldest = oldest


class FutureRevision(Nsk8sError):
    """The revision asked for has not happened yet."""


class StoreFull(ServiceUnavailable):
    """The disk is full. Nothing that was acknowledged is lost; this write was not done."""

    code = 507
    reason = "InsufficientStorage"


class Watch(Protocol):
    """A subscription: batches of events in revision order, each event once. Ends with `Compacted` if it cannot keep that."""

    def __aiter__(self) -> AsyncIterator[list[Event]]: ...

    async def __anext__(self) -> list[Event]: ...

    def close(self) -> None:
        """Ends the iteration."""


class Store(Protocol):
    async def revision(self) -> int:
        """The newest revision; 0 before the first write."""

    async def compact_revision(self) -> int:
        """The revision up to which history has been forgotten; 0 = nothing."""

    async def get(self, key: str) -> KeyValue | None: ...

    async def list(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Page:
        """The live keys below `prefix` as of `revision` (0 = now), in byte order, beginning behind `after`.

        Raises Compacted, FutureRevision."""

    async def create(self, key: str, value: bytes) -> KeyValue:
        """Raises KeyExists, StoreFull."""

    async def update(self, key: str, value: bytes, mod_revision: int) -> KeyValue:
        """Raises KeyNotFound, RevisionMismatch, StoreFull."""

    async def delete(self, key: str, mod_revision: int) -> KeyValue:
        """Returns what was there, with mod_revision = the deletion's. Raises KeyNotFound, RevisionMismatch, StoreFull."""

    async def watch(self, prefix: str, revision: int) -> Watch:
        """Every change below `prefix` after `revision`. Raises Compacted, FutureRevision."""

    async def history(self, prefix: str, after: int, until: int) -> Sequence[Event]:
        """The changes below `prefix` of revisions `after` < r ≤ `until`, in order. Raises Compacted, FutureRevision."""

    async def compact(self, revision: int) -> None:
        """Forget what only revisions before `revision` could see. Raises Compacted, FutureRevision."""

    async def close(self) -> None: ...


def prefix_end(prefix: str) -> str:
    """The first string after all that begin with `prefix` (keys are below U+10FFFF)."""
    return prefix + "\U0010ffff"
