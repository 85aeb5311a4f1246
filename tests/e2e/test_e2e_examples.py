"""Every example is applied to a cluster made from examples/cluster.yaml and does what it says; so do the built-in images."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import EXAMPLES, apply, becomes, components, documents, get, in_pod, nsk8s, pods, until, until_proxied

from nsk8s.runtime import images

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
MANIFESTS = sorted(p.name for p in EXAMPLES.glob("*.yaml") if p.name != "cluster.yaml")
UDP = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b"text hello\\n" if sys.argv[2:] else b"hello\\n", (sys.argv[1], 8080))
print(s.recv(4096).decode())
"""
RUNS: dict[str, tuple[str, list[str], str]] = {
    "busybox": ("busybox:1.36", ["sh", "-c", "busybox | head -1; nslookup kubernetes.default.svc.cluster.local"], r"(?s)BusyBox v.*10\.96\.0\.1\b"),
    "alpine": ("alpine:3.20", ["sh", "-c", "echo hi | tee /tmp/a; wget -qO- http://hello/hostname"], r"^hi\nhello-"),
    "debian": ("debian:12-slim", ["bash", "-c", "echo ${BASH_VERSION%%.*}; id -u; ls -A /root /home /var/log"], r"^5\n0\n"),
    "ubuntu": ("ubuntu", ["bash", "-c", "echo $HOSTNAME"], r"^image-ubuntu\n$"),
    "python": ("docker.io/library/python:3.12-slim", ["python", "-c", "import sys, ssl, json; print(sys.version_info.major)"], r"^3\n$"),
    "perl": ("perl", ["perl", "-e", "print 6*7, chr(10)"], r"^42\n$"),
    "curl": ("curlimages/curl:8.8.0", ["curl", "-s", "http://hello/healthz"], r"^ok\n$"),
    "netshoot": ("nicolaka/netshoot", ["sh", "-c", "ip -br -4 addr show eth0; tcpdump --version 2>&1"], r"(?s)^eth0@.* UP .* 10\.244\.\d+\.\d+/24.*tcpdump version"),
}
"""Name of the pod → image, command, what its log matches."""


