"""Clusters beside one another, switched off and on again, grown and shrunk, and one with another address plan and names."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import real_kubectl
import yaml
from e2e_cluster import (
    EXAMPLES,
    NAME,
    apply,
    ask,
    becomes,
    components,
    documents,
    get,
    in_pod,
    netns,
    nsk8s,
    pod,
    pods,
    until,
    until_proxied,
)
from patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]
OTHER = NAME[:6] + "2"
HELLO = str(EXAMPLES / "hello.yaml")
BOTH = (NAME, OTHER)
LAB = {
    "name": OTHER,
    "nodes": [{"name": "alpha", "labels": {"disk": "ssd"}}, {"name": "beta", "taints": ["dedicated=db:NoSchedule"]}],
    "subnets": {
        "nodes": "10.50.0.0/24", "pods": "172.20.0.0/16", "nodeMask": 25, "services": "172.30.0.0/16", "outside": "198.51.100.0/24",
    },
    "proxy": {"masqueradeAll": True},
    "clusterDomain": "lab.internal",
}  # fmt: skip


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """Two clusters with equal address ranges, started at the same moment."""
    for name in BOTH:
        nsk8s("down", "-q", ok=False, cluster=name)
    try:
        starts = [
            subprocess.Popen([sys.executable, "-m", "nsk8s.cli.main", "up", "-q", "--nodes", "2", "--name", name], stderr=subprocess.PIPE, text=True)
            for name in BOTH
        ]
        for start in starts:
            _, said = start.communicate(timeout=PATIENCE * 100)
            assert start.returncode == 0, said
        for name in BOTH:
            nsk8s("apply", "-f", HELLO, cluster=name)
        for name in BOTH:
            until("three ready pods", lambda name=name: len(pods(cluster=name)) == 3)
            until_proxied("control-plane", "node1", "node2", cluster=name)
        yield
    finally:
        for name in BOTH:
            nsk8s("down", "-q", ok=False, cluster=name)


def listed() -> dict[str, dict[str, Any]]:
    return {c["name"]: c for c in json.loads(nsk8s("list", "-o", "json").stdout)}


def admin_conf(name: str) -> Path:
    return Path(f"/var/lib/nsk8s/{name}/admin.conf")


def picture(name: str) -> dict[str, Any]:
    """What must not change for good while something happens elsewhere: processes, pods, rules, routes."""
    items = get("pods", cluster=name)["items"]
    return {
        "components": {k: (c["pid"], c["restarts"]) for k, c in components(name).items()},
        "pods": {p["metadata"]["uid"]: (p["status"]["podIP"], p["status"]["containerStatuses"][0]["containerID"]) for p in items},
        "routes": [netns(n, "ip", "route", cluster=name).stdout for n in ("control-plane", "node1", "node2", "router")],
        "rules": netns("node1", "iptables-save", "-t", "nat", cluster=name).stdout.count("-A KUBE-"),
    }


def alive(pid: int) -> bool:
    """False for one that init has yet to reap, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# ── side by side ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_has_its_own_port_and_authority(two: None) -> None:
    found = listed()
    assert {found[n]["state"] for n in BOTH} == {"running"}
    servers = [found[n]["server"] for n in BOTH]
    assert len(set(servers)) == 2
    uids = [get("namespace", "default", cluster=n)["metadata"]["uid"] for n in BOTH]
    assert len(set(uids)) == 2
    for name, server in zip(BOTH, servers, strict=True):
        config = yaml.safe_load(admin_conf(name).read_text())
        assert config["clusters"][0]["cluster"]["server"] == server


