"""What kube-proxy runs with: values, defaults, and what fits together. Pure.

Upstream: pkg/proxy/apis/config. What nsk8s does not do is refused in words. The file is `configfile`'s, the flags are `main`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from nsk8s.errors import Nsk8sError
from nsk8s.proxy.addresses import Network, parse_cidr, parse_ip

MODES = ("iptables", "nftables", "ipvs", "userspace")
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh")
"""How IP virtual servers may share connections out (ipvsadm(8))."""
KERNELSPACE = "that is Windows'"
HEALTHZ_PORT, METRICS_PORT = 10256, 10249
DETECT_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class ConfigError(Nsk8sError):
    """A field of the configuration is wrong; the message begins with its path."""


@dataclass(frozen=True)
class Config:
    """What kube-proxy runs with. Defaults are upstream's (v1alpha1/defaults.go)."""

    kubeconfig: str = ""
    hostname_override: str = ""
    mode: str = "iptables"
    cluster_cidr: str = ""
    detect_local_mode: str = "ClusterCIDR"
    bridge_interface: str = ""
    interface_name_prefix: str = ""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    localhost_node_ports: bool = True
    sync_period_s: float = 30.0
    min_sync_period_s: float = 1.0
    node_port_addresses: tuple[str, ...] = ()
    bind_address: str = "0.0.0.0"
    """Where health and metrics are served by default; one that is not unspecified is the node's own address."""
    healthz_bind_address: str = f"0.0.0.0:{HEALTHZ_PORT}"
    metrics_bind_address: str = f"127.0.0.1:{METRICS_PORT}"
    bind_address_hard_fail: bool = False
    tcp_established_timeout_s: float = 86400.0
    tcp_close_wait_timeout_s: float = 3600.0
    tcp_be_liberal: bool = False
    udp_timeout_s: float = 0.0
    udp_stream_timeout_s: float = 0.0
    udp_idle_timeout_s: float = 0.25
    ipvs_scheduler: str = "rr"
    ipvs_exclude_cidrs: tuple[str, ...] = ()
    """Virtual servers with these addresses are somebody else's."""
    ipvs_strict_arp: bool = False
    ipvs_tcp_timeout_s: float = 0.0
    ipvs_tcp_fin_timeout_s: float = 0.0
    ipvs_udp_timeout_s: float = 0.0
    port_range: str = ""
    oom_score_adj: int | None = None
    """Upstream's default is -999; here the kernel's choice stays unless it is asked for."""
    verbosity: int | None = None
    """The log level; it is also a flag."""
    warnings: tuple[str, ...] = field(default=())

    def validated(self) -> Config:
        """This, when its values fit together. Raises ConfigError."""
        if self.mode not in MODES:
            raise _no_such_mode(self.mode)
        if self.detect_local_mode not in DETECT_MODES:
            raise ConfigError(f"detectLocalMode: {self.detect_local_mode!r} is none of {', '.join(DETECT_MODES)}")
        for mode, path, name, longest in (
            ("BridgeInterface", "detectLocal.bridgeInterface", self.bridge_interface, 15),
            ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix", self.interface_name_prefix, 14),
        ):
            if self.detect_local_mode == mode and not name:
                raise ConfigError(f"{path}: needed by detectLocalMode {mode}")
            if name and (not re.fullmatch(rf"[!-~]{{1,{longest}}}", name) or set(name) & set("\"'\\/+*")):
                raise ConfigError(f"{path}: {name!r} is not an interface's name (at most {longest} letters)")
        if not 0 <= self.masquerade_bit <= 31:
            raise ConfigError(f"{self.mode}.masqueradeBit: {self.masquerade_bit} is not between 0 and 31")
        if self.sync_period_s <= 0:
            raise ConfigError(f"{self.mode}.syncPeriod: must be greater than 0")
        if self.min_sync_period_s < 0 or self.min_sync_period_s > self.sync_period_s:
            raise ConfigError(f"{self.mode}.minSyncPeriod: must be between 0 and syncPeriod")
        for path, value in (
            ("conntrack.tcpEstablishedTimeout", self.tcp_established_timeout_s),
            ("conntrack.tcpCloseWaitTimeout", self.tcp_close_wait_timeout_s),
            ("conntrack.udpTimeout", self.udp_timeout_s), ("conntrack.udpStreamTimeout", self.udp_stream_timeout_s),
            ("ipvs.tcpTimeout", self.ipvs_tcp_timeout_s), ("ipvs.tcpFinTimeout", self.ipvs_tcp_fin_timeout_s),
            ("ipvs.udpTimeout", self.ipvs_udp_timeout_s),
        ):  # fmt: skip
            if value < 0:
                raise ConfigError(f"{path}: must be greater than or equal to 0")
        if self.ipvs_scheduler not in SCHEDULERS:
            raise ConfigError(f"ipvs.scheduler: {self.ipvs_scheduler!r} is none of {', '.join(SCHEDULERS)}")
        for i, cidr in enumerate(self.ipvs_exclude_cidrs):
            _network(f"ipvs.excludeCIDRs[{i}]", cidr)
        clusters = [_network("clusterCIDR", cidr) for cidr in filter(None, self.cluster_cidr.split(","))]
        if len({n.version for n in clusters}) < len(clusters):
            raise ConfigError(f"clusterCIDR: {self.cluster_cidr!r}: only one CIDR allowed or a valid DualStack CIDR",
                              "e.g. 10.100.0.0/16,fde4:8dba:82e1::/48")  # fmt: skip
        if parse_ip(self.bind_address) is None:
            raise ConfigError(f"bindAddress: {self.bind_address!r} is not an IP address")
        if self.oom_score_adj is not None and not -1000 <= self.oom_score_adj <= 1000:
            raise ConfigError(f"oomScoreAdj: {self.oom_score_adj} is not between -1000 and 1000")
        if self.udp_idle_timeout_s <= 0:
            raise ConfigError("udpIdleTimeout: must be greater than 0")
        parse_port_range(self.port_range)
        for i, cidr in enumerate(self.node_port_addresses):
            if cidr != "primary":
                _network(f"nodePortAddresses[{i}]", cidr)
        if "primary" in self.node_port_addresses and len(self.node_port_addresses) > 1:
            raise ConfigError('nodePortAddresses: "primary" cannot stand beside other values')
        config = replace(
            self,
            healthz_bind_address=_with_port("healthzBindAddress", self.healthz_bind_address, HEALTHZ_PORT),
            metrics_bind_address=_with_port("metricsBindAddress", self.metrics_bind_address, METRICS_PORT),
        )
        if self.mode == "nftables" and not self.node_port_addresses:
            return replace(config, node_port_addresses=("primary",))  # as upstream: not every address by accident
        return config


