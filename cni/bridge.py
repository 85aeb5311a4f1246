"""bridge: a veth pair between the pod and a Linux bridge of the node. Upstream: plugins/main/bridge.

Touches: netlink in the plugin's own namespace and in CNI_NETNS, /proc/sys/net of both, iptables (ipMasq only), the IPAM plugin.
The pair is made with each end where it belongs, so neither namespace ever sees the other's interface.
"""

from __future__ import annotations

import errno
import os

from cni import conf, invoke, masquerade, skel
from cni.address import V4, V6, Subnet, parse_ip, parse_subnet
from cni.bridgecheck import check_attachment
from cni.errors import CniError
from cni.result import check_routes, parse, render
from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl, entered, open_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from cni.skel import Args

_AF = {V4: 2, V6: 10}
_UNSUPPORTED = {"vlan": "VLANs", "vlanTrunk": "VLAN trunks", "macspoofchk": "MAC spoof checking"}
_PORT_UP_TIMEOUT_S = 2.55
_DAD_TIMEOUT_S = 5.0


class BridgeConf:
    """The plugin's own keys, checked."""

    __slots__ = (
        "bridge", "container_down", "default_gateway", "dns", "enable_dad", "force_address", "gateway", "hairpin", "ipam_type",
        "isolated", "mac", "masquerade", "mtu", "promisc",
    )  # fmt: skip

    def __init__(self, args: Args) -> None:
        """Raises CniError."""
        c = args.conf
        for key, what in _UNSUPPORTED.items():
            if conf.lookup(c, key):
                raise CniError(f"{key}: {what} are not supported by this bridge plugin")
        self.bridge = conf.text(c, "bridge", "cni0")
        problem = skel.interface_name_error(self.bridge)
        if problem:
            raise CniError(f"bridge {self.bridge!r}: {problem}")
        self.mtu = conf.number(c, "mtu")
        if self.mtu < 0 or self.mtu > 65535:
            raise CniError(f"invalid mtu {self.mtu}")
        self.default_gateway = conf.flag(c, "isDefaultGateway")
        self.gateway = conf.flag(c, "isGateway") or self.default_gateway
        self.force_address = conf.flag(c, "forceAddress")
        self.hairpin = conf.flag(c, "hairpinMode")
        self.promisc = conf.flag(c, "promiscMode")
        self.isolated = conf.flag(c, "portIsolation")
        self.enable_dad = conf.flag(c, "enabledad")
        self.container_down = conf.flag(c, "disableContainerInterface")
        self.masquerade = conf.flag(c, "ipMasq")
        backend = conf.text(c, "ipMasqBackend")
        if self.masquerade and backend not in ("", "iptables"):
            raise CniError(f"ipMasqBackend {backend!r} is not supported by this bridge plugin: use iptables")
        self.dns = conf.section(c, "dns")
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
        if self.hairpin and self.promisc:
            raise CniError("cannot set hairpin mode and promiscuous mode at the same time")
        if self.ipam_type and self.container_down:
            raise CniError("cannot use IPAM when DisableContainerInterface flag is set")


# ── ADD ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add(args: Args) -> dict[str, Any]:
    c = BridgeConf(args)
    netns_fd = _open(args.netns)
    try:
        with Rtnl() as host, _Inside(netns_fd, args.netns) as inside:
            bridge = ensure_bridge(host, c)
            port, eth = _add_veth(host, inside, bridge, c, args)
            try:
                return _finish(host, inside, bridge, port, eth, c, args)
            except BaseException:
                _forget(lambda: host.link_delete(port.index))
                raise
    finally:
        os.close(netns_fd)


class _Inside:
    """The pod's namespace: a netlink socket in it, and its sysctls."""

    def __init__(self, netns_fd: int, path: str) -> None:
        self.fd = netns_fd
        try:
            self.rt = Rtnl(netns_fd)
        except OSError as e:
            raise CniError(f'failed to open netns "{path}": {e.strerror}') from None

    def __enter__(self) -> _Inside:
        return self

    def __exit__(self, *_: object) -> None:
        self.rt.close()

    def sysctls(self, settings: Sequence[tuple[str, str]], *, required: bool = False) -> None:
        with entered(self.fd):
            for key, value in settings:
                write_sysctl(key, value, required=required)


