"""The kubelet's settings: flags and KubeletConfiguration made into one value. Pure, but for `load_file`.

Upstream: kubelet.config.k8s.io/v1beta1. A flag wins over the file. Fields of upstream's that mean nothing here are named in a
warning; fields that upstream does not have either are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from nsk8s.api import yamldoc
from nsk8s.api.meta import Object
from nsk8s.errors import Nsk8sError
from nsk8s.kubelet import sysctls


@dataclass(frozen=True)
class Config:
    """Durations in seconds."""

    node_name: str = ""
    node_ips: tuple[str, ...] = ()
    runtime_endpoint: str = "unix:///run/nsk8s/runtime.sock"
    root_dir: str = "/var/lib/kubelet"
    static_pod_path: str = ""
    register_node: bool = True
    register_taints: tuple[Object, ...] = ()
    node_labels: dict[str, str] = field(default_factory=dict)
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: str = "/etc/resolv.conf"
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    client_ca_file: str = ""
    address: str = ""
    port: int = 10250
    healthz_port: int = 10248
    healthz_address: str = "127.0.0.1"
    max_pods: int = 110
    node_status_update_s: float = 10.0
    node_status_report_s: float = 300.0
    lease_duration_s: int = 40
    sync_frequency_s: float = 60.0
    shutdown_grace_s: float = 0.0
    log_max_bytes: int = 10 << 20
    log_max_files: int = 5
    system_reserved: dict[str, str] = field(default_factory=dict)
    kube_reserved: dict[str, str] = field(default_factory=dict)
    backoff_max_s: float = 300.0
    runtime_timeout_s: float = 120.0
    allowed_unsafe_sysctls: tuple[str, ...] = ()


def parse_node_ips(text: str) -> tuple[str, ...]:
    """`--node-ip`: an address, or one of each family, the primary one first. Raises Nsk8sError. Upstream: ParseNodeIPArgument."""
    try:
        found = [ip_address(ip.strip()) for ip in text.split(",") if ip.strip()]
    except ValueError as e:
        raise Nsk8sError(f"--node-ip {text}: {e}", "give an address, or an IPv4 and an IPv6 address with a comma between") from e
    if len(found) > 2 or len({ip.version for ip in found}) < len(found):
        raise Nsk8sError(f"--node-ip {text}: two addresses must be an IPv4 and an IPv6 address", "")
    return tuple(map(str, found))


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)")
_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def parse_duration(text: str) -> float:
    """Seconds of a Go duration (`1m30s`). Raises ValueError."""
    if text in ("0", ""):
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"time: invalid duration {text!r}")
    return sum(float(number) * _UNIT[unit] for number, unit in parts)


def parse_taint(text: str) -> Object:
    """`key=value:Effect`, `key:Effect`. Raises ValueError."""
    head, colon, effect = text.rpartition(":")
    if not colon or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ValueError(f"invalid taint spec: {text}")
    key, equals, value = head.partition("=")
    if not key:
        raise ValueError(f"invalid taint spec: {text}")
    return {"key": key, "effect": effect, **({"value": value} if equals else {})}


def parse_labels(text: str) -> dict[str, str]:
    """`a=b,c=d`. Raises ValueError."""
    out = {}
    for pair in [p for p in text.split(",") if p]:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"invalid label spec: {pair}")
        out[key] = value
    return out


def _bytes(value: Any) -> int:
    from nsk8s.api.quantity import Quantity

    return Quantity.parse(value).ceil


def _x509(value: Any) -> str:
    return str(((value or {}).get("x509") or {}).get("clientCAFile") or "")


_FIELDS: Mapping[str, tuple[str, Any]] = {
    "staticPodPath": ("static_pod_path", str),
    "syncFrequency": ("sync_frequency_s", parse_duration),
    "address": ("address", str),
    "port": ("port", int),
    "tlsCertFile": ("tls_cert_file", str),
    "tlsPrivateKeyFile": ("tls_private_key_file", str),
    "authentication": ("client_ca_file", _x509),
    "healthzPort": ("healthz_port", int),
    "healthzBindAddress": ("healthz_address", str),
    "clusterDomain": ("cluster_domain", str),
    "clusterDNS": ("cluster_dns", tuple),
    "nodeStatusUpdateFrequency": ("node_status_update_s", parse_duration),
    "nodeStatusReportFrequency": ("node_status_report_s", parse_duration),
    "nodeLeaseDurationSeconds": ("lease_duration_s", int),
    "maxPods": ("max_pods", int),
    "resolvConf": ("resolv_conf", str),
    "registerNode": ("register_node", bool),
    "registerWithTaints": ("register_taints", tuple),
    "containerRuntimeEndpoint": ("runtime_endpoint", str),
    "shutdownGracePeriod": ("shutdown_grace_s", parse_duration),
    "containerLogMaxSize": ("log_max_bytes", _bytes),
    "containerLogMaxFiles": ("log_max_files", int),
    "systemReserved": ("system_reserved", dict),
    "kubeReserved": ("kube_reserved", dict),
    "runtimeRequestTimeout": ("runtime_timeout_s", parse_duration),
    "allowedUnsafeSysctls": ("allowed_unsafe_sysctls", sysctls.patterns),
}
_WITHOUT_EFFECT = frozenset(
    """
    enableServer fileCheckFrequency httpCheckFrequency staticPodURL staticPodURLHeader tlsCipherSuites tlsMinVersion
    rotateCertificates serverTLSBootstrap authorization registryPullQPS registryBurst eventRecordQPS eventBurst
    enableDebuggingHandlers enableContentionProfiling oomScoreAdj streamingConnectionIdleTimeout imageMinimumGCAge
    imageMaximumGCAge imageGCHighThresholdPercent imageGCLowThresholdPercent volumeStatsAggPeriod kubeletCgroups
    systemCgroups cgroupRoot cgroupsPerQOS cgroupDriver cpuManagerPolicy cpuManagerPolicyOptions cpuManagerReconcilePeriod
    memoryManagerPolicy topologyManagerPolicy topologyManagerScope topologyManagerPolicyOptions qosReserved
    hairpinMode podCIDR podPidsLimit runOnce cpuCFSQuota cpuCFSQuotaPeriod nodeStatusMaxImages
    maxOpenFiles contentType kubeAPIQPS kubeAPIBurst serializeImagePulls maxParallelImagePulls evictionHard evictionSoft
    evictionSoftGracePeriod evictionPressureTransitionPeriod evictionMaxPodGracePeriod evictionMinimumReclaim
    mergeDefaultEvictionSettings podsPerCore enableControllerAttachDetach protectKernelDefaults makeIPTablesUtilChains
    iptablesMasqueradeBit iptablesDropBit featureGates failSwapOn memorySwap containerLogMaxWorkers
    containerLogMonitorInterval configMapAndSecretChangeDetectionStrategy systemReservedCgroup kubeReservedCgroup
    enforceNodeAllocatable volumePluginDir providerID kernelMemcgNotification logging
    enableSystemLogHandler enableSystemLogQuery shutdownGracePeriodCriticalPods shutdownGracePeriodByPodPriority
    crashLoopBackOff reservedSystemCPUs showHiddenMetricsForVersion reservedMemory enableProfilingHandler
    enableDebugFlagsHandler seccompDefault memoryThrottlingFactor localStorageCapacityIsolation imageServiceEndpoint
    userNamespaces podLogsDir singleProcessOOMKill imagePullCredentialsVerificationPolicy
    preloadedImagesVerificationAllowlist failCgroupV1 tracing
    """.split()  # noqa: SIM905
)


def from_document(document: Any, where: str, base: Config | None = None) -> tuple[Config, list[str]]:
    """(settings, names of fields that have no effect here). Raises Nsk8sError for what upstream would not take either."""
    base = base or Config()
    if not isinstance(document, dict):
        raise Nsk8sError(f"{where}: not a KubeletConfiguration")
    if document.get("kind") != "KubeletConfiguration" or document.get("apiVersion") != "kubelet.config.k8s.io/v1beta1":
        raise Nsk8sError(f"{where}: want kind KubeletConfiguration, apiVersion kubelet.config.k8s.io/v1beta1")
    changes: dict[str, Any] = {}
    ignored = []
    for key, value in document.items():
        if key in ("kind", "apiVersion") or value is None:
            continue
        if key in _FIELDS:
            name, convert = _FIELDS[key]
            try:
                found = convert(value)
            except (TypeError, ValueError, AttributeError) as e:
                raise Nsk8sError(f"{where}: {key}: {e}") from e
            if convert is not parse_duration or found:  # a duration of zero is "not set", as in the file that kubeadm writes
                changes[name] = found
        elif key in _WITHOUT_EFFECT:
            ignored.append(key)
        else:
            raise Nsk8sError(f'{where}: strict decoding error: unknown field "{key}"')
    return replace(base, **changes), ignored


def load_file(path: str, base: Config | None = None) -> tuple[Config, list[str]]:
    import yaml

    try:
        document = yamldoc.load(Path(path).read_text())
    except OSError as e:
        raise Nsk8sError(f"cannot read {path}: {e.strerror}") from e
    except yaml.YAMLError as e:
        raise Nsk8sError(f"{path} is not YAML: {e}") from e
    return from_document(document, path, base)
