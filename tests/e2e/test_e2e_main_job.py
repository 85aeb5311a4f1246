"""The main job, whole: a cluster, a Deployment, a Service, real packets from every kind of source."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import machine_state
import pytest
from e2e_cluster import NAME, ask, components, get, kill, netns, nsk8s, pods, until
from e2e_monitor import Monitor, network_state
from e2e_settled import answered_everywhere, pods_are_reached

Silence = tuple[Monitor, machine_state.State]

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
ASK_DNS = (
    "from dnslib import DNSRecord;"
    "print(DNSRecord.question('hello.default.svc.cluster.local').send('10.96.0.10', timeout=3).hex())"
)
NODES = ("control-plane", "node1", "node2", "node3")
ENDED = (FileNotFoundError, ProcessLookupError)
"""What reading about a process in /proc raises once there is none."""
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"


@pytest.fixture(scope="module")
def silence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Silence]:
    """The root namespace's network from before `up` to after `down`."""
    nsk8s("down", "-q", ok=False)
    before = network_state()
    monitor = Monitor(tmp_path_factory.mktemp("monitor"))
    yield monitor, before
    monitor.stop()


@pytest.fixture(scope="module")
def cluster(silence: Silence) -> Iterator[None]:
    try:
        nsk8s("up", "-q")
        nsk8s("apply", "-f", str(HELLO))
        until("three ready pods", lambda: len(pods()) == 3)
        pods_are_reached(NODES)
        vip = get("service/hello")["spec"]["clusterIP"]
        answered_everywhere(NODES, f"http://{vip}/healthz")
        answered_everywhere(("client",), *(f"http://192.168.56.{last}:30080/healthz" for last in (10, 11, 12, 13)))
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def test_every_node_is_ready_with_its_own_subnet(cluster: None) -> None:
    nodes = get("nodes")["items"]
    assert {n["metadata"]["name"]: n["spec"]["podCIDR"] for n in nodes} == {
        "control-plane": "10.244.0.0/24",
        "node1": "10.244.1.0/24",
        "node2": "10.244.2.0/24",
        "node3": "10.244.3.0/24",
    }
    assert all({c["type"]: c["status"] for c in n["status"]["conditions"]}["Ready"] == "True" for n in nodes)


def test_pods_spread_over_the_workers_only(cluster: None) -> None:
    assert sorted(p["spec"]["nodeName"] for p in pods()) == ["node1", "node2", "node3"]


def test_pods_reach_pods_on_other_nodes_without_nat(cluster: None) -> None:
    a, b = sorted(pods(), key=lambda p: p["spec"]["nodeName"])[:2]
    ip_a, ip_b = a["status"]["podIP"], b["status"]["podIP"]
    answer = ask((f"pod/{a['metadata']['name']}",), f"http://{ip_b}:8080/")
    client_ip, _, client_port = answer["client"].rpartition(":")
    assert (client_ip, answer["pod"]) == (ip_a, b["metadata"]["name"])
    for node in (a["spec"]["nodeName"], b["spec"]["nodeName"]):
        entry = netns(node, "conntrack", "-L", "-p", "tcp", "--orig-port-src", client_port, "-s", ip_a).stdout
        assert f"src={ip_a} dst={ip_b} sport={client_port} dport=8080" in entry, node
        assert f"src={ip_b} dst={ip_a} sport=8080 dport={client_port}" in entry, node


def test_nodes_and_pods_reach_each_other_without_nat(cluster: None) -> None:
    for pod in pods():
        for node, ip in (("node1", "192.168.56.11"), ("node3", "192.168.56.13")):
            own = pod["spec"]["nodeName"] == node
            seen = ask((f"node/{node}",), f"http://{pod['status']['podIP']}:8080/")["client"].rpartition(":")[0]
            gateway = re.sub(r"\.\d+$", ".1", pod["status"]["podIP"])
            assert seen == (gateway if own else ip)


def test_cluster_ip_from_pods_and_nodes(cluster: None) -> None:
    vip = get("service/hello")["spec"]["clusterIP"]
    sources = [(f"pod/{p['metadata']['name']}",) for p in pods()] + [("node/control-plane",), ("node/node2",)]
    names = {p["metadata"]["name"] for p in pods()}
    for source in sources:
        assert ask(source, f"http://{vip}/")["pod"] in names


def test_node_port_from_outside_on_every_node(cluster: None) -> None:
    names = {p["metadata"]["name"] for p in pods()}
    for last in (10, 11, 12, 13):
        assert ask(("client",), f"http://192.168.56.{last}:30080/")["pod"] in names


