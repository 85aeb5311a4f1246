"""Counters under CoreDNS' names, in Prometheus' text form. Pure. Upstream: CoreDNS' plugin/metrics/vars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}
BUCKETS_S = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192)
BUCKETS_BYTES = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16000, 32000, 48000, 64000)
_TYPES = "A AAAA ANY CNAME DNSKEY DS HTTPS MX NS NSEC NSEC3 PTR RRSIG SOA SRV SVCB TXT"
KNOWN_TYPES = frozenset(_TYPES.split())
DROPPED = "dropped"
"""The zone of what no server block was asked about."""


class Told(NamedTuple):
    """One query and its reply."""

    type: str
    zone: str
    tcp: bool
    ipv6: bool
    rcode: int
    query_bytes: int
    """How large a reply the client takes."""
    reply_bytes: int
    seconds: float
    do: bool = False
    plugin: str = ""


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._sum += value
        self._counts[next((i for i, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))] += 1

    def lines(self, name: str, labels: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_sum{{{labels}}} {self._sum:.9g}"
        yield f"{name}_count{{{labels}}} {total}"


class Metrics:
    def __init__(self, port: int = 53, plugins: Iterable[tuple[str, str]] = (), version: str = "") -> None:
        """`plugins`: (zone, name) of each that is on."""
        self._server = f'server="dns://:{port}"'
        self.plugins, self._version = sorted(set(plugins)), version
        self._requests: Counter[str] = Counter()
        self._do: Counter[str] = Counter()
        self._responses: Counter[str] = Counter()
        self._seconds: dict[str, _Histogram] = {}
        self._asked: dict[str, _Histogram] = {}
        self._sent: dict[str, _Histogram] = {}

    def query(self, told: Told) -> None:
        where = f'{self._server},zone="{told.zone}",view=""'
        proto = f'{where},proto="{"tcp" if told.tcp else "udp"}"'
        kind = told.type if told.type in KNOWN_TYPES else "other"
        self._requests[f'{proto},family="{2 if told.ipv6 else 1}",type="{kind}"'] += 1
        self._do[where] += told.do
        self._responses[f'{where},rcode="{RCODES.get(told.rcode, told.rcode)}",plugin="{told.plugin}"'] += 1
        self._seconds.setdefault(where, _Histogram(BUCKETS_S)).add(told.seconds)
        self._asked.setdefault(proto, _Histogram(BUCKETS_BYTES)).add(told.query_bytes)
        self._sent.setdefault(proto, _Histogram(BUCKETS_BYTES)).add(told.reply_bytes)

    def render(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _head("coredns_build_info", "gauge", "A metric with a constant '1' value labeled by version.")
        yield f'coredns_build_info{{goversion="",revision="",version="nsk8s-{self._version}"}} 1'
        name = "coredns_dns_requests_total"
        yield from _counter(name, "Counter of DNS requests made per zone, protocol and family.", self._requests)
        name = "coredns_dns_do_requests_total"
        yield from _counter(name, "Counter of DNS requests with DO bit set per zone.", +self._do)
        yield from _counter("coredns_dns_responses_total", "Counter of response status codes.", self._responses)
        for name, what, histograms in (
            ("request_duration_seconds", "Histogram of the time (in seconds) each request took per zone.", self._seconds),
            ("request_size_bytes", "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.", self._asked),
            ("response_size_bytes", "Size of the returned response in bytes.", self._sent),
        ):
            yield from _head(f"coredns_dns_{name}", "histogram", what)
            for labels, histogram in sorted(histograms.items()):
                yield from histogram.lines(f"coredns_dns_{name}", labels)
        yield from _head("coredns_panics_total", "counter", "A metrics that counts the number of panics.")
        yield "coredns_panics_total 0"
        what = "A metric that indicates whether a plugin is enabled on per server and zone basis."
        yield from _head("coredns_plugin_enabled", "gauge", what)
        for zone, plugin in self.plugins:
            yield f'coredns_plugin_enabled{{{self._server},zone="{zone}",view="",name="{plugin}"}} 1'


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"


def _counter(name: str, what: str, counts: Counter[str]) -> Iterator[str]:
    yield from _head(name, "counter", what)
    for labels, count in sorted(counts.items()):
        yield f"{name}{{{labels}}} {count}"
