"""The pod network's settings as they are in force: flags, and a ConfigMap that wins. For node-network and router-agent.

Counterpart: kube-flannel-cfg. Touches: the API (one ConfigMap is watched).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import click

from nsk8s.client.informer import Informer
from nsk8s.client.resources import CONFIGMAPS
from nsk8s.client.rest import Client
from nsk8s.net import podnet
from nsk8s.net.podnet import Bgp, Settings

log = logging.getLogger("podnetconfig")
F = TypeVar("F", bound=Callable[..., Any])


def bgp_options(function: F) -> F:
    """The flags of mode bgp, which the ConfigMap overrides too: one argument, `bgp`."""

    @functools.wraps(function)
    def with_bgp(*, bgp_topology: str, bgp_asn: int, bgp_hold_time: int, **others: Any) -> Any:
        return function(bgp=Bgp(bgp_topology, bgp_asn, bgp_hold_time), **others)

    default = Bgp()
    for option in (
        click.option("--bgp-topology", type=click.Choice(podnet.TOPOLOGIES), default=default.topology, show_default=True,
                     help="mesh: all nodes know each other; reflector: the router tells all."),
        click.option("--bgp-asn", type=click.IntRange(1, 2**32 - 2), default=default.asn, show_default=True, help="Their AS."),
        click.option("--bgp-hold-time", type=click.IntRange(podnet.MIN_HOLD_S, podnet.MAX_HOLD_S), default=default.hold_s,
                     show_default=True, help="Seconds until a silent neighbour is given up."),
    ):  # fmt: skip
        with_bgp = option(with_bgp)
    return with_bgp  # type: ignore[return-value]

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
