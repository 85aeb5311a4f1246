"""KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) in its file: read strictly, and written. Touches: one file.

Upstream: k8s.io/kube-proxy/config/v1alpha1. Unknown fields and keys that stand twice are refused, wrong types and values are
named by their path; what is harmless to leave out (qps, profiling …) is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from nsk8s.api import yamldoc
from nsk8s.proxy.config import Config, ConfigError, defaults, seconds

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"

_TEXT, _BOOL, _INT, _NUMBER, _DURATION, _LIST, _MAP, _ANY = "text", "bool", "integer", "number", "duration", "list", "map", "any"
_TYPES: Mapping[str, tuple[type, ...]] = {
    _TEXT: (str,), _BOOL: (bool,), _INT: (int,), _NUMBER: (int, float), _DURATION: (str, int), _LIST: (list,), _MAP: (dict,),
}  # fmt: skip


def _of(kind: str, *paths: str) -> dict[str, str]:
    return dict.fromkeys(paths, kind)


_KINDS = {
    **_of(
        _TEXT, "apiVersion", "kind", "hostnameOverride", "bindAddress", "healthzBindAddress", "metricsBindAddress", "mode",
        "showHiddenMetricsForVersion", "detectLocalMode", "clusterCIDR", "portRange", "clientConnection.kubeconfig",
        "clientConnection.acceptContentTypes", "clientConnection.contentType", "ipvs.scheduler", "winkernel.networkName",
        "winkernel.sourceVip", "winkernel.rootHnsEndpointName", "detectLocal.bridgeInterface", "detectLocal.interfaceNamePrefix",
        "logging.format"),
    **_of(
        _BOOL, "bindAddressHardFail", "enableProfiling", "windowsRunAsService", "iptables.masqueradeAll",
        "nftables.masqueradeAll", "iptables.localhostNodePorts", "ipvs.strictARP", "winkernel.enableDSR",
        "winkernel.forwardHealthCheckVip", "conntrack.tcpBeLiberal"),
    **_of(
        _INT, "oomScoreAdj", "clientConnection.burst", "iptables.masqueradeBit", "nftables.masqueradeBit", "conntrack.maxPerCore",
        "conntrack.min", "logging.verbosity"),
    **_of(
        _DURATION, "configSyncPeriod", "udpIdleTimeout", "iptables.syncPeriod", "iptables.minSyncPeriod", "nftables.syncPeriod",
        "nftables.minSyncPeriod", "ipvs.syncPeriod", "ipvs.minSyncPeriod", "ipvs.tcpTimeout", "ipvs.tcpFinTimeout",
        "ipvs.udpTimeout", "conntrack.tcpEstablishedTimeout", "conntrack.tcpCloseWaitTimeout", "conntrack.udpTimeout",
        "conntrack.udpStreamTimeout"),
    **_of(_LIST, "nodePortAddresses", "ipvs.excludeCIDRs", "logging.vmodule"),
    **_of(_MAP, "featureGates", "logging.options"),
    **_of(_NUMBER, "clientConnection.qps"),
    **_of(_ANY, "logging.flushFrequency"),
}  # fmt: skip
_SECTIONS = {path.partition(".")[0] for path in _KINDS if "." in path}

_PLACES = {
    "kubeconfig": "clientConnection.kubeconfig", "hostname_override": "hostnameOverride", "mode": "mode",
    "cluster_cidr": "clusterCIDR", "detect_local_mode": "detectLocalMode", "bridge_interface": "detectLocal.bridgeInterface",
    "interface_name_prefix": "detectLocal.interfaceNamePrefix", "bind_address": "bindAddress",
    "healthz_bind_address": "healthzBindAddress", "metrics_bind_address": "metricsBindAddress", "port_range": "portRange",
    "bind_address_hard_fail": "bindAddressHardFail", "node_port_addresses": "nodePortAddresses", "oom_score_adj": "oomScoreAdj",
    "masquerade_all": "{mode}.masqueradeAll", "masquerade_bit": "{mode}.masqueradeBit", "sync_period_s": "{periods}.syncPeriod",
    "min_sync_period_s": "{periods}.minSyncPeriod", "localhost_node_ports": "iptables.localhostNodePorts",
    "tcp_be_liberal": "conntrack.tcpBeLiberal", "tcp_established_timeout_s": "conntrack.tcpEstablishedTimeout",
    "tcp_close_wait_timeout_s": "conntrack.tcpCloseWaitTimeout", "udp_timeout_s": "conntrack.udpTimeout",
    "udp_stream_timeout_s": "conntrack.udpStreamTimeout", "udp_idle_timeout_s": "udpIdleTimeout",
    "verbosity": "logging.verbosity", "ipvs_scheduler": "ipvs.scheduler", "ipvs_exclude_cidrs": "ipvs.excludeCIDRs",
    "ipvs_strict_arp": "ipvs.strictARP", "ipvs_tcp_timeout_s": "ipvs.tcpTimeout", "ipvs_tcp_fin_timeout_s": "ipvs.tcpFinTimeout",
    "ipvs_udp_timeout_s": "ipvs.udpTimeout",
}  # fmt: skip
"""Where each attribute of Config stands in the file. nftables mode has a section of its own; ipvs mode has sync periods of its
own, and takes the rest from the iptables section, as upstream."""

_ZERO_IS_UNSET = {"sync_period_s", "min_sync_period_s", "udp_idle_timeout_s"}
"""Upstream takes a zero for "not said" here; a zero conntrack time-out means "leave the kernel's"."""

_USERSPACES = ("portRange", "udpIdleTimeout")

_AT_LEAST_0 = ("clientConnection.burst", "conntrack.maxPerCore", "conntrack.min")


def load(path: str | Path) -> Config:
    """The configuration in a file. Raises ConfigError for what cannot be read, unknown fields and wrong types."""
    try:
        text = Path(path).read_text()
        for key in _twice(yaml.compose(text, yaml.SafeLoader)):
            raise ConfigError(f"{path}: {key!r} stands there twice")
        document = yamldoc.load(text)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a KubeProxyConfiguration")
    return from_document(document, str(path))


def from_document(document: Mapping[str, Any], where: str = "configuration") -> Config:
    """The configuration that a decoded document describes. Pure. Raises ConfigError."""
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind != "KubeProxyConfiguration" or version != API_VERSION:
        raise ConfigError(f"{where}: kind {kind!r} of {version!r} is not KubeProxyConfiguration of {API_VERSION}")
    said = dict(_said(document, where))
    for path in _AT_LEAST_0:
        if said.get(path, 0) < 0:
            raise ConfigError(f"{path}: must be greater than or equal to 0")
    if said.get("configSyncPeriod", 1) < 0:
        raise ConfigError("configSyncPeriod: must be greater than 0")
    config = defaults(said.get("bindAddress", ""))
    values: dict[str, Any] = {}
    for attribute, path in _PLACES.items():
        value = said.get(_place(path, said.get("mode", "")))
        if value is None or value == "" or (value == 0 and attribute in _ZERO_IS_UNSET):
            continue
        values[attribute] = tuple(map(str, value)) if isinstance(value, list) else value
    return replace(config, **values, warnings=_warnings(said)).validated()


def to_document(config: Config) -> dict[str, Any]:
    """The document that says what this configuration is, with every default. Pure."""
    document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": "KubeProxyConfiguration"}
    for attribute, path in _PLACES.items():
        where = _place(path, config.mode)
        value = getattr(config, attribute)
        others = (where in _USERSPACES and config.mode != "userspace") or (where.startswith("ipvs.") and config.mode != "ipvs")
        if value is None or others:
            continue
        if _KINDS[where] == _DURATION:
            value = go_duration(value)
        section, _, name = where.rpartition(".")
        (document.setdefault(section, {}) if section else document)[name] = list(value) if isinstance(value, tuple) else value
    return document


def go_duration(seconds: float) -> str:
    """As Go prints it: 24h0m0s, 1m30s, 250ms, 0s."""
    whole, rest = divmod(round(seconds * 1000), 1000)
    if not whole:
        return f"{rest}ms" if rest else "0s"
    hours, minutes = whole // 3600, whole // 60 % 60
    last = f"{whole % 60}.{rest:03d}".rstrip("0") if rest else f"{whole % 60}"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if whole >= 60 else "") + f"{last}s"


def _place(path: str, mode: str) -> str:
    section = "nftables" if mode == "nftables" else "iptables"
    return path.replace("{mode}", section).replace("{periods}", "ipvs" if mode == "ipvs" else section)


def _said(document: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """(path, value) for every field that is there and not null; durations in seconds."""
    for key, value in document.items():
        if key in _SECTIONS:
            if value is not None and not isinstance(value, dict):
                raise ConfigError(f"{where}: {key}: must be an object")
            fields = {f"{key}.{inner}": v for inner, v in (value or {}).items()}
        else:
            fields = {key: value}
        for path, found in fields.items():
            kind = _KINDS.get(path)
            if kind is None:
                raise ConfigError(f"{where}: unknown field {path if '.' in path else repr(path)}")
            if found is not None:
                yield path, _checked(path, kind, found)


def _checked(path: str, kind: str, value: Any) -> Any:
    right = kind == _ANY or (isinstance(value, _TYPES[kind]) and (kind == _BOOL or not isinstance(value, bool)))
    if not right:
        raise ConfigError(f"{path}: {value!r} has the wrong type: it is a {kind}")
    return seconds(path, value) if kind == _DURATION else value


def _twice(node: yaml.Node | None) -> Iterator[str]:
    """Keys that stand twice in one mapping: the second would silently win."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.value
            seen.add(str(key.value))
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _twice(each)


def _warnings(said: Mapping[str, Any]) -> tuple[str, ...]:
    """What is accepted and has no effect here, in words."""
    told = []
    if said.get("conntrack.maxPerCore") or said.get("conntrack.min"):
        told.append("conntrack.maxPerCore and conntrack.min have no effect: nf_conntrack_max belongs to the whole machine")
    if said.get("featureGates"):
        told.append("featureGates have no effect")
    if said.get("logging.format", "text") not in ("", "text"):
        told.append("logging.format has no effect: lines are text")
    if said.get("mode") != "userspace":
        given = [name for name in _USERSPACES if said.get(name)]
        told += [f"{name} has no effect: it is for userspace mode" for name in given]
    return tuple(told)
