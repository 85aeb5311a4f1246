"""Which modules are loaded, and with what, on machines that are not this one."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from nsk8s.kernel import modules


@pytest.mark.parametrize(
    ("loaded", "modprobe", "expected"),
    [
        (False, "/sbin/modprobe", [["/sbin/modprobe", "ifb", "numifbs=0"]]),
        (True, "/sbin/modprobe", []),
        (False, None, []),
    ],
)
def test_ifb_comes_without_links_in_the_root_namespace(
    monkeypatch: pytest.MonkeyPatch, loaded: bool, modprobe: str | None, expected: list[list[str]]
) -> None:
    ran: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> None:
        ran.append(argv)

    exists = os.path.exists
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os.path, "exists", lambda path: loaded if path == "/sys/module/ifb" else exists(path))
    monkeypatch.setattr(modules, "which", lambda program: modprobe)
    modules.load_ifb.cache_clear()
    modules.load_ifb()
    modules.load_ifb()
    modules.load_ifb.cache_clear()
    assert ran == expected
