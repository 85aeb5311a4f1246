"""What fails, alone and while packets flow: components, nodes, cables, pods.

One cluster with short grace times (see TIMING); nothing here asserts how long something took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import (
    NAME,
    apply,
    becomes,
    components,
    documents,
    get,
    in_pod,
    kill,
    netns,
    nsk8s,
    pod,
    pods,
    until,
    until_proxied,
)
from e2e_traffic import Load

from nsk8s.client import kubeconfig
from nsk8s.client.resources import NODES as NODES_RESOURCE
from nsk8s.client.rest import Client
from nsk8s.cluster.state import Paths
from nsk8s.kernel.cgroup import Cgroups

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
NODES = ("control-plane", "node1", "node2", "node3")
TIMING = """
name: {name}
timing:
  nodeLeaseDuration: 8
  nodeStatusUpdateFrequency: 4
  nodeMonitorPeriod: 1
  nodeMonitorGracePeriod: 8
  notReadyToleration: 3
  unreachableToleration: 3
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    wanted = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    wanted.write_text(TIMING.format(name=NAME))
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(wanted))
        apply(*hello())
        until("a ready pod on every worker", lambda: {p["spec"]["nodeName"] for p in pods()} == set(NODES[1:]))
        until_proxied(*NODES)
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def hello() -> list[dict[str, Any]]:
    """The example, whose pods stay ready when the machine has no time for their probes."""
    deployment, service = documents("hello.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"] |= {"timeoutSeconds": 10, "failureThreshold": 5}
    return [deployment, service]


def by_node(selector: str = "app=hello") -> dict[str, dict[str, Any]]:
    return {p["spec"]["nodeName"]: p for p in pods(selector)}


def vip() -> str:
    found: str = get("service/hello")["spec"]["clusterIP"]
    return found


def identities() -> dict[str, tuple[Any, ...]]:
    """What must not change of a pod: address, container ids, restarts, and since when it is ready."""
    found = {}
    for one in get("pods", "-A")["items"]:
        status = one["status"]
        since = next(c["lastTransitionTime"] for c in status["conditions"] if c["type"] == "Ready" and c["status"] == "True")
        containers = [(c["containerID"], c["restartCount"]) for c in status["containerStatuses"]]
        found[one["metadata"]["uid"]] = (status["podIP"], containers, since)
    return found


def pod_pids() -> dict[str, set[int]]:
    """Every process of every pod, by node."""
    groups = Cgroups()
    return {node: groups.all_processes(f"/nsk8s/{NAME}/{node}/pods") for node in NODES}


def ready(node: str) -> str:
    conditions = {c["type"]: c["status"] for c in get(f"node/{node}")["status"].get("conditions", [])}
    return conditions["Ready"]


def rules(node: str) -> str:
    done = netns(node, "iptables-save")
    assert done.returncode == 0, done.stderr
    return done.stdout


def destinations(node: str, port: int = 8080) -> set[str]:
    """The endpoint addresses in a node's Service rules."""
    return set(re.findall(rf"--to-destination (\S+):{port}\b", rules(node)))


def test_components_killed_under_load_cost_no_connection_and_no_pod(cluster: None) -> None:
    client = by_node()["node1"]["metadata"]["name"]
    before, pids = identities(), pod_pids()
    with Load(client, vip()) as load:
        server = load.counts()["streamServer"]
        other = next(n for n, p in by_node().items() if p["metadata"]["name"] == server)
        nodes = sorted({"node1", other, "node2" if other == "node1" else other})
        victims = [f"{n}/{c}" for n in nodes for c in ("kubelet", "kube-proxy", "runtime", "node-network")]
        victims += [
            f"control-plane/{c}" for c in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "apiserver-forwarder")
        ]
        for victim in victims:
            old = components()[victim]["pid"]
            kill(old)
            until(f"{victim} runs again", lambda v=victim, o=old: components()[v]["pid"] not in (0, o))
            load.more()
        kept = {k: c["pid"] for k, c in components().items()}
        old = json.loads(nsk8s("status", "-o", "json").stdout)["supervisor"]
        kill(old)
        until("the supervisor is gone", lambda: not Path(f"/proc/{old}").exists())
        load.more()
        assert json.loads(nsk8s("status", "-o", "json").stdout)["supervisor"] not in (0, old)
        assert {k: c["pid"] for k, c in components().items()} == kept, "the new supervisor took over what ran"
        load.more()
        end = load.finish()
    assert (end["failed"], end["errors"]) == (0, [])
    assert end["answered"] == end["attempts"]
    assert end["streamOpen"]
    assert set(end["servers"]) == {p["metadata"]["name"] for p in pods()}
    until("every node Ready", lambda: all(ready(n) == "True" for n in NODES))
    assert identities() == before
    assert pod_pids() == pids


