"""kube-proxy: a full sync against iptables-restore (nft) alone with the same text; one changed endpoint among 10,000 services,
until its rules are there on three nodes; the first packet's latency (proxy_latency).

Everything happens in network namespaces of its own. `python -m benchmarks.proxy full|change …` is what runs inside the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import Row, median, run, say, spread
from nsk8s.api.meta import Object
from nsk8s.kernel import syscalls

MODES = ("iptables-nft", "iptables-legacy", "nftables")
SERVICES, ENDPOINTS = 1000, 10
MANY, FEWER = 10_000, 2000
"""The fewer for iptables-nft, whose first load of three nodes' 20,000 chains each takes minutes."""
NODES = 3
CHANGES = {"nftables": 120}
"""In a mode whose p99 is asked for, so many that the worst of them is not it."""
FEWER_CHANGES = 48
ALONE = 12
"""How often the program alone is run, spread among the changes: with caches as cold as theirs."""
SPACING_S = 1.25
"""From the end of one sync to the next change: beyond minSyncPeriod, so that no change waits for the one before."""


# --- objects


def service(i: int) -> Object:
    ip = f"10.96.{1 + (i >> 8)}.{i & 255}"
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s{i}", "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }  # fmt: skip


def endpoint_slice(i: int, count: int, generation: int = 0) -> Object:
    first = i * count
    ips = [f"10.{128 + ((first + e) >> 16)}.{(first + e) >> 8 & 255}.{(first + e) & 255}" for e in range(count)]
    if generation:
        ips[-1] = f"10.120.{generation >> 8}.{generation & 255}"
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": f"s{i}-x", "namespace": "default", "labels": {"kubernetes.io/service-name": f"s{i}"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "nodeName": "node2", "conditions": {"ready": True}} for ip in ips],
    }  # fmt: skip


# --- inside the namespace: a full sync


class _Recorded:
    """The real programs, with what they were given."""

    def __init__(self, programs: Any) -> None:
        self.programs = programs
        self.text = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.programs, name)

    async def restore(self, text: str | Iterable[str]) -> None:
        await self.programs.restore(self._noted(text))

    def _noted(self, parts: str | Iterable[str]) -> Iterator[str]:
        given = []
        for part in [parts] if isinstance(parts, str) else parts:
            given.append(part)
            yield part
        self.text += "".join(given)

    async def run(self, script: str) -> None:
        self.text += script
        await self.programs.run(script)


def programs_of(mode: str) -> Any:
    from nsk8s.kernel import iptables, nft

    return nft.detect() if mode == "nftables" else iptables.detect(mode.removeprefix("iptables-"))


def context_of() -> Any:
    from nsk8s.proxy.rules import Context, LocalDetector

    return Context(detector=LocalDetector.by_cidr("10.128.0.0/9"), localhost_node_ports=False)


def proxier_of(mode: str, programs: Any, context: Any) -> Any:
    from nsk8s.proxy.iptables import IptablesProxier
    from nsk8s.proxy.metrics import Metrics
    from nsk8s.proxy.nftables import NftablesProxier
    from nsk8s.proxy.nodeaddresses import NodePortAddresses

    kind: Any = NftablesProxier if mode == "nftables" else IptablesProxier
    return kind(programs, context, "node1", NodePortAddresses(()), Metrics("nftables" if mode == "nftables" else "iptables"))


