"""NetworkPolicies on a whole cluster: who reaches whom, how soon a change holds, and that no moment is without them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from e2e_cluster import NAME, apply, components, documents, get, kill, netns, nsk8s, pod, pods, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
EVERYONE = ("near", "far", "near by service", "far by service", "own node", "other node", "outside", "outside by the other node")

NODE = {"server": "node1", "near": "node1", "far": "node2"}


def label(name: str, **labels: str) -> None:
    """Make one of the pods, or give it other labels."""
    made = pod(name, nodeName=NODE[name])
    made["metadata"]["labels"] = labels
    if name == "server":
        probe = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}
        made["spec"]["containers"][0] = {
            "name": "main", "image": "nsk8s/echo", "ports": [{"name": "http", "containerPort": 8080}], "readinessProbe": probe,
        }  # fmt: skip
    apply(made)


@pytest.fixture(scope="module", params=["iptables", pytest.param("nftables", marks=pytest.mark.slow)])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """`server` and `near` on node1, `far` on node2; Service `server` with node port 30080."""
    nsk8s("down", "-q", ok=False)
    file = tmp_path_factory.mktemp("policy") / "cluster.yaml"
    file.write_text(f"nodes: 2\nnetwork: {{policy: true}}\nproxy: {{mode: {request.param}}}\n")
    try:
        nsk8s("up", "-q", "-f", str(file))
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
                   "spec": {"type": "NodePort", "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}]}}
        for name in NODE:
            label(name, app=name)
        apply(service)
        until("the pods are ready", lambda: all(pods(f"app={n}") for n in NODE))
        where = {"pod": get("pod/server")["status"]["podIP"], "service": get("service/server")["spec"]["clusterIP"]}
        expect(where, *EVERYONE)
        yield where
    finally:
        nsk8s("down", "-q", ok=False)


@pytest.fixture(autouse=True)
def clean(cluster: dict[str, str]) -> Iterator[None]:
    """Without the test's policies everybody reaches the server again."""
    yield
    nsk8s("delete", "networkpolicies", "--all")
    expect(cluster, *EVERYONE)


def reach(where: dict[str, str], *who: str) -> set[str]:
    """Those who reach the server now."""
    direct, service = f"http://{where['pod']}:8080/", f"http://{where['service']}/"
    ways = {
        "near": ("pod/near", direct), "far": ("pod/far", direct), "near by service": ("pod/near", service),
        "far by service": ("pod/far", service), "own node": ("node1", direct), "other node": ("node2", direct),
        "outside": ("client", "http://192.168.56.11:30080/"),
        "outside by the other node": ("client", "http://192.168.56.12:30080/"),
    }  # fmt: skip
    assert tuple(ways) == EVERYONE

    def one(name: str) -> bool:
        place, url = ways[name]
        command = ["curl", "-s", "-o", "/dev/null", "-m", "0.5", url]
        if place.startswith("pod/"):
            return nsk8s("enter", place, "--", *command, ok=False).returncode == 0
        return netns(place, *command).returncode == 0

    asked = who or EVERYONE
    with ThreadPoolExecutor(8) as pool:
        return {name for name, good in zip(asked, pool.map(one, asked), strict=True) if good}


def policy(name: str = "p", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, **spec},
    }  # fmt: skip


def to_server(**rule: Any) -> dict[str, Any]:
    return policy(podSelector={"matchLabels": {"app": "server"}}, ingress=[rule])


def expect(where: dict[str, str], *who: str) -> None:
    """Return once exactly these reach the server. A policy is in force a moment after it is in the API."""
    seen: list[set[str]] = []

    def exactly() -> bool:
        seen.append(reach(where))
        return seen[-1] == set(who)

    try:
        until(f"only {who} reach the server", exactly)
    except AssertionError as e:
        raise AssertionError(f"{e}; at last {sorted(seen[-1])}") from None


def table(node: str) -> str:
    return netns(node, "nft", "list", "table", "inet", "nsk8s-policy").stdout


def enforced(node: str, name: str = "default/p") -> bool:
    """Whether a node's rules have this policy for one of its pods."""
    return f'comment "{name}"' in table(node)


def test_a_denied_pod_is_reached_by_its_own_node_only(cluster: dict[str, str]) -> None:
    said = nsk8s("apply", "-f", "-", text=json.dumps(policy(policyTypes=["Ingress"])))
    assert "no effect" not in said.stderr + said.stdout
    expect(cluster, "own node")
    until("the server is ready: the kubelet's probes come from the node", lambda: pods("app=server"))


def test_pods_are_selected_by_label_also_through_a_service(cluster: dict[str, str]) -> None:
    apply(to_server(**{"from": [{"podSelector": {"matchLabels": {"app": "near"}}}], "ports": [{"port": "http"}]}))
    expect(cluster, "near", "near by service", "own node")
    label("far", app="near")
    try:
        until("a pod is let in by its new label", lambda: "far" in reach(cluster, "far"))
    finally:
        label("far", app="far")
    until("and no longer", lambda: not reach(cluster, "far"))


