"""The kubectl that somebody installed: tests that speak through it are left out, by name, where there is none."""

from __future__ import annotations

import shutil

import pytest


def require() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on PATH to drive the cluster with")
