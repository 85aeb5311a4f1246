"""The user's kubeconfig: a context goes in, and out again; what else is in the file stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nsk8s.cli import kubeconfig, lifecycle
from nsk8s.errors import Nsk8sError

OTHERS: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Config", "preferences": {"colors": True}, "current-context": "mine",
    "clusters": [{"name": "mine", "cluster": {"server": "https://x"}}],
    "users": [{"name": "mine", "user": {"token": "t"}}],
    "contexts": [{"name": "mine", "context": {"cluster": "mine", "user": "mine"}}],
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    return tmp_path / ".kube" / "config"


def admin_conf(tmp_path: Path, port: int) -> Path:
    file = tmp_path / "admin.conf"
    name, user = "lab", "lab-admin"
    file.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": f"{user}@{name}",
        "clusters": [{"name": name, "cluster": {"server": f"https://127.0.0.1:{port}"}}],
        "users": [{"name": user, "user": {}}],
        "contexts": [{"name": f"{user}@{name}", "context": {"cluster": name, "user": user}}],
    }))  # fmt: skip
    return file


def test_a_context_goes_in_and_out_again(home: Path, tmp_path: Path) -> None:
    home.parent.mkdir()
    home.write_text(yaml.safe_dump(OTHERS))
    kubeconfig._merge("lab", admin_conf(tmp_path, 6443))
    kubeconfig._merge("lab", admin_conf(tmp_path, 6444))
    merged = yaml.safe_load(home.read_text())
    assert [c["name"] for c in merged["clusters"]] == ["mine", "lab"], "once, however often it is exported"
    assert merged["clusters"][1]["cluster"]["server"].endswith(":6444")
    assert merged["current-context"] == "lab-admin@lab"
    assert merged["preferences"] == {"colors": True}
    assert home.stat().st_mode & 0o777 == 0o600
    kubeconfig.forget("lab")
    assert yaml.safe_load(home.read_text()) == {**OTHERS, "current-context": ""}


def test_forgetting_leaves_another_current_context(home: Path, tmp_path: Path) -> None:
    kubeconfig._merge("lab", admin_conf(tmp_path, 6443))
    document = yaml.safe_load(home.read_text())
    home.write_text(yaml.safe_dump({**document, "current-context": "mine"}))
    kubeconfig.forget("lab")
    assert yaml.safe_load(home.read_text())["current-context"] == "mine"


@pytest.mark.parametrize("text", ["a: b: c", "- a", "just words"])
def test_a_file_that_is_no_kubeconfig_is_left_alone(home: Path, tmp_path: Path, text: str) -> None:
    home.parent.mkdir()
    home.write_text(text)
    with pytest.raises(Nsk8sError, match="is not") as e:
        kubeconfig._merge("lab", admin_conf(tmp_path, 6443))
    assert e.value.remedy
    kubeconfig.forget("lab")
    assert home.read_text() == text


def test_examples_are_named_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    monkeypatch.chdir(root)
    assert lifecycle.example("hello.yaml") == "examples/hello.yaml"
    monkeypatch.chdir(root / "docs")
    assert lifecycle.example("hello.yaml") == "../examples/hello.yaml"
    monkeypatch.chdir(tmp_path)
    assert Path(lifecycle.example("hello.yaml")).resolve() == root / "examples" / "hello.yaml"
    monkeypatch.setattr(lifecycle, "_checkouts", list)
    assert lifecycle.example("hello.yaml") == "examples/hello.yaml"