def test_outside_meets_the_router_until_it_has_a_route(cluster: None) -> None:
    pod = pods()[0]
    ip, node = pod["status"]["podIP"], pod["spec"]["nodeName"]
    refused = netns("client", "curl", "-s", "-m", "5", f"http://{ip}:8080/")
    assert refused.returncode == 7, "the router answers net-unreachable, at once"
    node_ip = f"192.168.56.1{node[-1]}"
    assert netns("router", "ip", "route", "add", ip, "via", node_ip).returncode == 0
    try:
        assert ask(("client",), f"http://{ip}:8080/")["client"].startswith("203.0.113.10:")
    finally:
        netns("router", "ip", "route", "del", ip)


def test_dns_answers_on_every_node(cluster: None) -> None:
    from dnslib import DNSRecord

    wanted = [get("service/hello")["spec"]["clusterIP"]]

    def said(node: str) -> list[str]:
        done = netns(node, sys.executable, "-c", ASK_DNS)
        return [str(r.rdata) for r in DNSRecord.parse(bytes.fromhex(done.stdout.strip())).rr] if done.returncode == 0 else [done.stderr]

    for node in NODES:  # the DNS may hear of a new Service after everybody else
        until(f"DNS names the Service on {node}", lambda node=node: said(node) == wanted)


def test_ps_shows_each_component_by_name_and_node(cluster: None) -> None:
    seen = components()
    assert len({c["pid"] for c in seen.values()}) == len(seen)
    per_node = {"kubelet", "kube-proxy", "node-network", "runtime"}
    control = {"kube-apiserver", "kube-scheduler", "kube-controller-manager", "cloud-controller-manager", "apiserver-forwarder"}
    wanted = {f"{n}/{c}" for n in NODES for c in per_node} | {f"control-plane/{c}" for c in control}
    assert set(seen) == wanted | {"router/router-agent"}
    listed = subprocess.run(["ps", "-e", "-ww", "-o", "pid=,comm=,args="], capture_output=True, text=True, check=True).stdout
    by_pid = {int(fields[0]): fields[1:] for fields in (line.split(None, 4) for line in listed.splitlines())}
    for c in seen.values():
        comm, *args = by_pid[c["pid"]]
        assert comm == c["name"][:15]
        assert args[:2] == [c["name"], f"{NAME}-{c['machine']}"]


def processes_of(machine: str) -> list[int]:
    """Every process in a machine's control group: its components, and pause and containers of its pods."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            groups = path.read_text()
        except OSError:
            continue
        if f"/nsk8s/{NAME}/{machine}/" in groups:
            found.append(int(path.parent.name))
    return found


def test_components_are_in_the_namespaces_of_their_node(cluster: None) -> None:
    nodes: dict[str, set[tuple[int, ...]]] = {}
    for component in components().values():
        own = f"/proc/{component['pid']}/ns"
        assert os.stat(f"{own}/net").st_ino == os.stat(f"/run/netns/{NAME}-{component['machine']}").st_ino, component["id"]
        if component["name"] not in ("apiserver-forwarder", "router-agent"):  # these see the computer's own files
            nodes.setdefault(component["machine"], set()).add(tuple(os.stat(f"{own}/{n}").st_ino for n in ("net", "mnt", "uts")))
    assert all(len(each) == 1 for each in nodes.values()), "the four of a node share its namespaces"
    assert len({inode for each in nodes.values() for one in each for inode in one}) == 3 * len(NODES), "and no other node has one of them"


def test_between_nodes_there_are_only_packets(cluster: None) -> None:
    """No process of a node has another node's (or the machine's) sockets, files, mounts or working directory."""
    forwarder = components()["control-plane/apiserver-forwarder"]["pid"]
    for machine in NODES:
        pids = processes_of(machine)
        assert len(pids) >= 4
        others = [n for n in NODES if n != machine]
        foreign = re.compile("|".join([*(rf"/{n}/|[/.]{n}\." for n in others), *(rf"{NAME}-{n}\b" for n in others), "supervisor"]))
        for pid in pids:
            try:
                who = f"{machine}: {pid} {Path(f'/proc/{pid}/comm').read_text().strip()}"
                mounts = Path(f"/proc/{pid}/mountinfo").read_text()
            except ENDED:
                continue  # such as a helper that called CNI's plugins
            assert not [link for link in _links(pid) if foreign.search(link)], who
            if pid != forwarder:  # it lives in the machine's mount namespace: it opens nothing there
                assert not foreign.search(mounts), who
        # A socket shows up in the tables of the namespace where it was made; those that come and go are not there a second time.
        foreign_sockets = _held(pids) - _sockets(pids)
        foreign_sockets &= _held(pids) - _sockets(pids)
        if machine == "control-plane":
            foreign_sockets -= _held([forwarder]) & _sockets([os.getpid()])  # its side towards the machine
        assert not foreign_sockets, machine
    assert _held(processes_of("node1")) - _sockets(processes_of("node2")), "the comparison can fail"


def _links(pid: int) -> list[str]:
    """What a process's descriptors and its working directory are."""
    found = []
    with contextlib.suppress(*ENDED):
        for path in [*Path(f"/proc/{pid}/fd").iterdir(), Path(f"/proc/{pid}/cwd")]:
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(path))
    return found


