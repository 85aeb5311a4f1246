"""plugin/cache: what is kept of other servers' replies, and for how long."""

from __future__ import annotations

import pytest
from dnslib import QTYPE, RCODE, RR, SOA, A, DNSRecord

from nsk8s.dns import wire
from nsk8s.dns.cache import ReplyCache, lifetime_s, older
from nsk8s.dns.settings import Cached

KEY = (("example", "com"), "A", False)


def reply(*ttls: int, rcode: int = 0, soa: tuple[int, int] | None = None, tc: int = 0) -> bytes:
    """`soa`: its own TTL, and the minimum that it tells."""
    made = DNSRecord.question("example.com").reply()
    made.header.rcode, made.header.tc = rcode, tc
    for ttl in ttls:
        made.add_answer(RR("example.com", QTYPE.A, rdata=A("192.0.2.1"), ttl=ttl))
    if soa:
        made.add_auth(RR("com", QTYPE.SOA, rdata=SOA("ns.com", "h.com", (1, 2, 3, 4, soa[1])), ttl=soa[0]))
    return bytes(made.pack())


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (reply(300, 60), 60),
        (reply(9999), 600),
        (reply(1), 5),
        (reply(300, tc=1), 0),
        (reply(rcode=RCODE.SERVFAIL), 0),
        (reply(rcode=RCODE.NXDOMAIN, soa=(900, 40)), 40),
        (reply(soa=(900, 900)), 120),
        (reply(rcode=RCODE.NXDOMAIN), 0),
        (b"nonsense", 0),
    ],
    ids=["the shorter", "long", "short", "truncated", "failed", "no name, told how long", "no data, told longer", "no name", "nonsense"],
)
def test_how_long(raw: bytes, seconds: int) -> None:
    assert lifetime_s(raw, Cached(600, 120)) == seconds


def test_it_grows_old_and_goes() -> None:
    cache, raw = ReplyCache(Cached()), reply(60)
    cache.put(KEY, raw, 100.0)
    assert cache.get(KEY, 110.5) == (raw, 10)
    assert cache.get((KEY[0], "AAAA", False), 110.0) is None
    assert cache.get(KEY, 160.0) is None


def test_another_client_gets_it_as_its_own() -> None:
    question = DNSRecord.question("EXAMPLE.com")
    query = wire.parse(bytes(question.pack()))
    told = DNSRecord.parse(wire.restored(reply(60), query, [older(10)], 512))
    assert (told.header.id, str(told.q.qname), told.rr[0].ttl) == (question.header.id, "EXAMPLE.com.", 50)
