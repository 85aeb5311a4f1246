"""A few of kube-apiserver's metrics, in Prometheus' text form. Pure apart from reading the process's own figures."""

from __future__ import annotations

import resource
from bisect import bisect_left
from collections import defaultdict

from nsk8s.api.version import KUBERNETES_VERSION
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.request import RequestInfo

BUCKETS_S = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._requests: defaultdict[tuple[str, str, str, str, str, int], int] = defaultdict(int)
        self._durations: dict[tuple[str, str, str, str], list[float]] = {}

    def observe(self, info: RequestInfo | None, method: str, code: int, seconds: float) -> None:
        known = info is not None and info.is_resource and code != 404
        group, version, res, sub, verb = (
            (info.group, info.version, info.resource, info.subresource, info.verb)
            if info is not None and known
            else ("", "", "", "", method if method.isalpha() and len(method) < 8 else "other")
        )
        if len(self._requests) < 5000:
            self._requests[verb.upper(), group, version, res, sub, code] += 1
        if verb in ("watch", "connect") or sub in ("log", "exec", "attach", "portforward", "proxy"):
            return
        row = self._durations.get((verb, group, res, sub))
        if row is None:
            if len(self._durations) > 1000:
                return
            row = self._durations[verb, group, res, sub] = [0.0] * (len(BUCKETS_S) + 2)
        row[bisect_left(BUCKETS_S, seconds)] += 1
        row[-1] += seconds

    def render(self) -> str:
        out = ["# TYPE apiserver_request_total counter"]
        for (verb, group, version, res, sub, code), requests in sorted(self._requests.items()):
            out.append(
                f'apiserver_request_total{{code="{code}",group="{_escape(group)}",resource="{_escape(res)}",'
                f'subresource="{_escape(sub)}",verb="{_escape(verb)}",version="{_escape(version)}"}} {requests}'
            )
        out.append("# TYPE apiserver_request_duration_seconds histogram")
        for (verb, group, res, sub), row in sorted(self._durations.items()):
            labels = f'group="{_escape(group)}",resource="{_escape(res)}",subresource="{_escape(sub)}",verb="{verb.upper()}"'
            total = 0.0
            for bound, count in zip((*BUCKETS_S, "+Inf"), row[:-1], strict=True):
                total += count
                out.append(f'apiserver_request_duration_seconds_bucket{{{labels},le="{bound}"}} {total:g}')
            out.append(f"apiserver_request_duration_seconds_sum{{{labels}}} {row[-1]:.6f}")
            out.append(f"apiserver_request_duration_seconds_count{{{labels}}} {total:g}")
        out.append("# TYPE apiserver_storage_objects gauge")
        caches = sorted(self._cache.resources(), key=lambda c: c.group_resource)
        out += [f'apiserver_storage_objects{{resource="{_escape(c.group_resource)}"}} {c.size}' for c in caches]
        out.append("# TYPE apiserver_registered_watchers gauge")
        out += [
            f'apiserver_registered_watchers{{resource="{_escape(c.group_resource)}"}} {c.watcher_count()}'
            for c in caches
            if c.watcher_count()
        ]
        out.append("# TYPE etcd_revision gauge")
        out.append(f"etcd_revision {self._cache.revision}")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        out.append("# TYPE process_cpu_seconds_total counter")
        out.append(f"process_cpu_seconds_total {usage.ru_utime + usage.ru_stime:.2f}")
        out.append("# TYPE process_max_resident_memory_bytes gauge")
        out.append(f"process_max_resident_memory_bytes {usage.ru_maxrss * 1024}")
        out.append("# TYPE kubernetes_build_info gauge")
        out.append(f'kubernetes_build_info{{git_version="{KUBERNETES_VERSION}+nsk8s"}} 1')
        return "\n".join(out) + "\n"