def _held(pids: list[int]) -> set[int]:
    return {int(link[8:-1]) for pid in pids for link in _links(pid) if link.startswith("socket:[")}


TABLES = {"tcp": 9, "tcp6": 9, "udp": 9, "udp6": 9, "raw": 9, "netlink": 9, "packet": 8}
"""/proc/net's tables of sockets, and in which column the inode is."""


def _namespaces(pids: list[int]) -> Iterator[IO[bytes]]:
    """These processes' network namespaces, each once; open, so that one stays when its process ends."""
    seen = set()
    for pid in pids:
        with contextlib.suppress(*ENDED):
            with open(f"/proc/{pid}/ns/net", "rb") as namespace:
                inode = os.fstat(namespace.fileno()).st_ino
                if inode not in seen:
                    seen.add(inode)
                    yield namespace


def _sockets(pids: list[int]) -> set[int]:
    """Inodes of all sockets in these processes' network namespaces whose unix peer, if they have one, is there too."""
    found: set[int] = set()
    unix: dict[int, int] = {}
    tables = [f"/proc/net/{name}" for name in TABLES]
    for namespace in _namespaces(pids):
        inside = ["nsenter", f"--net=/proc/self/fd/{namespace.fileno()}"]
        how: dict[str, Any] = {"pass_fds": [namespace.fileno()], "stdout": subprocess.PIPE, "text": True}
        for line in subprocess.run([*inside, "grep", "-sH", "", *tables], check=False, **how).stdout.splitlines():
            path, _, row = line.partition(":")
            inode = row.split()[TABLES[path.rpartition("/")[2]]]
            if inode.isdigit():  # no heading
                found.add(int(inode))
        listed = subprocess.run([*inside, "ss", "-Hxan"], check=True, **how)
        unix |= {int(f[5]): int(f[7]) for f in (line.split() for line in listed.stdout.splitlines())}
    return found | {inode for inode, peer in unix.items() if peer == 0 or peer in unix}


def test_a_nodes_own_files_hide_the_machines_and_the_other_nodes(cluster: None) -> None:
    for path in (f"/var/lib/nsk8s/{NAME}", f"/run/nsk8s/{NAME}", f"/run/netns/{NAME}-node2"):
        assert Path(path).exists()
        assert nsk8s("enter", "node1", "--", "ls", "-d", path, ok=False).returncode == 2, path
    assert nsk8s("enter", "node1", "--", "hostname").stdout == "node1\n"
    assert nsk8s("enter", "node1", "--", "ls", "/etc/cni/net.d").stdout == "10-nsk8s.conflist\n"


def test_one_iptables_variant_is_used(cluster: None) -> None:
    if "nf_tables" not in json.loads(nsk8s("status", "-o", "json").stdout)["iptables"]:
        pytest.skip("this machine's iptables is the legacy one: tests/e2e/test_e2e_legacy.py")
    for node in NODES:
        assert netns(node, "cat", "/proc/net/ip_tables_names").stdout == "", f"{node} holds legacy tables besides"
        assert "KUBE-SERVICES" in netns(node, "iptables-nft-save", "-t", "nat").stdout


def test_a_killed_app_is_restarted(cluster: None) -> None:
    pod = pods()[0]
    name = pod["metadata"]["name"]
    listening = nsk8s("enter", f"pod/{name}", "--", "ss", "-Hltnp").stdout
    pid = int(re.findall(r"pid=(\d+)", listening)[0])
    kill(pid)

    def restarted() -> bool:
        now = get(f"pod/{name}")
        return now["status"]["containerStatuses"][0]["restartCount"] == 1 and now["status"]["containerStatuses"][0]["ready"]

    until("one restart, ready again", restarted)
    assert get(f"pod/{name}")["status"]["podIP"] == pod["status"]["podIP"]


