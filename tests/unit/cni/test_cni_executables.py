"""The executables: modes, copies elsewhere, and what they print without a runtime."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

import cni

NAMES = ["bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "static", "tuning"]


def run(path: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([path], input=b"", env=env, capture_output=True, check=False, cwd="/")


@pytest.mark.parametrize("name", NAMES)
def test_version(name: str) -> None:
    versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    done = run(os.path.join(cni.BIN_DIR, name), CNI_COMMAND="VERSION", CNI_NETNS="dummy", CNI_IFNAME="dummy", CNI_PATH="dummy")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {
        "cniVersion": "1.1.0",
        "supportedVersions": versions[{"bandwidth": 2, "firewall": 4}.get(name, 0) :],
    }


@pytest.mark.parametrize("name", NAMES)
def test_without_a_command_it_says_what_it_is(name: str) -> None:
    done = run(os.path.join(cni.BIN_DIR, name))
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(f"CNI plugin {name} ".encode())
    assert b"1.1.0" in done.stderr


def test_closed_stdin_is_an_error_object(tmp_path: Path) -> None:
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "n", "CNI_IFNAME": "e", "CNI_PATH": "/"}
    script = f'exec "{os.path.join(cni.BIN_DIR, "bridge")}" <&-'
    done = subprocess.run(["/bin/sh", "-c", script], env=env, capture_output=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] in (5, 6)


def test_copies_and_links_elsewhere(tmp_path: Path) -> None:
    cni.install(str(tmp_path / "opt/cni/bin"))
    for name in NAMES:
        assert run(str(tmp_path / "opt/cni/bin" / name), CNI_COMMAND="VERSION").returncode == 0
        (tmp_path / name).symlink_to(os.path.join(cni.BIN_DIR, name))
        assert run(str(tmp_path / name), CNI_COMMAND="VERSION").returncode == 0
    cni.install(str(tmp_path / "opt/cni/bin"))  # again: replaced, nothing else there
    assert sorted(os.listdir(tmp_path / "opt/cni/bin")) == NAMES


def test_lost_mode_bits_are_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bridge").write_text("x")
    (tmp_path / "bridge").chmod(0o644)
    monkeypatch.setattr(cni, "BIN_DIR", str(tmp_path))
    assert cni.bin_dir() == str(tmp_path)
    assert stat.S_IMODE((tmp_path / "bridge").stat().st_mode) == 0o755
