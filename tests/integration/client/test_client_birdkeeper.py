"""A BIRD that hangs: whoever keeps it goes on with everything else."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest

from nsk8s.client.birdkeeper import BirdKeeper
from nsk8s.kernel import bird


async def test_one_that_does_not_answer_does_not_block_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bird, "ANSWER_TIMEOUT_S", 1.0)
    keeper = BirdKeeper(tmp_path / "bird.conf", tmp_path, lambda: None)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "bird.ctl"))
        silent.listen()
        keeper._watch(os.pidfd_open(os.getpid()))  # something that lives
        begun = time.monotonic()
        asked = asyncio.ensure_future(keeper.ensure("router id 192.0.2.1;"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not asked.done() or time.monotonic() - begun > 1, "a hundred turns of the loop, and it still waits"
        with pytest.raises(bird.BirdError, match="bird does not answer"):
            await asked
        keeper._unwatch()
