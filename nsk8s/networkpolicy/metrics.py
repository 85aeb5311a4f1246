"""What network-policy tells of itself: /healthz and /metrics (Prometheus' text form). Touches: the clock."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

_HELP = {
    "synced_total": ("counter", "Times the rules were compared with what they should be, by result"),
    "rules_written_total": ("counter", "Times the node's table was replaced"),
    "sync_seconds_total": ("counter", "Time spent on comparing and writing"),
    "last_sync_timestamp_seconds": ("gauge", "When the rules were last known to be right"),
    "policies": ("gauge", "NetworkPolicies known"),
    "pods": ("gauge", "Pods known, of all nodes"),
}


class Metrics:
    """Counted by the agent; `pages` shows it."""

    def __init__(self) -> None:
        self.written = 0
        self._synced = {"success": 0, "error": 0}
        self._seconds = 0.0
        self._right_at = 0.0
        self._error = "not all policies, pods and namespaces are known yet"
        self._policies = self._pods = 0

    @contextmanager
    def sync(self, policies: int, pods: int) -> Iterator[None]:
        """Around one sync; one that raises makes the component unhealthy until one succeeds."""
        started = time.monotonic()
        self._policies, self._pods = policies, pods
        try:
            yield
        except Exception as e:
            self._synced["error"] += 1
            self._error = str(e) or type(e).__name__
            raise
        else:
            self._synced["success"] += 1
            self._error, self._right_at = "", time.time()
        finally:
            self._seconds += time.monotonic() - started

    def pages(self) -> Mapping[str, Callable[[], Awaitable[tuple[int, str]]]]:
        return {"/healthz": self._healthz, "/metrics": self._metrics}

    async def _healthz(self) -> tuple[int, str]:
        return (503, f"{self._error}\n") if self._error else (200, "ok\n")

    async def _metrics(self) -> tuple[int, str]:
        return 200, self.render()

    def render(self) -> str:
        values: dict[str, list[tuple[str, float]]] = {
            "synced_total": [(f'{{result="{result}"}}', n) for result, n in self._synced.items()],
            "rules_written_total": [("", self.written)],
            "sync_seconds_total": [("", round(self._seconds, 6))],
            "last_sync_timestamp_seconds": [("", round(self._right_at, 3))],
            "policies": [("", self._policies)],
            "pods": [("", self._pods)],
        }
        lines = []
        for name, (kind, text) in _HELP.items():
            full = f"network_policy_{name}"
            lines += [f"# HELP {full} {text}.", f"# TYPE {full} {kind}"]
            lines += [f"{full}{labels} {value}" for labels, value in values[name]]
        return "\n".join(lines) + "\n"
