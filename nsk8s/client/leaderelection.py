"""One active instance of several: a Lease is held and renewed. Upstream: client-go/tools/leaderelection.

Touches: the API, clock, /proc.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import LEASES
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import AlreadyExists, Conflict, NotFound, StatusError
from nsk8s.kernel import process

log = logging.getLogger("leaderelection")


@dataclass(frozen=True)
class Timing:
    """Upstream's defaults, seconds."""

    lease_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0


FIRST_RETRY_S = 0.05
"""After an error of the API server, doubling up to the retry period: at a cluster's start it comes up a moment later."""
_IDENTITY = re.compile(r"(?P<where>.+_(?P<boot>[0-9a-f-]{36})-\d+)-(?P<pid>\d+)-(?P<start>\d+)")


class Failed(Exception):
    """The lease could not be read or written."""


def own_identity() -> str:
    """HOST_UNIQUE, as upstream's; the unique part says which process of this machine it is, so that its death can be seen."""
    who = process.identity(os.getpid())
    return f"{_where()}-{who['pid']}-{who['start']}"


def _where() -> str:
    """Host, boot and pid namespace: where a pid means a process."""
    return f"{socket.gethostname()}_{process.boot_id()}-{os.stat('/proc/self/ns/pid').st_ino}"


def is_dead(holder: str) -> bool:
    """Whether `holder` was a process beside this one that no longer runs: then nobody need wait for its lease to end."""
    found = _IDENTITY.fullmatch(holder)
    if found is None or found["where"] != _where():
        return False
    return not process.is_alive({"boot": found["boot"], "pid": int(found["pid"]), "start": int(found["start"])})


def _holder(lease: Object) -> str:
    return str(lease["spec"].get("holderIdentity") or "")


def may_take(lease: Object, identity: str, observed_age_s: float, timing: Timing) -> bool:
    """Whether `identity` may write itself into `lease`, which has not changed for `observed_age_s` as seen from here. Pure.

    Clocks of other machines are not trusted: only how long we have seen the record unchanged counts.
    """
    holder = _holder(lease)
    return holder in ("", identity) or observed_age_s > lease["spec"].get("leaseDurationSeconds", timing.lease_s)


async def lead(
    client: Client, name: str, identity: str, work: Callable[[], Awaitable[None]], timing: Timing = Timing(),
) -> None:
    """Wait for the Lease kube-system/`name`, then run `work` while renewing; returns when the lease is lost or work ends."""
    loop = asyncio.get_running_loop()
    seen: tuple[str, float] = ("", loop.time())
    await client.wait_reachable()
    delay = FIRST_RETRY_S
    while True:
        try:
            lease = await _read(client, name)
            if lease is not None and meta.resource_version(lease) != seen[0]:
                seen = (meta.resource_version(lease), loop.time())
            age_s = loop.time() - seen[1]
            free = lease is None or may_take(lease, identity, age_s, timing) or is_dead(_holder(lease))
            if free and await _write(client, name, identity, lease, timing):
                break
            delay = timing.retry_s
        except Failed as e:
            log.warning("lease %s: %s", name, e)
        await asyncio.sleep(delay)
        delay = min(delay * 2, timing.retry_s)
    log.info("%s became leader of %s", identity, name)
    task = asyncio.ensure_future(work())
    renewed = loop.time()
    try:
        while True:
            done, _ = await asyncio.wait([task], timeout=timing.retry_s)
            if done:
                task.result()
                return
            try:
                lease = await _read(client, name)
                if lease is not None and _holder(lease) != identity:
                    log.error("lost the lease %s to %s", name, _holder(lease))
                    return
                if await _write(client, name, identity, lease, timing):
                    renewed = loop.time()
            except Failed as e:
                # Without an API server nobody else can take the lease either: going on is as safe as upstream's exit,
                # and the component need not start anew after every restart of the API server.
                log.warning("the lease %s could not be renewed for %.0f s: %s", name, loop.time() - renewed, e)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _read(client: Client, name: str) -> Object | None:
    try:
        return await client.get(LEASES, name, "kube-system")
    except NotFound:
        return None
    except (StatusError, Unreachable) as e:
        raise Failed(str(e)) from e


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
        raise Failed(str(e)) from e
    return True
