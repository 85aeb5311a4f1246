"""Under change: a steady stream of new connections while endpoints come and go, in both modes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from proxy_world import FakeApi, World, endpoint_slice, eventually, service

pytestmark = pytest.mark.root

A, B = World.PODS["a"], World.PODS["b"]
RATE = 200
STREAM = str(Path(__file__).with_name("proxy_stream.py"))
MODES = {"nftables": ("--proxy-mode", "nftables"), "iptables": ()}


@pytest.fixture
def world() -> Iterator[World]:
    with World.answering("ab") as world:
        yield world


@pytest.fixture
def api(world: World) -> Iterator[FakeApi]:
    with world.api() as api:
        yield api


class Answer(NamedTuple):
    start: float
    took: float
    text: str
    again: int
    """How often TCP sent something again: not at all, unless a packet was lost."""


class Stream:
    """A client in node2 … or pod b, 200 connections a second."""

    def __init__(self, world: World, where: str, address: str, port: int, protocol: str = "tcp") -> None:
        self.process = world.start(
            where, sys.executable, "-S", "-u", STREAM, protocol, address, str(port), str(RATE), stdin=subprocess.PIPE
        )
        self.wait(10)

    def wait(self, count: int, since: float = 0.0) -> None:
        """Until `count` connections begun after `since` have been answered."""
        assert self.process.stdout is not None
        while count > 0:
            line = self.process.stdout.readline()
            assert line, "the stream ended"
            count -= 10 * (float(line.split()[1]) > since)

    def end(self) -> list[Answer]:
        out, _ = self.process.communicate("stop\n", timeout=60)
        return [Answer(*found) for found in json.loads(out.splitlines()[-1])]


def rules(world: World, mode: str) -> str:
    return world.sh("node", "nft list table ip kube-proxy" if mode == "nftables" else "iptables-nft-save -t nat")


def dnat(mode: str, ip: str) -> str:
    return f"dnat to {ip}:8080" if mode == "nftables" else f"--to-destination {ip}:8080"


@pytest.mark.parametrize("mode", list(MODES))
def test_no_connection_started_after_the_change_is_lost(world: World, api: FakeApi, tmp_path: Path, mode: str) -> None:
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1"), (B, "node1")))
    world.proxy(api, tmp_path, *MODES[mode])
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3)[0] in "ab")
    stream = Stream(world, "b", "10.96.0.50", 80)
    stream.wait(60)
    asked = time.monotonic()
    api.put(endpoint_slice("web", (B, "node1")))
    eventually(lambda: dnat(mode, A) not in rules(world, mode))
    changed = time.monotonic()
    # From here on the endpoint may go: whoever is sent there now would not come back.
    world.sh("a", "ip link set eth0 down")
    stream.wait(RATE, since=changed)
    answers = stream.end()
    after = [a for a in answers if a.start > changed]
    assert len(after) >= RATE
    assert {a.text.split()[0] for a in after} == {"b"}
    before = [a for a in answers if a.start + a.took < changed]
    assert {a.text.split()[0] for a in before} <= {"a", "b"}, "and those before the change were all answered"
    assert {a.text.split()[0] for a in before if a.start < asked} == {"a", "b"}


@pytest.mark.parametrize("mode", list(MODES))
def test_from_one_endpoint_to_a_hundred_and_back(world: World, api: FakeApi, tmp_path: Path, mode: str) -> None:
    """No wrong answers, no hang, at 200 connections a second."""
    many = [f"10.244.1.{i}" for i in range(100, 200)]
    world.sh("a", "; ".join(f"ip addr add {ip}/32 dev eth0" for ip in many))
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    world.proxy(api, tmp_path, *MODES[mode], "--iptables-min-sync-period", "200ms")
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3).startswith("a"))
    stream = Stream(world, "b", "10.96.0.50", 80)
    for count in (1, 10, 40, 100, 60, 20, 1):
        api.put(endpoint_slice("web", (A, "node1"), *((ip, "node1") for ip in many[: count - 1])))
        time.sleep(0.25)
    eventually(lambda: rules(world, mode).count("dnat to" if mode == "nftables" else "--to-destination") == 1)
    stream.wait(RATE)
    answers = stream.end()
    assert {a.text for a in answers} == {f"a {B}"}
    assert [a for a in answers if a.again] == [], "a packet was lost"


@pytest.mark.parametrize("mode", list(MODES))
def test_udp_clients_are_moved_off_a_removed_endpoint(world: World, api: FakeApi, tmp_path: Path, mode: str) -> None:
    """One socket that keeps sending keeps its conntrack entry: kube-proxy cuts it, over netlink."""
    api.put(service("dns", "10.96.0.53", port=53, protocol="UDP"), endpoint_slice("dns", (A, "node1"), protocol="UDP"))
    world.proxy(api, tmp_path, *MODES[mode])
    eventually(lambda: world.ask("node", "10.96.0.53", 53, udp=True, source_port=4000, timeout_s=0.3).startswith("a"))
    api.put(endpoint_slice("dns", (B, "node1"), protocol="UDP"))
    eventually(lambda: world.ask("node", "10.96.0.53", 53, udp=True, source_port=4000, timeout_s=0.3).startswith("b"))
