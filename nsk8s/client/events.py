"""Events: what a component tells the user about an object. Upstream: client-go/tools/record. Touches: the API, the clock.

Equal events (same object, reason, message, source) are counted up on one Event object instead of piling up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import EVENTS
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import AlreadyExists, Forbidden, NotFound, StatusError

log = logging.getLogger("events")

NORMAL, WARNING = "Normal", "Warning"
REMEMBERED = 1024
"""Events kept for counting up; upstream's LRU holds 4096."""
RETRY_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0, *[10.0] * 11)
"""An event that the server could not be told is tried again for two minutes, as upstream (12 times, every 10 s); the first
tries are quicker, for a server that is only being restarted. What the server refuses is not tried again."""


class EventRecorder:
    """Fire and forget: `event(obj, type, reason, message)` never blocks and never raises."""

    def __init__(self, client: Client, component: str, host: str = "") -> None:
        self._client = client
        self._source = {"component": component, **({"host": host} if host else {})}
        self._queue: asyncio.Queue[Object] = asyncio.Queue(maxsize=1000)
        self._known: OrderedDict[tuple[str, ...], Object] = OrderedDict()
        self._last_ns = 0

    def event(self, obj: Object, kind: str, reason: str, message: str, *, field_path: str = "") -> None:
        """Record; `obj` needs kind, apiVersion and metadata. Dropped (and logged) when the server lags 1,000 events behind."""
        reference = {
            "kind": obj.get("kind", ""),
            "namespace": meta.namespace(obj),
            "name": meta.name(obj),
            "uid": meta.uid(obj),
            "apiVersion": obj.get("apiVersion", ""),
            "resourceVersion": meta.resource_version(obj),
            "fieldPath": field_path,
        }
        log.info("%s %s/%s %s: %s", kind, reference["kind"].lower(), meta.key(obj), reason, message)
        now = meta.rfc3339(datetime.now(UTC))
        try:
            self._queue.put_nowait(
                {
                    "metadata": {"namespace": meta.namespace(obj) or "default", "name": self._name(meta.name(obj))},
                    "involvedObject": {k: v for k, v in reference.items() if v},
                    "reason": reason,
                    "message": message[:1024],
                    "type": kind,
                    "source": self._source,
                    "reportingComponent": self._source["component"],
                    "reportingInstance": self._source.get("host", ""),
                    "firstTimestamp": now,
                    "lastTimestamp": now,
                    "count": 1,
                }
            )
        except asyncio.QueueFull:
            log.warning("event dropped: %s %s", reason, message)

    async def tell(self, obj: Object, kind: str, reason: str, message: str) -> None:
        """Record and send at once, for a command that ends. Raises StatusError, Unreachable."""
        self.event(obj, kind, reason, message)
        await self._send(self._queue.get_nowait())

    def _name(self, involved: str) -> str:
        """As upstream: the object's name and the nanosecond, so that events of one second list in the order they happened."""
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        return f"{involved or 'unknown'}.{self._last_ns:x}"

    async def run(self) -> None:
        """Send what was recorded, for ever. Cancel to stop; what is still queued is lost, as upstream."""
        while True:
            event = await self._queue.get()
            try:
                await self._send_patiently(event)
            except NotFound:
                pass  # the namespace is gone
            except Forbidden as e:  # the namespace is being deleted
                log.debug("event refused: %s", e)
            except (StatusError, Unreachable) as e:
                log.warning("event lost: %s", e)

    async def _send_patiently(self, event: Object) -> None:
        for delay in RETRY_DELAYS_S:
            try:
                await self._send(event)
                return
            except Unreachable as e:
                log.debug("event will be tried again: %s", e)
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
        await self._send(event)

    async def _send(self, event: Object) -> None:
        involved = event["involvedObject"]
        same = (involved.get("uid", ""), involved.get("name", ""), involved.get("fieldPath", ""), event["type"],
                event["reason"], event["message"])  # fmt: skip
        known = self._known.get(same)
        if known is not None:
            self._known.move_to_end(same)
            body = {"count": known["count"] + 1, "lastTimestamp": event["lastTimestamp"]}
            try:
                self._known[same] = await self._client.patch(EVENTS, meta.name(known), body, meta.namespace(known))
                return
            except NotFound:
                del self._known[same]
        try:
            self._known[same] = await self._client.create(EVENTS, event)
        except AlreadyExists:  # it was made, only the answer got lost
            self._known[same] = event
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
