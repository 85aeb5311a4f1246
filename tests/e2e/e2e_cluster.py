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
    """Poll until `condition()` is truthy; its value. Fails naming `what`, and the last value if it says anything."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    while True:
        value = condition()
        if value:
            return value
        last = "" if value is None or value is False else f" (it is {value!r})"
        assert time.monotonic() < deadline, f"not in {PATIENCE * timeout_s:g} s: {what}{last}"
        time.sleep(0.05)


def becomes(what: str, look: Callable[[], Any], wanted: Any, timeout_s: float = 30) -> Any:
    """Poll until `look()` is `wanted`; that. Fails naming `what`, with what it was last and all that it had been before."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    seen: list[Any] = []
    while (now := look()) != wanted:
        if now not in seen[-1:]:
            seen.append(now)
        before = "".join(f"\n    before: {value!r}" for value in seen[-6:-1])
        assert time.monotonic() < deadline, f"not in {PATIENCE * timeout_s:g} s: {what}\n    wanted: {wanted!r}\n    is:     {now!r}{before}"
        time.sleep(0.05)
    return now


def pods(selector: str = "app=hello", cluster: str = NAME) -> list[dict[str, Any]]:
    """Running, ready, not terminating pods."""
    out = []
    for pod in get("pods", "-l", selector, cluster=cluster)["items"]:
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and not pod["metadata"].get("deletionTimestamp"):
            out.append(pod)
    return out


def ask(source: tuple[str, ...], url: str, cluster: str = NAME) -> dict[str, Any]:
    """What the echo server at `url` says when asked from `source` (words for `nsk8s enter`).

    A refusal counts as no answer yet: a node's rules may come later than the pods are ready, and a server without a probe is
    ready before it listens. Silence, or anything else, fails.
    """

    def answered() -> Any:
        done = nsk8s("enter", *source, "--", "curl", "-g", "-s", "-m", "10", url, ok=False, cluster=cluster)
        assert done.returncode in (0, 7), f"{url} from {source}: curl ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.returncode == 0 and json.loads(done.stdout)

    answer: dict[str, Any] = until(f"{url} is not refused at {source}", answered)
    return answer


def endpoints_in_rules(node: str, service: str = "default/hello", cluster: str = NAME) -> set[str]:
    """The endpoint addresses to which a node's iptables rules lead for a Service, of both families."""
    saved = "".join(netns(node, save, "-t", "nat", cluster=cluster).stdout for save in ("iptables-save", "ip6tables-save"))
    found = re.findall(rf'--comment "?{service}(?::[\w-]+)?"? .*--to-destination (\S+):\d+', saved)
    return {ip.strip("[]") for ip in found}


def until_proxied(
    *nodes: str, service: str = "default/hello", selector: str = "app=hello", families: int = 1, cluster: str = NAME
) -> None:
    """Wait until these nodes' iptables rules lead to the Service's ready pods and to nobody else: the API knows it before.

    `families`: how many the Service has; with one it is the cluster's first.
    """

    def missing() -> dict[str, Any]:
        """What differs, by node; the pods are asked each time."""
        ready = {i["ip"] for p in pods(selector, cluster) for i in p["status"]["podIPs"][:families]}
        have = {node: endpoints_in_rules(node, service, cluster) for node in nodes}
        return {node: (found, ready) for node, found in have.items() if found != ready}

    becomes(f"rules for the pods of {service}", missing, {})


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
        def matching() -> list[str] | str:
            packets = self.packets(label)
            return "seen" if any(re.search(what, p) for p in packets) else packets

        becomes(f"a packet {what!r} at {label or 'the target'}", matching, "seen")
        return self.packets(label)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
