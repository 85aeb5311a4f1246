"""Whether the file given by --config still says what it said. Upstream: cmd/kube-proxy/app/options.go (initWatcher).

Upstream ends when its file was written to, and whoever started it starts it again. So do we: a mode or a flag cannot be
changed halfway. The file is looked at by its path, so that a ConfigMap's change is heard as well, and once a second: inotify
instances are a limit of the whole machine. Touches: one file, the clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from nsk8s.errors import Nsk8sError

LOOK_S = 1.0


class ConfigWatch:
    def __init__(self, path: str | Path) -> None:
        """What is there now is what counts: made before the file is loaded, no change is missed."""
        self._path = Path(path)
        self._stamp = self._look()
        self._loaded = self._digest()
        self._differing: bytes | None = None

    async def run(self) -> None:
        """Return never. Raises Nsk8sError once the file says something else."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.has_changed():
                raise Nsk8sError("content of the proxy server's configuration file was updated")

    def has_changed(self) -> bool:
        """Whether the file says something else and said the same at the look before: an editor may write it in pieces.

        A file that is gone says nothing.
        """
        stamp = self._look()
        if stamp == self._stamp and self._differing is None:
            return False
        self._stamp, found = stamp, self._digest()
        if found is not None and found == self._differing:
            return True
        self._differing = found if found != self._loaded else None
        return False

    def _look(self) -> tuple[int, ...]:
        """What differs after every write; empty when there is no such file."""
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev

    def _digest(self) -> bytes | None:
        try:
            return hashlib.sha256(self._path.read_bytes()).digest()
        except OSError:
            return None
