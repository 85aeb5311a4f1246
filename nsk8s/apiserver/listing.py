"""List and watch: selectors, resourceVersion, limit and continue. Touches: the cache, the store for the past.

Upstream: apiserver/pkg/storage/cacher, apiserver/pkg/endpoints/handlers/{get,watch}.go.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import orjson

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Kind
from nsk8s.api.selectors import ALL_FIELDS, EVERYTHING, FieldSelector, LabelSelector, parse_fields, parse_labels
from nsk8s.apiserver import failures
from nsk8s.apiserver.cache import ADDED, ALL, DELETED, MODIFIED, PREFIX, Bucket, Cache, Change, decode
from nsk8s.apiserver.forms import Form
from nsk8s.apiserver.registry import as_version, storage_resource
from nsk8s.apiserver.request import RequestInfo
from nsk8s.errors import BadRequest, Gone, StatusError
from nsk8s.store.base import Compacted, FutureRevision

BOOKMARK_PERIOD_S = 60.0
FUTURE_WAIT_S = 3.0
"""How long a read waits for a resourceVersion that this server has not seen yet."""
MIN_TIMEOUT_S = 1800
"""--min-request-timeout: a watch without timeoutSeconds lasts between this and twice this."""
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource a request is about."""

    kind: Kind
    namespace: str
    labels: LabelSelector = EVERYTHING
    fields: FieldSelector = ALL_FIELDS

    def matches(self, obj: Object) -> bool:
        if self.labels is not EVERYTHING and not self.labels.matches(obj["metadata"].get("labels")):
            return False
        return self.fields is ALL_FIELDS or self.fields.matches_object(self.kind, as_version(self.kind, obj))

    @property
    def resource(self) -> str:
        return storage_resource(self.kind)

    @property
    def everything(self) -> bool:
        return self.labels is EVERYTHING and self.fields is ALL_FIELDS

    def bucket(self) -> Bucket:
        """The narrowest index under which all changes of this selection are found."""
        name = self.fields.exact("metadata.name")
        if name:
            return "metadata.name", name
        node = self.fields.exact("spec.nodeName") if self.kind.group_resource == "pods" else None
        return ("spec.nodeName", node) if node is not None else ALL


def selection(info: RequestInfo, kind: Kind) -> Selection:
    """Raises BadRequest for selectors that cannot be."""
    label_text, field_text = info.param("labelSelector"), info.param("fieldSelector")
    labels, fields = EVERYTHING, ALL_FIELDS
    if label_text:
        labels = parse_labels(label_text)
    if field_text:
        fields = parse_fields(field_text)
        fields.check(kind)
    if info.name:
        fields = parse_fields(f"metadata.name={info.name}") if not field_text else fields
        if fields.exact("metadata.name") != info.name:
            raise BadRequest("fieldSelector metadata.name does not match the name on the URL")
    namespace = info.namespace if kind.namespaced else ""
    return Selection(kind, namespace, EVERYTHING if labels.empty else labels, ALL_FIELDS if fields.empty else fields)


