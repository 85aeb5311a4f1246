"""The addresses that load balancers are given. Pure. Counterpart: MetalLB's IPAddressPool."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address


class NoAddress(Exception):
    """A Service cannot be given an address; the text is for its Event."""


@lru_cache(maxsize=4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


class _Range:
    """A network of which every address but the first and the last is handed out (all of a /31 and a /32, a /127 and a /128)."""

    def __init__(self, network: IPv4Network | IPv6Network) -> None:
        self.network = network
        small = network.num_addresses <= 2
        self.first = int(network[0]) + (0 if small else 1)
        self.last = int(network[-1]) - (0 if small else 1)

    def first_free(self, is_taken: Callable[[str], bool]) -> str:
        for number in range(self.first, self.last + 1):
            ip = str(type(self.network[0])(number))
            if not is_taken(ip):
                return ip
        raise NoAddress(f"no address of the pool {self.network} is free ({self.last - self.first + 1} are in use)")


class Pool:
    """At most one network of each family."""

    def __init__(self, *networks: IPv4Network | IPv6Network) -> None:
        self._ranges = {f"IPv{n.version}": _Range(n) for n in networks}
        self.networks = networks
        if len(self._ranges) < len(networks):
            raise ValueError("two networks must be of different IP families")

    def __str__(self) -> str:
        return ", ".join(map(str, self.networks))

    def __contains__(self, ip: str) -> bool:
        address = _address(ip)
        found = self._ranges.get(f"IPv{address.version}") if address is not None else None
        return address is not None and found is not None and found.first <= int(address) <= found.last

    def families(self) -> list[str]:
        return list(self._ranges)

    def first_free(self, is_taken: Callable[[str], bool], family: str = "IPv4") -> str:
        """The family's lowest address that is not taken. Raises NoAddress when there is none."""
        return self._ranges[family].first_free(is_taken)