def defaults(bind_address: str) -> Config:
    """What a bindAddress (empty: none) makes of the defaults: an IPv6 one serves health and metrics on IPv6."""
    if ":" in bind_address:
        healthz, metrics = f"[::]:{HEALTHZ_PORT}", f"[::1]:{METRICS_PORT}"
        return Config(bind_address=bind_address, healthz_bind_address=healthz, metrics_bind_address=metrics)
    return Config(bind_address=bind_address) if bind_address else Config()


def _no_such_mode(mode: str) -> ConfigError:
    why = f"{mode} is not supported: {KERNELSPACE}" if mode == "kernelspace" else f"{mode!r} is not a proxy mode"
    return ConfigError(f"mode: {why}", "use iptables or nftables")


def parse_port_range(text: str) -> range:
    """The ports of "20000-20100", "20000+100" or "20000"; none of "" or "0-0": any port will do."""
    match = re.fullmatch(r"(\d+)(?:([-+])(\d+))?", text or "0-0")
    first = int(match[1]) if match else -1
    last = first if match and not match[2] else int(match[3]) + (first if match[2] == "+" else 0) if match else -1
    if not 0 <= first <= last <= 65535 or (first == 0 and last):
        raise ConfigError(f"portRange: {text!r} is not a range of ports like 20000-20100")
    return range(first, last + 1) if last else range(0)


def _network(name: str, text: str) -> Network:
    network = parse_cidr(text)
    if network is None:
        raise ConfigError(f"{name}: {text.strip()!r} is not a CIDR", "e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48")
    return network


def _with_port(name: str, text: str, port: int) -> str:
    """An IP:port, completed where it is only an IP; empty for none."""
    if not text:
        return ""
    ip = parse_ip(text.removeprefix("[").removesuffix("]"))
    if ip is not None:
        return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    split_address(name, text)
    return text


def split_address(name: str, text: str) -> tuple[str, int]:
    """("0.0.0.0", 10256) of "0.0.0.0:10256" or "[::]:10256"."""
    host, _, port = text.rpartition(":")
    ip = parse_ip(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    if ip is None or (ip.version == 6) != host.startswith("["):
        raise ConfigError(f"{name}: {text!r} is not IP:port")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
        raise ConfigError(f"{name}: {port!r} is not a valid port")
    return str(ip), int(port)


def seconds(name: str, value: Any) -> float:
    """A Go duration ("1m30s", "250ms", "0s") in seconds."""
    text = str(value)
    if text in ("0", "0.0"):
        return 0.0
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(n + u for n, u in parts) != text.lstrip("+-"):
        raise ConfigError(f"{name}: {text!r} is not a duration like 30s or 1m30s")
    total = sum(float(n) * _UNITS_S[u] for n, u in parts)
    return -total if text.startswith("-") else total
