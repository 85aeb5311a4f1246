"""IP addresses and subnets as (family, number), without `ipaddress` (25 ms of a plugin's start). Pure.

Text is read and written as Go's net package does: no leading zeros, ::ffff:a.b.c.d is the IPv4 address, lower-case RFC 5952 text.
"""

from __future__ import annotations

# Not `socket`: with enum and selectors it takes 2 ms of a plugin's start.
import _socket as socket

V4, V6 = 4, 6
BITS = {V4: 32, V6: 128}


class IP:
    """One address. Ordered and hashable within its family."""

    __slots__ = ("family", "number")

    def __init__(self, family: int, number: int) -> None:
        self.family = family
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IP) and (other.family, other.number) == (self.family, self.number)

    def __hash__(self) -> int:
        return hash((self.family, self.number))

    def __add__(self, steps: int) -> IP:
        return IP(self.family, self.number + steps)

    def __str__(self) -> str:
        raw = self.number.to_bytes(BITS[self.family] // 8, "big")
        return socket.inet_ntop(socket.AF_INET if self.family == V4 else socket.AF_INET6, raw)

    __repr__ = __str__


class Subnet:
    """A prefix as it was written: `ip` may have host bits. `network` is without them."""

    __slots__ = ("ip", "length")

    def __init__(self, ip: IP, length: int) -> None:
        self.ip = ip
        self.length = length

    @property
    def family(self) -> int:
        return self.ip.family

    @property
    def network(self) -> IP:
        host = BITS[self.family] - self.length
        return IP(self.family, self.ip.number >> host << host)

    @property
    def last(self) -> IP:
        """The highest address (IPv4: the broadcast address)."""
        return self.network + ((1 << BITS[self.family] - self.length) - 1)

    def __contains__(self, ip: IP) -> bool:
        host = BITS[self.family] - self.length
        return ip.family == self.family and ip.number >> host == self.ip.number >> host

    def __str__(self) -> str:
        return f"{self.ip}/{self.length}"

    __repr__ = __str__


def parse_ip(text: str) -> IP:
    """Raises ValueError."""
    try:
        if ":" not in text:
            return IP(V4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big"))
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except (OSError, ValueError):
        raise ValueError(f"invalid IP address: {text!r}") from None
    return IP(V4, number & 0xFFFFFFFF) if number >> 32 == 0xFFFF else IP(V6, number)


def parse_subnet(text: str) -> Subnet:
    """Raises ValueError."""
    address, slash, length = text.partition("/")
    try:
        ip = parse_ip(address)
    except ValueError:
        raise ValueError(f"invalid CIDR address: {text}") from None
    plain = length.isascii() and length.isdigit() and len(length) <= 3
    if not slash or not plain or (ip.family == V4) != (":" not in address) or int(length) > BITS[ip.family]:
        raise ValueError(f"invalid CIDR address: {text}")
    return Subnet(ip, int(length))
