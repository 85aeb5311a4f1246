"""The lock of a cluster's lifecycle commands, whose file is removed by whoever leaves last."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nsk8s.cluster import state


def test_one_at_a_time_although_the_file_is_removed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUN_ROOT", tmp_path / "run")
    inside, most, rounds = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, rounds
        for _ in range(100):
            with state.locked("c"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                    rounds += 1
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert (most, rounds) == (1, 800)
    assert not (tmp_path / "run").exists()
