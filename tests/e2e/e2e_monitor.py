"""What a network namespace hears: `ip monitor` and `nft monitor` in it, known to be listening before anything happens."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import machine_state

IP = ("ip", "-o", "monitor", "link", "address", "route", "rule")
NFT = ("nft", "monitor")
RTNL_GROUPS = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10
"""RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, as bits (linux/rtnetlink.h)."""
NFT_GROUPS = 1 << 6
"""NFNLGRP_NFTABLES."""
NETLINK_ROUTE, NETLINK_NETFILTER = "0", "12"
NETWORK = ("link", "address", "route", "rule", "sysctl", "nft ruleset", "legacy iptables table")
"""The parts of a machine_state.State that are a namespace's own."""


class Monitor:
    """Both monitors, until `stop()`; `prefix` runs them elsewhere than in the namespace of the test (ip netns exec …)."""

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        self.path = folder / "heard"
        self._log = self.path.open("wb")
        wanted = ((IP, NETLINK_ROUTE, RTNL_GROUPS), (NFT, NETLINK_NETFILTER, NFT_GROUPS))
        self._processes = [
            subprocess.Popen([*prefix, *argv], stdout=self._log, stderr=self._log) for argv, _, _ in wanted
        ]
        for process, (argv, protocol, groups) in zip(self._processes, wanted, strict=True):
            self._wait_subscribed(process, argv[0], protocol, groups)

    def _wait_subscribed(self, process: subprocess.Popen[bytes], name: str, protocol: str, groups: int) -> None:
        """The kernel itself says who listens to what: sk, protocol, port (the pid), groups …"""
        deadline = time.monotonic() + 10
        while True:
            for line in Path(f"/proc/{process.pid}/net/netlink").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1:3] == [protocol, str(process.pid)] and int(fields[3], 16) & groups == groups:
                    return
            assert process.poll() is None, f"{name} monitor ended: {self.path.read_text()}"
            assert time.monotonic() < deadline, f"{name} monitor has not subscribed"
            time.sleep(0.005)

    def heard(self) -> list[str]:
        """The lines so far, but for what routers and DHCP servers around the machine make it do."""
        lines = self.path.read_text(errors="replace").splitlines()
        return [line for line in lines if not re.search(r"\bdynamic\b|\bproto (ra|dhcp)\b", line)]

    def stop(self) -> list[str]:
        """What was heard; fails when a monitor ended before (it would have heard nothing)."""
        for process in self._processes:
            assert process.poll() is None, f"a monitor ended early: {self.path.read_text()}"
        for process in self._processes:
            process.terminate()
            process.wait()
        self._log.close()
        return self.heard()


def network_state() -> machine_state.State:
    """Links, addresses, routes, rules, network sysctls, nftables rules and legacy tables of the test's own namespace."""
    state = machine_state.snapshot()
    return {part: state[part] for part in NETWORK}