def full(mode: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of full syncs, and of the program alone with the same text, one after the other."""
    objects = [(service(i), endpoint_slice(i, ENDPOINTS)) for i in range(SERVICES)]
    gc.collect()
    gc.freeze()
    context = context_of()
    ours, alone = [], []
    for _ in range(rounds):
        is_nft = mode == "nftables"
        programs: Any = _Recorded(programs_of(mode))
        proxier = proxier_of(mode, programs, context)
        for one, its_slice in objects:
            proxier.service_changed(None, one)
            proxier.slice_changed(None, its_slice)
        started = time.perf_counter()
        if not asyncio.run(proxier.sync()):
            raise RuntimeError("the sync failed")
        ours.append(time.perf_counter() - started)
        flush(mode)
        argv = [programs.path, "-f", "-"] if is_nft else [programs.restore_program, "-w", "5", "--noflush", "--counters"]
        started = time.perf_counter()
        run(*argv, text_in=programs.text)
        alone.append(time.perf_counter() - started)
        flush(mode)
    return {"ours": ours, "alone": alone}


def flush(mode: str, enter: Sequence[str] = ()) -> None:
    if mode == "nftables":
        run(*enter, "nft", "flush", "ruleset")
        return
    empty = "".join(f"*{table}\nCOMMIT\n" for table in ("mangle", "filter", "nat"))
    run(*enter, f"iptables-{mode.removeprefix('iptables-')}-restore", "-w", "5", text_in=empty)


# --- inside the namespace: one change among many


async def change(directory: Path, nodes: Sequence[str], many: int, modes: Sequence[str]) -> dict[str, Any]:
    """For each mode: seconds from the API write to the rule in place on each node, for each change; the proxies' memory; the
    program alone. `nodes`: the namespaces they run in; the first is this one, where the API server is, too."""
    from nsk8s.client import kubeconfig
    from nsk8s.client.resources import ENDPOINTSLICES
    from nsk8s.client.resources import SERVICES as SERVICE_KIND
    from nsk8s.client.rest import Client

    component = [sys.executable, "-m", "nsk8s.cli.main", "component"]
    admin = directory / "admin.conf"
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as everything:

        def start(stack: contextlib.ExitStack, where: Sequence[str], *argv: str, log: str) -> subprocess.Popen[bytes]:
            log_file = stack.enter_context((directory / f"{log}.log").open("wb"))
            process = subprocess.Popen([*where, *component, *argv], stderr=log_file)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def lock(i: int) -> str:
            """Each node has its own xtables lock."""
            return f"{directory}/lock-{i}"

        start(everything, (), "kube-apiserver", "--data-dir", ":memory:", "--bind-address", API_ADDRESS, "--cert-dir",
              str(directory / "pki"), "--write-kubeconfig", str(admin), log="kube-apiserver")  # fmt: skip
        await _until_there(admin)
        async with Client(kubeconfig.load(str(admin))) as client:
            await client.wait_ready(60)
            held = await _create(client, SERVICE_KIND, ENDPOINTSLICES, many)
            gc.collect()
            gc.freeze()  # no collection of ours shall be part of a figure
            places = [Place(everything.enter_context(thread_in(n if i else "")), lock(i)) for i, n in enumerate(nodes)]
            generation = 0
            for mode in modes:
                flags = ["--proxy-mode", "nftables"] if mode == "nftables" else ["--iptables", mode.removeprefix("iptables-")]
                with contextlib.ExitStack() as stack:
                    before = time.monotonic()
                    proxies = []
                    for i, node in enumerate(nodes):
                        where = (*(("ip", "netns", "exec", node) if i else ()), "env", f"XTABLES_LOCKFILE={lock(i)}")
                        proxies.append(start(
                            stack, where, "kube-proxy", "--kubeconfig", str(admin), "--hostname-override", f"node{i + 1}",
                            "--cluster-cidr", "10.128.0.0/9", "--iptables-localhost-nodeports=false", "--metrics-bind-address",
                            f"{node_address(i)}:10249", *flags, log=f"kube-proxy-{mode}-{i}",
                        ))  # fmt: skip
                    for i, proxy in enumerate(proxies):
                        await _until_synced(proxy, i)
                    first_s = time.monotonic() - before
                    await asyncio.sleep(3)
                    taken, alone = [], []
                    await alone_everywhere(mode, 0, places)
                    await asyncio.sleep(SPACING_S)
                    changes = CHANGES.get(mode, FEWER_CHANGES)
                    for i in range(1, changes + 1):
                        generation += 1
                        number = i * 37 % many
                        new = {**endpoint_slice(number, 1, generation), "metadata": held[number]["metadata"]}
                        started = time.time()
                        held[number] = await client.update(ENDPOINTSLICES, new)
                        await asyncio.sleep(SPACING_S)
                        ends = [await _synced_since(started, n) for n in range(len(nodes))]
                        taken.append([end - started for end in ends])
                        await asyncio.sleep(max(0.0, max(ends) + SPACING_S - time.time()))
                        if i % (changes // ALONE) == 0:
                            alone.append(await alone_everywhere(mode, i // (changes // ALONE), places))
                            await asyncio.sleep(SPACING_S)
                    found[mode] = {"taken": taken, "rss_mb": rss_mb(proxies[0].pid), "first_s": first_s, "alone": alone}
                for i, node in enumerate(nodes):
                    flush(mode, ("ip", "netns", "exec", node) if i else ())
    return found


API_ADDRESS = "10.126.0.1"


def node_address(i: int) -> str:
    """The first node's is the API server's; each other one hangs on a cable of its own."""
    return f"10.126.{i}.2" if i else API_ADDRESS


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def _until_there(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{path.name} does not appear")


async def _create(client: Any, services: Any, slices: Any, many: int) -> dict[int, Object]:
    held: dict[int, Object] = {}
    todo = iter(range(many))

    async def worker() -> None:
        for i in todo:
            await client.create(services, service(i), "default")
            held[i] = await client.create(slices, endpoint_slice(i, 1), "default")

    await asyncio.gather(*(worker() for _ in range(16)))
    return held


def metric(name: str, node: int) -> float:
    with urllib.request.urlopen(f"http://{node_address(node)}:10249/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return max((float(line.split()[-1]) for line in lines if line.startswith(f"kubeproxy_{name}")), default=0.0)


def last_sync(node: int) -> float:
    return metric("sync_proxy_rules_last_timestamp_seconds", node)


async def _synced_since(when: float, node: int) -> float:
    """The time of the node's last sync, once that is after `when`."""
    for _ in range(100):
        last = await asyncio.to_thread(last_sync, node)
        if last > when:
            return last
        await asyncio.sleep(0.1)
    raise RuntimeError(f"node {node + 1} has not synced in 10 s")


async def _until_synced(proxy: subprocess.Popen[bytes], node: int) -> None:
    while proxy.poll() is None:
        with contextlib.suppress(OSError):
            if await asyncio.to_thread(last_sync, node) > 0:
                return
        await asyncio.sleep(0.2)
    raise RuntimeError("kube-proxy ended")


class Place(NamedTuple):
    """Where the program alone is run."""

    thread: ThreadPoolExecutor
    """One thread that is in the node's network namespace: what it starts need not get there first."""
    lock: str


def thread_in(node: str) -> ThreadPoolExecutor:
    """A Place's; an empty `node` for the namespace we are in."""

    def enter() -> None:
        if node:
            with open(f"/run/netns/{node}") as there:
                syscalls.setns(there.fileno(), syscalls.CLONE_NEWNET)

    return ThreadPoolExecutor(1, initializer=enter)


async def alone_everywhere(mode: str, i: int, places: Sequence[Place]) -> float:
    """What the program alone takes, on every node at the same time, until the last of them has written."""
    text, loop = changed_endpoint(mode, i), asyncio.get_running_loop()
    return max(await asyncio.gather(*(loop.run_in_executor(p.thread, one_alone, mode, text, p.lock) for p in places)))


def changed_endpoint(mode: str, i: int) -> str:
    """What kube-proxy writes for it: the new endpoint's chain, the service's, the old one's that goes (i = 0: there is none)."""
    from dataclasses import replace

    from nsk8s.net import chainset
    from nsk8s.net.nftset import NftChain, Transaction
    from nsk8s.proxy import nftrules, rules
    from nsk8s.proxy.decision import decide
    from nsk8s.proxy.endpoints import Endpoint
    from nsk8s.proxy.services import PortName, ServicePort

    context = replace(context_of(), large_cluster=True)
    port = ServicePort(PortName("default", "bench", "http", "TCP"), "10.95.0.1", 80)
    old, new = (decide(port, [Endpoint(f"10.119.0.{1 + n}", 8080)], "node1", "") for n in (i - 1, i))
    if mode != "nftables":
        gone, made = (rules.own_chains(d, context) for d in (old, new))
        delete = gone.keys() - made.keys() if i else ()
        return chainset.render_table("nat", {n: chainset.Chain(r) for n, r in made.items()}, delete=delete)
    tx = Transaction(f"ip {nftrules.TABLE}")
    before, after = (nftrules.port_elements(d, context).chains for d in (old, new))
    for name, held in after.items():
        tx.chain(name, NftChain(held), is_new=not i or name not in before)
    for name in before.keys() - after.keys() if i else ():
        tx.empty_chain(name)
        tx.delete_chain(name)
    return tx.render()


def one_alone(mode: str, text: str, lock: str) -> float:
    """What the program alone takes at this size to write what one changed endpoint asks for."""
    if mode == "nftables":
        argv = ["nft", "-f", "-"]
    else:
        argv = [f"iptables-{mode.removeprefix('iptables-')}-restore", "-w", "5", "--noflush", "--counters"]
    env = {**os.environ, "XTABLES_LOCKFILE": lock}
    started = time.perf_counter()
    run(*argv, text_in=text, env=env)
    return time.perf_counter() - started


# --- from outside


@contextlib.contextmanager
def namespace() -> Iterator[tuple[str, Path]]:
    name = f"bench-px{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        with tempfile.TemporaryDirectory() as directory:
            yield name, Path(directory)
    finally:
        run("ip", "netns", "del", name)


def inside(what: str, *arguments: object) -> Any:
    with namespace() as (name, directory):
        nodes = [name]
        try:
            if what == "change":
                run("ip", "-n", name, "addr", "add", f"{API_ADDRESS}/32", "dev", "lo")
                for i in range(1, NODES):
                    nodes.append(add_node(name, i))
            argv = [what, str(directory), ",".join(nodes), *map(str, arguments)]
            done = subprocess.run(
                ["ip", "netns", "exec", name, sys.executable, "-m", "benchmarks.proxy", *argv],
                stdout=subprocess.PIPE, text=True, timeout=900, env={**os.environ, "XTABLES_LOCKFILE": str(directory / "lock")},
            )  # fmt: skip
        finally:
            for node in nodes[1:]:
                run("ip", "netns", "del", node)
    if done.returncode:
        raise RuntimeError(f"{what} {' '.join(map(str, arguments))} failed")
    return json.loads(done.stdout)


def add_node(first: str, i: int) -> str:
    """A namespace on a cable to the first one, by which it reaches the API server."""
    name = f"{first}-{i}"
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "-n", first, "link", "add", f"n{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "-n", first, "addr", "add", f"10.126.{i}.1/24", "dev", f"n{i}")
    run("ip", "-n", first, "link", "set", f"n{i}", "up")
    run("ip", "-n", name, "addr", "add", f"{node_address(i)}/24", "dev", "eth0")
    run("ip", "-n", name, "link", "set", "eth0", "up")
    run("ip", "-n", name, "route", "add", "default", "via", f"10.126.{i}.1")
    return name


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


def measure(rounds: int = 5) -> list[Row]:
    rows = []
    for mode in MODES:
        found = inside("full", mode, rounds)
        said = f"{spread(found['ours'])} s; alone {spread(found['alone'])} s"
        say(f"{mode}: full sync of {SERVICES} services × {ENDPOINTS}: {said}")
        what = f"{mode}: full sync, {SERVICES} × {ENDPOINTS}, against the program alone"
        rows.append(Row(what, median(found["ours"]), median(found["alone"]), "s", "≤ 1.5", "1.2"))
    sizes = ((MANY, "iptables-legacy,nftables"), (FEWER, "iptables-nft"))
    measured = [(n, *found) for n, modes in sizes for found in inside("change", n, modes).items()]
    for many, mode, each in measured:
        taken, alone = [max(each_node) * 1000 for each_node in each["taken"]], [t * 1000 for t in each["alone"]]
        turns = [median(turn) * 1000 for turn in zip(*map(sorted, each["taken"]), strict=True)]
        say(f"{mode}: one endpoint among {many} services, on {NODES} nodes: {spread(taken)} ms, p99 {p99(taken):.0f} "
            f"(the first node {turns[0]:.0f}, the second {turns[1]:.0f}); "
            f"alone {spread(alone)} ms; first sync {each['first_s']:.1f} s, {each['rss_mb']:.0f} MB")  # fmt: skip
        what = f"{mode}: one endpoint of {many}, write → {NODES} nodes"
        rows.append(Row(f"{what}, p50", median(taken), median(alone), "ms", "-" if mode == "nftables" else "≤ 1.5", "1.2"))
        rows.append(Row(f"{what}, p99", p99(taken), 0, "ms", "≤ 50 ms" if mode == "nftables" else "-", "-", ratio_is_value=True))
        rows.append(Row(f"{mode}: memory with {many} services", each["rss_mb"], 0, "MB", "-", "-", ratio_is_value=True))
    from benchmarks import proxy_latency  # it needs what is here

    return [*rows, *proxy_latency.rows(proxy_latency.figures())]


def main(argv: list[str]) -> int:
    what, directory, nodes, *rest = argv
    if what == "full":
        found: Any = full(rest[0], int(rest[1]))
    else:
        found = asyncio.run(change(Path(directory), nodes.split(","), int(rest[0]), rest[1].split(",")))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
