"""The monitors that must stay silent while a cluster comes and goes do hear: in a namespace of this test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_cluster import until
from e2e_monitor import Monitor

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"e2emon{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ip link add dummy7 type bridge", "dummy7"),
        ("ip address add 192.0.2.7/24 dev lo", "192.0.2.7/24"),
        ("ip route add unreachable 198.51.100.0/24", "198.51.100.0/24"),
        ("ip rule add from 192.0.2.7 table 77", "192.0.2.7"),
        ("ip -6 route add unreachable 2001:db8::/32", "2001:db8::/32"),
        ("nft add table ip seen7", "seen7"),
        ("iptables-nft -t nat -N SEEN7", "SEEN7"),
    ],
)
def test_what_changes_is_heard(netns: str, tmp_path: Path, command: str, said: str) -> None:
    monitor = Monitor(tmp_path, ("ip", "netns", "exec", netns))
    try:
        assert monitor.heard() == []
        done = subprocess.run(["ip", "netns", "exec", netns, *command.split()], capture_output=True, text=True)
        if "-6" in command and done.returncode:
            pytest.skip("this kernel has no IPv6")
        assert done.returncode == 0, done.stderr
        until(f"{said} is heard", lambda: any(said in line for line in monitor.heard()))
    finally:
        heard = monitor.stop()
    assert any(said in line for line in heard)


def test_a_monitor_that_died_is_no_witness(netns: str, tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, ("ip", "netns", "exec", netns))
    subprocess.run(["kill", str(monitor._processes[1].pid)], check=True)
    monitor._processes[1].wait()
    with pytest.raises(AssertionError, match="ended early"):
        monitor.stop()
    monitor._processes[0].kill()
    monitor._processes[0].wait()
