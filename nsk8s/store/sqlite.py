"""The default store: one append-only SQLite table, as kine has it. Touches: one database file.

A row is a change; its id is the revision. `UNIQUE (name, prev)` is the compare-and-swap: two writers that read the same
revision of a key cannot both insert the row that follows it. For one key `prev` rises with `id`, so the same index also finds
the newest row. WAL with synchronous=NORMAL: a commit survives the death of the process at any moment, and after a power cut
the file is whole and lacks at most the last moments. Checkpoints (the only fsync) run in a thread.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nsk8s.errors import Nsk8sError, ServiceUnavailable
from nsk8s.store.base import (
    Compacted,
    Event,
    FutureRevision,
    KeyExists,
    KeyNotFound,
    KeyValue,
    Page,
    RevisionMismatch,
    StoreFull,
    Watch,
    prefix_end,
)
from nsk8s.store.hub import Hub

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    prev INTEGER NOT NULL,
    created INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    value BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS kv_name_prev ON kv (name, prev);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('compacted', 0);
INSERT OR IGNORE INTO meta VALUES ('schema', 1);
"""

_NEWEST = "SELECT id, created, deleted, value FROM kv WHERE name = ? ORDER BY prev DESC LIMIT 1"
_CREATE = "INSERT INTO kv (name, prev, created, value) VALUES (?, ?, 0, ?)"
_FOLLOW = """INSERT INTO kv (name, prev, created, deleted, value)
             SELECT name, id, iif(created, created, id), ?, ? FROM kv WHERE id = ? AND name = ? AND NOT deleted"""
_RANGE = """SELECT name, id, created, value FROM kv AS a
            WHERE name > ? AND name >= ? AND name < ? AND id <= ? AND NOT deleted
              AND NOT EXISTS (SELECT 1 FROM kv AS b WHERE b.name = a.name AND b.prev = a.id AND b.id <= ?)
            ORDER BY name"""
_HISTORY = """SELECT a.name, a.id, a.created, a.deleted, a.value, b.id, b.created, b.deleted, b.value
              FROM kv AS a LEFT JOIN kv AS b ON b.id = a.prev
              WHERE a.id > ? AND a.id <= ? AND a.name >= ? AND a.name < ? ORDER BY a.id"""

CHECKPOINT_EVERY = 1000
"""Writes between two checkpoints: keeps the WAL at a few MB."""
COMPACT_CHUNK = 500
"""Rows deleted in one go: a few milliseconds during which nobody is served."""


