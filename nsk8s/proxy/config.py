"""KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1): defaults, the file, the flags. Touches: one file.

Upstream: pkg/proxy/apis/config, k8s.io/kube-proxy/config/v1alpha1, cmd/kube-proxy/app/options.go. Unknown fields are
refused, and so is what nsk8s does not do; what is harmless to leave out (qps, profiling …) is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml

from nsk8s.api import yamldoc
from nsk8s.errors import Nsk8sError

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
MODES = ("iptables", "nftables", "userspace")
KERNELSPACE = "that is Windows'"
DETECT_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_CONNTRACK = {
    "maxPerCore", "min", "tcpEstablishedTimeout", "tcpCloseWaitTimeout", "tcpBeLiberal", "udpTimeout", "udpStreamTimeout",
}  # fmt: skip
_NESTED: Mapping[str, set[str]] = {
    "clientConnection": {"kubeconfig", "acceptContentTypes", "contentType", "qps", "burst"},
    "iptables": {"masqueradeBit", "masqueradeAll", "localhostNodePorts", "syncPeriod", "minSyncPeriod"},
    "ipvs": {
        "syncPeriod", "minSyncPeriod", "scheduler", "excludeCIDRs", "strictARP", "tcpTimeout", "tcpFinTimeout", "udpTimeout",
    },
    "nftables": {"masqueradeBit", "masqueradeAll", "syncPeriod", "minSyncPeriod"},
    "winkernel": {"networkName", "sourceVip", "enableDSR", "rootHnsEndpointName", "forwardHealthCheckVip"},
    "detectLocal": {"bridgeInterface", "interfaceNamePrefix"},
    "conntrack": _CONNTRACK,
}  # fmt: skip
_TOP = {
    "apiVersion", "kind", "featureGates", "logging", "hostnameOverride", "bindAddress", "healthzBindAddress",
    "metricsBindAddress", "bindAddressHardFail", "enableProfiling", "showHiddenMetricsForVersion", "mode", "detectLocalMode",
    "clusterCIDR", "nodePortAddresses", "oomScoreAdj", "configSyncPeriod", "portRange", "windowsRunAsService",
    "udpIdleTimeout", *_NESTED,
}  # fmt: skip


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
    healthz_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    bind_address_hard_fail: bool = False
    tcp_established_timeout_s: float = 86400.0
    tcp_close_wait_timeout_s: float = 3600.0
    tcp_be_liberal: bool = False
    udp_timeout_s: float = 0.0
    udp_stream_timeout_s: float = 0.0
    udp_idle_timeout_s: float = 0.25
    port_range: str = ""
    warnings: tuple[str, ...] = field(default=())

    def validated(self) -> Config:
        """This, when its values fit together. Raises ConfigError."""
        if self.mode not in MODES:
            raise _no_such_mode(self.mode)
        if self.detect_local_mode not in DETECT_MODES:
            raise ConfigError(f"detectLocalMode: {self.detect_local_mode!r} is none of {', '.join(DETECT_MODES)}")
        if self.detect_local_mode == "BridgeInterface" and not self.bridge_interface:
            raise ConfigError("detectLocal.bridgeInterface: needed by detectLocalMode BridgeInterface")
        if self.detect_local_mode == "InterfaceNamePrefix" and not self.interface_name_prefix:
            raise ConfigError("detectLocal.interfaceNamePrefix: needed by detectLocalMode InterfaceNamePrefix")
        if not 0 <= self.masquerade_bit <= 31:
            raise ConfigError(f"{self.mode}.masqueradeBit: {self.masquerade_bit} is not between 0 and 31")
        if self.sync_period_s <= 0:
            raise ConfigError(f"{self.mode}.syncPeriod: must be greater than 0")
        if self.min_sync_period_s < 0 or self.min_sync_period_s > self.sync_period_s:
            raise ConfigError(f"{self.mode}.minSyncPeriod: must be between 0 and syncPeriod")
        clusters = [_network("clusterCIDR", cidr) for cidr in filter(None, self.cluster_cidr.split(","))]
        if len({n.version for n in clusters}) < len(clusters):
            raise ConfigError(f"clusterCIDR: {self.cluster_cidr!r}: only one CIDR allowed or a valid DualStack CIDR",
                              "e.g. 10.100.0.0/16,fde4:8dba:82e1::/48")  # fmt: skip
        try:
            ip_address(self.bind_address)
        except ValueError as e:
            raise ConfigError(f"bindAddress: {e}") from e
        if self.udp_idle_timeout_s <= 0:
            raise ConfigError("udpIdleTimeout: must be greater than 0")
        parse_port_range(self.port_range)
        for cidr in self.node_port_addresses:
            if cidr != "primary":
                _network("nodePortAddresses", cidr)
        if "primary" in self.node_port_addresses and len(self.node_port_addresses) > 1:
            raise ConfigError('nodePortAddresses: "primary" cannot stand beside other values')
        for name, value in (("healthzBindAddress", self.healthz_bind_address), ("metricsBindAddress", self.metrics_bind_address)):
            if value:
                split_address(name, value)
        if self.mode == "nftables" and not self.node_port_addresses:
            return replace(self, node_port_addresses=("primary",))  # as upstream: not every address by accident
        return self


def defaults(bind_address: str) -> Config:
    """What a bindAddress (empty: none) makes of the defaults: an IPv6 one serves health and metrics on IPv6."""
    if ":" in bind_address:
        return Config(bind_address=bind_address, healthz_bind_address="[::]:10256", metrics_bind_address="[::1]:10249")
    return Config(bind_address=bind_address) if bind_address else Config()


def _no_such_mode(mode: str) -> ConfigError:
    if mode == "ipvs":
        from nsk8s.kernel.modules import has_ip_vs

        kernel = "this kernel has ip_vs, but" if has_ip_vs() else "this kernel has no ip_vs, and"
        why = f"{kernel} nsk8s does not have the mode (upstream has deprecated it)"
    elif mode == "kernelspace":
        why = KERNELSPACE
    else:
        return ConfigError(f"mode: {mode!r} is not a proxy mode", "use iptables or nftables")
    return ConfigError(f"mode: {mode} is not supported: {why}", "use iptables or nftables")


def parse_port_range(text: str) -> range:
    """The ports of "20000-20100", "20000+100" or "20000"; none of "" or "0-0": any port will do."""
    match = re.fullmatch(r"(\d+)(?:([-+])(\d+))?", text or "0-0")
    first = int(match[1]) if match else -1
    last = first if match and not match[2] else int(match[3]) + (first if match[2] == "+" else 0) if match else -1
    if not 0 <= first <= last <= 65535 or (first == 0 and last):
        raise ConfigError(f"portRange: {text!r} is not a range of ports like 20000-20100")
    return range(first, last + 1) if last else range(0)


def _network(name: str, text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError as e:
        raise ConfigError(f"{name}: {e}") from e


def split_address(name: str, text: str) -> tuple[str, int]:
    """("0.0.0.0", 10256) of "0.0.0.0:10256" or "[::]:10256"."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise ConfigError(f"{name}: {text!r} is not IP:port")
    return host, number


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


