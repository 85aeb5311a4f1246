"""plugin/hosts, and plugin/log's lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsk8s.dns import querylog
from nsk8s.dns.hosts import HostsFile, Table, lookup
from nsk8s.dns.records import NOERROR, SERVFAIL, Answer, Question, labels
from nsk8s.dns.settings import LOG_COMBINED, Hosts, LogRule

TABLE = Table(
    ["203.0.113.10 www.example.com Example.COM # ours", "fd00::10\twww.example.com", "10.0.0.9 *.apps.test", "nonsense x", ""]
)


def ask(name: str, kind: str = "A", settings: Hosts | None = None) -> Answer | None:
    question = Question(labels(name), kind)
    return lookup(question, labels(name.lower()), TABLE, settings or Hosts(fallthrough=("",)))


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("WWW.example.com", "A", ["203.0.113.10"]),
        ("www.example.com", "AAAA", ["fd00::10"]),
        ("example.com", "AAAA", []),
        ("example.com", "TXT", []),
        ("a.apps.test", "A", ["10.0.0.9"]),
        ("10.113.0.203.in-addr.arpa", "PTR", [("www", "example", "com"), ("example", "com")]),
    ],
)
def test_answers(name: str, kind: str, data: list[object]) -> None:
    answer = ask(name, kind)
    assert answer is not None
    assert answer.rcode == NOERROR
    assert answer.authoritative
    assert [r.data[0] for r in answer.answers] == data
    assert {r.ttl_s for r in answer.answers} <= {3600}


@pytest.mark.parametrize("name", ["b.a.apps.test", "apps.test", "other.example.com", "9.0.0.10.in-addr.arpa"])
def test_what_it_lacks_is_the_next_plugins(name: str) -> None:
    assert ask(name, "PTR" if name.endswith("arpa") else "A") is None


def test_without_fallthrough_and_outside_its_zones() -> None:
    answer = ask("other.example.com", settings=Hosts())
    assert answer is not None
    assert answer.rcode == SERVFAIL, "there is no SOA to say no with"
    assert ask("other.example.com", settings=Hosts(zones=("example.org",))) is None
    assert ask("10.113.0.203.in-addr.arpa", "PTR", Hosts(reverse=False)) is None


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 a\n")
    hosts = HostsFile(Hosts(str(path), inline=("10.0.0.2 a", "10.0.0.3 b"), reload_s=5.0))
    assert hosts.table(100.0).addresses(("a",)) == ["10.0.0.2", "10.0.0.1"]
    path.write_text("10.0.0.44 a\n")
    os.utime(path, ns=(1, 1))
    assert hosts.table(104.9).addresses(("a",)) == ["10.0.0.2", "10.0.0.1"]
    assert hosts.table(105.0).addresses(("a",)) == ["10.0.0.2", "10.0.0.44"]
    path.unlink()
    assert hosts.table(111.0).addresses(("a",)) == ["10.0.0.2"]


def exchange(name: str = "www.example.com", flags: int = 0x8500, answers: int = 1) -> querylog.Exchange:
    reply = (29008).to_bytes(2) + flags.to_bytes(2) + (1).to_bytes(2) + answers.to_bytes(2) + bytes(56)
    return querylog.Exchange("10.244.1.5", 50759, bytes(41), reply, labels(name), "A", False, False, 512, 0.000123)


def test_the_common_log() -> None:
    assert querylog.line(exchange(), (LogRule(),)) == (
        '[INFO] 10.244.1.5:50759 - 29008 "A IN www.example.com. udp 41 false 512" NOERROR qr,aa,rd 64 0.000123000s'
    )
    assert querylog.line(exchange(), (LogRule("", LOG_COMBINED),)).endswith(' "0"')
    assert querylog.line(exchange(), (LogRule("", "{proto} {name} {odd}"),)) == "[INFO] udp www.example.com. -"


def test_classes_and_zones_of_the_log() -> None:
    some = (LogRule("example.com", classes=frozenset({"denial", "error"})),)
    assert querylog.line(exchange(), some) == ""
    assert querylog.line(exchange("www.example.org", 0x8503), some) == "", "another zone"
    assert "NXDOMAIN" in querylog.line(exchange(flags=0x8583, answers=0), some)
    assert "NOERROR" in querylog.line(exchange(answers=0), some), "no data is a denial"
    assert "REFUSED" in querylog.line(exchange(flags=0x8105, answers=0), some)