class SQLiteStore:
    """`path` may be ":memory:". Call `start()` inside the event loop for automatic compaction."""

    def __init__(self, path: str | Path, *, keep_s: float = 300.0, keep_revisions: int = 20_000) -> None:
        self._path = str(path)
        self._keep_s = keep_s
        self._keep_revisions = keep_revisions
        self._hub = Hub()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes_since_checkpoint = 0
        self._checkpointing = False
        self._lock = _lock(self._path)
        self._db = _open(self._path)
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'kv'").fetchone()
        self._revision: int = row[0] if row else 0
        self._swept = 0
        """Rows up to here have been looked at by a compaction of this process."""
        self._compacted: int = self._db.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()[0]

    def start(self, period_s: float = 30.0) -> None:
        """Begin to forget: revisions older than `keep_s` seconds, or beyond the last `keep_revisions`."""
        self._spawn(asyncio.get_running_loop().create_task(self._compact_forever(period_s)))

    async def revision(self) -> int:
        return self._revision

    async def compact_revision(self) -> int:
        return self._compacted

    async def get(self, key: str) -> KeyValue | None:
        row = self._db.execute(_NEWEST, (key,)).fetchone()
        if row is None or row[2]:
            return None
        return KeyValue(key, row[3], row[1] or row[0], row[0])

    async def list(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Page:
        if revision:
            self._check(revision)
        at = revision or self._revision
        where = (after, prefix, prefix_end(prefix), at, at)
        sql = f"{_RANGE} LIMIT {int(limit) + 1}" if limit else _RANGE
        rows = self._db.execute(sql, where).fetchall()
        more = bool(limit) and len(rows) > limit
        items = [KeyValue(n, v, c or i, i) for n, i, c, v in (rows[:limit] if more else rows)]
        remaining = 0
        if more:
            total = self._db.execute(f"SELECT count(*) FROM ({_RANGE})", where).fetchone()[0]
            remaining = int(total) - limit
        return Page(items, at, more, remaining)

    async def create(self, key: str, value: bytes) -> KeyValue:
        with _writing(self._path):
            old = self._db.execute(_NEWEST, (key,)).fetchone()
            if old is not None and not old[2]:
                raise KeyExists(key)
            try:
                revision = self._insert(_CREATE, (key, old[0] if old else 0, value))
            except sqlite3.IntegrityError as e:
                raise KeyExists(key) from e
        new = KeyValue(key, value, revision, revision)
        self._committed(Event(new, None))
        return new

    async def update(self, key: str, value: bytes, mod_revision: int) -> KeyValue:
        old = self._follow(key, value, mod_revision, deleted=0)
        new = KeyValue(key, value, old.create_revision, self._revision)
        self._committed(Event(new, old))
        return new

    async def delete(self, key: str, mod_revision: int) -> KeyValue:
        old = self._follow(key, b"", mod_revision, deleted=1)
        self._committed(Event(KeyValue(key, b"", old.create_revision, self._revision), old, deleted=True))
        return KeyValue(key, old.value, old.create_revision, self._revision)

    async def watch(self, prefix: str, revision: int) -> Watch:
        return self._hub.subscribe(prefix, self._changes(prefix, revision, self._revision))

    async def history(self, prefix: str, after: int, until: int) -> Sequence[Event]:
        return self._changes(prefix, after, until)

    async def compact(self, revision: int) -> None:
        if revision <= self._compacted:
            raise Compacted(revision, self._compacted)
        self._check(revision)
        with _writing(self._path):
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (revision,))
            self._compacted = revision
            # What a row at or before the revision replaced, and only then deletions (a deletion must outlive what it hides):
            # no list or watch after the revision can see them.
            for sql in (
                "SELECT b.id FROM kv AS a JOIN kv AS b ON b.id = a.prev WHERE a.id > ? AND a.id <= ?",
                "SELECT id FROM kv WHERE id > ? AND deleted AND id <= ?",
            ):
                dead = self._db.execute(sql, (self._swept, revision)).fetchall()
                for start in range(0, len(dead), COMPACT_CHUNK):
                    self._delete_rows(dead[start : start + COMPACT_CHUNK])
                    await asyncio.sleep(0)
            self._swept = revision

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hub.close()
        self._db.close()
        if self._lock >= 0:
            os.close(self._lock)

    def _delete_rows(self, ids: Sequence[tuple[int]]) -> None:
        self._db.execute("BEGIN")
        try:
            self._db.executemany("DELETE FROM kv WHERE id = ?", ids)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._db.execute("ROLLBACK")
            raise

    def _follow(self, key: str, value: bytes, mod_revision: int, *, deleted: int) -> KeyValue:
        """Insert the row that follows `mod_revision` of `key`; what was there before."""
        with _writing(self._path):
            old = self._db.execute(_NEWEST, (key,)).fetchone()
            if old is None or old[2]:
                raise KeyNotFound(key)
            try:
                self._insert(_FOLLOW, (deleted, value, mod_revision, key))
            except sqlite3.IntegrityError as e:
                raise RevisionMismatch(key) from e
        return KeyValue(key, old[3], old[1] or old[0], old[0])

    def _insert(self, sql: str, values: tuple[object, ...]) -> int:
        cursor = self._db.execute(sql, values)
        if cursor.rowcount != 1 or cursor.lastrowid is None:
            raise RevisionMismatch(str(values[-1]))
        self._revision = cursor.lastrowid
        return cursor.lastrowid

    def _committed(self, event: Event) -> None:
        self._hub.publish(event)
        self._writes_since_checkpoint += 1
        if self._writes_since_checkpoint >= CHECKPOINT_EVERY and not self._checkpointing and self._path != ":memory:":
            self._writes_since_checkpoint = 0
            self._checkpointing = True
            self._spawn(asyncio.get_running_loop().create_task(self._checkpoint()))

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _checkpoint(self) -> None:
        try:
            await asyncio.to_thread(_checkpoint, self._path)
        finally:
            self._checkpointing = False

    async def _compact_forever(self, period_s: float) -> None:
        loop = asyncio.get_running_loop()
        seen: deque[tuple[float, int]] = deque()
        while True:
            now = loop.time()
            seen.append((now, self._revision))
            wanted = self._revision - self._keep_revisions
            while seen and seen[0][0] <= now - self._keep_s:
                wanted = max(wanted, seen.popleft()[1])
            if wanted > self._compacted:
                with suppress(ServiceUnavailable):  # a full disk: the next round tries again
                    await self.compact(wanted)
            await asyncio.sleep(period_s)

    def _changes(self, prefix: str, after: int, until: int) -> Sequence[Event]:
        self._check(after)
        if after >= until:
            return []
        return [_event(row) for row in self._db.execute(_HISTORY, (after, until, prefix, prefix_end(prefix)))]

    def _check(self, revision: int) -> None:
        if revision < self._compacted:
            raise Compacted(revision, self._compacted)
        if revision > self._revision:
            raise FutureRevision(f"revision {revision} is after the newest, {self._revision}")


def _event(row: tuple[str, int, int, int, bytes, int | None, int, int, bytes]) -> Event:
    name, revision, created, deleted, value, old_revision, old_created, old_deleted, old_value = row
    prev = None
    if old_revision is not None and not old_deleted:
        prev = KeyValue(name, old_value, old_created or old_revision, old_revision)
    return Event(KeyValue(name, value, created or revision, revision), prev, bool(deleted))


def _lock(path: str) -> int:
    """One process owns the file: a second writer would break the count of revisions. The descriptor that holds the lock."""
    if path == ":memory:":
        return -1
    try:
        fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise Nsk8sError(f"cannot open the store {path}: {e.strerror}", "check the data directory and its rights") from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(fd)
        raise Nsk8sError(f"the store {path} is in use by another process", "stop that one first") from e
    return fd


def _open(path: str) -> sqlite3.Connection:
    try:
        # The statement cache and the page cache are per process: 2 MB are plenty, every read comes from the object cache.
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA cache_size = -2000")
        db.executescript(_SCHEMA)
        _checkpoint_on(db)
    except sqlite3.Error as e:
        raise Nsk8sError(f"cannot open the store {path}: {e}", "check the data directory, its rights and its disk") from e
    return db


def _checkpoint(path: str) -> None:
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    except sqlite3.Error:
        return
    try:
        _checkpoint_on(db)
    finally:
        db.close()


def _checkpoint_on(db: sqlite3.Connection) -> None:
    with suppress(sqlite3.OperationalError):  # a full disk: the WAL keeps everything, the next checkpoint tries again
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as e:
        text = str(e)
        if "full" in text or "disk I/O" in text:
            raise StoreFull(f"the store {path} cannot be written: {text}") from e
        raise ServiceUnavailable(f"the store {path} cannot be written: {text}") from e