def load(path: str | Path) -> Config:
    """The configuration in a file. Raises ConfigError for what cannot be read, unknown fields and wrong types."""
    try:
        document = yamldoc.load(Path(path).read_text())
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from e
    except yaml.YAMLError as e:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a KubeProxyConfiguration")
    return from_document(document, str(path))


def from_document(document: Mapping[str, Any], where: str = "configuration") -> Config:
    """The configuration that a decoded document describes. Pure."""
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind != "KubeProxyConfiguration" or version != API_VERSION:
        raise ConfigError(f"{where}: kind {kind!r} of {version!r} is not KubeProxyConfiguration of {API_VERSION}")
    _refuse_unknown(document, where)
    get = _Reader(document).get
    config = defaults(get("bindAddress", str) or "")
    section = "nftables" if document.get("mode") == "nftables" else "iptables"
    text_fields = {
        "kubeconfig": "clientConnection.kubeconfig", "hostname_override": "hostnameOverride", "mode": "mode",
        "cluster_cidr": "clusterCIDR", "detect_local_mode": "detectLocalMode",
        "bridge_interface": "detectLocal.bridgeInterface", "interface_name_prefix": "detectLocal.interfaceNamePrefix",
        "bind_address": "bindAddress", "healthz_bind_address": "healthzBindAddress",
        "metrics_bind_address": "metricsBindAddress", "port_range": "portRange",
    }  # fmt: skip
    flag_fields = {
        "masquerade_all": f"{section}.masqueradeAll", "localhost_node_ports": "iptables.localhostNodePorts",
        "bind_address_hard_fail": "bindAddressHardFail", "tcp_be_liberal": "conntrack.tcpBeLiberal",
    }  # fmt: skip
    duration_fields = {
        "sync_period_s": f"{section}.syncPeriod", "min_sync_period_s": f"{section}.minSyncPeriod",
        "tcp_established_timeout_s": "conntrack.tcpEstablishedTimeout",
        "tcp_close_wait_timeout_s": "conntrack.tcpCloseWaitTimeout",
        "udp_timeout_s": "conntrack.udpTimeout", "udp_stream_timeout_s": "conntrack.udpStreamTimeout",
        "udp_idle_timeout_s": "udpIdleTimeout",
    }  # fmt: skip
    values: dict[str, Any] = {}
    for attribute, path in text_fields.items():
        values[attribute] = get(path, str) or getattr(config, attribute)
    for attribute, path in flag_fields.items():
        found = get(path, bool)
        values[attribute] = getattr(config, attribute) if found is None else found
    for attribute, path in duration_fields.items():
        raw = get(path, (str, int))
        # Upstream takes zero sync periods for "not set"; a zero conntrack time-out means "leave the kernel's".
        found = None if raw is None else seconds(path, raw)
        unset = found is None or (found == 0 and attribute in ("sync_period_s", "udp_idle_timeout_s"))
        values[attribute] = getattr(config, attribute) if unset else found
    bit = get(f"{section}.masqueradeBit", int)
    values["masquerade_bit"] = config.masquerade_bit if bit is None else bit
    addresses = get("nodePortAddresses", list) or []
    values["node_port_addresses"] = tuple(str(a) for a in addresses)
    return replace(config, **values, warnings=_warnings(document)).validated()