@pytest.mark.slow
def test_namespaces_are_selected_by_label(cluster: dict[str, str]) -> None:
    apply(to_server(**{"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]}))
    expect(cluster, "own node")
    default: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": {"team": "a"}}}
    apply(default)
    until("the namespace's pods are let in", lambda: reach(cluster, "near", "far") == {"near", "far"})
    default["metadata"]["labels"] = {"team": "b"}
    apply(default)
    until("and no longer", lambda: not reach(cluster, "near", "far"))


def test_addresses_outside_are_selected_by_block(cluster: dict[str, str]) -> None:
    apply(to_server(**{"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16", "192.168.56.12/32"]}}]}))
    # By the other node's port a client comes as that node: kube-proxy masquerades it.
    expect(cluster, "outside", "own node")


@pytest.mark.slow
def test_egress_to_dns_only(cluster: dict[str, str]) -> None:
    dns = {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                   "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
           "ports": [{"port": "dns", "protocol": "UDP"}, {"port": "dns-tcp"}]}  # fmt: skip
    apply(policy(podSelector={"matchLabels": {"app": "far"}}, policyTypes=["Egress"], egress=[dns]))
    expect(cluster, *(w for w in EVERYONE if not w.startswith("far")))
    found = nsk8s("exec", "far", "--", "nslookup", "server.default.svc.cluster.local", timeout=20)
    assert cluster["service"] in found.stdout
    assert netns("client", "true").returncode == 0
    refused = nsk8s("enter", "pod/far", "--", "ping", "-c", "1", "-W", "1", "203.0.113.10", ok=False)
    assert refused.returncode != 0, "not out of the cluster either"


class Asking:
    """A pod that asks the server every 20 ms: a line for each try, with the time at which it began."""

    def __init__(self, where: dict[str, str]) -> None:
        code = (
            "import socket,time\nwhile True:\n t=time.time()\n try:\n"
            f"  socket.create_connection(('{where['pod']}',8080),0.15).close(); said='yes'\n"
            " except OSError: said='no'\n print(t,said,flush=True); time.sleep(0.02)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nsk8s.cli.main", "enter", "pod/far", "--", "/usr/bin/python3", "-c", code],
            env={**os.environ, "NSK8S_CLUSTER": NAME}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tries(self) -> Iterator[tuple[float, str]]:
        """Each try that was not yet read: when it began, and `yes` or `no`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            when, how = line.split()
            yield float(when), how
        raise AssertionError("the asking pod ended")

    def until(self, said: str) -> float:
        """The time of the first try from now on that goes so."""
        now = time.time()
        return next(when for when, how in self.tries() if how == said and when >= now)

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_change_holds_within_a_second(cluster: dict[str, str]) -> None:
    """One of ten does, if somebody else needs the machine meanwhile. (The command itself takes half a second.)"""
    asking = Asking(cluster)
    denied, allowed = [9.9], [9.9]
    try:
        asking.until("yes")
        while min(denied) > 1.5 or min(allowed) > 1.5:
            assert len(denied) <= 10, (denied, allowed)
            began = time.time()
            apply(policy(policyTypes=["Ingress"]))
            denied.append(asking.until("no") - began)
            until("it is enforced", lambda: enforced("node1"))
            began = time.time()
            nsk8s("delete", "networkpolicy", "p")
            allowed.append(asking.until("yes") - began)
    finally:
        asking.stop()


def test_a_killed_agent_leaves_its_rules(cluster: dict[str, str]) -> None:
    apply(policy(policyTypes=["Ingress"]))
    until("it is enforced", lambda: enforced("node1"))
    asking = Asking(cluster)
    try:
        asking.until("no")
        before = components()["node1/network-policy"]
        kill(before["pid"])
        until("it is back", lambda: components()["node1/network-policy"]["pid"] not in (before["pid"], 0, None))
        until("it knows all again", lambda: netns("node1", "curl", "-s", "-m", "5", "localhost:10262/healthz").stdout == "ok\n")
        enough = time.time() + 0.2
        for when, how in asking.tries():
            assert how == "no"
            if when > enough:
                break
    finally:
        asking.stop()
    nsk8s("delete", "networkpolicy", "p")
    until("the new one goes on", lambda: reach(cluster, "far"))


def test_a_deleted_table_comes_back_whole(cluster: dict[str, str]) -> None:
    apply(policy(policyTypes=["Ingress"]))
    until("it is enforced", lambda: enforced("node1"))
    netns("node1", "nft", "delete", "table", "inet", "nsk8s-policy")
    apply(policy("q", policyTypes=["Ingress"]))
    until("it is enforced again, with the other one", lambda: enforced("node1", "default/p, default/q"))
    until("it is denied", lambda: not reach(cluster, "far"))


SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try: s.sendto(sys.argv[1].encode(), ('ADDRESS', 9999))
    except OSError: pass
    time.sleep(0.001)
"""
COUNTER = """
import collections, select, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 9999)); s.settimeout(0.5)
print('ready', flush=True)
while True:
    try: print(s.recv(100).decode(), flush=True)
    except TimeoutError: print('-', flush=True)  # nobody for half a second
"""


