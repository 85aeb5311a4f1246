"""static: the addresses that the configuration, or the caller, names. Upstream: plugins/ipam/static. Pure; keeps nothing."""

from __future__ import annotations

from cni import conf, skel
from cni.address import Subnet, parse_ip, parse_subnet
from cni.errors import CniError
from cni.interface import configured_dns
from cni.result import at_least, check_routes, previous_result, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.address import IP
    from cni.skel import Args

    Addresses = list[tuple[Subnet, IP | None]]


def addresses(args: Args) -> Addresses:
    """(address, gateway): runtimeConfig.ips instead of args.cni.ips instead of ipam.addresses and CNI_ARGS. Raises CniError."""
    if conf.lookup(args.conf, "ipam") is None:
        raise CniError("IPAM config missing 'ipam' key")
    asked = conf.texts(conf.section(args.conf, "runtimeConfig"), "ips")
    asked = asked or conf.texts(conf.section(conf.section(args.conf, "args"), "cni"), "ips")
    found: Addresses
    if asked:
        found = [(_subnet(text, "an entry in the 'ips' field is NOT in CIDR notation"), None) for text in asked]
    else:
        found = _configured(args)
    families = [subnet.family for subnet, _ in found]
    if len(set(families)) < len(families) and not at_least(args.version, "0.3.0"):
        raise CniError(f"CNI version {args.version} does not support more than 1 address per family")
    return found


def _configured(args: Args) -> Addresses:
    found: Addresses = []
    for obj in conf.objects(conf.section(args.conf, "ipam"), "addresses"):
        subnet = _subnet(conf.text(obj, "address"), "the 'address' field is expected to be in CIDR notation")
        gateway = conf.text(obj, "gateway")
        found.append((subnet, _ip(gateway) if gateway else None))
    known = conf.load_args(args.args, ("IP", "GATEWAY"))
    if known.get("IP"):
        what = "the 'ip' field is expected to be in CIDR notation"
        found += [(_subnet(text.strip(), what), None) for text in known["IP"].split(",")]
    for text in known["GATEWAY"].split(",") if known.get("GATEWAY") else ():
        gateway_ip = _ip(text.strip())
        found = [(subnet, gateway_ip if gateway_ip in subnet else before) for subnet, before in found]
    return found


def _subnet(text: str, what: str) -> Subnet:
    try:
        return parse_subnet(text)
    except ValueError:
        raise CniError(f"{what}, got: '{text}'") from None


def _ip(text: str) -> IP:
    try:
        return parse_ip(text)
    except ValueError:
        raise CniError(f"invalid gateway address: {text}") from None


def add(args: Args) -> dict[str, Any]:
    ipam = conf.section(args.conf, "ipam")
    routes = conf.objects(ipam, "routes")
    check_routes(routes)
    ips = [
        {"address": str(subnet), **({"gateway": str(gateway)} if gateway is not None else {})}
        for subnet, gateway in addresses(args)
    ]
    return render({"interfaces": [], "ips": ips, "routes": routes, "dns": configured_dns(ipam)}, args.version)


def check(args: Args) -> None:
    """The result still holds the configured addresses with their gateways (one that it never had is no concern of ours)."""
    wanted = addresses(args)
    result = previous_result(args.conf, args.version)
    for subnet, gateway in wanted:
        for ip in result["ips"]:
            same = parse_subnet(ip["address"]).ip == subnet.ip
            if same and gateway is not None and (not ip.get("gateway") or parse_ip(ip["gateway"]) != gateway):
                raise CniError(f"static: Failed to match addr {subnet.ip} on interface {args.ifname}")


def delete(args: Args) -> None:
    """Nothing was reserved."""


PLUGIN = skel.Plugin("CNI plugin static (nsk8s)", add=add, delete=delete, check=check, enters_netns=False)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
