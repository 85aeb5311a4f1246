"""bridge: a veth pair between the pod and a Linux bridge of the node. Upstream: plugins/main/bridge.

Touches: netlink in the plugin's own namespace and in CNI_NETNS, /proc/sys/net of both, iptables or nftables (ipMasq,
macspoofchk), the IPAM plugin.
"""

from __future__ import annotations

import errno
import os

from cni import conf, invoke, skel
from cni.address import V4, V6, Subnet, parse_ip, parse_subnet
from cni.errors import CniError
from cni.interface import (
    AF,
    Inside,
    add_veth,
    ask_ipam,
    configure_container,
    configured_dns,
    delete_link,
    enable_forwarding,
    forget,
    pause,
    write_sysctl,
)  # fmt: skip
from cni.result import previous_result, render
from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cni.skel import Args

_PORT_UP_TIMEOUT_S = 2.55
_LAST_VLAN = 4094
_NO_FILTERING = "this kernel's bridge has no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)"


class BridgeConf:
    """The plugin's own keys, checked."""

    __slots__ = (
        "bridge", "container_down", "default_gateway", "dns", "enable_dad", "filtering", "force_address", "gateway",
        "ipam_type", "mac", "masquerade", "masquerade_backend", "mtu", "port_flags", "preserve_default_vlan", "promisc",
        "spoofcheck", "trunk", "vlan",
    )  # fmt: skip

    def __init__(self, args: Args) -> None:
        """Raises CniError."""
        c = args.conf
        self.bridge = conf.text(c, "bridge", "cni0")
        problem = skel.interface_name_error(self.bridge)
        if problem:
            raise CniError(f"bridge {self.bridge!r}: {problem}")
        self.mtu = conf.number(c, "mtu")
        if self.mtu < 0 or self.mtu > 65535:
            raise CniError(f"invalid mtu {self.mtu}")
        self.vlan = conf.number(c, "vlan")
        if not 0 <= self.vlan <= _LAST_VLAN:
            raise CniError(f"invalid VLAN ID {self.vlan} (must be between 0 and {_LAST_VLAN})")
        self.trunk = _trunk(c)
        self.preserve_default_vlan = conf.flag(c, "preserveDefaultVlan")
        self.filtering = bool(self.vlan) or conf.lookup(c, "vlanTrunk") is not None
        self.default_gateway = conf.flag(c, "isDefaultGateway")
        self.gateway = conf.flag(c, "isGateway") or self.default_gateway
        self.force_address = conf.flag(c, "forceAddress")
        self.promisc = conf.flag(c, "promiscMode")
        self.port_flags = {"hairpin": conf.flag(c, "hairpinMode"), "isolated": conf.flag(c, "portIsolation")}
        self.spoofcheck = conf.flag(c, "macspoofchk")
        self.enable_dad = conf.flag(c, "enabledad")
        self.container_down = conf.flag(c, "disableContainerInterface")
        self.masquerade = conf.flag(c, "ipMasq")
        self.masquerade_backend = conf.text(c, "ipMasqBackend")
        if self.masquerade_backend not in ("", "iptables", "nftables"):
            raise CniError(f'unknown ipmasq backend "{self.masquerade_backend}"')
        self.dns = configured_dns(c)
        self.ipam_type = conf.text(conf.section(c, "ipam"), "type")
        self.mac = (
            conf.text(conf.section(c, "runtimeConfig"), "mac")
            or conf.text(conf.section(conf.section(c, "args"), "cni"), "mac")
            or conf.load_args(args.args, ("MAC",)).get("MAC", "")
        )
        if self.mac:
            try:
                self.mac = rtmsg.mac_text(rtmsg.pack_mac(self.mac))
            except OSError:
                raise CniError(f"failed to parse MAC address {self.mac!r}") from None
        if self.port_flags["hairpin"] and self.promisc:
            raise CniError("cannot set hairpin mode and promiscuous mode at the same time")
        if self.ipam_type and self.container_down:
            raise CniError("cannot use IPAM when DisableContainerInterface flag is set")

    @property
    def gateway_name(self) -> str:
        """The interface of the node that carries the gateway's address."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge


def _trunk(c: Mapping[str, Any]) -> list[int]:
    """The VLANs of `vlanTrunk`, sorted. Raises CniError."""
    found: set[int] = set()
    for item in conf.objects(c, "vlanTrunk"):
        low, high = (conf.number(item, key, -1) if conf.lookup(item, key) is not None else None for key in ("minID", "maxID"))
        for name, other, value in (("minID", "maxID", low), ("maxID", "minID", high)):
            if value is None and conf.lookup(item, other) is not None:
                raise CniError(f"minID and maxID should be configured simultaneously, {name} is missing")
            if value is not None and not 0 < value <= _LAST_VLAN:
                raise CniError(f"incorrect trunk {name} parameter")
        if low is not None and high is not None:
            if high < low:
                raise CniError("minID is greater than maxID in trunk parameter")
            found.update(range(low, high + 1))
        if conf.lookup(item, "id") is not None:
            single = conf.number(item, "id")
            if not 0 < single <= _LAST_VLAN:
                raise CniError("incorrect trunk id parameter")
            found.add(single)
    return sorted(found)


# ── ADD ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add(args: Args) -> dict[str, Any]:
    c = BridgeConf(args)
    with Inside(args.netns) as inside, Rtnl() as host:
        bridge = ensure_bridge(host, c)
        port, eth = add_veth(
            host, inside, args.ifname, mtu=c.mtu, mac=c.mac, master=bridge.index,
            port={flag: True for flag, wanted in c.port_flags.items() if wanted},
        )  # fmt: skip
        try:
            if c.filtering:
                _join_vlans(host, port, c, c.trunk)
            return _finish(host, inside, bridge, port, eth, c, args)
        except BaseException:
            if c.spoofcheck:
                forget(lambda: _spoofcheck().teardown(args.env, args.container_id, args.ifname))
            forget(lambda: host.link_delete(port.index))
            raise


def _spoofcheck() -> Any:
    from cni import spoofcheck  # only who wants it pays for it

    return spoofcheck


def _masquerade() -> Any:
    from cni import masquerade

    return masquerade


def ensure_bridge(rt: Rtnl, c: BridgeConf) -> rtmsg.Link:
    """The bridge, made if it is absent; up. Its MAC is fixed from birth, or it would be the lowest of its ports'."""
    link = rt.link_get(c.bridge)
    if link is None:
        try:
            if c.filtering:
                link = rt.link_add_bridge(c.bridge, mtu=c.mtu, mac=_random_mac(), vlan_filtering=1)
            else:
                link = rt.link_add_bridge(c.bridge, mtu=c.mtu, mac=_random_mac())
        except FileExistsError:
            link = rt.link_get(c.bridge)  # another pod's ADD was quicker
        except OSError as e:
            if e.errno == errno.EOPNOTSUPP and c.filtering:
                raise CniError(f"vlan, vlanTrunk: {_NO_FILTERING}") from None
            raise CniError(f'failed to create bridge "{c.bridge}": {e.strerror}') from None
        else:
            # The node's routes are its own, not what some router advertises on the pod network.
            write_sysctl(f"ipv6/conf/{c.bridge}/accept_ra", "0", required=False)
    if link is None:
        raise CniError(f'could not lookup "{c.bridge}"')
    if link.kind != "bridge":
        raise CniError(f'failed to create bridge "{c.bridge}": "{c.bridge}" already exists but is not a bridge')
    if c.filtering and not link.bridge.get("vlan_filtering"):
        # VLANs on its ports would have no effect, and its other ports would lose theirs if it were switched on.
        raise CniError(f'bridge "{c.bridge}" exists without VLAN filtering: vlan and vlanTrunk need it')
    if not link.up:
        rt.link_set(link.index, up=True)
    if c.promisc and not link.flags & rtmsg.IFF_PROMISC:
        rt.link_set(link.index, promisc=True)
    return link