def test_kubectl_reaches_each_and_trusts_neither_for_the_other(two: None) -> None:
    real_kubectl.require()
    servers = [listed()[n]["server"] for n in BOTH]
    for name in BOTH:
        uid = get("namespace", "default", cluster=name)["metadata"]["uid"]
        said = subprocess.run(
            ["kubectl", "--kubeconfig", str(admin_conf(name)), "get", "ns", "default", "-o", "jsonpath={.metadata.uid}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.stdout == uid, said.stderr
    wrong = subprocess.run(
        ["kubectl", "--kubeconfig", str(admin_conf(NAME)), "--server", servers[1], "get", "ns"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert "certificate" in wrong.stderr


def test_equal_addresses_lead_to_each_clusters_own_pods(two: None) -> None:
    for name in BOTH:
        own = {p["metadata"]["name"] for p in pods(cluster=name)}
        assert {ask(("client",), "http://192.168.56.11:30080/", cluster=name)["pod"] for _ in range(6)} <= own
        vip = get("service/hello", cluster=name)["spec"]["clusterIP"]
        assert ask((f"pod/{min(own)}",), f"http://{vip}/", cluster=name)["pod"] in own


def test_an_asked_for_port_that_is_taken_is_an_error_and_leaves_nothing(two: None) -> None:
    third = NAME[:6] + "3"
    port = listed()[NAME]["server"].rpartition(":")[2]
    refused = nsk8s("up", "-q", "--api-port", port, ok=False, cluster=third)
    assert refused.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert third not in listed()
    assert not Path(f"/var/lib/nsk8s/{third}").exists()
    with socket.socket() as s:  # any program's port
        s.bind(("127.0.0.1", 0))
        s.listen()
        refused = nsk8s("up", "-q", "--api-port", str(s.getsockname()[1]), ok=False, cluster=third)
    assert refused.returncode == 1
    assert third not in listed()


def test_switched_off_and_on_again_everything_is_kept_and_the_other_notices_nothing(two: None) -> None:
    before, port = picture(OTHER), listed()[NAME]["server"]
    old = {p["metadata"]["uid"]: p for p in pods()}
    conf, version = admin_conf(NAME).read_bytes(), max(int(p["metadata"]["resourceVersion"]) for p in old.values())
    running = components().values()
    nsk8s("stop", "-q")
    assert listed()[NAME]["state"] == "stopped"
    assert nsk8s("status", ok=False).returncode == 3
    said = nsk8s("get", "pods", ok=False)
    assert said.returncode == 1
    assert f"nsk8s start --name {NAME}" in said.stderr
    assert not [c["id"] for c in running if alive(c["pid"])]
    assert not list(Path("/run/netns").glob(f"{NAME}-*"))
    becomes("the other is untouched", lambda: picture(OTHER), before)
    nsk8s("start", "-q")
    assert listed()[NAME]["server"] == port
    assert admin_conf(NAME).read_bytes() == conf, "kubeconfigs that were handed out stay valid"

    def restarts(found: Iterable[dict[str, Any]]) -> dict[str, int]:
        return {p["metadata"]["uid"]: p["status"]["containerStatuses"][0]["restartCount"] for p in found}

    wanted = {uid: count + 1 for uid, count in restarts(old.values()).items()}
    until("the same three pods, as after a reboot", lambda: restarts(pods()) == wanted)
    there = get("pods", "-l", "app=hello")["items"]
    assert {p["metadata"]["uid"]: p["spec"] for p in there} == {uid: p["spec"] for uid, p in old.items()}
    assert min(int(p["metadata"]["resourceVersion"]) for p in there) > version
    own = {p["metadata"]["name"] for p in there}
    until_proxied("control-plane", "node1", "node2")  # not to the addresses of before
    assert ask(("client",), "http://192.168.56.12:30080/")["pod"] in own
    becomes("the other is untouched", lambda: picture(OTHER), before)


def test_down_that_keeps_the_state_then_up(two: None) -> None:
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "b"}})
    uid = get("configmap", "kept")["metadata"]["uid"]
    nsk8s("down", "-q", "--keep-state")
    assert listed()[NAME]["state"] == "stopped"
    nsk8s("up", "-q")
    assert get("configmap", "kept")["metadata"]["uid"] == uid
    until("three ready pods", lambda: len(pods()) == 3)
    until_proxied("control-plane", "node1", "node2")


# ── a node more, a node less ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_node_more_and_a_node_less(two: None) -> None:
    nsk8s("node", "add", "extra", "--label", "disk=ssd")
    assert get("node", "extra")["spec"]["podCIDR"] == "10.244.3.0/24"
    assert get("node", "extra")["metadata"]["labels"]["disk"] == "ssd"
    apply(pod("on-extra", nodeSelector={"disk": "ssd"}))
    until("a pod there", lambda: pods("app=on-extra"))
    (there,) = pods("app=on-extra")
    assert there["spec"]["nodeName"] == "extra"
    assert there["status"]["podIP"].startswith("10.244.3.")
    for node in ("control-plane", "node1", "node2"):
        until(f"the way there on {node}", lambda node=node: "10.244.3.0/24 via 192.168.56.13" in netns(node, "ip", "route").stdout)
    until_proxied("extra")
    vip = get("service/hello")["spec"]["clusterIP"]
    own = {p["metadata"]["name"] for p in pods()}
    assert json.loads(in_pod("on-extra", "wget", "-qO-", f"http://{vip}/"))["pod"] in own
    assert json.loads(in_pod("on-extra", "wget", "-qO-", "http://hello/"))["client"].startswith(there["status"]["podIP"])
    assert ask(("client",), "http://192.168.56.13:30080/")["pod"] in own
    nsk8s("scale", "deployment/hello", "--replicas", "6")
    until("pods there", lambda: {p["spec"]["nodeName"] for p in pods()} == {"node1", "node2", "extra"} and len(pods()) == 6)

    nsk8s("node", "remove", "extra")
    assert "extra" not in {n["metadata"]["name"] for n in get("nodes")["items"]}
    until("six pods elsewhere", lambda: len(pods()) == 6 and {p["spec"]["nodeName"] for p in pods()} == {"node1", "node2"})
    for node in ("control-plane", "node1", "node2"):
        until(f"no route on {node}", lambda node=node: "10.244.3.0/24" not in netns(node, "ip", "route").stdout)
        until(f"no endpoint in {node}'s rules", lambda node=node: "10.244.3." not in netns(node, "iptables-save", "-t", "nat").stdout)
    until("the bare pod is gone", lambda: not get("pods", "-l", "app=on-extra")["items"])
    until_proxied("control-plane", "node1", "node2")
    assert "extra" not in netns("switch", "ip", "-o", "link").stdout
    for path in (f"/run/netns/{NAME}-extra", f"/var/lib/nsk8s/{NAME}/nodes/extra", f"/sys/fs/cgroup/pids/nsk8s/{NAME}/extra", f"/sys/fs/cgroup/nsk8s/{NAME}/extra"):
        assert not os.path.lexists(path), path
    assert not [c for c in components() if c.startswith("extra/")]
    again = nsk8s("node", "remove", "extra", ok=False)
    assert again.returncode == 1
    assert "there is no node 'extra'" in again.stderr
    assert nsk8s("node", "remove", "control-plane", ok=False).returncode == 1


# ── one goes, another comes ───────────────────────────────────────────────────────────────────────────────────────────────


def test_down_of_one_leaves_the_other_untouched(two: None) -> None:
    before = picture(NAME)
    nsk8s("down", "-q", cluster=OTHER)
    assert OTHER not in listed()
    for path in (f"/var/lib/nsk8s/{OTHER}", f"/run/nsk8s/{OTHER}", f"/sys/fs/cgroup/pids/nsk8s/{OTHER}", f"/sys/fs/cgroup/nsk8s/{OTHER}"):
        assert not os.path.lexists(path), path
    assert not list(Path("/run/netns").glob(f"{OTHER}-*"))
    becomes("the other is untouched", lambda: picture(NAME), before)
    assert ask(("client",), "http://192.168.56.11:30080/")["pod"] in {p["metadata"]["name"] for p in pods()}
    gone = nsk8s("down", "-q", ok=False, cluster=OTHER)
    assert gone.returncode == 1
    assert f"there is no cluster {OTHER}" in gone.stderr


def test_another_address_plan_other_names(two: None, tmp_path: Path) -> None:
    nsk8s("down", "-q", ok=False, cluster=OTHER)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(LAB))
    assert nsk8s("up", "-q", "-f", str(path), cluster=OTHER).stdout == ""
    nodes = {n["metadata"]["name"]: n for n in get("nodes", cluster=OTHER)["items"]}
    assert {n: o["spec"]["podCIDR"] for n, o in nodes.items()} == {"control-plane": "172.20.0.0/25", "alpha": "172.20.0.128/25", "beta": "172.20.1.0/25"}
    addresses = {n: next(a["address"] for a in o["status"]["addresses"] if a["type"] == "InternalIP") for n, o in nodes.items()}
    assert addresses == {"control-plane": "10.50.0.10", "alpha": "10.50.0.11", "beta": "10.50.0.12"}
    assert nodes["alpha"]["metadata"]["labels"]["disk"] == "ssd"
    assert [t["key"] for t in nodes["beta"]["spec"]["taints"]] == ["dedicated"]
    assert get("service", "kubernetes", cluster=OTHER)["spec"]["clusterIP"] == "172.30.0.1"

    tolerant = documents("hello.yaml")
    tolerant[0]["spec"]["template"]["spec"]["tolerations"] = [{"key": "dedicated", "operator": "Exists"}]
    apply(*tolerant, pod("debug", nodeName="alpha"), cluster=OTHER)
    until("three ready pods and one", lambda: len(pods("app in (hello,debug)", cluster=OTHER)) == 4)
    assert {p["spec"]["nodeName"] for p in pods(cluster=OTHER)} == {"alpha", "beta"}
    assert in_pod("debug", "cat", "/etc/resolv.conf", cluster=OTHER).startswith("search default.svc.lab.internal svc.lab.internal lab.internal")
    assert "nameserver 172.30.0.10" in in_pod("debug", "cat", "/etc/resolv.conf", cluster=OTHER)
    until_proxied("control-plane", "alpha", "beta", cluster=OTHER)
    name = until("its name", lambda: nsk8s("exec", "debug", "--", "getent", "hosts", "hello", ok=False, cluster=OTHER).stdout)
    assert name.split()[1] == "hello.default.svc.lab.internal"
    answer = json.loads(in_pod("debug", "wget", "-qO-", "http://hello.default.svc.lab.internal/", cluster=OTHER))
    assert answer["client"].rpartition(":")[0] in {"10.50.0.11", "172.20.0.129"}, "masqueradeAll: the node's address, or its bridge's"
    assert answer["address"].startswith("172.20.")
    outside = ask(("client",), "http://10.50.0.12:30080/", cluster=OTHER)
    assert outside["client"].rpartition(":")[0] in {"10.50.0.12", "172.20.1.1"}
    assert netns("client", "ip", "-br", "-4", "addr", "show", "eth0", cluster=OTHER).stdout.split()[2] == "198.51.100.10/24"
    changed = nsk8s("up", "-q", "--nodes", "5", ok=False, cluster=OTHER)
    assert changed.returncode == 1
    assert "exists with other settings (nodes)" in changed.stderr
    nsk8s("down", "-q", cluster=OTHER)
    assert listed().keys() & set(BOTH) == {NAME}
