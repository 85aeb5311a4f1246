"""What every benchmark needs: a cluster of its own, time, memory, namespaces, a table. Touches: everything `nsk8s` does.

The cluster is called `bench`, so that one of yours may run beside it (its figures then suffer).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnslib import DNSRecord

from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.resources import Resource
from nsk8s.client.rest import Client

NAME = "bench"
DNS_IP = "10.96.0.10"
CLONE_NEWNET = 0x40000000
PATIENCE_S = 600.0
PROGRAM = Path(sys.executable).with_name("nsk8s")
os.environ["NSK8S_CLUSTER"] = NAME


@dataclass(frozen=True)
class Row:
    """One line of the result. `value` and `against` are medians in the same unit; the ratio is what counts."""

    what: str
    value: float
    against: float
    unit: str
    reach: str
    beyond: str
    ratio_is_value: bool = False
    """The goal is on the value itself (memory), not on a ratio."""


def render(rows: Sequence[Row]) -> str:
    lines = [f"{'what':<58} {'nsk8s':>12} {'against':>12} {'ratio':>7}  {'reach':>9}  {'beyond':>9}"]
    for r in rows:
        against = "-" if r.ratio_is_value else f"{r.against:.3g} {r.unit}"
        ratio = "-" if r.ratio_is_value else f"{r.value / r.against:.2f}"
        lines.append(f"{r.what:<58} {f'{r.value:.3g} {r.unit}':>12} {against:>12} {ratio:>7}  {r.reach:>9}  {r.beyond:>9}")
    return "\n".join(lines)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    return f"median {median(values):.3g}, {min(values):.3g} to {max(values):.3g}, n={len(values)}"


def run(*command: str, text_in: str = "", check: bool = True, env: Mapping[str, str] | None = None) -> str:
    """stdout of a command; its stderr in the exception when it fails."""
    done = subprocess.run(command, input=text_in, capture_output=True, text=True, env=env)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stdout


# --- the cluster


def nsk8s(*arguments: str, text_in: str = "") -> str:
    """The command, on the benchmark's cluster: the installed one, in a fresh interpreter, as a user runs it."""
    return run(str(PROGRAM), *arguments, text_in=text_in)


@contextlib.contextmanager
def cluster(**config: Any) -> Iterator[float]:
    """A running cluster; yields the seconds `up` took. Always taken down."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        json.dump({"name": NAME, **config}, f)
        f.flush()
        started = time.monotonic()
        try:
            nsk8s("up", "-f", f.name)
            yield time.monotonic() - started
        finally:
            nsk8s("down")


def nodes() -> list[str]:
    """Node names, workers only."""
    names = [name.removeprefix(f"{NAME}-") for name in os.listdir("/run/netns") if name.startswith(f"{NAME}-")]
    return sorted(n for n in names if n not in ("control-plane", "switch", "router", "client"))


def api(call: Callable[[Client], Any]) -> Any:
    """The result of the coroutine `call(client)`, as the cluster's admin."""

    async def body() -> Any:
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
            f.write(nsk8s("kubeconfig"))
            f.flush()
            config = kubeconfig.load(f.name)
        async with Client(config) as client, asyncio.timeout(PATIENCE_S):
            return await call(client)

    return asyncio.run(body())


async def until(client: Client, resource: Resource, done: Callable[[list[Object]], bool], namespace: str = "") -> None:
    """Return as soon as the objects satisfy `done`, told by a watch."""
    answer = await client.list(resource, namespace)
    objects = {o["metadata"]["uid"]: o for o in answer["items"]}
    version = answer["metadata"]["resourceVersion"]
    while not done(list(objects.values())):
        async for event in client.watch(resource, namespace, resource_version=version):
            if event.type == "BOOKMARK":
                continue
            version = event.object["metadata"]["resourceVersion"]
            uid = event.object["metadata"]["uid"]
            if event.type == "DELETED":
                objects.pop(uid, None)
            else:
                objects[uid] = event.object
            if done(list(objects.values())):
                return


def ready(obj: Object) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


# --- namespaces


def in_namespace(name: str, work: Callable[[], bool]) -> bool:
    """`work()` in a child that has entered the named network namespace; False too if it fails in any way."""
    pid = os.fork()
    if pid == 0:
        ok = False
        with contextlib.suppress(BaseException):
            with open(f"/run/netns/{name}") as f:
                if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET) == 0:
                    ok = work()
        os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def dns_answers() -> bool:
    query = bytes(DNSRecord.question("kubernetes.default.svc.cluster.local").pack())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.2)
        s.connect((DNS_IP, 53))
        s.send(query)
        return bool(DNSRecord.parse(s.recv(4096)).rr)


def http_answers(address: str, port: int = 8080) -> bool:
    with socket.create_connection((address, port), timeout=2) as s:
        s.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return s.recv(64).startswith(b"HTTP/1.1 200")


# --- memory


Process = tuple[int, int]
"""pid and start time: a pid may come back."""


def processes() -> set[Process]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found.add((int(pid), int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])))
    return found


def pss_kb(pids: set[Process], leave_out: Sequence[str] = ()) -> int:
    """Proportional set size of these processes, without those whose command name is in `leave_out`."""
    total = 0
    for pid, _ in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() in leave_out:
                continue
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


# --- manifests


def echo_deployment(replicas: int, name: str = "bench") -> Object:
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}
    return deployment(name, replicas, {"name": "echo", "image": "nsk8s/echo", "readinessProbe": probe})


def deployment(name: str, replicas: int, container: Object) -> Object:
    labels = {"app": name}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
