"""What a fork finds when it has become a component."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from nsk8s.cluster import launch
from nsk8s.kernel.cgroup import Cgroups

pytestmark = pytest.mark.root
CGROUP = "/nsk8s/launch0test"


def became(tmp_path: Path, main: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `main` says of itself, run as a component is."""
    module = types.ModuleType("launched")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "launched", module)
    said = tmp_path / "said"
    spec = {
        "id": "node1/launched", "name": "launched", "machine": "node1", "target": "launched:main", "argv": [str(said)],
        "kind": "fork", "netns": "", "mnt": "", "cgroup": CGROUP, "log": str(tmp_path / "log"),
    }  # fmt: skip
    pid = os.fork()
    if pid == 0:
        launch.become(str(tmp_path), spec)
    _, status = os.waitpid(pid, 0)
    Cgroups().remove(CGROUP)
    Cgroups().remove_if_empty("/nsk8s")
    assert status == 0, (status, (tmp_path / "log").read_text())
    answer: dict[str, Any] = json.loads(said.read_text())
    return answer


def test_who_writes_to_somebody_who_has_gone_is_told_and_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(argv: list[str]) -> int:
        near, far = socket.socketpair()
        far.close()
        told = ""
        try:
            os.write(near.fileno(), b"x")
        except BrokenPipeError as e:
            told = type(e).__name__
        Path(argv[0]).write_text(json.dumps({"told": told, "TERM": signal.getsignal(signal.SIGTERM)}))
        return 0

    assert became(tmp_path, main, monkeypatch) == {"told": "BrokenPipeError", "TERM": signal.SIG_DFL}
