"""Cluster DNS: `nsk8s component dns`, and the pod behind kube-dns. Upstream: CoreDNS. Touches: sockets, the API, signals.

`up` waits for it, so it starts lean: argparse instead of click, ports bound before the API client is imported.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from nsk8s.dns import corefile
from nsk8s.dns.corefile import NO_PAGE, Settings
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
    return Settings(
        domain=options.cluster_domain, forward=(("", options.forward),) if options.forward else (), port=options.port,
        health_port=options.health_port, ready_port=options.ready_port, metrics_port=options.metrics_port,
        lameduck_s=options.lameduck_s,
    )  # fmt: skip


def read_conf(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except (OSError, UnicodeDecodeError) as e:
        raise Nsk8sError(f"cannot read {path}: {getattr(e, 'strerror', '') or e}") from e


def forwards(settings: Settings) -> list[tuple[str, list[tuple[str, int]]]]:
    """With the name servers that /etc/resolv.conf has now in its place."""
    found = []
    for zone, servers in settings.forward:
        each: list[tuple[str, int]] = []
        for server in servers:
            if server[0] == corefile.RESOLV_CONF:
                each += corefile.resolv_conf_servers(read_conf(corefile.RESOLV_CONF))
            else:
                each.append(server)
        found.append((zone, each))
    return found


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


async def serve(options: Options, settings: Settings, end: asyncio.Event, stop: asyncio.Event) -> None:
    """Bind, then read the API, then be ready; until `end`, which comes with `stop` or with other settings."""
    from nsk8s.client import pages as http
    from nsk8s.dns.metrics import Metrics
    from nsk8s.dns.server import DNSServer
    from nsk8s.dns.view import View

    view = View(
        settings.domain, local_addresses(), reverse=settings.reverse, pods=settings.pods, ttl_s=settings.ttl_s,
        namespaces=settings.namespaces, ignore_empty=settings.ignore_empty,
    )  # fmt: skip
    metrics = Metrics()
    synced = asyncio.Event()

    async def health_page() -> tuple[int, str]:
        return 200, "OK"

    async def ready_page() -> tuple[int, str]:
        if not end.is_set():
            try:
                await asyncio.wait_for(synced.wait(), READY_PATIENCE_S)
                return 200, "OK"
            except TimeoutError:
                pass
        return 503, "kubernetes"

    async def metrics_page() -> tuple[int, str]:
        return 200, metrics.render()

    server = DNSServer(view, metrics, forwards(settings), settings.fallthrough)
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
        log.info("listening on %s, ports %s", " ".join(addresses), options.ports)
        await _follow(options, view, synced, end)
        if settings.lameduck_s and stop.is_set():
            log.info("going down in %g s", settings.lameduck_s)
            await asyncio.sleep(settings.lameduck_s)
    finally:
        for listener in pages:
            listener.close()
        await server.stop()


@contextmanager
def _no_system_certificates() -> Iterator[None]:
    """aiohttp reads the machine's CA bundle as it is imported, 30 to 90 ms; the cluster's own CA is not in there anyway."""
    saved = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ.update(dict.fromkeys(saved, os.devnull))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def _follow(options: Options, view: object, synced: asyncio.Event, stop: asyncio.Event) -> None:
    """Keep `view` true to the API until `stop`."""
    with _no_system_certificates():
        from nsk8s.client import kubeconfig
        from nsk8s.client.informer import Informer, wait_synced
        from nsk8s.client.resources import ENDPOINTSLICES, NAMESPACES, SERVICES
        from nsk8s.client.rest import Client
    from nsk8s.dns.view import View

    assert isinstance(view, View)
    config = kubeconfig.load(options.kubeconfig) if options.kubeconfig else kubeconfig.in_cluster()
    async with Client(config, user_agent="nsk8s-dns") as client:
        informers = [Informer(client, resource) for resource in (NAMESPACES, SERVICES, ENDPOINTSLICES)]
        changed = (view.namespace_changed, view.service_changed, view.slice_changed)
        for informer, handler in zip(informers, changed, strict=True):
            informer.add_handler(handler)
        running = [asyncio.ensure_future(informer.run()) for informer in informers]
        stopped = asyncio.ensure_future(stop.wait())
        first = asyncio.ensure_future(wait_synced(*informers))
        try:
            await asyncio.wait([first, stopped, *running], return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                view.synced = True
                synced.set()
                log.info("synced: %d services", len(informers[1].keys()))
            done, _ = await asyncio.wait([stopped, *running], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
        finally:
            tasks = [stopped, first, *running]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _end_with(stop: asyncio.Event, end: asyncio.Event) -> None:
    await stop.wait()
    end.set()


async def _end_with_change(path: str, said: list[Settings], end: asyncio.Event) -> None:
    """Set `end` when the Corefile says something else than the last of `said`, and add that; one that is wrong is told of once,
    and what was before goes on."""
    told = ""
    while not end.is_set():
        await asyncio.sleep(RELOAD_S)
        try:
            found = corefile.parse(read_conf(path), path)
            if found != said[-1]:
                log.info("%s has changed", path)
                said.append(found)
                end.set()
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
        said = [settings_of(options)]
        while not stop.is_set():
            settings, end = said[-1], asyncio.Event()
            watching = [asyncio.ensure_future(_end_with(stop, end))]
            if settings.reload:
                watching.append(asyncio.ensure_future(_end_with_change(options.conf, said, end)))
            try:
                await serve(options, settings, end, stop)
            finally:
                for task in watching:
                    task.cancel()

    try:
        asyncio.run(body())
    except Nsk8sError as e:
        print(f"error: {e.message}" + (f" ({e.remedy})" if e.remedy else ""), file=sys.stderr)
        return 1
    except OSError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0
