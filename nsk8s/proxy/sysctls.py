"""The network namespace's sysctls that kube-proxy reads and sets, and its own OOM score. Touches: /proc/sys, /proc/self.

Upstream: pkg/proxy/conntrack/sysctls.go. All sysctls are the namespace's own. nf_conntrack_max, which upstream also sets,
belongs to the whole machine and is left alone.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from nsk8s.errors import Nsk8sError
from nsk8s.proxy.config import Config

log = logging.getLogger("proxy")

_ROOT = Path("/proc/sys/net")
ROUTE_LOCALNET = "ipv4/conf/all/route_localnet"
BE_LIBERAL = "netfilter/nf_conntrack_tcp_be_liberal"


def read(name: str) -> int | None:
    """The value; None when there is no such sysctl."""
    try:
        return int((_ROOT / name).read_text())
    except (OSError, ValueError):
        return None


def ensure(name: str, value: int) -> bool:
    """Set a value that differs; False (and a log line) when that is impossible."""
    if read(name) == value:
        return True
    try:
        (_ROOT / name).write_text(str(value))
    except OSError as e:
        log.warning("cannot set net.%s=%d: %s", name.replace("/", "."), value, e.strerror)
        return False
    return True


def apply_ipvs(strict_arp: bool) -> None:
    """What IP virtual servers need. Raises Nsk8sError when the kernel does not have it, or does not let itself be told."""
    release = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])
    wanted = {
        "ipv4/vs/conntrack": 1,  # or nobody could masquerade, and nothing would be ESTABLISHED
        "ipv4/vs/expire_nodest_conn": 1,
        "ipv4/vs/expire_quiescent_template": 1,
        "ipv4/ip_forward": 1,
        # Before 5.9 a reused source port waited a second otherwise (kubernetes/kubernetes#93297).
        **({"ipv4/vs/conn_reuse_mode": 0} if (4, 1) <= release < (5, 9) else {}),
        **({"ipv4/conf/all/arp_ignore": 1, "ipv4/conf/all/arp_announce": 2} if strict_arp else {}),
    }
    for name, value in wanted.items():
        if not ensure(name, value):
            what = f"net.{name.replace('/', '.')} cannot be set to {value}"
            raise Nsk8sError(f"mode: ipvs is not possible: {what}", "a kernel with CONFIG_IP_VS_NFCT")


def apply_conntrack(config: Config) -> None:
    """Time-outs as configured; 0 leaves the kernel's."""
    wanted = {
        "tcp_timeout_established": config.tcp_established_timeout_s,
        "tcp_timeout_close_wait": config.tcp_close_wait_timeout_s,
        "udp_timeout": config.udp_timeout_s,
        "udp_timeout_stream": config.udp_stream_timeout_s,
    }
    for name, seconds in wanted.items():
        if seconds > 0 and read(f"netfilter/nf_conntrack_{name}") is not None:
            ensure(f"netfilter/nf_conntrack_{name}", int(seconds))
    if config.tcp_be_liberal:
        ensure(BE_LIBERAL, 1)


def apply_oom_score(value: int | None) -> None:
    """oomScoreAdj, for this process alone; None leaves it."""
    if value is None:
        return
    try:
        Path("/proc/self/oom_score_adj").write_text(str(value))
    except OSError as e:
        log.warning("cannot set oom_score_adj to %d: %s", value, e.strerror)
