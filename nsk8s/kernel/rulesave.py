"""A node's rules with their counters, as text, read from outside the node. Touches: iptables-save in a namespace."""

from __future__ import annotations

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
