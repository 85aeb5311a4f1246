"""plugin/rewrite: what is asked instead, and what the client is told."""

from __future__ import annotations

import pytest
from dnslib import CNAME, QTYPE, RR, SRV, A

from nsk8s.dns.rewrite import Rule, rewrite, rule


def of(text: str, *lines: str) -> Rule:
    return rule(text.split(), [line.split() for line in lines])


def told(rr: RR, found: object) -> str:
    for change in reversed(found.undo):  # type: ignore[attr-defined]
        change(rr)
    return " ".join(rr.toZone().split())


@pytest.mark.parametrize(
    ("text", "asked", "instead"),
    [
        ("name foo.example.com foo.default.svc.cluster.local", "foo.example.com.", "foo.default.svc.cluster.local."),
        ("name exact Foo.example.com. bar.", "foo.example.com.", "bar."),
        ("name foo.example.com bar", "a.foo.example.com.", None),
        ("name prefix old- new-", "old-a.example.", "new-a.example."),
        ("name suffix .example.com .svc.cluster.local", "a.default.example.com.", "a.default.svc.cluster.local."),
        ("name suffix .example.com .svc.cluster.local", "example.com.", None),
        ("name substring us-west eu", "a.us-west.b.us-west.", "a.eu.b.eu."),
        (r"name regex (.*)-(us)\.example\.org {1}.svc.{2}.consul", "ftp-us.example.org.", "ftp.svc.us.consul."),
        (r"name regex (.*)-(us)\.example\.org {1}", "ftp-eu.example.org.", None),
        ("stop name a b", "a.", "b."),
    ],
)
def test_names(text: str, asked: str, instead: str | None) -> None:
    found = rewrite([of(text)], asked, "A")
    assert (found.name if found else None) == instead


def test_the_first_that_fits_is_the_last_unless_it_goes_on() -> None:
    rules = [of("name a b"), of("name b c")]
    found = rewrite(rules, "a.", "A")
    assert found is not None
    assert found.name == "b."
    found = rewrite([of("continue name a b"), *rules[1:]], "a.", "A")
    assert found is not None
    assert found.name == "c."
    assert told(RR("c", QTYPE.A, rdata=A("10.0.0.1"), ttl=5), found) == "a. 5 IN A 10.0.0.1", "undone backwards"


def test_an_exact_name_comes_back_in_owners_and_values() -> None:
    found = rewrite([of("name shop.example web.default.svc.cluster.local")], "shop.example.", "SRV")
    assert found is not None
    owner = RR("_http._tcp.web.default.svc.cluster.local", QTYPE.SRV, rdata=SRV(0, 1, 80, "web.default.svc.cluster.local"), ttl=5)
    assert told(owner, found) == "_http._tcp.shop.example. 5 IN SRV 0 1 80 shop.example."
    other = RR("xweb.default.svc.cluster.local", QTYPE.CNAME, rdata=CNAME("a.b"), ttl=5)
    assert told(other, found) == "xweb.default.svc.cluster.local. 5 IN CNAME a.b."


def test_other_matches_tell_the_rewritten_name_unless_asked_to() -> None:
    record = {"rname": "a.svc", "rtype": QTYPE.A, "rdata": A("10.0.0.1"), "ttl": 5}
    plain = rewrite([of("name suffix .example .svc")], "a.example.", "A")
    assert plain is not None
    assert told(RR(**record), plain) == "a.svc. 5 IN A 10.0.0.1"
    auto = rewrite([of("stop", "name suffix .example .svc answer auto")], "a.example.", "A")
    assert auto is not None
    assert told(RR(**record), auto) == "a.example. 5 IN A 10.0.0.1"
    named = rewrite([of("stop", r"name regex (.*)\.example {1}.svc", r"answer name (.*)\.svc {1}.example")], "a.example.", "A")
    assert named is not None
    assert told(RR(**record), named) == "a.example. 5 IN A 10.0.0.1"
    value = rewrite([of(r"name suffix .example .svc answer auto value (.*)\.inside\. {1}.outside.")], "a.example.", "CNAME")
    assert value is not None
    assert told(RR("a.svc", QTYPE.CNAME, rdata=CNAME("x.inside"), ttl=5), value) == "a.example. 5 IN CNAME x.outside."


def test_types_and_ttls() -> None:
    found = rewrite([of("continue type ANY HINFO"), of("ttl regex (.*) 30-300")], "a.", "ANY")
    assert found is not None
    assert (found.name, found.type) == ("a.", "HINFO")
    assert told(RR("a", QTYPE.A, rdata=A("10.0.0.1"), ttl=5), found).startswith("a. 30 ")
    assert told(RR("a", QTYPE.A, rdata=A("10.0.0.1"), ttl=999), found).startswith("a. 300 ")
    fixed = rewrite([of("ttl a 7")], "a.", "A")
    assert fixed is not None
    assert told(RR("a", QTYPE.A, rdata=A("10.0.0.1"), ttl=5), fixed).startswith("a. 7 ")
