"""rules: what a Service is to the kernel, as a tree a student can read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsk8s.cli.common import cluster_option, loaded, output_option, print_json, table, with_client
from nsk8s.errors import Nsk8sError

if TYPE_CHECKING:
    from nsk8s.client.rest import Client
    from nsk8s.config import ClusterConfig
    from nsk8s.net.ipvstree import Face, Listing
    from nsk8s.net.ruletree import Branch


@click.command(epilog="Example: sudo nsk8s rules hello --node node2")
@click.argument("service", required=False)
@cluster_option
@click.option("-n", "--namespace", default="default", show_default=True, help="The Service's namespace.")
@click.option("--node", default="", metavar="NODE", help="Whose rules (default: the first worker's).")
@click.option(
    "--mode",
    type=click.Choice(("iptables", "nftables", "ipvs", "userspace")),
    help="Not what the kernel holds, but what kube-proxy would write in this mode.",
)
@click.option("-6", "--ipv6", is_flag=True, help="The IPv6 rules of a Service that has both families.")
@output_option("json")
def rules(cluster: str, service: str | None, namespace: str, node: str, mode: str | None, ipv6: bool, output: str | None) -> None:
    """Show the rules of one Service on a node, as the kernel holds them: what each does and, but in nftables mode, its packets.

    Only the first packet of a connection meets these rules; conntrack treats the others alike. Without SERVICE: every Service
    that has rules on the node.
    """
    from nsk8s.kernel import machine
    from nsk8s.net import ruletree
    from nsk8s.net.topology import CONTROL_PLANE

    _, state = loaded(cluster)
    running = [n.name for n in state.nodes if not n.stopped]
    workers = [n for n in running if n != CONTROL_PLANE] or running
    if not running:
        raise Nsk8sError("every node is switched off", f"nsk8s node start --name {cluster} NODE")
    chosen = state.node(node).name if node else workers[0]
    if chosen not in running:
        raise Nsk8sError(f"node {chosen} is switched off", f"nsk8s node start {chosen}")
    key = (service or "").removeprefix("service/").removeprefix("svc/")
    key = key if "/" in key or not key else f"{namespace}/{key}"
    netns = machine.netns_path(f"{cluster}-{chosen}")
    config = state.cluster_config()
    if mode:
        logging.getLogger("proxier").addFilter(_Once())
        imagine = partial(_Held.imagine, cluster, config, chosen, mode, key)
        held, other = imagine(ipv6=ipv6), imagine(ipv6=True) if config.has_ipv6 and not ipv6 else None
    else:
        held = _Held.read(netns, config.iptables, cluster, ipv6=ipv6)
        other = None if ipv6 else _Held.read_if_any(netns, config.iptables, cluster)
    if service is None:
        _overview(held, other, chosen, output)
        return
    has_both = other is not None and key in held.services and key in other.services
    if key not in held.services:
        if other is None or key not in other.services:
            raise _why_none(cluster, key, chosen, ipv6=ipv6)
        held = other
    pods, nameless = _pods(cluster, key)
    branches = held.tree(key, pods)
    if output:
        print_json({"service": key, "node": chosen, "mode": held.mode, "rules": [ruletree.as_json(b) for b in branches]})
        return
    counts = held.mode != "nftables" and not mode
    what = "connections" if held.mode == "ipvs" else "packets"
    said = f" {what.capitalize()} are counted since the rule was written." if counts else ""
    as_if = " as kube-proxy would write them in" if mode else ","
    click.echo(f"Service {key} on {chosen}{as_if} {held.mode} mode.{said}\n")
    if counts:
        click.echo(f"{'conns' if held.mode == 'ipvs' else what:>8}  rule")
    for branch, drawn, below in ruletree.lines(branches):
        count = branch.detail.get("connections", "") if held.mode == "ipvs" else branch.packets
        counter, blank = (f"{count:>8}  ", " " * 10) if counts and count is not None else ("", "")
        click.echo(f"{counter}{drawn}{click.style(branch.label, bold=not drawn)}")
        if branch.sentence:
            click.echo(f"{blank}{below}{click.style(branch.sentence, dim=True)}")
    click.echo("\n" + _SOURCE[held.mode])
    if nameless:
        click.echo(f"Endpoints are not named: {nameless}.")
    if has_both:
        click.echo(f"It has rules for IPv6, too: nsk8s rules -6 {f'--mode {mode} ' if mode else ''}{key}")


_SOURCE = {
    "iptables": "What is marked for masquerade gets the node's address in KUBE-POSTROUTING.",
    "nftables": "What is marked for masquerade gets the node's address in the chain masquerading.",
    "ipvs": "What is marked for masquerade gets the node's address in KUBE-POSTROUTING. The rules are the same for all\n"
    "Services (iptables-save); what is whose the kernel's tables say: ipvsadm -Ln, ipset list, ip address show kube-ipvs0.",
    "userspace": "Whose turn it is kube-proxy alone knows. Every endpoint sees this node's address: it is the node that asks.",
}


@dataclass(frozen=True)
class _Held:
    """The rules of kube-proxy in one family, as a node holds them."""

    mode: str
    services: dict[str, list[dict[str, Any]]]
    """Service → its entries: destination, port, target."""
    tree: Callable[[str, Mapping[str, str]], list[Branch]]
    """The rules of one Service; the second argument names endpoints."""

    @classmethod
    def read(cls, netns: Path, variant: str, cluster: str, *, ipv6: bool) -> _Held:
        from nsk8s.kernel import rulesave
        from nsk8s.net import nftruletree, ruletree

        listing = rulesave.kube_proxy_table(netns, ipv6=ipv6)
        if listing:
            nft = nftruletree.read(listing)
            found = {name: [_element(e) for e in entries] for name, entries in nftruletree.services(nft).items()}
            return cls("nftables", found, partial(nftruletree.tree, nft))
        counted = ruletree.read(rulesave.counted(netns, variant, ipv6=ipv6))
        found = {name: [_rule(r) for r in entries] for name, entries in ruletree.services(counted).items()}
        if any(chain == "KUBE-IPVS-FILTER" for _, chain in counted.chains):
            return cls.of_ipvs(_ipvs_in(netns, ipv6), with_client(cluster, _services))
        mode = "userspace" if any(chain.startswith(ruletree.USERSPACE) for _, chain in counted.chains) else "iptables"
        return cls(mode, found, partial(ruletree.tree, counted))

    @classmethod
    def of_ipvs(cls, listing: Listing, services: list[Any]) -> _Held:
        """ipvs mode's tables know no names: the Services' addresses tell whose each virtual server is."""
        from nsk8s.net import ipvstree

        faces = {f"{s['metadata']['namespace']}/{s['metadata']['name']}": _faces(s, listing.ipv6) for s in services}
        found = {name: ipvstree.overview(listing, each) for name, each in sorted(faces.items()) if each}
        return cls("ipvs", {n: lines for n, lines in found.items() if lines},
                   lambda name, pods: ipvstree.tree(listing, faces[name], pods))  # fmt: skip

    @classmethod
    def imagine(cls, cluster: str, config: ClusterConfig, node: str, mode: str, only: str, *, ipv6: bool) -> _Held:
        """The rules of a mode that the node need not be in, from what the API says now; one Service's if `only` names one."""
        from nsk8s.client.resources import ENDPOINTSLICES, NODES, SERVICES
        from nsk8s.net import nftruletree, ruletree
        from nsk8s.proxy.preview import preview
        from nsk8s.proxy.services import SELECTOR

        async def objects(client: Client) -> tuple[Any, Any, Any]:
            namespace, _, name = only.partition("/")
            own = f",kubernetes.io/service-name={name}" if only else ""
            field = f"metadata.name={name}" if only else ""
            services = await client.list(SERVICES, namespace, label_selector=SELECTOR, field_selector=field)
            slices = await client.list(ENDPOINTSLICES, namespace, label_selector=SELECTOR + own)
            return services["items"], slices["items"], await client.get(NODES, node)

        services, slices, its_node = with_client(cluster, objects)
        pods = next((cidr for cidr in config.pod_cidrs if (":" in cidr) == ipv6), "")
        made = preview(mode, services, slices, its_node, cluster_cidr=pods, masquerade_all=config.proxy.masquerade_all, ipv6=ipv6)
        if made.nftables is not None:
            nft = nftruletree.of(made.nftables)
            found = {name: [_element(e) for e in entries] for name, entries in nftruletree.services(nft).items()}
            return cls(mode, found, partial(nftruletree.tree, nft))
        if made.ipvs is not None:
            from nsk8s.net.ipvstree import Listing

            return cls.of_ipvs(Listing(made.ipvs, ipv6=ipv6), services)
        assert made.iptables is not None
        chains = ruletree.of(made.iptables)
        found = {name: [_rule(r) for r in entries] for name, entries in ruletree.services(chains).items()}
        return cls(mode, found, partial(ruletree.tree, chains))

    @classmethod
    def read_if_any(cls, netns: Path, variant: str, cluster: str) -> _Held | None:
        from nsk8s.kernel.iptables import IptablesError

        try:
            return cls.read(netns, variant, cluster, ipv6=True)
        except IptablesError:  # a machine without the family's programs has no rules in it
            return None


