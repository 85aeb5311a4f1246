"""loopback: brings lo up in the pod's namespace. Upstream: plugins/main/loopback. Touches: netlink in CNI_NETNS."""

from __future__ import annotations

import errno
import os

from cni import conf, skel
from cni.errors import CniError
from cni.result import parse, render
from nsk8s.kernel import rtmsg
from nsk8s.kernel.rtnl import Rtnl, open_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.skel import Args

_LO = 1
"""lo is the first interface of every network namespace."""


def open_rtnl(path: str) -> Rtnl:
    """A netlink socket in the namespace at `path`. Raises CniError."""
    try:
        fd = open_netns(path)
    except OSError as e:
        raise CniError(f'failed to open netns "{path}": {e.strerror}') from None
    try:
        return Rtnl(fd)
    except OSError as e:
        raise CniError(f'failed to open netns "{path}": {e.strerror}') from None
    finally:
        os.close(fd)


def add(args: Args) -> dict[str, Any]:
    previous = conf.section(args.conf, "prevResult")
    kept = parse(previous) if previous else None  # refuse a malformed one before anything is done
    with open_rtnl(args.netns) as rt:
        rt.link_set(_LO, up=True)
        addresses = rt.addrs(_LO)
    for address in addresses:
        if not address.ip.startswith("127.") and address.ip != "::1":
            raise CniError(f'loopback interface found with non-loopback address "{address.ip}"')
    if kept is not None:
        return render(kept, args.version)
    first = {a.family: a.cidr for a in reversed(addresses)}
    result = {
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": args.netns}],
        "ips": [{"interface": 0, "address": first[family]} for family in sorted(first)],
        "routes": [],
        "dns": {},
    }
    return render(result, args.version)


def check(args: Args) -> None:
    with open_rtnl(args.netns) as rt:
        lo = rt.link_by_index(_LO)
    if lo is None or not lo.up:
        raise CniError("loopback interface is down")


def delete(args: Args) -> None:
    if not args.netns or not os.path.exists(args.netns):
        return
    try:
        fd = open_netns(args.netns)
    except OSError:
        return
    try:
        with Rtnl(fd) as rt:
            rt.execute(rtmsg.link_change(_LO, up=False))
    except OSError as e:
        if e.errno != errno.EINVAL:  # a path that is no namespace any more: its mount is gone
            raise
    finally:
        os.close(fd)


PLUGIN = skel.Plugin("CNI plugin loopback (nsk8s)", add=add, delete=delete, check=check)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
