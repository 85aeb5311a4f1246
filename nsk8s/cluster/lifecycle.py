"""up, down, stop, start, and the same for single nodes. Counterpart: kubeadm init/join/reset. Touches: everything below cluster/.

Each operation is idempotent and can be repeated after it was interrupted anywhere; each step is announced to `say`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nsk8s import link
from nsk8s.cluster import links, machines, preflight, specs, supervise
from nsk8s.cluster.pki import Authority, forget_node
from nsk8s.cluster.state import (
    RUN_ROOT,
    STATE_ROOT,
    ClusterState,
    NodeState,
    Paths,
    Record,
    clusters,
    free_ip,
    load_record,
    load_state,
    locked,
    new_state,
    save_record,
    save_state,
)  # fmt: skip
from nsk8s.config import IPV6_MIN_MTU, ClusterConfig, Node
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import machine, modules, mounts
from nsk8s.kernel.cgroup import Cgroups
from nsk8s.link import LinkSettings
from nsk8s.net.topology import CLIENT, CONTROL_PLANE, ROUTER, infrastructure_names, netns_name

PORTS = "ports!"
"""The lock that is held while an API port is chosen: no cluster's name."""
Say = Callable[[str], None]
"""Called with the name of each step as it begins."""


@dataclass(frozen=True)
class Up:
    """What `up` found or made."""

    state: ClusterState
    paths: Paths
    already: bool
    loaded_modules: list[str]


def _quiet(step: str) -> None:
    return


def up(config: ClusterConfig, say: Say = _quiet) -> Up:
    """Make the cluster run: a new one, a stopped one, or what is missing of a half-started one. Returns before it is Ready.

    Raises Nsk8sError; then nothing that was there is lost, and `down` removes what was begun.
    """
    preflight.require_root()
    with locked(config.name, say):
        paths = Paths(config.name)
        state = load_state(paths)
        known = state is not None
        if state is None:
            preflight.require(config)
            state = new_state(config, preflight.choose_api_port(config, _ports_of_others(config.name)))
        else:
            _require_same(config, state)
        record = load_record(paths)
        names = [*infrastructure_names(state.cluster_config()), *(n.name for n in state.nodes)]
        preflight.require_names_free(config, names, record)
        preflight.require_disk_for(paths)
        answer = supervise.call(paths, {"op": "status"})
        already = known and answer is not None and not state.stopped and not record_is_stale(record, config, state)
        loaded = modules.load_missing()
        if state.cluster_config().proxy.mode == "ipvs":
            from nsk8s.kernel import ipvsprobe

            loaded += ipvsprobe.require()
        config = state.cluster_config()
        with locked(PORTS):  # two clusters that start at once must not choose the same
            port, taken = state.api_port, _ports_of_others(config.name)
            promised = not known and config.api_port is None and port in taken
            if answer is None and (promised or not preflight.port_is_free(port)) and not _forwarder_lives(paths):
                if config.api_port is not None:
                    raise Nsk8sError(f"port {port} on 127.0.0.1 is in use", "free it, or choose another with --api-port")
                state.api_port = preflight.choose_api_port(config, taken)
            state.stopped = False
            save_state(paths, state)
        starting = None
        if answer is None:
            say("supervisor")
            starting = supervise.start(paths)  # imports everything while the machines are made
        _make_all(paths, record, config, state, say)
        if starting is not None:
            starting.wait()
        say("components")
        supervise.call(paths, {"op": "ensure", "specs": specs.all_specs(paths, state)})
        return Up(state, paths, already, loaded)


def _ports_of_others(name: str) -> set[int]:
    """API ports that other clusters, also stopped ones, will want again."""
    ports = set()
    for other in clusters():
        if other != name:
            with contextlib.suppress(Nsk8sError):
                state = load_state(Paths(other))
                if state is not None:
                    ports.add(state.api_port)
    return ports


def _forwarder_lives(paths: Paths) -> bool:
    from nsk8s.cluster import launch

    return launch.read_identity(str(paths.run), f"{CONTROL_PLANE}/apiserver-forwarder") is not None


