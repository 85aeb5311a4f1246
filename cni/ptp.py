"""ptp: a veth pair between the pod and the node, routed on both sides. Upstream: plugins/main/ptp.

Touches: netlink in the plugin's own namespace and in CNI_NETNS, /proc/sys/net of both, iptables or nftables (ipMasq), the
IPAM plugin.  veth knows no point-to-point mode: the pod keeps its subnet's prefix, but all of it goes through the gateway,
which is an address of the host's end.
"""

from __future__ import annotations

from cni import conf, invoke, skel
from cni.address import BITS, Subnet, parse_ip, parse_subnet
from cni.errors import CniError
from cni.interface import (
    Inside,
    add_veth,
    ask_ipam,
    check_container,
    check_layer3,
    configure_container,
    configured_dns,
    delete_link,
    enable_forwarding,
    forget,
    named,
)
from cni.result import previous_result, render
from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cni.skel import Args


class PtpConf:
    """The plugin's own keys, checked."""

    __slots__ = ("dns", "ipam_type", "masquerade", "masquerade_backend", "mtu")

    def __init__(self, args: Args) -> None:
        """Raises CniError."""
        c = args.conf
        self.mtu = conf.number(c, "mtu")
        if self.mtu < 0 or self.mtu > 65535:
            raise CniError(f"invalid mtu {self.mtu}")
        self.masquerade = conf.flag(c, "ipMasq")
        self.masquerade_backend = conf.text(c, "ipMasqBackend")
        if self.masquerade_backend not in ("", "iptables", "nftables"):
            raise CniError(f'unknown ipmasq backend "{self.masquerade_backend}"')
        self.dns = configured_dns(c)
        self.ipam_type = conf.text(conf.section(c, "ipam"), "type")
        if not self.ipam_type:
            raise CniError("ptp needs an IPAM plugin: no ipam.type")


def add(args: Args) -> dict[str, Any]:
    c = PtpConf(args)
    with Inside(args.netns) as inside, Rtnl() as host:
        port, eth = add_veth(host, inside, args.ifname, mtu=c.mtu)
        try:
            given = ask_ipam(args, c.ipam_type)
            try:
                return _finish(host, inside, port, eth, given, c, args)
            except BaseException:
                forget(lambda: invoke.delegate(args, c.ipam_type, "DEL"))
                raise
        except BaseException:
            forget(lambda: host.link_delete(port.index))
            raise


def _finish(
    host: Rtnl, inside: Inside, port: rtmsg.Link, eth: rtmsg.Link, result: dict[str, Any], c: PtpConf, args: Args
) -> dict[str, Any]:
    result["interfaces"] = [
        {"name": port.name, "mac": port.mac},
        {"name": args.ifname, "mac": eth.mac, "sandbox": args.netns},
    ]
    subnets: list[Subnet] = []
    gateways: list[str] = []
    for ip in result["ips"]:
        if not ip.get("gateway"):
            raise CniError(f"IPAM gave no gateway for {ip['address']}: ptp needs one")
        ip["interface"] = 1
        subnets.append(parse_subnet(ip["address"]))
        gateways.append(str(parse_ip(ip["gateway"])))
    enable_forwarding(sorted({s.family for s in subnets}))
    through = [request for pair in zip(subnets, gateways, strict=True) for request in _through_gateway(eth.index, *pair)]
    configure_container(inside, eth, result, subnets, extra=through)
    _configure_host(host, port, subnets, gateways)
    if c.masquerade:
        _set_up_masquerade(inside, eth, subnets, c, args)
    if c.dns:
        result["dns"] = c.dns
    return render(result, args.version)


def _through_gateway(index: int, subnet: Subnet, gateway: str) -> list[rtmsg.Request]:
    """Replace the subnet's own route by one to the gateway alone and one through it."""
    network, host = f"{subnet.network}/{subnet.length}", f"{gateway}/{BITS[subnet.family]}"
    return [
        rtmsg.route_change(network, add=False, index=index, scope=255),
        rtmsg.route_change(host, index=index, src=str(subnet.ip), scope=rtmsg.RT_SCOPE_LINK),
        rtmsg.route_change(network, gateway=gateway, index=index, src=str(subnet.ip), scope=rtmsg.RT_SCOPE_UNIVERSE),
    ]


def _configure_host(host: Rtnl, port: rtmsg.Link, subnets: Sequence[Subnet], gateways: Sequence[str]) -> None:
    """Each gateway's address on the host's end, and the way to the pod. The pod may ask for its gateway at once, and nobody else
    is on this link: no duplicate address detection, in whose seconds an IPv6 gateway would not answer."""
    try:
        for subnet, gateway in zip(subnets, gateways, strict=True):
            host.addr_add(port.index, f"{gateway}/{BITS[subnet.family]}", nodad=True)
            _route_to(host, port, subnet)
    except OSError as e:
        raise CniError(f'failed to configure "{port.name}": {e.strerror}') from None


def _route_to(host: Rtnl, port: rtmsg.Link, subnet: Subnet) -> None:
    try:
        host.route_add(f"{subnet.ip}/{BITS[subnet.family]}", index=port.index, scope=rtmsg.RT_SCOPE_HOST)
    except FileExistsError:
        return  # as upstream: whoever has that address already keeps it


def _set_up_masquerade(inside: Inside, eth: rtmsg.Link, subnets: Sequence[Subnet], c: PtpConf, args: Args) -> None:
    from cni import masquerade
    from cni.iptables import nat_backend

    backend = nat_backend(args.env, c.masquerade_backend, "ipmasq backend")
    try:
        masquerade.setup(args.env, backend, subnets, args.name, args.container_id, args.ifname)
    except BaseException:
        others = {str(parse_ip(a.ip)) for a in inside.rt.addrs() if a.index != eth.index}
        forget(lambda: masquerade.teardown(args.env, args.name, args.container_id, args.ifname, others))
        raise


def delete(args: Args) -> None:
    """Succeeds whatever is already gone, the namespace included."""
    c = PtpConf(args)
    invoke.delegate(args, c.ipam_type, "DEL")
    live = delete_link(args) if args.netns else set()
    if c.masquerade:
        from cni import masquerade

        masquerade.teardown(args.env, args.name, args.container_id, args.ifname, live)


def check(args: Args) -> None:
    c = PtpConf(args)
    with Inside(args.netns) as inside:
        invoke.delegate(args, c.ipam_type, "CHECK")
        result = previous_result(args.conf, args.version)
        interface = named(result["interfaces"], args.ifname, args.netns)
        eth = check_container(inside.rt, interface)
        check_layer3(inside.rt, eth, result, result["interfaces"].index(interface))
    if c.masquerade:
        from cni import masquerade
        from cni.iptables import nat_backend

        index = result["interfaces"].index(interface)
        subnets = [parse_subnet(ip["address"]) for ip in result["ips"] if ip.get("interface") in (None, index)]
        backend = nat_backend(args.env, c.masquerade_backend, "ipmasq backend")
        masquerade.check(args.env, backend, subnets, args.name, args.container_id, args.ifname)


def gc(args: Args) -> None:
    c = PtpConf(args)
    invoke.delegate(args, c.ipam_type, "GC")
    valid = skel.valid_attachments(args)
    if c.masquerade and valid is not None:
        from cni import masquerade

        masquerade.collect_garbage(args.env, args.name, valid)


def status(args: Args) -> None:
    invoke.delegate(args, PtpConf(args).ipam_type, "STATUS")


PLUGIN = skel.Plugin("CNI plugin ptp (nsk8s)", add=add, delete=delete, check=check, gc=gc, status=status)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
