"""status, list, doctor: what runs, which clusters there are, whether this machine can. Touches: state files, the supervisor."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from nsk8s.cli.common import cluster_option, control_plane_is_off, heal, output_option, print_json, table
from nsk8s.errors import Nsk8sError

if TYPE_CHECKING:
    from nsk8s.cluster.state import ClusterState, Paths, Record
    from nsk8s.config import ClusterConfig

UNWELL = 3


@click.command(epilog="Example: sudo nsk8s status -o json | jq .components")
@cluster_option
@output_option("json")
def status(cluster: str, output: str | None) -> None:
    """Show a cluster's machines and processes. Exit code 0: all well; 3: something is not running.

    A supervisor that has died is started again, as by every command; it takes over what runs.
    """
    from nsk8s.cluster import lifecycle
    from nsk8s.cluster.preflight import require_root
    from nsk8s.cluster.state import Paths, load_record, load_state

    require_root()
    paths = Paths(cluster)
    state = load_state(paths)
    if state is None:
        if paths.run.exists() or paths.state.exists():
            raise half_made(cluster)
        raise lifecycle.no_such_cluster(cluster)
    found = examine(paths, state, load_record(paths))
    if output:
        print_json(found)
    else:
        _show(found)
    sys.exit(0 if found["state"] == "running" else UNWELL)


def half_made(cluster: str) -> Nsk8sError:
    return Nsk8sError(
        f"cluster {cluster} was begun and not finished",
        f"`nsk8s up --name {cluster}` makes it, `nsk8s down --name {cluster}` removes it",
    )


def examine(paths: Paths, state: ClusterState, record: Record) -> dict[str, Any]:
    """What `status -o json` prints. Its keys stay; new ones may come."""
    from nsk8s.cluster import lifecycle, supervise
    from nsk8s.kernel import probe

    config = state.cluster_config()
    answer: dict[str, Any] = {"components": [], "pid": 0}
    machines = [] if state.stopped else machine_list(config, state, record)
    if not state.stopped and not lifecycle.record_is_stale(record, config, state):
        heal(paths)
        answer = supervise.call(paths, {"op": "status"}) or answer
        answer["components"] += birds(paths, answer["components"])
    return {
        "name": paths.name,
        "state": word_for(
            state.stopped, [m["state"] for m in machines], [c["state"] for c in answer["components"]], control_plane_is_off(state)
        ),
        "server": f"https://127.0.0.1:{state.api_port}",
        "iptables": probe.iptables_version() if config.iptables == "auto" else config.iptables,
        "proxyMode": _proxy_modes(paths, state),
        "supervisor": answer["pid"],
        "machines": machines,
        "components": sorted(answer["components"], key=lambda c: (c["machine"] != "control-plane", c["id"])),
    }


def proxy_mode(configuration: str) -> str:
    """What a KubeProxyConfiguration says: whoever edits a node's file switches that node. Pure."""
    found = re.search(r"""^[\s{"']*mode["']?: *["']?(\w*)""", configuration, re.MULTILINE)
    return (found[1] if found else "") or "iptables"


def _proxy_modes(paths: Paths, state: ClusterState) -> str:
    found = set()
    for node in state.nodes:
        try:
            found.add(proxy_mode((paths.node_root(node.name) / "var/lib/kube-proxy/config.conf").read_text()))
        except (OSError, UnicodeDecodeError):
            found.add(state.cluster_config().proxy.mode)
    return ", ".join(sorted(found))


