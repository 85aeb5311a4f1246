"""Cables: cut and mended, slow ones, and offloads: what a capture shows with them and without. One cluster for all."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import NAME, Capture, apply, get, netns, nsk8s, pod, pods, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
TIMING = "timing: {nodeLeaseDuration: 4, nodeMonitorPeriod: 1, nodeMonitorGracePeriod: 3}"
SINK = (
    "import socket; l=socket.create_server(('', 7009)); print('ready', flush=True)\n"
    "while True:\n c=l.accept()[0]; n=0\n while d:=c.recv(65536): n+=len(d)\n c.sendall(str(n).encode()); c.close()"
)
SEND = (
    "import socket,sys,time; s=socket.create_connection((sys.argv[1], 7009), 5); t=time.monotonic(); n=int(sys.argv[2])\n"
    "s.sendall(b'x'*n); s.shutdown(1); assert s.recv(20).decode()==str(n); print(time.monotonic()-t)"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of the pods a on node1 and b on node2; something at port 7009 of each swallows what it is sent."""
    file = tmp_path_factory.mktemp("links") / "cluster.yaml"
    file.write_text(f"nodes: [{{name: node1}}, {{name: node2, link: {{rate: 80mbit}}}}]\n{TIMING}\n")
    try:
        nsk8s("up", "-q", "-f", str(file))
        apply(*(pod(name, "busybox", "python3", "-c", SINK, nodeName=node) for name, node in (("a", "node1"), ("b", "node2"))))
        until("the pods are ready", lambda: all(pods(f"app={name}") for name in "ab"))
        for name in "ab":  # ready is before listening
            until(f"{name} listens", lambda name=name: nsk8s("logs", name, ok=False).stdout == "ready\n")
        yield {name: get(f"pod/{name}")["status"]["podIP"] for name in "ab"}
    finally:
        nsk8s("down", "-q", ok=False)


def cable(machine: str) -> dict[str, Any]:
    (found,) = [c for c in json.loads(nsk8s("link", "show", "-o", "json").stdout) if c["machine"] == machine]
    return found


def seconds(place: str, address: str, count: int) -> float:
    return float(nsk8s("enter", place, "--", "/usr/bin/python3", "-c", SEND, address, str(count)).stdout)


def events(reason: str) -> list[dict[str, Any]]:
    found = get("events", "--field-selector", f"involvedObject.kind=Node,reason={reason}")["items"]
    return [e for e in found if e["source"]["component"] == "nsk8s"]


def qdiscs(machine: str, interface: str) -> str:
    return netns(machine, "tc", "qdisc", "show", "dev", interface).stdout


def test_a_rate_holds_in_both_directions(cluster: dict[str, str]) -> None:
    for place in (("node2", "eth0"), ("switch", "node2")):
        assert "tbf 1: root refcnt" in qdiscs(*place), "cluster.yaml says so"
        assert "rate 80Mbit" in qdiscs(*place)
    nsk8s("link", "set", "node2", "--rate", "8mbit", "--burst", "16kb")
    for source, target in (("pod/a", "b"), ("pod/b", "a")):
        # A megabyte in a second: no kernel gets 300 kB through faster than this, however busy it is.
        assert seconds(source, cluster[target], 300_000) > (300_000 - 16_384) / 1e6
    found = cable("node2")
    assert found["settings"] == {"rate": "8mbit", "rateBitsPerSecond": 8_000_000, "burstBytes": 16_384, "latencyMs": 50}
    assert min(found["counters"]["rxBytes"], found["counters"]["txBytes"]) > 300_000
    assert events("LinkChanged")[0]["message"] == "Link of node2: rate 8mbit, burst 16kb"
    assert events("LinkChanged")[0]["involvedObject"]["name"] == "node2"
    assert "node2" in nsk8s("link", "show").stdout
    nsk8s("link", "set", "node2", "--rate", "none")
    assert not [q for q in (qdiscs("node2", "eth0"), qdiscs("switch", "node2")) if "tbf" in q]
    assert cable("node2")["settings"] == {}


@pytest.mark.parametrize("machine", ["client", pytest.param("router", marks=pytest.mark.slow)])
def test_the_router_and_the_client_have_cables_too(cluster: dict[str, str], machine: str) -> None:
    ping = ("ping", "-c", "1", "-W", "1", "203.0.113.10")
    assert netns("node1", *ping).returncode == 0
    assert nsk8s("link", "down", machine).stdout == f"link/{machine} is down\n"
    assert cable(machine)["state"] == "down"
    assert netns("node1", *ping).returncode != 0
    nsk8s("link", "up", machine)
    assert cable(machine)["state"] == "up"
    until(f"{machine} is back", lambda: netns("node1", *ping).returncode == 0)
    assert netns("node1", "ping", "-c", "1", "-W", "1", "192.168.56.12").returncode == 0


