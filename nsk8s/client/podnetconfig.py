"""The pod network's settings as they are in force: flags, and a ConfigMap that wins. For node-network and router-agent.

Counterpart: kube-flannel-cfg. Touches: the API (one ConfigMap is watched).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from nsk8s.client.informer import Informer
from nsk8s.client.resources import CONFIGMAPS
from nsk8s.client.rest import Client
from nsk8s.net import podnet
from nsk8s.net.podnet import Settings

log = logging.getLogger("podnetconfig")

WAIT_S = 5.0
"""One that may not be read, for want of rights, is not waited for any longer."""
NAME = f"{podnet.NAMESPACE}/{podnet.CONFIG_MAP}"


class PodNetworkConfig:
    """`run` follows the ConfigMap; `changed` is called with every change of it."""

    def __init__(self, client: Client, started_with: Settings, changed: Callable[[], None]) -> None:
        self._started_with = started_with
        self._last_good = started_with
        self._complained = ""
        self._informer = Informer(client, CONFIGMAPS, podnet.NAMESPACE, field_selector=f"metadata.name={podnet.CONFIG_MAP}")
        self._informer.add_handler(lambda old, new: changed())

    async def run(self) -> None:
        await self._informer.run()

    async def known(self) -> None:
        """Return once it is known whether there is one, or when that takes too long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._informer.synced.wait(), WAIT_S)
        if not self._informer.synced.is_set():
            log.warning("ConfigMap %s cannot be read: the flags count", NAME)

    def in_force(self) -> Settings:
        """The settings; a ConfigMap that makes no sense changes nothing."""
        try:
            self._last_good = podnet.override(self._started_with, self._informer.get(NAME))
            self._complained = ""
        except ValueError as e:
            if str(e) != self._complained:
                log.error("ConfigMap %s: %s; still %s", NAME, e, self._last_good.mode)
            self._complained = str(e)
        return self._last_good
