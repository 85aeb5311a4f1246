"""What `up` and `doctor` find out about a machine, on machines that are not this one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nsk8s.cli.main import cli
from nsk8s.cluster import preflight
from nsk8s.config import ClusterConfig, parse
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import probe

FINE = [("namespaces", "", ""), ("overlay", "", "modprobe overlay")]


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has everything."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(probe, "which", lambda program: f"/usr/sbin/{program}")
    monkeypatch.setattr(probe, "features", lambda: FINE)
    monkeypatch.setattr(probe, "iptables_version", lambda: "v1.8.9 (nf_tables)")
    monkeypatch.setattr(preflight.Cgroups, "version", "v2", raising=False)
    monkeypatch.setattr(preflight, "STATE_ROOT", tmp_path)
    monkeypatch.setattr(preflight.mounts, "filesystem_type", lambda path: "ext4")


def test_a_machine_that_has_everything_will_do(able: None) -> None:
    preflight.require(ClusterConfig())
    assert all(c.ok for c in preflight.checks() if c.required)


def test_not_root(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Nsk8sError, match="needs root") as e:
        preflight.require(ClusterConfig())
    assert e.value.remedy == "use sudo"


def test_no_iptables(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "which", lambda program: None if "iptables" in program else f"/sbin/{program}")
    with pytest.raises(Nsk8sError, match="iptables-restore: missing") as e:
        preflight.require(ClusterConfig())
    assert e.value.remedy == "apt-get install iptables"


def test_the_variant_asked_for_must_be_there(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "which", lambda program: None if "legacy" in program else f"/sbin/{program}")
    preflight.require(ClusterConfig())
    with pytest.raises(Nsk8sError, match="iptables-legacy-restore is missing"):
        preflight.require(parse({"iptables": "legacy"}, "test"))


def test_no_network_namespaces(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "features", lambda: [("namespaces", "Operation not permitted", "a kernel with CONFIG_NET_NS")])
    with pytest.raises(Nsk8sError, match="cannot do namespaces: Operation not permitted") as e:
        preflight.require(ClusterConfig())
    assert e.value.remedy == "a kernel with CONFIG_NET_NS"


def test_a_disk_that_is_full(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1024

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(Nsk8sError, match="disk: 0 MiB free"):
        preflight.require(ClusterConfig())


def test_no_control_groups(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.Cgroups, "version", "none", raising=False)
    with pytest.raises(Nsk8sError, match="no control groups"):
        preflight.require(ClusterConfig())


@pytest.mark.parametrize(
    ("has_file", "modprobe", "code", "ok"),
    [(True, None, 1, True), (False, "/sbin/modprobe", 0, True), (False, "/sbin/modprobe", 1, False), (False, None, 0, False)],
)
def test_bridge_netfilter_may_be_a_module_that_is_not_loaded_yet(
    monkeypatch: pytest.MonkeyPatch, has_file: bool, modprobe: str | None, code: int, ok: bool
) -> None:
    """On a fresh Debian or Ubuntu it is: nothing loads it by itself."""
    asked: list[list[str]] = []

    def run(argv: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, code)

    monkeypatch.setattr(os.path, "exists", lambda path: has_file)
    monkeypatch.setattr(probe, "which", lambda program: modprobe)
    monkeypatch.setattr(probe.subprocess, "run", run)
    if ok:
        probe._bridge_netfilter()
    else:
        with pytest.raises(OSError, match="br_netfilter"):
            probe._bridge_netfilter()
    assert all("--dry-run" in argv for argv in asked), "a check loads nothing"


def test_doctor_prints_the_fix_and_fails(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "which", lambda program: None if program in ("ip", "curl") else f"/sbin/{program}")
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 1
    assert "✗ ip: missing → apt-get install iproute2\n" in done.output
    assert "! curl: missing → apt-get install curl\n" in done.output
    monkeypatch.setattr(probe, "which", lambda program: None if program == "curl" else f"/sbin/{program}")
    monkeypatch.setattr(probe, "iptables_version", lambda: "iptables v1.8.9 (legacy)")
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 0, "what is only useful does not count"
    assert "✓ iptables variant: iptables v1.8.9 (legacy)\n" in done.output


def test_doctor_knows_the_limits_of_a_big_cluster(able: None) -> None:
    found = {c.name: c for c in preflight.limits(1000, 100000)}
    few = {c.name: c for c in preflight.limits(1, 1)}
    thresh = "net.ipv4.neigh.default.gc_thresh3"
    if thresh in found:
        assert not found[thresh].ok
        assert found[thresh].fix.startswith(f"sysctl -w {thresh}=")
        assert not found[thresh].required
        assert few[thresh].ok


def test_a_port_that_is_taken() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not preflight.port_is_free(port)
        with pytest.raises(Nsk8sError, match=f"port {port} on 127.0.0.1 is in use"):
            preflight.choose_api_port(parse({"apiPort": port}, "test"), set())


def test_the_next_free_port_that_no_other_cluster_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "port_is_free", lambda port: port != 6444)
    assert preflight.choose_api_port(ClusterConfig(), {6443}) == 6445
    monkeypatch.setattr(preflight, "port_is_free", lambda port: False)
    with pytest.raises(Nsk8sError, match="no free port"):
        preflight.choose_api_port(ClusterConfig(), set())


@pytest.mark.parametrize(("entries", "full"), [("000003ff", False), ("00000400", True), ("00000407", True), ("nonsense", False)])
def test_a_full_neighbour_table_is_told(tmp_path: Path, entries: str, full: bool) -> None:
    stat, sysctl = tmp_path / "net/stat/arp_cache", tmp_path / "sys/net/ipv4/neigh/default/gc_thresh3"
    assert preflight.full_neighbour_table(tmp_path) is None, "a kernel that does not tell"
    for path, text in ((stat, f"entries  allocs\n{entries} 00000d54\n"), (sysctl, "1024\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    check = preflight.full_neighbour_table(tmp_path)
    assert (check is not None) == full
    if check is not None:
        assert f"({int(entries, 16)} of 1024 entries" in check.found
        assert "gc_thresh3=4096" in check.fix
