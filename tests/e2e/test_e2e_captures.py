"""The core of the course: one request is followed from interface to interface with `nsk8s capture`, address by address."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import NAME, Capture, apply, ask, get, in_pod, netns, nsk8s, pod, pods, until, until_proxied

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
SYN = "tcp[tcpflags] & tcp-syn != 0 and (port 80 or port 8080 or port 30090)"
"""SYN and SYN-ACK: one packet each way."""


@dataclass(frozen=True)
class Scene:
    """asker (10.244.1.x) on node1, server (10.244.2.x) on node2 behind a ClusterIP and a node port."""

    asker: str
    server: str
    vip: str
    dns: str
    """The DNS pod's, whose liveness a kubelet asks for at port 8080 from a minute on."""


def server() -> list[dict[str, Any]]:
    web = pod("server", "nsk8s/echo", nodeName="node2")
    del web["spec"]["containers"][0]["command"]
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30090}]
    metadata = {"name": "web"}
    return [web, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"type": "NodePort", "selector": {"app": "server"}, "ports": ports}}]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "--nodes", "2")
        apply(*server(), pod("asker", nodeName="node1"), pod("neighbour", nodeName="node2"))
        until("three ready pods", lambda: len(pods("app in (server,asker,neighbour)")) == 3)
        ip = {p["metadata"]["name"]: p["status"]["podIP"] for p in get("pods")["items"]}
        (dns,) = get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
        found = Scene(ip["asker"], ip["server"], get("service/web")["spec"]["clusterIP"], dns["status"]["podIP"])
        until_proxied("node1", "node2", service="default/web", selector="app=server")
        until("it answers", lambda: nsk8s("exec", "asker", "--", "wget", "-T2", "-qO-", f"http://{found.vip}/healthz", ok=False).stdout == "ok\n")
        yield found
    finally:
        nsk8s("down", "-q", ok=False)


@pytest.fixture
def watch(scene: Scene, tmp_path: Path) -> Iterator[Callable[..., Capture]]:
    """Start captures; all are stopped in the end."""
    started: list[Capture] = []

    def start(*targets: str, interface: str = "eth0", expression: str = f"{SYN} and not host {scene.dns}") -> Capture:
        folder = tmp_path / f"{len(started)}-{interface}"
        folder.mkdir()
        started.append(Capture(folder, *targets, interface=interface, expression=expression))
        return started[-1]

    yield start
    for capture in started:
        capture.stop()


def hops(capture: Capture, label: str = "", count: int = 2) -> list[str]:
    """`from > to` of each packet, once there are `count`: a SYN and its SYN-ACK, or two of each."""
    seen: list[str] = []

    def enough() -> bool:
        seen[:] = capture.packets(label)
        return len(seen) >= count

    until(f"{count} packets at {label or 'the target'}", enough)
    return [match[1] for match in (re.match(r"IP (\S+ > \S+): Flags \[S", line) for line in seen) if match]


def there_and_back(a: str, b: str) -> list[str]:
    return [f"{a} > {b}", f"{b} > {a}"]


def test_pod_to_cluster_ip_to_a_pod_on_another_node(scene: Scene, watch: Callable[..., Capture]) -> None:
    eth0 = watch("pod/asker", "node1", "node2", "pod/server")
    cni0 = watch("node1", "node2", interface="cni0")
    port = netns("node1", "ip", "route", "get", scene.asker).stdout
    assert "dev cni0" in port
    veth = bridge_port("node1", scene.asker)
    plug = watch("node1", interface=veth)
    router = watch("router")
    seen = json.loads(in_pod("asker", "wget", "-qO-", f"http://{scene.vip}/"))
    own = "{}.{}".format(*seen["client"].split(":"))
    assert own.startswith(f"{scene.asker}."), "the server sees the pod's own address"

    to_vip = there_and_back(own, f"{scene.vip}.80")
    to_pod = there_and_back(own, f"{scene.server}.8080")
    assert hops(eth0, "default-asker") == to_vip, "the pod talks to the virtual address, and hears from it"
    assert hops(plug) == to_vip, "so does the node's end of its cable"
    half_way = [to_pod[0], to_vip[1]]
    assert hops(cni0, "node1") == half_way, "bridged packets pass PREROUTING: DNAT comes before cni0, both ways"
    assert hops(eth0, "node1") == to_pod, "so it leaves for the other node, from the pod's own address"
    assert hops(eth0, "node2") == to_pod
    assert hops(cni0, "node2") == to_pod
    assert hops(eth0, "default-server") == to_pod
    assert router.packets() == [], "nodes share a switch"
    entry = netns("node1", "conntrack", "-L", "-p", "tcp", "-s", scene.asker, "-d", scene.vip).stdout
    assert f"src={scene.asker} dst={scene.vip} sport={own.rpartition('.')[2]} dport=80 src={scene.server} dst={scene.asker} sport=8080" in entry


def bridge_port(node: str, ip: str) -> str:
    """The bridge port behind which a pod is, found as the bridge finds it: by the address's neighbour entry."""
    netns(node, "busybox", "ping", "-c1", "-W1", ip)
    mac = netns(node, "ip", "neigh", "show", ip).stdout.split()[4]
    entry = next(line for line in netns(node, "bridge", "fdb", "show", "br", "cni0").stdout.splitlines() if line.startswith(mac))
    return entry.split()[2]