def _open(path: str) -> int:
    try:
        return open_netns(path)
    except OSError as e:
        raise CniError(f'failed to open netns "{path}": {e.strerror}') from None


def write_sysctl(key: str, value: str, *, required: bool = True) -> None:
    """Set /proc/sys/net/`key`, unless it has that value. One that does not exist (no IPv6) is skipped unless required."""
    path = f"/proc/sys/net/{key}"
    try:
        with open(path, "rb", buffering=0) as f:
            if f.read(64).strip() == value.encode():
                return
        with open(path, "wb", buffering=0) as f:
            f.write(value.encode())
    except OSError as e:
        if required:
            raise CniError(f"failed to set sysctl net/{key} to {value}: {e.strerror}") from None


def ensure_bridge(rt: Rtnl, c: BridgeConf) -> rtmsg.Link:
    """The bridge, made if it is absent; up. Its MAC is fixed from birth, or it would be the lowest of its ports'."""
    link = rt.link_get(c.bridge)
    if link is None:
        try:
            link = rt.link_add_bridge(c.bridge, mtu=c.mtu, mac=_random_mac())
        except FileExistsError:
            link = rt.link_get(c.bridge)  # another pod's ADD was quicker
        except OSError as e:
            raise CniError(f'failed to create bridge "{c.bridge}": {e.strerror}') from None
        else:
            # The node's routes are its own, not what some router advertises on the pod network.
            write_sysctl(f"ipv6/conf/{c.bridge}/accept_ra", "0", required=False)
    if link is None:
        raise CniError(f'could not lookup "{c.bridge}"')
    if link.kind != "bridge":
        raise CniError(f'failed to create bridge "{c.bridge}": "{c.bridge}" already exists but is not a bridge')
    if not link.up:
        rt.link_set(link.index, up=True)
    if c.promisc and not link.flags & rtmsg.IFF_PROMISC:
        rt.link_set(link.index, promisc=True)
    return link


def _random_mac() -> str:
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02  # locally administered, unicast
    return raw.hex(":")


def _add_veth(
    host: Rtnl, inside: _Inside, bridge: rtmsg.Link, c: BridgeConf, args: Args
) -> tuple[rtmsg.Link, rtmsg.Link]:
    """(host end, container end). The name on the host is random and never used again. Raises CniError."""
    for _ in range(10):
        name = "veth" + os.urandom(4).hex()
        requests = [
            rtmsg.veth_new(
                name, args.ifname, peer_netns_fd=inside.fd, peer_mac=c.mac, mtu=c.mtu, master=bridge.index, up=True
            )
        ]
        if c.hairpin or c.isolated:
            requests.append(rtmsg.port_change(0, name, hairpin=c.hairpin, isolated=c.isolated))
        try:
            answers = host.execute(*requests, rtmsg.link_get(by_name=name))
        except OSError as e:
            if e.errno == errno.EEXIST and inside.rt.link_get(args.ifname) is not None:
                raise CniError(f'container veth name provided ("{args.ifname}") already exists') from None
            if e.errno == errno.EEXIST:
                continue
            _forget(lambda name=name: host.execute(rtmsg.link_delete(by_name=name)))
            raise CniError(f"failed to make veth pair: {e.strerror}") from None
        eth = inside.rt.link_get(args.ifname)
        if eth is None:
            raise CniError(f'container interface "{args.ifname}" vanished')
        return rtmsg.parse_link(answers[-1][0]), eth
    raise CniError("failed to find an unused name for the host's end of the veth pair")


