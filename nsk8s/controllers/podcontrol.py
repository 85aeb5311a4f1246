"""Making, deleting, adopting and releasing a controller's objects. Touches: the API.

Upstream: pkg/controller/controller_utils.go (RealPodControl), controller_ref_manager.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.selectors import LabelSelector
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.client.informer import Informer
from nsk8s.client.resources import PODS, Resource
from nsk8s.client.rest import Client, Unreachable
from nsk8s.controllers.pods import batches, is_terminal
from nsk8s.errors import Conflict, Forbidden, NotFound, StatusError

IN_FLIGHT = 10
"""Calls at once per controller: enough to keep one API server busy, few enough connections."""


async def all_of(limit: asyncio.Semaphore, calls: Iterable[Callable[[], Awaitable[object]]]) -> list[Exception]:
    """Make the calls, `limit` at once; the StatusError and Unreachable failures. Others are raised."""
    failures: list[Exception] = []

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        async with limit:
            try:
                await call()
            except (StatusError, Unreachable) as e:
                failures.append(e)

    await asyncio.gather(*(one(c) for c in calls))
    return failures


class PodControl:
    def __init__(self, client: Client, recorder: EventRecorder) -> None:
        self._client = client
        self._recorder = recorder
        self._limit = asyncio.Semaphore(IN_FLIGHT)

    async def create(self, owner: Object, pods: Sequence[Object], failed: Callable[[int], None]) -> Exception | None:
        """POST `pods` in slow-start batches; after a failure the rest is not tried. `failed(n)`: so many will not appear."""
        at = 0
        for size in batches(len(pods)):
            errors = await all_of(self._limit, [self._creator(owner, pod) for pod in pods[at : at + size]])
            at += size
            if errors:
                failed(len(errors) + len(pods) - at)
                return errors[0]
        return None

    def _creator(self, owner: Object, pod: Object) -> Callable[[], Awaitable[object]]:
        async def create() -> None:
            try:
                made = await self._client.create(PODS, pod)
            except Forbidden as e:
                if not any(c.get("reason") == "NamespaceTerminating" for c in e.details.get("causes") or []):
                    self._recorder.event(owner, WARNING, "FailedCreate", f"Error creating: {e.message}")
                raise
            except StatusError as e:
                self._recorder.event(owner, WARNING, "FailedCreate", f"Error creating: {e.message}")
                raise
            self._recorder.event(owner, NORMAL, "SuccessfulCreate", f"Created pod: {meta.name(made)}")

        return create

    async def delete(self, owner: Object, pods: Iterable[Object], failed: Callable[[str], None]) -> Exception | None:
        """DELETE `pods`; `failed(uid)`: this deletion will not be seen. A pod that is gone already is no error."""

        def deleter(pod: Object) -> Callable[[], Awaitable[object]]:
            async def delete() -> None:
                name = meta.name(pod)
                try:
                    await self._client.delete(PODS, name, meta.namespace(pod), uid=meta.uid(pod))
                except (NotFound, Conflict):
                    failed(meta.uid(pod))
                except (StatusError, Unreachable) as e:
                    failed(meta.uid(pod))
                    self._recorder.event(owner, WARNING, "FailedDelete", f"Error deleting: {e.message}")
                    raise
                else:
                    self._recorder.event(owner, NORMAL, "SuccessfulDelete", f"Deleted pod: {name}")

            return delete

        errors = await all_of(self._limit, [deleter(p) for p in pods])
        return errors[0] if errors else None


async def claim(
    client: Client, owner_resource: Resource, owner: Object, resource: Resource, informer: Informer, selector: LabelSelector,
    *, may_adopt: Callable[[Object], bool] = lambda obj: True,
) -> list[Object]:  # fmt: skip
    """The objects of `resource` that are `owner`'s: strays that match are adopted, its own that no longer match released."""
    owned: list[Object] = []
    for obj in informer.by_index("owner", meta.uid(owner)):
        if meta.namespace(obj) != meta.namespace(owner):
            continue
        if selector.matches(meta.labels(obj)):
            owned.append(obj)
        elif not meta.is_deleting(owner):
            await _release(client, owner, resource, obj)
    if meta.is_deleting(owner):
        return owned
    strays = [
        obj for obj in informer.by_index("owner", f"orphan:{meta.namespace(owner)}")
        if not meta.is_deleting(obj) and selector.matches(meta.labels(obj)) and may_adopt(obj)
        and not (resource == PODS and is_terminal(obj))
    ]  # fmt: skip
    if strays and not await _alive(client, owner_resource, owner):
        return owned
    for obj in strays:
        adopted = await _adopt(client, owner, resource, obj)
        if adopted is not None:
            owned.append(adopted)
    return owned


async def _alive(client: Client, resource: Resource, owner: Object) -> bool:
    """Whether the server, not the cache, says that `owner` still exists and stays: nothing is adopted for a dying owner."""
    fresh = await client.get(resource, meta.name(owner), meta.namespace(owner))
    return meta.uid(fresh) == meta.uid(owner) and not meta.is_deleting(fresh)


async def _adopt(client: Client, owner: Object, resource: Resource, obj: Object) -> Object | None:
    references = [*(obj["metadata"].get("ownerReferences") or []), meta.owner_reference(owner)]
    return await _set_owners(client, resource, obj, references)


async def _release(client: Client, owner: Object, resource: Resource, obj: Object) -> None:
    references = [r for r in obj["metadata"].get("ownerReferences") or [] if r.get("uid") != meta.uid(owner)]
    await _set_owners(client, resource, obj, references)


async def _set_owners(client: Client, resource: Resource, obj: Object, references: list[Object]) -> Object | None:
    body = {"metadata": {"ownerReferences": references or None, "resourceVersion": meta.resource_version(obj)}}
    try:
        return await client.patch(resource, meta.name(obj), body, meta.namespace(obj))
    except NotFound:
        return None
