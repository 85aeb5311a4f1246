"""Subscriptions of an embedded store: who gets which change, in order. Touches: the event loop only.

Both embedded stores have one writer, so a change is published right after it is durable; a subscriber first gets the history
that the store read for it, then what was published since. Upstream: kine's broadcaster.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from nsk8s.store.base import Event


class Subscription:
    def __init__(self, hub: Hub, prefix: str, backlog: Iterable[Event]) -> None:
        self._hub = hub
        self._prefix = prefix
        self._queue: deque[Event] = deque(backlog)
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        return self

    async def __anext__(self) -> list[Event]:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def offer(self, event: Event) -> None:
        if event.kv.key.startswith(self._prefix):
            self._queue.append(event)
            self._wake()

    def close(self) -> None:
        self._closed = True
        self._hub.discard(self)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Hub:
    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def subscribe(self, prefix: str, backlog: Iterable[Event]) -> Subscription:
        subscription = Subscription(self, prefix, backlog)
        self._subscriptions.add(subscription)
        return subscription

    def publish(self, event: Event) -> None:
        for subscription in self._subscriptions:
            subscription.offer(event)

    def discard(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        for subscription in list(self._subscriptions):
            subscription.close()
