"""bridge's CHECK: whether the kernel still holds what the result of ADD says. Upstream: cmdCheck of plugins/main/bridge.

Touches: netlink (reading only).  Flags of the port and the gateway's address are looked at too, which upstream does not.
"""

from __future__ import annotations

from cni.address import Subnet, parse_ip, parse_subnet
from cni.errors import CniError
from cni.interface import check_container, check_layer3, named, same_mac
from nsk8s.kernel.rtmsg import IFF_PROMISC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cni.bridge import BridgeConf
    from nsk8s.kernel.rtmsg import Link
    from nsk8s.kernel.rtnl import Rtnl


def check_attachment(host: Rtnl, inside: Rtnl, result: Mapping[str, Any], c: BridgeConf, ifname: str, netns: str) -> None:
    """Raises CniError on the first difference."""
    interfaces = result["interfaces"]
    bridge = _check_bridge(host, named(interfaces, c.bridge, ""), c.promisc)
    interface = named(interfaces, ifname, netns)
    eth = check_container(inside, interface, up=not c.container_down)
    port = _check_port(host, bridge, eth, interfaces)
    for flag, wanted in c.port_flags.items():
        if port.port.get(flag, False) != wanted:
            raise CniError(f"CNI veth {port.name} configured {flag} {wanted} doesn't match current state: {not wanted}")
    if c.filtering:
        _check_vlans(host, port, c)
    check_layer3(inside, eth, result, interfaces.index(interface))
    if c.gateway and c.ipam_type:
        _check_gateway(host, result["ips"], c)


def _check_bridge(host: Rtnl, interface: Mapping[str, Any], promisc: bool) -> Link:
    link = host.link_get(interface["name"])
    if link is None:
        raise CniError(f"Interface name {interface['name']} not found")
    if link.kind != "bridge":
        raise CniError(f"Interface {link.name} does not have link type of bridge")
    same_mac(interface, link)
    if not link.up:
        raise CniError(f"Bridge interface {link.name} is down")
    # The flag as it was asked for: a capture makes the link promiscuous without it.
    if bool(link.flags & IFF_PROMISC) != promisc:
        raise CniError(
            f"Bridge interface {link.name} configured Promisc Mode {promisc} doesn't match current state: {not promisc}"
        )
    return link


def _check_port(host: Rtnl, bridge: Link, eth: Link, interfaces: Sequence[Mapping[str, Any]]) -> Link:
    port = host.link_by_index(eth.peer) if eth.peer else None
    known = {i.get("name"): i for i in interfaces if not i.get("sandbox")}
    if port is None or port.kind != "veth" or port.peer != eth.index or port.name not in known:
        raise CniError(f"CNI veth created for bridge {bridge.name} was not found")
    if port.master != bridge.index:
        raise CniError(f"CNI veth {port.name} is not attached to bridge {bridge.name}")
    if not port.up:
        raise CniError(f"CNI veth {port.name} is down")
    same_mac(known[port.name], port)
    return port


def _check_vlans(host: Rtnl, port: Link, c: BridgeConf) -> None:
    have = host.vlans().get(port.index, {})
    native = c.vlan or (1 if c.trunk else 0)
    if native and have.get(native) != (True, True):
        raise CniError(f"CNI veth {port.name} is not an untagged port of VLAN {native}")
    missing = [str(v) for v in c.trunk if v not in have]
    if missing:
        raise CniError(f"CNI veth {port.name} does not carry VLAN {', '.join(missing)}")


def _check_gateway(host: Rtnl, ips: Sequence[Mapping[str, Any]], c: BridgeConf) -> None:
    holder = host.link_get(c.gateway_name)
    if holder is None:
        raise CniError(f"Interface name {c.gateway_name} not found")
    have = {a.cidr for a in host.addrs(holder.index)}
    for ip in ips:
        subnet = parse_subnet(ip["address"])
        if ip.get("gateway") and str(Subnet(parse_ip(ip["gateway"]), subnet.length)) not in have:
            raise CniError(f"Failed to match addr {ip['gateway']}/{subnet.length} on interface {holder.name}")
