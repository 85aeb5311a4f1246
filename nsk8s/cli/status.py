"""status, list, doctor: what runs, which clusters there are, whether this machine can."""

from __future__ import annotations

import sys
from typing import Any

import click

from nsk8s.cli.common import cluster_option, heal, output_option, print_json, table
from nsk8s.errors import Nsk8sError

UNWELL = 3


@click.command(epilog="Example: sudo nsk8s status -o json | jq .components")
@cluster_option
@output_option("json")
def status(cluster: str, output: str | None) -> None:
    """Show a cluster's machines and processes. Exit code 0: all well; 3: something is not running."""
    from nsk8s.cluster import lifecycle, supervise
    from nsk8s.cluster.preflight import require_root
    from nsk8s.cluster.state import Paths, load_record, load_state
    from nsk8s.kernel import probe

    require_root()
    paths = Paths(cluster)
    state = load_state(paths)
    if state is None:
        raise lifecycle.no_such_cluster(cluster)
    config = state.cluster_config()
    if state.stopped:
        if output:
            print_json({"name": cluster, "state": "stopped", "machines": [], "components": []})
        else:
            click.echo(f"Cluster {cluster} is stopped; `nsk8s start` brings it back.")
        sys.exit(UNWELL)
    stale = lifecycle.record_is_stale(load_record(paths), config, state)
    if not stale:
        heal(paths)
    answer = supervise.call(paths, {"op": "status"}) or {"components": [], "pid": 0}
    components: list[dict[str, Any]] = sorted(answer["components"], key=lambda c: (c["machine"] != "control-plane", c["id"]))
    well = not stale and bool(components) and all(c["state"] == "running" for c in components)
    variant = probe.iptables_version() if config.iptables == "auto" else config.iptables
    if output:
        print_json(
            {
                "name": cluster,
                "state": "running" if well else "degraded",
                "server": f"https://127.0.0.1:{state.api_port}",
                "iptables": variant,
                "supervisor": answer["pid"],
                "machines": [
                    {"name": n.name, "netns": f"{cluster}-{n.name}", "ip": n.ip, "stopped": n.stopped} for n in state.nodes
                ],
                "components": components,
            }
        )
        sys.exit(0 if well else UNWELL)
    word = "running" if well else "degraded"
    click.echo(f"Cluster {cluster}: {word}, API https://127.0.0.1:{state.api_port}, iptables {variant}")
    if stale:
        click.echo(f"Machines are missing (after a reboot?): `nsk8s up --name {cluster}` makes them again.")
    click.echo()
    table(
        ["MACHINE", "NAMESPACE", "ADDRESS", "STATE"],
        [[n.name, f"{cluster}-{n.name}", n.ip, "off" if n.stopped else "on"] for n in state.nodes]
        + [["router", f"{cluster}-router", f"{config.router_ip}, {config.router_outside_ip}", "on"],
           ["client", f"{cluster}-client", str(config.client_ip), "on"]],
    )  # fmt: skip
    click.echo()
    table(
        ["MACHINE", "COMPONENT", "PID", "STATE", "RESTARTS", "LAST EXIT"],
        [
            [c["machine"], c["name"], str(c["pid"] or "-"), c["state"], str(c["restarts"]), c["lastExit"] or "-"]
            for c in components
        ]
        + [["-", "supervisor", str(answer["pid"] or "-"), "running" if answer["pid"] else "gone", "", ""]],
    )
    sys.exit(0 if well else UNWELL)


@click.command(epilog="Example: sudo nsk8s list -o json")
@output_option("json")
def list_(output: str | None) -> None:
    """List the clusters of this machine."""
    from nsk8s.cluster import supervise
    from nsk8s.cluster.preflight import require_root
    from nsk8s.cluster.state import Paths, clusters, load_state

    require_root()
    rows: list[dict[str, Any]] = []
    for name in clusters():
        paths = Paths(name)
        try:
            state = load_state(paths)
        except Nsk8sError:
            state = None
        if state is None:
            rows.append({"name": name, "state": "damaged", "nodes": 0, "server": ""})
            continue
        running = not state.stopped and supervise.call(paths, {"op": "status"}) is not None
        rows.append(
            {
                "name": name,
                "state": "stopped" if state.stopped else "running" if running else "half-started",
                "nodes": len(state.nodes),
                "server": f"https://127.0.0.1:{state.api_port}",
            }
        )
    if output:
        print_json(rows)
    elif rows:
        table(["NAME", "STATE", "NODES", "SERVER"], [[str(v) for v in r.values()] for r in rows])
    else:
        click.echo("There is no cluster on this machine; `nsk8s up` makes one.")


@click.command(epilog="Example: sudo nsk8s doctor --nodes 20 --pods 500")
@click.option("--nodes", default=4, show_default=True, help="Check the limits for so many nodes …")
@click.option("--pods", default=110, show_default=True, help="… and so many pods.")
@output_option("json")
def doctor(nodes: int, pods: int, output: str | None) -> None:
    """Check this machine: kernel features, tools, iptables variant, limits; with the fix for each.

    Changes nothing. Exit code 1 when something needed is missing.
    """
    from nsk8s.cluster import preflight

    checks = preflight.checks(nodes, pods)
    if output:
        print_json([vars(c) for c in checks])
    else:
        for check in checks:
            mark = "✓" if check.ok else "✗" if check.required else "!"
            click.echo(f"{mark} {check.name}: {check.found}" + (f"\n    → {check.fix}" if check.fix else ""))
    sys.exit(0 if all(c.ok or not c.required for c in checks) else 1)
