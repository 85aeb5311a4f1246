"""A cluster whose nodes are BGP speakers: sessions, what they say on the wire, and who dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_cluster import NAME, Capture, apply, becomes, components, get, kill, netns, nsk8s, pod, pods, until
from test_e2e_routing import Pings

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
NODES = {"control-plane": "192.168.56.10", "node1": "192.168.56.11", "node2": "192.168.56.12"}
CIDRS = {"control-plane": "10.244.0.0/24", "node1": "10.244.1.0/24", "node2": "10.244.2.0/24"}
NODES6 = {"control-plane": "fd00:192:168:56::10", "node1": "fd00:192:168:56::11", "node2": "fd00:192:168:56::12"}
CIDRS6 = {"control-plane": "fd00:10:244::/64", "node1": "fd00:10:244:1::/64", "node2": "fd00:10:244:2::/64"}
REFLECTED = {"reflector": "Established", "reflector6": "Established"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of the pods a on node1 and b on node2, `a6` and `b6` by IPv6. Neighbours that are silent for twelve seconds are given up."""
    file = tmp_path_factory.mktemp("bgp") / "cluster.yaml"
    file.write_text("nodes: 2\nnetwork: {ipFamilies: [IPv4, IPv6], mode: bgp, bgp: {holdTime: 12}}\n")
    try:
        nsk8s("up", "-q", "-f", str(file))
        apply(*(pod(name, nodeName=node) for name, node in (("a", "node1"), ("b", "node2"))))
        until("the pods are ready", lambda: all(pods(f"app={name}") for name in "ab"))
        becomes("everybody knows everybody", lambda: {n: learnt(n) for n in NODES}, {n: others(n) for n in NODES})
        addresses = {name: [i["ip"] for i in get(f"pod/{name}")["status"]["podIPs"]] for name in "ab"}
        yield {**{name: ips[0] for name, ips in addresses.items()}, **{f"{name}6": ips[1] for name, ips in addresses.items()}}
    finally:
        nsk8s("down", "-q", ok=False)


def learnt(node: str) -> dict[str, str]:
    """destination → gateway, of the routes that BIRD wrote."""
    lines = [x for family in ("-4", "-6") for x in netns(node, "ip", family, "route", "show", "proto", "bird").stdout.splitlines()]
    return {words[0]: words[2] for words in map(str.split, lines) if words[1] == "via"}


def others(node: str) -> dict[str, str]:
    return {cidrs[n]: ip for cidrs, ips in ((CIDRS, NODES), (CIDRS6, NODES6)) for n, ip in ips.items() if n != node}


def sessions(node: str) -> dict[str, str]:
    """neighbour → state, as birdc shows them."""
    enter = ["nsenter", "--target", str(bird(node)), "--mount", "birdc"]
    lines = subprocess.run([*enter, "show", "protocols"], capture_output=True, text=True, check=False).stdout.splitlines()
    return {words[0]: words[-1] for words in map(str.split, lines) if len(words) > 1 and words[1] == "BGP"}


def bird(machine: str) -> int:
    """Its pid; 0 when there is none."""
    done = netns(machine, "sh", "-c", f"for p in $(ip netns pids {NAME}-{machine}); do echo $p $(cat /proc/$p/comm); done")
    found = [int(line.split()[0]) for line in done.stdout.splitlines() if line.endswith(" bird")]
    assert len(found) < 2, done.stdout
    return found[0] if found else 0


def test_everybody_speaks_with_everybody(cluster: dict[str, str]) -> None:
    assert re.search(r"mesh_node2 +BGP .* Established", nsk8s("enter", "node1", "--", "birdc", "show", "protocols").stdout)
    names = [f"mesh{family}_{other}" for family in ("", "6") for other in ("control_plane", "node2")]
    assert sessions("node1") == dict.fromkeys(names, "Established"), "one a neighbour and family"
    for family, refused in (("-4", "unreachable 10.244.1.0/24 metric 32"), ("-6", "unreachable fd00:10:244:1::/64 dev lo metric 2048")):
        assert netns("node1", "ip", family, "route", "show", "proto", "118").stdout == "", "BIRD's are the only ones"
        assert refused in netns("node1", "ip", family, "route", "show", "proto", "bird").stdout
    assert "10.244.2.0/24        unicast [mesh_node2" in nsk8s("enter", "node1", "--", "birdc", "show", "route").stdout
    assert bird("router") == 0
    # The machine's own BIRD, if there is one, is another: this one is in its node's namespaces and files.
    assert "mesh_node2" in nsk8s("enter", "node1", "--", "cat", "/etc/bird/bird.conf").stdout
    machines_own = Path("/etc/bird/bird.conf")
    assert not machines_own.exists() or "node-network" not in machines_own.read_text()
    # What no pod has is refused, and the outside learns nothing.
    assert "Destination Net Unreachable" in nsk8s("enter", "client", "--", "ping", "-c", "1", cluster["a"], ok=False).stdout


def test_bird_is_killed(cluster: dict[str, str]) -> None:
    """Its routes stay, here in the kernel and at its neighbours, until the next one is there (RFC 4724)."""
    before = bird("node1")
    pings = Pings("b", cluster["a"]), Pings("b", cluster["a6"])
    kill(before)
    until("another one", lambda: bird("node1") not in (0, before))
    until("it has its sessions", lambda: set(sessions("node1").values()) == {"Established"})
    assert [p.lost() for p in pings] == [0, 0]
    for node in ("node1", "node2"):
        becomes(f"what {node} has learnt", lambda node=node: learnt(node), others(node))


