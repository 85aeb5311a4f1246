"""What bridge and ptp share: a veth pair into the pod's namespace, and the pod's end of it configured from an IPAM result.

Touches: netlink in the plugin's own namespace and in CNI_NETNS, /proc/sys/net of both. Upstream: plugins/pkg/{ip,ipam,ns}.
The pair is made with each end where it belongs, so neither namespace ever sees the other's interface.
"""

from __future__ import annotations

import errno
import os

from cni import conf, invoke
from cni.address import V4, V6, Subnet, parse_ip, parse_subnet
from cni.errors import CniError
from cni.result import check_routes, parse
from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl, entered, open_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from cni.skel import Args

AF = {V4: 2, V6: 10}
_DAD_TIMEOUT_S = 10.0
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)


class Inside:
    """The pod's namespace: a netlink socket in it, and its sysctls. Raises CniError when there is none at `path`."""

    def __init__(self, path: str) -> None:
        try:
            self.fd = open_netns(path)
        except OSError as e:
            raise CniError(f'failed to open netns "{path}": {e.strerror}') from None
        try:
            self.rt = Rtnl(self.fd)
        except OSError as e:
            os.close(self.fd)
            raise CniError(f'failed to open netns "{path}": {e.strerror}') from None

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        self.rt.close()
        os.close(self.fd)

    def sysctls(self, settings: Iterable[tuple[str, str]]) -> None:
        """Set net/`key`s that exist."""
        with entered(self.fd):
            for key, value in settings:
                write_sysctl(key, value, required=False)


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


def enable_forwarding(families: Iterable[int]) -> None:
    for family in families:
        write_sysctl("ipv4/ip_forward" if family == V4 else "ipv6/conf/all/forwarding", "1")


def forget(action: Callable[[], object]) -> None:
    """Do what can be done while another error is on its way."""
    try:
        action()
    except (OSError, CniError):
        return


# ── the pair ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_veth(
    host: Rtnl, inside: Inside, ifname: str, *, mtu: int = 0, mac: str = "", master: int = 0,
    port: Mapping[str, bool] | None = None,
) -> tuple[rtmsg.Link, rtmsg.Link]:
    """(host end, up; container end, down). The name on the host is random and never used again. Raises CniError.

    With a `master` the host end is its port, with the flags `port` (names of PORT_ATTRS).
    """
    for _ in range(10):
        name = "veth" + os.urandom(4).hex()
        requests = [rtmsg.veth_new(name, ifname, peer_netns_fd=inside.fd, peer_mac=mac, mtu=mtu, master=master, up=True)]
        if port:
            requests.append(rtmsg.port_change(0, name, **port))
        try:
            answers = host.execute(*requests, rtmsg.link_get(by_name=name))
        except OSError as e:
            if e.errno == errno.EEXIST and inside.rt.link_get(ifname) is not None:
                raise CniError(f'container veth name provided ("{ifname}") already exists') from None
            if e.errno == errno.EEXIST:
                continue
            forget(lambda name=name: host.execute(rtmsg.link_delete(by_name=name)))  # type: ignore[misc]
            raise CniError(f"failed to make veth pair: {e.strerror}") from None
        eth = inside.rt.link_get(ifname)
        if eth is None:
            raise CniError(f'container interface "{ifname}" vanished')
        return rtmsg.parse_link(answers[-1][0]), eth
    raise CniError("failed to find an unused name for the host's end of the veth pair")


def delete_link(args: Args) -> set[str]:
    """Delete the container's interface; the addresses its namespace still has on others. A namespace that is gone has none."""
    try:
        fd = open_netns(args.netns)
    except OSError as e:
        if e.errno in _GONE:
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


# ── what IPAM said ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ask_ipam(args: Args, plugin: str) -> dict[str, Any]:
    """The IPAM plugin's result of ADD, checked. Raises CniError; what it reserved is then given back."""
    given = invoke.delegate(args, plugin, "ADD")
    try:
        found = parse(invoke.decode_result(given, plugin))
        if not found["ips"]:
            raise CniError("IPAM plugin returned missing IP config")
        check_routes(found["routes"])
        for ip in found["ips"]:
            try:
                parse_subnet(ip["address"])
                if ip.get("gateway"):
                    parse_ip(ip["gateway"])
            except (KeyError, TypeError, ValueError, AttributeError) as e:
                raise CniError(f"IPAM plugin returned a bad address: {e}") from None
        return found
    except BaseException:
        forget(lambda: invoke.delegate(args, plugin, "DEL"))
        raise