# ---- rules follow endpoints


def gate(replicas: int) -> dict[str, Any]:
    """Echo servers that are ready while a file is there."""
    labels = {"app": "gate"}
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    container = {"name": "echo", "image": "nsk8s/echo", "readinessProbe": probe}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gate", "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }  # fmt: skip


GATE_PORT = {"name": "http", "port": 80, "targetPort": 8080}
GATE_SERVICE = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "gate", "labels": {"app": "gate"}},
    "spec": {"selector": {"app": "gate"}, "ports": [GATE_PORT]},
}  # fmt: skip


def gate_rules(node: str) -> tuple[set[str], bool]:
    """(endpoint addresses, whether it is refused) of the Service gate in a node's rules."""
    text = rules(node)
    chains = set(re.findall(r'-A (KUBE-SEP-\w+) .*--comment "?default/gate:http"? .*--to-destination', text))
    found = {a for c in chains for a in re.findall(rf"-A {c} .*--to-destination (\S+):8080", text)}
    refused = re.search(r'-A KUBE-SERVICES .*"default/gate:http has no endpoints".* -j REJECT', text)
    return found, refused is not None


def gate_becomes(ips: set[str]) -> None:
    """On every node the rules have exactly these endpoints."""
    for node in NODES:
        becomes(f"the rules of {node}", lambda n=node: gate_rules(n), (ips, not ips))


def test_rules_follow_readiness_death_and_scale_on_every_node(cluster: None) -> None:
    apply(gate(2), GATE_SERVICE)

    def running() -> dict[str, str]:
        """Name → address of the pods that run, ready or not."""
        items = [p for p in get("pods", "-l", "app=gate")["items"] if not p["metadata"].get("deletionTimestamp")]
        return {p["metadata"]["name"]: p["status"]["podIP"] for p in items if p["status"]["phase"] == "Running"}

    try:
        until("two running pods", lambda: len(running()) == 2)
        gate_becomes(set())
        (one, one_ip), (two, two_ip) = sorted(running().items())
        in_pod(one, "touch", "/tmp/ready")
        gate_becomes({one_ip})
        in_pod(two, "touch", "/tmp/ready")
        gate_becomes({one_ip, two_ip})
        in_pod(one, "rm", "/tmp/ready")
        gate_becomes({two_ip})
        nsk8s("delete", "pod", two)
        gate_becomes(set())
        until("a new pod instead", lambda: len(running()) == 2)
        new = next(n for n in running() if n != one)
        in_pod(new, "touch", "/tmp/ready")
        gate_becomes({running()[new]})
        nsk8s("scale", "deployment/gate", "--replicas", "0")
        gate_becomes(set())
    finally:
        nsk8s("delete", "service/gate", "deployment/gate", ok=False)
    for node in NODES:
        until(f"nothing of it is left on {node}", lambda n=node: "default/gate" not in rules(n))


# ---- a cable, a node


def taints(node: str) -> set[tuple[str, str]]:
    return {(t["key"], t["effect"]) for t in get(f"node/{node}")["spec"].get("taints") or []}


def staying(node: str) -> set[str]:
    """The names of a node's pods that are not being deleted."""
    found = get("pods", "-A", "--field-selector", f"spec.nodeName={node}")["items"]
    return {p["metadata"]["name"] for p in found if not p["metadata"].get("deletionTimestamp")}


def until_nothing_ends() -> None:
    """What earlier tests deleted is gone, and its processes with it: without a grace period they live longer than the pod."""

    def settled() -> bool:
        items = get("pods", "-A")["items"]
        uids = [p["metadata"]["uid"] for p in items]
        groups = []
        for pid in set().union(*pod_pids().values()):
            with contextlib.suppress(OSError):
                groups.append(Path(f"/proc/{pid}/cgroup").read_text())
        return not any(p["metadata"].get("deletionTimestamp") for p in items) and all(any(u in g for u in uids) for g in groups)

    until("nothing is ending", settled)


