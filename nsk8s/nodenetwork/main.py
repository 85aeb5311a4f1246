"""`node-network`: the agent that makes a node part of the pod network. Upstream: flanneld. Touches: what `agent` does."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network
from pathlib import Path

import click

from nsk8s.client.component import CONTEXT_SETTINGS, invoke, run, setup_logging
from nsk8s.client.podnetconfig import bgp_options
from nsk8s.kernel.iptables import VARIANTS
from nsk8s.net import podnet
from nsk8s.net.podnet import Bgp


def _cidrs(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(c.strip())) for c in value.split(",") if c.strip())
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


def _expose(context: click.Context, parameter: click.Parameter, value: str) -> frozenset[str]:
    try:
        return podnet.parse_expose(value)
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


@click.command(context_settings=CONTEXT_SETTINGS)
@click.option("--kubeconfig", default="", metavar="FILE", help="How to reach the API server (default: a pod's service account).")
@click.option("--node-name", default="", metavar="NODE", help="The name of this node (default: the host name).")
@click.option("--cluster-cidr", required=True, callback=_cidrs, metavar="CIDR[,CIDR]", help="All pods' addresses.")
@click.option("--node-cidr", default="", callback=_cidrs, metavar="CIDR[,CIDR]", help="The nodes' addresses: not masqueraded to.")
@click.option("--service-cidr", default="", callback=_cidrs, metavar="CIDR[,CIDR]", help="Services' addresses: likewise.")
@click.option("--cni-conf-dir", default="/etc/cni/net.d", show_default=True, metavar="DIR", help="Where the conflist goes.")
@click.option("--cni-conf-template-dir", default="", metavar="DIR",
              help="Templates of CNI configurations, written there for this node in place of the conflist.")
@click.option("--mode", type=click.Choice(podnet.MODES), default="routes", show_default=True, help="How pods are reached.")
@click.option("--expose", default="", callback=_expose, metavar="pods,services", help="What the router leads here from outside.")
@bgp_options
@click.option("--bird-dir", default="/run/node-network-bird", show_default=True, metavar="DIR",
              help="Where mode bgp's BIRD has its files.")
@click.option("--bird-conf", default="", metavar="FILE", help="BIRD's configuration, written over (default: DIR/bird.conf).")
@click.option("--mtu", type=click.IntRange(0, 65535), default=0, show_default=True, help="Pods' MTU at most; 0: the way's.")
@click.option("--iptables", "variant", type=click.Choice(VARIANTS), default="auto", show_default=True, help="Which iptables.")
@click.option("-v", "--v", "verbosity", type=int, default=2, show_default=True, help="Log level; 4 and above for debugging.")
def _command(
    kubeconfig: str, node_name: str, cluster_cidr: tuple[str, ...], node_cidr: tuple[str, ...], service_cidr: tuple[str, ...],
    cni_conf_dir: str, cni_conf_template_dir: str, mtu: int, mode: str, expose: frozenset[str], bgp: Bgp,
    bird_dir: str, bird_conf: str, variant: str, verbosity: int,
) -> int:  # fmt: skip
    """Keep this node's CNI configuration, its routes to other nodes' pods, and the masquerade of what leaves the cluster.

    The ConfigMap kube-system/node-network, when there is one, wins over --mode, --expose and --bgp-….

    Example: node-network --kubeconfig /etc/kubernetes/node-network.conf --node-name node1 --cluster-cidr 10.244.0.0/16
    --node-cidr 192.168.56.0/24
    """
    from nsk8s.nodenetwork.agent import Agent
    from nsk8s.nodenetwork.cnifiles import CniFiles

    setup_logging(verbosity)
    agent_arguments = node_name or socket.gethostname().lower(), cluster_cidr, (*node_cidr, *service_cidr)
    templates = Path(cni_conf_template_dir) if cni_conf_template_dir else None
    own = CniFiles(Path(cni_conf_dir), templates, cluster_cidr, service_cidr, mtu)

    async def serve(stop: asyncio.Event) -> None:
        await Agent(
            *agent_arguments, cni=own, kubeconfig_path=kubeconfig, variant=variant,
            settings=podnet.Settings(mode, expose, bgp),
            bird_run=Path(bird_dir), bird_conf=Path(bird_conf) if bird_conf else None,
        ).serve(stop)

    return run(serve)


def main(argv: list[str]) -> int:
    """Run node-network until SIGTERM; returns the exit code."""
    return invoke(_command, argv)
