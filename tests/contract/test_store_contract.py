"""One suite for every implementation of the store's seam: etcd's semantics, nothing of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nsk8s.store.base import (
    Compacted,
    Event,
    FutureRevision,
    KeyExists,
    KeyNotFound,
    RevisionMismatch,
    Store,
    StoreFull,
    Watch,
)
from nsk8s.store.memory import MemoryStore
from nsk8s.store.sqlite import SQLiteStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "state.db")
    yield made
    await made.close()


async def take(watch: Watch, count: int) -> list[Event]:
    events: list[Event] = []
    while len(events) < count:
        events += await asyncio.wait_for(watch.__anext__(), 30)
    return events


def told(events: list[Event]) -> list[tuple[str, str, bytes, bytes | None, int]]:
    return [
        ("DELETE" if e.deleted else "PUT", e.kv.key, e.kv.value, e.prev.value if e.prev else None, e.revision) for e in events
    ]


async def test_revisions_count_every_change_once(store: Store) -> None:
    assert await store.revision() == 0
    a = await store.create("/a", b"1")
    assert (a.create_revision, a.mod_revision) == (1, 1)
    a2 = await store.update("/a", b"2", 1)
    assert (a2.create_revision, a2.mod_revision, a2.value) == (1, 2, b"2")
    gone = await store.delete("/a", 2)
    assert (gone.mod_revision, gone.value, gone.create_revision) == (3, b"2", 1)
    assert await store.get("/a") is None
    again = await store.create("/a", b"3")
    assert (again.create_revision, again.mod_revision) == (4, 4)
    assert await store.get("/a") == again
    assert await store.revision() == 4


async def test_writes_that_lose_say_so_and_change_nothing(store: Store) -> None:
    await store.create("/a", b"1")
    with pytest.raises(KeyExists):
        await store.create("/a", b"x")
    with pytest.raises(KeyNotFound):
        await store.update("/b", b"x", 1)
    with pytest.raises(KeyNotFound):
        await store.delete("/b", 1)
    await store.update("/a", b"2", 1)
    with pytest.raises(RevisionMismatch):
        await store.update("/a", b"x", 1)
    with pytest.raises(RevisionMismatch):
        await store.delete("/a", 1)
    with pytest.raises(RevisionMismatch):
        await store.update("/a", b"x", 99)
    kept = await store.get("/a")
    assert kept is not None
    assert kept.value == b"2"
    assert await store.revision() == 2
    await store.delete("/a", 2)
    with pytest.raises(KeyNotFound):
        await store.delete("/a", 2)
    with pytest.raises(KeyNotFound):
        await store.update("/a", b"x", 3)


async def test_list_is_a_snapshot_in_key_order_with_pages(store: Store) -> None:
    for name in ("c", "a", "b", "e", "d"):
        await store.create(f"/x/{name}", name.encode())
    await store.create("/y/a", b"other")
    first = await store.list("/x/", limit=2)
    assert [kv.key for kv in first.items] == ["/x/a", "/x/b"]
    assert (first.more, first.remaining, first.revision) == (True, 3, 6)
    c = await store.get("/x/c")
    assert c is not None
    await store.delete("/x/c", c.mod_revision)
    await store.update("/x/d", b"new", 5)
    await store.create("/x/bb", b"new")
    second = await store.list("/x/", revision=first.revision, limit=2, after="/x/b")
    assert [(kv.key, kv.value) for kv in second.items] == [("/x/c", b"c"), ("/x/d", b"d")]
    third = await store.list("/x/", revision=first.revision, limit=2, after="/x/d")
    assert [kv.key for kv in third.items] == ["/x/e"]
    assert (third.more, third.remaining) == (False, 0)
    now = await store.list("/x/")
    assert [(kv.key, kv.value) for kv in now.items] == [
        ("/x/a", b"a"), ("/x/b", b"b"), ("/x/bb", b"new"), ("/x/d", b"new"), ("/x/e", b"e")]  # fmt: skip
    assert now.revision == 9
    with pytest.raises(FutureRevision):
        await store.list("/x/", revision=10)


async def test_a_prefix_is_text_not_a_pattern(store: Store) -> None:
    await store.create("/a_b/x", b"1")
    await store.create("/aXb/x", b"2")
    await store.create("/a%/x", b"3")
    assert [kv.value for kv in (await store.list("/a_b/")).items] == [b"1"]
    assert [kv.value for kv in (await store.list("/a%/")).items] == [b"3"]


async def test_watch_gives_history_then_what_comes_each_once_in_order(store: Store) -> None:
    await store.create("/x/a", b"1")
    await store.create("/y/a", b"other")
    await store.update("/x/a", b"2", 1)
    watch = await store.watch("/x/", 1)
    await store.create("/x/b", b"b")
    await store.delete("/x/a", 3)
    await store.create("/y/b", b"other")
    await store.create("/x/a", b"3")
    assert told(await take(watch, 4)) == [
        ("PUT", "/x/a", b"2", b"1", 3),
        ("PUT", "/x/b", b"b", None, 4),
        ("DELETE", "/x/a", b"", b"2", 5),
        ("PUT", "/x/a", b"3", None, 7),
    ]
    watch.close()
    with pytest.raises(StopAsyncIteration):
        await watch.__anext__()


async def test_watch_from_history_equals_watch_that_was_there(store: Store) -> None:
    live = await store.watch("/", 0)
    revision: dict[str, int] = {}
    for i in range(60):
        key = f"/{i % 7}"
        if key not in revision:
            revision[key] = (await store.create(key, str(i).encode())).mod_revision
        elif i % 5 == 0:
            await store.delete(key, revision.pop(key))
        else:
            revision[key] = (await store.update(key, str(i).encode(), revision[key])).mod_revision
    seen = await take(live, 60)
    for start in (0, 1, 17, 59):
        late = await store.watch("/", start)
        assert told(await take(late, 60 - start)) == told(seen)[start:]
        assert told(list(await store.history("/", start, 59))) == told(seen)[start:59]
    assert [e.kv.key for e in await store.history("/3", 10, 40)] == [e.kv.key for e in seen[10:40] if e.kv.key == "/3"]
    with pytest.raises(FutureRevision):
        await store.watch("/", 61)


async def test_a_waiting_watch_wakes(store: Store) -> None:
    watch = await store.watch("/", 0)
    waiting = asyncio.ensure_future(watch.__anext__())
    await asyncio.sleep(0)
    await store.create("/a", b"1")
    assert told(await asyncio.wait_for(waiting, 30)) == [("PUT", "/a", b"1", None, 1)]
    waiting = asyncio.ensure_future(watch.__anext__())
    await asyncio.sleep(0)
    watch.close()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, 30)


async def test_compaction_forgets_the_past_and_keeps_the_present(store: Store) -> None:
    await store.create("/a", b"1")
    await store.update("/a", b"2", 1)
    await store.update("/a", b"3", 2)
    await store.create("/gone", b"x")
    await store.delete("/gone", 4)
    await store.create("/b", b"b")
    await store.update("/a", b"4", 3)
    await store.compact(5)
    assert await store.compact_revision() == 5
    with pytest.raises(Compacted):
        await store.list("/", revision=4)
    with pytest.raises(Compacted):
        await store.watch("/", 4)
    with pytest.raises(Compacted):
        await store.compact(5)
    with pytest.raises(FutureRevision):
        await store.compact(8)
    assert [(kv.key, kv.value) for kv in (await store.list("/", revision=5)).items] == [("/a", b"3")]
    assert [(kv.key, kv.value) for kv in (await store.list("/")).items] == [("/a", b"4"), ("/b", b"b")]
    watch = await store.watch("/", 5)
    assert told(await take(watch, 2)) == [("PUT", "/b", b"b", None, 6), ("PUT", "/a", b"4", b"3", 7)]
    again = await store.create("/gone", b"y")
    assert (again.create_revision, again.mod_revision) == (8, 8)
    await store.compact(8)
    assert [kv.key for kv in (await store.list("/")).items] == ["/a", "/b", "/gone"]
    await store.delete("/gone", 8)
    await store.compact(9)
    assert await store.get("/gone") is None
    assert await store.revision() == 9


async def test_one_of_many_writers_wins_each_round(store: Store) -> None:
    await store.create("/n", b"0")

    async def add() -> None:
        while True:
            old = await store.get("/n")
            assert old is not None
            await asyncio.sleep(0)
            try:
                await store.update("/n", str(int(old.value) + 1).encode(), old.mod_revision)
                return
            except RevisionMismatch:
                continue

    await asyncio.gather(*(add() for _ in range(50)))
    total = await store.get("/n")
    assert total is not None
    assert total.value == b"50"


async def test_sqlite_reopens_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SQLiteStore(path)
    await store.create("/a", b"1")
    await store.update("/a", b"2", 1)
    await store.create("/b", b"b")
    await store.delete("/b", 3)
    await store.compact(4)
    await store.close()
    again = SQLiteStore(path)
    assert await again.revision() == 4
    assert await again.compact_revision() == 4
    assert (await again.create("/b", b"c")).mod_revision == 5
    assert [kv.value for kv in (await again.list("/")).items] == [b"2", b"c"]
    await again.close()


async def test_sqlite_refuses_a_full_disk_and_loses_nothing(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "state.db")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 20}")
    written = 0
    refused: StoreFull | None = None
    while refused is None:
        try:
            await store.create(f"/{written}", b"x" * 3000)
            written += 1
        except StoreFull as e:
            refused = e
    assert refused.code == 507
    assert 0 < written < 50
    assert await store.revision() == written
    kv = await store.get("/0")
    assert kv is not None
    await store.delete("/0", kv.mod_revision)
    store._db.execute("PRAGMA max_page_count = 100000")
    await store.create("/after", b"fine")
    assert len((await store.list("/")).items) == written
    await store.close()


async def test_sqlite_has_one_owner(tmp_path: Path) -> None:
    from nsk8s.errors import Nsk8sError

    store = SQLiteStore(tmp_path / "state.db")
    with pytest.raises(Nsk8sError, match="in use by another process"):
        SQLiteStore(tmp_path / "state.db")
    await store.close()
    await SQLiteStore(tmp_path / "state.db").close()


async def test_sqlite_compacts_by_itself(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "state.db", keep_s=1e9, keep_revisions=10)
    revision = (await store.create("/a", b"0")).mod_revision
    for i in range(100):
        revision = (await store.update("/a", str(i).encode(), revision)).mod_revision
    store.start(period_s=0.01)
    async with asyncio.timeout(30):
        while store._db.execute("SELECT count(*) FROM kv").fetchone()[0] > 11:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await store.compact_revision() == 91
    await store.close()
