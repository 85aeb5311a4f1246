"""A machine or cable that a killed `up` left half made is completed by the next one; what is complete is not touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from nsk8s.cluster import machines
from nsk8s.cluster.state import Paths, Record
from nsk8s.config import ClusterConfig
from nsk8s.kernel import machine, modules
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.net.topology import infrastructure, netns_name

pytestmark = pytest.mark.root


@pytest.fixture
def config() -> Iterator[ClusterConfig]:
    families = {"ipFamilies": ["IPv4", "IPv6"]}
    config = ClusterConfig.model_validate({"name": f"h{os.getpid() % 100000}", "network": families})
    found = infrastructure(config)[0]
    modules.load_missing()  # as `up` does
    try:
        for m in found:
            subprocess.run(["ip", "netns", "add", m.netns], check=True)
            with machine.inside(machine.netns_path(m.netns)):
                machine.write_sysctls(m.sysctls)
        yield config
    finally:
        for m in found:
            subprocess.run(["ip", "netns", "del", m.netns], check=False)


def ip(netns: str, *words: str) -> str:
    return subprocess.run(["ip", "-br", "-n", netns, *words], capture_output=True, text=True, check=True).stdout


def complete(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `up` does about machines that exist."""
    monkeypatch.setattr(machines, "is_up", lambda paths, record, m: True)
    found, cables = infrastructure(config)
    for m in found:
        machines.make(Paths(config.name), Record(boot="test"), m)
    for cable in cables:
        machines.connect(config, cable)
    for m in found:
        machines.route_out(m)


def shape(config: ClusterConfig) -> list[list[str]]:
    """Addresses and routes of every machine but link-local ones."""
    found = []
    for m in infrastructure(config)[0]:
        for family in ("-4", "-6"):
            addresses = [line.split() for line in ip(m.netns, family, "addr").splitlines()]
            held = [[w for w in words[2:] if not w.startswith("fe80:")] for words in addresses]
            found.append([f"{words[0].split('@')[0]} {' '.join(sorted(own))}" for words, own in zip(addresses, held, strict=True) if own])
            found.append(sorted(line for line in ip(m.netns, family, "route").splitlines() if not line.startswith("fe80:")))
    return found


def test_every_half_made_state_is_completed(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(config, monkeypatch)
    whole = shape(config)
    _, cables = infrastructure(config)
    switch = netns_name(config, "switch")
    for cable in cables:
        for port in (cable.a, cable.b):
            for address in port.addresses:  # killed before it got its address
                ip(netns_name(config, port.machine), "addr", "del", address, "dev", port.name)
            if port.master:  # killed before it was plugged into the bridge
                ip(switch, "link", "set", port.name, "nomaster")
                ip(switch, "link", "set", port.name, "down")
    complete(config, monkeypatch)
    assert shape(config) == whole

    ip(switch, "link", "del", "lan0")  # killed before the bridge
    complete(config, monkeypatch)
    assert " UP " in ip(switch, "link", "show", "lan0")
    plugged = [p for c in cables for p in (c.a, c.b) if p.master]
    assert plugged
    assert all("lan0" in subprocess.run(
        ["ip", "-n", switch, "link", "show", p.name], capture_output=True, text=True, check=True).stdout for p in plugged)  # fmt: skip


def test_a_port_that_somebody_took_down_stays_down(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(config, monkeypatch)
    port = next(p for c in infrastructure(config)[1] for p in (c.a, c.b) if p.addresses)
    ip(netns_name(config, port.machine), "link", "set", port.name, "down")
    cables = infrastructure(config)[1]
    for cable in cables:
        machines.connect(config, cable)
    fd = os.open(f"/run/netns/{netns_name(config, port.machine)}", os.O_RDONLY)
    try:
        with Rtnl(fd) as netlink:
            link = netlink.link_get(port.name)
            assert link is not None
            assert not link.flags & 1
    finally:
        os.close(fd)
