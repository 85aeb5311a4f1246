"""kube-proxy: a full sync against iptables-restore (nft) alone with the same text; one changed endpoint among 10,000 services.

Everything happens in a network namespace of its own. `python -m benchmarks.proxy full|change …` is what runs inside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import Row, median, run, say, spread
from nsk8s.api.meta import Object

MODES = ("iptables-nft", "iptables-legacy", "nftables")
SERVICES, ENDPOINTS = 1000, 10
MANY = 10_000
CHANGES = 30
SPACING_S = 1.4
"""Beyond minSyncPeriod, so that no change waits for the one before."""


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

    async def restore(self, text: str) -> None:
        self.text += text
        await self.programs.restore(text)

    async def run(self, script: str) -> None:
        self.text += script
        await self.programs.run(script)


def full(mode: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of full syncs, and of the program alone with the same text, one after the other."""
    from nsk8s.kernel import iptables, nft
    from nsk8s.proxy.iptables import IptablesProxier
    from nsk8s.proxy.metrics import Metrics
    from nsk8s.proxy.nftables import NftablesProxier
    from nsk8s.proxy.nodeaddresses import NodePortAddresses
    from nsk8s.proxy.rules import Context, LocalDetector

    objects = [(service(i), endpoint_slice(i, ENDPOINTS)) for i in range(SERVICES)]
    gc.collect()
    gc.freeze()
    context = Context(detector=LocalDetector.by_cidr("10.128.0.0/9"), localhost_node_ports=False)
    ours, alone = [], []
    for _ in range(rounds):
        is_nft = mode == "nftables"
        programs: Any = _Recorded(nft.detect() if is_nft else iptables.detect(mode.removeprefix("iptables-")))
        kind: Any = NftablesProxier if is_nft else IptablesProxier
        proxier = kind(programs, context, "node1", NodePortAddresses(()), Metrics("nftables" if is_nft else "iptables"))
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


def flush(mode: str) -> None:
    if mode == "nftables":
        run("nft", "flush", "ruleset")
        return
    empty = "".join(f"*{table}\nCOMMIT\n" for table in ("mangle", "filter", "nat"))
    run(f"iptables-{mode.removeprefix('iptables-')}-restore", "-w", "5", text_in=empty)


# --- inside the namespace: one change among many


async def change(mode: str, directory: Path, changes: int, many: int) -> dict[str, Any]:
    """Seconds from the API write to the rule in place, for each change; memory of the proxy; the program alone."""
    from nsk8s.client import kubeconfig
    from nsk8s.client.resources import ENDPOINTSLICES
    from nsk8s.client.resources import SERVICES as SERVICE_KIND
    from nsk8s.client.rest import Client

    component = [sys.executable, "-m", "nsk8s.cli.main", "component"]
    admin = directory / "admin.conf"
    with contextlib.ExitStack() as stack:

        def start(*argv: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*component, *argv], stderr=stack.enter_context((directory / f"{argv[0]}.log").open("wb")))
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("kube-apiserver", "--data-dir", ":memory:", "--bind-address", "127.0.0.1", "--cert-dir", str(directory / "pki"),
              "--write-kubeconfig", str(admin))  # fmt: skip
        await _until_there(admin)
        async with Client(kubeconfig.load(str(admin))) as client:
            await client.wait_ready(60)
            held = await _create(client, SERVICE_KIND, ENDPOINTSLICES, many)
            flags = ["--proxy-mode", "nftables"] if mode == "nftables" else ["--iptables", mode.removeprefix("iptables-")]
            before = time.monotonic()
            proxy = start("kube-proxy", "--kubeconfig", str(admin), "--hostname-override", "node1", "--cluster-cidr",
                          "10.128.0.0/9", "--iptables-localhost-nodeports=false", *flags)  # fmt: skip
            await _until_synced(proxy)
            first_s = time.monotonic() - before
            await asyncio.sleep(3)
            taken = []
            for i in range(1, changes + 1):
                number = i * 37 % many
                new = {**endpoint_slice(number, 1, i), "metadata": held[number]["metadata"]}
                started = time.time()
                held[number] = await client.update(ENDPOINTSLICES, new)
                await asyncio.sleep(SPACING_S)
                taken.append(await asyncio.to_thread(last_sync) - started)
            status = Path(f"/proc/{proxy.pid}/status").read_text()
            rss_mb = int(status.partition("VmRSS:")[2].split()[0]) / 1024
            partial = "sync_partial_proxy_rules_duration_seconds"
            sync_s = await asyncio.to_thread(metric, f"{partial}_sum") / await asyncio.to_thread(metric, f"{partial}_count")
            alone = [one_alone(mode, i) for i in range(10)]
            return {"sync_s": sync_s, "taken": taken, "rss_mb": rss_mb, "first_s": first_s, "alone": alone}


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


