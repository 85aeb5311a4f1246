"""kube-proxy's metrics under upstream's names, in Prometheus' text form. Upstream: pkg/proxy/metrics/metrics.go. Pure."""

from __future__ import annotations

from bisect import bisect_left

_SYNC_BUCKETS = tuple(0.001 * 2**i for i in range(15))
_NETWORK_BUCKETS = (0.25, 0.5, *map(float, range(1, 60)), *map(float, range(60, 120, 5)), *map(float, range(120, 330, 30)))
_HISTOGRAMS = {
    "sync_proxy_rules_duration_seconds": (_SYNC_BUCKETS, "Time one sync took"),
    "sync_full_proxy_rules_duration_seconds": (_SYNC_BUCKETS, "Time one full sync took"),
    "sync_partial_proxy_rules_duration_seconds": (_SYNC_BUCKETS, "Time one partial sync took"),
    "network_programming_duration_seconds": (_NETWORK_BUCKETS, "Time from an endpoint's change to its rules"),
    "conntrack_reconciler_sync_duration_seconds": (_SYNC_BUCKETS, "Time one conntrack clean-up took"),
}
_GAUGES = {
    "sync_proxy_rules_last_timestamp_seconds": "When rules were last written",
    "sync_proxy_rules_last_queued_timestamp_seconds": "When a sync was last asked for",
    "sync_proxy_rules_endpoint_changes_pending": "Endpoint changes not yet in the rules",
    "sync_proxy_rules_service_changes_pending": "Service changes not yet in the rules",
    "sync_proxy_rules_iptables_total": "Rules that kube-proxy owns in a table",
    "sync_proxy_rules_iptables_last": "Rules that the last sync wrote to a table",
    "sync_proxy_rules_no_local_endpoints_total": "Service ports with a Local policy and no local endpoint",
}
_COUNTERS = {
    "sync_proxy_rules_endpoint_changes_total": "Endpoint changes",
    "sync_proxy_rules_service_changes_total": "Service changes",
    "sync_proxy_rules_iptables_restore_failures_total": "iptables-restore calls that failed",
    "sync_proxy_rules_iptables_partial_restore_failures_total": "Partial syncs that failed",
    "sync_proxy_rules_nftables_sync_failures_total": "nft transactions that failed",
    "sync_proxy_rules_nftables_cleanup_failures_total": "Transactions that failed to delete stale chains",
    "conntrack_reconciler_deleted_entries_total": "Conntrack entries deleted",
    "proxy_healthz_total": "Answers of /healthz",
    "proxy_livez_total": "Answers of /livez",
}

_OTHER_MODES = {
    "iptables": ("_nftables_",), "nftables": ("_iptables_",), "userspace": ("_nftables_", "_iptables_", "no_local"),
    "ipvs": ("_nftables_", "_iptables_total", "_iptables_last", "_partial_restore_"),
}  # fmt: skip
"""Metrics with this in their name are only there in another mode."""

_UNLABELLED = {f"sync_proxy_rules_{kind}_changes_{n}" for kind in ("service", "endpoint") for n in ("pending", "total")}
"""Both families count into these; they are there from the start."""

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Values by name (without the prefix kubeproxy_) and labels; an unknown name, or another mode's, is a KeyError."""

    def __init__(self, mode: str = "iptables") -> None:
        others = _OTHER_MODES[mode]
        self._values: dict[str, dict[Labels, float]] = {
            n: {(): 0.0} if n in _UNLABELLED else {} for n in (*_GAUGES, *_COUNTERS) if not any(o in n for o in others)
        }
        self._buckets: dict[str, dict[Labels, list[int]]] = {name: {} for name in _HISTOGRAMS}
        self._sums: dict[tuple[str, Labels], float] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        self._values[name][tuple(sorted(labels.items()))] = value

    def inc(self, name: str, by: float = 1, /, **labels: str) -> None:
        held, key = self._values[name], tuple(sorted(labels.items()))
        held[key] = held.get(key, 0) + by

    def get(self, name: str, **labels: str) -> float:
        return self._values[name].get(tuple(sorted(labels.items())), 0)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        bounds, key = _HISTOGRAMS[name][0], tuple(sorted(labels.items()))
        counts = self._buckets[name].setdefault(key, [0] * (len(bounds) + 1))
        counts[bisect_left(bounds, seconds)] += 1
        self._sums[name, key] = self._sums.get((name, key), 0.0) + seconds

    def count(self, name: str, **labels: str) -> int:
        """How often a histogram was observed."""
        return sum(self._buckets[name].get(tuple(sorted(labels.items())), ()))

    def render(self) -> str:
        lines: list[str] = []
        for kind, table in (("gauge", _GAUGES), ("counter", _COUNTERS)):
            for name, text in table.items():
                if name not in self._values:
                    continue
                lines += [f"# HELP kubeproxy_{name} {text}", f"# TYPE kubeproxy_{name} {kind}"]
                for labels, value in sorted(self._values[name].items()):
                    lines.append(f"kubeproxy_{name}{_braces(labels)} {value:.17g}")
        for name, (bounds, text) in _HISTOGRAMS.items():
            lines += [f"# HELP kubeproxy_{name} {text}", f"# TYPE kubeproxy_{name} histogram"]
            for labels, counts in sorted(self._buckets[name].items()):
                total = 0
                for bound, count in zip((*(f"{b:g}" for b in bounds), "+Inf"), counts, strict=True):
                    total += count
                    lines.append(f"kubeproxy_{name}_bucket{_braces((*labels, ('le', bound)))} {total}")
                lines.append(f"kubeproxy_{name}_sum{_braces(labels)} {self._sums[name, labels]:.9g}")
                lines.append(f"kubeproxy_{name}_count{_braces(labels)} {total}")
        return "\n".join(lines) + "\n"


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{k}="{v}"' for k, v in labels) + "}" if labels else ""
