"""A view kept true to the API. Touches: the API. Upstream: CoreDNS' plugin/kubernetes, controller."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from nsk8s.dns.settings import Kubernetes
from nsk8s.dns.view import View

log = logging.getLogger("dns")

SYNC_PATIENCE_S = 5.0
"""How long other settings wait for their first sync before they count. CoreDNS: startup_timeout."""


class Source:
    def __init__(self, kubeconfig: str, options: Kubernetes, addresses: Sequence[str]) -> None:
        self.options = options
        self.synced = asyncio.Event()
        self.view = View(options, addresses, serial=int(time.time()))
        self._kubeconfig, self._addresses = kubeconfig, tuple(addresses)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._follow())

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, *awaited: asyncio.Event) -> None:
        """One of them is set. Raises what ended the following."""
        assert self._task is not None
        events = [asyncio.ensure_future(event.wait()) for event in awaited]
        try:
            await asyncio.wait([*events, self._task], return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
        finally:
            for event in events:
                event.cancel()

    async def succeeded(self, options: Kubernetes, stop: asyncio.Event) -> Source:
        """Another one with other options, in this one's place: it has begun, and has synced if that was soon."""
        following = Source(self._kubeconfig, options, self._addresses)
        following.start()
        waiting = [asyncio.ensure_future(event.wait()) for event in (following.synced, stop)]
        await asyncio.wait(waiting, timeout=SYNC_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await self.end()
        return following

    async def _follow(self) -> None:
        from nsk8s.client import kubeconfig
        from nsk8s.client.informer import Informer, wait_synced
        from nsk8s.client.resources import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES
        from nsk8s.client.rest import Client

        options, view = self.options, self.view
        config = kubeconfig.load(self._kubeconfig) if self._kubeconfig else kubeconfig.in_cluster()
        async with Client(config, user_agent="nsk8s-dns") as client:
            informers = [
                Informer(client, NAMESPACES, label_selector=options.namespace_labels),
                Informer(client, SERVICES, label_selector=options.labels),
            ]
            handlers = [view.namespace_changed, view.service_changed]
            if not options.noendpoints:
                informers.append(Informer(client, ENDPOINTSLICES, label_selector=options.labels))
                handlers.append(view.slice_changed)
            if options.pods == "verified":
                informers.append(Informer(client, PODS, label_selector=options.labels))
                handlers.append(view.pod_changed)
            for informer, handler in zip(informers, handlers, strict=True):
                informer.add_handler(handler)
            running = [asyncio.ensure_future(informer.run()) for informer in informers]
            first = asyncio.ensure_future(wait_synced(*informers))
            try:
                await asyncio.wait([first, *running], return_when=asyncio.FIRST_COMPLETED)
                if first.done():
                    view.synced = True
                    self.synced.set()
                    log.info("synced: %d services", len(informers[1].keys()))
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                tasks = [first, *running]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
