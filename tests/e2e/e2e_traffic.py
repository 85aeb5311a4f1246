"""Traffic that goes on while a test breaks something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e_cluster import NAME, until


class Load:
    """Traffic from a pod to a Service while the `with` block runs: see e2e_load.py."""

    def __init__(self, pod: str, host: str, port: int = 80) -> None:
        source = (Path(__file__).parent / "e2e_load.py").read_text()
        words = ["enter", f"pod/{pod}", "--", "/usr/bin/python3", "-c", source, host, str(port)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nsk8s.cli.main", *words], text=True, env={**os.environ, "NSK8S_CLUSTER": NAME},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Load:
        until("the first connections are answered", lambda: self.counts()["answered"] > 10 and self.counts()["stream"] > 2)
        return self

    def counts(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the load client died: {self._process.stderr.read()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def more(self, connections: int = 50) -> None:
        """Return when so many more new connections have been answered, and the open one has gone on."""
        before = self.counts()

        def done() -> bool:
            now = self.counts()
            assert not now["failed"], now["errors"]
            return now["answered"] >= before["answered"] + connections and now["stream"] > before["stream"] + 1

        until(f"{connections} more connections", done)

    def finish(self) -> dict[str, Any]:
        """End the load; its last counts."""
        out, err = self._process.communicate(timeout=60)  # open ones may take e2e_load.TIMEOUT_S
        assert out, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