def birds(paths: Paths, components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The BIRDs that node-network and router-agent keep: no components, but what routes depend on in mode bgp."""
    from pathlib import Path

    from nsk8s.kernel import bird

    found = []
    for keeper in components:
        run = {"node-network": "/run/bird", "router-agent": f"{paths.run}/bird/run"}.get(keeper["name"])
        known = bird.seen(Path(f"/proc/{keeper['pid']}/root"), run) if run and keeper["pid"] else None
        if known is not None:
            found.append({
                **keeper, "id": f"{keeper['machine']}/bird", "name": "bird", "pid": known.get("pid", 0),
                "state": "running" if known else "gone", "restarts": None, "lastExit": "",
            })  # fmt: skip
    return found


def word_for(stopped: bool, machines: list[str], components: list[str], without_control_plane: bool = False) -> str:
    """stopped, off (no machine is there: this computer was rebooted), degraded or running. Pure.

    A worker that was switched off is as it was wished; a cluster without its control plane is not well, whoever wished it.
    """
    if stopped:
        return "stopped"
    if all(m == "missing" for m in machines):
        return "off"
    all_run = bool(components) and all(c == "running" for c in components)
    return "running" if all_run and "missing" not in machines and not without_control_plane else "degraded"


def machine_list(config: ClusterConfig, state: ClusterState, record: Record) -> list[dict[str, Any]]:
    """Every machine: on, off (`node stop`), or missing though it should be on."""
    from ipaddress import IPv4Address

    from nsk8s.kernel import machine
    from nsk8s.net.topology import CLIENT, ROUTER, infrastructure_names, netns_name

    rows: list[tuple[str, str, list[str], bool]] = [
        (n.name, "node", config.node_ips(IPv4Address(n.ip)), n.stopped) for n in state.nodes
    ]
    inside = [ip for rack in config.all_racks for ip in config.router_ips(rack)]
    rows += [
        *((name, "switch", [], False) for name in infrastructure_names(config) if name not in (ROUTER, CLIENT)),
        (ROUTER, "router", [*inside, *config.router_outside_ips], False),
        (CLIENT, "client", config.client_ips, False),
    ]
    out = []
    for name, role, addresses, off in rows:
        netns = netns_name(config, name)
        known = record.namespaces.get(netns)
        there = known is not None and machine.inode(machine.netns_path(netns)) == known["net"]
        word = "off" if off else "on" if there else "missing"
        out.append({"name": name, "role": role, "netns": netns, "addresses": addresses, "state": word})
    return out


def _show(found: dict[str, Any]) -> None:
    name = found["name"]
    if found["state"] == "stopped":
        click.echo(f"Cluster {name} is stopped; `nsk8s start --name {name}` brings it back.")
        return
    mode = "" if found["proxyMode"] == "iptables" else f", Services by {found['proxyMode']}"
    click.echo(f"Cluster {name}: {found['state']}, API {found['server']}, iptables {found['iptables']}{mode}")
    if any(m["state"] == "missing" for m in found["machines"]):
        click.echo(f"Machines are missing (after a reboot?): `nsk8s up --name {name}` makes them again.")
    if any(m["name"] == "control-plane" and m["state"] == "off" for m in found["machines"]):
        click.echo(f"The control plane is switched off: `nsk8s node start --name {name} control-plane`.")
    click.echo()
    table(
        ["MACHINE", "NAMESPACE", "ADDRESS", "STATE"],
        [[m["name"], m["netns"], ", ".join(m["addresses"]) or "-", m["state"]] for m in found["machines"]],
    )
    click.echo()
    rows = [
        [c["machine"], c["name"], str(c["pid"] or "-"), c["state"], _shown(c["restarts"]), _shown(c["lastExit"])]
        for c in found["components"]
    ]
    rows.append(["-", "supervisor", str(found["supervisor"] or "-"), "running" if found["supervisor"] else "gone", "-", "-"])
    table(["MACHINE", "COMPONENT", "PID", "STATE", "RESTARTS", "LAST EXIT"], rows)
    unwell = next((c for c in found["components"] if c["state"] != "running"), None)
    if unwell:
        click.echo(f"\n{unwell['id']} is {unwell['state']}: see {unwell['log']}")


def _shown(value: object) -> str:
    return "-" if value in (None, "") else str(value)


@click.command(epilog="Example: sudo nsk8s list -o json")
@output_option("json")
def list_(output: str | None) -> None:
    """List the clusters of this machine.

    States: running; degraded (its supervisor is gone: any command brings it back); off (the machine was rebooted: `up`);
    stopped (`start`); damaged or half-made (`down` removes it).
    """
    from nsk8s.cluster.preflight import require_root
    from nsk8s.cluster.state import clusters

    require_root()
    rows = [_row(name) for name in clusters()]
    if output:
        print_json(rows)
    elif rows:
        table(["NAME", "STATE", "NODES", "SERVER"], [[str(v or "-") for v in r.values()] for r in rows])
    else:
        click.echo("There is no cluster on this machine; `nsk8s up` makes one.")


def _row(name: str) -> dict[str, Any]:
    from nsk8s.cluster import supervise
    from nsk8s.cluster.state import Paths, load_record, load_state

    paths = Paths(name)
    try:
        state = load_state(paths)
        config = state.cluster_config() if state else None
    except Nsk8sError:
        return {"name": name, "state": "damaged", "nodes": 0, "server": ""}
    if state is None or config is None:
        return {"name": name, "state": "half-made", "nodes": 0, "server": ""}
    try:
        answers = not state.stopped and supervise.call(paths, {"op": "status"}, 5) is not None
    except Nsk8sError:
        answers = False
    machines = [] if state.stopped else [m["state"] for m in machine_list(config, state, load_record(paths))]
    word = word_for(state.stopped, machines, ["running"] if answers else [], control_plane_is_off(state))
    return {"name": name, "state": word, "nodes": len(state.nodes), "server": f"https://127.0.0.1:{state.api_port}"}


@click.command(epilog="Example: sudo nsk8s doctor --nodes 20 --pods 500")
@click.option("--nodes", default=4, show_default=True, type=click.IntRange(1), help="Check the limits for so many nodes …")
@click.option("--pods", default=110, show_default=True, type=click.IntRange(0), help="… and so many pods.")
@output_option("json")
def doctor(nodes: int, pods: int, output: str | None) -> None:
    """Check this machine: kernel, tools, iptables, limits, each with the fix.

    Changes nothing. Exit code 1 when something needed is missing (✗); what is only useful (!) does not count.
    """
    from nsk8s.cluster import preflight

    checks = preflight.checks(nodes, pods)
    well = all(c.ok or not c.required for c in checks)
    if output:
        print_json([vars(c) for c in checks])
    else:
        for check in checks:
            mark = "✓" if check.ok else "✗" if check.required else "!"
            click.echo(f"{mark} {check.name}: {check.found}" + (f" → {check.fix}" if check.fix else ""))
        click.echo("\nThis machine can run nsk8s." if well else "\nWhat is marked ✗ is needed.")
    sys.exit(0 if well else 1)
