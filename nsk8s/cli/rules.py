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
    """Show the rules of one Service on a node, as the kernel holds them: what each does and, in iptables mode, its packets.

    Only the first packet of a connection meets these rules; conntrack treats the others alike. Without SERVICE: every Service
    that has rules on the node.
    """
    from nsk8s.kernel import machine, rulesave
    from nsk8s.net import nftruletree, ruletree
    from nsk8s.net.topology import CONTROL_PLANE

    _, state = loaded(cluster)
    running = [n.name for n in state.nodes if not n.stopped]
    workers = [n for n in running if n != CONTROL_PLANE] or running
    chosen = state.node(node).name if node else workers[0]
    if chosen not in running:
        raise Nsk8sError(f"node {chosen} is switched off", f"nsk8s node start {chosen}")
    netns = machine.netns_path(f"{cluster}-{chosen}")
    listing = rulesave.kube_proxy_table(netns, ipv6=ipv6)
    if listing:
        mode, nft = "nftables", nftruletree.read(listing)
        found = {name: [_element(e) for e in entries] for name, entries in nftruletree.services(nft).items()}
    else:
        mode = "iptables"
        counted = ruletree.read(rulesave.counted(netns, state.cluster_config().iptables, ipv6=ipv6))
        found = {name: [_rule(r) for r in entries] for name, entries in ruletree.services(counted).items()}
    if service is None:
        _overview(found, chosen, mode, output)
        return
    key = service.removeprefix("service/").removeprefix("svc/")
    key = key if "/" in key else f"{namespace}/{key}"
    if key not in found:
        raise _why_none(cluster, key, chosen)
    pods = with_client(cluster, lambda client: _endpoints(client, key))
    branches = nftruletree.tree(nft, key, pods) if listing else ruletree.tree(counted, key, pods)
    if output:
        print_json({"service": key, "node": chosen, "mode": mode, "rules": [ruletree.as_json(b) for b in branches]})
        return
    said = "" if listing else " Packets are counted since the rule was written."
    click.echo(f"Service {key} on {chosen}, {mode} mode.{said}\n")
    if not listing:
        click.echo(" packets  rule")
    for branch, drawn, below in ruletree.lines(branches):
        counter, blank = ("", "") if branch.packets is None else (f"{branch.packets:8}  ", " " * 10)
        click.echo(f"{counter}{drawn}{click.style(branch.label, bold=not drawn)}")
        if branch.sentence:
            click.echo(f"{blank}{below}{click.style(branch.sentence, dim=True)}")
    where = "the chain masquerading" if listing else "KUBE-POSTROUTING"
    click.echo(f"\nWhat is marked for masquerade gets the node's address in {where}.")


def _rule(rule: Any) -> dict[str, Any]:
    return {
        "destination": rule.option("-d").partition("/")[0] or "the node", "port": f"{rule.option('--dport')}/{rule.option('-p')}",
        "target": rule.target, "packets": rule.packets,
    }  # fmt: skip


def _element(element: Any) -> dict[str, Any]:
    *address, protocol, port = element.key.split(" . ")
    return {"destination": address[0] if address else "the node", "port": f"{port}/{protocol}", "target": element.verdict}


def _overview(found: dict[str, list[dict[str, Any]]], node: str, mode: str, output: str | None) -> None:
    if output:
        print_json({"node": node, "mode": mode, "services": found})
        return
    header = ["SERVICE", "DESTINATION", "PORT", "TARGET", *(["PACKETS"] if mode == "iptables" else [])]
    table(header, [[name, *(str(v) for v in entry.values())] for name, entries in found.items() for entry in entries])


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
