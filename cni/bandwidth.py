"""bandwidth: token buckets on the node's end of a container's veth pair. Upstream: plugins/meta/bandwidth.

Touches: netlink (qdiscs; for egress also an ifb link that is redirected to). Ingress is what the container receives: it leaves
the node's end through a tbf. Egress arrives there, where the kernel can only drop: it takes a detour through the ifb's tbf.
"""

from __future__ import annotations

import errno

from cni import conf, skel
from cni.errors import CniError
from cni.interface import Inside
from cni.iptables import chain_name
from cni.result import VERSIONS, optional_previous_result, previous_result, render
from nsk8s.kernel import rtmsg, tcmsg
from nsk8s.kernel.rtnl import Rtnl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.skel import Args

_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
_MAX_NAME = 15
_ALIAS = "cni bandwidth "


class Limits:
    """Rates and bursts in bits per second and bits; 0 is no limit."""

    __slots__ = ("egress", "ingress")

    def __init__(self, ingress: tcmsg.Tbf | None, egress: tcmsg.Tbf | None) -> None:
        self.ingress = ingress
        self.egress = egress


def limits(args: Args) -> Limits:
    """What the configuration's own keys say; where it has none of them, runtimeConfig.bandwidth. Raises CniError."""
    own = any(conf.lookup(args.conf, key) is not None for key in _KEYS)
    section = args.conf if own else conf.section(conf.section(args.conf, "runtimeConfig"), "bandwidth")
    values = [conf.number(section, key) for key in _KEYS]
    for key, value in zip(_KEYS, values, strict=True):
        if not 0 <= value < 1 << 64:
            raise CniError(f"{key}: invalid number {value}")
    return Limits(_bucket(*values[:2]), _bucket(*values[2:]))


def _bucket(rate: int, burst: int) -> tcmsg.Tbf | None:
    if rate and not burst:
        raise CniError("if rate is set, burst must also be set")
    if burst and not rate:
        raise CniError("if burst is set, rate must also be set")
    if burst // 8 >= 0xFFFFFFFF:
        raise CniError("burst cannot be more than 4GB")
    try:
        return tcmsg.tbf(rate, burst) if rate else None
    except ValueError as e:
        raise CniError(str(e)) from None


def ifb_name(network: str, container_id: str) -> str:
    return chain_name("bwp", network, container_id, _MAX_NAME)


def add(args: Args) -> dict[str, Any]:
    wanted = limits(args)
    previous = optional_previous_result(args.conf, args.version)
    if previous is None:
        raise CniError("must be called as chained plugin")
    if wanted.ingress is None and wanted.egress is None:
        return render(previous, args.version)
    with Rtnl() as host:
        port = _host_interface(host, previous, args)
        try:
            if wanted.ingress is not None:
                host.execute(tcmsg.tbf_add(port.index, wanted.ingress))
            if wanted.egress is not None:
                ifb = _add_ifb(host, port, wanted.egress, args)
                previous["interfaces"].append({"name": ifb.name, "mac": ifb.mac})
        except OSError as e:
            hint = ": this kernel lacks tbf, ingress or mirred" if e.errno in (errno.ENOENT, errno.EOPNOTSUPP) else ""
            raise CniError(f"create qdisc: {e.strerror}{hint}") from None
    return render(previous, args.version)


def _host_interface(host: Rtnl, result: Mapping[str, Any], args: Args) -> rtmsg.Link:
    """The other end of the container's interface, if the result names it. Raises CniError."""
    if not result["interfaces"]:
        raise CniError("no interfaces provided")
    with Inside(args.netns) as inside:
        eth = inside.rt.link_get(args.ifname)
    if eth is None or eth.kind != "veth" or not eth.peer:
        raise CniError(f"container interface {args.ifname} has no veth peer")
    port = host.link_by_index(eth.peer)
    if port is None:
        raise CniError(f"veth peer with index {eth.peer} is not in host ns")
    if not any(i.get("name") == port.name and not i.get("sandbox") for i in result["interfaces"]):
        raise CniError("no veth peer of container interface found in host ns")
    return port


