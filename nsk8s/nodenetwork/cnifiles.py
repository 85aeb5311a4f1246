"""The files of this node's /etc/cni/net.d: ours, or what somebody's templates make of this node.

Touches: those files; netlink, which is only read. Upstream: flannel's install-cni container with cni-conf.json; containerd's
conf_template.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.net import podnet
from nsk8s.net.cnitemplate import EXTENSIONS, Values, render
from nsk8s.nodenetwork import plan

ETHERNET_MTU = 1500
log = logging.getLogger("node-network")


class CniFiles:
    """`ensure` writes what should be there; nothing else in the folder is touched."""

    def __init__(
        self, folder: Path, templates: Path | None, cluster_cidrs: Sequence[str], service_cidrs: Sequence[str], mtu: int = 0
    ) -> None:
        self._folder = folder
        self._templates = templates
        self._cluster_cidrs = cluster_cidrs
        self._service_cidrs = service_cidrs
        self._mtu = mtu
        self._complaint = ""

    def ensure(self, node: Object, overlay_mtu: int) -> bool:
        """Write the files of a Node that has its podCIDRs; whether they are there. `overlay_mtu` is 0 where there is none."""
        cidrs, ips = podnet.pod_cidrs(node), podnet.internal_ips(node)
        mtu = min(filter(None, (self._mtu, overlay_mtu)), default=0)
        if self._templates is None:
            self._write(plan.CONFLIST, plan.conflist(cidrs, mtu=mtu), cidrs)
            return True
        values = Values(meta.name(node), ips, cidrs, self._cluster_cidrs, self._service_cidrs, mtu or _mtu_of(ips))
        try:
            files = {f.name: f.read_text() for f in sorted(self._templates.iterdir()) if f.suffix in EXTENSIONS}
            texts = {name: _render(name, text, values) for name, text in files.items()}
        except (OSError, ValueError) as e:  # a file that is no text is a ValueError too
            if str(e) != self._complaint:
                log.error("CNI configuration: %s", e)
            self._complaint = str(e)
            return False
        self._complaint = ""
        for name, text in texts.items():
            self._write(name, text, cidrs)
        ours = self._folder / plan.CONFLIST
        if texts and plan.CONFLIST not in texts and ours.exists():
            ours.unlink()
            log.info("%s removed: %s takes its place", ours, ", ".join(texts))
        return bool(texts)

    def _write(self, name: str, text: str, cidrs: Sequence[str]) -> None:
        if write_whole(self._folder / name, text):
            log.info("%s written for %s", self._folder / name, ", ".join(cidrs))


def _mtu_of(ips: Sequence[str]) -> int:
    """The MTU of the node's link to the others."""
    with Rtnl() as rtnl:
        index = next((a.index for a in rtnl.addrs() if a.ip in ips), None)
        link = rtnl.link_by_index(index) if index is not None else None
        return link.mtu if link is not None else ETHERNET_MTU


def _render(name: str, text: str, values: Values) -> str:
    try:
        return render(text, values)
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from None


def write_whole(path: Path, text: str) -> bool:
    """Write a file so that readers see the old or the new one, never half; False when it holds that text already.

    The temporary name starts with a dot and does not end in .conflist: a CNI runtime that lists the folder overlooks it.
    """
    try:
        if path.read_text() == text:
            return False
    except OSError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    temporary.rename(path)
    return True