def _finish(
    host: Rtnl, inside: _Inside, bridge: rtmsg.Link, port: rtmsg.Link, eth: rtmsg.Link, c: BridgeConf, args: Args
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
    if not c.ipam_type:
        if not c.container_down:
            inside.rt.link_set(eth.index, up=True)
            _wait_for_port(host, port)
        return _answer(host, result, c, args)
    given = invoke.decode_result(invoke.delegate(args, c.ipam_type, "ADD"), c.ipam_type)
    subnets: list[Subnet] = []
    try:
        subnets = _take_ipam(result, parse(given), c)
        _configure_container(inside, eth, args.ifname, result, subnets, c)
        if c.gateway:
            _configure_gateway(host, bridge, result["ips"], subnets, c)
        if c.masquerade:
            masquerade.setup(args.env, subnets, args.name, args.container_id)
        _wait_for_port(host, port)
        return _answer(host, result, c, args)
    except BaseException:
        if c.masquerade and subnets:
            _forget(lambda: masquerade.teardown(args.env, args.name, args.container_id, ()))
        ipam = c.ipam_type
        _forget(lambda: invoke.delegate(args, ipam, "DEL"))
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
    """Put IPAM's answer into `result`, with gateways and default routes; the addresses. Raises CniError. Pure."""
    if not ipam["ips"]:
        raise CniError("IPAM plugin returned missing IP config")
    check_routes(ipam["routes"])
    result["routes"] = ipam["routes"]
    result["dns"] = ipam["dns"]
    subnets = []
    for ip in ipam["ips"]:
        try:
            subnet = parse_subnet(ip["address"])
            gateway = parse_ip(ip["gateway"]) if ip.get("gateway") else None
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise CniError(f"IPAM plugin returned a bad address: {e}") from None
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


def _configure_container(
    inside: _Inside, eth: rtmsg.Link, ifname: str, result: dict[str, Any], subnets: list[Subnet], c: BridgeConf
) -> None:
    has_v6 = any(s.family == V6 for s in subnets)
    if has_v6:
        dad = [("enhanced_dad", "1"), ("accept_dad", "1")] if c.enable_dad else [("accept_dad", "0")]
        names = [("lo", "disable_ipv6", "0"), (ifname, "disable_ipv6", "0"), (ifname, "keep_addr_on_down", "1")]
        names += [(ifname, key, value) for key, value in dad]
        inside.sysctls([(f"ipv6/conf/{name}/{key}", value) for name, key, value in names])
    inside.sysctls([(f"ipv4/conf/{ifname}/arp_notify", "1")])
    setup = [rtmsg.addr_change(eth.index, str(s)) for s in subnets] + [rtmsg.link_change(eth.index, up=True)]
    routes = [_route(eth.index, route, result["ips"]) for route in result["routes"]]
    try:
        if has_v6:
            inside.rt.execute(*setup)
            _wait_for_addresses(inside.rt, eth.index)
            inside.rt.execute(*routes)
        else:
            inside.rt.execute(*setup, *routes)
    except OSError as e:
        raise CniError(f'failed to configure "{ifname}": {e.strerror}') from None


def _route(index: int, route: Mapping[str, Any], ips: Iterable[Mapping[str, Any]]) -> rtmsg.Request:
    """A route of the result; without a gateway it goes through the first gateway of its family."""
    dst = parse_subnet(route["dst"])
    gateway = route.get("gw") or next(
        (ip["gateway"] for ip in ips if ip.get("gateway") and parse_ip(ip["gateway"]).family == dst.family), ""
    )
    options: dict[str, Any] = {}
    for key in ("priority", "mtu", "advmss", "table", "scope"):
        value = route.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CniError(f"invalid {key} {value!r} of route {route['dst']}")
        if value or key in ("table", "scope"):
            options[key] = value
    if options.get("scope") == rtmsg.RT_SCOPE_LINK:
        gateway = ""
    text = "default" if dst.length == 0 else f"{dst.network}/{dst.length}"
    return rtmsg.route_change(text, gateway=gateway, index=index, family=_AF[dst.family], **options)


def _wait_for_addresses(rt: Rtnl, index: int) -> None:
    """Until no IPv6 address is tentative (duplicate detection is off unless enabledad). Raises CniError."""
    waited = 0.0
    while True:
        flags = [a.flags for a in rt.addrs(index, _AF[V6])]
        if any(f & rtmsg.IFA_F_DADFAILED for f in flags):
            raise CniError("an address is in DADFAILED state: somebody else has it")
        if not any(f & rtmsg.IFA_F_TENTATIVE for f in flags):
            return
        if waited >= _DAD_TIMEOUT_S:
            raise CniError(f"addresses are still tentative after {_DAD_TIMEOUT_S:.0f} seconds")
        waited += _pause(0.01)


def _pause(seconds: float) -> float:
    import select

    select.select([], [], [], seconds)
    return seconds


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
        waited += _pause(min(0.05, max(0.001, waited)))


def _configure_gateway(
    host: Rtnl, bridge: rtmsg.Link, ips: Sequence[Mapping[str, Any]], subnets: Sequence[Subnet], c: BridgeConf
) -> None:
    for ip, subnet in zip(ips, subnets, strict=True):
        _ensure_address(host, bridge, Subnet(parse_ip(ip["gateway"]), subnet.length), c.force_address)
    families = {s.family for s in subnets}
    if V4 in families:
        write_sysctl("ipv4/ip_forward", "1")
    if V6 in families:
        write_sysctl("ipv6/conf/all/forwarding", "1")


def _ensure_address(rt: Rtnl, bridge: rtmsg.Link, wanted: Subnet, force: bool) -> None:
    """`wanted` on the bridge. A different IPv4 address, or an overlapping IPv6 one, is replaced if forced, else refused."""
    have = rt.addrs(bridge.index, _AF[wanted.family])
    if any(a.cidr == str(wanted) for a in have):
        return
    for address in have:
        other = Subnet(parse_ip(address.ip), address.prefixlen)
        if wanted.family == V4 or wanted.ip in other or other.ip in wanted:
            if not force:
                raise CniError(
                    f'failed to set bridge addr: "{bridge.name}" already has an IP address different from {wanted}'
                )
            _forget(lambda cidr=address.cidr: rt.addr_del(bridge.index, cidr))
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
    live = _delete_link(args) if args.netns else set()
    if c.ipam_type:
        invoke.delegate(args, c.ipam_type, "DEL")
    if c.masquerade and c.ipam_type:
        masquerade.teardown(args.env, args.name, args.container_id, live)


def _delete_link(args: Args) -> set[str]:
    """Delete the container's interface; the addresses its namespace still has on others. A namespace that is gone has none."""
    try:
        fd = open_netns(args.netns)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH):
            return set()
        raise
    try:
        inside = Rtnl(fd)
    except OSError as e:
        if e.errno == errno.EINVAL:  # a plain file: the namespace that was mounted on it is gone
            return set()
        raise
    finally:
        os.close(fd)
    with inside:
        link = inside.link_get(args.ifname)
        if link is not None and not link.flags & rtmsg.IFF_LOOPBACK:
            try:
                inside.link_delete(link.index)
            except OSError as e:
                if e.errno != errno.ENODEV:
                    raise CniError(f'failed to delete "{args.ifname}": {e.strerror}') from None
        return {str(parse_ip(a.ip)) for a in inside.addrs()}