def test_a_node_whose_cable_is_cut_keeps_its_pods(cluster: None) -> None:
    until_nothing_ends()
    patient = [{"key": f"node.kubernetes.io/{k}", "operator": "Exists"} for k in ("unreachable", "not-ready")]
    apply(pod("patient", nodeName="node2", tolerations=patient))
    until("it is ready", lambda: len(pods("app=patient")) == 1)
    before, pids = get("pod/patient"), pod_pids()["node2"]
    try:
        assert netns("switch", "ip", "link", "set", "node2", "down").returncode == 0
        becomes("node2's Ready", lambda: ready("node2"), "Unknown")
        node = get("node/node2")
        condition = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
        assert (condition["reason"], condition["message"]) == ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        becomes("its taints", lambda: taints("node2"), {("node.kubernetes.io/unreachable", e) for e in ("NoExecute", "NoSchedule")})
        with ThreadPoolExecutor() as threads:  # each dials until it gives up
            logs = threads.submit(nsk8s, "logs", "patient", ok=False)
            execute = threads.submit(nsk8s, "exec", "patient", "--", "true", ok=False)
        assert (logs.result().returncode, execute.result().returncode) == (1, 1)
        assert logs.result().stderr.startswith(
            'Error from server: Get "https://192.168.56.12:10250/containerLogs/default/patient/main": '
            "dial tcp 192.168.56.12:10250: "
        )
        dial_error = "Error from server: error dialing backend: dial tcp 192.168.56.12:10250: "
        assert execute.result().stderr.startswith(dial_error)
        assert pids <= pod_pids()["node2"]
        becomes("its endpoints", lambda: [a for a in destinations("node1") if a.startswith("10.244.2.")], [])
        becomes("those that tolerate it three seconds are evicted", lambda: staying("node2"), {"patient"})
    finally:
        netns("switch", "ip", "link", "set", "node2", "up")
    until("node2 is Ready", lambda: ready("node2") == "True")
    until("it is not tainted", lambda: not taints("node2"))
    until("the pod is ready again", lambda: len(pods("app=patient")) == 1)
    after = get("pod/patient")
    for key in ("podIP", "containerStatuses"):
        assert after["status"][key] == before["status"][key]
    assert nsk8s("exec", "patient", "--", "echo", "there").stdout == "there\n"
    ended = pids & pod_pids()["node2"]
    assert ended
    nsk8s("delete", "pod/patient")
    until("its processes are gone", lambda: not ended & pod_pids()["node2"])


@pytest.mark.slow
def test_the_workers_go_on_without_a_control_plane_that_is_cut_off(cluster: None) -> None:
    """It sees three of four nodes fall silent at once, and rather distrusts itself than evict. (Not at once to the second:
    the first of them may be given up, as upstream would, before the others are missed.)"""
    until_nothing_ends()
    pids = pod_pids()
    with Load(next(p["metadata"]["name"] for p in pods()), vip()) as load:
        try:
            assert netns("switch", "ip", "link", "set", "control-plane", "down").returncode == 0
            until("the workers are Unknown", lambda: all(ready(n) == "Unknown" for n in NODES[1:]))
            load.more(400)  # four seconds, and the pods would tolerate three
            end = load.finish()
            assert pod_pids() == pids
        finally:
            netns("switch", "ip", "link", "set", "control-plane", "up")
    assert (end["failed"], end["answered"]) == (0, end["attempts"])
    given_up = [n for n in NODES[1:] if ("node.kubernetes.io/unreachable", "NoExecute") in taints(n)]
    assert len(given_up) <= 1
    until("every node is Ready", lambda: all(ready(n) == "True" for n in NODES))
    until("no taints", lambda: not any(taints(n) for n in NODES[1:]))
    until("every pod is ready", lambda: len(pods()) == 3 and dns_pod())
    for node in set(NODES) - set(given_up):
        assert pids[node] <= pod_pids()[node]


