"""The command as its user has it: what it prints beside what the real kubectl prints, and its exit codes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_cluster import NAME, ask, get, nsk8s, pods, until, until_proxied
from e2e_terminal import is_a_real_terminal
from patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

EXAMPLES = Path(__file__).parents[2] / "examples"
ODD = Path(__file__).parent / "data" / "cli-odd.yaml"


def _kubectl() -> tuple[str | None, str]:
    """(a kubectl to compare with, its minor version): 1.33 if one lies beside that on PATH, whose words ours are."""
    path = shutil.which("kubectl")
    if path is None:
        return None, ""
    beside = Path(path).resolve().parent / "kubectl.1.33"
    program = str(beside) if beside.exists() else path
    version = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False).stdout
    found = re.search(r'"minor": "(\d+)', version)
    return program, found[1] if found else ""


KUBECTL, MINOR = _kubectl()
COMMAND = [sys.executable, "-m", "nsk8s.cli.main"]
ENVIRONMENT = {**os.environ, "NSK8S_CLUSTER": NAME, "KUBECONFIG": f"/var/lib/nsk8s/{NAME}/admin.conf"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q")
        nsk8s("apply", "-f", str(EXAMPLES / "hello.yaml"), "-f", str(EXAMPLES / "debug-pod.yaml"), "-f", str(ODD))
        until("three ready pods", lambda: len(pods()) == 3)
        until("a ready debug pod", lambda: len(pods("app=debug")) == 1)
        until("a finished job", lambda: get("job/odd")["status"].get("completionTime"))
        until("a failing container", lambda: _waiting("odd", "failing") == "CrashLoopBackOff")
        until("an image that is not there", lambda: _waiting("odd-image", "main") in ("ErrImagePull", "ImagePullBackOff"))
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def _waiting(pod: str, container: str) -> str:
    statuses = get(f"pod/{pod}")["status"].get("containerStatuses") or []
    found = [s["state"].get("waiting") or {} for s in statuses if s["name"] == container]
    return str(found[0].get("reason", "")) if found else ""


def run(*words: str, text: str | None = None) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE * 60, input=text, check=False)
    return done.returncode, done.stdout, done.stderr


def both(*words: str) -> tuple[tuple[int, str, str], tuple[int, str, str]]:
    """What kubectl and nsk8s answer, asked at the same time."""
    assert KUBECTL is not None
    asked = [
        subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for command in ([KUBECTL], COMMAND)
    ]
    theirs, ours = [(p.communicate(timeout=PATIENCE * 60), p.returncode) for p in asked]
    return (theirs[1], *theirs[0]), (ours[1], *ours[0])


SAME_AS_KUBECTL = [
    "get pods -o wide",
    "get deploy,svc,pods",
    "get nodes,po -A",
    "get pods --no-headers",
    "get svc hello -o name",
    "get cm odd -o yaml",
    "get pod odd -o json",
    "get pods,svc -o yaml",
    "get pods nosuch odd",
    "get pods -l a=b=c",
    "get crd -A",
    "describe pod debug",
    "describe pod hello-",
    "describe nodes",
    "describe svc",
    "describe deploy hello",
    "describe sts odd",
    "describe lease -n kube-node-lease node1",
]
MORE = [
    "get pods",
    "get nodes -o wide --show-labels",
    "get all -A",
    "get po,nodes -A",
    "get pods -o name",
    "get pod/debug svc/hello",
    "get endpointslices,leases -A",
    "get pods -l app=hello --show-labels",
    "get pods --field-selector spec.nodeName=node1",
    "get cm odd -o json",
    "get pod odd -o yaml",
    "get pods -A -o json",
    "get nodes -o yaml",
    "get cm odd nosuch -o yaml",
    "get pods nosuch -o yaml",
    "get pods -n nosuch",
    "get pods --field-selector foo=bar",
    "describe pod odd-image",
    "describe rs -l app=hello",
    "describe job odd",
    "describe ep hello",
    "describe endpointslice",
    "describe ns default",
    "describe secret odd",
    "describe sa odd",
    "describe priorityclass",
    "describe svc nosuch",
]


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl on PATH to compare with")
@pytest.mark.parametrize("line", [*SAME_AS_KUBECTL, *(pytest.param(line, marks=pytest.mark.slow) for line in MORE)])
def test_prints_what_kubectl_prints(cluster: None, line: str) -> None:
    words = line.split()
    if words[0] == "describe" and MINOR != "33":
        pytest.skip(f"kubectl 1.{MINOR} describes in other words than 1.33")
    deadline = time.monotonic() + PATIENCE * 60
    while True:  # an age or a heartbeat may change between the two: on a busy machine they are often not of one second
        theirs, ours = both(*words)
        if ours == theirs:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.3 + 0.17 * random.random())
    assert ours == theirs


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl on PATH to compare with")
def test_describes_a_pod_with_everything_as_kubectl_does(cluster: None) -> None:
    """Without its events: of more than twelve in one second kubectl's sort does not keep the order."""
    if MINOR != "33":
        pytest.skip(f"kubectl 1.{MINOR} describes in other words than 1.33")

    def bodies() -> list[tuple[int, str]] | None:
        found = [(code, out.partition("\nEvents:")[0]) for code, out, _ in both("describe", "pod", "odd")]
        return found if found[0] == found[1] else None

    until("both say the same, between two restarts", bodies)


