"""node add, remove, stop, start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from nsk8s.cli.common import cluster_option, loaded, with_client
from nsk8s.cli.lifecycle import Progress


@click.group(epilog="Example: sudo nsk8s node stop node2")
def node() -> None:
    """Add, remove, power off and boot nodes of a running cluster."""


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Steps on stderr; the one that fails is marked. Raises Nsk8sError for anyone but root."""
    from nsk8s.cluster.preflight import require_root

    require_root()
    progress = Progress()
    try:
        yield progress
    except BaseException:
        progress.failed()
        raise
    progress.done()


@node.command(epilog="Example: sudo nsk8s node add node4 --label disk=ssd --taint dedicated=db:NoSchedule")
@click.argument("node_name", metavar="NODE")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label to register with.")
@click.option("--taint", "taints", multiple=True, metavar="KEY=VALUE:EFFECT", help="A taint to register with.")
@click.option("--rack", default="", metavar="RACK", help="Where it stands (default: the first rack).")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait until it is Ready.")
@cluster_option
def add(node_name: str, labels: tuple[str, ...], taints: tuple[str, ...], rack: str, timeout: float, cluster: str) -> None:
    """Add a worker and wait until it is Ready."""
    from pydantic import ValidationError

    from nsk8s.cluster import lifecycle
    from nsk8s.config import Node
    from nsk8s.errors import Nsk8sError

    unclear = [label for label in labels if "=" not in label]
    if unclear:
        raise Nsk8sError(f"--label {unclear[0]} has no value", "--label KEY=VALUE")
    try:
        given = dict(label.partition("=")[::2] for label in labels)
        wanted = Node(name=node_name, labels=given, taints=list(taints), rack=rack)
    except ValidationError as e:
        what = e.errors()[0]
        if what["loc"][0] == "taints":
            remedy = "--taint KEY=VALUE:NoSchedule, PreferNoSchedule or NoExecute"
            raise Nsk8sError(f"{what['input']!r} is not a taint", remedy) from e
        raise Nsk8sError(f"{node_name!r} is not a node's name", "a-z, 0-9 and -, at most 15 of them") from e
    with _progress() as progress:
        lifecycle.add_node(cluster, wanted, progress)
        _wait(cluster, node_name, timeout, progress)
    click.echo(f"node/{node_name} added")


@node.command(epilog="Example: sudo nsk8s node start node2")
@click.argument("node_name", metavar="NODE")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait until it is Ready.")
@cluster_option
def start(node_name: str, timeout: float, cluster: str) -> None:
    """Boot a stopped node: its disk as it was; no rules, no connections, no pods."""
    from nsk8s.cluster import lifecycle, links

    with _progress() as progress:
        lifecycle.start_node(cluster, node_name, progress)
        cut = links.is_down(loaded(cluster)[1], node_name)
        if not cut:
            _wait(cluster, node_name, timeout, progress)
    click.echo(f"node/{node_name} started" + (f"; its link is down: nsk8s link up {node_name}" if cut else ""))


@node.command(epilog="Example: sudo nsk8s node stop node2 && kubectl get nodes -w")
@click.argument("node_name", metavar="NODE")
@cluster_option
def stop(node_name: str, cluster: str) -> None:
    """Cut a node's power: first its link, then every process, then the machine. Nothing is told to the cluster."""
    from nsk8s.cluster import lifecycle

    with _progress() as progress:
        lifecycle.stop_node(cluster, node_name, progress)
    click.echo(f"node/{node_name} stopped")


@node.command(epilog="Example: sudo nsk8s node remove node4")
@click.argument("node_name", metavar="NODE")
@cluster_option
def remove(node_name: str, cluster: str) -> None:
    """Remove a worker for good: the machine and its disk, the Node object, and what is left of its pods.

    The garbage collector would wait a minute before it believes that the pods of a missing node are gone; here it is known.
    """
    from nsk8s.api import meta
    from nsk8s.client.resources import NODES, PODS
    from nsk8s.client.rest import Client
    from nsk8s.cluster import lifecycle
    from nsk8s.errors import NotFound

    async def forget(client: Client) -> None:
        with contextlib.suppress(NotFound):
            await client.delete(NODES, node_name)
        for pod in (await client.list(PODS, field_selector=f"spec.nodeName={node_name}"))["items"]:
            with contextlib.suppress(NotFound):
                await client.delete(PODS, meta.name(pod), meta.namespace(pod), grace_period_s=0, uid=meta.uid(pod))

    with _progress() as progress:
        lifecycle.remove_node(cluster, node_name, progress)
        progress("Node object and pods")
        with_client(cluster, forget)
    click.echo(f"node/{node_name} removed")


def _wait(cluster: str, name: str, timeout: float, progress: Progress) -> None:
    import time

    from nsk8s.client.rest import Client
    from nsk8s.cluster import ready
    from nsk8s.cluster.state import Paths

    progress("Ready")

    async def wait(client: Client) -> None:
        await client.wait_ready(timeout)  # the node may be the control plane
        await ready.wait_nodes(client, Paths(cluster), {name}, time.monotonic() + timeout)

    with_client(cluster, wait)
