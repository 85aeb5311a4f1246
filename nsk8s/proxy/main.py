"""`kube-proxy`: flags as upstream's. Upstream: cmd/kube-proxy. Touches: what `server` touches."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import click

from nsk8s.client.component import CONTEXT_SETTINGS, invoke, run, setup_logging
from nsk8s.errors import Nsk8sError
from nsk8s.kernel.iptables import VARIANTS
from nsk8s.proxy import config as configuration
from nsk8s.proxy.config import Config


def _config(path: str, hostname: str, flags: dict[str, Any]) -> Config:
    """As upstream: with --config the file alone counts, but for --hostname-override and --kubeconfig (which fills a gap)."""
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    for name in ("sync_period_s", "min_sync_period_s", "udp_idle_timeout_s"):
        if name in given:
            given[name] = configuration.seconds(name, given[name])
    if "node_port_addresses" in given:
        given["node_port_addresses"] = tuple(a.strip() for v in given["node_port_addresses"] for a in v.split(",") if a.strip())
    if path:
        config = configuration.load(path)
        given = {"kubeconfig": given["kubeconfig"]} if given.get("kubeconfig") else {}
    else:
        config = configuration.defaults(given.get("bind_address", ""))
    if hostname:
        given["hostname_override"] = hostname
    config = replace(config, **given)
    return replace(config, hostname_override=config.hostname_override.strip().lower()).validated()


@click.command(context_settings=CONTEXT_SETTINGS)
@click.option("--kubeconfig", metavar="FILE", help="How to reach the API server (default: a pod's service account).")
@click.option("--hostname-override", default="", metavar="NODE", help="The name of this node (default: the host name).")
@click.option("--config", "path", default="", metavar="FILE", help="A KubeProxyConfiguration; other flags then hardly count.")
@click.option("--cluster-cidr", metavar="CIDR[,CIDR]", help="The pods' addresses: traffic from elsewhere is masqueraded.")
@click.option("--proxy-mode", "mode", metavar="MODE", help="iptables (the default), nftables or userspace.")
@click.option("--masquerade-all/--no-masquerade-all", default=None, help="Masquerade all traffic to ClusterIPs.")
@click.option("--iptables-masquerade-bit", "masquerade_bit", type=click.IntRange(0, 31), help="The mark (default bit 14).")
@click.option("--iptables-sync-period", "sync_period_s", metavar="DURATION", help="Look after the rules so often (default 30s).")
@click.option("--iptables-min-sync-period", "min_sync_period_s", metavar="DURATION", help="Time between syncs (default 1s).")
@click.option("--iptables-localhost-nodeports/--no-iptables-localhost-nodeports", "localhost_node_ports", default=None,
              help="Node ports also on 127.0.0.1 (default yes).")
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
@click.option("--cleanup", is_flag=True, help="Remove kube-proxy's rules and exit.")
@click.option("--iptables", "variant", type=click.Choice(VARIANTS), default="auto", show_default=True, help="Which iptables.")
@click.option("-v", "--v", "verbosity", type=int, default=2, show_default=True, help="Log level; 4 and above for debugging.")
def _command(path: str, hostname_override: str, cleanup: bool, variant: str, verbosity: int, **flags: Any) -> int:
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
    try:
        config = _config(path, hostname_override, flags)
    except Nsk8sError as e:
        raise click.ClickException(e.message + (f" ({e.remedy})" if e.remedy else "")) from e

    async def serve(stop: asyncio.Event) -> None:
        await Server(config, variant).serve(stop)

    return run(serve)


_BOOLEANS = ("masquerade-all", "iptables-localhost-nodeports", "cleanup")


def _plain(argument: str) -> str:
    """Go's spelling of a switch (--masquerade-all=false) in click's."""
    name, given, value = argument.removeprefix("--").partition("=")
    if not given or name not in _BOOLEANS or value not in ("true", "false"):
        return argument
    return f"--{name}" if value == "true" else f"--no-{name}"


def main(argv: list[str]) -> int:
    """Run kube-proxy until SIGTERM; returns the exit code."""
    return invoke(_command, [_plain(a) for a in argv])