def _require_placed(config: ClusterConfig, have: ClusterConfig, state: ClusterState) -> None:
    """Raise Nsk8sError when a node should have another rack or cable than it was made with."""
    cables = {n.name: n.link for n in have.nodes}
    for n in config.nodes:
        if "racks" in config.model_fields_set and config.rack(n.rack).name != state.node(n.name).rack:
            remedy = f"`nsk8s node remove {n.name}`, then `nsk8s node add {n.name} --rack`"
            raise Nsk8sError(f"node {n.name} of cluster {config.name} stands in another rack", remedy)
        if "link" in n.model_fields_set and n.link != cables.get(n.name, n.link):
            raise Nsk8sError(f"node {n.name} of cluster {config.name} was made with another cable", f"nsk8s link set {n.name}")


def _require_same(config: ClusterConfig, state: ClusterState) -> None:
    """A cluster keeps what it was made with: asking for something else is refused instead of ignored."""
    have = state.cluster_config()
    asked = config.model_fields_set - {"name", "nodes"}
    differing = sorted(f for f in asked if getattr(config, f) != getattr(have, f))
    if "nodes" in config.model_fields_set and {n.name for n in config.nodes} != {n.name for n in state.nodes} - {CONTROL_PLANE}:
        differing.append("nodes")
    elif "nodes" in config.model_fields_set:
        _require_placed(config, have, state)
    if differing:
        names = ", ".join(str(ClusterConfig.model_fields[f].alias) for f in differing)
        remedy = f"nsk8s down --name {config.name} first, or `nsk8s node add|remove`"
        switched = {k: getattr(have.network, k) for k in ("mode", "expose", "bgp")}
        if differing == ["network"] and config.network.model_copy(update=switched) == have.network:
            remedy = "the ConfigMap kube-system/node-network switches it while the cluster runs (docs/routing.md)"
        raise Nsk8sError(f"cluster {config.name} exists with other settings ({names})", remedy)


def record_is_stale(record: Record, config: ClusterConfig, state: ClusterState) -> bool:
    """Whether a machine that should run does not exist."""
    wanted = [*infrastructure_names(config), *(n.name for n in state.nodes if not n.stopped)]
    for name in wanted:
        netns = netns_name(config, name)
        known = record.namespaces.get(netns)
        if known is None or machine.inode(machine.netns_path(netns)) != known["net"]:
            return True
    return False


def _make_all(paths: Paths, record: Record, config: ClusterConfig, state: ClusterState, say: Say) -> None:
    say("certificates")
    authority = Authority(paths, config)
    authority.control_plane()
    authority.load_balancers()
    for node in state.nodes:
        authority.node(node)
    authority.admin(state)
    say("machines")
    machines.prepare(paths, record)
    machines.make_infrastructure(paths, record, config)
    for node in state.nodes:
        if not node.stopped:
            machines.make_node(paths, record, config, node)
    if state.links or not config.network.offload:
        for name in (*(n.name for n in state.nodes if not n.stopped), ROUTER, CLIENT):
            links.apply(config, state, name)


def down(name: str, keep_state: bool = False, say: Say = _quiet) -> bool:
    """Remove a cluster, whatever state it is in; True when there was anything. With `keep_state` its disks stay (`stop`).

    Order: kill everything (by control group), unpin the namespaces, remove the groups, the run directory, the state.
    Raises Nsk8sError when a process cannot be killed or a namespace of our name is not ours.
    """
    preflight.require_root()
    with locked(name, say):
        paths = Paths(name)
        there = paths.state.exists() or paths.run.exists()
        record = load_record(paths)
        groups = Cgroups()
        say("processes")
        there = groups.exists(paths.cgroup) or there
        _end_group(groups, paths.cgroup)
        say("machines")
        _discard_all(paths, record)
        say("control groups")
        _end_group(groups, paths.cgroup)  # what was being forked meanwhile
        groups.remove_if_empty("/nsk8s")
        mounts.unmount(str(paths.pins))
        if record.made_netns_dir:
            machine.undo_netns_dir()
        say("files")
        shutil.rmtree(paths.run, ignore_errors=True)
        if keep_state:
            state = load_state(paths)
            if state is not None:
                state.stopped = True
                save_state(paths, state)
        else:
            _remove_tree(paths.state)
            with contextlib.suppress(OSError):
                STATE_ROOT.rmdir()
    with contextlib.suppress(OSError):
        RUN_ROOT.rmdir()
    return there


