"""A run whose tests pass fails all the same when they leave something: with and without workers, and it is not tried again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

TESTS = Path(__file__).parents[2]
LEAVES = """
import subprocess
import pytest

@pytest.mark.root
def test_leaves_a_link():
    subprocess.run("ip link add left0 type bridge", shell=True, check=True)
"""
CLEAN = """
import pytest

@pytest.mark.root
def test_leaves_nothing():
    pass
"""


def run(folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """A pytest run in namespaces of its own: its exit code, what it printed, the files it would try again."""
    again = folder / "again"
    # Other clusters of this machine come and go meanwhile: their files and control groups are out of sight.
    hidden = "for f in /run /var/lib /sys/fs/cgroup; do mount -t tmpfs own $f; done; exec \"$@\""
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private", "sh", "-c", hidden, "sh",
               sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(folder), "-c", str(TESTS.parent / "pyproject.toml"),
               "--failed-files", str(again), *arguments, str(folder)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "NSK8S_TEST_GRACE_S": "4"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    return done.returncode, done.stdout, again.read_text().splitlines() if again.exists() else ["no file"]


@pytest.mark.parametrize("workers", [
    pytest.param((), id="alone", marks=pytest.mark.slow),  # each waits for the kernel to clean up
    pytest.param(("-n", "2", "--dist", "loadscope"), id="two workers"),
])  # fmt: skip
def test_what_is_left_fails_the_run(tmp_path: Path, workers: tuple[str, ...]) -> None:
    tmp_path.joinpath("test_leaves.py").write_text(LEAVES)
    tmp_path.joinpath("test_clean.py").write_text(CLEAN)
    code, said, again = run(tmp_path, *workers)
    assert "link left0 is new: bridge" in said
    assert "2 passed, 1 error" in said.splitlines()[-1]
    assert (code, again) == (1, [])


def test_a_clean_run_passes(tmp_path: Path) -> None:
    tmp_path.joinpath("test_clean.py").write_text(CLEAN)
    code, said, again = run(tmp_path)
    assert "1 passed" in said.splitlines()[-1], said
    assert (code, again) == (0, [])
