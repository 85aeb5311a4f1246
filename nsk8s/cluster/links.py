"""The cables of a cluster while it lives: settings kept and applied, and what goes through them. Upstream: tc, ethtool, ip link.

Touches: netlink and ioctl in the machines' namespaces, cluster.json.

Settings belong to the cable and not to the machine: they outlast `node stop`, `node start` and `stop`, as a cut cable does.
"""

from __future__ import annotations

import errno
import os
import traceback
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from nsk8s import link
from nsk8s.cluster.state import ClusterState
from nsk8s.config import ClusterConfig
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import machine, probe, tcmsg
from nsk8s.kernel.ethtool import Ethtool
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.link import LinkSettings
from nsk8s.net.topology import CLIENT, ROUTER, Cable, Port, infrastructure, netns_name, node_cable


def cables(config: ClusterConfig, state: ClusterState, name: str) -> list[Cable]:
    """A machine's cable; the router has one to each rack, the client the one to the router. Pure. Raises Nsk8sError."""
    if name in (ROUTER, CLIENT):
        return [c for c in infrastructure(config)[1] if (c.b.machine == CLIENT) == (name == CLIENT)]
    found = next((n for n in state.nodes if n.name == name), None)
    if found is None:
        known = ", ".join([*(n.name for n in state.nodes), ROUTER, CLIENT])
        raise Nsk8sError(f"no machine {name!r} has a cable in this cluster", f"there are {known}")
    return [node_cable(config, name, IPv4Address(found.ip), found.rack)]


def settings(config: ClusterConfig, state: ClusterState, name: str) -> LinkSettings:
    """What a machine's cable should be like. Pure."""
    found = link.from_document(state.links.get(name, {}))
    return replace(found, offload=config.network.offload) if found.offload is None else found


def is_down(state: ClusterState, name: str) -> bool:
    return bool(state.links.get(name, {}).get("down"))


def require(wanted: LinkSettings) -> None:
    """Raise Nsk8sError for what this kernel cannot do."""
    needed = (["tbf (link rates)"] if wanted.rate else []) + (["netem (link delay and loss)"] if wanted.needs_netem else [])
    for name, error, fix in probe.optional_features(needed):
        if error:
            raise Nsk8sError(f"this kernel cannot do {name}: {error}", fix)


def apply(config: ClusterConfig, state: ClusterState, name: str, *, offload: bool | None = None) -> bool:
    """Make a machine's cable what it should be; False when there is none, because the machine is off. Raises Nsk8sError.

    Offloads are touched when they should be off, or when `offload` says that they were changed.
    """
    wanted, there = settings(config, state, name), True
    for cable in cables(config, state, name):
        for port in (cable.a, cable.b):
            there = _apply_end(config, port, wanted, is_port=port == cable.port) and there
    if there and (offload is not None or wanted.offload is False):
        _set_offload(config, state, name, bool(wanted.offload))
    return there


def _apply_end(config: ClusterConfig, port: Port, wanted: LinkSettings, *, is_port: bool) -> bool:
    try:
        with _inside(config, port.machine) as netlink:
            end = netlink.link_get(port.name)
            if end is None:
                return False
            if wanted.mtu and end.mtu != wanted.mtu:
                netlink.link_set(end.index, mtu=wanted.mtu)
            _shape(netlink, end.index, wanted)
            # Only an end that these settings took down is theirs to bring up: `up` finds it as somebody else left it.
            if is_port and wanted.down and end.up:
                netlink.link_set(end.index, up=False)
    except FileNotFoundError:
        return False
    return True


def bring_up(config: ClusterConfig, cable: Cable) -> None:
    """Undo what `down` did."""
    port = cable.port
    with _inside(config, port.machine) as netlink:
        end = netlink.link_get(port.name)
        if end is not None and not end.up:
            netlink.link_set(end.index, up=True)


class _inside:
    """`with _inside(config, machine) as netlink:` in the machine's namespace. Raises FileNotFoundError when it is off."""

    def __init__(self, config: ClusterConfig, name: str) -> None:
        self._path = machine.netns_path(netns_name(config, name))

    def __enter__(self) -> Rtnl:
        with machine.inside(self._path):
            self._netlink = Rtnl()
        return self._netlink

    def __exit__(self, *_: object) -> None:
        self._netlink.close()


