"""`network-policy`: the agent that enforces NetworkPolicies on a node. Touches: what `agent` does."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address, ip_network

import click

from nsk8s.client.component import CONTEXT_SETTINGS, invoke, run, setup_logging


def _cidrs(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(c.strip())) for c in value.split(",") if c.strip())
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


def _address(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, int] | None:
    """`IP:PORT`, `[IP]:PORT`; None for an empty text."""
    if not value:
        return None
    host, _, port = value.rpartition(":")
    try:
        return str(ip_address(host.removeprefix("[").removesuffix("]"))), int(port)
    except ValueError as e:
        raise click.BadParameter(f"{value!r} is no IP:PORT") from e


@click.command(context_settings=CONTEXT_SETTINGS)
@click.option("--kubeconfig", default="", metavar="FILE", help="How to reach the API server (default: a pod's service account).")
@click.option("--node-name", default="", metavar="NODE", help="The name of this node (default: the host name).")
@click.option("--cluster-cidr", default="", callback=_cidrs, metavar="CIDR[,CIDR]",
              help="All pods' addresses: held until the policies are known.")
@click.option("--min-sync-period", "pause_s", type=click.FloatRange(0, 60), default=0.1, show_default=True, metavar="SECONDS",
              help="Time between syncs.")
@click.option("--metrics-bind-address", "pages", default="127.0.0.1:10262", show_default=True, callback=_address,
              metavar="IP:PORT", help="Where /healthz and /metrics are; nothing for nowhere.")
@click.option("-v", "--v", "verbosity", type=int, default=2, show_default=True, help="Log level; 4 and above for debugging.")
def _command(
    kubeconfig: str, node_name: str, cluster_cidr: tuple[str, ...], pause_s: float, pages: tuple[str, int] | None, verbosity: int
) -> int:  # fmt: skip
    """Enforce NetworkPolicies on this node with nftables rules.

    Example: network-policy --kubeconfig /etc/kubernetes/network-policy.conf --node-name node1 --cluster-cidr 10.244.0.0/16
    """
    from nsk8s.networkpolicy.agent import Agent

    setup_logging(verbosity)
    node = node_name or socket.gethostname().lower()

    async def serve(stop: asyncio.Event) -> None:
        await Agent(node, cluster_cidr, kubeconfig_path=kubeconfig, pause_s=pause_s, pages=pages).serve(stop)

    return run(serve)


def main(argv: list[str]) -> int:
    """Run network-policy until SIGTERM; returns the exit code."""
    return invoke(_command, argv)