@pytest.mark.parametrize(
    "victim",
    [
        "node1/kubelet", "node1/kube-proxy", "node1/runtime", "node1/node-network", "control-plane/kube-scheduler",
        "control-plane/kube-controller-manager", "control-plane/kube-apiserver",
    ],
)  # fmt: skip
def test_a_killed_component_comes_back_and_pods_do_not_notice(cluster: None, victim: str) -> None:
    before = _ids(pods())
    old = components()[victim]["pid"]
    kill(old)
    until(f"{victim} runs again", lambda: components()[victim]["pid"] not in (0, old))
    until("the API answers", lambda: nsk8s("get", "nodes", ok=False).returncode == 0)  # a process is not yet one that listens
    for last in (11, 12, 13):
        assert netns("client", "curl", "-s", "-m", "5", f"http://192.168.56.{last}:30080/healthz").returncode == 0
    until("the same pods, ready", lambda: _ids(pods()) == before)


def _ids(found: Iterable[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {p["metadata"]["uid"]: (p["status"]["podIP"], p["status"]["containerStatuses"][0]["containerID"]) for p in found}


def test_a_killed_supervisor_is_replaced_by_the_next_command(cluster: None) -> None:
    before = components()
    old = json.loads(nsk8s("status", "-o", "json").stdout)["supervisor"]
    kill(old)
    new = json.loads(nsk8s("status", "-o", "json").stdout)
    assert new["supervisor"] not in (0, old)
    assert {c["id"]: c["pid"] for c in new["components"]} == {k: c["pid"] for k, c in before.items()}


def test_rules_show_the_packets_of_a_service(cluster: None) -> None:
    """One more connection to the ClusterIP from node1: the entry rule has counted one more packet, and one endpoint took it."""

    def shown() -> tuple[int, int]:
        entry = json.loads(nsk8s("rules", "hello", "--node", "node1", "-o", "json").stdout)["rules"][0]
        endpoints = [r for r in entry["rules"] if r["target"].startswith("KUBE-SEP-")]
        return entry["packets"], sum(dnat["packets"] for r in endpoints for dnat in r["rules"] if dnat["target"] == "DNAT")

    address = get("service", "hello")["spec"]["clusterIP"]
    seen = []
    while not seen or seen[-1] != (1, 1):  # a sync of kube-proxy in between begins to count anew
        assert len(seen) < 10, seen
        before = shown()
        ask(("node/node1",), f"http://{address}/")
        after = shown()
        seen.append((after[0] - before[0], after[1] - before[1]))
    named = {f"(pod {pod['metadata']['name']} on {pod['spec']['nodeName']})" for pod in pods()}
    until(f"they are named: {named}", lambda: all(n in nsk8s("rules", "hello", "--node", "node1").stdout for n in named))
    assert nsk8s("rules", "nope", ok=False).returncode == 1


def test_rules_follow_scale(cluster: None) -> None:
    def endpoints() -> int:
        rules = netns("node2", "iptables-save", "-t", "nat").stdout
        return len(set(re.findall(r"--to-destination (10\.244\.\d+\.\d+):8080", rules)))

    until("three endpoints in the rules", lambda: endpoints() == 3)
    nsk8s("scale", "deployment/hello", "--replicas", "5")
    until("five endpoints in the rules", lambda: endpoints() == 5)
    nsk8s("scale", "deployment/hello", "--replicas", "3")
    until("three endpoints in the rules", lambda: endpoints() == 3, 60)


def test_a_power_cut_and_a_boot(cluster: None) -> None:
    before = {c for _, c in _ids(p for p in pods() if p["spec"]["nodeName"] == "node3").values()}
    nsk8s("node", "stop", "node3")
    assert not Path(f"/run/netns/{NAME}-node3").exists()
    nsk8s("node", "start", "node3")
    until("kube-proxy's rules", lambda: "KUBE-SERVICES" in netns("node3", "iptables-save", "-t", "nat").stdout)
    # The API says for a while yet what was before the cut.
    until("node3's pod runs again", lambda: any(
        p["spec"]["nodeName"] == "node3" and c not in before for p in pods() for _, c in _ids([p]).values()), 60)  # fmt: skip
    answered_everywhere(("client",), "http://192.168.56.13:30080/healthz")


def test_a_second_up_changes_nothing(cluster: None) -> None:
    before = {k: c["pid"] for k, c in components().items()}
    assert "running already" in nsk8s("up").stdout
    assert {k: c["pid"] for k, c in components().items()} == before


def test_the_root_namespace_heard_nothing_from_before_up_to_after_down(cluster: None, silence: Silence) -> None:
    monitor, before = silence
    nsk8s("down", "-q")
    assert monitor.heard() == [], "the root namespace's network was touched"
    assert machine_state.differences(before, network_state()) == []
