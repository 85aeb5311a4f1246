"""The plugins give the same bytes, exit code and kernel state whether executed, forked or called.

Random parts (MACs, the host's veth name) are replaced before comparing; everything else must be equal byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fresh_netns import new_netns

import cni
from cni import invoke, libcni
from nsk8s.kernel import syscalls, tcmsg
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.runtime.helpers import Helpers
from nsk8s.runtime.loop import Loop

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")

PLUGINS = ("bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "static", "tuning")
PATH = "/usr/sbin:/usr/bin"
NO_BUS = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"}
"""This machine's own firewalld is not to hear of any of this."""
RUNNERS = {"exec": invoke.run_exec, "fork": invoke.run_fork, "here": invoke.run_here}


class World:
    """One node and one pod, entirely fresh."""

    def __init__(self, directory: Path, how: str) -> None:
        self.how = how
        self.node, self.pod = new_netns(), new_netns()
        self.dir = directory / how
        self.dir.mkdir()
        self.seen: list[Any] = []
        self.with_rules = False
        self.node_path = f"/proc/{os.getpid()}/fd/{self.node}"
        self.loop = Loop()
        self.helpers = Helpers(self.loop, 1, {"call": self.in_helper}) if how == "kept" else None

    def in_helper(self, asked: list[Any]) -> list[Any]:
        """What the runtime's helper does: the same process for every call, in the node from the first one on."""
        path, env, stdin = asked
        fd = os.open(self.node_path, os.O_RDONLY)  # a helper has none of its maker's descriptors
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
        os.close(fd)
        code, stdout = invoke.run_here(path, env, bytes.fromhex(stdin))
        return [code, stdout.decode()]

    def ask_helper(self, path: str, env: dict[str, str], stdin: bytes) -> list[Any]:
        assert self.helpers is not None
        found: list[Any] = []

        def done(result: Any, error: Any) -> None:
            found.append(result if error is None else error)
            self.loop.stop()

        self.helpers.run("call", [path, env, stdin.hex()], done)
        self.loop.running = True
        self.loop.run()
        assert isinstance(found[0], list), found[0]
        return found[0]

    def close(self) -> None:
        if self.helpers is not None:
            self.helpers.close()
        os.close(self.node)
        os.close(self.pod)

    def in_node(self, operation: Callable[[], Any]) -> Any:
        def work() -> Any:
            syscalls.setns(self.node, syscalls.CLONE_NEWNET)
            return operation()

        return libcni.start(work).finish()

    def call(self, plugin: str, stdin: bytes, **env: str) -> tuple[int, str]:
        path = os.path.join(cni.BIN_DIR, plugin)
        full = {"PATH": PATH, "XTABLES_LOCKFILE": f"{self.dir}.lock", "CNI_PATH": cni.BIN_DIR, **NO_BUS, **env}
        full = {k: v.replace("POD", f"/proc/{os.getpid()}/fd/{self.pod}") for k, v in full.items()}

        stdin = stdin.replace(b"DIR", str(self.dir).encode())

        def run() -> list[Any]:
            code, stdout = RUNNERS[self.how](path, full, stdin)
            return [code, stdout.decode()]

        code, stdout = self.ask_helper(path, full, stdin) if self.helpers is not None else self.in_node(run)
        self.seen.append((plugin, env.get("CNI_COMMAND"), code, self.neutral(stdout), self.state()))
        return code, stdout

    def forget_random_parts(self) -> None:
        """The last call's answer is a result: names and MACs in it are replaced."""
        self.seen[-1] = (*self.seen[-1][:3], neutral_result(self.seen[-1][3]), self.seen[-1][4])

    def neutral(self, text: str) -> str:
        return text.replace(f"/proc/{os.getpid()}/fd/{self.pod}", "POD").replace(str(self.dir), "DIR")

    def state(self) -> Any:
        """Links, addresses, routes of both namespaces and the files, without random parts."""
        picture: list[Any] = []
        for fd in (self.node, self.pod):
            with Rtnl(fd) as rt:
                links = [link for link in rt.links() if not link.name.startswith("ifb")]
                names = {link.index: link.name if not link.name.startswith("veth") else "vethX" for link in links}
                picture.append(
                    sorted((names[n.index], n.kind, n.up, n.mtu, names.get(n.master), sorted(n.port.items())) for n in links)
                )
                picture.append(sorted((names[a.index], a.cidr) for a in rt.addrs(family=2) if a.index in names))
                picture.append(sorted((r.dst, r.gateway, names.get(r.index)) for r in rt.routes(2)))
                picture.append(sorted(str(tcmsg.parse_qdisc(body)[1:]) for body in rt.dump(tcmsg.qdisc_dump())))
        files = {str(p.relative_to(self.dir)): p.read_bytes() for p in self.dir.rglob("*") if p.is_file()}
        return picture, files, self.in_node(self.rules) if self.with_rules else []

    def rules(self) -> list[str]:
        """Both families' iptables, and nftables' own tables, without handles and the host's random names."""
        env = {"PATH": PATH, "XTABLES_LOCKFILE": f"{self.dir}.lock"}
        found = []
        for argv in (["iptables-save"], ["ip6tables-save"], ["nft", "list", "tables"], ["nft", "list", "ruleset", "bridge"]):
            text = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
            found += [re.sub(r"veth[0-9a-f]{8}", "vethX", line) for line in text.splitlines() if not line.startswith(("#", ":"))]
        return [re.sub(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC", line) for line in found]


def neutral_result(text: str) -> str:
    """A result with the random parts replaced, keeping the order of its keys and its spacing."""
    if not text.startswith('{"cniVersion"') or '"interfaces"' not in text:
        return text
    body = json.loads(text)
    for interface in body["interfaces"]:
        text = text.replace(interface["mac"], "MAC")
        if interface["name"].startswith("veth"):
            text = text.replace(interface["name"], "vethX")
    return text


BRIDGE = {
    "cniVersion": "1.0.0", "name": "net1", "type": "bridge", "isDefaultGateway": True, "hairpinMode": True, "mtu": 1400,
    "ipam": {"type": "host-local", "subnet": "10.244.1.0/28", "dataDir": "DIR", "routes": [{"dst": "10.0.0.0/8"}]},
}  # fmt: skip
ATTACH = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "POD", "CNI_IFNAME": "eth0"}


def conf(**changes: Any) -> bytes:
    return json.dumps({**BRIDGE, **changes}).encode()


def stdin(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def scenario(world: World) -> None:
    """One life of an attachment, and every kind of failure on the way."""
    for plugin in PLUGINS:
        world.call(plugin, b"", CNI_COMMAND="VERSION", CNI_PATH="")
        world.call(plugin, conf(), CNI_COMMAND="")
        world.call(plugin, conf(), CNI_COMMAND="JUMP", **ATTACH)
        world.call(plugin, conf(), CNI_COMMAND="ADD")
        world.call(plugin, conf(), **{**ATTACH, "CNI_COMMAND": "ADD", "CNI_IFNAME": "a/b"})
        world.call(plugin, conf(), **{**ATTACH, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "../x"})
        for stdin in (b"", b"[]", b"{", b"null", b"\xff\xfe", b'{"name": 7}', b'{"cniVersion": 1, "name": "x"}', b"[" * 9999):
            world.call(plugin, stdin, CNI_COMMAND="ADD", **ATTACH)
        for changes in ({"name": ""}, {"name": "a b"}, {"cniVersion": "9.9.9"}, {"cniVersion": "x"}):
            world.call(plugin, conf(**changes), CNI_COMMAND="ADD", **ATTACH)
        world.call(plugin, conf(cniVersion="0.3.1"), CNI_COMMAND="CHECK", **ATTACH)
        world.call(plugin, conf(), CNI_COMMAND="GC")
        world.call(plugin, conf(), CNI_COMMAND="STATUS")
        world.call(plugin, conf(cniVersion="1.1.0"), CNI_COMMAND="STATUS")
    world.call("loopback", conf(), CNI_COMMAND="ADD", **ATTACH)
    _, text = world.call("bridge", conf(), CNI_COMMAND="ADD", **ATTACH)
    world.forget_random_parts()
    with_result = conf(prevResult=json.loads(text))
    world.call("bridge", conf(), CNI_COMMAND="ADD", **ATTACH)
    world.call("bridge", conf(), CNI_COMMAND="CHECK", **ATTACH)
    world.call("bridge", with_result, CNI_COMMAND="CHECK", **ATTACH)
    world.call("bridge", conf(ipam={"type": "nowhere"}), **{**ATTACH, "CNI_COMMAND": "ADD", "CNI_IFNAME": "eth1"})
    world.call("bridge", conf(), **{**ATTACH, "CNI_COMMAND": "ADD", "CNI_IFNAME": "eth1", "CNI_ARGS": "A=B"})
    world.call("bridge", conf(mtu="big"), **{**ATTACH, "CNI_COMMAND": "ADD", "CNI_IFNAME": "eth1"})
    world.call("bridge", conf(), **{**ATTACH, "CNI_COMMAND": "ADD", "CNI_NETNS": "/run/netns/none"})
    world.call("bridge", with_result, CNI_COMMAND="DEL", **ATTACH)
    world.call("bridge", conf(), CNI_COMMAND="DEL", **ATTACH)
    world.call("bridge", conf(), **{**ATTACH, "CNI_COMMAND": "DEL", "CNI_NETNS": ""})
    world.call("loopback", conf(), CNI_COMMAND="DEL", **ATTACH)


def chain(world: World) -> None:
    """A list of every plugin that can be in one, through its life; then ptp with static."""
    world.with_rules = True
    rich = {"ipMasq": True, "macspoofchk": True, "cniVersion": "1.1.0"}
    _, text = world.call("bridge", conf(**rich), CNI_COMMAND="ADD", **ATTACH)
    world.forget_random_parts()
    chained = {
        "tuning": {"mtu": 1300, "txQLen": 77, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "dataDir": "DIR/tuning"},
        "bandwidth": {"ingressRate": 8000000, "ingressBurst": 80000, "egressRate": 8000000, "egressBurst": 80000},
        "firewall": {"ingressPolicy": "same-bridge", "dataDir": "DIR/firewall"},
        "portmap": {
            "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        },
    }  # fmt: skip
    base = {"cniVersion": "1.1.0", "name": "net1"}
    for plugin, own in chained.items():
        _, text = world.call(plugin, stdin({**base, **own, "prevResult": json.loads(text)}), CNI_COMMAND="ADD", **ATTACH)
        world.forget_random_parts()
    result = json.loads(text)
    world.call("bridge", conf(**rich, mtu=1300, prevResult=result), CNI_COMMAND="CHECK", **ATTACH)
    for plugin, own in chained.items():
        world.call(plugin, stdin({**base, **own, "prevResult": result}), CNI_COMMAND="CHECK", **ATTACH)
        world.call(plugin, stdin({**base, **own}), CNI_COMMAND="ADD", **ATTACH)
        world.call(plugin, stdin({**base, **own}), CNI_COMMAND="STATUS")
    for plugin, own in reversed(chained.items()):
        for _ in range(2):
            world.call(plugin, stdin({**base, **own, "prevResult": result}), CNI_COMMAND="DEL", **ATTACH)
        world.call(plugin, stdin({**base, **own, "cni.dev/valid-attachments": []}), CNI_COMMAND="GC")
    for _ in range(2):
        world.call("bridge", conf(**rich), CNI_COMMAND="DEL", **ATTACH)
    static = {"type": "static", "addresses": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}]}
    _, text = world.call("ptp", conf(ipam=static, ipMasq=True), CNI_COMMAND="ADD", **ATTACH)
    world.forget_random_parts()
    world.call("ptp", conf(ipam=static, ipMasq=True, prevResult=json.loads(text)), CNI_COMMAND="CHECK", **ATTACH)
    world.call("ptp", conf(ipam=static, ipMasq=True), CNI_COMMAND="DEL", **ATTACH)


@pytest.mark.parametrize("life", [scenario, chain])
def test_exec_fork_call_and_helper_cannot_be_told_apart(tmp_path: Path, life: Callable[[World], None]) -> None:
    pictures = {}
    ways = (*RUNNERS, "kept") if life is chain else tuple(RUNNERS)
    for how in ways:
        world = World(tmp_path, how)
        try:
            life(world)
        finally:
            world.close()
        pictures[how] = world.seen
    for how in ways[1:]:
        for executed, other in zip(pictures["exec"], pictures[how], strict=True):
            if executed[1] == "" and executed[2] == 0:
                continue  # without CNI_COMMAND the executable prints its usage; a runtime always sets it
            assert other == executed
    codes = [entry[2] for entry in pictures["exec"]]
    assert set(codes) == {0, 1}
    if life is chain:
        failed = [entry[:3] for entry in pictures["exec"] if entry[2] and entry[1] != "ADD"]
        assert failed == []


def test_a_file_that_is_not_ours_is_executed(tmp_path: Path) -> None:
    plugin = tmp_path / "bridge"
    plugin.write_text('#!/bin/sh\necho "{\\"code\\": 123, \\"msg\\": \\"$CNI_COMMAND $(cat)\\"}"\nexit 1\n')
    plugin.chmod(0o755)
    for run in RUNNERS.values():
        code, stdout = run(str(plugin), {"CNI_COMMAND": "ADD", "PATH": "/usr/bin:/bin"}, b"stdin")
        assert (code, json.loads(stdout)) == (1, {"code": 123, "msg": "ADD stdin"})


def test_another_host_local_on_the_path_is_used_by_the_forked_bridge(tmp_path: Path) -> None:
    ipam = tmp_path / "host-local"
    ipam.write_text('#!/bin/sh\necho \'{"code": 77, "msg": "not that one"}\'\nexit 1\n')
    ipam.chmod(0o755)
    for how in RUNNERS:
        world = World(tmp_path, how)
        code, stdout = world.call("bridge", conf(), CNI_COMMAND="ADD", **{**ATTACH, "CNI_PATH": f"{tmp_path}:{cni.BIN_DIR}"})
        assert (code, json.loads(stdout)) == (1, {"code": 77, "msg": "not that one"})
        world.close()


def test_own_files_are_recognised_by_inode(tmp_path: Path) -> None:
    for name in PLUGINS:
        link = tmp_path / name
        link.symlink_to(os.path.join(cni.BIN_DIR, name))
        assert invoke.own_main(str(link)) is not None
        copy = tmp_path / "copy" / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(Path(cni.BIN_DIR, name).read_bytes())
        assert invoke.own_main(str(copy)) is None
        cni.install(str(tmp_path / "installed"))
        assert invoke.own_main(str(tmp_path / "installed" / name)) is not None


def test_all_ours(tmp_path: Path) -> None:
    def network(*plugins: dict[str, Any]) -> libcni.NetworkList:
        return libcni.parse_list(json.dumps({"name": "n", "plugins": plugins}).encode())

    ours = {"type": "bridge", "ipam": {"type": "host-local"}}
    assert libcni.all_ours(network(ours, {"type": "loopback"}), cni.BIN_DIR)
    assert not libcni.all_ours(network(ours, {"type": "portmap"}), cni.BIN_DIR)
    for more in ({**ours, "ipMasq": True}, {**ours, "macspoofchk": True}, {"type": "firewall"}):
        assert not libcni.all_ours(network(ours, more), cni.BIN_DIR)  # these run iptables or nft
    ports = network(ours, {"type": "portmap"})
    assert libcni.all_ours(ports, cni.BIN_DIR, {})
    assert not libcni.all_ours(ports, cni.BIN_DIR, {"portMappings": [{"hostPort": 1}]})
    assert libcni.all_ours(network(ours, {"type": "tuning"}, {"type": "bandwidth"}), cni.BIN_DIR)
    (tmp_path / "host-local").touch()
    assert not libcni.all_ours(network(ours), f"{tmp_path}:{cni.BIN_DIR}")
