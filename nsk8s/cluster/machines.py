"""Making and discarding the machines of a cluster. Touches: namespaces, netlink (inside them), record.json."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from nsk8s.cluster.specs import node_files
from nsk8s.cluster.state import NodeState, Paths, Record, save_record, write_atomically
from nsk8s.config import ClusterConfig
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import machine
from nsk8s.kernel.routes import PROTOCOL
from nsk8s.kernel.rtnl import Rtnl, open_netns
from nsk8s.net.topology import ROUTER, Cable, Machine, infrastructure, inside_interfaces, netns_name, node, node_cable

LOCAL_HOSTS = "127.0.0.1\tlocalhost\n"
LOCAL_HOSTS6 = "::1\tlocalhost ip6-localhost ip6-loopback\n"


def prepare(paths: Paths, record: Record) -> None:
    """The directories that machines are pinned in."""
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    machine.prepare_pin_dir(paths.pins)
    if machine.prepare_netns_dir():
        record.made_netns_dir = True
    save_record(paths, record)


def is_up(paths: Paths, record: Record, m: Machine) -> bool:
    """Whether this very machine exists: recorded, and its namespace still the recorded one."""
    known = record.namespaces.get(m.netns)
    return known is not None and machine.inode(machine.netns_path(m.netns)) == known["net"]


def make(paths: Paths, record: Record, m: Machine, shown: Sequence[str] = ()) -> None:
    """Make one machine unless it is there. A half-made one is made anew (recorded, not pinned) or completed (no bridge)."""
    if not is_up(paths, record, m):
        _create(paths, record, m, shown)
    with _netlink(m.netns) as netlink:
        lo = netlink.link_get("lo")
        assert lo is not None
        netlink.link_set(lo.index, up=True)
        if m.bridge and netlink.link_get(m.bridge) is None:
            netlink.link_add_bridge(m.bridge, up=True)


def _create(paths: Paths, record: Record, m: Machine, shown: Sequence[str]) -> None:
    def remember(inodes: dict[str, int]) -> None:
        record.namespaces[m.netns] = inodes
        save_record(paths, record)

    discard(paths, record, m.name, m.netns)
    if m.role == "node":
        root = paths.node_root(m.name)
        root.mkdir(parents=True, exist_ok=True, mode=0o755)
        machine.create(m.netns, m.sysctls, remember, root, m.name, paths.pin(m.name), shown)
    else:
        machine.create(m.netns, m.sysctls, remember)


def _netlink(netns: str) -> Rtnl:
    fd = open_netns(str(machine.netns_path(netns)))
    try:
        return Rtnl(fd)
    finally:
        os.close(fd)


def connect(config: ClusterConfig, cable: Cable) -> None:
    """Plug a cable in unless it is there: a veth pair made in both ends' namespaces, never in the root one.

    An end that is as it should be is not touched: somebody may have taken it down on purpose.
    """
    a, b = cable.a, cable.b
    b_fd = open_netns(str(machine.netns_path(netns_name(config, b.machine))))
    try:
        with _netlink(netns_name(config, a.machine)) as here, Rtnl(b_fd) as there:
            if here.link_get(a.name) is None:
                here.link_add_veth(a.name, b.name, peer_netns_fd=b_fd, mac=a.mac, peer_mac=b.mac)
            for netlink, port in ((there, b), (here, a)):
                link = netlink.link_get(port.name)
                assert link is not None
                if port.master and not link.master:
                    master = netlink.link_get(port.master)
                    assert master is not None
                    netlink.link_set(link.index, master=master.index, up=True)
                missing = _missing(netlink, link.index, port.addresses)
                if missing:
                    netlink.link_set(link.index, up=True)
                for address in missing:
                    netlink.addr_add(link.index, address)
    finally:
        os.close(b_fd)


def reconnect(config: ClusterConfig, cables: Iterable[Cable]) -> None:
    """After a cable was down: an interface that was loses IPv6 addresses and the routes over it."""
    for cable in cables:
        with contextlib.suppress(FileNotFoundError):  # a machine that is off
            connect(config, cable)


def _missing(netlink: Rtnl, index: int, addresses: Sequence[str]) -> list[str]:
    have = {f"{a.ip}/{a.prefixlen}" for a in netlink.addrs(index)} if addresses else set()
    return [a for a in addresses if a not in have]


def route_out(m: Machine) -> None:
    """The machine's default routes, if it has any."""
    if m.gateways:
        with _netlink(m.netns) as netlink:
            for gateway in m.gateways:
                netlink.route_replace("default", gateway=gateway)


