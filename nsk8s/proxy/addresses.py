"""Addresses and CIDRs in text, read as upstream's components read them. Upstream: k8s.io/utils/net (the "sloppy" parsers). Pure.

Objects older than today's validation may hold `10.0.0.041`: leading zeros are decimal, and what goes into a rule is canonical.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_DOTTED = re.compile(r"\d+(?:\.\d+){3}$", re.ASCII)


def parse_ip(text: object) -> IPv4Address | IPv6Address | None:
    """The address, None if it is none. One that is IPv4 mapped into IPv6 is IPv4, as in Go; none has a zone."""
    wanted = str(text).strip()
    if "%" in wanted:
        return None
    try:
        address = ip_address(_DOTTED.sub(_without_zeros, wanted))
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address


def parse_cidr(text: object) -> Network | None:
    """The network that a CIDR is in, None if the text is no CIDR: an address alone is none, nor is one with a netmask."""
    host, slash, prefix = str(text).strip().partition("/")
    address = parse_ip(host)
    if not slash or address is None or not re.fullmatch(r"\d{1,3}", prefix, re.ASCII) or int(prefix) > address.max_prefixlen:
        return None
    return ip_network((address, int(prefix)), strict=False)


def _without_zeros(dotted: re.Match[str]) -> str:
    return ".".join(str(int(part)) for part in dotted[0].split("."))