def _end_group(groups: Cgroups, path: str) -> None:
    """Kill everything in a control group and remove it, also when something joins it meanwhile. Raises Nsk8sError."""
    for _ in range(5):
        if not groups.exists(path):
            return
        if not groups.kill_and_wait(path, 20):
            left = sorted(groups.all_processes(path))
            raise Nsk8sError(f"processes {left} cannot be killed", "they hang in the kernel: see `ps -o wchan` of them")
        with contextlib.suppress(OSError):  # busy: a new process
            groups.remove(path, 1.0)
    if groups.exists(path):
        raise Nsk8sError(f"the control group {path} cannot be removed", "see who is in it: cat /sys/fs/cgroup/**/cgroup.procs")


def _discard_all(paths: Paths, record: Record) -> None:
    foreign = []
    for netns, inodes in list(record.namespaces.items()):
        if machine.discard(machine.netns_path(netns), inodes["net"]):
            del record.namespaces[netns]
        else:
            foreign.append(netns)
    if paths.pins.is_dir():
        for pin in list(paths.pins.iterdir()):
            machine.discard(pin, None)
    if foreign:
        save_record(paths, record)
        raise Nsk8sError(f"left alone: {', '.join(foreign)} (not the namespace nsk8s made)", "remove them yourself, then repeat")


def _remove_tree(path: Path) -> None:
    """Raises Nsk8sError naming what could not be removed."""
    if not path.exists():
        return
    failures: list[str] = []

    def note(function: object, where: str, error: object) -> None:
        failures.append(where)

    shutil.rmtree(path, onerror=note)
    if failures and path.exists():
        raise Nsk8sError(f"cannot remove {failures[0]}", "see what is mounted or open there: findmnt, lsof")


def stop(name: str, say: Say = _quiet) -> None:
    """Stop a cluster, keeping its state: what `start` (or `up`) brings back as after a boot."""
    if load_state(Paths(name)) is None:
        raise no_such_cluster(name)
    down(name, keep_state=True, say=say)


def no_such_cluster(name: str) -> Nsk8sError:
    others = ", ".join(clusters())
    return Nsk8sError(f"there is no cluster {name}", f"clusters here: {others}" if others else "nsk8s up makes one")


# ---- single nodes


def _loaded(name: str) -> tuple[Paths, ClusterState, ClusterConfig]:
    preflight.require_root()
    paths = Paths(name)
    state = load_state(paths)
    if state is None:
        raise no_such_cluster(name)
    if state.stopped:
        raise Nsk8sError(f"cluster {name} is stopped", f"nsk8s start --name {name}")
    return paths, state, state.cluster_config()


def _ids(paths: Paths, config: ClusterConfig, node: NodeState) -> list[str]:
    ids = [s["id"] for s in specs.node(paths, config, node)]
    if node.name == CONTROL_PLANE:
        ids += [s["id"] for s in specs.control_plane(paths, config)] + [f"{CONTROL_PLANE}/apiserver-forwarder"]
    return ids


def add_node(name: str, wanted: Node, say: Say = _quiet) -> NodeState:
    """A new worker, booted. Raises Nsk8sError when the name is taken or no address is free."""
    with locked(name, say):
        paths, state, config = _loaded(name)
        if any(n.name == wanted.name for n in state.nodes) or wanted.name in infrastructure_names(config):
            raise Nsk8sError(f"the name {wanted.name} is taken")
        if config.cni.conf:
            from nsk8s.cluster import cniconf

            cniconf.check(config, len(state.nodes) + 1)
        ip, rack = free_ip(config, state.nodes, wanted.rack), config.rack(wanted.rack).name
        node = NodeState(wanted.name, str(ip), dict(wanted.labels), list(wanted.taints), rack=rack)
        record = load_record(paths)
        preflight.require_names_free(config, [node.name], record)
        state.nodes.append(node)
        cable = wanted.link.model_dump(exclude_defaults=True)
        if cable:
            state.links[node.name] = cable
        save_state(paths, state)
        _boot(paths, record, config, state, node, say)
        return node


