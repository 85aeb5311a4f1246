"""One active instance of several: a Lease is held and renewed. Upstream: client-go/tools/leaderelection.

Touches: the API, clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import LEASES
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import AlreadyExists, Conflict, NotFound, StatusError

log = logging.getLogger("leaderelection")


@dataclass(frozen=True)
class Timing:
    """Upstream's defaults, seconds."""

    lease_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0


def may_take(lease: Object, identity: str, observed_age_s: float, timing: Timing) -> bool:
    """Whether `identity` may write itself into `lease`, which has not changed for `observed_age_s` as seen from here. Pure.

    Clocks of other machines are not trusted: only how long we have seen the record unchanged counts.
    """
    holder = lease["spec"].get("holderIdentity") or ""
    return holder in ("", identity) or observed_age_s > lease["spec"].get("leaseDurationSeconds", timing.lease_s)


async def lead(
    client: Client, name: str, identity: str, work: Callable[[], Awaitable[None]], timing: Timing = Timing(),
) -> None:
    """Wait for the Lease kube-system/`name`, then run `work` while renewing; returns when the lease is lost or work ends."""
    loop = asyncio.get_running_loop()
    seen: tuple[str, float] = ("", loop.time())
    await client.wait_reachable()
    while True:
        lease = await _read(client, name)
        if lease is not None and meta.resource_version(lease) != seen[0]:
            seen = (meta.resource_version(lease), loop.time())
        if (lease is None or may_take(lease, identity, loop.time() - seen[1], timing)) and await _write(
            client, name, identity, lease, timing
        ):
            break
        await asyncio.sleep(timing.retry_s)
    log.info("%s became leader of %s", identity, name)
    task = asyncio.ensure_future(work())
    renewed = loop.time()
    try:
        while True:
            done, _ = await asyncio.wait([task], timeout=timing.retry_s)
            if done:
                task.result()
                return
            lease = await _read(client, name)
            held = lease is not None and lease["spec"].get("holderIdentity") == identity
            if lease is not None and not held:
                log.error("lost the lease %s to %s", name, lease["spec"].get("holderIdentity"))
                return
            if held and await _write(client, name, identity, lease, timing):
                renewed = loop.time()
            elif loop.time() - renewed > timing.lease_s:
                # Without an API server nobody else can take the lease either: going on is as safe as upstream's exit,
                # and the component need not start anew after every restart of the API server.
                log.warning("the lease %s could not be renewed for %.0f s", name, loop.time() - renewed)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _read(client: Client, name: str) -> Object | None:
    try:
        return await client.get(LEASES, name, "kube-system")
    except NotFound:
        return None
    except (StatusError, Unreachable) as e:
        log.warning("lease %s: %s", name, e)
        return {"metadata": {}, "spec": {"holderIdentity": "unknown", "leaseDurationSeconds": float("inf")}}


async def _write(client: Client, name: str, identity: str, old: Object | None, timing: Timing) -> bool:
    now = meta.rfc3339_micro(datetime.now(UTC))
    spec = dict((old or {}).get("spec") or {})
    if spec.get("holderIdentity") != identity:
        spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if old else 0)
        spec["acquireTime"] = now
    spec |= {"holderIdentity": identity, "leaseDurationSeconds": int(timing.lease_s), "renewTime": now}
    try:
        if old is None:
            await client.create(LEASES, {"metadata": {"name": name, "namespace": "kube-system"}, "spec": spec})
        else:
            await client.update(LEASES, {**old, "spec": spec})
    except (Conflict, AlreadyExists):
        return False
    except (StatusError, Unreachable) as e:
        log.warning("lease %s: %s", name, e)
        return False
    return True
