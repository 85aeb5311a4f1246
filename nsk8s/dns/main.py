"""Cluster DNS: `nsk8s component dns`, and the pod behind kube-dns. Upstream: CoreDNS. Touches: sockets, the API, signals.

`up` waits for it, so it starts lean: argparse instead of click, ports bound before the API client is imported.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nsk8s.dns import corefile
from nsk8s.dns.settings import NO_PAGE, RESOLV_CONF, REVERSE, Block, Kubernetes, Settings
from nsk8s.errors import Nsk8sError

log = logging.getLogger("dns")

RELOAD_S = 1.0
"""How often a Corefile with `reload` is looked at. CoreDNS takes half a minute."""
READY_PATIENCE_S = 0.8
"""How long /ready waits for the first sync before it says no: a probe a second apart would cost a second."""


@dataclass(frozen=True)
class Options:
    kubeconfig: str = ""
    cluster_domain: str = "cluster.local"
    bind_addresses: tuple[str, ...] = ()
    """Empty: every IPv4 and, where there is IPv6, every IPv6 address."""
    port: int = 53
    health_port: int = 8080
    ready_port: int = 8181
    metrics_port: int = 9153
    """A port of 0 is taken from the kernel's free ones."""
    forward: tuple[tuple[str, int], ...] = ()
    lameduck_s: float = 0.0
    verbosity: int = 2
    conf: str = ""
    """A Corefile; what it says counts, and of the flags only addresses and kubeconfig."""
    ports: dict[str, int] = field(default_factory=dict)
    """Filled in on start: dns, health, ready, metrics → the port really bound."""


def _server(text: str) -> tuple[str, int]:
    """`IP`, `IP:PORT` or `[IPv6]:PORT`."""
    from ipaddress import ip_address

    host, port = text, "53"
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        if not 0 < int(port) < 65536:
            raise ValueError
        return str(ip_address(host)), int(port)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP, IP:PORT or [IPv6]:PORT") from None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def parse(argv: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="nsk8s component dns",
        description="Cluster DNS, as CoreDNS' kubernetes plugin gives it: services, endpoints, pods.",
        epilog="example: nsk8s component dns --kubeconfig /etc/kubernetes/admin.conf --bind-address 127.0.0.1 --port 5353",
    )
    add = parser.add_argument
    add("--kubeconfig", default="", help="how to reach the API; default: the pod's service account")
    add("--cluster-domain", default="cluster.local", help="the cluster's domain (default %(default)s)")
    add("--bind-address", action="append", default=[], metavar="IP", help="may be repeated; default: every address")
    add("--port", type=_port, default=53, help="UDP and TCP (default %(default)s)")
    add("--health-port", type=_port, default=8080, help="/health (default %(default)s)")
    add("--ready-port", type=_port, default=8181, help="/ready (default %(default)s)")
    add("--metrics-port", type=_port, default=9153, help="/metrics (default %(default)s)")
    add(
        "--forward", type=_server, action="append", default=[], metavar="IP[:PORT]",
        help="ask this server about names outside the cluster; may be repeated; without it they are refused",
    )  # fmt: skip
    add("--lameduck", type=float, default=0.0, metavar="SECONDS", help="keep answering so long after SIGTERM (default 0)")
    add("-conf", "--conf", default="", metavar="FILE", help="a Corefile, as far as a cluster needs one (docs/dns.md)")
    add("-v", type=int, default=2, dest="verbosity", metavar="LEVEL", help="4 and above logs debug lines")
    a = parser.parse_args(list(argv))
    return Options(
        a.kubeconfig, a.cluster_domain, tuple(a.bind_address), a.port, a.health_port, a.ready_port, a.metrics_port,
        tuple(a.forward), a.lameduck, a.verbosity, a.conf,
    )  # fmt: skip


def settings_of(options: Options) -> Settings:
    """From the Corefile, or the flags without one. Raises Nsk8sError."""
    if options.conf:
        return corefile.parse(read_conf(options.conf), options.conf)
    block = Block(kubernetes=True, forward=(("", options.forward),) if options.forward else ())
    return Settings(
        kubernetes=Kubernetes(zones=(options.cluster_domain.strip(".").lower(), *REVERSE)), blocks=(block,), port=options.port,
        health_port=options.health_port, ready_port=options.ready_port, metrics_port=options.metrics_port,
        lameduck_s=options.lameduck_s,
    )  # fmt: skip