def test_watch_prints_a_line_a_change(cluster: None) -> None:
    watch = subprocess.Popen([*COMMAND, "get", "pods", "-l", "app=watched", "-w"], stdout=subprocess.PIPE, env=ENVIRONMENT, text=True)
    assert watch.stdout is not None
    try:
        manifest = (EXAMPLES / "debug-pod.yaml").read_text().replace("name: debug", "name: watched").replace("app: debug", "app: watched")
        nsk8s("apply", "-f", "-", text=manifest)
        lines = [watch.stdout.readline().split() for _ in range(2)]
        assert lines[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
        assert lines[1][0] == "watched"  # Pending, unless the pod was quicker than the watch
        while lines[-1][1:3] != ["1/1", "Running"]:
            lines.append(watch.stdout.readline().split())
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 130
    finally:
        watch.kill()
        watch.wait()
        nsk8s("delete", "pod", "watched", "--ignore-not-found")


def test_apply_says_what_it_did_and_does_it_once(cluster: None, tmp_path: Path) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1", "b": "2"}}
    first = run("apply", "-f", "-", text=json.dumps(config))
    again = run("apply", "-f", "-", text=json.dumps(config))
    del config["data"]["b"]  # type: ignore[attr-defined]
    changed = run("apply", "-f", "-", text=json.dumps(config))
    words = [out.split()[-1] for _, out, _ in (first, again, changed)]
    assert words == ["created", "unchanged", "configured"]
    assert get("cm/applied")["data"] == {"a": "1"}, "a field that is no longer applied goes"

    folder = tmp_path / "manifests"
    (folder / "below").mkdir(parents=True)
    for name, where in (("one", folder / "one.yaml"), ("two", folder / "below" / "two.json")):
        where.write_text(json.dumps({**config, "metadata": {"name": name}}))
    (folder / "README.txt").write_text("not a manifest")
    (folder / "cluster.yaml").write_text("name: demo\n")
    code, out, err = run("apply", "-f", str(folder), "-o", "name")
    assert (code, out) == (0, "configmap/one\n")
    assert "skipped" in err
    assert run("apply", "-Rf", str(folder))[1] == "configmap/two created\nconfigmap/one unchanged\n"
    code, out, _ = run("delete", "-Rf", str(folder), "-f", "-", text="{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}}")
    assert (code, out.count("deleted")) == (0, 3)


def test_apply_goes_on_after_a_refusal_and_fails_in_the_end(cluster: None) -> None:
    """The API refuses what only it can know; what cannot be read at all stops everything before it begins."""
    good = "{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}"
    unknown_field = "{apiVersion: v1, kind: ConfigMap, metadata: {name: bad}, dada: {a: b}}"
    code, out, err = run("apply", "-f", "-", text=f"{unknown_field}\n---\n{good}")
    assert (code, out) == (1, "configmap/good created\n")
    assert len(err.splitlines()) == 1
    assert "dada" in err
    assert run("delete", "cm", "good")[0] == 0
    code, out, err = run("apply", "-f", "-", text=f"{good}\n---\n{{apiVersion: v1, kind: Nonesuch, metadata: {{name: x}}}}")
    assert (code, out) == (1, "configmap/good created\n")
    assert 'no matches for kind "Nonesuch" in version "v1"' in err
    assert run("delete", "cm", "good")[0] == 0
    code, out, err = run("apply", "-f", "-", text=f"{good}\n---\na: b: c")
    assert (code, out) == (1, "")
    assert "standard input:3:5: not valid YAML" in err
    assert run("get", "cm", "good")[0] == 1, "nothing was applied"


def test_logs_of_a_container_its_past_and_its_future(cluster: None) -> None:
    manifest = """
    {apiVersion: v1, kind: Pod, metadata: {name: talker}, spec: {terminationGracePeriodSeconds: 0, containers: [
      {name: a, image: busybox, command: [sh, -c, 'for i in 1 2 3; do echo a$i; done; while [ ! -e /go ]; do sleep 0.1; done; echo after; sleep 600']},
      {name: b, image: busybox, command: [sh, -c, 'echo b; [ -e /seen ] && sleep 600; exit 1']}]}}"""
    nsk8s("apply", "-f", "-", text=manifest)
    try:
        until("b has been restarted", lambda: [s for s in get("pod/talker")["status"].get("containerStatuses") or []
                                               if s["name"] == "b" and s["restartCount"] > 0])  # fmt: skip
        code, _, err = until("a has said all", lambda: (done := run("logs", "talker"))[:2] == (0, "a1\na2\na3\n") and done)
        assert "a, b" in err, "which container was taken, and which others there are"
        assert run("logs", "talker", "-c", "a", "--tail", "1")[1] == "a3\n"
        assert run("logs", "talker", "-c", "b", "--previous")[1] == "b\n"
        assert run("logs", "talker", "a", "--since", "1h")[1] == "a1\na2\na3\n"
        assert run("logs", "talker", "a", "--timestamps", "--tail", "1")[1].endswith("Z a3\n")
        wanted = {"[pod/talker/a] a3", "[pod/talker/b] b"}
        until("both", lambda: wanted <= set(run("logs", "talker", "--all-containers", "--prefix")[1].splitlines()))  # b may just begin anew
        code, _, err = run("logs", "talker", "-c", "none")
        assert (code, len(err.splitlines())) == (1, 1)
        assert run("logs", "nosuch")[0] == 1
        assert run("logs", "talker", "--since", "soon")[0] == 2
        follow = subprocess.Popen([*COMMAND, "logs", "-f", "talker", "-c", "a", "--tail", "1"], stdout=subprocess.PIPE, env=ENVIRONMENT, text=True)
        try:
            assert follow.stdout is not None
            assert follow.stdout.readline() == "a3\n"
            assert run("exec", "talker", "-c", "a", "--", "touch", "/go")[0] == 0
            assert follow.stdout.readline() == "after\n"
        finally:
            follow.kill()
            follow.wait()
    finally:
        nsk8s("delete", "pod", "talker", "--force", ok=False)


def test_exec_passes_input_output_and_exit_code(cluster: None) -> None:
    assert run("exec", "debug", "--", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert run("exec", "-i", "debug", "--", "cat", text="there and back\n") == (0, "there and back\n", "")
    assert run("exec", "deploy/hello", "--", "true")[0] == 0
    code, out, err = run("exec", "debug", "--", "nosuchprogram")
    assert (code != 0, out, len(err.splitlines())) == (True, "", 1)
    code, out, err = run("exec", "nosuch", "--", "true")
    assert (code, out) == (1, "")
    assert "not found" in err


def test_exec_with_a_terminal_is_one(cluster: None) -> None:
    is_a_real_terminal([sys.executable, *COMMAND[1:], "exec", "-it"], ENVIRONMENT, "debug")
    code, out, err = run("exec", "-it", "debug", "--", "tty", text="")
    assert (code, out, err) == (1, "not a tty\n", "Unable to use a TTY - input is not a terminal or the right kind of file\n")



def test_scale_and_delete(cluster: None) -> None:
    assert run("scale", "deploy/hello", "--replicas", "1") == (0, "deployment.apps/hello scaled\n", "")
    until("one pod", lambda: len(pods()) == 1)
    assert run("scale", "deploy", "hello", "--replicas", "3")[0] == 0
    code, _, err = run("scale", "svc/hello", "--replicas", "3")
    assert (code, len(err.splitlines())) == (1, 1)
    assert run("scale", "deploy/nosuch", "--replicas", "3")[0] == 1
    until("three pods", lambda: len(pods()) == 3)
    until_proxied("control-plane", "node1", "node2", "node3")
    nsk8s("apply", "-f", "-", text=(EXAMPLES / "debug-pod.yaml").read_text().replace("name: debug", "name: gone"))
    assert run("delete", "pod/gone") == (0, 'pod "gone" deleted\n', "")
    assert run("get", "pod/gone")[0] == 1, "it waited until it was gone"
    code, out, err = run("delete", "pod", "gone")
    assert (code, out) == (1, "")
    assert err == 'Error from server (NotFound): pods "gone" not found\n'
    assert run("delete", "pod", "gone", "--ignore-not-found")[0] == 0
    assert run("delete", "pods", "-l", "app=none") == (0, "No resources found\n", "")
    assert run("delete", "pods")[0] == 1
    nsk8s("apply", "-f", "-", text=(EXAMPLES / "debug-pod.yaml").read_text().replace("name: debug", "name: going"))
    assert run("delete", "pod/going", "--wait=false") == (0, 'pod "going" deleted\n', "")
    until("it is gone", lambda: run("get", "pod/going")[0] == 1)


def packets(file: Path) -> int:
    """How many tcpdump finds in a file, which may still be written to."""
    return subprocess.run(["tcpdump", "-nr", str(file)], capture_output=True, text=True, check=False).stdout.count(" > ")


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="no tcpdump on PATH")
def test_capture_at_several_places_into_files(cluster: None, tmp_path: Path) -> None:
    hello = sorted(pods(), key=lambda p: str(p["spec"]["nodeName"]))[0]
    ip, name, node = hello["status"]["podIP"], hello["metadata"]["name"], hello["spec"]["nodeName"]
    places = [f"node/{node}", f"pod/default/{name}", "router", "client", f"switch/{node}"]
    capture = subprocess.Popen(
        [*COMMAND, "capture", *places, "-w", str(tmp_path / "lab.pcap"), "--filter", "tcp port 8080 or tcp port 30080"],
        stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert capture.stderr is not None
    try:
        listening = 0
        while listening < len(places):
            line = capture.stderr.readline()
            assert line, "the capture ended"
            listening += "listening on" in line
        assert ask(("client",), f"http://192.168.56.1{node[-1]}:30080/")["pod"]
        assert run("exec", "debug", "--", "wget", "-qO-", f"http://{ip}:8080/")[0] == 0
        until("packets in all the files", lambda: all(map(packets, tmp_path.iterdir())))
        capture.send_signal(signal.SIGINT)
        assert capture.wait(30) == 0
    finally:
        capture.kill()
        capture.wait()
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == sorted(f"lab-{p.replace('/', '-')}.pcap" for p in (node, f"default/{name}", "router", "client", f"switch/{node}"))
    for file in tmp_path.iterdir():
        read = subprocess.run(["tcpdump", "-nr", str(file)], capture_output=True, text=True, check=False)
        assert read.returncode == 0, read.stderr
        assert read.stdout.count(" > "), f"{file.name} has lost its packets"


def test_capture_counts_and_prints(cluster: None) -> None:
    ping = subprocess.Popen([*COMMAND, "enter", "client", "--", "sh", "-c", "while :; do curl -s -m 1 http://192.168.56.11:30080 >/dev/null; sleep 0.05; done"],
                            env=ENVIRONMENT, start_new_session=True)  # fmt: skip
    try:
        code, out, _ = run("capture", "client", "node1", "-c", "3", "--filter", "tcp")
    finally:
        os.killpg(ping.pid, signal.SIGKILL)
        ping.wait()
    assert code == 0
    lines = out.splitlines()
    assert [sum(line.startswith(f"{place}: ") for line in lines) for place in ("client", "node1")] == [3, 3]


def test_capture_refuses_what_it_cannot_do(cluster: None) -> None:
    for words in (["nowhere"], ["client", "--filter", "this is no filter"], ["client", "-i", "nosuch0"], ["switch/nosuch"]):
        code, _, err = run("capture", *words, "--duration", "3")
        assert code != 0, words
        assert err.strip(), words


def test_enter_runs_there_and_passes_the_exit_code_on(cluster: None) -> None:
    assert run("enter", "router", "--", "sh", "-c", "exit 9")[0] == 9
    assert "203.0.113.10" in run("enter", "client", "--", "ip", "-4", "addr")[1]
    assert "192.168.56.12" in run("enter", "node2", "--", "ip", "-4", "addr")[1]
    assert run("enter", "node/node1", "--", "cat", "/etc/hostname")[1] == "node1\n"
    debug = get("pod/debug")["status"]["podIP"]
    assert debug in run("enter", "pod/debug", "--", "ip", "-4", "addr", "show", "eth0")[1]
    assert debug in run("enter", "pod/default/debug", "--", "ip", "-4", "addr", "show", "eth0")[1]
    assert run("enter", "client", "--", "nosuchprogram")[0] == 127
    for nowhere in ("nowhere", "pod/nosuch", "node/nosuch", "pod/odd-pending"):
        code, out, err = run("enter", nowhere, "--", "true")
        assert (code, out, len(err.splitlines())) == (1, "", 1), nowhere


REFUSALS = [
    ("get pdos", 'the server doesn\'t have a resource type "pdos" → did you mean pods?'),
    ("get all debug", "you must specify only one resource type"),
    ("get pods debug -A", "across all namespaces"),
    ("get pods,svc -w", "only watch a single"),
    ("describe nosuch", 'the server doesn\'t have a resource type "nosuch"'),
    ("delete pods", "no name was specified"),
    ("delete pods debug --force --grace-period 5", "cannot be specified together"),
    ("scale pod/debug --replicas 2", "cannot scale pods"),
    ("logs svc/kubernetes", "selects no pods"),
    ("logs odd-image", 'container "main" in pod "odd-image" is waiting to start'),
    ("exec odd-image -- true", "container not found"),
    ("apply -f nosuch.yaml", "does not exist"),
    ("up --nodes 7", "exists with other settings (nodes)"),
    ("node stop nosuch", "its nodes are control-plane, node1, node2, node3"),
    ("node add node1", "the name node1 is taken"),
    ("node add Bad", "'Bad' is not a node's name"),
    ("node add n9 --taint bad", "'bad' is not a taint → --taint KEY=VALUE:NoSchedule"),
    ("node add n9 --label bad", "--label bad has no value"),
    ("node remove control-plane", "the control plane cannot be removed"),
]


def test_refusals_are_one_line_and_change_nothing(cluster: None) -> None:
    def there() -> list[str]:
        """Without what earlier tests deleted: that goes when it has ended."""
        return sorted(o["metadata"]["uid"] for o in get("nodes,pods")["items"] if not o["metadata"].get("deletionTimestamp"))

    before = there()
    for line, says in REFUSALS:
        code, out, err = run(*line.split())
        assert code in (1, 2), line
        assert (out, len(err.splitlines())) == ("", 1), line
        assert says in err
    assert there() == before


def test_objects_that_are_too_large(cluster: None) -> None:
    for size, says in ((1_200_000, "may not be more than 1048576 bytes"), (4_200_000, "Request entity too large")):
        code, _, err = run("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": "x" * size}}))
        assert (code, len(err.splitlines())) == (1, 1)
        assert says in err


