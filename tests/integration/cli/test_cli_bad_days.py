"""Bad input and bad days, on this machine: one clear line, an exit code, and nothing left."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

NAME = os.environ.get("NSK8S_CLI_NAME", "clibad")
COMMAND = [sys.executable, "-m", "nsk8s.cli.main"]
ENVIRONMENT = {**os.environ, "NSK8S_CLUSTER": NAME}


def run(*words: str, **more: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env={**ENVIRONMENT, **more.pop("env", {})},  # type: ignore[dict-item]
        timeout=100, check=False, **more,  # type: ignore[call-overload]
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def left() -> list[str]:
    """What exists of the cluster on this machine."""
    places = [f"/var/lib/nsk8s/{NAME}", f"/run/nsk8s/{NAME}", f"/run/nsk8s/.{NAME}.lock"]
    spaces = [str(p) for p in Path("/run/netns").glob(f"{NAME}-*")] if Path("/run/netns").is_dir() else []
    return [p for p in places if os.path.lexists(p)] + spaces


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    assert left() == []
    yield
    found = left()
    if found:
        run("down", "-q")
    assert found == [], "the command left something behind"


def refused(answer: tuple[int, str, str], *says: str, code: int = 1) -> str:
    """It failed with exactly one line on stderr that says so; the line."""
    assert answer[0] == code, answer
    assert answer[1] == "", answer
    lines = answer[2].splitlines()
    assert len(lines) == 1, answer
    for words in says:
        assert words in lines[0], lines[0]
    return lines[0]


NEED_ROOT = ["up", "down", "stop", "start", "status", "list", "kubeconfig", "get pods", "enter node1", "capture node1", "node add n",
             "node remove n"]  # fmt: skip


@functools.cache
def _readable_by_nobody() -> bool:
    return subprocess.run([*COMMAND, "--version"], user=65534, group=65534, extra_groups=[], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("line", NEED_ROOT)
def test_not_root(line: str) -> None:
    if not _readable_by_nobody():
        pytest.skip("this checkout or its Python cannot be read by nobody")
    refused(run(*line.split(), user=65534, group=65534, extra_groups=[]), "needs root → use sudo")


def test_not_root_may_ask_for_help_and_the_doctor() -> None:
    if not _readable_by_nobody():
        pytest.skip("this checkout or its Python cannot be read by nobody")
    assert run("up", "--help", user=65534, group=65534, extra_groups=[])[0] == 0
    code, out, _ = run("doctor", user=65534, group=65534, extra_groups=[])
    assert code == 1
    assert "✗ root: uid 65534 → use sudo" in out


def test_the_asked_for_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(run("up", "-q", "--api-port", port), f"port {port} on 127.0.0.1 is in use", "→ choose another with --api-port")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("subnets: {nodes: 10.244.1.0/24}", "subnets.nodes (10.244.1.0/24) and subnets.pods (10.244.0.0/16) overlap"),
        ("nodez: 1", "did you mean nodes?"),
        ("a: b: c", "file.yaml:1:5: not valid YAML"),
    ],
)
def test_a_bad_cluster_file(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    refused(run("up", "-q", "-f", str(file)), says)
    refused(run("up", "-q", "-f", "-", input=text), "-:1:5" if "file.yaml" in says else says)


def test_a_cluster_file_that_is_not_there(tmp_path: Path) -> None:
    refused(run("up", "-q", "-f", str(tmp_path / "none.yaml")), "cannot read", "No such file")
    refused(run("up", "-q", "-f", str(tmp_path)), "cannot read", "Is a directory")


def test_a_namespace_of_our_name_that_is_not_ours() -> None:
    netns = f"{NAME}-node2"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        refused(run("up", "-q"), f"a network namespace {netns} exists that nsk8s did not make", f"`ip netns del {netns}`")
        assert left() == [f"/run/netns/{netns}"], "theirs is left alone, and ours was not begun"
        refused(run("down", "-q"), f"there is no cluster {NAME}")
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=True)


@pytest.mark.parametrize(
    "line", ["down", "stop", "start", "status", "kubeconfig --export", "get pods", "delete pod/x", "logs x", "enter node1 -- true",
             "capture node1", "node add n", "node stop n"],
)  # fmt: skip
def test_a_cluster_that_is_not_there(line: str) -> None:
    refused(run(*line.split()), f"there is no cluster {NAME}", "→")


def test_apply_to_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    manifest = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"
    refused(run("apply", "-f", "-", input=manifest), f"there is no cluster {NAME}")
    refused(run("apply", "-f", "-", input="a: b: c"), "standard input:1:5: not valid YAML")
    refused(run("apply", "-f", "https://example.com/x.yaml"), "not fetched")
    refused(run("apply", "-f", str(tmp_path / "none.yaml")), "does not exist")
    refused(run("delete", "-f", str(tmp_path / "none.yaml")), "does not exist")


def test_down_all_with_nothing_there_is_no_error() -> None:
    if any(p.is_dir() for p in Path("/var/lib/nsk8s").glob("*")):
        pytest.skip("other clusters are on this machine")
    assert run("down", "--all") == (0, "There is no cluster on this machine.\n", "")
    assert run("list") == (0, "There is no cluster on this machine; `nsk8s up` makes one.\n", "")


def test_a_damaged_state_file() -> None:
    state = Path(f"/var/lib/nsk8s/{NAME}")
    for text in ("{", '{"config": {"nodez": 1}, "api_port": 1, "nodes": []}'):
        state.mkdir(parents=True, mode=0o700)
        (state / "cluster.json").write_text(text)
        line = refused(run("status"))
        assert "→" in line, line
        code, out, _ = run("list")
        assert code == 0
        assert [row.split()[1] for row in out.splitlines() if row.startswith(f"{NAME} ")] == ["damaged"]
        assert run("down", "-q") == (0, "", "")
        assert left() == []


def test_a_cluster_that_was_begun_and_not_finished() -> None:
    for root in ("/var/lib/nsk8s", "/run/nsk8s"):
        Path(root, NAME).mkdir(parents=True, mode=0o700)
        refused(run("status"), "was begun and not finished", "nsk8s up", "nsk8s down")
        assert [line.split()[1] for line in run("list")[1].splitlines() if line.startswith(f"{NAME} ")] == ["half-made"]
        assert run("down", "-q") == (0, "", "")


def test_a_log_that_cannot_be_written() -> None:
    """As on a full disk, where the supervisor's own process may be the one that finds no room any more."""
    log = Path(f"/var/lib/nsk8s/{NAME}/logs/cluster/supervisor.log")
    log.mkdir(parents=True)
    try:
        refused(run("up", "-q"), f"error: {log}: Is a directory")
    finally:
        assert run("down", "-q")[0] == 0


