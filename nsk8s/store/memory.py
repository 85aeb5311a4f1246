"""The reference store: etcd's semantics in the plainest way, for tests and for a server that keeps nothing.

All changes since the last compaction are one list; every answer is read off it.
"""

from __future__ import annotations

from collections.abc import Sequence

from nsk8s.store.base import (
    Compacted,
    Event,
    FutureRevision,
    KeyExists,
    KeyNotFound,
    KeyValue,
    Page,
    RevisionMismatch,
    Watch,
)
from nsk8s.store.hub import Hub


class MemoryStore:
    def __init__(self) -> None:
        self._live: dict[str, KeyValue] = {}
        self._base: dict[str, KeyValue] = {}
        """The live keys as of the compacted revision."""
        self._log: list[Event] = []
        """Every change after it, in order."""
        self._revision = 0
        self._compacted = 0
        self._hub = Hub()

    async def revision(self) -> int:
        return self._revision

    async def compact_revision(self) -> int:
        return self._compacted

    async def get(self, key: str) -> KeyValue | None:
        return self._live.get(key)

    async def list(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Page:
        state = self._state_at(revision) if revision else self._live
        keys = sorted(k for k in state if k.startswith(prefix) and k > after)
        page = keys[:limit] if limit else keys
        left = len(keys) - len(page)
        return Page([state[k] for k in page], revision or self._revision, left > 0, left)

    async def create(self, key: str, value: bytes) -> KeyValue:
        if key in self._live:
            raise KeyExists(key)
        return self._put(key, value, None)

    async def update(self, key: str, value: bytes, mod_revision: int) -> KeyValue:
        return self._put(key, value, self._expect(key, mod_revision))

    async def delete(self, key: str, mod_revision: int) -> KeyValue:
        old = self._expect(key, mod_revision)
        self._revision += 1
        del self._live[key]
        self._publish(Event(KeyValue(key, b"", old.create_revision, self._revision), old, deleted=True))
        return KeyValue(key, old.value, old.create_revision, self._revision)

    async def watch(self, prefix: str, revision: int) -> Watch:
        return self._hub.subscribe(prefix, self._changes(prefix, revision, self._revision))

    async def history(self, prefix: str, after: int, until: int) -> Sequence[Event]:
        return self._changes(prefix, after, until)

    async def compact(self, revision: int) -> None:
        if revision <= self._compacted:
            raise Compacted(revision, self._compacted)
        self._base = self._state_at(revision)
        self._log = [e for e in self._log if e.revision > revision]
        self._compacted = revision

    async def close(self) -> None:
        self._hub.close()

    def _put(self, key: str, value: bytes, old: KeyValue | None) -> KeyValue:
        self._revision += 1
        new = KeyValue(key, value, old.create_revision if old else self._revision, self._revision)
        self._live[key] = new
        self._publish(Event(new, old))
        return new

    def _expect(self, key: str, mod_revision: int) -> KeyValue:
        old = self._live.get(key)
        if old is None:
            raise KeyNotFound(key)
        if old.mod_revision != mod_revision:
            raise RevisionMismatch(key)
        return old

    def _publish(self, event: Event) -> None:
        self._log.append(event)
        self._hub.publish(event)

    def _changes(self, prefix: str, after: int, until: int) -> Sequence[Event]:
        self._check(after)
        return [e for e in self._log if after < e.revision <= until and e.kv.key.startswith(prefix)]

    def _check(self, revision: int) -> None:
        if revision < self._compacted:
            raise Compacted(revision, self._compacted)
        if revision > self._revision:
            raise FutureRevision(f"revision {revision} is after the newest, {self._revision}")

    def _state_at(self, revision: int) -> dict[str, KeyValue]:
        self._check(revision)
        state = dict(self._base)
        for event in self._log:
            if event.revision > revision:
                break
            if event.deleted:
                del state[event.kv.key]
            else:
                state[event.kv.key] = event.kv
        return state
