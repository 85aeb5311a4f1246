"""The three load balancer components: `cloud-controller-manager`, `router-agent`, `speaker`. Touches: what they touch."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network
from typing import Any

import click

from nsk8s.client import kubeconfig, leaderelection
from nsk8s.client.component import CONTEXT_SETTINGS, invoke, run, setup_logging, until
from nsk8s.client.podnetconfig import bgp_options
from nsk8s.client.rest import Client
from nsk8s.loadbalancer.controller import ServiceController
from nsk8s.loadbalancer.pool import Pool
from nsk8s.loadbalancer.router import RouterAgent
from nsk8s.loadbalancer.speaker import Speaker
from nsk8s.net import podnet
from nsk8s.net.podnet import Bgp


def _pool(context: click.Context, parameter: click.Parameter, value: str) -> Pool:
    try:
        return Pool(*(ip_network(cidr.strip()) for cidr in value.split(",")))
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


_kubeconfig = click.option("--kubeconfig", "path", required=True, metavar="FILE", help="How to reach the API server.")
_addresses = click.option(
    "--load-balancer-pool", "pool", required=True, callback=_pool, metavar="CIDR[,CIDR]", help="The addresses of load balancers."
)
_verbosity = click.option("-v", "--v", "verbosity", type=int, default=2, show_default=True, help="4 and above for debugging.")


@click.command("cloud-controller-manager", context_settings=CONTEXT_SETTINGS)
@_kubeconfig
@_addresses
@click.option("--leader-elect", type=bool, is_flag=False, flag_value=True, default=True, show_default=True, help="Hold a Lease.")
@_verbosity
def _controller_manager(path: str, pool: Pool, leader_elect: bool, verbosity: int) -> int:
    """Give Services of type LoadBalancer their address. Of upstream's controllers this has the service controller.

    Example: cloud-controller-manager --kubeconfig /etc/kubernetes/cloud-controller-manager.conf
    --load-balancer-pool 10.100.0.0/16
    """
    setup_logging(verbosity)
    config = kubeconfig.load(path)

    async def serve(stop: asyncio.Event) -> None:
        async with Client(config, user_agent="cloud-controller-manager") as client:

            async def work() -> None:
                await ServiceController(client, pool).run()

            lead = leaderelection.lead(client, "cloud-controller-manager", leaderelection.own_identity(), work)
            await until(stop, lead if leader_elect else work())

    return run(serve)


def _expose(context: click.Context, parameter: click.Parameter, value: str) -> frozenset[str]:
    try:
        return podnet.parse_expose(value)
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


def _network(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(c.strip())) for c in value.split(",") if c.strip())
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


@click.command("router-agent", context_settings=CONTEXT_SETTINGS)
@_kubeconfig
@click.option(
    "--load-balancer-pool", "pool", default=None, callback=lambda c, p, v: _pool(c, p, v) if v else None, metavar="CIDR[,CIDR]",
    help="The addresses of load balancers, when they are led here.",
)  # fmt: skip
@click.option("--mode", type=click.Choice(podnet.MODES), default="routes", show_default=True, help="How pods are reached.")
@click.option("--expose", default="", callback=_expose, metavar="pods,services", help="What is reached from outside.")
@bgp_options
@click.option("--bird-dir", default="/run/bird", show_default=True, metavar="DIR", help="Where a reflecting BIRD has its files.")
@click.option("--service-cidr", default="", callback=_network, metavar="CIDR[,CIDR]", help="Services' addresses.")
@click.option(
    "--inside", default="eth0", show_default=True, callback=lambda c, p, v: tuple(v.split(",")), metavar="NAME[,NAME]",
    help="The interfaces to the nodes, one a rack. With several, pods of one rack reach the others' through here.",
)  # fmt: skip
@_verbosity
def _router_agent(
    path: str, pool: Pool | None, mode: str, expose: frozenset[str], service_cidr: tuple[str, ...], inside: tuple[str, ...],
    bgp: Bgp, bird_dir: str, verbosity: int,
) -> int:  # fmt: skip
    """Lead load balancers' addresses and services to the nodes over equal paths, and pods to their nodes. Runs on the router.

    The ConfigMap kube-system/node-network, when there is one, wins over --mode, --expose and --bgp-….

    Example: router-agent --kubeconfig router-agent.conf --load-balancer-pool 10.100.0.0/16 --mode router
    """
    setup_logging(verbosity)
    return run(RouterAgent(path, pool, podnet.Settings(mode, expose, bgp), service_cidr, inside, bird_dir).serve)


@click.command("speaker", context_settings=CONTEXT_SETTINGS)
@_kubeconfig
@_addresses
@click.option("--node-name", default="", metavar="NODE", help="The name of this node (default: the host name).")
@click.option("--interface", default="eth0", show_default=True, metavar="NAME", help="Where ARP and NDP are answered.")
@_verbosity
def _speaker(path: str, pool: Pool, verbosity: int, **names: Any) -> int:
    """Answer ARP and neighbour discovery for load balancers' addresses, each from one node.

    Example: speaker --kubeconfig /etc/kubernetes/speaker.conf --load-balancer-pool 10.100.0.0/16 --node-name node1
    """
    setup_logging(verbosity)
    node = names["node_name"] or socket.gethostname().lower()
    return run(Speaker(node, path, pool, names["interface"]).serve)


def controller_manager(argv: list[str]) -> int:
    return invoke(_controller_manager, argv)


def router_agent(argv: list[str]) -> int:
    return invoke(_router_agent, argv)


def speaker(argv: list[str]) -> int:
    return invoke(_speaker, argv)
