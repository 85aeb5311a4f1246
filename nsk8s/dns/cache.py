"""What other servers said, for as long as they said it lasts. Pure (time is handed in). Upstream: CoreDNS' plugin/cache.

What the cluster itself answers is never kept here: it is at hand, and as new as its objects.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dnslib import QTYPE, DNSRecord

from nsk8s.dns import records
from nsk8s.dns.settings import Cached

CAPACITY = 9984
MIN_TTL_S = 5
Key = tuple[records.Name, str, bool]


class _Kept(NamedTuple):
    raw: bytes
    since: float
    until: float


class ReplyCache:
    def __init__(self, settings: Cached) -> None:
        self._settings = settings
        self._kept: dict[Key, _Kept] = {}

    def get(self, key: Key, now: float) -> tuple[bytes, int] | None:
        """A reply and its age in seconds."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= now:
            del self._kept[key]
            return None
        return kept.raw, int(now - kept.since)

    def put(self, key: Key, raw: bytes, now: float) -> None:
        lasts = lifetime_s(raw, self._settings)
        if lasts <= 0:
            return
        if len(self._kept) >= CAPACITY:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = _Kept(raw, now, now + lasts)


def lifetime_s(raw: bytes, settings: Cached) -> int:
    """How long a reply may be kept; 0: not at all (an error, cut off, or unreadable)."""
    try:
        reply = DNSRecord.parse(raw)
    except Exception:  # dnslib lets many kinds through
        return 0
    if reply.header.tc or reply.header.rcode not in (records.NOERROR, records.NXDOMAIN):
        return 0
    if reply.rr and reply.header.rcode == records.NOERROR:
        return min(max(min(int(rr.ttl) for rr in reply.rr), MIN_TTL_S), settings.success_s)
    soas = [min(int(rr.ttl), int(rr.rdata.times[4])) for rr in reply.auth if rr.rtype == QTYPE.SOA]
    return min(max(min(soas), MIN_TTL_S), settings.denial_s) if soas else 0


def older(age_s: int) -> Any:
    """What makes a record so much older."""

    def change(rr: Any) -> None:
        rr.ttl = max(rr.ttl - age_s, 0)

    return change