def test_a_pod_that_meets_itself_behind_the_service(scene: Scene, watch: Callable[..., Capture]) -> None:
    """Hairpin: it must not see its own address as the asker's, or it would answer itself past the service."""
    own = watch("pod/server")
    seen = json.loads(nsk8s("enter", "pod/server", "--", "curl", "-s", f"http://{scene.vip}/").stdout)
    masqueraded = "{}.{}".format(*seen["client"].split(":"))
    assert masqueraded.startswith("10.244.2.1.")
    lines = sorted(hops(own, count=4))
    to_vip = [line for line in lines if scene.vip in line]
    (asker,) = {re.search(rf"{re.escape(scene.server)}\.\d+", line)[0] for line in to_vip}  # type: ignore[index]
    assert lines == sorted([*there_and_back(asker, f"{scene.vip}.80"), *there_and_back(masqueraded, f"{scene.server}.8080")])


def test_a_neighbour_on_the_same_node(scene: Scene, watch: Callable[..., Capture]) -> None:
    """The answer is bridged, not routed: it finds its way back through the virtual address because bridged packets pass netfilter."""
    both = watch("pod/neighbour", "pod/server")
    wire = watch("node2")
    seen = json.loads(in_pod("neighbour", "wget", "-qO-", f"http://{scene.vip}/"))
    own = "{}.{}".format(*seen["client"].split(":"))
    assert hops(both, "default-neighbour") == there_and_back(own, f"{scene.vip}.80")
    assert hops(both, "default-server") == there_and_back(own, f"{scene.server}.8080")
    assert wire.packets() == []


def test_from_outside_through_a_node_port(scene: Scene, watch: Callable[..., Capture]) -> None:
    """client → router → node1 (which has no such pod) → node2 → pod, and the whole way back, masqueraded by node1."""
    outside = watch("client")
    router = watch("router", interface="eth1")
    nodes = watch("node1", "node2", "pod/server")
    seen = ask(("client",), "http://192.168.56.11:30090/")
    assert seen["client"].startswith("192.168.56.11:")
    through = "{}.{}".format(*seen["client"].split(":"))
    at_client = hops(outside)
    asker = at_client[0].split()[0]
    assert asker.startswith("203.0.113.10.")
    assert at_client == there_and_back(asker, "192.168.56.11.30090")
    assert hops(router) == at_client
    inner = there_and_back(through, f"{scene.server}.8080")
    assert hops(nodes, "node1", 4) == [at_client[0], *inner, at_client[1]], "in, on to the pod, its answer, and out again"
    assert hops(nodes, "node2") == inner
    assert hops(nodes, "default-server") == inner


def test_out_of_the_cluster_as_the_node(scene: Scene, watch: Callable[..., Capture]) -> None:
    capture = watch("pod/asker", "node1", "client", expression="udp port 9")
    nsk8s("enter", "pod/asker", "--", "bash", "-c", "echo hello > /dev/udp/203.0.113.10/9")
    assert capture.until("203.0.113.10.9", "default-asker")[0].startswith(f"IP {scene.asker}.")
    for label in ("node1", "client"):
        assert capture.until("203.0.113.10.9", label)[0].startswith("IP 192.168.56.11.")


def test_printed_lines_name_their_target_and_stop_at_the_count(scene: Scene) -> None:
    command = ["capture", "pod/asker", "node2", "-i", "eth0", "--filter", "icmp[icmptype] == icmp-echo", "-c", "1"]
    with subprocess.Popen([*nsk8s_argv(), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        listening = 0
        while listening < 2:
            line = process.stderr.readline()
            assert line
            listening += "listening on" in line
        in_pod("asker", "busybox", "ping", "-c1", "-W2", scene.server)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    said = sorted(re.sub(r"\d\d:\d\d:\d\d\.\d+ ", "", line).partition(" ICMP")[0] for line in out.splitlines())
    assert said == [f"default/asker: IP {scene.asker} > {scene.server}:", f"node2: IP {scene.asker} > {scene.server}:"]


def nsk8s_argv() -> list[str]:
    return ["env", f"NSK8S_CLUSTER={NAME}", sys.executable, "-m", "nsk8s.cli.main"]


def test_a_duration_ends_it_and_leaves_no_process(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "nothing.pcap"
    done = nsk8s("capture", "node1", "-w", str(path), "--duration", "0.3", "--filter", "host 192.0.2.1", timeout=30)
    assert "0 packets captured" in done.stderr
    assert path.stat().st_size == 24, "an empty pcap: its header"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("node9", "there is no machine 'node9'"),
        ("pod/nobody", 'pods "nobody" not found'),
        ("pod/kube-system/nobody", 'pods "nobody" not found'),
    ],
)
def test_what_is_not_there_is_said_in_one_line(scene: Scene, target: str, said: str) -> None:
    done = nsk8s("capture", target, "-c", "1", ok=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_filter_that_means_nothing_fails(scene: Scene) -> None:
    done = nsk8s("capture", "node1", "--filter", "colour blue", "-c", "1", ok=False, timeout=20)
    assert done.returncode == 1
    assert "syntax error" in done.stderr
