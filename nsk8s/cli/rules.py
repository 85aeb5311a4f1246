"""rules: what a Service is to the kernel, as a tree a student can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nsk8s.cli.common import cluster_option, loaded, output_option, print_json, table, with_client
from nsk8s.errors import Nsk8sError

if TYPE_CHECKING:
    from nsk8s.client.rest import Client


@click.command(epilog="Example: sudo nsk8s rules hello --node node2")
@click.argument("service", required=False)
@cluster_option
@click.option("-n", "--namespace", default="default", show_default=True, help="The Service's namespace.")
@click.option("--node", default="", metavar="NODE", help="Whose rules (default: the first worker's).")
@click.option("-6", "--ipv6", is_flag=True, help="The IPv6 rules.")
@output_option("json")
def rules(cluster: str, service: str | None, namespace: str, node: str, ipv6: bool, output: str | None) -> None:
    """Show the rules of one Service on a node, as the kernel holds them: each with its packets so far and what it does.

    Only the first packet of a connection meets these rules; conntrack treats the others alike. Without SERVICE: every Service
    that has rules on the node. iptables mode only.
    """
    from nsk8s.kernel import machine, rulesave
    from nsk8s.net import ruletree
    from nsk8s.net.topology import CONTROL_PLANE

    _, state = loaded(cluster)
    config = state.cluster_config()
    if config.proxy.mode != "iptables":
        raise Nsk8sError(
            f"kube-proxy runs in {config.proxy.mode} mode: its rules are not iptables'",
            "nsk8s enter node/NODE -- nft list table ip kube-proxy",
        )
    running = [n.name for n in state.nodes if not n.stopped]
    workers = [n for n in running if n != CONTROL_PLANE] or running
    chosen = state.node(node).name if node else workers[0]
    if chosen not in running:
        raise Nsk8sError(f"node {chosen} is switched off", f"nsk8s node start {chosen}")
    counted = ruletree.read(rulesave.counted(machine.netns_path(f"{cluster}-{chosen}"), config.iptables, ipv6=ipv6))
    found = ruletree.services(counted)
    if service is None:
        _overview(found, chosen, output)
        return
    key = service.removeprefix("service/").removeprefix("svc/")
    key = key if "/" in key else f"{namespace}/{key}"
    if key not in found:
        raise _why_none(cluster, key, chosen)
    branches = ruletree.tree(counted, key, with_client(cluster, lambda client: _endpoints(client, key)))
    if output:
        print_json({"service": key, "node": chosen, "mode": "iptables", "rules": [ruletree.as_json(b) for b in branches]})
        return
    click.echo(f"Service {key} on {chosen}, iptables mode. Packets are counted since the rule was written.\n")
    click.echo(" packets  rule")
    for branch, drawn, below in ruletree.lines(branches):
        click.echo(f"{branch.rule.packets:8}  {drawn}{click.style(ruletree.short(branch.rule), bold=not drawn)}")
        click.echo(f"          {below}{click.style(branch.sentence, dim=True)}")
    click.echo("\nWhat is marked for masquerade gets the node's address in KUBE-POSTROUTING.")


def _overview(found: dict[str, list[Any]], node: str, output: str | None) -> None:
    if output:
        print_json({"node": node, "mode": "iptables", "services": {s: [r.text for r in rules] for s, rules in found.items()}})
        return
    rows = []
    for name, entries in found.items():
        for rule in entries:
            to = rule.option("-d").partition("/")[0] or "the node"
            port = f"{rule.option('--dport')}/{rule.option('-p')}"
            rows.append([name, to, port, rule.target, str(rule.packets)])
    table(["SERVICE", "DESTINATION", "PORT", "TARGET", "PACKETS"], rows)


async def _endpoints(client: Client, service: str) -> dict[str, str]:
    """Address → `pod NAME on NODE`."""
    from nsk8s.client.resources import ENDPOINTSLICES

    namespace, _, name = service.partition("/")
    answer = await client.list(ENDPOINTSLICES, namespace, label_selector=f"kubernetes.io/service-name={name}")
    names = {}
    for item in answer["items"]:
        for endpoint in item.get("endpoints") or []:
            who = (endpoint.get("targetRef") or {}).get("name", "")
            where = endpoint.get("nodeName", "")
            if who:
                names.update(dict.fromkeys(endpoint["addresses"], f"pod {who}" + (f" on {where}" if where else "")))
    return names


def _why_none(cluster: str, service: str, node: str) -> Nsk8sError:
    """Why there are no rules: raises the API's NotFound for a Service that does not exist."""
    from nsk8s.client.resources import SERVICES

    namespace, _, name = service.partition("/")

    async def get(client: Client) -> Any:
        return await client.get(SERVICES, name, namespace)

    spec = with_client(cluster, get)["spec"]
    if spec.get("type") == "ExternalName":
        return Nsk8sError(f"service {service} is an ExternalName: DNS answers with a CNAME, and there are no rules for it")
    if spec.get("clusterIP") == "None":
        return Nsk8sError(f"service {service} is headless: DNS answers with the pods' addresses, and there are no rules for it")
    return Nsk8sError(f"service {service} has no rules on {node}", f"see kube-proxy's log: nsk8s status --name {cluster}")
