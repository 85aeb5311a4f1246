"""Promise 6 through a whole cluster: root in a pod does not get out. Every way out is tried; a privileged pod proves that it was."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import NAME, components, get, nsk8s, pods, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
SCRIPT = (Path(__file__).parent / "escape_attempts.py").read_text()
MARKER = f"nsk8s-marker-{os.getpid()}"
FOLDERS = ("/root", "/home", "/var", "/var/lib", "/opt", "/srv", "/run", "/tmp", "/etc", "/")
# What a privileged pod, which is root on this machine, must be seen to do; nothing here can harm the machine.
HARMLESS = (
    "mknod disk", "mount tmpfs", "bind mount", "unshare user", "unshare mount", "unshare network", "set-user-id program",
    "/proc/sys/net/ipv4/ip_forward", "device list", "keyctl", "/sys writable", "no_new_privs is off", "no system call filter",
    "capabilities beyond the usual", "new mount API", "kernel log", "hostname",
)  # fmt: skip


def pod(name: str, **container: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "debian", "command": ["sleep", "1000"], **container}]}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {**spec, "nodeName": "node1", "terminationGracePeriodSeconds": 1},
    }  # fmt: skip


def apply(*objects: dict[str, Any]) -> None:
    nsk8s("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def wait_ready(*names: str) -> None:
    for name in names:
        until(
            f"{name} is ready",
            lambda name=name: any(c["type"] == "Ready" and c["status"] == "True" for c in get(f"pod/{name}")["status"].get("conditions", [])),
        )


def processes_of(uid: str) -> list[int]:
    """The machine's pids of a pod's processes, by their control groups."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if uid in Path(f"/proc/{pid}/cgroup").read_text():
                found.append(int(pid))
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    made = [Path(folder) / MARKER for folder in FOLDERS]
    nsk8s("down", "-q", ok=False)
    try:
        for path in made:
            path.write_text("x")
        nsk8s("up", "-q", "--nodes", "1")
        apply(
            pod("jail"), pod("neighbour"),
            pod("mighty", securityContext={"privileged": True}),
        )  # fmt: skip
        wait_ready("jail", "neighbour", "mighty")
        yield
    finally:
        nsk8s("down", "-q", ok=False)
        for path in made:
            path.unlink(missing_ok=True)


def try_escapes(name: str, only: tuple[str, ...] = ()) -> dict[str, str]:
    neighbour = processes_of(get("pod/neighbour")["metadata"]["uid"])
    assert len(neighbour) >= 2, "its pause and its sleep"
    known = {"marker": MARKER, "pids": [*neighbour, *(c["pid"] for c in components().values())], "only": list(only)}
    done = nsk8s("exec", name, "--", "/usr/bin/python3", "-c", SCRIPT, json.dumps(known))
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def escapes(cluster: None) -> dict[str, str]:
    return try_escapes("jail")


def test_root_in_a_pod_does_not_get_out(escapes: dict[str, str]) -> None:
    assert len(escapes) > 75, "every attempt was made"
    assert {name: evidence for name, evidence in escapes.items() if evidence} == {}


def test_the_attempts_are_real(cluster: None) -> None:
    """The same program in a pod that may do everything."""
    found = try_escapes("mighty", HARMLESS)
    assert sorted(found) == sorted(HARMLESS)
    assert [name for name, evidence in found.items() if not evidence] == []


def test_what_a_pod_writes_stays_in_it(cluster: None) -> None:
    """The machine's /usr is under the pod's; what is written, replaced and removed there happens in the pod's own layer."""
    before = os.stat("/usr/bin/env")
    shadow = Path("/etc/shadow").read_text()
    script = f"echo x > /usr/bin/{MARKER} && rm /usr/bin/env && echo x > /usr/bin/id && echo x > /etc/shadow && cat /usr/bin/{MARKER}"
    assert nsk8s("exec", "jail", "--", "sh", "-c", script).stdout == "x\n"
    assert not os.path.exists(f"/usr/bin/{MARKER}")
    assert (os.stat("/usr/bin/env").st_ino, os.stat("/usr/bin/id").st_size > 2) == (before.st_ino, True)
    assert Path("/etc/shadow").read_text() == shadow
    seen = nsk8s("exec", "neighbour", "--", "sh", "-c", f"ls /usr/bin/{MARKER}; ls /usr/bin/env; cat /etc/shadow", ok=False).stdout
    assert seen.split()[0] == "/usr/bin/env", "another pod of the node has its own"
    assert seen.partition("\n")[2] != "x\n"


