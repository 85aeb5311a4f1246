"""The real kubectl against a whole cluster: every verb with one version, a quick round with each of 1.30 to 1.33, refusals to older."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e_cluster import components, nsk8s, until
from e2e_terminal import attaches_to_its_terminal, is_a_real_terminal
from patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
VERSIONS = ("1.30", "1.31", "1.32", "1.33")
OLD = ("1.27", pytest.param("1.28", marks=pytest.mark.slow), pytest.param("1.29", marks=pytest.mark.slow))
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"
WAIT = f"--timeout={PATIENCE * 30:g}s"


def binary(version: str) -> str:
    """The kubectl of that version: `kubectl.VERSION` on PATH or beside kubectl, or a kubectl that is that version; "" if none."""
    plain = shutil.which("kubectl")
    beside = Path(os.path.realpath(plain)).parent / f"kubectl.{version}" if plain else None
    if beside is not None and beside.exists():
        return str(beside)
    named = shutil.which(f"kubectl.{version}")
    if named or plain is None:
        return named or ""
    told = subprocess.run([plain, "version", "--client", "-o", "json"], capture_output=True, text=True, timeout=20, check=False)
    minor = re.search(r'"gitVersion": "v(\d+\.\d+)', told.stdout)
    return plain if minor and minor[1] == version else ""


class Kubectl:
    """One kubectl, in a namespace of its own."""

    def __init__(self, path: str, namespace: str, home: Path) -> None:
        self.path, self.namespace = path, namespace
        config = home / "config"
        config.write_text(nsk8s("kubeconfig").stdout)
        self.environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(home)}

    def argv(self, *words: str) -> list[str]:
        return [self.path, "-n", self.namespace, *words]

    def run(self, *words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), input=stdin, capture_output=True, text=True, timeout=PATIENCE * 60, check=False,
            env={**self.environment, **environment},
        )  # fmt: skip

    def __call__(self, *words: str, stdin: str = "", **environment: str) -> str:
        """stdout; the test fails if kubectl does."""
        done = self.run(*words, stdin=stdin, **environment)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json"))

    def refused(self, *words: str, stdin: str = "") -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode != 0, f"kubectl {' '.join(words)}: {done.stdout}"
        return done.stderr

    @contextlib.contextmanager
    def streaming(self, *words: str) -> Iterator[Callable[[str], str]]:
        """Run until the block ends; `wait_for(pattern)` returns what was printed once the pattern is in it."""
        process = subprocess.Popen(
            self.argv(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self.environment
        )
        assert process.stdout is not None
        reader = process.stdout.fileno()
        os.set_blocking(reader, False)
        seen = bytearray()

        def wait_for(pattern: str, timeout_s: float = 20) -> str:
            deadline = time.monotonic() + PATIENCE * timeout_s
            while not re.search(pattern, seen.decode(errors="replace")):
                assert time.monotonic() < deadline, f"no {pattern!r} in {seen.decode(errors='replace')!r}"
                if select.select([reader], [], [], 0.2)[0]:
                    chunk = os.read(reader, 65536)
                    assert chunk, f"kubectl {' '.join(words)} ended: {seen.decode(errors='replace')}"
                    seen.extend(chunk)
            return seen.decode(errors="replace")

        try:
            yield wait_for
        finally:
            process.kill()
            process.wait(10)

    def on_terminal(self, *words: str, typed: str = "") -> tuple[int, str]:
        """(exit code, what a terminal shows) of a kubectl that has one."""
        pid, master = pty.fork()
        if pid == 0:
            os.execve(self.path, self.argv(*words), self.environment)
        shown = bytearray()
        deadline = time.monotonic() + PATIENCE * 40
        try:
            if typed:
                os.write(master, typed.encode())
            while time.monotonic() < deadline:
                if select.select([master], [], [], 0.2)[0]:
                    try:
                        chunk = os.read(master, 65536)
                    except OSError:
                        break
                    if not chunk:
                        break
                    shown.extend(chunk)
        finally:
            os.close(master)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "--nodes", "2")
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def made(version: str, home: Path) -> Iterator[Kubectl]:
    path = binary(version)
    if not path:
        pytest.skip(f"kubectl {version} is not on this machine")
    kubectl = Kubectl(path, f"t{os.urandom(3).hex()}", home)
    kubectl("create", "namespace", kubectl.namespace)
    until("the default account", lambda: kubectl.run("get", "serviceaccount", "default").returncode == 0)
    yield kubectl
    kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.fixture(params=VERSIONS)
def each(cluster: None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    yield from made(request.param, tmp_path)


@pytest.fixture(params=OLD)
def old(cluster: None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    yield from made(request.param, tmp_path)


@pytest.fixture
def kubectl(cluster: None, tmp_path: Path) -> Iterator[Kubectl]:
    newest = next((v for v in reversed(VERSIONS) if binary(v)), VERSIONS[-1])
    yield from made(newest, tmp_path)


@pytest.fixture
def hello(kubectl: Kubectl) -> Kubectl:
    kubectl("apply", "-f", str(HELLO), "-n", kubectl.namespace)
    kubectl("rollout", "status", "deployment/hello", WAIT)
    return kubectl


def first_pod(kubectl: Kubectl, selector: str = "app=hello") -> str:
    return kubectl("get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}")


def header(table: str) -> list[str]:
    return re.split(r"\s{2,}|(?<=NODE) (?=READ)", table.splitlines()[0].strip())


def answerer(kubectl: Kubectl, target: str, port: int) -> str:
    """The pod that answers through `kubectl port-forward`."""
    with kubectl.streaming("port-forward", target, f":{port}") as forward:
        found = re.search(r"127\.0\.0\.1:(\d+) ->", forward("Forwarding from 127"))
        assert found is not None
        url = f"http://127.0.0.1:{found[1]}/"
        done = subprocess.run(["curl", "-s", "-m", "5", url], capture_output=True, text=True, check=False)
        return str(json.loads(done.stdout)["pod"])


# One quick round with each version.


def test_each_version_does_the_main_job(each: Kubectl) -> None:
    each("apply", "-f", str(HELLO))
    assert "successfully rolled out" in each("rollout", "status", "deployment/hello", WAIT)
    assert header(each("get", "pods")) == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    wide = each("get", "pods", "-o", "wide")
    assert header(wide)[5:] == ["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
    pod = first_pod(each)
    assert each("exec", pod, "--", "hostname").strip() == pod
    assert each.run("exec", pod, "--", "sh", "-c", "exit 7").returncode == 7
    assert each("exec", "-i", pod, "--", "cat", stdin="through\n") == "through\n"
    assert "listening on port 8080" in each("logs", pod)
    until("its Events", lambda: "Created container" in each("describe", "pod", pod))
    until("endpoints", lambda: re.search(r"Endpoints: +10\.244\.\d+\.\d+:8080", each("describe", "service", "hello")))
    assert answerer(each, f"pod/{pod}", 8080) == pod
    each("scale", "deployment", "hello", "--replicas=1")
    each("wait", "deployment/hello", "--for=jsonpath={.status.readyReplicas}=1", WAIT)
    each("create", "configmap", "cm", "--from-literal=a=b")
    each("create", "quota", "q", "--hard=configmaps=10")
    assert each.json("get", "configmap", "cm")["data"] == {"a": "b"}
    until("its Events", lambda: "ScalingReplicaSet" in each("events"))
    assert "FIELDS:" in each("explain", "deployment.spec")
    each("delete", "-f", str(HELLO))
    assert "No resources found" in each.run("get", "deployments").stderr


def test_older_versions_do_all_but_exec_and_are_told_why(old: Kubectl) -> None:
    old("apply", "-f", str(HELLO))
    old("rollout", "status", "deployment/hello", WAIT)
    pod = first_pod(old)
    assert "listening on port 8080" in old("logs", pod)
    until("its Events", lambda: "Created container" in old("describe", "pod", pod))
    assert "FIELDS:" in old("explain", "pod.spec")
    assert "unchanged" in old("apply", "-f", str(HELLO))
    assert "use kubectl 1.30 or later" in old.refused("exec", pod, "--", "hostname")
    assert answerer(old, f"pod/{pod}", 8080) == pod


# Every verb, with the newest.


def test_get_in_every_form(hello: Kubectl) -> None:
    pod = first_pod(hello)
    assert hello("get", "pod", pod, "-o", "name") == f"pod/{pod}\n"
    assert yaml.safe_load(hello("get", "pod", pod, "-o", "yaml"))["metadata"]["name"] == pod
    assert hello("get", "pods", "-o", "custom-columns=N:.metadata.name", "--no-headers").split().count(pod) == 1
    assert hello("get", "pods", "-o", "go-template={{len .items}}") == "3"
    assert header(hello("get", "pods", "-A"))[0] == "NAMESPACE"
    assert header(hello("get", "pods", "-L", "app"))[-1] == "APP"
    assert hello("get", "pods", "-l", "app in (hello,other),!nothing", "-o", "name").count("pod/") == 3
    assert hello("get", "pods", "--field-selector=status.phase=Running,metadata.name!=" + pod, "-o", "name").count("pod/") == 2
    in_order = hello("get", "pods", "--sort-by=.metadata.name", "-o", "name").split()
    assert in_order == sorted(in_order)
    assert hello("get", "pods", "--chunk-size=1", "-o", "name").split() == in_order
    assert "deployment.apps/hello" in hello("get", "all")
    assert header(hello("get", "nodes", "-o", "wide"))[5] == "INTERNAL-IP"
    assert 'pods "none" not found' in hello.refused("get", "pod", "none")
    assert "doesn't have a resource type" in hello.refused("get", "nonsense")
    assert hello("get", "pod", "none", "--ignore-not-found") == ""
    assert json.loads(hello("get", "--raw", f"/api/v1/namespaces/{hello.namespace}/pods?limit=1"))["metadata"]["remainingItemCount"] == 2


def test_watches_show_what_happens(hello: Kubectl) -> None:
    with hello.streaming("get", "pods", "-w", "--output-watch-events") as pods, hello.streaming("events", "--watch") as events:
        pods(r"ADDED +hello")
        first, pod = hello("get", "pods", "-o", "jsonpath={.items[:2].metadata.name}").split()
        hello("delete", "pod", first, "--wait=false")
        pods(r"MODIFIED .*Terminating")
        pods(r"DELETED ")
        events("Killing")
    with hello.streaming("get", "pod", pod, "-w") as one:
        one(pod)
        hello("delete", "pod", pod, "--wait=false")
        one("Terminating")


@pytest.mark.slow
def test_describe(hello: Kubectl) -> None:
    pod = hello("describe", "pod", first_pod(hello))
    assert re.search(r"Node: +node\d/192\.168\.56\.1\d", pod)
    assert re.search(r"Controlled By: +ReplicaSet/hello-", pod)
    assert "Readiness:" in pod
    node = hello("describe", "node", "node1")
    assert "Non-terminated Pods:" in node
    assert re.search(r"HolderIdentity: +node1", node)
    assert re.search(r"cpu +\d+m \(\d+%\)", node)
    assert re.search(r"TargetPort: +", hello("describe", "service", "hello"))
    deployment = hello("describe", "deployment", "hello")
    assert "3 desired | 3 updated | 3 total | 3 available | 0 unavailable" in deployment
    assert re.search(r"NewReplicaSet: +hello-\w+ \(3/3 replicas created\)", deployment)
    assert "3 Running / 0 Waiting" in hello("describe", "rs", "-l", "app=hello")
    assert "kube-root-ca.crt" in hello("describe", "configmaps")


def test_create_everything(kubectl: Kubectl) -> None:
    creates = [
        ("deployment d --image=nsk8s/echo --replicas=2 --port=8080", "deployment.apps/d"),
        ("service clusterip c --tcp=80:8080", "service/c"), ("service nodeport n --tcp=80:8080", "service/n"),
        ("service loadbalancer l --tcp=80:8080", "service/l"),
        ("service externalname e --external-name=a.example", "service/e"),
        ("configmap cm --from-literal=a=b", "configmap/cm"), ("secret generic s --from-literal=k=v", "secret/s"),
        ("secret docker-registry r --docker-username=u --docker-password=p", "secret/r"),
        ("job j --image=busybox -- echo from a job", "job.batch/j"),
        ("cronjob cj --image=busybox --schedule=*/5_*_*_*_* -- date", "cronjob.batch/cj"),
        ("serviceaccount sa", "serviceaccount/sa"), ("role r --verb=get,list --resource=pods", "role.rbac.authorization.k8s.io/r"),
        ("rolebinding rb --role=r --serviceaccount=NS:sa", "rolebinding.rbac.authorization.k8s.io/rb"),
        ("clusterrole NS --verb=get --resource=nodes", "clusterrole.rbac.authorization.k8s.io/"),
        ("clusterrolebinding NS --clusterrole=NS --serviceaccount=NS:sa", "clusterrolebinding.rbac.authorization.k8s.io/"),
        ("ingress i --rule=a.example/*=c:80", "ingress.networking.k8s.io/i"), ("quota q --hard=pods=20", "resourcequota/q"),
        ("poddisruptionbudget p --selector=app=d --min-available=1", "poddisruptionbudget.policy/p"),
        ("priorityclass NS --value=7", "priorityclass.scheduling.k8s.io/"),
        ("job again --from=cronjob/cj", "job.batch/again"),
    ]  # fmt: skip
    for words, name in creates:
        parts = [w.replace("_", " ").replace("NS", kubectl.namespace) for w in words.split()]
        assert kubectl("create", *parts).startswith(name), words
    try:
        assert kubectl("create", "token", "sa").count(".") == 2
        account = f"system:serviceaccount:{kubectl.namespace}:sa"
        assert kubectl("auth", "can-i", "list", "pods", "--as", account) == "yes\n"
        assert kubectl.run("auth", "can-i", "delete", "pods", "--as", account).stdout == "no\n"
        assert kubectl("auth", "can-i", "get", "nodes", "--as", account).endswith("yes\n")
        kubectl("expose", "deployment", "d", "--port=80", "--target-port=8080", "--name=exposed")
        kubectl("wait", "--for=condition=complete", "job/j", WAIT)
        assert kubectl("logs", "job/j") == "from a job\n"
        kubectl("wait", "--for=condition=Available", "deployment/d", WAIT)
        until("the budget's status", lambda: kubectl.json("get", "pdb", "p")["status"].get("disruptionsAllowed") == 1)
        until("the quota's status", lambda: kubectl.json("get", "quota", "q")["status"].get("used", {}).get("pods"))
        scaled = kubectl.run("autoscale", "deployment", "d", "--max=3")
        assert scaled.returncode == 0
        assert "no effect" in scaled.stderr, "nothing here acts on it: said in a warning"
    finally:
        for kind in ("clusterrole", "clusterrolebinding", "priorityclass"):
            kubectl("delete", kind, kubectl.namespace)


def test_apply_diff_edit_and_replace(hello: Kubectl, tmp_path: Path) -> None:
    assert "unchanged" in hello("apply", "-f", str(HELLO))
    until("no difference", lambda: hello.run("diff", "-f", str(HELLO)).returncode == 0)  # but for a status written between its reads
    changed = tmp_path / "changed.yaml"
    changed.write_text(HELLO.read_text().replace("replicas: 3", "replicas: 2"))
    differing = hello.run("diff", "-f", str(changed))
    assert differing.returncode == 1
    assert re.search(r"^\+ +replicas: 2", differing.stdout, re.MULTILINE)
    assert "serverside-applied (server dry run)" in hello("apply", "--server-side", "--dry-run=server", "-f", str(HELLO))
    assert hello.json("get", "deployment", "hello")["spec"]["replicas"] == 3
    assert "serverside-applied" in hello("apply", "--server-side", "-f", str(HELLO)), "the same values are no conflict"
    other = hello.refused("apply", "--server-side", "--field-manager=other", "-f", str(changed))
    assert ".spec.replicas" in other
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nexec sed -i 's/replicas: 3/replicas: 1/' \"$1\"\n")
    editor.chmod(0o755)
    assert "edited" in hello("edit", "deployment", "hello", KUBE_EDITOR=str(editor))
    assert hello.json("get", "deployment", "hello")["spec"]["replicas"] == 1
    assert "deployment.apps/hello replaced" in hello("replace", "--force", "-f", str(changed))
    hello("create", "configmap", "stale", "--from-literal=a=b")
    hello("label", "configmap", "stale", "app=hello")
    hello("annotate", "configmap", "stale", "kubectl.kubernetes.io/last-applied-configuration={}")
    assert "configmap/stale pruned" in hello("apply", "-f", str(changed), "--prune", "-l", "app=hello")


def test_patch_label_annotate_scale(hello: Kubectl) -> None:
    hello("patch", "deployment", "hello", "-p", '{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}')
    hello("patch", "deployment", "hello", "--type=merge", "-p", '{"spec": {"minReadySeconds": 1}}')
    hello("patch", "deployment", "hello", "--type=json", "-p", '[{"op": "replace", "path": "/spec/replicas", "value": 2}]')
    hello("patch", "deployment", "hello", "--subresource=scale", "--type=merge", "-p", '{"spec": {"replicas": 1}}')
    spec = hello.json("get", "deployment", "hello")["spec"]
    assert (spec["replicas"], spec["minReadySeconds"]) == (1, 1)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 1
    assert len(spec["template"]["spec"]["containers"]) == 1, "a strategic merge keeps the list"
    hello("label", "deployment", "hello", "tier=front")
    assert "already has a value" in hello.refused("label", "deployment", "hello", "tier=back")
    hello("label", "deployment", "hello", "tier-")
    hello("annotate", "deployment", "hello", "note=x")
    metadata = hello.json("get", "deployment", "hello")["metadata"]
    assert "tier" not in metadata["labels"]
    assert metadata["annotations"]["note"] == "x"
    assert "expected replicas to be 9" in hello.refused("scale", "deployment", "hello", "--replicas=2", "--current-replicas=9").lower()
    hello("scale", "deployment", "hello", "--replicas=2")


@pytest.mark.slow
def test_delete_modes(hello: Kubectl) -> None:
    hello("delete", "deployment", "hello", "--cascade=orphan")
    orphan = hello.json("get", "rs")["items"][0]
    assert "ownerReferences" not in orphan["metadata"]
    hello("apply", "-f", str(HELLO))
    adopted = until("adoption", lambda: hello.json("get", "rs")["items"][0]["metadata"].get("ownerReferences"))
    assert adopted[0]["kind"] == "Deployment"
    hello("delete", "deployment", "hello", "--cascade=foreground")
    assert not hello.json("get", "rs,pods")["items"]
    hello("apply", "-f", str(HELLO))
    hello("delete", "deployment", "hello", "--cascade=background")
    until("the garbage collector", lambda: not hello.json("get", "rs,pods")["items"])
    hello("run", "stubborn", "--image=busybox", "--restart=Never", "--", "sleep", "1000")
    hello("wait", "--for=condition=Ready", "pod/stubborn", WAIT)
    assert "(server dry run)" in hello("delete", "pod", "stubborn", "--dry-run=server")
    hello("delete", "pod", "stubborn", "--force", "--grace-period=0")
    assert hello("delete", "service", "--all").count("deleted") == 1


@pytest.mark.slow
def test_rollouts(hello: Kubectl) -> None:
    hello("set", "env", "deployment/hello", "COLOUR=blue")
    hello("annotate", "deployment", "hello", "kubernetes.io/change-cause=blue")
    hello("rollout", "status", "deployment/hello", WAIT)
    assert re.search(r"2 +blue", hello("rollout", "history", "deployment/hello"))
    assert "COLOUR:\tblue" in hello("rollout", "history", "deployment/hello", "--revision=2")
    hello("rollout", "undo", "deployment/hello")
    hello("rollout", "status", "deployment/hello", WAIT)
    template = hello.json("get", "deployment", "hello")["spec"]["template"]["spec"]["containers"][0]
    assert "COLOUR" not in {e["name"] for e in template["env"]}
    hello("rollout", "pause", "deployment/hello")
    assert "is already paused" in hello.refused("rollout", "pause", "deployment/hello")
    hello("set", "image", "deployment/hello", "echo=busybox")
    assert len(hello.json("get", "rs")["items"]) == 2, "a paused deployment starts no rollout"
    hello("set", "image", "deployment/hello", "echo=nsk8s/echo")
    hello("rollout", "resume", "deployment/hello")
    hello("rollout", "restart", "deployment/hello")
    hello("rollout", "status", "deployment/hello", WAIT)


@pytest.mark.slow
def test_logs(kubectl: Kubectl) -> None:
    kubectl("run", "talker", "--image=busybox", "--", "sh", "-c", "i=0; until test -e /tmp/end; do echo line $i; i=$((i+1)); sleep 0.1; done")
    kubectl("wait", "--for=condition=Ready", "pod/talker", WAIT)
    with kubectl.streaming("logs", "-f", "talker") as follow:
        follow(r"line 0\n(.*\n)*line 12\n")
    assert kubectl("logs", "talker", "--tail=2").count("line") == 2
    assert 5 < kubectl("logs", "talker", "--since=1s").count("line") < 25
    assert kubectl("logs", "-l", "run=talker", "--tail=1", "--prefix").startswith("[pod/talker/talker] line")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z line", kubectl("logs", "talker", "--tail=1", "--timestamps"))
    assert "previous terminated container" in kubectl.refused("logs", "talker", "-p")
    kubectl.run("exec", "talker", "--", "touch", "/tmp/end")
    until("a restart", lambda: kubectl.run("logs", "-p", "talker", "--tail=1").stdout.startswith("line"))
    kubectl("delete", "pod", "talker", "--now")


def test_exec_cp_attach_run_and_debug(hello: Kubectl, tmp_path: Path) -> None:
    pod = first_pod(hello)
    assert hello("exec", "deployment/hello", "--", "id", "-u").strip() == "0"
    assert "container nope is not valid" in hello.refused("exec", pod, "-c", "nope", "--", "true")
    assert "executable file not found" in hello.refused("exec", pod, "--", "no-such-program")
    code, shown = hello.on_terminal("exec", "-it", pod, "--", "sh", "-c", "test -t 0 && test -t 1 && read x && echo got-$x; exit 5", typed="abc\n")
    assert code == 5, shown
    assert "got-abc" in shown
    is_a_real_terminal([hello.path, "-n", hello.namespace, "exec", "-it"], hello.environment, pod)
    hello("run", "shell", "--image=debian", "-i", "--tty", "--attach=false", "--", "bash", "--norc")
    source = tmp_path / "file"
    source.write_bytes(os.urandom(300_000))
    hello("cp", str(source), f"{hello.namespace}/{pod}:/tmp/copied")
    hello("cp", f"{hello.namespace}/{pod}:/tmp/copied", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    # What is not read when the command ends is lost, and nothing else is.
    assert len(hello("exec", "-i", pod, "--", "head", "-c", "3000000", "/dev/zero", stdin="x" * 300_000)) == 3_000_000
    # It waits to be told: output from before the attachment is not shown, as upstream.
    once = hello("run", "once", "--rm", "-i", "--image=busybox", "--restart=Never", "--", "sh", "-c", "read x; echo from-$x", stdin="run\n")
    assert "from-run" in once
    code, shown = hello.on_terminal(
        "run", "term", "--rm", "-it", "--image=busybox", "--restart=Never", "--", "sh", "-c", "read x; echo got-$x", typed="run\n"
    )
    assert (code, "got-run" in shown) == (0, True), shown
    assert not hello("get", "pods", "once", "term", "--ignore-not-found")
    hello("run", "ticker", "--image=busybox", "--", "sh", "-c", "while true; do echo tick; sleep 0.1; done")
    hello("wait", "--for=condition=Ready", "pod/ticker", WAIT)
    assert answerer(hello, "service/hello", 80).startswith("hello-")
    with hello.streaming("attach", "ticker") as attached:
        attached(r"tick\s+tick\s+tick")
    hello("wait", "--for=condition=Ready", "pod/shell", WAIT)
    attaches_to_its_terminal([hello.path, "-n", hello.namespace, "attach", "-it"], hello.environment, "shell")
    debugged = hello.run("debug", pod, "--image=busybox", "-c", "dbg", "--", "hostname")
    assert debugged.returncode == 0, debugged.stderr
    until("the debug container's log", lambda: hello.run("logs", pod, "-c", "dbg").stdout.strip() == pod)
    hello("debug", pod, "--copy-to=copy", "--image=busybox", "-c", "extra", "--", "sleep", "1000")
    assert len(hello.json("get", "pod", "copy")["spec"]["containers"]) == 2
    assert not {c: v["lastExit"] for c, v in components().items() if v["restarts"]}, "nothing of this killed a component"


@pytest.mark.slow
def test_sessions_that_stand_still_for_most_of_a_minute(hello: Kubectl) -> None:
    """After 61 s kubectl itself gives up, as with any cluster."""
    pod = first_pod(hello)
    late = subprocess.Popen(
        hello.argv("exec", "-i", pod, "--", "sh", "-c", "sleep 52; wc -c"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=hello.environment,
    )  # fmt: skip
    paged = subprocess.Popen(
        hello.argv("exec", pod, "--", "head", "-c", "20000000", "/dev/zero"), stdout=subprocess.PIPE, env=hello.environment
    )
    assert late.communicate(b"x" * 5_000_000, timeout=90)[0] == b"5000000\n"
    assert len(paged.communicate(timeout=30)[0]) == 20_000_000
    assert (late.returncode, paged.returncode) == (0, 0)


@pytest.mark.slow
def test_wait_and_events(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"},
        "spec": {"containers": [{"name": "c", "image": "busybox", "command": ["sleep", "3600"]}]},
    }))  # fmt: skip
    kubectl("wait", "--for=condition=Ready", "pod/one", WAIT)
    kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/one")
    until("its Events", lambda: "Started container c" in kubectl("events", "--for", "pod/one"))
    assert "timed out waiting" in kubectl.refused("wait", "--for=condition=Nothing", "pod/one", "--timeout=1s")
    kubectl("delete", "pod", "one", "--now", "--wait=false")
    kubectl("wait", "--for=delete", "pod/one", WAIT)
    assert "LAST SEEN" in kubectl("get", "events", "--sort-by=.lastTimestamp")


def test_what_there_is_and_who_i_am(kubectl: Kubectl) -> None:
    names = kubectl("api-resources", "-o", "name").split()
    assert {"pods", "deployments.apps", "networkpolicies.networking.k8s.io", "customresourcedefinitions.apiextensions.k8s.io"} <= set(names)
    assert {"v1", "apps/v1", "batch/v1"} <= set(kubectl("api-versions").split())
    assert "containers\t<[]Container> -required-" in kubectl("explain", "pod.spec", "--recursive")
    assert "is running at https://" in kubectl("cluster-info")
    assert re.search(r"Username +kubernetes-admin", kubectl("auth", "whoami"))
    assert "*.*" in kubectl("auth", "can-i", "--list")
    assert "Metrics API not available" in kubectl.refused("top", "nodes")
    assert "doesn't have a resource type" in kubectl.refused("certificate", "approve", "x")
    with kubectl.streaming("proxy", "--port=0") as proxy:
        port = re.search(r"127\.0\.0\.1:(\d+)", proxy("Starting to serve"))
        assert port is not None
        answer = subprocess.run(
            ["curl", "-s", "-m", "5", f"http://127.0.0.1:{port[1]}/api/v1/namespaces/default"], capture_output=True, check=False
        )
        assert json.loads(answer.stdout)["kind"] == "Namespace"


@pytest.mark.slow
def test_cordon_drain_taint_and_budgets(hello: Kubectl) -> None:
    hello("create", "poddisruptionbudget", "strict", "--selector=app=hello", "--min-available=3")
    until("the budget", lambda: hello.json("get", "pdb", "strict")["status"].get("currentHealthy") == 3)
    node = hello.json("get", "pod", first_pod(hello))["spec"]["nodeName"]
    other = {"node1": "node2", "node2": "node1"}[node]
    try:
        drain = ("drain", node, "--pod-selector=app=hello", "--ignore-daemonsets", "--delete-emptydir-data")
        held = hello.refused(*drain, "--timeout=2s")
        assert "violate the pod's disruption budget" in held or "global timeout" in held
        assert "SchedulingDisabled" in hello("get", "node", node)
        hello("patch", "pdb", "strict", "-p", '{"spec": {"minAvailable": 1}}')
        until("room", lambda: hello.json("get", "pdb", "strict")["status"].get("disruptionsAllowed", 0) > 0)
        assert "drained" in hello(*drain, WAIT)
        hello("rollout", "status", "deployment/hello", WAIT)
        where = {p["spec"]["nodeName"] for p in hello.json("get", "pods", "-l", "app=hello")["items"] if p["status"]["phase"] == "Running"
                 and "deletionTimestamp" not in p["metadata"]}  # fmt: skip
        assert where == {other}
    finally:
        hello("uncordon", node)
    hello("taint", "node", node, "test=x:NoSchedule")
    assert {"key": "test", "value": "x", "effect": "NoSchedule"} in hello.json("get", "node", node)["spec"]["taints"]
    hello("taint", "node", node, "test-")
