"""Keeps a BIRD running with the configuration that is wanted. For node-network and router-agent. Upstream: Calico's confd.

Touches: what `kernel.bird` touches, and the configuration file. BIRD outlives whoever keeps it; the next one takes it over.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from nsk8s.kernel import bird, process

log = logging.getLogger("bird")

STEADY_S = 10.0
MAX_DELAY_S = 10.0


class BirdKeeper:
    """`changed` is called when BIRD has ended, and when it is time to try again: then call `ensure` again."""

    def __init__(self, conf: Path, run: Path, changed: Callable[[], None]) -> None:
        self._bird = bird.Bird(conf, run)
        self._changed = changed
        self._watched: int | None = None
        self._applied = ""
        self._started = self._not_before = 0.0
        self._failures = 0

    async def ensure(self, text: str) -> bool:
        """Make BIRD run with this configuration; whether it does. One that does not answer holds up who waits for this only.

        Raises BirdError.
        """
        loop = asyncio.get_running_loop()
        if self._watched is None and not self._adopt() and loop.time() < self._not_before:
            return False  # `changed` comes when it is time
        if text != self._applied:
            _write(self._bird.conf, text)
        if self._watched is None:
            pid = self._bird.start(recover=self._bird.is_ours)
            log.info("bird started, pid %s", pid)
            self._started, self._applied = loop.time(), text
            self._watch(os.pidfd_open(pid))
        elif text != self._applied:
            await asyncio.to_thread(self._bird.configure)
            self._applied = text if self._watched is not None else ""
            log.info("bird has a new configuration")
        return self._applied == text

    async def end(self) -> bool:
        """End it, if there is one of ours; whether there was."""
        if not self._bird.is_ours:
            return False
        self._unwatch()
        self._applied = ""
        return await asyncio.to_thread(self._bird.end)

    def _adopt(self) -> bool:
        who = self._bird.who()
        fd = process.open_pidfd(who) if who is not None else None
        if fd is None:
            return False
        assert who is not None
        log.info("bird taken over, pid %s", who["pid"])
        self._started, self._applied = asyncio.get_running_loop().time(), ""
        self._watch(fd)
        return True

    def _watch(self, fd: int) -> None:
        self._watched = fd
        asyncio.get_running_loop().add_reader(fd, self._died)

    def _unwatch(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            os.close(self._watched)
            self._watched = None

    def _died(self) -> None:
        loop = asyncio.get_running_loop()
        self._unwatch()
        self._bird.who()
        ran = loop.time() - self._started
        self._failures = 0 if ran > STEADY_S else self._failures + 1
        delay = 0.0 if not self._failures else min(0.05 * 2**self._failures, MAX_DELAY_S)
        log.warning("bird ended after %.1f s; starting again in %.1f s", ran, delay)
        self._not_before = loop.time() + delay
        loop.call_later(delay, self._changed)


def _write(path: Path, text: str) -> None:
    """BIRD reads the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)
