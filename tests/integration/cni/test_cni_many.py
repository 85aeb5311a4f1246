"""Many at once, and plugins that are killed: unique addresses, a full pool, nothing left after DEL or GC."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import cni
from cni import libcni
from cni.errors import CniError
from nsk8s.kernel import syscalls
from nsk8s.kernel.rtnl import Rtnl

THEIRS = "/usr/lib/cni"


def network(node: Any, *more: dict[str, Any], version: str = "1.0.0", **ipam: Any) -> libcni.NetworkList:
    bridge = node.conf(ipam=ipam)
    plugins = [{k: v for k, v in bridge.items() if k not in ("name", "cniVersion")}, *more]
    return libcni.parse_list(json.dumps({"cniVersion": version, "name": "net1", "plugins": plugins}).encode())


def environment(node: Any) -> dict[str, str]:
    return {"PATH": node.path, "XTABLES_LOCKFILE": f"{node.dir}/xtables.lock"}


def how(node: Any, run: Any, path: str = cni.BIN_DIR) -> dict[str, Any]:
    return {"cni_path": path, "cache_dir": str(node.dir / "cache"), "run": run, "env": environment(node)}


def attachment(number: int, pod: Any, **capabilities: Any) -> libcni.Attachment:
    return libcni.Attachment(f"c{number}", pod.path, "eth0", [("IgnoreUnknown", "1")], capabilities)


def add_all(node: Any, net: libcni.NetworkList, pods: list[Any], at_once: int) -> list[Any]:
    """The result of each ADD or the CniError it failed with; `at_once` at a time, each third by exec, where possible Debian's."""
    outcomes: list[Any] = [None] * len(pods)
    waiting: dict[int, tuple[int, libcni.Pending]] = {}
    poll = select.poll()
    todo = list(range(len(pods)))
    while todo or waiting:
        while todo and len(waiting) < at_once:
            i = todo.pop(0)
            options = how(node, libcni.run_exec if i % 3 == 0 else libcni.run_here)
            if i % 6 == 0 and os.path.exists(f"{THEIRS}/bridge"):
                options["cni_path"] = THEIRS
            pending = node.begin(lambda i=i, options=options: libcni.add(net, attachment(i, pods[i]), **options))
            waiting[pending.fd] = (i, pending)
            poll.register(pending.fd, select.POLLIN)
        for fd, _ in poll.poll():
            i, pending = waiting.pop(fd)
            poll.unregister(fd)
            try:
                outcomes[i] = pending.finish()
            except CniError as e:
                outcomes[i] = e
    return outcomes


def test_500_adds_at_once_get_500_addresses(node: Any) -> None:
    net = network(node, subnet="10.244.0.0/22")
    pods = [node.pod() for _ in range(500)]
    results = add_all(node, net, pods, at_once=500)
    assert [r for r in results if isinstance(r, CniError)] == []
    addresses = [libcni.pod_ips(r, "eth0")[0] for r in results]
    assert len(set(addresses)) == 500
    assert node.reservations() == {ip: f"c{i}\r\neth0" for i, ip in enumerate(addresses)}
    assert len(node.ports()) == 500
    for i in (0, 100, 499):
        with Rtnl(pods[i].fd) as rt:
            assert f"{addresses[i]}/22" in [a.cidr for a in rt.addrs(family=2)]

    def delete_all() -> None:
        for i in range(500):
            libcni.delete(net, libcni.Attachment(f"c{i}", "", "eth0"), **how(node, libcni.run_here))

    node.inside(delete_all)
    assert node.reservations() == {}
    assert list((node.dir / "cache/results").iterdir()) == []


def test_a_full_pool_refuses_and_what_was_given_back_is_used_again(node: Any) -> None:
    net = network(node, subnet="10.244.1.0/28")
    pods = [node.pod() for _ in range(20)]
    results = add_all(node, net, pods, at_once=20)
    lucky = [i for i, r in enumerate(results) if isinstance(r, dict)]
    assert len(lucky) == 13  # 16 less network, broadcast and gateway
    for i in set(range(20)) - set(lucky):
        assert "no IP addresses available" in results[i].msg
        if i % 6:  # theirs leaves its veth to the runtime's DEL
            assert pods[i].links() == []
        node.inside(lambda i=i: libcni.delete(net, attachment(i, pods[i]), **how(node, libcni.run_here)))
        assert pods[i].links() == []
    assert len(node.ports()) == 13
    assert set(node.reservations().values()) == {f"c{i}\r\neth0" for i in lucky}
    given_back = libcni.pod_ips(results[lucky[5]], "eth0")[0]
    node.inside(lambda: libcni.delete(net, attachment(lucky[5], pods[lucky[5]]), **how(node, libcni.run_here)))
    again = node.inside(lambda: libcni.add(net, attachment(99, pods[lucky[5]]), **how(node, libcni.run_here)))
    assert libcni.pod_ips(again, "eth0") == [given_back]