def check(args: Args) -> None:
    c = BridgeConf(args)
    netns_fd = _open(args.netns)
    try:
        if c.ipam_type:
            invoke.delegate(args, c.ipam_type, "CHECK")
        previous = conf.section(args.conf, "prevResult")
        if not previous:
            raise CniError("Required prevResult missing")
        with Rtnl() as host, _Inside(netns_fd, args.netns) as inside:
            check_attachment(
                host, inside.rt, parse(previous), c.bridge, args.ifname, args.netns, promisc=c.promisc, up=not c.container_down
            )
    finally:
        os.close(netns_fd)


def gc(args: Args) -> None:
    c = BridgeConf(args)
    if c.ipam_type:
        invoke.delegate(args, c.ipam_type, "GC")
    valid = skel.valid_attachments(args)
    if c.masquerade and valid is not None:
        masquerade.collect_garbage(args.env, args.name, {container_id for container_id, _ in valid})


def status(args: Args) -> None:
    c = BridgeConf(args)
    if c.ipam_type:
        invoke.delegate(args, c.ipam_type, "STATUS")


def _forget(action: Any) -> None:
    """Do what can be done while another error is on its way."""
    try:
        action()
    except (OSError, CniError):
        return


PLUGIN = skel.Plugin("CNI plugin bridge (nsk8s)", add=add, delete=delete, check=check, gc=gc, status=status)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
