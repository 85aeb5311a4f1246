"""With a crowded ARP table the node and a new pod know each other without ARP, and forget each other again."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsk8s.kernel import machine
from nsk8s.runtime import neighbours

pytestmark = pytest.mark.root


def ip(netns: str, *words: str) -> Any:
    done = subprocess.run(["ip", "-j", "-n", netns, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def mac(netns: str, device: str) -> str:
    return str(ip(netns, "link", "show", device)[0]["address"])


@pytest.fixture
def link() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(node, pod, CNI result) of a bridge with one pod on it, made by hand."""
    mark = uuid.uuid4().hex[:8]
    node, pod = f"tnode{mark}", f"tpod{mark}"
    try:
        for name in (node, pod):
            subprocess.run(["ip", "netns", "add", name], check=True)
        ip(node, "link", "add", "cni0", "type", "bridge")
        ip(node, "link", "add", "veth1", "type", "veth", "peer", "name", "eth0", "netns", pod)
        ip(node, "link", "set", "veth1", "master", "cni0", "up")
        ip(node, "addr", "add", "10.77.0.1/24", "dev", "cni0")
        ip(node, "addr", "add", "fd77::1/64", "dev", "cni0", "nodad")
        ip(node, "link", "set", "cni0", "up")
        ip(pod, "addr", "add", "10.77.0.2/24", "dev", "eth0")
        ip(pod, "addr", "add", "fd77::2/64", "dev", "eth0", "nodad")
        ip(pod, "link", "set", "eth0", "up")
        result = {
            "interfaces": [
                {"name": "cni0", "mac": mac(node, "cni0")},
                {"name": "eth0", "mac": mac(pod, "eth0"), "sandbox": f"/run/netns/{pod}"},
            ],
            "ips": [
                {"address": "10.77.0.2/24", "gateway": "10.77.0.1", "interface": 1},
                {"address": "fd77::2/64", "gateway": "fd77::1", "interface": 1},
            ],
        }
        yield node, pod, result
    finally:
        for name in (node, pod):
            subprocess.run(["ip", "netns", "del", name], check=False)


def entries(netns: str, *, ipv6: bool = False) -> list[tuple[str, str, list[str]]]:
    found = [(n["dst"], n.get("lladdr", ""), n["state"]) for n in ip(netns, "neigh", "show")]
    return [n for n in found if (":" in n[0]) == ipv6 and not n[0].startswith("fe80:")]


def test_a_crowded_table_is_spared(
    link: tuple[str, str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, pod, result = link
    statistics, statistics6 = tmp_path / "arp_cache", tmp_path / "ndisc_cache"
    monkeypatch.setattr(neighbours, "STATISTICS", {False: str(statistics), True: str(statistics6)})
    statistics6.write_text("entries\n00000040 0\n")
    with machine.inside(machine.netns_path(node)):
        statistics.write_text("entries\n00000040 0\n")
        neighbours.pin_when_crowded(f"/run/netns/{pod}", result, "eth0")
        assert entries(node) == entries(pod) == []  # room enough: ARP's business

        statistics.write_text("entries\n00000300 0\n")
        neighbours.pin_when_crowded(f"/run/netns/{pod}", result, "eth0")
    assert entries(node) == [("10.77.0.2", mac(pod, "eth0"), ["PERMANENT"])]
    assert entries(pod) == [("10.77.0.1", mac(node, "cni0"), ["PERMANENT"])]
    assert entries(node, ipv6=True) == entries(pod, ipv6=True) == []  # its own table has room
    asked = subprocess.run(
        ["ip", "netns", "exec", node, "bash", "-c", "exec 3<>/dev/tcp/10.77.0.2/9"], capture_output=True, text=True, check=False
    )
    assert "Connection refused" in asked.stderr  # there and back
    assert entries(node)[0][2] == ["PERMANENT"]

    with machine.inside(machine.netns_path(node)):
        statistics6.write_text("entries\n00000300 0\n")
        neighbours.pin_when_crowded(f"/run/netns/{pod}", result, "eth0")
        assert entries(node, ipv6=True) == [("fd77::2", mac(pod, "eth0"), ["PERMANENT"])]
        assert entries(pod, ipv6=True) == [("fd77::1", mac(node, "cni0"), ["PERMANENT"])]

        neighbours.unpin(result, "eth0")
        assert entries(node) == entries(node, ipv6=True) == []
        neighbours.unpin(result, "eth0")  # again: nothing to forget