def test_status_and_list_as_json_and_text(cluster: None) -> None:
    code, out, _ = run("status", "-o", "json")
    status = json.loads(out)
    assert code == 0
    assert set(status) == {"name", "state", "server", "iptables", "proxyMode", "supervisor", "machines", "components"}
    assert status["proxyMode"] == "iptables"
    assert {m["name"] for m in status["machines"]} == {"control-plane", "node1", "node2", "node3", "router", "client", "switch"}
    assert all(set(m) == {"name", "role", "netns", "addresses", "state"} for m in status["machines"])
    assert all({"id", "machine", "name", "pid", "state", "restarts", "lastExit", "log"} <= set(c) for c in status["components"])
    code, out, _ = run("list", "-o", "json")
    mine = [c for c in json.loads(out) if c["name"] == NAME]
    assert (code, mine) == (0, [{"name": NAME, "state": "running", "nodes": 4, "server": status["server"]}])
    assert NAME in run("list")[1]


def test_a_cluster_half_dead_is_said_to_be_and_healed(cluster: None) -> None:
    """Its supervisor is gone: `list` says so and leaves it; every command that needs it brings it back."""
    before = json.loads(run("status", "-o", "json")[1])
    os.kill(before["supervisor"], signal.SIGKILL)
    until("it is gone", lambda: _state() == "degraded")
    code, out, _ = run("status", "-o", "json")
    after = json.loads(out)
    assert (code, after["state"]) == (0, "running")
    assert after["supervisor"] not in (0, before["supervisor"])
    assert [(c["id"], c["pid"]) for c in after["components"]] == [(c["id"], c["pid"]) for c in before["components"]]
    assert _state() == "running"


