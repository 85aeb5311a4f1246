"""`kube-proxy`: flags as upstream's. Upstream: cmd/kube-proxy. Touches: what `server` touches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from nsk8s.client.component import CONTEXT_SETTINGS, invoke, run, setup_logging
from nsk8s.errors import Nsk8sError
from nsk8s.kernel.iptables import VARIANTS
from nsk8s.proxy import config as configuration
from nsk8s.proxy import configfile
from nsk8s.proxy.config import Config
from nsk8s.proxy.configwatch import ConfigWatch

_DURATIONS = (
    "sync_period_s", "min_sync_period_s", "udp_idle_timeout_s", "tcp_established_timeout_s", "tcp_close_wait_timeout_s",
    "udp_timeout_s", "udp_stream_timeout_s", "ipvs_sync_period_s", "ipvs_min_sync_period_s", "ipvs_tcp_timeout_s",
    "ipvs_tcp_fin_timeout_s", "ipvs_udp_timeout_s",
)  # fmt: skip
_NO_EFFECT = (
    "config-sync-period", "conntrack-max-per-core", "conntrack-min", "feature-gates", "kube-api-burst", "kube-api-content-type",
    "kube-api-qps", "logging-format", "log-flush-frequency", "show-hidden-metrics-for-version", "vmodule",
)  # fmt: skip
"""Upstream's flags that change nothing here: taken, and named in the log."""


def _config(path: str, hostname: str, flags: dict[str, Any]) -> Config:
    """As upstream: with --config the file alone counts, but for --hostname-override and --kubeconfig (which fills a gap)."""
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    ignored = tuple(f"--{name} has no effect" for name in _NO_EFFECT if given.pop(name.replace("-", "_"), None) is not None)
    for name in given.keys() & set(_DURATIONS):
        given[name] = configuration.seconds(name, given[name])
    for name in ("sync_period_s", "min_sync_period_s"):
        period = given.pop(f"ipvs_{name}", None)
        if given.get("mode") == "ipvs":
            given.pop(name, None)
            given |= {} if period is None else {name: period}
    for name in given.keys() & {"node_port_addresses", "ipvs_exclude_cidrs"}:
        given[name] = tuple(a.strip() for v in given[name] for a in v.split(",") if a.strip())
    if path:
        config = configfile.load(path)
        given = {"kubeconfig": given["kubeconfig"]} if given.get("kubeconfig") and not config.kubeconfig else {}
    else:
        config = configuration.defaults(given.get("bind_address", ""))
    if hostname:
        given["hostname_override"] = hostname
    config = replace(config, **given, warnings=(*config.warnings, *ignored))
    return replace(config, hostname_override=config.hostname_override.strip().lower()).validated()


def _taken_and_ignored(command: Callable[..., int]) -> Callable[..., int]:
    for name in _NO_EFFECT:
        command = click.option(f"--{name}", metavar="VALUE", hidden=True)(command)
    return command


@click.command(context_settings=CONTEXT_SETTINGS)
@click.option("--kubeconfig", metavar="FILE", help="How to reach the API server (default: a pod's service account).")
@click.option("--hostname-override", default="", metavar="NODE", help="The name of this node (default: the host name).")
@click.option("--config", "path", default="", metavar="FILE",
              help="A KubeProxyConfiguration; other flags then hardly count. When it changes, kube-proxy ends with an error.")
@click.option("--cluster-cidr", metavar="CIDR[,CIDR]", help="The pods' addresses: traffic from elsewhere is masqueraded.")
@click.option("--proxy-mode", "mode", metavar="MODE", help="iptables (the default), nftables, ipvs or userspace.")
@click.option("--masquerade-all/--no-masquerade-all", default=None, help="Masquerade all traffic to ClusterIPs.")
@click.option("--iptables-masquerade-bit", "masquerade_bit", type=click.IntRange(0, 31), help="The mark (default bit 14).")
@click.option("--iptables-sync-period", "sync_period_s", metavar="DURATION", help="Look after the rules so often (default 30s).")
@click.option("--iptables-min-sync-period", "min_sync_period_s", metavar="DURATION", help="Time between syncs (default 1s).")
@click.option("--iptables-localhost-nodeports/--no-iptables-localhost-nodeports", "localhost_node_ports", default=None,
              help="Node ports also on 127.0.0.1 (default yes).")
@click.option("--ipvs-scheduler", metavar="NAME", help=f"{', '.join(configuration.SCHEDULERS)} (default rr).")
@click.option("--ipvs-exclude-cidrs", multiple=True, metavar="CIDR", help="Virtual servers that are somebody else's.")
@click.option("--ipvs-strict-arp/--no-ipvs-strict-arp", default=None, help="Answer ARP for an interface's own addresses only.")
@click.option("--ipvs-sync-period", "ipvs_sync_period_s", metavar="DURATION", help="ipvs mode's (default 30s).")
@click.option("--ipvs-min-sync-period", "ipvs_min_sync_period_s", metavar="DURATION", help="ipvs mode's (default 1s).")
@click.option("--ipvs-tcp-timeout", "ipvs_tcp_timeout_s", metavar="DURATION", help="Of silent connections (0: the kernel's).")
@click.option("--ipvs-tcpfin-timeout", "ipvs_tcp_fin_timeout_s", metavar="DURATION", help="The same after a FIN.")
@click.option("--ipvs-udp-timeout", "ipvs_udp_timeout_s", metavar="DURATION", help="The same for UDP.")
@click.option("--udp-timeout", "udp_idle_timeout_s", metavar="DURATION", help="userspace mode: a UDP client's time (250ms).")
@click.option("--proxy-port-range", "port_range", metavar="FROM-TO", help="userspace mode: the ports to listen on (default any).")
@click.option("--nodeport-addresses", "node_port_addresses", multiple=True, metavar="CIDR",
              help="Addresses that serve node ports, or `primary` (default: all).")