def _random_mac() -> str:
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02  # locally administered, unicast
    return raw.hex(":")


def _join_vlans(host: Rtnl, port: rtmsg.Link, c: BridgeConf, trunk: Sequence[int]) -> None:
    """The port untagged in `vlan` (a trunk without one: in VLAN 1) and tagged in the trunk's. Raises CniError."""
    requests = []
    if not c.preserve_default_vlan and (c.vlan or trunk):
        requests = [rtmsg.vlan_change(port.index, vlan, add=False) for vlan in host.vlans().get(port.index, {})]
    if c.vlan:
        requests.append(rtmsg.vlan_change(port.index, c.vlan, pvid=True, untagged=True))
    requests += [rtmsg.vlan_change(port.index, vlan) for vlan in trunk]
    if trunk and not c.vlan:
        requests.append(rtmsg.vlan_change(port.index, 1, pvid=True, untagged=True))
    try:
        host.execute(*requests)
    except OSError as e:
        raise CniError(f'failed to setup vlan tag on interface "{port.name}": {e.strerror}') from None


def _finish(
    host: Rtnl, inside: Inside, bridge: rtmsg.Link, port: rtmsg.Link, eth: rtmsg.Link, c: BridgeConf, args: Args
) -> dict[str, Any]:
    """All after the pair exists: addresses, gateway, masquerade. What IPAM gave is given back if any of it fails."""
    result: dict[str, Any] = {
        "interfaces": [
            {"name": bridge.name, "mac": bridge.mac},
            {"name": port.name, "mac": port.mac},
            {"name": args.ifname, "mac": eth.mac, "sandbox": args.netns},
        ],
        "ips": [], "routes": [], "dns": {},
    }  # fmt: skip
    if c.spoofcheck:
        _spoofcheck().setup(args.env, port.name, eth.mac, args.container_id, args.ifname)
    if not c.ipam_type:
        if not c.container_down:
            inside.rt.link_set(eth.index, up=True)
            _wait_for_port(host, port)
        return _answer(host, result, c, args)
    given = ask_ipam(args, c.ipam_type)
    try:
        subnets = _take_ipam(result, given, c)
        configure_container(inside, eth, result, subnets, dad="on" if c.enable_dad else "off")
        if c.gateway:
            _configure_gateway(host, bridge, result, subnets, c)
        if c.masquerade:
            _set_up_masquerade(inside, eth, subnets, c, args)
        _wait_for_port(host, port)
        return _answer(host, result, c, args)
    except BaseException:
        forget(lambda: invoke.delegate(args, c.ipam_type, "DEL"))
        raise


