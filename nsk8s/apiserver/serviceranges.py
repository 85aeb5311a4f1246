"""The ranges that ClusterIPs come from: what the ServiceCIDRs say. Pure over the cache, but for the dice.

Upstream: pkg/registry/core/service/ipallocator (cidrallocator.go, ipallocator.go), pkg/api/servicecidr.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

from nsk8s.api.meta import Object
from nsk8s.apiserver.cache import Cache

RESOURCE = "servicecidrs.networking.k8s.io"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=256)
def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def networks(service_cidr: Object) -> list[Network]:
    found = (_network(c) for c in (service_cidr.get("spec") or {}).get("cidrs") or ())
    return [n for n in found if n is not None]


def is_ready(service_cidr: Object) -> bool:
    """Without the condition, too: the controller that sets it may not run."""
    if service_cidr["metadata"].get("deletionTimestamp"):
        return False
    conditions = (service_cidr.get("status") or {}).get("conditions") or ()
    return next((c.get("status") == "True" for c in conditions if c.get("type") == "Ready"), True)


def bounds(network: Network) -> tuple[int, int]:
    """The first and the last number of an address in the range: not the network's own, nor IPv4's broadcast."""
    return 1, network.num_addresses - (2 if network.version == 4 else 1)


def contains(network: Network, address: Address) -> bool:
    if address not in network:
        return False
    first, last = bounds(network)
    return first <= int(address) - int(network.network_address) <= last


def static_band(size: int, step: int = 16, most: int = 256) -> int:
    """How many at the lower end of a range are taken last, so that they stay for who chooses (KEP-3070, KEP-3668)."""
    return 0 if size <= 16 else min(max(16, size // step), most)


def dice(first: int, last: int, band: int) -> Iterator[int]:
    """All numbers of a range, each part from a random one on: above the band first, then the band."""
    for low, high in ((first + band, last), (first, min(first + band - 1, last))):
        if low <= high:
            start = random.randint(low, high)
            yield from chain(range(start, high + 1), range(low, start))


class ServiceRanges:
    def __init__(self, cache: Cache) -> None:
        self._cidrs = cache.resource(RESOURCE)

    def ready(self, version: int) -> list[Network]:
        """The distinct ranges of an IP version from which addresses may be given."""
        found = (n for each in self._cidrs.list() if is_ready(each) for n in networks(each))
        return list(dict.fromkeys(n for n in found if n.version == version))

    def is_within(self, address: Address, *, ready: bool = False) -> bool:
        """Whether any range has it, also one that is on its way out unless `ready`."""
        return any(
            contains(n, address) for each in self._cidrs.values() if not ready or is_ready(each) for n in networks(each)
        )  # fmt: skip

    def candidates(self, version: int) -> Iterator[str]:
        """The addresses in the order in which they are tried: the ranges in any order."""
        ranges = self.ready(version)
        for network in random.sample(ranges, len(ranges)):
            for number in dice(*bounds(network), static_band(network.num_addresses)):
                yield str(network[number])
