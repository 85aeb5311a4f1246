"""A node's rules as text, read from outside the node. Touches: iptables-save and nft in a namespace."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from nsk8s.kernel import iptables, machine
from nsk8s.kernel.iptables import IptablesError


def counted(netns: Path, variant: str = "auto", *, ipv6: bool = False) -> str:
    """`iptables-save -c` there. Raises IptablesError when the programs are missing or fail."""
    with machine.inside(netns):
        programs = iptables.detect(variant, ipv6=ipv6)
        done = subprocess.run([programs.save_program, "-c"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise IptablesError(done.stderr.strip() or f"{programs.save_program} failed", code=done.returncode)
    return done.stdout


def kube_proxy_table(netns: Path, *, ipv6: bool = False) -> str:
    """`nft list table` of kube-proxy's own table there; empty when there is none (it runs in another mode), or no nft."""
    with machine.inside(netns), contextlib.suppress(FileNotFoundError):
        argv = ["nft", "list", "table", "ip6" if ipv6 else "ip", "kube-proxy"]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return ""