def _set_up_masquerade(inside: Inside, eth: rtmsg.Link, subnets: Sequence[Subnet], c: BridgeConf, args: Args) -> None:
    """Last of what can fail, but for a port that does not come up: what one family's half made is removed again."""
    from cni.iptables import nat_backend

    backend = nat_backend(args.env, c.masquerade_backend, "ipmasq backend")
    try:
        _masquerade().setup(args.env, backend, subnets, args.name, args.container_id, args.ifname)
    except BaseException:
        others = {str(parse_ip(a.ip)) for a in inside.rt.addrs() if a.index != eth.index}
        forget(lambda: _masquerade().teardown(args.env, args.name, args.container_id, args.ifname, others))
        raise


def _answer(host: Rtnl, result: dict[str, Any], c: BridgeConf, args: Args) -> dict[str, Any]:
    now = host.link_get(c.bridge)  # the MAC of a bridge we did not make changes with its ports until it has an address
    if now is None:
        raise CniError(f'could not lookup "{c.bridge}"')
    result["interfaces"][0]["mac"] = now.mac
    if c.dns:
        result["dns"] = c.dns
    return render(result, args.version)


def _take_ipam(result: dict[str, Any], ipam: dict[str, Any], c: BridgeConf) -> list[Subnet]:
    """Put IPAM's answer into `result`, with gateways and default routes; the addresses. Pure."""
    result["routes"] = ipam["routes"]
    result["dns"] = ipam["dns"]
    subnets = []
    for ip in ipam["ips"]:
        subnet = parse_subnet(ip["address"])
        gateway = parse_ip(ip["gateway"]) if ip.get("gateway") else None
        if gateway is None and c.gateway:
            gateway = subnet.network + 1
        subnets.append(subnet)
        result["ips"].append(
            {"interface": 2, "address": str(subnet), **({"gateway": str(gateway)} if gateway is not None else {})}
        )
        everything = "0.0.0.0/0" if subnet.family == V4 else "::/0"
        if c.default_gateway and not any(_is_default(r, everything) for r in result["routes"]):
            result["routes"].append({"dst": everything, "gw": str(gateway)})
    return subnets


def _is_default(route: Mapping[str, Any], everything: str) -> bool:
    """Whether a route is the main table's default route; without a gateway of its own it gets the same as ours would."""
    return str(parse_subnet(route["dst"])) == everything and not route.get("table")


def _wait_for_port(host: Rtnl, port: rtmsg.Link) -> None:
    """Until the bridge forwards to the port, or the pod's first packets would be lost. Raises CniError."""
    waited = 0.0
    while True:
        now = host.link_by_index(port.index)
        if now is None:
            raise CniError(f'"{port.name}" vanished')
        if now.operstate == "up":
            return
        if waited >= _PORT_UP_TIMEOUT_S:
            raise CniError(f"bridge port in error state: {now.operstate}")
        waited += pause(min(0.05, max(0.001, waited)))


def _configure_gateway(
    host: Rtnl, bridge: rtmsg.Link, result: dict[str, Any], subnets: Sequence[Subnet], c: BridgeConf
) -> None:
    """The gateways' addresses on the bridge, or with `vlan` on an interface of the node in that VLAN; forwarding."""
    holder = bridge
    if c.vlan:
        holder = _ensure_vlan_interface(host, bridge, c)
        result["interfaces"].append({"name": holder.name, "mac": holder.mac})
    for ip, subnet in zip(result["ips"], subnets, strict=True):
        _ensure_address(host, holder, Subnet(parse_ip(ip["gateway"]), subnet.length), c.force_address)
    enable_forwarding(sorted({s.family for s in subnets}))