@pytest.mark.slow
def test_a_neighbour_that_is_slow_to_speak_again_is_not_forgotten(cluster: dict[str, str]) -> None:
    """The next BIRD waits for it, as long as neighbours do."""
    before, slow = bird("node1"), bird("node2")
    os.kill(slow, signal.SIGSTOP)
    try:
        kill(before)
        until("another one", lambda: bird("node1") not in (0, before))
        until("it speaks with the rest", lambda: list(sessions("node1").values()).count("Established") == 2)
        time.sleep(12)  # no event tells that nothing was given up
        assert learnt("node1") == others("node1"), "what it told stays in the kernel"
    finally:
        os.kill(slow, signal.SIGCONT)
    for node in NODES:
        until(f"{node} has its sessions", lambda node=node: set(sessions(node).values()) == {"Established"})
        becomes(f"what {node} has learnt", lambda node=node: learnt(node), others(node))


def test_its_keeper_is_killed(cluster: dict[str, str]) -> None:
    before, agent = bird("node1"), components()["node1/node-network"]["pid"]
    kill(agent)
    log = Path(f"/var/lib/nsk8s/{NAME}/logs/node1/node-network.log")
    until("the next one has taken it over", lambda: f"bird taken over, pid {before}" in log.read_text())
    assert bird("node1") == before == components()["node1/bird"]["pid"], "status shows it"
    assert set(sessions("node1").values()) == {"Established"}


@pytest.mark.slow
def test_a_node_loses_its_power_and_comes_back(cluster: dict[str, str], tmp_path: Path) -> None:
    nsk8s("node", "stop", "node2")
    until("the hold time is over", lambda: CIDRS["node2"] not in learnt("node1"))
    log = Path(f"/var/lib/nsk8s/{NAME}/logs/node1/node-network.log").read_text()
    assert "mesh_node2: Error: Hold timer expired" in log, "nobody has told"
    rest = {CIDRS["control-plane"]: NODES["control-plane"], CIDRS6["control-plane"]: NODES6["control-plane"]}
    until("it is over in the other family too", lambda: learnt("node1") == rest)
    capture = Capture(tmp_path, "node1", expression="tcp port 179")
    try:
        nsk8s("node", "start", "node2")
        until("it announces itself again", lambda: learnt("node1") == others("node1"))
        told = {of[n] for of in (CIDRS, CIDRS6) for n in ("node1", "node2")}
        until("both have announced their subnets", lambda: told <= set(announced(tmp_path)))
    finally:
        capture.stop()
    packets = "\n".join(capture.packets())
    assert re.search(r"192\.168\.56\.1[12]\.\d+ > 192\.168\.56\.1[12]\.179: Flags \[S\]", packets)


def announced(folder: Path) -> list[str]:
    """The prefixes of the updates in a capture, as tcpdump reads them: IPv6's are in an attribute of RFC 4760."""
    read = ["tcpdump", "-nn", "-vv", "-r", str(folder / "c.pcap")]
    text = subprocess.run(read, capture_output=True, text=True, check=False).stdout
    return re.findall(r"(?:Updated routes:|AFI: IPv6 \(2\).*\n\s+nexthop: .*)\n\s+(\S+)", text)


def configure(**data: str) -> None:
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "node-network", "namespace": "kube-system"}, "data": data})


def b_that_answers() -> list[str]:
    """Its addresses. After its node's boot the API may tell the old ones for a while, as of a pod that is ready."""
    ips = [i["ip"] for i in get("pod/b")["status"].get("podIPs", [])]
    ping = ("enter", "pod/a", "--", "ping", "-c", "1", "-W", "1")
    return ips if ips and all(nsk8s(*ping, ip, ok=False).returncode == 0 for ip in ips) else []


def test_the_router_reflects(cluster: dict[str, str]) -> None:
    """Switched from the mesh to the router: no packet is lost, nor when the reflector dies."""
    ip, ip6 = until("b answers again", b_that_answers)
    pings = Pings("a", ip), Pings("a", ip6)
    configure(bgpTopology="reflector")
    becomes("they speak with the router only", lambda: {n: sessions(n) for n in NODES}, dict.fromkeys(NODES, REFLECTED))
    becomes("and know the same", lambda: {n: learnt(n) for n in NODES}, {n: others(n) for n in NODES})
    for family in ("-4", "-6"):
        bridged = ("ip", family, "route", "show", "proto", "118")
        until("the routes that bridged it are gone", lambda words=bridged: not netns("node1", *words).stdout)
    assert [p.lost() for p in pings] == [0, 0]
    assert bird("router")
    assert CIDRS["node1"] not in netns("router", "ip", "route").stdout, "it tells, and does not route"
    assert "Destination Net Unreachable" in nsk8s("enter", "client", "--", "ping", "-c", "1", ip, ok=False).stdout
    pings, before = (Pings("a", ip), Pings("a", ip6)), bird("router")
    kill(before)
    until("another one", lambda: bird("router") not in (0, before))
    becomes("all have it again", lambda: {n: sessions(n) for n in NODES}, dict.fromkeys(NODES, REFLECTED))
    assert [p.lost() for p in pings] == [0, 0]


def test_away_from_bgp(cluster: dict[str, str]) -> None:
    pings = [Pings("a", ip) for ip in until("b answers", b_that_answers)]
    configure(mode="routes")
    until("no BIRD is left", lambda: not any(bird(m) for m in (*NODES, "router")))
    until("nor its routes", lambda: not any(map(learnt, NODES)))
    assert [p.lost() for p in pings] == [0, 0]
    assert "10.244.2.0/24 via 192.168.56.12 dev eth0" in netns("node1", "ip", "route", "show", "proto", "118").stdout
    becomes("nor those that refuse", lambda: netns("node1", "ip", "-6", "route", "show", "proto", "bird").stdout, "")