def _shape(netlink: Rtnl, index: int, wanted: LinkSettings) -> None:
    """Root qdiscs as wanted; what somebody else put there stays while nothing is."""
    places = [tcmsg.place(body) for body in netlink.dump(tcmsg.qdisc_dump())]
    have = {(h, parent) for i, h, parent in places if i == index and h in (tcmsg.TBF_HANDLE, tcmsg.NETEM_HANDLE)}
    want = set()
    requests = []
    if wanted.needs_netem:
        want.add((tcmsg.NETEM_HANDLE, tcmsg.TC_H_ROOT))
        loss = link.percent(wanted.loss) if wanted.loss else 0.0
        delay, jitter = (link.microseconds(t) if t else 0 for t in (wanted.delay, wanted.jitter))
        requests.append(tcmsg.netem_set(index, tcmsg.Netem(delay, jitter, loss)))
    if wanted.rate:
        want.add((tcmsg.TBF_HANDLE, tcmsg.NETEM_CLASS if wanted.needs_netem else tcmsg.TC_H_ROOT))
        bucket = tcmsg.tbf(link.bits_per_second(wanted.rate), link.burst_bytes(wanted) * 8, link.latency_ms(wanted))
        requests.append(tcmsg.tbf_set(index, bucket, below_netem=wanted.needs_netem))
    if have and have != want:
        netlink.execute(tcmsg.qdisc_del(index))
    try:
        netlink.execute(*requests)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise Nsk8sError(f"this kernel cannot shape links: {e.strerror}", "nsk8s doctor shows what it has") from e
        raise


def _set_offload(config: ClusterConfig, state: ClusterState, name: str, on: bool) -> None:
    """Both ends of its cable, and on a node everything in it: bridge, tunnel, both ends of every pod's link."""
    for cable in cables(config, state, name):
        for port in (cable.a, cable.b):
            with machine.inside(machine.netns_path(netns_name(config, port.machine))), Ethtool() as ethtool:
                ethtool.set_offloading(port.name, on)
    if any(n.name == name for n in state.nodes):
        from nsk8s.cluster.state import Paths

        _in_node(str(machine.netns_path(netns_name(config, name))), str(Paths(config.name).pin(name)), on)


def _in_node(netns: str, mnt: str, on: bool) -> None:
    """In a child of its own, since the node's pods are pinned in the node's own /run. Raises Nsk8sError."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            machine.enter(netns, mnt)
            _everything_here(on)
            for pod in os.scandir("/run/netns"):
                try:
                    with machine.inside(pod.path):
                        _everything_here(on)
                except OSError as e:
                    if e.errno not in (errno.ENOENT, errno.EINVAL):  # it has just ended, or begins and will do as its node does
                        raise
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise Nsk8sError("the offloads of the node's pods could not be switched", "repeat it")


def _everything_here(on: bool) -> None:
    with Rtnl() as netlink, Ethtool() as ethtool:
        for found in netlink.links():
            if found.kind in ("veth", "bridge", "vxlan"):
                try:
                    ethtool.set_offloading(found.name, on, gro=found.kind == "vxlan")
                except OSError as e:
                    if e.errno != errno.ENODEV:  # it went with its pod
                        raise


def show(config: ClusterConfig, state: ClusterState) -> list[dict[str, Any]]:
    """Every cable: where its ends are, what it is set to, whether it carries anything, what went through it."""
    found = []
    for name in [*(n.name for n in state.nodes), ROUTER, CLIENT]:
        wanted = settings(config, state, name)
        for cable in cables(config, state, name):
            found.append({"machine": name, **_ends(config, cable, wanted), "settings": link_view(wanted)})
    return found


def link_view(wanted: LinkSettings) -> dict[str, Any]:
    """Settings as JSON has them: figures in the units that their names say. Pure."""
    view: dict[str, Any] = {}
    if wanted.rate:
        view |= {"rate": wanted.rate, "rateBitsPerSecond": link.bits_per_second(wanted.rate)}
        view |= {"burstBytes": link.burst_bytes(wanted), "latencyMs": link.latency_ms(wanted)}
    for name in ("delay", "jitter", "loss"):
        if getattr(wanted, name):
            view[name] = getattr(wanted, name)
    return view


def _ends(config: ClusterConfig, cable: Cable, wanted: LinkSettings) -> dict[str, Any]:
    port = cable.port
    mine = cable.b if port == cable.a else cable.a
    names = {"interface": mine.name, "port": f"{port.machine}/{port.name}"}
    try:
        with _inside(config, mine.machine) as here, _inside(config, port.machine) as there:
            end, far = here.link_get(mine.name), there.link_get(port.name)
            if end is None or far is None:
                return {**names, "state": "off"}
            works = end.up and far.up and end.operstate == "up"
            ours = (tcmsg.TBF_HANDLE, tcmsg.NETEM_HANDLE)
            drops = [
                sum(tcmsg.parse_drops(q) for q in netlink.dump(tcmsg.qdisc_dump())
                    if tcmsg.place(q)[0] == index and tcmsg.place(q)[1] in ours)
                for netlink, index in ((there, far.index), (here, end.index))
            ]  # fmt: skip
            counters = here.link_stats(end.index)
    except FileNotFoundError:
        return {**names, "state": "off"}
    with machine.inside(machine.netns_path(netns_name(config, mine.machine))), Ethtool() as ethtool:
        offload = ethtool.is_offloading(mine.name)
    return {
        **names, "state": "up" if works else "down", "mtu": end.mtu, "offload": offload, "counters": counters,
        "shaperDrops": {"toMachine": drops[0], "fromMachine": drops[1]},
    }  # fmt: skip
