"""A cluster as its user has it: through the `nsk8s` command only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import e2e_forked
import yaml
from patience import PATIENCE

NAME = os.environ.get("NSK8S_E2E_NAME", "e2e")  # so that several developers can run these at once
EXAMPLES = Path(__file__).parents[2] / "examples"


def nsk8s(
    *words: str, ok: bool = True, timeout: float = 120, text: str | None = None, cluster: str = NAME
) -> subprocess.CompletedProcess[str]:
    """Run `nsk8s WORDS`; with `ok` a non-zero exit code fails the test with what was printed."""
    if words[0] in e2e_forked.COMMANDS:
        done = e2e_forked.run(words, cluster, text, PATIENCE * timeout)
    else:
        done = subprocess.run(
            [sys.executable, "-m", "nsk8s.cli.main", *words], capture_output=True, text=True, timeout=PATIENCE * timeout, input=text,
            env={**os.environ, "NSK8S_CLUSTER": cluster}, check=False,
        )  # fmt: skip
    assert not ok or done.returncode == 0, f"nsk8s {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def get(*words: str, cluster: str = NAME) -> Any:
    return json.loads(nsk8s("get", *words, "-o", "json", cluster=cluster).stdout)


def netns(machine: str, *argv: str, timeout: float = 20, cluster: str = NAME) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine, as a course would write it."""
    return subprocess.run(
        ["ip", "netns", "exec", f"{cluster}-{machine}", *argv], capture_output=True, text=True, timeout=PATIENCE * timeout,
        check=False,
    )


def components(cluster: str = NAME) -> dict[str, dict[str, Any]]:
    status = json.loads(nsk8s("status", "-o", "json", ok=False, cluster=cluster).stdout)
    return {c["id"]: c for c in status["components"]}


def until(what: str, condition: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Poll until `condition()` is truthy; its value. Fails naming `what`."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.05)


def pods(selector: str = "app=hello", cluster: str = NAME) -> list[dict[str, Any]]:
    """Running, ready, not terminating pods."""
    out = []
    for pod in get("pods", "-l", selector, cluster=cluster)["items"]:
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and not pod["metadata"].get("deletionTimestamp"):
            out.append(pod)
    return out


def ask(source: tuple[str, ...], url: str, cluster: str = NAME) -> dict[str, Any]:
    """What the echo server at `url` says when asked from `source` (words for `nsk8s enter`)."""
    done = nsk8s("enter", *source, "--", "curl", "-s", "-m", "5", url, cluster=cluster)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def apply(*objects: dict[str, Any], cluster: str = NAME) -> None:
    """Apply objects, as `nsk8s apply -f -` takes them."""
    nsk8s("apply", "-f", "-", text="\n---\n".join(json.dumps(o) for o in objects), cluster=cluster)


def documents(name: str) -> list[dict[str, Any]]:
    """The objects of an example."""
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def pod(name: str, image: str = "busybox", *command: str, **spec: Any) -> dict[str, Any]:
    """A Pod that sleeps, unless told otherwise; `spec` are further fields of its spec."""
    container = {"name": "main", "image": image, "command": list(command) or ["sleep", "infinity"]}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }  # fmt: skip


def in_pod(name: str, *command: str, cluster: str = NAME) -> str:
    """What a command prints in a pod's container."""
    return nsk8s("exec", name, "--", *command, cluster=cluster).stdout


class Capture:
    """`nsk8s capture TARGET… -w FILE`, listening once constructed; one file a target."""

    def __init__(self, folder: Path, *targets: str, interface: str = "eth0", expression: str = "") -> None:
        self._folder = folder
        words = ["capture", *targets, "-w", str(folder / "c.pcap"), "-i", interface, "--filter", expression]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nsk8s.cli.main", *words], env={**os.environ, "NSK8S_CLUSTER": NAME},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stderr is not None
        listening, said = 0, ""
        while listening < len(targets):
            line = self._process.stderr.readline()
            said += line
            assert line, f"capture ended: {said}"
            listening += "listening on" in line

    def packets(self, label: str = "") -> list[str]:
        """What `tcpdump -r` reads back of one target, a line a packet, without its time."""
        path = self._folder / (f"c-{label}.pcap" if label else "c.pcap")
        done = subprocess.run(["tcpdump", "-nn", "-t", "-r", str(path)], capture_output=True, text=True, check=False)
        return done.stdout.splitlines()

    def until(self, what: str, label: str = "") -> list[str]:
        """The packets, once one of them matches the pattern `what`."""
        until(f"a packet {what!r} at {label or 'the target'}", lambda: any(re.search(what, p) for p in self.packets(label)), 10)
        return self.packets(label)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(10)
