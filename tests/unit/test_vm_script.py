"""What `scripts/vm` refuses, and in which words. The machine itself is started by hand only: it takes too long here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def vm(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts/vm"), *arguments], capture_output=True, text=True, check=False, env={**os.environ, **env},
        stdin=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no command"),
        (("--timeout", "5"), "no command"),
        (("--nosuch", "true"), "unknown option --nosuch"),
        (("--memory",), "--memory needs a value"),
        (("--memory", "2g", "true"), "--memory needs a whole number from 1, not '2g'"),
        (("--memory", "100", "true"), "--memory 100 is too little"),
        (("--cpus", "0", "true"), "--cpus needs a whole number from 1, not '0'"),
        (("--accel", "hvf", "true"), "--accel is tcg, kvm or auto, not 'hvf'"),
        (("--out", "/nonexistent", "true"), "--out /nonexistent is no folder"),
        (("--root", "/nonexistent", "true"), "--root /nonexistent is no tree of a machine"),
        (("--user", "me", "true"), "--user needs --systemd"),
        (("--user", "A B", "true"), "--user 'A B' is no user's name"),
    ],
)
def test_wrong_arguments_are_refused_in_words(arguments: tuple[str, ...], words: str) -> None:
    done = vm(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "--help" in done.stderr or "--memory" in done.stderr


def test_the_help_page_has_an_example_and_every_option() -> None:
    done = vm("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "scripts/vm .venv/bin/python -m pytest" in done.stdout
    for option in ("memory", "cpus", "disk", "timeout", "accel", "kernel", "preload", "out", "append", "systemd", "user", "root"):
        assert f"  --{option}" in done.stdout


def test_without_qemu_it_says_how_to_install_it(tmp_path: Path) -> None:
    """A PATH with the shell's own tools only; the script adds the folders of administrators' commands, where qemu is not."""
    for name in ("bash", "dirname", "uname", "sed"):
        (tmp_path / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    done = vm("true", PATH=str(tmp_path))
    assert done.returncode == 125
    assert "missing: qemu-system-" in done.stderr
    assert "sudo apt-get install --no-install-recommends qemu-system-" in done.stderr


def test_a_kernel_folder_without_a_kernel_is_refused(tmp_path: Path) -> None:
    for name in ("qemu-system-x86_64", "qemu-system-aarch64", "busybox", "cpio", "mkfs.ext4", "modprobe", "setpriv"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "kernel"
    folder.mkdir()
    done = vm("--kernel", str(folder), "true", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 125
    assert f"{folder}/boot has no vmlinuz-*" in done.stderr