async def _services(client: Client) -> list[Any]:
    from nsk8s.client.resources import SERVICES
    from nsk8s.proxy.services import SELECTOR

    found: list[Any] = (await client.list(SERVICES, label_selector=SELECTOR))["items"]
    return found


def _faces(service: Any, ipv6: bool) -> list[Face]:
    """Where a Service is to be had, in one family."""
    from nsk8s.net.ipvstree import Face
    from nsk8s.proxy.services import service_ports

    found = []
    for port in service_ports(service, ipv6).values():
        found.append(Face("cluster IP", port.protocol, port.cluster_ip, port.port))
        found += [Face("external IP", port.protocol, ip, port.port) for ip in port.external_ips]
        found += [Face("loadbalancer IP", port.protocol, ip, port.port) for ip in port.vips]
        if port.node_port:
            found.append(Face("node port", port.protocol, "", port.node_port))
    return found


def _ipvs_in(netns: Path, ipv6: bool) -> Listing:
    from nsk8s.kernel import machine
    from nsk8s.kernel.ipvsstate import IpvsState
    from nsk8s.net.ipvs import Server
    from nsk8s.net.ipvstree import Listing
    from nsk8s.proxy import ipvsrules

    with machine.inside(netns):
        state = IpvsState()
        items = state.read(ipv6, ipvsrules.sets(ipv6))
        return Listing(items, state.counts([i for i in items if isinstance(i, Server)]), ipv6)


