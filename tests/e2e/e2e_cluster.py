"""A cluster as its user has it: through the `nsk8s` command only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = os.environ.get("NSK8S_E2E_NAME", "e2e")  # so that several developers can run these at once


def nsk8s(*words: str, ok: bool = True, timeout: float = 120, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `nsk8s WORDS`; with `ok` a non-zero exit code fails the test with what was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "nsk8s.cli.main", *words], capture_output=True, text=True, timeout=timeout, input=text,
        env={**os.environ, "NSK8S_CLUSTER": NAME}, check=False,
    )  # fmt: skip
    assert not ok or done.returncode == 0, f"nsk8s {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def get(*words: str) -> Any:
    return json.loads(nsk8s("get", *words, "-o", "json").stdout)


def netns(machine: str, *argv: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine, as a course would write it."""
    return subprocess.run(
        ["ip", "netns", "exec", f"{NAME}-{machine}", *argv], capture_output=True, text=True, timeout=timeout, check=False
    )


def components() -> dict[str, dict[str, Any]]:
    return {c["id"]: c for c in json.loads(nsk8s("status", "-o", "json", ok=False).stdout)["components"]}


def until(what: str, condition: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Poll until `condition()` is truthy; its value. Fails naming `what`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.05)


def pods(selector: str = "app=hello") -> list[dict[str, Any]]:
    """Running, ready, not terminating pods."""
    out = []
    for pod in get("pods", "-l", selector)["items"]:
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and not pod["metadata"].get("deletionTimestamp"):
            out.append(pod)
    return out


def ask(source: tuple[str, ...], url: str) -> dict[str, Any]:
    """What the echo server at `url` says when asked from `source` (words for `nsk8s enter`)."""
    done = nsk8s("enter", *source, "--", "curl", "-s", "-m", "5", url)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


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
        assert self._process.stdin is not None and self._process.stdout is not None and self._process.stderr is not None
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
        out, err = self._process.communicate(timeout=20)
        assert out, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