def _ensure_vlan_interface(host: Rtnl, bridge: rtmsg.Link, c: BridgeConf) -> rtmsg.Link:
    """BRIDGE.VLAN: one end of a pair whose other end is the bridge's port in that VLAN, as upstream makes it."""
    link = host.link_get(c.gateway_name)
    if link is None:
        name = "veth" + os.urandom(4).hex()
        pair = rtmsg.veth_new(name, c.gateway_name, master=bridge.index, mtu=bridge.mtu, up=True)
        try:
            _join_vlans(host, rtmsg.parse_link(host.execute(pair, rtmsg.link_get(by_name=name))[1][0]), c, ())
        except FileExistsError:
            pass  # another pod's ADD was quicker
        except OSError as e:
            raise CniError(f'failed to create vlan gateway "{c.gateway_name}": {e.strerror}') from None
        link = host.link_get(c.gateway_name)
    if link is None:
        raise CniError(f'could not lookup "{c.gateway_name}"')
    if not link.up:
        host.link_set(link.index, up=True)
    return link


def _ensure_address(rt: Rtnl, bridge: rtmsg.Link, wanted: Subnet, force: bool) -> None:
    """`wanted` on the bridge. A different IPv4 address, or an overlapping IPv6 one, is replaced if forced, else refused."""
    have = rt.addrs(bridge.index, AF[wanted.family])
    if any(a.cidr == str(wanted) for a in have):
        return
    for address in have:
        other = Subnet(parse_ip(address.ip), address.prefixlen)
        if wanted.family == V4 or wanted.ip in other or other.ip in wanted:
            if not force:
                raise CniError(
                    f'failed to set bridge addr: "{bridge.name}" already has an IP address different from {wanted}'
                )
            forget(lambda cidr=address.cidr: rt.addr_del(bridge.index, cidr))  # type: ignore[misc]
    if wanted.family == V6:
        write_sysctl(f"ipv6/conf/{bridge.name}/disable_ipv6", "0", required=False)
    try:
        rt.addr_add(bridge.index, str(wanted), nodad=True)
    except FileExistsError:
        return  # another pod's ADD was quicker
    except OSError as e:
        raise CniError(f'failed to set bridge addr: could not add IP address {wanted} to "{bridge.name}": {e.strerror}') from None
    # Fix the MAC of a bridge that was made without one, as the real plugin does.
    now = rt.link_by_index(bridge.index)
    if now is not None:
        rt.link_set(bridge.index, mac=now.mac)


# ── DEL, CHECK, GC, STATUS ──────────────────────────────────────────────────────────────────────────────────────────────


def delete(args: Args) -> None:
    """Succeeds whatever is already gone, the namespace included. The bridge and ip_forward stay.

    A runtime that is about to drop the namespace may leave CNI_NETNS empty: the kernel then deletes the pair (explicitly it
    takes about 19 ms), and everything else is cleaned up all the same.
    """
    c = BridgeConf(args)
    live = delete_link(args) if args.netns else set()
    if c.ipam_type:
        invoke.delegate(args, c.ipam_type, "DEL")
    if c.spoofcheck:
        _spoofcheck().teardown(args.env, args.container_id, args.ifname)
    if c.masquerade and c.ipam_type:
        _masquerade().teardown(args.env, args.name, args.container_id, args.ifname, live)


def check(args: Args) -> None:
    from cni.bridgecheck import check_attachment

    c = BridgeConf(args)
    with Inside(args.netns) as inside, Rtnl() as host:
        if c.ipam_type:
            invoke.delegate(args, c.ipam_type, "CHECK")
        result = previous_result(args.conf, args.version)
        check_attachment(host, inside.rt, result, c, args.ifname, args.netns)
    if c.spoofcheck:
        _spoofcheck().check(args.env, args.container_id, args.ifname)
    if c.masquerade and c.ipam_type:
        from cni.iptables import nat_backend

        subnets = [parse_subnet(ip["address"]) for ip in result["ips"] if ip.get("interface") in (None, 2)]
        backend = nat_backend(args.env, c.masquerade_backend, "ipmasq backend")
        _masquerade().check(args.env, backend, subnets, args.name, args.container_id, args.ifname)


def gc(args: Args) -> None:
    c = BridgeConf(args)
    if c.ipam_type:
        invoke.delegate(args, c.ipam_type, "GC")
    valid = skel.valid_attachments(args)
    if c.masquerade and valid is not None:
        _masquerade().collect_garbage(args.env, args.name, valid)


def status(args: Args) -> None:
    c = BridgeConf(args)
    if c.ipam_type:
        invoke.delegate(args, c.ipam_type, "STATUS")


PLUGIN = skel.Plugin("CNI plugin bridge (nsk8s)", add=add, delete=delete, check=check, gc=gc, status=status)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