CHAIN: list[dict[str, Any]] = [
    {"type": "tuning", "mtu": 1400, "dataDir": "DIR/tuning"},
    {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 8_000_000, "egressBurst": 80_000},
    {"type": "firewall", "dataDir": "DIR/firewall"},
    {"type": "portmap", "capabilities": {"portMappings": True}},
]
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]


def leftovers(node: Any) -> dict[str, Any]:
    """Everything in the node that belongs to a container."""

    def rules() -> list[str]:
        found = []
        for tool in ("iptables", "ip6tables"):
            for table in ("nat", "filter"):
                text = subprocess.run(
                    [tool, "-t", table, "-S"], env=environment(node), capture_output=True, text=True, check=True
                ).stdout
                found += [line for line in text.splitlines() if "10.244." in line or "CNI-DN-" in line]
        nft = subprocess.run(
            ["nft", "list", "ruleset"], env=environment(node), capture_output=True, text=True, check=True
        ).stdout
        return found + [line for line in nft.splitlines() if "macspoofchk" in line]

    with Rtnl(node.fd) as rt:
        links = [link.name for link in rt.links() if link.name.startswith(("veth", "bwp"))]
    files = [
        str(p.relative_to(node.dir))
        for folder in ("tuning", "firewall", "cache", "ipam")
        for p in Path(node.dir, folder).rglob("*")
        if p.is_file() and p.name not in ("lock", "last_reserved_ip.0")
    ]
    return {k: v for k, v in {"rules": node.inside(rules), "links": links, "files": files}.items() if v}


@pytest.mark.parametrize("cleaning", ["DEL", "GC"])
def test_killed_at_any_moment_nothing_is_left(node: Any, cleaning: str) -> None:
    """The process group of an ADD by exec is killed at moments spread over its whole length."""
    more = json.loads(json.dumps(CHAIN).replace("DIR", str(node.dir)))
    net = network(node, *more, version="1.1.0")
    net.plugins[0].update({"ipMasq": True, "macspoofchk": True})
    pod = node.pod()
    to = attachment(0, pod, portMappings=PORTS)
    options = how(node, libcni.run_exec)
    taken = []
    for _ in range(3):  # the least is the one that nothing held up
        started = time.monotonic()
        node.inside(lambda: libcni.add(net, to, **options))
        taken.append(time.monotonic() - started)
        assert len(leftovers(node)) == 3
        node.inside(lambda: libcni.delete(net, to, **options))
        assert leftovers(node) == {}
    whole = min(taken)
    killed = 0
    steps = 16
    for step in range(5 * steps):
        if step >= steps and killed >= steps // 2:
            break
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                syscalls.setns(node.fd, syscalls.CLONE_NEWNET)
                libcni.add(net, to, **options)
            finally:
                os._exit(0)
        os.setpgid(pid, pid)
        time.sleep(whole * (step % steps + 0.5) / steps)  # the point of the kill is what varies
        os.killpg(pid, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            killed += 1
        else:  # it was measured while the machine was busier
            whole *= 0.8
        _wait_for_group(pid)
        if cleaning == "DEL":
            node.inside(lambda: libcni.delete(net, to, **options))
        else:
            # The runtime remembers the sandbox: an attachment that is in no list is stale.
            libcni._cache_write(options["cache_dir"], net, to, {"cniVersion": "1.1.0"})
            node.inside(lambda: libcni.gc(net, [], **options))
        assert leftovers(node) == {}
        assert pod.links() == []
    assert killed >= steps // 2


def _wait_for_group(pgid: int) -> None:
    """Until no process of the group is left (their parents are gone: init reaps them)."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        alive = False
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            alive = alive or (int(fields[2]) == pgid and fields[0] != "Z")
        if not alive:
            return
    raise AssertionError(f"process group {pgid} is still there")
