"""Logs in CRI's format, atomically published files, volume contents. In a temporary folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from kubelet_objects import pod

from nsk8s.kubelet import atomic, logs
from nsk8s.kubelet.atomic import File
from nsk8s.kubelet.env import ConfigError
from nsk8s.kubelet.logs import LogOptions
from nsk8s.kubelet.starting import logged_attempts
from nsk8s.kubelet.volumes import MountError, check_host_path, downward_files, select_items

LOG = (
    b"2026-11-21T10:00:00.000000001Z stdout F one\n"
    b"2026-11-21T10:00:01.5Z stderr F two\n"
    b"2026-11-21T10:00:02Z stdout P thr\n"
    b"2026-11-21T10:00:02Z stdout F ee\n"
)


async def collect(path, options, ended=lambda: True):
    return b"".join([c async for c in logs.read(str(path), options, ended)])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (LogOptions(), b"one\ntwo\nthree\n"),
        (LogOptions(tail_lines=0), b""),
        (LogOptions(tail_lines=3), b"two\nthree\n"),
        (LogOptions(tail_lines=99), b"one\ntwo\nthree\n"),
        (LogOptions(limit_bytes=5), b"one\nt"),
        (LogOptions(stream="stderr"), b"two\n"),
        (LogOptions(since_ns=logs.parse_ns(b"2026-11-21T10:00:01Z")), b"two\nthree\n"),
        (LogOptions(timestamps=True, tail_lines=1), b"2026-11-21T10:00:02Z ee\n"),
    ],
)
async def test_reading_logs(tmp_path, options, text):
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    assert await collect(path, options) == text


async def test_long_logs_are_cut_at_line_ends(tmp_path):
    path = tmp_path / "0.log"
    line = b"2026-11-21T10:00:00Z stdout F " + b"x" * 1000 + b"\n"
    path.write_bytes(line * 500)
    assert await collect(path, LogOptions()) == (b"x" * 1000 + b"\n") * 500
    assert await collect(path, LogOptions(tail_lines=200)) == (b"x" * 1000 + b"\n") * 200


async def test_following_goes_on_in_the_new_file_after_rotation(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    ended = asyncio.Event()
    got = b""
    async for chunk in logs.read(str(path), LogOptions(follow=True), ended.is_set):
        got += chunk
        if got.endswith(b"three\n"):
            with open(path, "ab") as f:
                f.write(b"2026-11-21T10:00:03Z stdout F before\n")
            os.rename(path, tmp_path / "0.log.1")
            path.write_bytes(b"2026-11-21T10:00:04Z stdout F after\n")
        if got.endswith(b"after\n"):
            ended.set()
    assert got == b"one\ntwo\nthree\nbefore\nafter\n"


async def test_a_missing_log_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        await collect(tmp_path / "none", LogOptions())


def test_times():
    assert logs.parse_ns(b"1970-01-01T00:00:01.000000002Z") == 1_000_000_002
    assert logs.parse_ns(b"1970-01-01T01:00:00+01:00") == 0
    assert logs.parse_ns(b"junk") == 0


def test_rotation_keeps_as_many_as_asked_for(tmp_path):
    path = tmp_path / "0.log"
    for i in range(4):
        (tmp_path / f"0.log.2026010{i}-000000").write_text("old")
    path.write_text("new")
    logs.rotate(str(path), 3)
    left = sorted(os.listdir(tmp_path))
    assert len(left) == 2
    assert left[0] == "0.log.20260103-000000"
    assert (tmp_path / left[1]).read_text() == "new"


def test_termination_message_from_the_log(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    assert logs.last_lines(str(path), 80, 2048) == "one\ntwo\nthree\n"
    assert logs.last_lines(str(path), 80, 4) == "ree\n"
    assert logs.last_lines(str(tmp_path / "none"), 80, 4) == ""


def listing(folder):
    return {n: (folder / n).read_bytes() for n in os.listdir(folder) if not n.startswith("..")}


def test_publishing_files_at_once(tmp_path):
    folder = tmp_path / "v"
    assert atomic.write(str(folder), {"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)})
    assert (folder / "a").read_bytes() == b"1"
    assert (folder / "d" / "b").read_bytes() == b"2"
    assert os.readlink(folder / "a") == "..data/a"
    assert (folder / "d" / "b").stat().st_mode & 0o777 == 0o600
    before = os.readlink(folder / "..data")
    assert not atomic.write(str(folder), {"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}), "nothing new"
    assert os.readlink(folder / "..data") == before
    assert atomic.write(str(folder), {"c": File(b"3", 0o644)})
    assert listing(folder) == {"c": b"3"}
    assert [n for n in os.listdir(folder) if n.startswith("..2")] == [os.readlink(folder / "..data")]


def test_a_volume_without_content_is_an_empty_folder(tmp_path):
    assert atomic.write(str(tmp_path / "v"), {})
    assert not atomic.write(str(tmp_path / "v"), {})
    assert listing(tmp_path / "v") == {}


def test_items():
    data = {"a": b"1", "b": b"2"}
    assert select_items(data, None, 0o640, False, "configmap") == {"a": File(b"1", 0o640), "b": File(b"2", 0o640)}
    assert select_items(data, [{"key": "a", "path": "x/y", "mode": 0o400}], 0o640, False, "c") == {"x/y": File(b"1", 0o400)}
    with pytest.raises(ConfigError, match="references non-existent config key: z"):
        select_items(data, [{"key": "z", "path": "z"}], 0o640, False, "configmap")
    assert select_items(data, [{"key": "z", "path": "z"}], 0o640, True, "configmap") == {}
    with pytest.raises(ConfigError):
        select_items(data, [{"key": "a", "path": "../a"}], 0o640, False, "configmap")


def test_downward_files():
    p = pod(meta={"labels": {"a": "b"}})
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    assert downward_files(p, items, 0o644, {}) == {"labels": File(b'a="b"', 0o644)}


def test_host_paths(tmp_path):
    check_host_path({"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"})
    assert (tmp_path / "new").is_dir()
    check_host_path({"path": str(tmp_path / "f"), "type": "FileOrCreate"})
    with pytest.raises(MountError, match="is not a directory"):
        check_host_path({"path": str(tmp_path / "f"), "type": "Directory"})
    with pytest.raises(MountError, match="is not a socket file"):
        check_host_path({"path": str(tmp_path / "none"), "type": "Socket"})
    with pytest.raises(MountError, match="absolute"):
        check_host_path({"path": "../x", "type": ""})


def test_a_containers_logs_say_how_often_it_was_started_when_the_runtime_has_forgotten(tmp_path: Path) -> None:
    assert logged_attempts(str(tmp_path / "never-started")) == 0
    assert logged_attempts(str(tmp_path)) == 0
    for name in ("0.log", "9.log", "10.log", "10.log.20261121-101112.gz", "x.log", "11.txt"):
        (tmp_path / name).touch()
    assert logged_attempts(str(tmp_path)) == 11