def test_no_iptables(tmp_path: Path) -> None:
    """Through a PATH without it: the system's own folders are looked into as well, so they are hidden from the command."""
    script = (
        "import sys; from nsk8s.kernel import probe; real = probe.which\n"
        "probe.which = lambda p: None if p.startswith('iptables') else real(p)\n"
        "from nsk8s.cli.main import main; sys.argv = ['nsk8s', *sys.argv[1:]]; main()"
    )
    done = subprocess.run([sys.executable, "-c", script, "up", "-q"], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    refused((done.returncode, done.stdout, done.stderr), "iptables-restore: missing", "→ apt-get install iptables")


def test_ctrl_c_during_up_says_how_to_go_on() -> None:
    # It cannot be through before the signal comes: no node is ever ready without its subnet.
    never_ready = [*COMMAND, "up", "--without", "kube-controller-manager"]
    process = subprocess.Popen(never_ready, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stderr is not None
    try:
        said = ""
        while "certificates" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, ""), said + err
        assert err.splitlines()[-1].startswith(f"error: interrupted → `nsk8s up --name {NAME}` goes on from here")
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()
        assert run("down", "-q")[0] == 0


def test_ctrl_c_in_a_finaliser_is_not_lost() -> None:
    """Python reports it and goes on: the weakref callbacks of the import system are such places."""
    code = """
import time, types
from nsk8s.cli import main

class Dying:
    def __del__(self):
        raise KeyboardInterrupt

def command(**_):
    Dying()
    time.sleep(30)

main.cli = types.SimpleNamespace(main=command)
main.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_output_without_a_terminal_has_no_escapes_and_any_encoding_will_do() -> None:
    for env in ({"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "20"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}):
        for words in (("doctor",), ("up", "--help")):
            code, out, err = run(*words, env=env)
            assert code == 0, (env, words, err)
            assert "\033" not in out + err


def test_completion_is_understood_by_bash() -> None:
    bash = shutil.which("bash")
    assert bash
    script = run("completion", "bash")[1]
    done = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_api_server_that_does_not_answer_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nsk8s.cli import common
    from nsk8s.client.kubeconfig import ClientConfig, render, write
    from nsk8s.client.resources import PODS
    from nsk8s.cluster.state import ClusterState, Paths
    from nsk8s.errors import Nsk8sError

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{s.getsockname()[1]}"  # nobody listens
        paths = Paths(NAME)
        paths.admin_conf = tmp_path / "admin.conf"
        write(paths.admin_conf, render(ClientConfig(server), NAME, "admin"))
        monkeypatch.setattr(common, "loaded", lambda cluster: (paths, ClusterState({}, 0, [])))
        monkeypatch.setattr(common, "heal", lambda paths: None)
        with pytest.raises(Nsk8sError) as caught:
            common.with_client(NAME, lambda client: client.get(PODS, "web", "default"))
    asked = f"GET {server}/api/v1/namespaces/default/pods/web: connection refused"
    assert caught.value.message == f"the API server of cluster {NAME} does not answer: {asked}"
