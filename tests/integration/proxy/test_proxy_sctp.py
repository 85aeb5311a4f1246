"""SCTP through Services, association by association: conntrack's whole account of it, and checksums. The table's flows
(test_proxy_table_kernel.py) say who reaches whom."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import raw_sctp
from proxy_world import World, endpoint_slice, eventually, service

pytestmark = pytest.mark.root

A, B, R = World.PODS["a"], World.PODS["b"], World.PODS["r"]
GATEWAY = "10.244.1.1"
VIA_NODE = "10.96.0.11"


class Entry(NamedTuple):
    """Addresses and ports of a conntrack entry, as first sent and as answered; the client's own port is X."""

    original: str
    reply: str


@pytest.fixture(scope="module", params=["nftables", "iptables"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Services own (pod a) and away (pod r, with a node port), with the same port for TCP, UDP and SCTP."""
    with World.answering("abr") as world, world.api() as api:
        for name, ip, kind, endpoint in (("own", "10.96.0.10", "ClusterIP", (A, "node1")), ("away", VIA_NODE, "NodePort", (R, "node2"))):
            made, slice_ = service(name, ip, type=kind), endpoint_slice(name, endpoint)
            node_port = {"nodePort": 30080} if kind == "NodePort" else {}
            made["spec"]["ports"] = [
                {"name": p.lower(), "port": 80, "protocol": p, "targetPort": 8080, **node_port} for p in ("TCP", "UDP", "SCTP")
            ]
            slice_["ports"] = [{"name": p["name"], "port": 8080, "protocol": p["protocol"]} for p in made["spec"]["ports"]]
            api.put(made, slice_)
        world.proxy(api, tmp_path_factory.mktemp("proxy"), "--proxy-mode", request.param)
        for where, address, port in (("b", "10.96.0.10", 80), ("b", VIA_NODE, 80), ("outside", World.NODE, 30080)):
            eventually(lambda w=where, a=address, p=port: world.ask(w, a, p).split()[0] in "ar")
        yield world


def speak(world: World, where: str, *argv: str) -> str:
    return world.sh(where, f"{sys.executable} -S {Path(raw_sctp.__file__)} {' '.join(argv)}").strip()


def story(world: World, where: str, address: str, port: int) -> tuple[str, list[str], set[Entry]]:
    """What the client heard; the states that conntrack on the node went through; the entry."""
    watch = world.start("node", "conntrack", "-E", "-p", "sctp", "-o", "timestamp")
    assert watch.stdout is not None
    eventually(lambda: "00000007" in world.sh("node", "awk '$2 == 12 {print $4}' /proc/net/netlink"))  # it is told of all changes
    answer = speak(world, where, "ask", address, str(port))
    states, entries = [], set()
    for line in watch.stdout:
        found = re.search(r"sctp +132 \d+ (\w+) src=", line)
        assert found, line
        states.append(found[1])
        ends = re.findall(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)", line)
        client = ends[0][2]
        shown = [f"{s}:{sp} > {d}:{dp}".replace(client, "X") for s, d, sp, dp in ends]
        entries.add(Entry(*shown))
        if found[1] == "CLOSED" and "ASSURED" in line:
            break
    world.stop(watch)
    return answer, states, entries


WHOLE = ["CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_ACK_SENT", "CLOSED"]


@pytest.mark.parametrize(
    ("where", "address", "port", "answer", "entry"),
    [
        ("b", "10.96.0.10", 80, f"a {B}", Entry(f"{B}:X > 10.96.0.10:80", f"{A}:8080 > {B}:X")),
        ("a", "10.96.0.10", 80, f"a {GATEWAY}", Entry(f"{A}:X > 10.96.0.10:80", f"{A}:8080 > {GATEWAY}:X")),
        ("b", VIA_NODE, 80, f"r {B}", Entry(f"{B}:X > {VIA_NODE}:80", f"{R}:8080 > {B}:X")),
        ("node", VIA_NODE, 80, f"r {World.NODE}", Entry(f"{World.NODE}:X > {VIA_NODE}:80", f"{R}:8080 > {World.NODE}:X")),
        ("outside", World.NODE, 30080, f"r {World.NODE}",
         Entry(f"{World.OUTSIDE}:X > {World.NODE}:30080", f"{R}:8080 > {World.NODE}:X")),
    ],
    ids=["pod", "hairpin", "remote", "node", "nodeport"],
)  # fmt: skip
def test_conntrack_tells_the_whole_association(
    world: World, where: str, address: str, port: int, answer: str, entry: Entry
) -> None:
    """Every chunk passed the node with its tags in order: conntrack goes through every state, on one entry. What was heard had
    the right checksum at both ends, though ports and addresses were rewritten between."""
    heard, states, entries = story(world, where, address, port)
    assert heard == answer
    assert states == WHOLE
    # Masquerading draws a port of its own; elsewhere the client keeps its own.
    masked = {Entry(e.original, re.sub(r":\d+$", ":X", e.reply)) for e in entries}
    assert masked == {entry}


def test_a_wrong_checksum_is_not_answered(world: World) -> None:
    """conntrack calls it INVALID, and no Service's rule takes it: a checksum is looked at, and not only written."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import raw_sctp; right = raw_sctp.crc32c; "
        "raw_sctp.crc32c = lambda d: right(d) ^ int(sys.argv[2]); "
        "a = raw_sctp.Association(raw_sctp.Wire(2), '10.96.0.10', 80, '', 4242 + int(sys.argv[2])); a.begin()"
    )
    for wrong in (1, 0):
        world.sh("b", f'{sys.executable} -S -c "{code}" {Path(raw_sctp.__file__).parent} {wrong}')
    assert "sport=4242 " in (seen := world.sh("node", "conntrack -L -p sctp"))
    assert "sport=4243 " not in seen


def test_the_checksum_is_castagnolis() -> None:
    assert raw_sctp.crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4
