"""The examples are what they say: valid, and in step with the scripts and the configuration they are for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nsk8s import config

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted(p for p in (ROOT / "examples").glob("*.yaml") if p.name != "cluster.yaml")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_selectors_find_the_pods_they_are_for(path: Path) -> None:
    objects = documents(path)
    templates = [o["spec"]["template"] for o in objects if o["kind"] in ("Deployment", "DaemonSet")]
    for obj in objects:
        assert obj["apiVersion"]
        assert obj["metadata"]["name"]
        if obj["kind"] in ("Deployment", "DaemonSet"):
            assert obj["spec"]["selector"]["matchLabels"].items() <= obj["spec"]["template"]["metadata"]["labels"].items()
        if obj["kind"] == "Service":
            (template,) = [t for t in templates if obj["spec"]["selector"].items() <= t["metadata"]["labels"].items()]
            names = {p["name"] for c in template["spec"]["containers"] for p in c["ports"]}
            assert {p["targetPort"] for p in obj["spec"]["ports"]} <= names


def test_the_quickstart_uses_the_port_of_the_sample_service() -> None:
    (service,) = [o for o in documents(ROOT / "examples/hello.yaml") if o["kind"] == "Service"]
    (port,) = service["spec"]["ports"]
    assert f"node_port={port['nodePort']}\n" in (ROOT / "scripts/quickstart").read_text()


def test_cluster_yaml_shows_every_setting_and_only_real_defaults() -> None:
    path = ROOT / "examples/cluster.yaml"
    loaded = config.load(path)
    default = config.ClusterConfig()
    assert loaded.model_copy(update={"name": default.name, "nodes": default.nodes, "timing": default.timing}) == default
    shown = set(yaml.safe_load(path.read_text()))
    optional = {"apiPort", "without"}  # nothing to show as a default
    assert shown | optional == {f.alias for f in config.ClusterConfig.model_fields.values()}


def test_every_file_and_command_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"(?:examples|scripts|docs)/[\w./-]+\w", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["setup", "quickstart", "test", "bench"])
def test_scripts_can_be_run_and_stop_at_the_first_error(name: str) -> None:
    path = ROOT / "scripts" / name
    assert path.stat().st_mode & 0o111
    assert re.search(r"^set -e?uo pipefail$", path.read_text(), re.M)


def test_nothing_gives_wget_a_time_limit_of_its_own() -> None:
    """On a machine without GNU wget a pod's is busybox', and Debian 12's (1.35.0-4+deb12u1) dies of SIGSEGV with -T."""
    for file in (ROOT / "README.md", ROOT / "scripts/quickstart", *(ROOT / "examples").iterdir(), *(ROOT / "docs").glob("*.md")):
        assert not re.search(r"wget[^|;\n]* (-T|--timeout)", file.read_text()), file
