"""bridge's CHECK: whether the kernel still holds what the result of ADD says. Upstream: cmdCheck of plugins/main/bridge.

Touches: netlink (reading only).
"""

from __future__ import annotations

from cni.address import V4, Subnet, parse_ip, parse_subnet
from cni.errors import CniError
from nsk8s.kernel.rtmsg import IFF_PROMISC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from nsk8s.kernel.rtmsg import Address, Link, Route
    from nsk8s.kernel.rtnl import Rtnl


def check_attachment(
    host: Rtnl, inside: Rtnl, result: Mapping[str, Any], bridge: str, ifname: str, netns: str, *, promisc: bool, up: bool
) -> None:
    """Raises CniError on the first difference. `up`: the container's end is meant to be up."""
    interfaces = result["interfaces"]
    br = _check_bridge(host, _named(interfaces, bridge, ""), promisc)
    eth = _check_container(inside, _named(interfaces, ifname, netns), up)
    _check_port(host, br, eth, interfaces)
    _check_ips(result["ips"], inside.addrs(eth.index), ifname)
    _check_routes(result["routes"], inside.routes(table=0))


def _named(interfaces: Sequence[Mapping[str, Any]], name: str, sandbox: str) -> Mapping[str, Any]:
    for interface in interfaces:
        if interface.get("name") == name and (interface.get("sandbox") or "") == sandbox:
            return interface
    where = f"sandbox {sandbox}" if sandbox else "host namespace"
    raise CniError(f"prevResult has no interface {name} in {where}")


def _same_mac(interface: Mapping[str, Any], link: Link) -> None:
    mac = interface.get("mac")
    if mac and str(mac).lower() != link.mac:
        raise CniError(f"Interface {link.name} Mac {mac} doesn't match: {link.mac}")


def _check_bridge(host: Rtnl, interface: Mapping[str, Any], promisc: bool) -> Link:
    link = host.link_get(interface["name"])
    if link is None:
        raise CniError(f"Interface name {interface['name']} not found")
    if link.kind != "bridge":
        raise CniError(f"Interface {link.name} does not have link type of bridge")
    _same_mac(interface, link)
    if not link.up:
        raise CniError(f"Bridge interface {link.name} is down")
    # The flag as it was asked for: a capture makes the link promiscuous without it.
    if bool(link.flags & IFF_PROMISC) != promisc:
        raise CniError(
            f"Bridge interface {link.name} configured Promisc Mode {promisc} doesn't match current state: {not promisc}"
        )
    return link


def _check_container(inside: Rtnl, interface: Mapping[str, Any], up: bool) -> Link:
    link = inside.link_get(interface["name"])
    if link is None:
        raise CniError(f"Interface name {interface['name']} not found")
    if link.kind != "veth":
        raise CniError(f"Error: Container interface {link.name} not of type veth")
    _same_mac(interface, link)
    if up and not link.up:
        raise CniError(f"Container interface {link.name} is down")
    return link


def _check_port(host: Rtnl, bridge: Link, eth: Link, interfaces: Sequence[Mapping[str, Any]]) -> None:
    port = host.link_by_index(eth.peer) if eth.peer else None
    known = {i.get("name"): i for i in interfaces if not i.get("sandbox")}
    if port is None or port.kind != "veth" or port.peer != eth.index or port.name not in known:
        raise CniError(f"CNI veth created for bridge {bridge.name} was not found")
    if port.master != bridge.index:
        raise CniError(f"CNI veth {port.name} is not attached to bridge {bridge.name}")
    if not port.up:
        raise CniError(f"CNI veth {port.name} is down")
    _same_mac(known[port.name], port)


def _check_ips(ips: Sequence[Mapping[str, Any]], have: Sequence[Address], ifname: str) -> None:
    found = {str(Subnet(parse_ip(a.ip), a.prefixlen)) for a in have}
    for ip in ips:
        address = str(parse_subnet(ip["address"]))
        if address not in found:
            raise CniError(f"Failed to match addr {address} on interface {ifname}")


def _check_routes(routes: Sequence[Mapping[str, Any]], have: Sequence[Route]) -> None:
    for route in routes:
        dst = parse_subnet(route["dst"])
        family = 2 if dst.family == V4 else 10
        text = "default" if dst.length == 0 else f"{dst.network}/{dst.length}"
        gateway = str(parse_ip(route["gw"])) if route.get("gw") else ""
        if not any(r.family == family and r.dst == text and gateway in ("", r.gateway) for r in have):
            raise CniError(f"Expected Route {route['dst']} not found in routing table")