def configured_dns(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's own dns section as Go prints it (null and empty values left out); empty when it says nothing."""
    dns = conf.section(config, "dns")
    found: dict[str, Any] = {}
    for key in ("nameservers", "domain", "search", "options"):
        value: Any = conf.text(dns, key) if key == "domain" else conf.texts(dns, key)
        if value:
            found[key] = value
    return found


def configure_container(
    inside: Inside, eth: rtmsg.Link, result: Mapping[str, Any], subnets: Sequence[Subnet], *, dad: str = "",
    extra: Sequence[rtmsg.Request] = (),
) -> None:  # fmt: skip
    """Addresses, link up, routes of `result`, then `extra`. Raises CniError.

    `dad`: "off" or "on" sets duplicate address detection of IPv6 (else the kernel's default stays). Without it addresses are
    usable at once; the kernel's way to see that there is nothing to detect is a work queue, often 10 ms away.
    """
    ifname = eth.name
    has_v6 = any(s.family == V6 for s in subnets)
    settings = []
    if has_v6:
        settings += [("lo", "disable_ipv6", "0"), (ifname, "disable_ipv6", "0"), (ifname, "keep_addr_on_down", "1")]
        if dad == "on":
            settings += [(ifname, "enhanced_dad", "1"), (ifname, "accept_dad", "1")]
        elif dad == "off":
            settings.append((ifname, "accept_dad", "0"))
    pairs = [(f"ipv6/conf/{name}/{key}", value) for name, key, value in settings]
    if dad:  # bridge: tell the neighbours of a container that has a used address again
        pairs.append((f"ipv4/conf/{ifname}/arp_notify", "1"))
    if pairs:
        inside.sysctls(pairs)
    nodad = dad == "off"
    setup = [rtmsg.addr_change(eth.index, str(s), nodad=nodad) for s in subnets] + [rtmsg.link_change(eth.index, up=True)]
    routes = [route_request(eth.index, route, result["ips"]) for route in result["routes"]]
    try:
        if has_v6 and not nodad:
            inside.rt.execute(*setup)
            _wait_for_addresses(inside.rt, eth.index)
            inside.rt.execute(*routes, *extra)
        else:
            inside.rt.execute(*setup, *routes, *extra)
    except OSError as e:
        raise CniError(f'failed to configure "{ifname}": {e.strerror}') from None


def route_request(index: int, route: Mapping[str, Any], ips: Iterable[Mapping[str, Any]]) -> rtmsg.Request:
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
    return rtmsg.route_change(text, gateway=gateway, index=index, family=AF[dst.family], **options)


def _wait_for_addresses(rt: Rtnl, index: int) -> None:
    """Until no IPv6 address is tentative. Raises CniError."""
    waited = 0.0
    while True:
        flags = [a.flags for a in rt.addrs(index, AF[V6])]
        if any(f & rtmsg.IFA_F_DADFAILED for f in flags):
            raise CniError("an address is in DADFAILED state: somebody else has it")
        if not any(f & rtmsg.IFA_F_TENTATIVE for f in flags):
            return
        if waited >= _DAD_TIMEOUT_S:
            raise CniError(f"addresses are still tentative after {_DAD_TIMEOUT_S:.0f} seconds")
        waited += pause(0.01)


def pause(seconds: float) -> float:
    import select

    select.select([], [], [], seconds)
    return seconds


# ── CHECK ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def named(interfaces: Iterable[Mapping[str, Any]], name: str, sandbox: str) -> Mapping[str, Any]:
    """The result's interface of that name in the sandbox ("" is the host). Raises CniError."""
    for interface in interfaces:
        if interface.get("name") == name and (interface.get("sandbox") or "") == sandbox:
            return interface
    where = f"sandbox {sandbox}" if sandbox else "host namespace"
    raise CniError(f"prevResult has no interface {name} in {where}")


def same_mac(interface: Mapping[str, Any], link: rtmsg.Link) -> None:
    mac = interface.get("mac")
    if mac and str(mac).lower() != link.mac:
        raise CniError(f"Interface {link.name} Mac {mac} doesn't match: {link.mac}")


def check_container(inside: Rtnl, interface: Mapping[str, Any], *, up: bool = True) -> rtmsg.Link:
    """The container's end, if it is what the result says. Raises CniError."""
    link = inside.link_get(interface["name"])
    if link is None:
        raise CniError(f"Interface name {interface['name']} not found")
    if link.kind != "veth":
        raise CniError(f"Error: Container interface {link.name} not of type veth")
    same_mac(interface, link)
    if up and not link.up:
        raise CniError(f"Container interface {link.name} is down")
    return link


def check_layer3(inside: Rtnl, link: rtmsg.Link, result: Mapping[str, Any], index: int) -> None:
    """Addresses of the result's interface number `index`, and its routes, are there. Raises CniError."""
    found = {str(Subnet(parse_ip(a.ip), a.prefixlen)) for a in inside.addrs(link.index)}
    for ip in result["ips"]:
        address = str(parse_subnet(ip["address"]))
        if ip.get("interface") in (None, index) and address not in found:
            raise CniError(f"Failed to match addr {address} on interface {link.name}")
    have = inside.routes(table=0)
    for route in result["routes"]:
        dst = parse_subnet(route["dst"])
        text = "default" if dst.length == 0 else f"{dst.network}/{dst.length}"
        gateway = str(parse_ip(route["gw"])) if route.get("gw") else ""
        if not any(r.family == AF[dst.family] and r.dst == text and gateway in ("", r.gateway) for r in have):
            raise CniError(f"Expected Route {route['dst']} not found in routing table")
