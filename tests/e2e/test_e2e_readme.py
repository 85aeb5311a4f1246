"""The five minutes of the README: every command is typed again, and what it prints has the shape that the README shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_cluster import NAME, nsk8s

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SETTLE_S = 60
"""A reader is in no hurry; a busy machine is."""


def tour(text: str) -> list[tuple[str, list[str]]]:
    """(command, lines of output) of every console block, in order. Pure."""
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
    return steps


def shape(line: str) -> str:
    """A line without what differs from run to run: numbers, hashes, identifiers, widths. Pure."""
    line = line.replace(NAME, "nsk8s").replace(" --name nsk8s", "")
    line = re.sub(r"\b[0-9a-f]{8,10}-[a-z0-9]{5}\b", "HASH", line)
    line = re.sub(r"(KUBE-[A-Z]+)-[A-Z0-9]{16}", r"\1-HASH", line)
    line = re.sub(r"(/\S*)?/\.kube/config", "KUBECONFIG", line)
    line = re.sub(r"node\d", "NODE", line)
    line = re.sub(r"\d+(?:[.:]\d+)*[smhd]?\b", "N", line)
    return " ".join(line.split())


def missing(wanted: list[str], printed: str) -> list[str]:
    """Lines of the README that nothing printed looks like; `…` stands for anything. Pure."""
    have = [shape(line) for line in printed.splitlines()]
    out = []
    for line in wanted:
        start, dots, _ = line.partition("…")
        text = shape(start)
        if not any(h.startswith(text) if dots else h == text for h in have):
            out.append(line)
    return out


def asked_again(command: str) -> str:
    """`(sleep 1; ASK) & LISTEN` for a machine on which it takes longer than a second until LISTEN does. Pure."""
    found = re.fullmatch(r"\(sleep 1; (.*)\) & (.*)", command)
    return f"(while sleep 1; do {found[1]}; done) & asking=$!; {found[2]}; code=$?; kill $asking; exit $code" if found else command


def test_the_shapes_are_told_apart() -> None:
    assert missing(["a 1 b", "…", "x …"], "a 25 b\nx y z") == []
    assert missing(["a 1 b"], "a 1 c") == ["a 1 b"]
    assert missing(["pod hello-5bc8bf4bbb-6w74c 10.244.3.2"], "pod hello-6cc8bf4bbc-aaaaa   10.244.1.9") == []


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment where `sudo` and `nsk8s` are there, and ~/.kube/config is a scratch file."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, line in (("nsk8s", f'exec {sys.executable} -m nsk8s.cli.main "$@"'), ("sudo", 'exec "$@"')):
        (binaries / name).write_text(f"#!/bin/sh\n{line}\n")
        (binaries / name).chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("SUDO_UID", "KUBECONFIG")}
    env |= {"PATH": f"{binaries}:{env['PATH']}", "NSK8S_CLUSTER": NAME, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    nsk8s("down", "-q", ok=False)
    yield env
    nsk8s("down", "-q", ok=False)


def test_the_tour(shell: dict[str, str]) -> None:
    steps = tour((ROOT / "README.md").read_text())
    assert len(steps) > 12
    assert steps[0][0] == "sudo nsk8s up"
    assert steps[-1][0] == "sudo nsk8s down"
    for command, wanted in steps:
        if "kubectl" in command and shutil.which("kubectl") is None:
            continue
        line = asked_again(command.replace("nsk8s-node", f"{NAME}-node"))
        deadline = time.monotonic() + SETTLE_S
        while True:  # the reader takes a second or two before the next line, and so may a pod
            done = subprocess.run(
                ["bash", "-c", f"set -o pipefail; {line}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env=shell, cwd=ROOT, timeout=60, check=False,
            )  # fmt: skip
            lacking = missing(wanted, done.stdout)
            if done.returncode == 0 and not lacking:
                break
            changes = re.search(r"nsk8s (up|down|apply|node)", command)
            if changes or time.monotonic() > deadline:
                pytest.fail(f"$ {command}\n{done.stdout}\nexit code {done.returncode}; not seen: {lacking}")
            time.sleep(0.3)
