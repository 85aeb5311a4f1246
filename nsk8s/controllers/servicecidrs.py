"""Guards ServiceCIDRs: one goes only when no ClusterIP would be left without a range. Touches: the API.

Upstream: pkg/controller/servicecidrs. IPAddresses are listed while a ServiceCIDR is to go, and not watched all the time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.resources import IPADDRESSES, SERVICE_CIDRS
from nsk8s.controllers.context import Context
from nsk8s.errors import NotFound

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
MANAGED = "ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io"
DELETION_GRACE_S = 10.0
"""Until every API server has heard that no address is to come from the range any more."""
LOOK_AGAIN_S = 2.0
"""While addresses hold it up."""
IN_USE = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
READY = "Kubernetes Service CIDR is ready"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(service_cidr: Object) -> list[Network]:
    return [ipaddress.ip_network(c) for c in (service_cidr.get("spec") or {}).get("cidrs") or []]


def covered(network: Network, others: Iterable[Object]) -> bool:
    """Whether one of the others has all of the range."""
    return any(n.version == network.version and network.subnet_of(n) for o in others for n in networks(o))  # type: ignore[arg-type]


def can_go(service_cidr: Object, others: Sequence[Object], addresses: Iterable[str]) -> bool:
    """Whether every address has another range than this one, in a ServiceCIDR that stays. Pure."""
    staying = [o for o in others if not meta.is_deleting(o)]
    alone = [n for n in networks(service_cidr) if not covered(n, staying)]
    rest = [n for o in staying for n in networks(o)]
    found = (ipaddress.ip_address(a) for a in addresses)
    return not any(any(a in n for n in alone) and not any(a in n for n in rest) for a in found)


def condition(ready: bool, now: datetime) -> Object:
    made = {"type": "Ready", "status": "True" if ready else "False", "reason": "" if ready else "Terminating"}
    return {**made, "message": READY if ready else IN_USE, "lastTransitionTime": meta.rfc3339(now)}


class ServiceCIDRController:
    def __init__(self, ctx: Context) -> None:
        self._client = ctx.client
        self._cidrs = ctx.informer(SERVICE_CIDRS)
        self._loop = Controller("service-cidr-controller", self._reconcile, workers=1)
        self._loop.watch(self._cidrs, lambda _: self._cidrs.keys())  # a new one may let another go
        self.run = self._loop.run

    async def _reconcile(self, key: str) -> float | None:
        one = self._cidrs.get(key)
        if one is None:
            return None
        try:
            if meta.is_deleting(one):
                return await self._let_go(one)
            if FINALIZER not in (one["metadata"].get("finalizers") or []):
                one = await self._finalizers(one, [*(one["metadata"].get("finalizers") or []), FINALIZER])
            if not meta.is_condition_true(one, "Ready"):
                await self._say(one, ready=True)
        except NotFound:
            pass
        return None

    async def _let_go(self, one: Object) -> float | None:
        if FINALIZER not in (one["metadata"].get("finalizers") or []):
            return None
        others = [o for o in self._cidrs.items() if o is not one]
        found = await self._client.list(IPADDRESSES, label_selector=MANAGED)
        if not can_go(one, others, [meta.name(o) for o in found.get("items") or []]):
            if meta.is_condition_true(one, "Ready"):
                await self._say(one, ready=False)
            return LOOK_AGAIN_S
        left = DELETION_GRACE_S - (datetime.now(UTC) - meta.parse_time(one["metadata"]["deletionTimestamp"])).total_seconds()
        if left > 0:
            return left
        await self._finalizers(one, [f for f in one["metadata"]["finalizers"] if f != FINALIZER])
        return None

    async def _finalizers(self, one: Object, wanted: list[str]) -> Object:
        body = {"metadata": {"resourceVersion": meta.resource_version(one), "finalizers": wanted}}
        return await self._client.patch(SERVICE_CIDRS, meta.name(one), body)

    async def _say(self, one: Object, *, ready: bool) -> None:
        rest = [c for c in (one.get("status") or {}).get("conditions") or [] if c.get("type") != "Ready"]
        body = {
            "metadata": {"resourceVersion": meta.resource_version(one)},
            "status": {"conditions": [*rest, condition(ready, datetime.now(UTC))]},
        }
        await self._client.patch(SERVICE_CIDRS, meta.name(one), body, subresource="status")