class _Reader:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def get(self, path: str, kinds: type | tuple[type, ...]) -> Any:
        """The value at "a.b", or None. A value of another type is a ConfigError."""
        value: Any = self.document
        for part in path.split("."):
            value = (value or {}).get(part)
        if value is None or (isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))):
            return value
        raise ConfigError(f"{path}: {value!r} has the wrong type")


def _refuse_unknown(document: Mapping[str, Any], where: str) -> None:
    for key, value in document.items():
        if key not in _TOP:
            raise ConfigError(f"{where}: unknown field {key!r}")
        if key in _NESTED and value is not None:
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {key}: must be an object")
            for inner in value:
                if inner not in _NESTED[key]:
                    raise ConfigError(f"{where}: unknown field {key}.{inner}")


def _warnings(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What is accepted and has no effect here, in words."""
    said = []
    conntrack = document.get("conntrack") or {}
    if conntrack.get("maxPerCore") or conntrack.get("min"):
        said.append("conntrack.maxPerCore and conntrack.min have no effect: nf_conntrack_max belongs to the whole machine")
    if document.get("featureGates"):
        said.append("featureGates have no effect")
    if document.get("mode") != "userspace":
        given = [name for name in ("portRange", "udpIdleTimeout") if document.get(name)]
        said += [f"{name} has no effect: it is for userspace mode" for name in given]
    return tuple(said)
