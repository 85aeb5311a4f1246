"""Objects for the controllers' unit tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return meta.rfc3339(NOW - timedelta(seconds=seconds))


def pod(
    name: str, *, phase: str = "Running", ready: bool | None = True, ready_for: float = 60, node: str = "n1", ip: str = "",
    labels: dict[str, str] | None = None, deleting: bool = False, restarts: int = 0, age: float = 100, **metadata: Any,
) -> Object:  # fmt: skip
    made: Object = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": labels or {}, "creationTimestamp": ago(age),
            "resourceVersion": "1", **metadata,
        },
        "spec": {"nodeName": node, "containers": [{"name": "app"}]},
        "status": {"phase": phase, "containerStatuses": [{"restartCount": restarts}]},
    }  # fmt: skip
    if ready is not None:
        made["status"]["conditions"] = [
            {"type": "Ready", "status": str(ready), "lastTransitionTime": ago(ready_for)}
        ]
    if ip:
        made["status"] |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    if deleting:
        made["metadata"]["deletionTimestamp"] = ago(0)
    return made


def node(name: str, *, ready: str = "True", address: str = "", taints: list[Object] | None = None, **labels: str) -> Object:
    status: Object = {"conditions": [{"type": "Ready", "status": ready}]}
    if address:
        status["addresses"] = [{"type": "InternalIP", "address": address}]
    return {
        "metadata": {"name": name, "uid": name, "labels": labels, "creationTimestamp": ago(100)},
        "spec": {"taints": taints} if taints else {}, "status": status,
    }  # fmt: skip
