"""`nsk8s cni`: the folder for other runtimes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cni
from nsk8s.cli.main import cli
from nsk8s.errors import Nsk8sError


def call(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["cni", *arguments])
    if result.exception is not None and not isinstance(result.exception, (SystemExit, click.exceptions.Exit)):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_path_is_a_folder_of_executables() -> None:
    folder = call("path").strip()
    assert folder == cni.BIN_DIR
    listed = json.loads(call("path", "-o", "json"))
    assert listed == {"path": folder, "plugins": sorted(os.listdir(folder))}
    assert all(os.access(os.path.join(folder, name), os.X_OK) for name in listed["plugins"])


def test_help_has_examples() -> None:
    assert "cnitool add mynet" in call("--help")
    assert "CNI_BIN_DIR=$(nsk8s cni path)" in call("path", "--help")


def test_install_leaves_other_peoples_plugins_alone(tmp_path: Path) -> None:
    call("install", str(tmp_path / "bin"))
    call("install", str(tmp_path / "bin"))
    done = subprocess.run([tmp_path / "bin/ptp"], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True)
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
    (tmp_path / "bin/bridge").write_bytes(b"\x7fELF")
    with pytest.raises(Nsk8sError, match="holds bridge of somebody else"):
        call("install", str(tmp_path / "bin"))
    call("install", "--force", str(tmp_path / "bin"))
    assert (tmp_path / "bin/bridge").read_bytes().startswith(b"#!")