def test_a_static_pod_of_a_node(cluster: None) -> None:
    """Promise 4: a file on the node is a pod of the node, and its mirror is what the API shows."""
    spec = {"containers": [{"name": "main", "image": "nsk8s/echo"}], "terminationGracePeriodSeconds": 1}
    text = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fixed"}, "spec": spec})
    file = "/etc/kubernetes/manifests/fixed.json"
    nsk8s("enter", "node/node1", "--", "sh", "-c", f"cat > {file}", text=text)
    until("the mirror", lambda: nsk8s("get", "pod/fixed-node1", ok=False).returncode == 0)
    wait_ready("fixed-node1")
    url = f"http://{get('pod/fixed-node1')['status']['podIP']}:8080/"
    # Without a readiness probe a pod is ready when its process runs, which then begins to listen.
    said = until("it answers", lambda: nsk8s("exec", "neighbour", "--", "curl", "-s", "-m", "5", url, ok=False).stdout)
    assert json.loads(said)["pod"] == "fixed-node1"
    nsk8s("enter", "node/node1", "--", "rm", file)
    until("both have gone", lambda: nsk8s("get", "pod/fixed-node1", ok=False).returncode != 0)


LOAD = """
import json, select, socket, sys, time
errors, servers = [], {}
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection((sys.argv[1], 80), 5) as s:
            s.sendall(b"GET /hostname HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            answer = b"".join(iter(lambda: s.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        if not servers: print("answered")
        servers[answer.split()[-1].decode()] = 1
    except (OSError, AssertionError) as e:
        errors.append(repr(e))
    time.sleep(0.01)
print(json.dumps([errors, sorted(servers)]))
"""


@pytest.mark.slow
def test_a_rolling_update_of_echo_loses_no_connection(cluster: None) -> None:
    """Its pods go on answering until nobody comes any more (docs/pods.md), so no preStop hook is needed."""
    hello = (Path(__file__).parents[2] / "examples" / "hello.yaml").read_text()
    nsk8s("apply", "-f", "-", text=hello)
    until("three ready pods", lambda: len(pods()) == 3)
    vip = get("service/hello")["spec"]["clusterIP"]
    before = {p["metadata"]["name"] for p in pods()}
    until("the Service answers", lambda: nsk8s("enter", "pod/neighbour", "--", "curl", "-s", "-m", "5", f"http://{vip}/", ok=False).stdout)
    enter = [sys.executable, "-m", "nsk8s.cli.main", "enter", "pod/neighbour", "--", "/usr/bin/python3", "-u", "-c", LOAD, vip]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    load = subprocess.Popen(enter, env={**os.environ, "NSK8S_CLUSTER": NAME}, **pipes)
    assert load.stdout is not None
    assert load.stdout.readline() == "answered\n"
    nsk8s("apply", "-f", "-", text=hello.replace("cpu: 10m", "cpu: 11m"))
    until("three new pods", lambda: len(new := {p["metadata"]["name"] for p in pods()}) == 3 and not new & before)
    until("the old ones have gone", lambda: not before & {p["metadata"]["name"] for p in get("pods")["items"]}, 60)
    errors, servers = json.loads(load.communicate("that is all\n", timeout=30)[0])
    assert errors == []
    assert set(servers) & before
    assert set(servers) - before


def test_no_process_of_ours_has_an_executable_that_can_be_written(cluster: None) -> None:
    """CVE-2019-5736: through /proc/PID/exe a container once overwrote the runtime. Ours all run from a read-only view."""
    pids = [c["pid"] for c in components().values()] + processes_of(get("pod/jail")["metadata"]["uid"])
    python = os.stat(os.path.realpath("/proc/self/exe")).st_ino
    ours = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # what an attempt to escape left may end meanwhile
            if os.stat(f"/proc/{pid}/exe").st_ino == python:
                assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY, pid
                ours += 1
    assert ours > 8
