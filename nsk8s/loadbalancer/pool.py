"""The addresses that load balancers are given. Pure. Counterpart: MetalLB's IPAddressPool."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv4Network


class NoAddress(Exception):
    """A Service cannot be given an address; the text is for its Event."""


class Pool:
    """A network of which every address but the first and the last is handed out (all of a /31 and a /32)."""

    def __init__(self, network: IPv4Network) -> None:
        self.network = network
        small = network.prefixlen >= 31
        self._first = int(network[0]) + (0 if small else 1)
        self._last = int(network[-1]) - (0 if small else 1)

    def __contains__(self, ip: str) -> bool:
        try:
            return self._first <= int(IPv4Address(ip)) <= self._last
        except AddressValueError:
            return False

    def first_free(self, is_taken: Callable[[str], bool]) -> str:
        """The lowest address that is not taken. Raises NoAddress when there is none."""
        for number in range(self._first, self._last + 1):
            ip = str(IPv4Address(number))
            if not is_taken(ip):
                return ip
        raise NoAddress(f"no address of the pool {self.network} is free ({self._last - self._first + 1} are in use)")