def read_conf(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except (OSError, UnicodeDecodeError) as e:
        raise Nsk8sError(f"cannot read {path}: {getattr(e, 'strerror', '') or e}") from e


def with_servers(blocks: Sequence[Block]) -> list[Block]:
    """With the name servers that /etc/resolv.conf has now in its place."""

    def found(server: tuple[str, int]) -> Sequence[tuple[str, int]]:
        return corefile.resolv_conf_servers(read_conf(RESOLV_CONF)) if server[0] == RESOLV_CONF else [server]

    def filled(block: Block) -> Block:
        return replace(
            block, forward=tuple((zone, tuple(s for each in some for s in found(each))) for zone, some in block.forward)
        )

    return [filled(block) for block in blocks]


def every_address() -> tuple[str, ...]:
    """The wildcards this machine can bind."""
    if socket.has_ipv6:
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
                s.bind(("::", 0))
            return ("0.0.0.0", "::")
        except OSError:
            pass
    return ("0.0.0.0",)


def local_addresses() -> list[str]:
    """The addresses other pods reach this one at, found by asking the kernel which it would send from (nothing is sent)."""
    found = []
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.connect((target, 53))
                found.append(str(s.getsockname()[0]))
        except OSError:
            continue
    return found


async def serve(options: Options, said: list[Settings], changed: asyncio.Event, stop: asyncio.Event) -> None:
    """Bind, then read the API, then be ready; until `stop`, or until settings come (the last of `said`) that need other ports."""
    from nsk8s import __version__
    from nsk8s.client import pages as http
    from nsk8s.dns.metrics import Metrics
    from nsk8s.dns.server import DNSServer
    from nsk8s.dns.source import Source

    settings = said[-1]
    metrics = Metrics(settings.port, settings.plugins(), __version__)
    source = Source(options.kubeconfig, settings.kubernetes, local_addresses())

    async def health_page() -> tuple[int, str]:
        return 200, "OK"

    async def ready_page() -> tuple[int, str]:
        if not stop.is_set():
            try:
                await asyncio.wait_for(source.synced.wait(), READY_PATIENCE_S)
                return 200, "OK"
            except TimeoutError:
                pass
        return 503, "kubernetes"

    async def metrics_page() -> tuple[int, str]:
        return 200, metrics.render()

    server = DNSServer(source.view, metrics, with_servers(settings.blocks))
    addresses = options.bind_addresses or every_address()
    pages = []
    try:
        options.ports["dns"] = await server.start(addresses, settings.port or options.ports.get("dns", 0))
        for name, port, page in (
            ("health", settings.health_port, health_page),
            ("ready", settings.ready_port, ready_page),
            ("metrics", settings.metrics_port, metrics_page),
        ):
            if port == NO_PAGE:
                continue
            for address in addresses:
                pages.append(await http.serve(address, port or options.ports.get(name, 0), {f"/{name}": page}))
                options.ports[name] = pages[-1].sockets[0].getsockname()[1]
        log.info("nsk8s' DNS %s: what CoreDNS' Corefile says, by another program (docs/dns.md)", __version__)
        log.info("listening on %s, ports %s", " ".join(addresses), options.ports)
        source.start()
        server.seek_loops()
        while True:
            await source.until(changed, stop, server.looped)
            if server.looped.is_set():
                raise Nsk8sError(server.loop, remedy="forward to somebody else: https://coredns.io/plugins/loop#troubleshooting")
            if stop.is_set():
                break
            changed.clear()
            if said[-1].ports() != settings.ports():
                return
            settings, old = said[-1], source
            if settings.kubernetes != old.options:
                source = await old.succeeded(settings.kubernetes, stop)
            server.use(source.view, metrics, with_servers(settings.blocks))
            server.seek_loops()
            metrics.plugins = sorted(set(settings.plugins()))
        if settings.lameduck_s:
            log.info("going down in %g s", settings.lameduck_s)
            await asyncio.sleep(settings.lameduck_s)
    finally:
        for listener in pages:
            listener.close()
        await source.end()
        await server.stop()


async def _tell_changes(path: str, said: list[Settings], changed: asyncio.Event) -> None:
    """Add to `said` what the Corefile says anew; one that is wrong is told of once, and what was before goes on."""
    told = text = ""
    while said[-1].reload:
        await asyncio.sleep(RELOAD_S)
        try:
            before, text = text, read_conf(path)
            if text == before:
                continue
            found = corefile.parse(text, path)
            with_servers(found.blocks)
            if found != said[-1]:
                log.info("%s has changed", path)
                said[:] = [found]
                changed.set()
            told = ""
        except Nsk8sError as e:
            if e.message != told:
                log.error("%s; the configuration stays as it was", e.message)
            told = e.message


def main(argv: list[str]) -> int:
    try:
        options = parse(argv)
    except SystemExit as e:
        return int(e.code or 0)
    logging.basicConfig(
        level=logging.DEBUG if options.verbosity >= 4 else logging.INFO,
        format="%(levelname).1s%(asctime)s.%(msecs)03d %(process)7d %(name)s] %(message)s", datefmt="%m%d %H:%M:%S",
    )  # fmt: skip
    logging.getLogger("asyncio").setLevel(logging.WARNING)

    async def body() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        # The runtime starts us with these blocked: process 1 of a container loses what comes before there is a handler.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        said, changed = [settings_of(options)], asyncio.Event()
        watching = asyncio.ensure_future(_tell_changes(options.conf, said, changed))
        try:
            while not stop.is_set():
                await serve(options, said, changed, stop)
        finally:
            watching.cancel()

    try:
        asyncio.run(body())
    except Nsk8sError as e:
        print(f"error: {e.message}" + (f" ({e.remedy})" if e.remedy else ""), file=sys.stderr)
        return 1
    except OSError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0
