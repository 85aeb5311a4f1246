"""The pod network by its addresses: nobody inside the cluster sees another's changed, and what leaves it comes from the node.

For TCP, UDP and ICMP alike; each claim is made by the far end of a real exchange, and by the connection tracking of every
node on the way (which has an entry, so it did look).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import NAME, apply, get, netns, nsk8s, pod, pods, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
PEER = (Path(__file__).parent / "e2e_peer.py").read_text()
PORT = 7007
PODS = {"a1": "node1", "a2": "node1", "b": "node2"}
NODES = {"node1": "192.168.56.11", "node2": "192.168.56.12"}
CLIENT, ROUTER = "203.0.113.10", "203.0.113.1"
PROTOCOLS = ("tcp", "udp", "icmp")
_peers: dict[str, subprocess.Popen[str]] = {}


@contextlib.contextmanager
def cluster_of_peers(*options: str, families: tuple[str, ...] = ("4",)) -> Iterator[dict[str, str]]:
    """`up OPTIONS`, with pods a1 and a2 on node1 and b on node2; a server in each, on these nodes, and on the outside client.

    Yields their IPv4 addresses by name; the cluster is taken down.
    """
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", *options)
        apply(*(pod(name, nodeName=node) for name, node in PODS.items()))
        until("the pods are ready", lambda: all(pods(f"app={name}") for name in PODS))
        for place in (*(f"pod/{p}" for p in PODS), *(f"node/{n}" for n in NODES), "client"):
            words = ["enter", place, "--", "/usr/bin/python3", "-c", PEER, "serve", str(PORT), *families]
            environment = {**os.environ, "NSK8S_CLUSTER": NAME}
            argv = [sys.executable, "-m", "nsk8s.cli.main", *words]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            _peers[place.partition("/")[2] or place] = subprocess.Popen(argv, env=environment, **pipes)  # type: ignore[call-overload]
        for server in _peers.values():
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        yield {**{p: get(f"pod/{p}")["status"]["podIP"] for p in PODS}, **NODES, "client": CLIENT}
    finally:
        while _peers:
            server = _peers.popitem()[1]
            server.kill()
            server.communicate()
        nsk8s("down", "-q", ok=False)


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with cluster_of_peers("--nodes", "2") as found:
        yield found


def ask(source: str, host: str, *protocols: str) -> dict[str, Any]:
    """What the peer at `source` (a pod, a node, the client) finds when it asks the one at `host`."""
    peer = _peers[source]
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write(" ".join([host, str(PORT), *protocols]) + "\n")
    peer.stdin.flush()
    found: dict[str, Any] = json.loads(peer.stdout.readline())
    return found


def tracked(node: str, protocol: str, source: str, target: str) -> list[tuple[str, str, str, str]]:
    """(src, dst, reply src, reply dst) of the node's connection tracking entries between two addresses."""
    family = ["-f", "ipv6"] if ":" in source else []
    name = "icmpv6" if family and protocol == "icmp" else protocol
    out = netns(node, "conntrack", "-L", *family, "-p", name, "-s", source, "-d", target).stdout
    return [tuple(re.findall(r"(?:src|dst)=(\S+)", line)) for line in out.splitlines()]  # type: ignore[misc]


def host(end: str) -> str:
    """The address of `10.244.1.2:40000`, `[fd00::2]:40000` or of either without a port."""
    return end[1:].partition("]")[0] if end.startswith("[") else end if end.count(":") > 1 else end.partition(":")[0]


def home(place: str) -> str:
    return PODS.get(place, place)


PAIRS = [
    ("a2", "a1"), ("b", "a1"), ("node1", "a1"), ("node2", "a1"),  # to a pod: same node, other node, its node, another node
    ("a1", "b"), ("a1", "node1"), ("a1", "node2"), ("node1", "node2"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_no_address_changes_inside_the_cluster(addresses: dict[str, str], source: str, target: str) -> None:
    found = ask(source, addresses[target])
    for protocol in PROTOCOLS:
        own, seen = found[protocol]
        assert seen == own, protocol
        ip = host(own)
        if source in PODS:
            assert ip == addresses[source]
        for node in {home(source), home(target)}:
            assert (ip, addresses[target], addresses[target], ip) in tracked(node, protocol, ip, addresses[target]), (node, protocol)
    assert found["unreachable"] == []


@pytest.mark.parametrize("source", ["a1", "b"])
def test_a_pod_is_seen_outside_as_its_node(addresses: dict[str, str], source: str) -> None:
    found = ask(source, CLIENT)
    node = home(source)
    for protocol in PROTOCOLS:
        own, seen = (a.partition(":")[0] for a in found[protocol])
        assert (own, seen) == (addresses[source], NODES[node]), protocol
        assert (own, CLIENT, CLIENT, NODES[node]) in tracked(node, protocol, own, CLIENT), protocol


def test_a_node_is_seen_outside_as_itself(addresses: dict[str, str]) -> None:
    found = ask("node1", CLIENT)
    assert all(found[p][0] == found[p][1] for p in PROTOCOLS)


def test_the_router_knows_no_pods_until_it_is_told(addresses: dict[str, str]) -> None:
    found = ask("client", addresses["a1"])
    # The route is missing at the router: type 3, code 0 (net unreachable), and the client's sockets say so.
    assert found == {"tcp": "ENETUNREACH", "udp": "ENETUNREACH", "icmp": "ENETUNREACH", "unreachable": [[3, 0, ROUTER]]}
    assert netns("router", "ip", "route", "add", "10.244.1.0/24", "via", NODES["node1"]).returncode == 0
    try:
        found = ask("client", addresses["a1"])
        for protocol in PROTOCOLS:
            own, seen = found[protocol]
            assert seen == own, protocol
            assert (CLIENT, addresses["a1"], addresses["a1"], CLIENT) in tracked("node1", protocol, CLIENT, addresses["a1"])
        # Other nodes' pods stay unknown, and so does what no pod has: that the node says itself (host unreachable).
        assert ask("client", addresses["b"])["unreachable"] == [[3, 0, ROUTER]]
        assert ask("client", "10.244.1.250", "tcp")["unreachable"] == [[3, 1, NODES["node1"]]]
    finally:
        netns("router", "ip", "route", "del", "10.244.1.0/24")
