"""Whatever was killed, and when: `down` leaves nothing of the cluster, and `up` completes what was begun.

"Nothing" is what belongs to this cluster by its name: other clusters may come and go meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_cluster import NAME, components, get, netns, nsk8s, pods, until
from e2e_settled import answered_everywhere

from nsk8s.cluster import state
from nsk8s.kernel.cgroup import Cgroups

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"
COMMAND = [sys.executable, "-m", "nsk8s.cli.main"]
ENVIRONMENT = {**os.environ, "NSK8S_CLUSTER": NAME}
UP = ["up", "-q", "--nodes", "2"]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    nsk8s("down", "-q", ok=False)
    yield
    nsk8s("down", "-q", ok=False)
    assert left() == []


def left() -> list[str]:
    """What there is of this cluster on the machine, one line each."""
    found = [f"namespace {n}" for n in _listed("/run/netns") if n.startswith(f"{NAME}-")]
    places = (f"/run/nsk8s/{NAME}", f"/run/nsk8s/.{NAME}.lock", f"/var/lib/nsk8s/{NAME}")
    found += [f"file {p}" for p in places if os.path.lexists(p)]
    mounted = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    inside = tuple(f"{p}/" for p in places)
    found += [f"mount {m}" for m in mounted if m in places or m.startswith((*inside, f"/run/netns/{NAME}-"))]
    groups = Cgroups()
    found += [f"control group {r}/nsk8s/{NAME}" for r in (*groups.roots, *groups.tracking) if os.path.isdir(f"{r}/nsk8s/{NAME}")]
    return found + [f"process {p}" for p in _processes()]


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _processes() -> list[str]:
    """Those with the cluster's control group, title or run directory, but for zombies."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            words = title.split(" ")
            titled = words[0].startswith("nsk8s-") and words[1:2] == [NAME]
            titled |= f"/run/nsk8s/{NAME}" in words
            titled |= len(words) > 1 and words[1].startswith(f"{NAME}-") and "/" not in words[0]
            grouped = f"/nsk8s/{NAME}/" in Path(f"/proc/{pid}/cgroup").read_text()
            if (titled or grouped) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(f"{pid} {title[:80]}")
    return found