def _rule(rule: Any) -> dict[str, Any]:
    return {
        "destination": rule.option("-d").partition("/")[0] or "the node", "port": f"{rule.option('--dport')}/{rule.option('-p')}",
        "target": rule.target, **({} if rule.packets is None else {"packets": rule.packets}),
    }  # fmt: skip


def _element(element: Any) -> dict[str, Any]:
    *address, protocol, port = element.key.split(" . ")
    return {"destination": address[0] if address else "the node", "port": f"{port}/{protocol}", "target": element.verdict}


def _overview(held: _Held, other: _Held | None, node: str, output: str | None) -> None:
    found = dict(held.services)
    for name, entries in (other.services if other else {}).items():
        found[name] = [*found.get(name, []), *entries]
    found = dict(sorted(found.items()))
    if output:
        print_json({"node": node, "mode": held.mode, "services": found})
        return
    first: dict[str, Any] = next((entry for entries in found.values() for entry in entries), {})
    header = ["SERVICE", "DESTINATION", "PORT", "TARGET", *(key.upper() for key in list(first)[3:])]
    table(header, [[name, *(str(v) for v in entry.values())] for name, entries in found.items() for entry in entries])


def _pods(cluster: str, service: str) -> tuple[dict[str, str], str]:
    """Endpoint's address → its name; and why there are none: what the kernel holds can be read without the API."""
    try:
        return with_client(cluster, lambda client: _endpoints(client, service)), ""
    except Nsk8sError as e:
        return {}, e.message


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


class _Once(logging.Filter):
    """What an imagined kube-proxy says is said once, though one is imagined for each family."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = text in self._said
        self._said.add(text)
        return not known


def _why_none(cluster: str, service: str, node: str, *, ipv6: bool) -> Nsk8sError:
    """Why there are no rules."""
    from nsk8s.client.resources import SERVICES

    async def every(client: Client) -> Any:
        return await client.list(SERVICES)

    specs = {f"{s['metadata']['namespace']}/{s['metadata']['name']}": s["spec"] for s in with_client(cluster, every)["items"]}
    if service not in specs:
        near = meant(service, specs)
        return Nsk8sError(f"there is no service {service}", f"did you mean {near}?" if near else "nsk8s rules lists them")
    spec = specs[service]
    if spec.get("type") == "ExternalName":
        return Nsk8sError(f"service {service} is an ExternalName: DNS answers with a CNAME, and there are no rules for it")
    if spec.get("clusterIP") == "None":
        return Nsk8sError(f"service {service} is headless: DNS answers with the pods' addresses, and there are no rules for it")
    family = "IPv6" if ipv6 else "IPv4"
    if family not in (spec.get("ipFamilies") or [family]):
        return Nsk8sError(f"service {service} has no {family} address", f"nsk8s rules {'-6 ' if not ipv6 else ''}{service}")
    return Nsk8sError(f"service {service} has no rules on {node}", f"see kube-proxy's log: nsk8s status --name {cluster}")


def meant(service: str, known: Iterable[str]) -> str:
    """The Service that somebody who wrote `service` had in mind: of that name elsewhere, or of a name like it. Pure."""
    import difflib

    namespace, _, name = service.partition("/")
    names: dict[str, list[str]] = {}
    for key in sorted(known, key=lambda key: (not key.startswith(f"{namespace}/"), key)):
        names.setdefault(key.partition("/")[2], []).append(key)
    near = difflib.get_close_matches(name, names, 1, 0.6)
    return names[near[0]][0] if near else ""