def parse_revision(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


async def settle(cache: Cache, revision: int) -> None:
    """Wait a moment for a revision that is ahead. Raises GatewayTimeout, which makes clients list again."""
    if revision <= cache.revision:
        return
    try:
        async with asyncio.timeout(FUTURE_WAIT_S):
            await cache.wait_for(revision)
    except TimeoutError:
        raise failures.too_large(revision, cache.revision) from None


@dataclass(frozen=True, slots=True)
class _Continue:
    """Where the next page begins: behind `start` (the key below the resource), in the state at `revision` (0 = now)."""

    revision: int
    start: str

    def encode(self) -> str:
        raw = orjson.dumps({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start})
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    @classmethod
    def decode(cls, token: str) -> _Continue:
        try:
            data = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            revision, start = data["rv"], data["start"]
        except (ValueError, binascii.Error, KeyError, TypeError) as e:
            raise BadRequest("continue key is not valid: not a token of this server") from e
        if data.get("v") != "meta.k8s.io/v1" or type(revision) is not int or type(start) is not str or revision < -1:
            raise BadRequest("continue key is not valid: not a token of this server")
        return cls(revision, start)


async def list_objects(cache: Cache, info: RequestInfo, selected: Selection) -> tuple[list[Object], dict[str, Any]]:
    """(objects, ListMeta)."""
    limit = info.number("limit") or 0
    token, revision_text = info.param("continue"), info.param("resourceVersion")
    match = info.param("resourceVersionMatch")
    if match and match not in ("Exact", "NotOlderThan"):
        raise BadRequest(f'resourceVersionMatch: Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"')
    if match and not revision_text:
        raise BadRequest("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
    if token and match:
        raise BadRequest("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided")
    if match == "Exact" and revision_text == "0":
        raise BadRequest('resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    if limit < 0:
        raise BadRequest("limit: Invalid value: must be greater than or equal to 0")
    if token:
        if revision_text and revision_text != "0":
            raise BadRequest("specifying resource version is not allowed when using continue")
        at = _Continue.decode(token)
        if at.revision > 0:
            return await _page_of_past(cache, selected, at.revision, limit, at.start)
        await cache.fresh()
        return _page_of_now(cache, selected, limit, at.start)
    if revision_text and revision_text != "0":
        revision = parse_revision(revision_text)
        await settle(cache, revision)
        if match == "Exact" or (not match and limit):
            return await _page_of_past(cache, selected, revision, limit, "")
        return _page_of_now(cache, selected, limit, "")
    if not revision_text:
        await cache.fresh()
    # Any version will do for resourceVersion=0, and the cache always has the newest one it knows.
    return _page_of_now(cache, selected, 0 if revision_text == "0" else limit, "")


def _start_of(obj: Object, namespaced: bool) -> str:
    metadata = obj["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if namespaced else str(metadata["name"])


def _page_of_now(cache: Cache, selected: Selection, limit: int, start: str) -> tuple[list[Object], dict[str, Any]]:
    meta: dict[str, Any] = {"resourceVersion": str(cache.revision)}
    resource = cache.resource(selected.resource)
    name = selected.fields.exact("metadata.name")
    if name and (selected.namespace or not selected.kind.namespaced):
        one = resource.get(selected.namespace, name)
        return ([one] if one is not None and selected.matches(one) else []), meta
    objects = list(resource.list(selected.namespace))
    if not selected.everything:
        objects = [o for o in objects if selected.matches(o)]
    if start:
        objects = [o for o in objects if _start_of(o, selected.kind.namespaced) > start]
    if limit and len(objects) > limit:
        last = _start_of(objects[limit - 1], selected.kind.namespaced)
        meta["continue"] = _Continue(cache.revision, last).encode()
        if selected.everything:
            meta["remainingItemCount"] = len(objects) - limit
        objects = objects[:limit]
    return objects, meta


async def _page_of_past(
    cache: Cache, selected: Selection, revision: int, limit: int, start: str
) -> tuple[list[Object], dict[str, Any]]:
    """A page of the state at `revision`, from the store."""
    base = f"{PREFIX}{selected.resource}/"
    prefix = f"{base}{selected.namespace}/" if selected.namespace else base
    after = base + start if start else ""
    objects: list[Object] = []
    meta: dict[str, Any] = {"resourceVersion": str(revision)}
    while True:
        try:
            page = await cache.store.list(prefix, revision=revision, limit=limit + 1 if limit else 0, after=after)
        except Compacted as e:
            # A fresh token lets a client that does not mind an inconsistent list go on from the newest state.
            fresh = _Continue(-1, start).encode() if start else ""
            error = Gone(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list "
                "without the continue parameter, or use the continue token in this response to retrieve the remainder of "
                "the results. Continuing with the provided token results in an inconsistent list - objects that were "
                "created, modified, or deleted between the time the first chunk was returned and now may show up in the "
                "list." if fresh else f"The resourceVersion for the provided list is too old. ({e.message})"
            )
            if fresh:
                raise ExpiredContinue(error.message, {"continue": fresh}) from e
            raise error from e
        except FutureRevision:
            raise failures.too_large(revision, cache.revision) from None
        for kv in page.items:
            obj = decode(kv)
            if selected.matches(obj):
                objects.append(obj)
            if limit and len(objects) > limit:
                break
        if not page.more or (limit and len(objects) > limit):
            break
        after = page.items[-1].key
    if limit and len(objects) > limit:
        objects = objects[:limit]
        meta["continue"] = _Continue(revision, _start_of(objects[-1], selected.kind.namespaced)).encode()
    return objects, meta


class ExpiredContinue(Gone):
    """410 whose ListMeta carries a token to go on with."""

    def __init__(self, message: str, meta: dict[str, Any]) -> None:
        super().__init__(message)
        self._meta = meta

    def status(self) -> dict[str, Any]:
        return {**super().status(), "metadata": self._meta}


def what_it_means(change: Change, selected: Selection) -> str:
    """ADDED, MODIFIED or DELETED as this selection sees the change; "" if it does not concern it."""
    if selected.everything:
        return change.type
    was = change.prev is not None and selected.matches(change.prev)
    if change.type == DELETED:
        return DELETED if was else ""
    now = selected.matches(change.obj)
    if now:
        return MODIFIED if was else ADDED
    return DELETED if was else ""


class WatchStream:
    """The lines of one watch, as batches of bytes."""

    def __init__(self, cache: Cache, info: RequestInfo, selected: Selection, form: Form) -> None:
        self._cache = cache
        self._selected = selected
        self._form = form
        self._bookmarks = info.flag("allowWatchBookmarks")
        timeout = info.number("timeoutSeconds")
        self._timeout_s = float(timeout) if timeout else MIN_TIMEOUT_S * (1 + random.random())
        self._revision_text = info.param("resourceVersion")
        self._initial = info.flag("sendInitialEvents")
        self._skip_initial = bool(info.param("sendInitialEvents")) and not self._initial
        match = info.param("resourceVersionMatch")
        if info.param("sendInitialEvents") and match != "NotOlderThan":
            raise BadRequest(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        if match and not info.param("sendInitialEvents"):
            raise BadRequest(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents "
                "is provided"
            )
        self._start = parse_revision(self._revision_text) if self._revision_text else 0
        self._first = True

    async def batches(self) -> AsyncGenerator[bytes, None]:
        """Ends when the time is up or the watcher fell behind. The first batch may be empty: headers can go out then.

        Raises Gone (before the first batch) if the revision has been compacted."""
        resource = self._cache.resource(self._selected.resource)
        loop = asyncio.get_running_loop()
        if not self._start:
            await self._cache.fresh()
        else:
            await settle(self._cache, self._start)
        watcher = resource.subscribe(self._selected.bucket(), self._selected.namespace)
        deadline = loop.time() + self._timeout_s
        timer = loop.call_at(deadline, watcher.close)
        bookmark_at = loop.time() + BOOKMARK_PERIOD_S
        ticker: asyncio.TimerHandle | None = None
        try:
            yield await self._beginning()
            while True:
                if self._bookmarks:
                    ticker = loop.call_at(bookmark_at, watcher.wake)
                await watcher.wait()
                if ticker is not None:
                    ticker.cancel()
                lines = [line for change in watcher.drain() if (line := self._line(change))]
                if self._bookmarks and (loop.time() >= bookmark_at or watcher.closed):
                    lines.append(self._bookmark(self._cache.revision))
                    bookmark_at = loop.time() + BOOKMARK_PERIOD_S
                if lines:
                    yield b"".join(lines)
                if watcher.closed:
                    return
        finally:
            timer.cancel()
            if ticker is not None:
                ticker.cancel()
            watcher.close()

    async def _beginning(self) -> bytes:
        """What happened before: the present state as ADDED events, or the history since the revision asked for."""
        now = self._cache.revision
        lines: list[bytes] = []
        if not self._start and self._skip_initial:
            return b""
        if not self._start or self._initial:
            for obj in self._cache.resource(self._selected.resource).list(self._selected.namespace):
                if self._selected.matches(obj):
                    lines.append(self._form.line(ADDED, obj, first=self._take_first()))
            if self._initial and self._bookmarks:
                lines.append(self._bookmark(now, end=True))
            return b"".join(lines)
        resource = self._cache.resource(self._selected.resource)
        if self._start >= resource.revision:
            return b""
        base = f"{PREFIX}{self._selected.resource}/"
        prefix = f"{base}{self._selected.namespace}/" if self._selected.namespace else base
        try:
            events = await self._cache.store.history(prefix, self._start, now)
        except Compacted as e:
            raise failures.expired(self._start, e.oldest) from e
        for event in events:
            line = self._line(Change.from_event(event))
            if line:
                lines.append(line)
        return b"".join(lines)

    def _line(self, change: Change) -> bytes:
        kind = what_it_means(change, self._selected)
        if not kind:
            return b""
        return self._form.event(change, kind, first=self._take_first())

    def _take_first(self) -> bool:
        first, self._first = self._first, False
        return first

    def _bookmark(self, revision: int, *, end: bool = False) -> bytes:
        kind = self._selected.kind
        metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if end:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        obj = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        return b'{"type":"BOOKMARK","object":' + orjson.dumps(obj) + b"}\n"


def error_line(error: StatusError) -> bytes:
    """An ERROR event: how a watch that has begun says that it cannot go on."""
    return b'{"type":"ERROR","object":' + orjson.dumps(error.status()) + b"}\n"