def metric(name: str) -> float:
    with urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return max((float(line.split()[-1]) for line in lines if line.startswith(f"kubeproxy_{name}")), default=0.0)


def last_sync() -> float:
    return metric("sync_proxy_rules_last_timestamp_seconds")


async def _until_synced(proxy: subprocess.Popen[bytes]) -> None:
    while proxy.poll() is None:
        with contextlib.suppress(OSError):
            if await asyncio.to_thread(last_sync) > 0:
                return
        await asyncio.sleep(0.2)
    raise RuntimeError("kube-proxy ended")


def one_alone(mode: str, i: int) -> float:
    """What the program alone takes at this size to write what one changed endpoint asks for."""
    ip = f"10.119.0.{i}"
    if mode == "nftables":
        new, old = f"endpoint-BENCH{i}", "service-BENCH"
        text = (
            f"add chain ip kube-proxy {old}\nadd chain ip kube-proxy {new}\nflush chain ip kube-proxy {old}\n"
            f"add rule ip kube-proxy {new} ip saddr {ip} jump mark-for-masquerade\n"
            f"add rule ip kube-proxy {new} meta l4proto tcp dnat to {ip}:8080\n"
            f"add rule ip kube-proxy {old} ip daddr 10.96.0.1 ip saddr != 10.128.0.0/9 jump mark-for-masquerade\n"
            f"add rule ip kube-proxy {old} numgen random mod 1 vmap {{ 0 : goto {new} }}\n"
        )
        argv = ["nft", "-f", "-"]
    else:
        new, old = f"KUBE-SEP-BENCH{i}", "KUBE-SVC-BENCH"
        text = (
            f"*nat\n:{old} - [0:0]\n:{new} - [0:0]\n"
            f"-A {old} -d 10.96.0.1 ! -s 10.128.0.0/9 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n"
            f"-A {old} -j {new}\n-A {new} -s {ip} -j KUBE-MARK-MASQ\n"
            f"-A {new} -p tcp -m tcp -j DNAT --to-destination {ip}:8080\nCOMMIT\n"
        )
        argv = [f"iptables-{mode.removeprefix('iptables-')}-restore", "-w", "5", "--noflush", "--counters"]
    started = time.perf_counter()
    run(*argv, text_in=text)
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


def inside(what: str, mode: str, *numbers: int) -> Any:
    with namespace() as (name, directory):
        done = subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, "-m", "benchmarks.proxy", what, mode, str(directory),
             *map(str, numbers)],
            stdout=subprocess.PIPE, text=True, timeout=300, env={**os.environ, "XTABLES_LOCKFILE": str(directory / "lock")},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{what} in {mode} mode failed")
    return json.loads(done.stdout)


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def measure(rounds: int = 5) -> list[Row]:
    rows = []
    for mode in MODES:
        found = inside("full", mode, rounds)
        said = f"{spread(found['ours'])} s; alone {spread(found['alone'])} s"
        say(f"{mode}: full sync of {SERVICES} services × {ENDPOINTS}: {said}")
        what = f"{mode}: full sync, {SERVICES} × {ENDPOINTS}, against the program alone"
        rows.append(Row(what, median(found["ours"]), median(found["alone"]), "s", "≤ 1.5", "1.2"))
    for mode in MODES[1:]:
        found = inside("change", mode, CHANGES, MANY)
        taken, alone = [t * 1000 for t in found["taken"]], [t * 1000 for t in found["alone"]]
        say(f"{mode}: one endpoint among {MANY} services: {spread(taken)} ms, p99 {p99(taken):.0f}; alone {spread(alone)} ms; "
            f"first sync {found['first_s']:.1f} s, {found['rss_mb']:.0f} MB")  # fmt: skip
        what = f"{mode}: one endpoint of {MANY}, write → rule"
        rows.append(Row(f"{what}, p50", median(taken), median(alone), "ms", "≤ 1.5", "1.2"))
        rows.append(Row(f"{what}, p99", p99(taken), 0, "ms", "≤ 50 ms", "-", ratio_is_value=True))
        rows.append(Row(f"{mode}: memory with {MANY} services", found["rss_mb"], 0, "MB", "-", "-", ratio_is_value=True))
    return rows


def main(argv: list[str]) -> int:
    what, mode, directory, *numbers = argv
    count = [int(n) for n in numbers]
    found: Any = full(mode, *count) if what == "full" else asyncio.run(change(mode, Path(directory), *count))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