@click.option("--detect-local-mode", metavar="MODE", help=f"{', '.join(configuration.DETECT_MODES)}.")
@click.option("--pod-bridge-interface", "bridge_interface", metavar="NAME", help="For detect-local-mode BridgeInterface.")
@click.option("--pod-interface-name-prefix", "interface_name_prefix", metavar="PREFIX", help="For InterfaceNamePrefix.")
@click.option("--bind-address", metavar="IP", help="With an IPv6 one health and metrics are served on IPv6 (default 0.0.0.0).")
@click.option("--metrics-bind-address", metavar="IP:PORT", help="Default 127.0.0.1:10249; empty for none.")
@click.option("--healthz-bind-address", metavar="IP:PORT", help="Default 0.0.0.0:10256; empty for none.")
@click.option("--bind-address-hard-fail/--no-bind-address-hard-fail", default=None, help="End when an address is taken.")
@click.option("--conntrack-tcp-timeout-established", "tcp_established_timeout_s", metavar="DURATION", help="Default 24h.")
@click.option("--conntrack-tcp-timeout-close-wait", "tcp_close_wait_timeout_s", metavar="DURATION", help="Default 1h.")
@click.option("--conntrack-udp-timeout", "udp_timeout_s", metavar="DURATION", help="Default: the kernel's.")
@click.option("--conntrack-udp-timeout-stream", "udp_stream_timeout_s", metavar="DURATION", help="Default: the kernel's.")
@click.option("--conntrack-tcp-be-liberal/--no-conntrack-tcp-be-liberal", "tcp_be_liberal", default=None,
              help="Nothing is INVALID for its sequence numbers.")
@click.option("--oom-score-adj", type=int, metavar="N", help="This process' (default: left alone).")
@click.option("--profiling/--no-profiling", default=None, hidden=True)
@click.option("--master", default="", metavar="URL", help="The API server, whatever the kubeconfig says.")
@click.option("--write-config-to", "written", default="", metavar="FILE", help="Write what --config can read, and exit.")
@click.option("--init-only", is_flag=True, help="Set what needs root (sysctls) and exit.")
@_taken_and_ignored
@click.option("--cleanup", is_flag=True, help="Remove kube-proxy's rules and exit.")
@click.option("--iptables", "variant", type=click.Choice(VARIANTS), default="auto", show_default=True, help="Which iptables.")
@click.option("-v", "--v", "verbosity", type=int, default=2, show_default=True, help="Log level; 4 and above for debugging.")
def _command(
    path: str, hostname_override: str, cleanup: bool, variant: str, verbosity: int, master: str, written: str, init_only: bool,
    profiling: bool | None, **flags: Any,
) -> int:  # fmt: skip
    """Write the rules of Services on this node (in userspace mode: proxy their connections).

    Example: kube-proxy --kubeconfig /etc/kubernetes/kube-proxy.conf --hostname-override node1 --cluster-cidr 10.244.0.0/16
    """
    from nsk8s.proxy.cleanup import clean_up_all
    from nsk8s.proxy.server import Server, refuse_root_namespace

    setup_logging(verbosity)
    if cleanup:

        async def clean(_: asyncio.Event) -> None:
            refuse_root_namespace()
            await clean_up_all(variant)

        return run(clean)
    watch = ConfigWatch(path) if path else None
    try:
        config = _config(path, hostname_override, flags)
        if written:
            Path(written).write_text(yaml.safe_dump(configfile.to_document(config), sort_keys=False))
            return 0
    except Nsk8sError as e:
        raise click.ClickException(e.message + (f" ({e.remedy})" if e.remedy else "")) from e
    except OSError as e:
        raise click.ClickException(f"cannot write {written}: {e.strerror}") from e
    if config.verbosity is not None:
        setup_logging(config.verbosity)

    async def serve(stop: asyncio.Event) -> None:
        server = Server(config, variant, master.rstrip("/"), watch)
        if init_only:
            server.initialise()
        else:
            await server.serve(stop)

    return run(serve)


_BOOLEANS = (
    "masquerade-all", "iptables-localhost-nodeports", "cleanup", "bind-address-hard-fail", "conntrack-tcp-be-liberal",
    "profiling", "ipvs-strict-arp",
)  # fmt: skip


def _plain(argument: str) -> str:
    """Go's spelling of a switch (--masquerade-all=false) in click's."""
    name, given, value = argument.removeprefix("--").partition("=")
    if not given or name not in _BOOLEANS or value not in ("true", "false"):
        return argument
    return f"--{name}" if value == "true" else f"--no-{name}"


def main(argv: list[str]) -> int:
    """Run kube-proxy until SIGTERM; returns the exit code."""
    return invoke(_command, [_plain(a) for a in argv])
