"""Events of the server's own loops, written past HTTP. Touches: the registry, the clock. Upstream: client-go/tools/record."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from nsk8s.api.meta import Object, rfc3339
from nsk8s.api.scheme import Scheme
from nsk8s.apiserver.call import SYSTEM, Call
from nsk8s.apiserver.registry import Registry
from nsk8s.apiserver.request import RequestInfo
from nsk8s.errors import StatusError


class EventWriter:
    """Says a warning once as long as this server lives; a recurring one would be a new Event every few minutes."""

    def __init__(self, registry: Registry, scheme: Scheme, component: str) -> None:
        self._registry = registry
        self._kind = scheme.resource("", "v1", "events")
        self._component = component
        self._said: set[tuple[str, str, str]] = set()

    async def tell(self, obj: Object, reason: str, message: str, *, again: bool = False) -> None:
        """A Warning about `obj`; `again`: also if it was said before."""
        metadata = obj["metadata"]
        key = metadata.get("uid", ""), reason, message
        if self._kind is None or (key in self._said and not again):
            return
        self._said.add(key)
        namespace = metadata.get("namespace") or "default"
        name = f"{metadata['name']}.{time.time_ns():x}"
        now = rfc3339(datetime.now(UTC))
        involved = {
            "kind": obj["kind"], "apiVersion": obj["apiVersion"], "name": metadata["name"], "uid": metadata.get("uid", ""),
            "namespace": metadata.get("namespace", ""), "resourceVersion": metadata.get("resourceVersion", ""),
        }  # fmt: skip
        event = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {k: v for k, v in involved.items() if v}, "type": "Warning", "reason": reason,
            "message": message[:1024], "source": {"component": self._component}, "reportingComponent": self._component,
            "reportingInstance": "", "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        }  # fmt: skip
        info = RequestInfo("POST", "", "create", True, "", "v1", namespace, "events", "", name)
        try:
            await self._registry.create(Call(SYSTEM, info, self._kind), event, namespace)
        except StatusError:  # the namespace is going, or the disk is full: the log has it
            return