def _state() -> str:
    return next(str(c["state"]) for c in json.loads(run("list", "-o", "json")[1]) if c["name"] == NAME)


def test_a_machine_that_is_missing_is_said_to_be_and_made_again(cluster: None) -> None:
    subprocess.run(["ip", "netns", "del", f"{NAME}-client"], check=True)
    code, out, _ = run("status")
    assert code == 3
    assert re.search(rf"^client +{NAME}-client +203.0.113.10 +missing$", out, re.M)
    assert f"`nsk8s up --name {NAME}` makes them again" in out
    assert _state() == "degraded"
    assert run("up", "-q")[0] == 0
    assert run("status")[0] == 0
    assert "203.0.113.10" in run("enter", "client", "--", "ip", "-4", "addr")[1]


def test_a_control_plane_that_is_off_is_named_by_every_command(cluster: None) -> None:
    assert run("node", "stop", "control-plane")[0] == 0
    try:
        for line in ("get pods", "apply -f " + str(ODD), "up -q", "exec debug -- true"):
            code, out, err = run(*line.split())
            assert (code, out, len(err.splitlines())) == (1, "", 1), line
            assert f"the control plane of cluster {NAME} is switched off → nsk8s node start --name {NAME} control-plane" in err
        code, out, _ = run("status")
        assert code == 3
        assert "The control plane is switched off" in out
        assert _state() == "degraded"
        assert run("enter", "node1", "--", "true")[0] == 0, "what needs no API works"
    finally:
        code, out, err = run("node", "start", "control-plane")
    assert (code, out) == (0, "node/control-plane started\n"), err
    assert run("status")[0] == 0


