"""link set, down, up, show: the cables between machines."""

from __future__ import annotations

from typing import Any

import click

from nsk8s.cli.common import cluster_option, loaded, output_option, print_json, table, with_client


@click.group(epilog="Example: sudo nsk8s link down node2 && kubectl get nodes -w")
def link() -> None:
    """Cut, mend and shape the cables of a running cluster: of a node, of the router (to the switch), of the outside client.

    What is set stays with the cable: a node that is stopped and started again finds it as it was.
    """


@link.command(epilog="Example: sudo nsk8s link down node2")
@click.argument("machine", metavar="MACHINE")
@cluster_option
def down(machine: str, cluster: str) -> None:
    """Cut a cable: the port that the machine is plugged into goes down. Nothing on the machine is touched."""
    _change(cluster, machine, {"down": True}, "LinkDown", "its port on {port} was switched off")
    click.echo(f"link/{machine} is down")


@link.command(epilog="Example: sudo nsk8s link up node2")
@click.argument("machine", metavar="MACHINE")
@cluster_option
def up(machine: str, cluster: str) -> None:
    """Mend a cut cable."""
    _change(cluster, machine, {"down": False}, "LinkUp", "its port on {port} was switched on")
    click.echo(f"link/{machine} is up")


@link.command("set", epilog="Example: sudo nsk8s link set node2 --rate 10mbit --mtu 1400; sudo nsk8s link set node2 --rate none")
@click.argument("machine", metavar="MACHINE")
@click.option("--rate", metavar="RATE", help="What goes through in each direction: 10mbit, 1gbit (a token bucket).")
@click.option("--burst", metavar="SIZE", help="How much goes at once: 32kb (default: 10 ms of the rate).")
@click.option("--latency", metavar="TIME", help="How long a packet waits for its turn at most: 50ms, the default.")
@click.option("--delay", metavar="TIME", help="How long each packet takes, in each direction: 20ms. Needs netem in the kernel.")
@click.option("--jitter", metavar="TIME", help="How much that varies: 5ms.")
@click.option("--loss", metavar="PERCENT", help="How many packets are lost: 1%. Needs netem in the kernel.")
@click.option("--mtu", type=click.IntRange(68, 65535), help="The largest packet, at both ends (made with 1500).")
@click.option(
    "--offload", type=click.Choice(["on", "off"]),
    help="off: the machine's interfaces, and its pods', compute checksums and cut segments themselves.",
)  # fmt: skip
@cluster_option
def set_(machine: str, cluster: str, mtu: int | None, offload: str | None, **texts: str | None) -> None:
    """Shape a cable, both directions alike. What is not named stays; `none` takes a setting away."""
    changes: dict[str, Any] = {**{k: v for k, v in texts.items() if v is not None}, **({"mtu": mtu} if mtu else {})}
    if offload is not None:
        changes["offload"] = offload == "on"
    if not changes:
        raise click.UsageError("nothing to set: --rate, --delay, --loss, --mtu or --offload")
    said = _change(cluster, machine, changes, "LinkChanged", "{words}")
    click.echo(f"link/{machine} set: {said}")


def _change(cluster: str, machine: str, changes: dict[str, Any], reason: str, why: str) -> str:
    """Keep and apply the changes, and tell the API; what the cable is set to now, in words."""
    from nsk8s.cluster import lifecycle

    settings, port = lifecycle.set_link(cluster, machine, changes)
    _tell(cluster, machine, reason, why.format(port=port, words=settings.words()))
    return settings.words()


def _tell(cluster: str, machine: str, reason: str, why: str) -> None:
    """An Event on the Node, when the API answers; the cable is what it is either way."""
    import asyncio

    from nsk8s.client.events import NORMAL, WARNING, EventRecorder
    from nsk8s.client.rest import Client
    from nsk8s.errors import Nsk8sError

    _, state = loaded(cluster)
    if not any(n.name == machine for n in state.nodes):
        return  # there is no Node to tell it of

    async def tell(client: Client) -> None:
        # As a kubelet's: its Events name the Node, and its name as uid.
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": machine, "uid": machine}}
        async with asyncio.timeout(5):
            kind = WARNING if reason == "LinkDown" else NORMAL
            await EventRecorder(client, "nsk8s").tell(node, kind, reason, f"Link of {machine}: {why}")

    try:
        with_client(cluster, tell)
    except (Nsk8sError, TimeoutError) as e:
        click.echo(f"no Event was written: {e or 'the API server does not answer'}", err=True)


@link.command(epilog="Example: sudo nsk8s link show -o json | jq '.[] | {machine, state, counters}'")
@cluster_option
@output_option("json")
def show(cluster: str, output: str | None) -> None:
    """List the cables: state, settings, and what went through them, as the machine's own interface counts."""
    from nsk8s.cluster import links

    _, state = loaded(cluster)
    found = links.show(state.cluster_config(), state)
    if output:
        print_json(found)
        return
    rows = []
    for c in found:
        counters, drops, set_to = c.get("counters", {}), c.get("shaperDrops", {}), c["settings"]
        rows.append([
            c["machine"], c["interface"], c["port"], c["state"], set_to.get("rate", "-"), set_to.get("delay", "-"),
            set_to.get("loss", "-"), str(c.get("mtu", "-")), "-" if "offload" not in c else "on" if c["offload"] else "off",
            *(f"{counters[f'{way}Packets']} ({size(counters[f'{way}Bytes'])})" if counters else "-" for way in ("rx", "tx")),
            f"{drops['toMachine']}/{drops['fromMachine']}" if drops else "-",
        ])  # fmt: skip
    head = ["MACHINE", "INTERFACE", "PORT", "STATE", "RATE", "DELAY", "LOSS", "MTU", "OFFLOAD", "RECEIVED", "SENT", "DROPPED"]
    table(head, rows)


def size(count: int) -> str:
    """Bytes for people. Pure."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