def dns_pod() -> dict[str, Any] | None:
    found = [p for p in get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"] if "deletionTimestamp" not in p["metadata"]]
    ready_ones = [p for p in found if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
    return ready_ones[0] if ready_ones else None


def dns_on_a_worker() -> str:
    """The DNS pod's node, which is not the control plane (it is sent away from there)."""
    patch_node("control-plane", {"spec": {"unschedulable": True}})
    found = until("DNS is ready", dns_pod)
    if found["spec"]["nodeName"] == "control-plane":
        nsk8s("delete", "pod", found["metadata"]["name"], "-n", "kube-system")
    moved = until("DNS is on a worker", lambda: (p := dns_pod()) and p["spec"]["nodeName"] != "control-plane" and p)
    patch_node("control-plane", {"spec": {"unschedulable": None}})
    return str(moved["spec"]["nodeName"])


def patch_node(name: str, body: dict[str, Any]) -> None:
    async def work() -> None:
        async with Client(kubeconfig.load(Paths(NAME).admin_conf)) as client:
            await client.patch(NODES_RESOURCE, name, body)

    asyncio.run(work())


def in_node(node: str, script: str) -> str:
    return nsk8s("enter", f"node/{node}", "--", "sh", "-c", script).stdout


def resolves(node: str) -> bool:
    done = netns(node, "/usr/bin/python3", "-c", ASK_DNS)
    return done.returncode == 0


ASK_DNS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
name = b"".join(bytes([len(p)]) + p for p in b"kubernetes.default.svc.cluster.local".split(b".")) + b"\\0"
s.sendto(b"ns\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\1\\0\\1", ("10.96.0.10", 53))
assert s.recv(512).endswith(bytes([10, 96, 0, 1]))
"""


def test_a_power_cut_moves_the_pods_and_a_boot_begins_with_nothing(cluster: None) -> None:
    """Of the node that the DNS pod is on: so DNS must come back elsewhere, too."""
    home = dns_on_a_worker()
    others = [n for n in NODES if n != home]
    nsk8s("scale", "deployment/hello", "--replicas", "6")
    until("a pod on every worker", lambda: len(pods()) == 6 and set(by_node()) == set(NODES[1:]))
    lost = [p for p in get("pods", "--field-selector", f"spec.nodeName={home}")["items"] if not p["metadata"].get("deletionTimestamp")]
    lost_ips = {p["status"]["podIP"] for p in [*lost, until("DNS is ready", dns_pod)]}
    traces = (
        ("iptables", "-t", "nat", "-N", "BEFORE-THE-BOOT"), ("ip", "route", "add", "198.51.100.0/24", "dev", "eth0"),
        ("conntrack", "-I", "-p", "udp", "-s", "1.2.3.4", "-d", "4.3.2.1", "--sport", "5", "--dport", "6", "-t", "9999"),
    )  # fmt: skip
    for trace in traces:
        assert netns(home, *trace).returncode == 0, trace
    in_node(home, "touch /run/before-the-boot /var/log/before-the-boot")
    leases = set(re.findall(r"[0-9a-f]{64}", in_node(home, "cat /var/lib/cni/networks/*/10.*")))
    assert leases
    card = in_node(home, "cat /sys/class/net/eth0/address")
    nsk8s("node", "stop", home)
    assert not Path(f"/run/netns/{NAME}-{home}").exists()
    assert not Cgroups().all_processes(f"/nsk8s/{NAME}/{home}")
    becomes("the node's Ready", lambda: ready(home), "Unknown")
    until("six ready pods elsewhere", lambda: len(pods()) == 6 and home not in by_node(), 60)
    for old in lost:
        gone = get(f"pod/{old['metadata']['name']}")
        assert gone["metadata"]["deletionTimestamp"], "evicted, and waiting for its kubelet to say that it has ended"
        reason = {c["type"]: c.get("reason") for c in gone["status"]["conditions"]}["DisruptionTarget"]
        assert reason == "DeletionByTaintManager"
    until("DNS elsewhere", lambda: (dns_pod() or {"spec": {"nodeName": home}})["spec"]["nodeName"] != home, 60)
    for node in others:
        until(f"no lost endpoint on {node}", lambda n=node: not any(f" {ip}" in rules(n) for ip in lost_ips))
        until(f"DNS answers on {node}", lambda n=node: resolves(n))
    client = next(p["metadata"]["name"] for p in pods())
    with Load(client, vip()) as load:
        load.more(200)
        end = load.finish()
    assert (end["failed"], end["answered"]) == (0, end["attempts"])

    nsk8s("node", "start", home)
    assert in_node(home, "cat /sys/class/net/eth0/address") == card, "or its neighbours' ARP entries would be wrong for long"
    found = in_node(home, "ls /run /var/log; ip route; conntrack -L; cat /var/lib/cni/networks/*/10.* || true")
    assert "BEFORE-THE-BOOT" not in rules(home)
    assert found.count("before-the-boot") == 1, "the disk is kept, /run is not"
    assert "198.51.100.0" not in found
    assert "1.2.3.4" not in found
    assert not leases & set(re.findall(r"[0-9a-f]{64}", found)), "addresses of pods that ended with the power"
    until("the node is Ready", lambda: ready(home) == "True")
    until("the evicted pods are gone", lambda: not [p for p in get("pods")["items"] if p["metadata"].get("deletionTimestamp")])
    until("no taint", lambda: not taints(home))
    nsk8s("scale", "deployment/hello", "--replicas", "9")
    until("a pod on it again", lambda: home in by_node())
    address = get(f"node/{home}")["status"]["addresses"][0]["address"]
    until("nine ready pods", lambda: len(pods()) == 9)
    until_proxied(home)
    assert netns("client", "curl", "-s", "-m", "10", f"http://{address}:30080/healthz").stdout == "ok\n"
    nsk8s("scale", "deployment/hello", "--replicas", "3")