def route_pool(config: ClusterConfig) -> None:
    """The router and the load balancers' addresses: layer 2 ones are on its link to the nodes; router-agent routes the others.

    What a node sends back, because it has no such service, is refused: or it would go round until its TTL ends.
    """
    if config.load_balancer.mode == "off":
        return
    with _netlink(netns_name(config, ROUTER)) as netlink:
        link = netlink.link_get("eth0")
        assert link is not None
        known = {(rule.dst, rule.iif) for rule in netlink.rules() if rule.priority == PROTOCOL}
        for pool in config.load_balancer_pools:
            if config.load_balancer.mode == "l2":
                netlink.route_replace(pool, index=link.index, protocol=PROTOCOL)
            family = socket.AF_INET6 if ":" in pool else socket.AF_INET
            netlink.route_replace("default", table=PROTOCOL, kind="unreachable", protocol=PROTOCOL, family=family)
            for interface in inside_interfaces(config):
                if (pool, interface) not in known:
                    netlink.rule_add(PROTOCOL, PROTOCOL, dst=pool, iif=interface)


def make_infrastructure(paths: Paths, record: Record, config: ClusterConfig) -> None:
    """Switch, router, client and the cables between them."""
    machines, cables = infrastructure(config)
    for m in machines:
        make(paths, record, m)
    for cable in cables:
        connect(config, cable)
    for m in machines:
        route_out(m)
    route_pool(config)


def linked_resolv_conf(host: Path) -> dict[str, str]:
    """A node sees the machine's /etc/resolv.conf; where that is a link out of /etc (systemd-resolved), it gets the text."""
    if not host.is_symlink():
        return {}
    try:
        return {"etc/resolv.conf": host.read_text()}
    except OSError:
        return {"etc/resolv.conf": ""}


def hosts(config: ClusterConfig, state: NodeState) -> str:
    """A node's /etc/hosts. Pure."""
    own = "".join(f"{ip}\t{state.name}\n" for ip in config.node_ips(IPv4Address(state.ip)))
    return LOCAL_HOSTS + (LOCAL_HOSTS6 if config.has_ipv6 else "") + own


def make_node(paths: Paths, record: Record, config: ClusterConfig, state: NodeState) -> None:
    """A node's machine, booted: empty /run, no rules, no pods; its disk as it was."""
    root = paths.node_root(state.name)
    for name, text in {**node_files(config), "etc/hostname": f"{state.name}\n", "etc/hosts": hosts(
        config, state
    ), **linked_resolv_conf(Path("/etc/resolv.conf"))}.items():  # fmt: skip
        path = root / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text, 0o644)
    m = node(config, state.name, state.rack)
    make(paths, record, m, config.cni.bin_dir)
    connect(config, node_cable(config, state.name, IPv4Address(state.ip), state.rack))
    route_out(m)


def cut(config: ClusterConfig, state: NodeState) -> None:
    """Unplug a node: its port on the switch goes, and with it the other end. What SIGKILL makes sockets say is never heard."""
    cable = node_cable(config, state.name, IPv4Address(state.ip), state.rack)
    try:
        with _netlink(netns_name(config, cable.b.machine)) as netlink:
            link = netlink.link_get(cable.b.name)
            if link is not None:
                netlink.link_delete(link.index)
    except FileNotFoundError:
        return


def discard(paths: Paths, record: Record, name: str, netns: str) -> None:
    """Unpin a machine's namespaces. Raises Nsk8sError when the name is taken by something that is not ours."""
    known = record.namespaces.get(netns)
    if known is None:
        return
    if not machine.discard(machine.netns_path(netns), known["net"]):
        raise Nsk8sError(f"the network namespace {netns} is not the one nsk8s made", f"look at it: ip netns exec {netns} ip addr")
    machine.discard(paths.pin(name), None)
    del record.namespaces[netns]
    save_record(paths, record)
