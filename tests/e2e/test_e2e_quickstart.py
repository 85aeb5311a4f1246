"""`scripts/quickstart` from a clean copy: installs, starts, proves, leaves it running; a second time it is quick."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from e2e_cluster import NAME, get, nsk8s

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
CLONED = ("pyproject.toml", "README.md", "LICENSE", "nsk8s", "cni", "scripts", "examples")


def test_quickstart_from_a_clean_copy(tmp_path: Path) -> None:
    clone = tmp_path / "nsk8s"
    clone.mkdir()
    for name in CLONED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, clone / name)
    link = tmp_path / "bin" / "nsk8s"
    env = {k: v for k, v in os.environ.items() if k != "SUDO_UID"}
    env |= {"NSK8S_CLUSTER": NAME, "NSK8S_VENV": str(tmp_path / "venv"), "NSK8S_LINK": str(link)}

    def quickstart() -> str:
        done = subprocess.run(
            [str(clone / "scripts" / "quickstart")], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    nsk8s("down", "-q", ok=False)
    try:
        said = quickstart()
        assert re.search(r"^Cluster \w+ is up after [\d.]+ s: 4 nodes", said, re.M)
        debug = get("pod/debug")["status"]["podIP"]
        assert len(re.findall(rf"answered by hello-\S+ on node\d at [\d.]+:8080, which saw {re.escape(debug)}$", said, re.M)) == 4
        assert f"hello.default.svc.cluster.local is {get('service/hello')['spec']['clusterIP']}" in said
        for last in (10, 11, 12, 13):
            assert f"nsk8s enter client -- curl -s http://192.168.56.{last}:30080/\n  answered by hello-" in said
        assert "It works, and it is left running." in said
        assert "\033" not in said
        assert "nsk8s apply -f nsk8s/examples/hello.yaml" in said, "paths as seen from where the user is"
        assert link.resolve() == tmp_path / "venv" / "bin" / "nsk8s"
        hint = subprocess.run([str(link), "up"], cwd="/", env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
        assert re.search(rf"apply -f \S*{re.escape(str(clone).removeprefix('/'))}/examples/hello\.yaml", hint), hint
        again = quickstart()
        assert "installing" not in again
        assert "was running already" in again
        assert "deployment.apps/hello unchanged" in again
    finally:
        nsk8s("down", "-q", ok=False)
