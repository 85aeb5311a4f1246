"""Our plugins against the real ones (Debian's containernetworking-plugins): same result, same kernel state, either removes
what the other made.

MACs and the host's random interface names are replaced before comparing; chains are compared rule by rule.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cni_node import Node

import cni
from cni import libcni
from nsk8s.kernel import tcmsg
from nsk8s.kernel.rtnl import Rtnl

THEIRS = "/usr/lib/cni"
MAKERS = {"ours": cni.BIN_DIR, "theirs": THEIRS}

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
    pytest.mark.skipif(not os.path.exists(f"{THEIRS}/bridge"), reason="Debian's containernetworking-plugins is not installed"),
]

HOST_LOCAL = {"type": "host-local", "subnet": "10.244.1.0/24", "dataDir": "DIR/ipam", "routes": [{"dst": "10.9.0.0/16", "gw": "10.244.1.1"}]}
DUAL = {
    "type": "host-local", "dataDir": "DIR/ipam",
    "ranges": [[{"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.20"}], [{"subnet": "fd00:10:244:1::/64"}]],
}  # fmt: skip
STATIC = {
    "type": "static", "addresses": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}], "routes": [{"dst": "192.0.2.0/24", "gw": "10.7.0.1"}],
    "dns": {"nameservers": ["10.1.1.1"], "search": ["example"]},
}  # fmt: skip
BRIDGE = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipam": HOST_LOCAL}
PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "127.0.0.1"},
]
LIMITS = {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 4_000_000, "egressBurst": 80_000}
TUNING = {"type": "tuning", "dataDir": "DIR/tuning", "mtu": 1300, "promisc": True, "sysctl": {"net.core.somaxconn": "500"}}

SCENARIOS: dict[str, list[dict[str, Any]]] = {
    "bridge": [BRIDGE],
    "bridge options": [{**BRIDGE, "isDefaultGateway": False, "isGateway": True, "hairpinMode": True, "mtu": 1400}],
    "bridge without gateway": [{**BRIDGE, "isDefaultGateway": False, "promiscMode": True}],
    "bridge without ipam": [{"type": "bridge", "bridge": "br7"}],
    "bridge masquerade": [{**BRIDGE, "ipMasq": True}],
    "bridge dual-stack masquerade": [{**BRIDGE, "ipMasq": True, "ipam": DUAL}],
    "bridge static dns": [{**BRIDGE, "ipam": STATIC, "dns": {"domain": "example", "options": ["ndots:5"]}}],
    "bridge macspoofchk": [{**BRIDGE, "macspoofchk": True}],
    "ptp": [{"type": "ptp", "ipam": HOST_LOCAL, "mtu": 1400, "ipMasq": True}],
    "ptp static": [{"type": "ptp", "ipam": STATIC}],
    "portmap": [BRIDGE, {"type": "portmap", "runtimeConfig": {"portMappings": PORTS}}],
    "portmap keys": [
        BRIDGE,
        {"type": "portmap", "runtimeConfig": {"portMappings": PORTS}, "markMasqBit": 5, "conditionsV4": ["!", "-s", "192.0.2.0/24"]},
    ],
    "portmap dual-stack": [{**BRIDGE, "ipam": DUAL}, {"type": "portmap", "runtimeConfig": {"portMappings": PORTS}}],
    "portmap no snat": [BRIDGE, {"type": "portmap", "snat": False, "runtimeConfig": {"portMappings": PORTS}}],
    "firewall": [BRIDGE, {"type": "firewall", "backend": "iptables"}],
    "firewall dual-stack same-bridge": [
        {**BRIDGE, "ipam": DUAL}, {"type": "firewall", "backend": "iptables", "ingressPolicy": "same-bridge"}
    ],
    "bandwidth": [BRIDGE, {"type": "bandwidth", **LIMITS}],
    "tuning": [BRIDGE, TUNING],
    "all": [
        {**BRIDGE, "ipMasq": True}, {**TUNING, "mac": "02:00:00:00:00:77"}, {"type": "firewall", "backend": "iptables"},
        {"type": "portmap", "runtimeConfig": {"portMappings": PORTS}}, {"type": "bandwidth", **LIMITS},
    ],
}  # fmt: skip


class World(Node):
    """A node with one pod, whose plugins come from either folder."""

    def __init__(self, directory: Path, chain: list[dict[str, Any]], version: str) -> None:
        directory.mkdir()
        super().__init__(directory)
        self.only = self.pod()
        self.version = version
        self.chain = json.loads(json.dumps(chain).replace("DIR", str(directory)))
        self.env_extra = {"XTABLES_LOCKFILE": f"{directory}.lock"}

    def plugin(self, command: str, plugin: dict[str, Any], maker: str, previous: Any) -> dict[str, Any]:
        """One call by exec, of the plugin and of its IPAM plugin, from `maker`'s folder."""
        conf = {"cniVersion": self.version, "name": "net1", **plugin}
        if plugin["type"] == "firewall" and maker == "ours":
            conf["dataDir"] = f"{self.dir}.firewall"
        if previous is not None:
            conf["prevResult"] = previous
        env = {**self.env(command, "c1", self.only.path), **self.env_extra, "CNI_PATH": MAKERS[maker]}
        argv = [os.path.join(MAKERS[maker], plugin["type"])]

        def call() -> list[Any]:
            done = subprocess.run(argv, input=json.dumps(conf).encode(), env=env, capture_output=True, check=False)
            return [done.returncode, done.stdout.decode(), done.stderr.decode()]

        code, out, err = self.inside(call)
        assert code == 0, (command, plugin["type"], maker, out, err)
        return json.loads(out) if out else {}

    def add_all(self, maker: str) -> dict[str, Any]:
        result = None
        for plugin in self.chain:
            result = self.plugin("ADD", plugin, maker, result)
        assert result is not None
        return result

    def check_all(self, maker: str, result: dict[str, Any]) -> None:
        for plugin in self.chain:
            if plugin["type"] == "portmap" and maker == "theirs":
                continue  # 1.1.1 wants IPv6 rules of an IPv4 container
            if plugin["type"] == "bridge" and "ipam" not in plugin and maker == "theirs":
                continue  # 1.1.1 asks an IPAM plugin without a name
            self.plugin("CHECK", plugin, maker, result)

    def delete_all(self, maker: str, result: dict[str, Any]) -> None:
        for plugin in reversed(self.chain):
            self.plugin("DEL", plugin, maker, result)

    def neutral(self, text: str) -> str:
        text = text.replace(str(self.dir), "DIR").replace(self.only.path, "POD")
        text = re.sub(r"veth[0-9a-f]{8}", "vethX", text)
        return re.sub(r"(?!02:00:00:00:00:77|00:00:00:00:00:00)([0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC", text)

    def picture(self) -> dict[str, Any]:
        """Kernel and files, without random parts."""
        found: dict[str, Any] = {}
        for where, fd in (("node", self.fd), ("pod", self.only.fd)):
            with Rtnl(fd) as rt:
                links = rt.links()
                names = {n.index: re.sub(r"veth[0-9a-f]{8}", "vethX", n.name) for n in links}
                flags = 0x1 | 0x100 | 0x200
                found[f"{where} links"] = sorted(
                    # 1.1.1 gives its veths a queue length of 0, newer ones leave the kernel's.
                    [
                        names[n.index], n.kind, n.flags & flags, n.mtu, n.txqlen if n.kind == "ifb" else -1,
                        names.get(n.master, ""), str(sorted(n.port.items())),
                    ]
                    for n in links
                )
                found[f"{where} addresses"] = sorted(
                    [names[a.index], a.cidr, a.scope] for a in rt.addrs() if not a.ip.startswith("fe80:")
                )
                found[f"{where} routes"] = sorted(
                    [r.dst, r.gateway, names.get(r.index, ""), r.src, r.scope, r.priority]
                    for r in rt.routes(table=254)
                    if not r.dst.startswith("fe80:")
                )
                found[f"{where} qdiscs"] = sorted(
                    str((names.get(q[0]), *q[1:])) for q in map(tcmsg.parse_qdisc, rt.dump(tcmsg.qdisc_dump()))
                )
        found["rules"] = self.inside(self.rules)
        found["files"] = {
            str(p.relative_to(self.dir)): self.neutral(p.read_bytes().decode()) for p in self.dir.rglob("*") if p.is_file()
        }
        found["sysctls"] = self.inside(self.sysctls)
        return found

    def rules(self) -> dict[str, list[str]]:
        """Chain → rules, of both families and of nftables' bridge tables."""
        env = {"PATH": self.path, **self.env_extra}
        chains: dict[str, list[str]] = {}
        for tool in ("iptables-save", "ip6tables-save"):
            text = subprocess.run([tool], env=env, capture_output=True, text=True, check=True).stdout
            for line in text.splitlines():
                if line.startswith("*"):
                    table = line
                elif line.startswith(":"):
                    chains.setdefault(f"{tool} {table} {line.split()[0]}", [])
                elif line.startswith("-A"):
                    line = line.replace("(ingressPolicy: same-bridge|isolated)", "(ingressPolicy: same-bridge)")  # 1.1.1's
                    chains[f"{tool} {table} :{line.split()[1]}"].append(self.neutral(line))
        # A table that was only looked at counts for nothing.
        chains = {name: rules for name, rules in chains.items() if rules or ":CNI" in name}
        text = subprocess.run(["nft", "list", "ruleset", "bridge"], env=env, capture_output=True, text=True, check=True).stdout
        chains["bridge"] = sorted(self.neutral(line) for line in text.splitlines())
        return chains

    def sysctls(self) -> dict[str, str]:
        found = {}
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/cni0/route_localnet"):
            try:
                found[key] = Path("/proc/sys/net", key).read_text().strip()
            except OSError:
                found[key] = ""
        return found


