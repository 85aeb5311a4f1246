"""First-packet latency against the number of Services, iptables and nftables side by side: figures, and the plot of docs/.

A client, a node with kube-proxy's rules and a server, each a network namespace; the time is that of connect(), so of the first
packet there and back. Every service has the same endpoint, so that each of them can be asked. `python -m benchmarks.proxy_latency
[--plot FILE]` measures; `… inside MODE NUMBER` is what runs in the node's namespace.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Row, run, say
from benchmarks.proxy import context_of, programs_of, proxier_of, service

MODES = ("nftables", "iptables-nft", "iptables-legacy")
SIZES = (10, 100, 1000, 5000, 10_000)
CONNECTS = 1500
SERVER, CLIENT = "10.128.0.1", "10.127.0.1"
Figures = dict[str, dict[int, dict[str, float]]]
"""Mode → number of services → "p01", "p50", "p99" in microseconds."""

ANSWER = """
import socket
s = socket.create_server(("", 8080), backlog=1024)
print("ready", flush=True)
while True:
    s.accept()[0].close()
"""
ASK = """
import json, random, socket, struct, sys, time
services, count = int(sys.argv[1]), int(sys.argv[2])
random.seed(1)
def one(i):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    started = time.perf_counter()
    s.connect((f"10.96.{1 + (i >> 8)}.{i & 255}", 80))
    took = time.perf_counter() - started
    s.close()
    return took
for _ in range(50):
    one(0)
