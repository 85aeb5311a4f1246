"""When a changed configuration file counts as changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsk8s.proxy.configwatch import ConfigWatch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.conf"
    path.write_text("mode: iptables\n")
    return path


def rewrite(file: Path, text: str) -> None:
    """As `sed -i` and `kubectl edit` do: a new file in the old one's place."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def looks(watch: ConfigWatch, times: int) -> list[bool]:
    return [watch.has_changed() for _ in range(times)]


def test_what_stays_or_is_only_touched_does_not_count(file: Path) -> None:
    watch = ConfigWatch(file)
    assert looks(watch, 3) == [False] * 3
    os.utime(file, ns=(1, 1))
    rewrite(file, file.read_text())
    assert looks(watch, 3) == [False] * 3


@pytest.mark.parametrize("write", [rewrite, Path.write_text])
def test_another_content_counts_once_it_stands_still(file: Path, write) -> None:
    watch = ConfigWatch(file)
    write(file, "mode: nft")
    assert looks(watch, 1) == [False], "it may be half of it"
    write(file, "mode: nftables\n")
    assert looks(watch, 2) == [False, True]


def test_a_change_between_loading_and_watching_is_not_missed(file: Path) -> None:
    watch = ConfigWatch(file)
    rewrite(file, "mode: nftables\n")  # as long as it was
    assert looks(watch, 2) == [False, True]


def test_taken_back_in_time_it_never_changed(file: Path) -> None:
    watch = ConfigWatch(file)
    before = file.read_text()
    rewrite(file, "mode: nftables\n")
    assert looks(watch, 1) == [False]
    rewrite(file, before)
    assert looks(watch, 3) == [False] * 3


def test_a_file_that_is_gone_says_nothing(file: Path) -> None:
    watch = ConfigWatch(file)
    before = file.read_text()
    file.unlink()
    assert looks(watch, 3) == [False] * 3
    file.write_text(before)
    assert looks(watch, 3) == [False] * 3
    file.write_text("mode: nftables\nclusterCIDR: 10.244.0.0/16\n")
    assert looks(watch, 2) == [False, True]


def test_a_configmaps_file_is_followed_by_its_link(tmp_path: Path) -> None:
    for name, mode in (("v1", "iptables"), ("v2", "nftables")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.conf").write_text(f"mode: {mode}\n")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    watch = ConfigWatch(tmp_path / "config.conf")
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert looks(watch, 2) == [False, True]
