"""The pod network by its addresses: nobody inside the cluster sees another's changed, and what leaves it comes from the node.

For TCP, UDP and ICMP alike; each claim is made by the far end of a real exchange, and by the connection tracking of every
node on the way (which has an entry, so it did look).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import e2e_matrix
import pytest
from e2e_cluster import NAME, apply, get, netns, nsk8s, pod, pods, until
from e2e_matrix import PODS, PORT, Exchange, Seen

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
PEER = (Path(__file__).parent / "e2e_peer.py").read_text()
NODES = {"node1": "192.168.56.11", "node2": "192.168.56.12"}
ROUTER = "203.0.113.1"
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
        yield {**{p: get(f"pod/{p}")["status"]["podIP"] for p in PODS}, **NODES, "client": e2e_matrix.CLIENT[4]}
    finally:
        while _peers:
            server = _peers.popitem()[1]
            server.kill()
            server.communicate()
        nsk8s("down", "-q", ok=False)


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with cluster_of_peers("--nodes", "2") as found:
        places = e2e_matrix.places((4,))
        until("all know the ways", lambda: e2e_matrix.settled("routes", places, exposed=False))
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


def host(end: str) -> str:
    """The address of `10.244.1.2:40000`, `[fd00::2]:40000` or of either without a port."""
    return end[1:].partition("]")[0] if end.startswith("[") else end if end.count(":") > 1 else end.partition(":")[0]


def test_who_is_seen_as_whom(addresses: dict[str, str]) -> None:
    assert e2e_matrix.differences(ask, e2e_matrix.places((4,)), "routes", exposed=False) == []


def test_the_router_is_told_by_hand(addresses: dict[str, str]) -> None:
    assert netns("router", "ip", "route", "add", "10.244.1.0/24", "via", NODES["node1"]).returncode == 0
    try:
        for protocol in e2e_matrix.PROTOCOLS:
            exchange = Exchange("client", "a1", protocol, 4)
            assert e2e_matrix.found(ask, e2e_matrix.places((4,)), [exchange]) == {exchange: Seen("client", "client", ("node1",))}
        # Other nodes' pods stay unknown, and so does what no pod has: that the node says itself (host unreachable).
        assert ask("client", addresses["b"], "tcp")["unreachable"] == [[3, 0, ROUTER]]
        assert ask("client", "10.244.1.250", "tcp")["unreachable"] == [[3, 1, NODES["node1"]]]
    finally:
        netns("router", "ip", "route", "del", "10.244.1.0/24")
