"""host-local on a real folder: the real plugin's files, round robin, requests, and both plugins on one folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cni
from cni import invoke
from cni.host_local import main

Failure = Callable[[Callable[[], Any]], Any]

DEBIAN = Path("/usr/lib/cni/host-local")


class Ipam:
    """host-local on a folder: it needs no namespace and no root."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.plugin: str = ""

    def conf(self, version: str = "1.0.0", top: dict[str, Any] | None = None, **ipam: Any) -> dict[str, Any]:
        section = {"type": "host-local", "dataDir": str(self.dir), **ipam}
        return {"cniVersion": version, "name": "net1", "type": "bridge", "ipam": section, **(top or {})}

    def call(self, command: str, conf: dict[str, Any], container_id: str, ifname: str = "eth0", args: str = "") -> Any:
        env = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container_id, "CNI_NETNS": "/run/netns/none", "CNI_IFNAME": ifname,
            "CNI_PATH": cni.BIN_DIR, "CNI_ARGS": args,
        }  # fmt: skip
        stdin = json.dumps(conf).encode()
        answer = invoke.spawn([self.plugin], env, stdin) if self.plugin else main(env, stdin)
        text = invoke.outcome(*answer)
        return json.loads(text) if text else None

    def add(self, conf: dict[str, Any], container_id: str, ifname: str = "eth0", args: str = "") -> list[str]:
        return [ip["address"] for ip in self.call("ADD", conf, container_id, ifname, args)["ips"]]

    def files(self) -> dict[str, bytes]:
        return {f.name: f.read_bytes() for f in (self.dir / "net1").iterdir()}


@pytest.fixture
def ipam(tmp_path: Path) -> Ipam:
    return Ipam(tmp_path)


def test_files_are_the_real_plugins(ipam: Ipam) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24", routes=[{"dst": "0.0.0.0/0"}])
    result = ipam.call("ADD", conf, "c1")
    assert result == {
        "cniVersion": "1.0.0", "ips": [{"address": "10.1.2.2/24", "gateway": "10.1.2.1"}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {},
    }  # fmt: skip
    assert ipam.files() == {"10.1.2.2": b"c1\r\neth0", "last_reserved_ip.0": b"10.1.2.2", "lock": b""}
    ipam.call("CHECK", conf, "c1")
    ipam.call("DEL", conf, "c1")
    assert ipam.files() == {"last_reserved_ip.0": b"10.1.2.2", "lock": b""}
    ipam.call("DEL", conf, "c1")


def test_a_freed_address_comes_back_only_after_a_full_round(ipam: Ipam) -> None:
    conf = ipam.conf(subnet="10.1.2.0/29")
    seen = []
    for i in range(8):
        seen += ipam.add(conf, f"c{i}")
        ipam.call("DEL", conf, f"c{i}")
    assert [a.split("/")[0].rpartition(".")[2] for a in seen] == ["2", "3", "4", "5", "6", "2", "3", "4"]


def test_a_full_pool(ipam: Ipam, failure: Failure) -> None:
    conf = ipam.conf(subnet="10.1.2.0/29")
    for i in range(5):
        ipam.add(conf, f"c{i}")
    error = failure(lambda: ipam.add(conf, "one-more"))
    assert error.msg == "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.6"
    ipam.call("DEL", conf, "c3")
    assert ipam.add(conf, "one-more") == ["10.1.2.5/29"]


def test_garbage_in_last_reserved_is_ignored(ipam: Ipam) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24")
    ipam.add(conf, "c1")
    for text in ("", "hello", "192.168.0.7", "\x00\xff"):
        (ipam.dir / "net1/last_reserved_ip.0").write_text(text)
        ipam.add(conf, f"c{len(text)}x")
    assert sorted(n for n in ipam.files() if n.startswith("10.")) == ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]


def test_interfaces_of_one_container_are_apart(ipam: Ipam) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24")
    ipam.add(conf, "c1", "eth0")
    ipam.add(conf, "c1", "eth1")
    ipam.call("DEL", conf, "c1", "eth0")
    assert ipam.files()["10.1.2.3"] == b"c1\r\neth1"
    assert "10.1.2.2" not in ipam.files()


def test_old_format_is_released(ipam: Ipam) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24")
    ipam.add(conf, "c1")
    (ipam.dir / "net1/10.1.2.2").write_text("c1")
    ipam.call("CHECK", conf, "c1")
    ipam.call("DEL", conf, "c1")
    assert "10.1.2.2" not in ipam.files()


def test_duplicate_is_refused_and_keeps_its_address(ipam: Ipam, failure: Failure) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24")
    ipam.add(conf, "c1")
    assert "duplicate allocation is not allowed" in failure(lambda: ipam.add(conf, "c1")).msg
    assert ipam.files()["10.1.2.2"] == b"c1\r\neth0"