def test_a_second_up_changes_nothing(cluster: None) -> None:
    before = json.loads(run("status", "-o", "json")[1])
    code, out, err = run("up")
    assert code == 0
    assert "was running already" in out
    assert json.loads(run("status", "-o", "json")[1])["components"] == before["components"]
    code, _, err = run("up", "--nodes", "7")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "other settings (nodes)" in err


def test_a_closed_pipe_is_no_error(cluster: None) -> None:
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" get pods -A -o yaml | head -1', "-", *COMMAND],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("apiVersion: v1\n", "")
    assert done.returncode in (0, 141)


def test_without_kubectl_on_the_path_all_works(cluster: None, tmp_path: Path) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    for program in ("iptables-restore", "ip", "cat"):
        path.joinpath(program).symlink_to(str(shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")))
    done = subprocess.run(
        [*COMMAND, "get", "pods"], capture_output=True, text=True, env={**ENVIRONMENT, "PATH": str(path)}, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_kubeconfig_is_exported_and_taken_back(cluster: None, tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "HOME": str(tmp_path)}
    environment.pop("SUDO_UID", None)
    file = tmp_path / ".kube" / "config"
    file.parent.mkdir()
    file.write_text("apiVersion: v1\nkind: Config\nclusters: []\ncontexts:\n- {name: mine, context: {cluster: x, user: y}}\nusers: []\ncurrent-context: mine\n")
    for _ in range(2):
        done = subprocess.run([*COMMAND, "kubeconfig", "--export"], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert text.count(f"{NAME}-admin@{NAME}") >= 2
    assert "name: mine" in text
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("kubeconfig", "--path")[1] == f"/var/lib/nsk8s/{NAME}/admin.conf\n"
    assert run("kubeconfig")[1].startswith("apiVersion: v1\n")


def test_a_part_left_out_is_run_by_hand_as_up_says() -> None:
    """Last of all: it makes the cluster anew, without kube-proxy."""
    nsk8s("down", "-q", ok=False)
    proxy = None
    try:
        code, out, _ = run("up", "--without", "kube-proxy", "--nodes", "1")
        assert code == 0
        hint = re.search(r"Left out: kube-proxy\. Ours, by hand:\n +nsk8s (enter .* -- )nsk8s (component kube-proxy .*)\n", out)
        assert hint, out
        nsk8s("apply", "-f", str(EXAMPLES / "hello.yaml"))
        until("three ready pods", lambda: len(pods()) == 3)
        port = ["enter", "client", "--", "curl", "-s", "-m", "2", "http://192.168.56.11:30080/healthz"]
        assert run(*port)[0] == 7, "nobody makes Services"
        proxy = subprocess.Popen([*COMMAND, *hint[1].split(), *COMMAND, *hint[2].split()], env={**ENVIRONMENT, "PYTHONPATH": str(EXAMPLES.parent)}, stderr=subprocess.DEVNULL)
        until("our own proxy makes the Service", lambda: run(*port)[1] == "ok\n")
        proxy.send_signal(signal.SIGINT)
        assert proxy.wait(30) in (0, 130), "a component ends cleanly"
        proxy = None
        assert run(*port)[1] == "ok\n", "its rules stay"
    finally:
        if proxy is not None:
            proxy.kill()
            proxy.wait()
        nsk8s("down", "-q", ok=False)