def start_node(name: str, node_name: str, say: Say = _quiet) -> None:
    """Boot a stopped node: its disk as it was, everything else empty."""
    with locked(name, say):
        paths, state, config = _loaded(name)
        node = state.node(node_name)
        if node.stopped:  # a `node stop` that was interrupted has left something on
            _power_off(paths, config, node, _quiet)
        node.stopped = False
        save_state(paths, state)
        _boot(paths, load_record(paths), config, state, node, say)


def _boot(paths: Paths, record: Record, config: ClusterConfig, state: ClusterState, node: NodeState, say: Say) -> None:
    supervise.ensure_running(paths)
    say(f"machine {node.name}")
    Authority(paths, config).node(node)
    machines.prepare(paths, record)
    machines.make_node(paths, record, config, node)
    links.apply(config, state, node.name)
    say("components")
    wanted = specs.node(paths, config, node)
    if node.name == CONTROL_PLANE:
        wanted = [*specs.control_plane(paths, config), specs.forwarder(paths, config, state.api_port), *wanted]
    supervise.call(paths, {"op": "ensure", "specs": wanted})


def set_link(name: str, machine_name: str, changes: dict[str, object]) -> tuple[LinkSettings, str]:
    """Change a machine's cable, now and for ever; its settings, and the machine it is plugged into. Raises Nsk8sError."""
    with locked(name):
        paths, state, config = _loaded(name)
        cables = links.cables(config, state, machine_name)
        try:
            wanted = link.from_document(state.links.get(machine_name, {})).changed(**changes)
        except ValueError as e:
            raise Nsk8sError(str(e), "nsk8s link set --help") from e
        if config.has_ipv6 and 0 < wanted.mtu < IPV6_MIN_MTU:  # the kernel would take its IPv6 addresses away for good
            raise Nsk8sError(f"mtu: {wanted.mtu} is too small for IPv6, which this cluster has", f"{IPV6_MIN_MTU} or more")
        links.require(wanted)
        state.links[machine_name] = wanted.document()
        if not state.links[machine_name]:
            del state.links[machine_name]
        save_state(paths, state)
        offload = wanted.offload if "offload" in changes else None
        links.apply(config, state, machine_name, offload=offload)
        if changes.get("down") is False:
            for cable in cables:
                links.bring_up(config, cable)
            machines.reconnect(config, cables)
        return wanted, cables[0].port.machine


def stop_node(name: str, node_name: str, say: Say = _quiet) -> None:
    """A power cut: the cable first, then every process, then the machine. Its disk stays, as a machine's would."""
    with locked(name, say):
        paths, state, config = _loaded(name)
        node = state.node(node_name)
        node.stopped = True
        save_state(paths, state)
        _power_off(paths, config, node, say)


def _power_off(paths: Paths, config: ClusterConfig, node: NodeState, say: Say) -> None:
    say(f"link of {node.name}")
    machines.cut(config, node)
    say("processes")
    # Forgotten before they are killed: or they would be started again.
    supervise.call(paths, {"op": "remove", "ids": _ids(paths, config, node), "graceS": 0})
    _end_group(Cgroups(), f"{paths.cgroup}/{node.name}")
    say(f"machine {node.name}")
    machines.discard(paths, load_record(paths), node.name, netns_name(config, node.name))
    # What a machine loses with its power: pods' writable layers and volumes in memory are gone with the mounts.
    shutil.rmtree(paths.node_root(node.name) / "var/lib/cni", ignore_errors=True)


def remove_node(name: str, node_name: str, say: Say = _quiet) -> None:
    """Power off a worker and forget it, its disk included. (The Node object is the caller's to delete.)"""
    with locked(name, say):
        paths, state, config = _loaded(name)
        if node_name == CONTROL_PLANE:
            raise Nsk8sError("the control plane cannot be removed", "nsk8s down removes the cluster")
        node = state.node(node_name)
        _power_off(paths, config, node, say)
        state.nodes.remove(node)
        state.links.pop(node_name, None)
        save_state(paths, state)
        forget_node(paths, node_name)


def with_name(config: ClusterConfig, **changes: object) -> ClusterConfig:
    """`config` with some fields set as if the file had said so."""
    return ClusterConfig.model_validate({**config.model_dump(by_alias=False, exclude_unset=True), **changes})