def _add_ifb(host: Rtnl, port: rtmsg.Link, bucket: tcmsg.Tbf, args: Args) -> rtmsg.Link:
    """The ifb with its bucket, and everything from `port` redirected to it; nothing is left when that fails."""
    from nsk8s.kernel.modules import load_ifb

    name = ifb_name(args.name, args.container_id)
    load_ifb()
    try:
        host.execute(rtmsg.link_new(name, "ifb", mtu=port.mtu, up=True))
    except OSError as e:
        hint = ": this kernel has no ifb, which egress limits need" if e.errno == errno.EOPNOTSUPP else ""
        raise CniError(f"adding link: {e.strerror}{hint}") from None
    try:
        link = host.link_get(name)
        assert link is not None
        # The alias tells GC whose it is; the name is a hash.
        host.execute(
            rtmsg.link_change(link.index, txqlen=0, alias=f"{_ALIAS}{args.name} {args.container_id}"),
            tcmsg.tbf_add(link.index, bucket),
            tcmsg.ingress_add(port.index),
            tcmsg.redirect_add(port.index, link.index),
        )
    except BaseException:
        _delete_ifb(host, name)
        raise
    return link


def _delete_ifb(host: Rtnl, name: str) -> None:
    try:
        host.execute(rtmsg.link_delete(by_name=name))
    except OSError as e:
        if e.errno != errno.ENODEV:
            raise CniError(f"failed to delete {name}: {e.strerror}") from None


def delete(args: Args) -> None:
    """The bucket on the veth pair goes with it; the ifb is the node's and stays until now."""
    limits(args)
    with Rtnl() as host:
        _delete_ifb(host, ifb_name(args.name, args.container_id))


def check(args: Args) -> None:
    wanted = limits(args)
    previous = previous_result(args.conf, args.version)
    with Rtnl() as host:
        port = _host_interface(host, previous, args)
        qdiscs = [tcmsg.parse_qdisc(body) for body in host.dump(tcmsg.qdisc_dump())]
        roots = {index: bucket for index, _, parent, bucket in qdiscs if parent == tcmsg.TC_H_ROOT}
        if wanted.ingress is not None:
            _same(roots.get(port.index), wanted.ingress, port.name)
        if wanted.egress is None:
            return
        ifb = host.link_get(ifb_name(args.name, args.container_id))
        if ifb is None:
            raise CniError(f"get ifb device: {ifb_name(args.name, args.container_id)} not found")
        _same(roots.get(ifb.index), wanted.egress, ifb.name)
        if not host.dump(tcmsg.filter_dump(port.index)):
            raise CniError(f"traffic from {port.name} is not redirected to {ifb.name}")


def _same(have: tcmsg.Tbf | None, wanted: tcmsg.Tbf, name: str) -> None:
    if have is None:
        raise CniError(f"Failed to find qdisc of {name}")
    for field in ("rate", "limit", "buffer"):
        if getattr(have, field) != getattr(wanted, field):
            raise CniError(f"{field.capitalize()} doesn't match")


def gc(args: Args) -> None:
    """Delete the ifbs of this network whose containers are not in `cni.dev/valid-attachments`."""
    valid = skel.valid_attachments(args)
    if valid is None:
        return
    keep = {container_id for container_id, _ in valid}
    prefix = f"{_ALIAS}{args.name} "
    with Rtnl() as host:
        for link in host.links(kind="ifb"):
            if link.alias.startswith(prefix) and link.alias[len(prefix) :] not in keep:
                _delete_ifb(host, link.name)


PLUGIN = skel.Plugin(
    "CNI plugin bandwidth (nsk8s)", add=add, delete=delete, check=check, gc=gc, versions=VERSIONS[VERSIONS.index("0.3.0") :]
)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