def ping(*words: str) -> tuple[int, int, float]:
    """From node1 to node2: how many were sent and came back, and the shortest time in ms (0 without an answer)."""
    said = netns("node1", "ping", "-n", *words, "192.168.56.12", timeout=60).stdout
    sent, back = re.search(r"(\d+) packets transmitted, (\d+) received", said).groups()  # type: ignore[union-attr]
    times = re.search(r"rtt min/avg/max/mdev = ([\d.]+)", said)
    return int(sent), int(back), float(times[1]) if times else 0.0


def dropped(machine: str, interface: str) -> int:
    """By netem, at an end of a cable."""
    (found,) = [q for q in json.loads(netns(machine, "tc", "-s", "-j", "qdisc", "show", "dev", interface).stdout) if q["kind"] == "netem"]
    return found["drops"]


def test_delay_and_loss_are_those_of_the_packets(cluster: dict[str, str]) -> None:
    if netns("client", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms").returncode:
        pytest.skip("this kernel has no netem")
    netns("client", "tc", "qdisc", "del", "dev", "lo", "root")
    ends = (("node2", "eth0"), ("switch", "node2"))
    nsk8s("link", "set", "node2", "--rate", "80mbit", "--delay", "30ms", "--jitter", "5ms")
    for place in ends:
        assert re.search(r"netem 2: root .*delay 30ms +5ms", qdiscs(*place))
        assert "tbf 1: parent 2:1" in qdiscs(*place), "the rate holds as well"
    sent, back, fastest = ping("-c", "5", "-i", "0.05")
    assert (sent, back) == (5, 5)
    assert fastest >= 2 * 25, "in each direction, less the jitter"
    nsk8s("link", "set", "node2", "--delay", "60ms", "--jitter", "none")
    assert ping("-c", "2", "-i", "0.05")[2] >= 120, "changed while packets pass"
    assert seconds("pod/a", cluster["b"], 1000) >= 0.12, "a pod's packets: what it sends, and the answer"
    nsk8s("link", "set", "node2", "--rate", "none", "--delay", "none", "--loss", "30%")
    sent, back, _ = ping("-c", "400", "-i", "0.005", "-W", "2")
    assert sent == 400
    # Half come back (0.7 there, 0.7 again), give or take six standard deviations of 10.
    assert 136 <= back <= 256
    lost = [dropped(*place) for place in ends]
    assert min(lost) >= 30, "at both ends"
    assert sum(lost) >= sent - back
    nsk8s("link", "set", "node2", "--loss", "none", "--delay", "20ms")
    assert ping("-c", "20", "-i", "0.005")[:2] == (20, 20)
    nsk8s("node", "stop", "node2")
    nsk8s("node", "start", "node2")
    assert all("delay 20ms" in qdiscs(*place) for place in ends), "a new card at the same cable"
    nsk8s("link", "set", "node2", "--delay", "none", "--rate", "80mbit")
    assert not [place for place in ends if "netem" in qdiscs(*place)]


def test_what_the_kernel_lacks_and_what_makes_no_sense_is_refused(cluster: dict[str, str]) -> None:
    before = qdiscs("node1", "eth0")
    done = nsk8s("link", "set", "node1", "--delay", "20ms", "--loss", "0%", ok=False)
    if done.returncode:
        assert done.stderr.startswith("error: this kernel cannot do netem (link delay and loss): ")
        assert "! netem (link delay and loss): " in nsk8s("doctor", ok=False).stdout
    else:
        nsk8s("link", "set", "node1", "--delay", "none", "--loss", "none")
    assert qdiscs("node1", "eth0") == before
    for words, says in (
        (("set", "node9", "--rate", "1mbit"), "no machine 'node9' has a cable in this cluster → there are control-plane, node1"),
        (("set", "node1", "--rate", "quick"), "rate: 'quick' is not like 10mbit"),
        (("set", "node1", "--burst", "1kb"), "burst makes no sense without a rate"),
        (("set", "node1"), "nothing to set"),
    ):
        done = nsk8s("link", *words, ok=False)
        assert done.returncode
        assert says in done.stderr


def test_without_offloads_a_capture_shows_what_a_wire_would_carry(cluster: dict[str, str], tmp_path: Path) -> None:
    """With them: segments of up to 64 kB and checksums that nobody has computed. The same bytes, both times."""

    def captured(folder: str) -> list[str]:
        (tmp_path / folder).mkdir()
        capture = Capture(tmp_path / folder, "pod/a", "node1", expression="tcp port 7009")
        try:
            seconds("pod/a", cluster["b"], 300_000)
            for label in ("default-a", "node1"):
                capture.until(r"Flags \[F.?\].*", label)
        finally:
            capture.stop()
        lines = []
        for label in ("default-a", "node1"):
            read = ["tcpdump", "-nn", "-t", "-vv", "-r", str(tmp_path / folder / f"c-{label}.pcap")]
            lines += subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines()
        return lines

    def largest(lines: list[str]) -> int:
        return max(int(n) for line in lines for n in re.findall(r"^IP .*length (\d+)\)", line))

    with_them = captured("on")
    assert largest(with_them) > 1500
    assert any("incorrect" in line for line in with_them)
    pids = {p["metadata"]["name"]: p["metadata"]["uid"] for p in get("pods")["items"]}
    for node in ("node1", "node2"):
        nsk8s("link", "set", node, "--offload", "off")
    without = captured("off")
    assert largest(without) == 1500
    assert not [line for line in without if "incorrect" in line]
    assert sum("(correct)" in line for line in without) > 300
    assert {p["metadata"]["name"]: p["metadata"]["uid"] for p in get("pods")["items"]} == pids, "on pods that run"
    # A pod made now has none either, at both ends of its link.
    apply(pod("c", nodeName="node1"))
    until("c is ready", lambda: pods("app=c"))
    assert "tcp-segmentation-offload: off" in nsk8s("enter", "pod/c", "--", "ethtool", "-k", "eth0").stdout
    ports = re.findall(r"(veth\w+)@", netns("node1", "ip", "-br", "link", "show", "type", "veth").stdout)
    assert len(ports) >= 2
    for interface in (*ports, "cni0", "eth0"):
        assert "tx-checksumming: off" in netns("node1", "ethtool", "-k", interface).stdout, interface
    assert cable("node1")["offload"] is False
    nsk8s("link", "set", "node1", "--offload", "on")
    assert cable("node1")["offload"] is True
    assert "tcp-segmentation-offload: on" in nsk8s("enter", "pod/c", "--", "ethtool", "-k", "eth0").stdout


def test_a_cut_cable_stays_cut_while_its_node_reboots(cluster: dict[str, str]) -> None:
    nsk8s("link", "set", "node2", "--rate", "80mbit", "--mtu", "1400")
    assert nsk8s("link", "down", "node2").stdout == "link/node2 is down\n"
    assert cable("node2")["state"] == "down"
    assert netns("node1", "ping", "-c", "1", "-W", "0.3", "192.168.56.12").returncode != 0
    (event,) = events("LinkDown")
    assert (event["type"], event["message"]) == ("Warning", "Link of node2: its port on switch was switched off")
    assert "LinkDown" in nsk8s("describe", "node", "node2").stdout
    nsk8s("node", "stop", "node2")
    assert cable("node2")["state"] == "off"
    assert nsk8s("node", "start", "node2").stdout == "node/node2 started; its link is down: nsk8s link up node2\n"
    found = cable("node2")
    assert (found["state"], found["mtu"], found["settings"]["rate"], found["offload"]) == ("down", 1400, "80mbit", False)
    assert "rate 80Mbit" in qdiscs("switch", "node2")
    nsk8s("up", "-q")  # `up` does not wait for it either, nor mend it
    assert cable("node2")["state"] == "down"
    nsk8s("link", "up", "node2")
    until("node2 is Ready", lambda: "True" in [
        c["status"] for c in get("node/node2")["status"]["conditions"] if c["type"] == "Ready"
    ])  # fmt: skip
    assert "1 received" in netns("node1", "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1372", "192.168.56.12").stdout
    assert [e["message"] for e in events("LinkUp") if e["involvedObject"]["name"] == "node2"] == [
        "Link of node2: its port on switch was switched on"
    ]


def test_up_says_that_the_control_plane_is_cut_off(cluster: dict[str, str]) -> None:
    nsk8s("link", "down", "control-plane")
    done = nsk8s("up", "-q", ok=False)
    assert done.stderr == (
        "error: the control plane's link is down: no other node reaches it → nsk8s link up control-plane\n"
    )
    nsk8s("link", "up", "control-plane")


def test_no_event_without_an_api(cluster: dict[str, str]) -> None:
    """Last: it switches the control plane off. The cable is cut all the same."""
    nsk8s("node", "stop", "control-plane")
    done = nsk8s("link", "down", "node1")
    assert done.stdout == "link/node1 is down\n"
    assert done.stderr.startswith(f"no Event was written: the control plane of cluster {NAME} is switched off")
    assert cable("node1")["state"] == "down"