def image_pod(name: str, image: str, command: list[str] | None = None) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": image}
    if command:
        container["command"] = command
    spec = {"restartPolicy": "Never" if command else "Always", "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"image-{name}", "labels": {"image": name}}, "spec": spec}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(EXAMPLES / "cluster.yaml"))  # under the tests' own name: $NSK8S_CLUSTER
        for manifest in MANIFESTS:
            nsk8s("apply", "-f", str(EXAMPLES / manifest))
        for selector, count in (("app=hello", 3), ("app=peers", 3), ("app=agent", 3), ("app=debug", 1)):
            until(f"{count} of {selector}", lambda selector=selector, count=count: len(pods(selector)) == count)
        until_proxied("control-plane", "node1", "node2", "node3")  # some of the next ask the Service once, then end
        until("its name", lambda: nsk8s("exec", "debug", "--", "getent", "hosts", "hello", ok=False).stdout)
        apply(
            image_pod("unknown", "ghcr.io/acme/thing:1"), image_pod("nginx", "nginx:1.27"),
            *(image_pod(n, i, c) for n, (i, c, _) in RUNS.items()),
        )  # fmt: skip
        yield
    finally:
        nsk8s("down", "-q", ok=False)


# ── cluster.yaml ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cluster_yaml_is_what_runs(cluster: None) -> None:
    nodes = {n["metadata"]["name"]: n["metadata"]["labels"].get("disk") for n in get("nodes")["items"]}
    assert nodes == {"control-plane": None, "node1": None, "node2": None, "node3": "ssd"}
    manager = Path(f"/proc/{components()['control-plane/kube-controller-manager']['pid']}/cmdline").read_text()
    assert "--node-monitor-grace-period=20" in manager
    tolerations = {t["key"]: t["tolerationSeconds"] for t in pods()[0]["spec"]["tolerations"]}
    assert tolerations == {"node.kubernetes.io/not-ready": 10, "node.kubernetes.io/unreachable": 10}


# ── what the examples' first lines say ────────────────────────────────────────────────────────────────────────────────────


def commands(manifest: str) -> list[list[str]]:
    """The words of each command an example's head names; what stands further to the right is said about it."""
    lines = re.findall(r"^#   (nsk8s .*)", (EXAMPLES / manifest).read_text(), re.M)
    return [shlex.split(command)[1:] for line in lines for command in re.split(r" {3,}", line)[0].split(" && ")]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_command_in_an_example_works_as_written(cluster: None, manifest: str) -> None:
    given = commands(manifest)
    assert given, "an example says how it is tried"
    for words in given:
        there = [w.replace("examples/", f"{EXAMPLES}/", 1) if w.startswith("examples/") else w for w in words]
        until(" ".join(words), lambda there=there: (done := nsk8s(*there, ok=False)).returncode == 0 and done.stdout)


def test_hello_from_outside(cluster: None) -> None:
    """Its header: port 30080 of every node."""
    (words,) = [c for c in commands("hello.yaml") if c[0] == "enter"]
    for last in (10, 11, 12, 13):
        there = [w.replace("192.168.56.11", f"192.168.56.{last}") for w in words]
        assert json.loads(nsk8s(*there).stdout)["pod"] in {p["metadata"]["name"] for p in pods()}


def test_hello_tells_who_answers_and_who_asked(cluster: None) -> None:
    (debug,) = pods("app=debug")
    server = pods()[0]
    ip = server["status"]["podIP"]
    asked = nsk8s("enter", "pod/debug", "--", "curl", "-s", "-H", "X-Course: networks", "-d", "body", f"http://{ip}:8080/a?b=c")
    answer = json.loads(asked.stdout)
    client = answer.pop("client")
    assert client.rpartition(":")[0] == debug["status"]["podIP"]
    headers = answer.pop("headers")
    assert (headers["x-course"], headers["host"], headers["content-length"]) == ("networks", f"{ip}:8080", "4")
    assert answer == {
        "pod": server["metadata"]["name"], "namespace": "default", "node": server["spec"]["nodeName"],
        "address": f"{ip}:8080", "method": "POST", "path": "/a?b=c",
    }  # fmt: skip
    text = nsk8s("enter", "pod/debug", "--", "curl", "-s", "-H", "Accept: text/plain", f"http://{ip}:8080/").stdout.splitlines()
    assert {f"pod: {server['metadata']['name']}", f"node: {server['spec']['nodeName']}"} <= set(text)


def test_hello_answers_datagrams_too(cluster: None) -> None:
    (debug,) = pods("app=debug")
    for server in pods():
        ip = server["status"]["podIP"]
        answer = json.loads(in_pod("debug", "python3", "-c", UDP, ip))
        assert answer.pop("client").rpartition(":")[0] == debug["status"]["podIP"]
        assert answer == {
            "pod": server["metadata"]["name"], "namespace": "default", "node": server["spec"]["nodeName"],
            "address": f"{ip}:8080", "protocol": "UDP", "data": "hello",
        }  # fmt: skip


def test_headless_answers_with_the_pods_own_addresses(cluster: None) -> None:
    (words,) = commands("headless.yaml")
    wanted = {p["status"]["podIP"] for p in pods("app=peers")}
    becomes("the addresses", lambda: set(re.findall(r"^Address: (10\.244\.\d+\.\d+)$", nsk8s(*words, ok=False).stdout, re.M)), wanted)
    assert get("service/peers")["spec"]["clusterIP"] == "None"


def test_daemonset_is_on_every_worker_and_not_on_the_control_plane(cluster: None) -> None:
    assert sorted(p["spec"]["nodeName"] for p in pods("app=agent")) == ["node1", "node2", "node3"]
    counts = ("desiredNumberScheduled", "numberReady", "numberMisscheduled")
    becomes("its status", lambda: [get("daemonset/agent")["status"].get(c) for c in counts], [3, 3, 0])


def test_debug_pod_has_the_tools_it_names(cluster: None) -> None:
    (about,) = re.findall(r"^# A pod to look around from: (.*) and the other", (EXAMPLES / "debug-pod.yaml").read_text(), re.M)
    for tool in re.split(r", ", about):
        assert in_pod("debug", "sh", "-c", f"command -v {tool}").strip(), tool
    (gateway,) = re.findall(r"default via (\S+)", in_pod("debug", "ip", "route"))
    assert re.search(r"1 (packets )?received", in_pod("debug", "ping", "-c", "1", gateway))
    assert json.loads(in_pod("debug", "wget", "-qO-", "http://hello"))["headers"]["host"] == "hello"
    vip = get("service/hello")["spec"]["clusterIP"]
    assert vip in in_pod("debug", "nslookup", "hello.default.svc.cluster.local")


def test_applying_everything_again_changes_nothing(cluster: None) -> None:
    for manifest in MANIFESTS:
        lines = nsk8s("apply", "-f", str(EXAMPLES / manifest)).stdout.splitlines()
        assert len(lines) == len(documents(manifest))
        assert all(line.endswith(" unchanged") for line in lines), lines


# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", RUNS)
def test_an_image_of_the_catalogue_runs(cluster: None, name: str) -> None:
    image, _, expected = RUNS[name]
    if images.missing(images.normalize(image)):
        pytest.skip(f"this machine lacks {images.missing(images.normalize(image))}")
    until("it ends", lambda: get(f"pod/image-{name}")["status"]["phase"] in ("Succeeded", "Failed"))
    log = nsk8s("logs", f"image-{name}").stdout
    assert get(f"pod/image-{name}")["status"]["phase"] == "Succeeded", log
    assert re.search(expected, log), log


def waiting(name: str) -> dict[str, str]:
    statuses = get(f"pod/image-{name}")["status"].get("containerStatuses") or [{"state": {}}]
    state: dict[str, str] = statuses[0]["state"].get("waiting") or {}
    return state


def reasons(name: str) -> list[tuple[str, str, str]]:
    events = get("events", "--field-selector", f"involvedObject.name=image-{name}")["items"]
    return [(e["type"], e["reason"], e["message"]) for e in events]


def test_an_unknown_image_backs_off_and_says_what_there_is(cluster: None) -> None:
    state = until("ImagePullBackOff", lambda: (w := waiting("unknown")).get("reason") == "ImagePullBackOff" and w)
    assert state["message"].startswith('Back-off pulling image "ghcr.io/acme/thing:1"')
    seen = until("its Events", lambda: ("Warning", "Failed", "Error: ErrImagePull") in (found := reasons("unknown")) and found)
    (said,) = {m for t, r, m in seen if (t, r) == ("Warning", "Failed") and m.startswith("Failed to pull image")}
    assert 'image "ghcr.io/acme/thing:1" is not built in, and nsk8s downloads none' in said
    for name in ("busybox", "nginx", "python", "nsk8s/echo"):
        assert name in said
    until("the back-off's own event", lambda: ("Warning", "Failed", "Error: ImagePullBackOff") in reasons("unknown"))
    backs_off = ("Normal", "BackOff", 'Back-off pulling image "ghcr.io/acme/thing:1"')
    until("and what it is", lambda: backs_off in [(t, r, m.partition(": ")[0]) for t, r, m in reasons("unknown")])
    row = nsk8s("get", "pod", "image-unknown").stdout.splitlines()[1].split()
    assert row[1:3] in (["0/1", "ImagePullBackOff"], ["0/1", "ErrImagePull"])
    assert get("pod/image-unknown")["status"]["phase"] == "Pending"


def test_nginx_serves_its_page_or_says_what_to_install(cluster: None) -> None:
    if images.missing("nginx"):
        until("ImagePullBackOff", lambda: waiting("nginx").get("reason") == "ImagePullBackOff")
        assert "needs /usr/sbin/nginx on this machine: apt-get install nginx" in " ".join(m for _, _, m in reasons("nginx"))
        return
    until("it is ready", lambda: pods("image=nginx"))
    ip = pods("image=nginx")[0]["status"]["podIP"]
    page = ("exec", "debug", "--", "wget", "-qO-", f"http://{ip}/")
    until("its page", lambda: "Welcome to nginx!" in nsk8s(*page, ok=False).stdout)  # without a probe it is ready before it listens
    until("its access log", lambda: '"GET / HTTP/1.1" 200' in nsk8s("logs", "image-nginx").stdout)


def test_logs_and_describe_of_a_pod_that_waits(cluster: None) -> None:
    done = nsk8s("logs", "image-unknown", ok=False)
    assert done.returncode == 1
    assert "is waiting to start: " in done.stderr
    assert "Failed to pull image" in nsk8s("describe", "pod", "image-unknown").stdout