def test_requests_from_all_three_places_add_up(ipam: Ipam) -> None:
    sets = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00::/64"}]]
    top = {"args": {"cni": {"ips": ["10.2.0.9/16"]}}, "runtimeConfig": {"IPs": ["fd00:0:0:0::00Aa"]}}
    addresses = ipam.add(ipam.conf(top=top, ranges=sets), "c1", args="IgnoreUnknown=true;X=1;IP=10.1.0.7")
    assert addresses == ["10.1.0.7/24", "10.2.0.9/24", "fd00::aa/64"]
    assert "fd00::aa" in ipam.files()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("10.1.2.1", "requested ip 10.1.2.1 is subnet's gateway"),
        ("10.9.9.9", "failed to allocate all requested IPs: 10.9.9.9"),
        ("10.1.2.5", "requested IP address 10.1.2.5 is not available in range set 10.1.2.1-10.1.2.254"),
        ("010.1.2.5", "cannot understand"),
        ("hello", "cannot understand"),
    ],
)
def test_bad_requests_leave_nothing(ipam: Ipam, failure: Failure, asked: str, words: str) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24")
    ipam.add(conf, "holder", args="IP=10.1.2.5")
    assert words in failure(lambda: ipam.add(conf, "c1", args=f"IP={asked}")).msg
    assert sorted(n for n in ipam.files() if n.startswith("10.")) == ["10.1.2.5"]


def test_a_failed_second_set_gives_the_first_back_and_nothing_older(ipam: Ipam, failure: Failure) -> None:
    conf = ipam.conf(ranges=[[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/30"}]])
    ipam.add(conf, "holder")
    failure(lambda: ipam.add(conf, "c1"))
    assert sorted(n for n in ipam.files() if n.startswith("10.")) == ["10.1.2.2", "10.3.0.2"]


def test_an_empty_file_of_a_killed_writer_is_taken_over(ipam: Ipam) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24")
    (ipam.dir / "net1").mkdir()
    (ipam.dir / "net1/10.1.2.2").touch()
    assert ipam.add(conf, "c1") == ["10.1.2.2/24"]


def test_del_clears_up_after_killed_writers(ipam: Ipam) -> None:
    conf = ipam.conf(subnet="10.1.2.0/24")
    ipam.add(conf, "other")
    for name, text in ((".4711", ""), (".4712", "c1\r\neth0"), ("10.1.2.77", "")):
        (ipam.dir / "net1" / name).write_text(text)
    ipam.call("DEL", conf, "c1")
    assert sorted(ipam.files()) == ["10.1.2.2", "last_reserved_ip.0", "lock"]


def test_resolv_conf(ipam: Ipam) -> None:
    path = ipam.dir / "resolv.conf"
    path.write_text("# c\n; d\nnameserver 10.96.0.10\nnameserver\nsearch a.b c.d\noptions ndots:5\ndomain x.y\n")
    result = ipam.call("ADD", ipam.conf(subnet="10.1.2.0/24", resolvConf=str(path)), "c1")
    assert result["dns"] == {
        "nameservers": ["10.96.0.10"], "search": ["a.b", "c.d"], "options": ["ndots:5"], "domain": "x.y",
    }  # fmt: skip


def test_parallel_processes_never_share_an_address(ipam: Ipam) -> None:
    conf = json.dumps(ipam.conf(subnet="10.1.2.0/24")).encode()
    pids = []
    for i in range(32):
        pid = os.fork()
        if pid == 0:
            env = {
                "CNI_COMMAND": "ADD", "CNI_CONTAINERID": f"c{i}", "CNI_NETNS": "x", "CNI_IFNAME": "eth0", "CNI_PATH": "/",
            }  # fmt: skip
            os._exit(main(env, conf)[0])
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 32
    held = {n: c for n, c in ipam.files().items() if n.startswith("10.")}
    assert sorted(held.values()) == sorted(f"c{i}\r\neth0".encode() for i in range(32))


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's containernetworking-plugins is not installed")
def test_ours_and_debians_take_turns_on_one_folder(ipam: Ipam) -> None:
    sets = [[{"subnet": "10.1.2.0/28", "rangeStart": "10.1.2.4"}], [{"subnet": "fd00:1::/64", "gateway": "fd00:1::3"}]]
    conf = ipam.conf(ranges=sets)
    other = Ipam(ipam.dir.parent / "alone")
    other.plugin = str(DEBIAN)
    alone = other.conf(ranges=sets)
    for i in range(14):
        ipam.plugin = str(DEBIAN) if i % 2 else ""
        assert ipam.add(conf, f"c{i}") == other.add(alone, f"c{i}")
        if i % 3 == 0 or i > 8:
            ipam.plugin = "" if i % 2 else str(DEBIAN)
            ipam.call("DEL", conf, f"c{i}")
            other.call("DEL", alone, f"c{i}")
    assert ipam.files() == other.files()
    ipam.plugin = str(DEBIAN)
    ipam.call("CHECK", conf, "c1")
    shutil.rmtree(other.dir)


def test_the_executable_needs_nothing_of_its_environment(ipam: Ipam) -> None:
    env = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "x", "CNI_IFNAME": "eth0", "CNI_PATH": "/",
        "PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "LC_ALL": "C",
    }  # fmt: skip
    conf = json.dumps(ipam.conf(subnet="10.1.2.0/24")).encode()
    plugin = os.path.join(cni.BIN_DIR, "host-local")
    done = subprocess.run([plugin], input=conf, env=env, cwd="/", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["ips"][0]["address"] == "10.1.2.2/24"
