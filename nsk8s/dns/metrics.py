"""Counters under CoreDNS' names, in Prometheus' text form. Pure."""

from __future__ import annotations

from collections import Counter

RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}
BUCKETS_S = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048)
KNOWN_TYPES = frozenset(
    ("A", "AAAA", "CNAME", "DS", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "ANY", "cached")
)  # fmt: skip


class Metrics:
    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._responses: Counter[int] = Counter()
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0

    def query(self, kind: str, tcp: bool, rcode: int, seconds: float) -> None:
        self._requests["tcp" if tcp else "udp", kind if kind in KNOWN_TYPES else "other"] += 1
        self._responses[rcode] += 1
        self._seconds += seconds
        self._buckets[next((i for i, b in enumerate(BUCKETS_S) if seconds <= b), len(BUCKETS_S))] += 1

    def render(self) -> str:
        lines = [
            "# HELP coredns_dns_requests_total Counter of DNS requests made per protocol and type.",
            "# TYPE coredns_dns_requests_total counter",
        ]
        for (proto, kind), count in sorted(self._requests.items()):
            lines.append(f'coredns_dns_requests_total{{server="dns://:53",proto="{proto}",type="{kind}"}} {count}')
        lines += [
            "# HELP coredns_dns_responses_total Counter of response status codes.",
            "# TYPE coredns_dns_responses_total counter",
        ]
        for rcode, count in sorted(self._responses.items()):
            name = RCODES.get(rcode, str(rcode))
            lines.append(f'coredns_dns_responses_total{{server="dns://:53",rcode="{name}"}} {count}')
        lines += [
            "# HELP coredns_dns_request_duration_seconds Histogram of the time each request took.",
            "# TYPE coredns_dns_request_duration_seconds histogram",
        ]
        total = 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'coredns_dns_request_duration_seconds_bucket{{server="dns://:53",le="{bound}"}} {total}')
        lines += [
            f'coredns_dns_request_duration_seconds_sum{{server="dns://:53"}} {self._seconds:.6f}',
            f'coredns_dns_request_duration_seconds_count{{server="dns://:53"}} {total}',
        ]
        return "\n".join(lines) + "\n"