def differences(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """{key: (in first, in other)} where they differ; lists without what they share."""
    found = {}
    for key in {**first, **other}:
        a, b = first.get(key), other.get(key)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            a, b = [x for x in a if x not in b] or a, [x for x in b if x not in a] or b
        found[key] = differences(a, b) if isinstance(a, dict) and isinstance(b, dict) else (a, b)
    return found


@pytest.fixture(params=sorted(SCENARIOS))
def chain(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    return SCENARIOS[request.param]  # type: ignore[return-value]


def test_same_result_same_state_and_either_removes_the_others(tmp_path: Path, chain: list[dict[str, Any]]) -> None:
    version = "1.0.0"
    added, results, removed = {}, {}, {}
    for adder in MAKERS:
        for remover in MAKERS:
            world = World(tmp_path / f"{adder}-{remover}", chain, version)
            try:
                result = world.add_all(adder)
                pair = f"{adder} added, {remover} removed"
                results[pair] = json.loads(world.neutral(json.dumps(result)))
                added[pair] = world.picture()
                world.check_all(remover, result)
                world.delete_all(remover, result)
                removed[pair] = world.picture()
                world.delete_all(remover, result)
            finally:
                world.close()
    for pictures in (results, added, removed):
        first = pictures["theirs added, theirs removed"]
        for pair, picture in pictures.items():
            found = differences(first, picture)
            assert found == {}, f"{pair}: {json.dumps(found, indent=1)}"


OLDER = [
    *((kind, v) for kind in ("bridge static dns", "bridge dual-stack masquerade") for v in ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0")),
    *((kind, v) for kind in ("ptp", "portmap", "tuning") for v in ("0.2.0", "0.3.1")),
    ("bandwidth", "0.3.0"), ("firewall", "0.4.0"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "version"), OLDER)
def test_older_versions_look_the_same(tmp_path: Path, kind: str, version: str) -> None:
    looks = []
    for maker in MAKERS:
        world = World(tmp_path / maker, SCENARIOS[kind], version)
        try:
            result = world.add_all(maker)
            looks.append((json.loads(world.neutral(json.dumps(result))), world.picture()))
            world.delete_all(maker, result if version == "0.4.0" else None)  # type: ignore[arg-type]
        finally:
            world.close()
    assert looks[0][0] == looks[1][0]
    assert differences(looks[1][1], looks[0][1]) == {}


def test_host_local_shares_its_files_with_the_real_one(tmp_path: Path) -> None:
    """One pool, taken from in turn: no address twice, one round robin, each gives back the other's."""
    world = World(tmp_path / "w", [BRIDGE], "1.0.0")
    conf = {"cniVersion": "1.0.0", "name": "net1", "ipam": {**HOST_LOCAL, "dataDir": str(tmp_path / "pool")}}
    try:

        def call(command: str, number: int, maker: str) -> dict[str, Any]:
            env = {**world.env(command, f"c{number}", "/run/netns/none"), "CNI_PATH": MAKERS[maker]}
            done = subprocess.run(
                [os.path.join(MAKERS[maker], "host-local")], input=json.dumps(conf).encode(), env=env, capture_output=True, check=True
            )
            return json.loads(done.stdout) if done.stdout else {}

        makers = list(MAKERS)
        got = [call("ADD", i, makers[i % 2])["ips"][0]["address"] for i in range(6)]
        assert got == [f"10.244.1.{i}/24" for i in range(2, 8)]
        for i in range(6):
            call("CHECK", i, makers[(i + 1) % 2])
            call("DEL", i, makers[(i + 1) % 2])
        left = sorted(p.name for p in (tmp_path / "pool/net1").iterdir())
        assert left == ["last_reserved_ip.0", "lock"]
        assert call("ADD", 9, "ours")["ips"][0]["address"] == "10.244.1.8/24"
    finally:
        world.close()


def test_libcni_runs_the_real_plugins_unchanged(tmp_path: Path) -> None:
    world = World(tmp_path / "w", [BRIDGE], "1.0.0")
    plugins = [
        {**BRIDGE, "ipam": {**HOST_LOCAL, "dataDir": str(tmp_path / "pool")}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    network = libcni.parse_list(json.dumps({"cniVersion": "1.0.0", "name": "net1", "plugins": plugins}).encode())
    to = libcni.Attachment("c1", world.only.path, "eth0", [("IgnoreUnknown", "1")], {"portMappings": PORTS})
    how = {"cni_path": f"{THEIRS}:{cni.BIN_DIR}", "cache_dir": str(tmp_path / "cache"), "run": libcni.run_fork}
    env = {"PATH": world.path, **world.env_extra}
    try:
        assert not libcni.all_ours(network, str(how["cni_path"]))
        result = world.inside(lambda: libcni.add(network, to, env=env, **how))  # type: ignore[arg-type]
        assert libcni.pod_ips(result, "eth0") == ["10.244.1.2"]
        assert any("CNI-DN-" in rule for rule in world.nat_rules())
        world.inside(lambda: libcni.delete(network, to, env=env, **how))  # type: ignore[arg-type]
        assert not any("CNI-DN-" in rule for rule in world.nat_rules())
        assert world.only.links() == []
        assert list((tmp_path / "cache/results").iterdir()) == []
    finally:
        world.close()