def killed_up(after_s: float) -> bool:
    """`nsk8s up`, killed with SIGKILL after a while; whether it was still running."""
    process = subprocess.Popen([*COMMAND, *UP], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def up_and_ready() -> None:
    nsk8s(*UP)
    assert all(c["state"] == "running" for c in components().values())
    assert len(get("nodes")["items"]) == 3


@pytest.mark.parametrize("after_s", [0.25, 0.4, 0.55, 0.8, 1.5])
def test_up_killed_then_down_leaves_nothing(after_s: float) -> None:
    killed_up(after_s)
    nsk8s("down", "-q", ok=False)
    assert left() == []


def test_up_killed_again_and_again_then_up_completes_it() -> None:
    for after_s in (0.25, 0.4, 0.55, 0.7, 1.0):
        killed_up(after_s)
    up_and_ready()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_up_killed_at_every_moment() -> None:
    """Every 150 ms until it is through; each time once followed by `down`, once by `up`."""
    moments = [0.05 + 0.15 * n for n in range(40)]
    for after_s in moments:
        killed_up(after_s)
        nsk8s("down", "-q", ok=False)
        assert left() == [], after_s
        running = killed_up(after_s)
        up_and_ready()
        nsk8s("down", "-q")
        assert left() == [], after_s
        if not running:
            return


def kill_everybody() -> None:
    """Also those whom the supervisor, or anyone else, starts before it dies itself."""

    def nobody() -> bool:
        everybody = Cgroups().all_processes(f"/nsk8s/{NAME}")
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not everybody

    until("all are dead", nobody)


def containers() -> set[str]:
    return {c["containerID"] for pod in pods() for c in pod["status"]["containerStatuses"]}


def test_everything_killed_then_down_leaves_nothing() -> None:
    nsk8s(*UP)
    nsk8s("apply", "-f", str(HELLO))
    until("ready pods", lambda: len(pods()) == 3)
    supervisor = json.loads(nsk8s("status", "-o", "json").stdout)["supervisor"]
    assert len(Cgroups().all_processes(f"/nsk8s/{NAME}")) > 15
    os.kill(supervisor, signal.SIGKILL)
    kill_everybody()
    nsk8s("down", "-q")
    assert left() == []


def test_everything_killed_then_any_command_brings_it_back() -> None:
    nsk8s(*UP)
    nsk8s("apply", "-f", str(HELLO))
    until("ready pods", lambda: len(pods()) == 3)
    before = containers()
    kill_everybody()
    nsk8s("status", ok=False)
    up_and_ready()
    until("ready pods again", lambda: len(pods()) == 3 and not containers() & before, 60)
    answered_everywhere(("client",), "http://192.168.56.11:30080/healthz")


def test_a_namespace_that_is_not_ours_stops_up_and_survives_down() -> None:
    assert subprocess.run(["ip", "netns", "add", f"{NAME}-node2"], check=False).returncode == 0
    try:
        inode = os.stat(f"/run/netns/{NAME}-node2").st_ino
        refused = nsk8s(*UP, ok=False)
        assert refused.returncode == 1
        assert f"a network namespace {NAME}-node2 exists that nsk8s did not make" in refused.stderr
        nsk8s("down", "-q", ok=False)
        assert os.stat(f"/run/netns/{NAME}-node2").st_ino == inode
        assert left() == [f"namespace {NAME}-node2", f"mount /run/netns/{NAME}-node2"]
    finally:
        subprocess.run(["ip", "netns", "del", f"{NAME}-node2"], check=False)


def test_a_namespace_that_took_the_place_of_ours_survives_down() -> None:
    nsk8s(*UP)
    subprocess.run(["ip", "netns", "del", f"{NAME}-node2"], check=True)
    subprocess.run(["ip", "netns", "add", f"{NAME}-node2"], check=True)
    try:
        refused = nsk8s("down", "-q", ok=False)
        assert refused.returncode == 1
        assert f"left alone: {NAME}-node2 (not the namespace nsk8s made)" in refused.stderr
        assert Path(f"/run/netns/{NAME}-node2").exists()
        assert _processes() == []
    finally:
        subprocess.run(["ip", "netns", "del", f"{NAME}-node2"], check=False)
    nsk8s("down", "-q")
    assert left() == []


FULL = """
mount -t tmpfs -o size={size},nr_inodes={inodes} tmpfs /var/lib/nsk8s || exit 99
"$@" up -q --nodes 2 --timeout 20
code=$?
"$@" down -q
exit $code
"""


@pytest.mark.parametrize(("size", "inodes"), [("16k", 100), ("8m", 1000), ("200m", 4), ("200m", 20), ("200m", 45), ("200m", 90)])
def test_a_full_disk_is_said_and_nothing_is_left(size: str, inodes: int) -> None:
    made = not Path("/var/lib/nsk8s").exists()
    Path("/var/lib/nsk8s").mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", FULL.format(size=size, inodes=inodes), "sh", *COMMAND],
            capture_output=True, text=True, env=ENVIRONMENT, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert "space" in done.stderr or "disk" in done.stderr, done.stderr
        assert left() == []
    finally:
        if made:
            with contextlib.suppress(OSError):
                Path("/var/lib/nsk8s").rmdir()


def test_a_command_waits_for_another_one_and_says_so() -> None:
    nsk8s(*UP, "--no-wait")
    with state.locked(NAME):
        down = subprocess.Popen([*COMMAND, "down"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until("it waits", lambda: re.search(rf"-> FLOCK  ADVISORY  WRITE {down.pid} ", Path("/proc/locks").read_text()))
        assert Cgroups().all_processes(f"/nsk8s/{NAME}")
    out, err = down.communicate(timeout=60)
    assert f"another nsk8s command for this cluster has to end first (pid {os.getpid()})" in err
    assert "is gone" in out


def test_down_while_up_waits_for_the_nodes() -> None:
    never_ready = [*UP, "--without", "kube-controller-manager"]  # nobody gives the nodes their pods' subnets
    up = subprocess.Popen([*COMMAND, *never_ready], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until("components start", lambda: Path(f"/run/nsk8s/{NAME}/specs.json").exists())
    nsk8s("down", "-q")
    assert left() == []
    _, said = up.communicate(timeout=60)
    assert up.returncode == 1, said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1, said
    assert left() == []


def test_nodes_stopped_twice_started_twice_and_unknown() -> None:
    nsk8s(*UP)
    for verb in ("stop", "start", "remove"):
        unknown = nsk8s("node", verb, "node9", ok=False)
        assert unknown.returncode == 1
        assert unknown.stderr.strip().splitlines()[-1].startswith("error: there is no node 'node9' in this cluster")
        assert "node1, node2" in unknown.stderr
    nsk8s("node", "stop", "node2")
    nsk8s("node", "stop", "node2")
    entered = nsk8s("enter", "node/node2", "--", "true", ok=False)
    assert (entered.returncode, "switched off" in entered.stderr) == (1, True)
    nsk8s("node", "start", "node2")
    before = components()
    nsk8s("node", "start", "node2")
    assert {k: c["pid"] for k, c in components().items()} == {k: c["pid"] for k, c in before.items()}


def test_a_node_stop_that_was_interrupted_is_finished_before_the_boot() -> None:
    nsk8s(*UP)
    old = os.stat(f"/run/netns/{NAME}-node2").st_ino
    for after_s in (0.2, 0.3, 0.4, 0.5):
        process = subprocess.Popen([*COMMAND, "node", "stop", "node2"], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        time.sleep(after_s)
        process.kill()
        process.wait()
    known = state.load_state(state.Paths(NAME))
    assert known is not None
    stopped = known.node("node2").stopped
    nsk8s("node", "start", "node2")
    assert (os.stat(f"/run/netns/{NAME}-node2").st_ino != old) is stopped
    # The kernel's word for a link follows the link by up to a second.
    until("eth0 is up", lambda: netns("node2", "ip", "-br", "link", "show", "eth0").stdout.split()[1] == "UP")