print(json.dumps([one(random.randrange(services)) for _ in range(count)]))
"""


def its_slice(i: int) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": f"s{i}-x", "namespace": "default", "labels": {"kubernetes.io/service-name": f"s{i}"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [SERVER], "nodeName": "node2", "conditions": {"ready": True}}],
    }  # fmt: skip


def inside(mode: str, services: int) -> None:
    """Write the rules, here and now."""
    proxier = proxier_of(mode, programs_of(mode), context_of())
    for i in range(services):
        proxier.service_changed(None, service(i))
        proxier.slice_changed(None, its_slice(i))
    if not asyncio.run(proxier.sync()):
        raise RuntimeError("the sync failed")


@contextlib.contextmanager
def machines() -> Iterator[str]:
    """client — node — server; yields what their names begin with."""
    tag = f"bench-fp{os.getpid()}"
    made = [f"{tag}-{n}" for n in ("node", "client", "server")]
    try:
        for name in made:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for peer, own, other in (("client", "10.127.0.254/24", CLIENT), ("server", "10.128.0.254/24", SERVER)):
            run("ip", "-n", made[0], "link", "add", peer, "type", "veth", "peer", "name", "eth0", "netns", f"{tag}-{peer}")
            run("ip", "-n", made[0], "addr", "add", own, "dev", peer)
            run("ip", "-n", made[0], "link", "set", peer, "up")
            run("ip", "-n", f"{tag}-{peer}", "addr", "add", f"{other}/24", "dev", "eth0")
            run("ip", "-n", f"{tag}-{peer}", "link", "set", "eth0", "up")
            run("ip", "-n", f"{tag}-{peer}", "route", "add", "default", "via", own.partition("/")[0])
        run("ip", "netns", "exec", made[0], "sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield tag
    finally:
        for name in made:
            run("ip", "netns", "del", name, check=False)


def figures(sizes: Sequence[int] = SIZES, modes: Sequence[str] = MODES) -> Figures:
    found: Figures = {}
    for mode in modes:
        found[mode] = {}
        for size in sizes:
            taken = sorted(t * 1e6 for t in _one(mode, size))
            at = {"p01": 0.01, "p50": 0.5, "p99": 0.99}
            found[mode][size] = {name: taken[int(len(taken) * share)] for name, share in at.items()}
            say(f"{mode}, {size} services: first packet " + ", ".join(f"{n} {v:.0f} µs" for n, v in found[mode][size].items()))
    return found


def _one(mode: str, services: int) -> list[float]:
    with machines() as tag, tempfile.TemporaryDirectory() as directory:
        enter = ["ip", "netns", "exec"]
        environment = {**os.environ, "XTABLES_LOCKFILE": f"{directory}/lock"}
        argv = [*enter, f"{tag}-node", sys.executable, "-m", "benchmarks.proxy_latency", "inside", mode, str(services)]
        subprocess.run(argv, check=True, timeout=300, env=environment)
        server = subprocess.Popen([*enter, f"{tag}-server", sys.executable, "-S", "-c", ANSWER], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            ask = [*enter, f"{tag}-client", sys.executable, "-S", "-c", ASK, str(services), str(CONNECTS)]
            found: list[float] = json.loads(subprocess.run(ask, check=True, timeout=120, stdout=subprocess.PIPE).stdout)
            return found
        finally:
            server.kill()
            server.wait()


def rows(found: Figures) -> list[Row]:
    """The median at the greatest size that both have, against nftables'; and each mode's growth from the smallest size."""
    made = []
    for mode, sizes in found.items():
        most, least = max(sizes), min(sizes)
        if mode != "nftables" and most in found.get("nftables", {}):
            nft = found["nftables"][most]["p50"]
            made.append(Row(f"{mode}: first packet, {most} services, against nftables", sizes[most]["p50"], nft, "µs", "-", "-"))
        what = f"{mode}: first packet, {most} services, against {least}"
        made.append(Row(what, sizes[most]["p50"], sizes[least]["p50"], "µs", "≤ 1.2" if mode == "nftables" else "-", "-"))
    return made


COLOURS = {"nftables": "#1b7837", "iptables-nft": "#7b3294", "iptables-legacy": "#c2682c"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 60, 40, 150, 50


def plot(found: Figures) -> str:
    """An SVG: a band from p01 to p99 and a line at p50 for each mode; both axes logarithmic. Pure."""
    from math import log10

    sizes = sorted({s for each in found.values() for s in each})
    values = [v for each in found.values() for f in each.values() for v in f.values()]
    low, high = log10(min(values) * 0.8), log10(max(values) * 1.25)

    def x(size: int) -> float:
        share = (log10(size) - log10(sizes[0])) / ((log10(sizes[-1]) - log10(sizes[0])) or 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(us: float) -> float:
        return round(TOP + (high - log10(us)) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">First packet through a Service: microseconds (p50; band p01 to p99)</text>',
    ]
    for tick in (t * 10**e for e in range(7) for t in (1, 2, 5)):
        if low <= log10(tick) <= high:
            out.append(f'<path d="M{LEFT} {y(tick)}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            out.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{tick}</text>')
    for size in sizes:
        out.append(f'<text x="{x(size)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{size:,}</text>')
    middle = (LEFT + WIDTH - RIGHT) // 2
    out.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">Services with one endpoint each</text>')
    for mode, each in found.items():
        colour, points = COLOURS[mode], sorted(each.items())
        upper = [f"{x(s)},{y(f['p99'])}" for s, f in points]
        lower = [f"{x(s)},{y(f['p01'])}" for s, f in reversed(points)]
        line = " ".join(f"{x(s)},{y(f['p50'])}" for s, f in points)
        out.append(f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" fill-opacity="0.12"/>')
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        last, figure = points[-1]
        out.append(f'<text x="{x(last) + 8}" y="{y(figure["p50"]) + 4}" fill="{colour}">{mode} {figure["p50"]:.0f}</text>')
    return "\n".join([*out, "</svg>\n"])


def as_table(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Markdown, for docs/."""
    sizes = sorted({s for each in found.values() for s in each})
    lines = ["| µs, p50 (p01 to p99) | " + " | ".join(f"{s:,} services" for s in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for mode, each in found.items():
        cells = [f"{each[s]['p50']:.0f} ({each[s]['p01']:.0f} to {each[s]['p99']:.0f})" if s in each else "–" for s in sizes]
        lines.append(f"| {mode} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    if argv[:1] == ["inside"]:
        inside(argv[1], int(argv[2]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy_latency", description="First packets against Services.")
    parser.add_argument("--plot", metavar="FILE.svg", help="write the plot here")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options = parser.parse_args(argv)
    found = figures(options.sizes)
    if options.plot:
        Path(options.plot).write_text(plot(found))
    print(as_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