def sender(namespace: str, name: str, to: str, node: str) -> dict[str, Any]:
    """A pod that sends its namespace's name every millisecond, from its first instruction on."""
    made = pod(name, "busybox", "/usr/bin/python3", "-c", SENDER.replace("ADDRESS", to), namespace, nodeName=node)
    made["metadata"] |= {"namespace": namespace, "labels": {"sender": "yes"}}
    return made


@contextlib.contextmanager
def listening(name: str) -> Iterator[set[str]]:
    """What senders say to a pod, as it comes."""
    counter = subprocess.Popen(
        [sys.executable, "-m", "nsk8s.cli.main", "enter", f"pod/{name}", "--", "/usr/bin/python3", "-u", "-c", COUNTER],
        env={**os.environ, "NSK8S_CLUSTER": NAME}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    heard: set[str] = set()
    assert counter.stdout is not None
    assert counter.stdout.readline() == "ready\n"
    reader = threading.Thread(target=lambda: [heard.add(line.strip()) for line in counter.stdout or ()], daemon=True)
    reader.start()
    try:
        yield heard
    finally:
        counter.kill()
        reader.join(5)
        counter.communicate()


def test_a_new_pod_has_no_moment_without_its_policies(cluster: dict[str, str]) -> None:
    """Pods that send from their first instruction on: one in a jail, one outside it."""
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "jail"}}, policy("jail", "jail", policyTypes=["Egress"]))
    until("the service account is there", lambda: get("serviceaccounts", "-n", "jail")["items"])
    # Who has not heard of any policy holds no pod.
    until("the agents know the policy", lambda: all("set known-ip " in table(node) for node in ("node1", "node2")))
    with listening("server") as heard:
        apply(*(sender(n, f"{n}{i}", cluster["pod"], f"node{1 + i % 2}") for i in range(6) for n in ("jail", "default")))
        until("all are ready", lambda: len(pods("sender=yes")) == 6)
        until("all are ready", lambda: all(p["status"]["phase"] == "Running" for p in get("pods", "-n", "jail")["items"]))
        until("the free ones are heard", lambda: "default" in heard)
        time.sleep(0.5)
        assert "jail" not in heard, "a packet came out of the jail"
        nsk8s("delete", "networkpolicy", "-n", "jail", "jail")
        until("it would have been seen", lambda: "jail" in heard)
    nsk8s("delete", "namespace", "jail", ok=False)
    nsk8s("delete", "pods", "-l", "sender=yes", ok=False)


def test_the_example_does_what_it_says(cluster: dict[str, str]) -> None:
    label("server", app="hello")
    try:
        apply(*documents("networkpolicy.yaml"))
        label("far", app="far", access="granted")
        until("the one with the label gets in", lambda: reach(cluster, "near", "far", "outside") == {"far"})
    finally:
        label("far", app="far")
        label("server", app="server")


@pytest.mark.slow
def test_a_node_that_boots_has_no_moment_without_policies(cluster: dict[str, str]) -> None:
    """A jailed pod's containers run again after the boot; on the way up not one of its packets gets out."""
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "jail"}}, policy("jail", "jail", policyTypes=["Egress"]))
    until("the service account is there", lambda: get("serviceaccounts", "-n", "jail")["items"])
    far = get("pod/far")["status"]["podIP"]
    with listening("far") as heard:
        for namespace in ("jail", "default"):
            made = sender(namespace, f"boot-{namespace}", far, "node1")
            apply(made)
        until("the free one is heard", lambda: "default" in heard)
        nsk8s("node", "stop", "node1")
        until("nobody is heard", lambda: heard == {"-"} or heard.clear())
        nsk8s("node", "start", "node1")
        until("the free one is heard again", lambda: "default" in heard, 60)
        running = "the jailed one runs again"
        until(running, lambda: get("pod/boot-jail", "-n", "jail")["status"]["containerStatuses"][0].get("restartCount"), 60)
        time.sleep(0.5)
        assert "jail" not in heard
        nsk8s("delete", "networkpolicy", "-n", "jail", "jail")
        until("it would have been seen", lambda: "jail" in heard)
    nsk8s("delete", "namespace", "jail", ok=False)
    nsk8s("delete", "pod", "boot-default", ok=False)
    until("the server is back", lambda: reach(cluster | {"pod": get("pod/server")["status"].get("podIP", "")}, "far"), 60)
    cluster["pod"] = get("pod/server")["status"]["podIP"]


def test_the_component_tells_how_it_is(cluster: dict[str, str]) -> None:
    assert netns("node1", "curl", "-s", "-m", "5", "localhost:10262/healthz").stdout == "ok\n"
    known = netns("node1", "curl", "-s", "-m", "5", "localhost:10262/metrics").stdout
    assert int(next(line for line in known.splitlines() if line.startswith("network_policy_pods ")).split()[1]) >= len(NODE)
