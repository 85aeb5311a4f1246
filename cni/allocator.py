"""host-local's address choice: ranges, range sets, round robin. Pure. Upstream: plugins/ipam/host-local/backend/allocator."""

from __future__ import annotations

from cni import conf
from cni.address import BITS, IP, V4, Subnet, parse_ip, parse_subnet
from cni.errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence
    from typing import Any

    RangeSet = Sequence["Range"]


class Range:
    """A piece of a subnet to hand out addresses from; start and end are inclusive, the gateway is never handed out."""

    __slots__ = ("end", "gateway", "start", "subnet")

    def __init__(self, subnet: Subnet, start: IP, end: IP, gateway: IP) -> None:
        self.subnet = subnet
        self.start = start
        self.end = end
        self.gateway = gateway

    def __contains__(self, ip: IP) -> bool:
        return ip.family == self.start.family and self.start.number <= ip.number <= self.end.number

    def overlaps(self, other: Range) -> bool:
        return self.start in other or self.end in other or other.start in self

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


def parse_range(obj: Mapping[str, Any]) -> Range:
    """A range from its JSON. Raises ValueError or CniError."""
    if not conf.text(obj, "subnet"):
        raise ValueError("a range needs a subnet")
    subnet = parse_subnet(conf.text(obj, "subnet"))
    if subnet.length > BITS[subnet.family] - 2:
        raise ValueError(f"Network {subnet} too small to allocate from")
    if subnet.ip != subnet.network:
        raise ValueError(
            "Network has host bits set. For a subnet mask of length "
            f"{subnet.length} the network address is {subnet.network}"
        )

    def address(key: str, default: IP) -> IP:
        written = conf.text(obj, key)
        return parse_ip(written) if written else default

    gateway = address("gateway", subnet.network + 1)
    end = address("rangeEnd", subnet.last + (-1 if subnet.family == V4 else 0))
    start = address("rangeStart", subnet.network + 1)
    if end not in subnet:
        raise ValueError(f"RangeEnd {end} not in network {subnet}")
    if start not in subnet or start.number > end.number:
        raise ValueError(f"RangeStart {start} not in network {subnet}")
    return Range(subnet, start, end, gateway)


def parse_range_set(objects: Sequence[Any]) -> list[Range]:
    """One pool: ranges of one family that do not overlap. Raises ValueError or CniError."""
    if not objects:
        raise ValueError("empty range set")
    ranges = []
    for obj in objects:
        if not isinstance(obj, dict):
            raise ValueError(f"a range must be an object, not {obj!r}")
        ranges.append(parse_range(obj))
    if len({r.subnet.family for r in ranges}) > 1:
        raise ValueError("mixed address families")
    for i, one in enumerate(ranges):
        for other in ranges[i + 1 :]:
            if one.overlaps(other):
                raise ValueError(f"subnets {one} and {other} overlap")
    return ranges


def check_sets(sets: Sequence[RangeSet], several_per_family: bool, version: str) -> None:
    """Raises CniError when sets overlap, or when there are more of a family than the CNI version has room for."""
    families = [ranges[0].subnet.family for ranges in sets]
    if not several_per_family and len(set(families)) < len(families):
        raise CniError(f"CNI version {version} does not support more than 1 address per family")
    for i, one in enumerate(sets):
        for j in range(i + 1, len(sets)):
            if any(a.overlaps(b) for a in one for b in sets[j]):
                raise CniError(f"range set {i} overlaps with {j}")


def range_of(ranges: RangeSet, ip: IP) -> Range | None:
    return next((r for r in ranges if ip in r), None)


def describe(ranges: RangeSet) -> str:
    return ",".join(str(r) for r in ranges)


def candidates(ranges: RangeSet, last: IP | None) -> Iterator[tuple[IP, Range]]:
    """Every address of the set except gateways, beginning after `last` (ignored when outside), round to where it began."""
    begin = 0
    first = ranges[0].start
    if last is not None:
        for i, r in enumerate(ranges):
            if last in r:
                begin, first = i, last + 1
                break
    n = len(ranges)
    # The first range's addresses from `first` on, all the others, then the first's up to where we began.
    for turn in range(n + 1):
        r = ranges[(begin + turn) % n]
        low = first.number if turn == 0 else r.start.number
        high = first.number - 1 if turn == n else r.end.number
        for number in range(low, min(high, r.end.number) + 1):
            if r.gateway.number != number or r.gateway.family != r.start.family:
                yield IP(r.start.family, number), r


def next_free(ranges: RangeSet, taken: Container[str], last: IP | None) -> tuple[IP, Range] | None:
    """The first candidate whose text is not in `taken`; None when the pool is full."""
    for ip, r in candidates(ranges, last):
        if str(ip) not in taken:
            return ip, r
    return None
