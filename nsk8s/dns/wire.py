"""Messages in, messages out: headers, EDNS, size limits, which queries are refused and how. Pure (the shuffle is handed in).

Upstream: CoreDNS' server and miekg/dns' acceptance rules (RFC 1035, 2181, 6891, 7873's silence, 9619).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dnslib import (
    AAAA,
    CLASS,
    CNAME,
    EDNS0,
    NS,
    PTR,
    QTYPE,
    RD,
    RR,
    SOA,
    SRV,
    TXT,
    A,
    DNSHeader,
    DNSLabel,
    DNSQuestion,
    DNSRecord,
)

from nsk8s.dns import records
from nsk8s.dns.records import Answer, Name, Question, Record
from nsk8s.dns.view import View

MIN_UDP_SIZE = 512
MAX_UDP_SIZE = 4096
MAX_TCP_SIZE = 65535
MAX_NAME = 255
MAX_LABEL = 63
BADVERS = 16
CACHED_ANSWERS = 4096

Shuffle = Callable[[list[Record]], None]


class Query(NamedTuple):
    """A query that deserves an answer."""

    message: Any
    question: Question
    edns: bool
    udp_size: int
    """What the client takes in one datagram."""
    do: bool = False
    """It asks for DNSSEC's records; the bit is given back (RFC 3225)."""


class Rejected(Exception):
    """The message gets this reply instead of an answer; empty: no reply at all."""

    def __init__(self, reply: bytes, rcode: int = 0) -> None:
        super().__init__()
        self.reply = reply
        self.rcode = rcode


def _bare(data: bytes, rcode: int) -> Rejected:
    """A header alone: what can be said to a message whose question cannot be trusted."""
    ident, flags = struct.unpack_from("!HH", data)
    return Rejected(struct.pack("!HHHHHH", ident, 0x8000 | (flags & 0x7900) | rcode, 0, 0, 0, 0), rcode)


def parse(data: bytes) -> Query:
    """Raises Rejected."""
    if len(data) < 12:
        raise Rejected(b"")
    _, flags, questions, answers, authorities, additionals = struct.unpack_from("!HHHHHH", data)
    if flags & 0x8000:
        raise Rejected(b"")  # a response: answering it could start a loop
    if flags & 0x7800:
        raise _bare(data, records.NOTIMP)
    if questions != 1 or answers > 1 or authorities > 1 or additionals > 2:
        raise _bare(data, records.FORMERR)
    try:
        message = DNSRecord.parse(data)
    except Exception as e:  # dnslib lets struct, Unicode, value and recursion errors of a crafted message through
        raise _bare(data, records.FORMERR) from e
    name = message.q.qname.label
    if any(not 0 < len(part) <= MAX_LABEL for part in name) or sum(len(part) + 1 for part in name) + 1 > MAX_NAME:
        raise _bare(data, records.FORMERR)
    options = [rr for rr in message.ar if rr.rtype == QTYPE.OPT]
    if len(options) > 1:
        raise _bare(data, records.FORMERR)
    size = min(max(options[0].edns_len, MIN_UDP_SIZE), MAX_UDP_SIZE) if options else MIN_UDP_SIZE
    question = Question(tuple(part.decode("latin-1") for part in name), QTYPE[message.q.qtype])
    query = Query(message, question, bool(options), size, bool(options and options[0].edns_do))
    if options and options[0].edns_ver != 0:
        reply = _reply(query, 0, authoritative=False, recursion=False)
        reply.add_ar(EDNS0(ext_rcode=BADVERS >> 4, udp_len=MAX_UDP_SIZE))
        raise Rejected(bytes(reply.pack()), BADVERS)
    if message.q.qclass != CLASS.IN:
        raise Rejected(pack(query, Answer(records.REFUSED, authoritative=False), MAX_TCP_SIZE), records.REFUSED)
    return query


def label(name: Name) -> Any:
    return DNSLabel(tuple(part.encode("latin-1") for part in name))


def _rr(record: Record) -> Any:
    data = record.data
    if record.type == "A":
        rdata: Any = A(data[0])
    elif record.type == "AAAA":
        rdata = AAAA(data[0])
    elif record.type == "TXT":
        rdata = TXT(data[0])
    elif record.type == "SOA":
        rdata = SOA(label(data[0]), label(data[1]), data[2:])  # type: ignore[arg-type]
    elif record.type == "HINFO":
        rdata = RD(b"".join(bytes([len(text)]) + text.encode() for text in map(str, data)))
    elif record.type == "SRV":
        rdata = SRV(data[0], data[1], data[2], label(data[3]))  # type: ignore[arg-type]
    else:
        rdata = {"CNAME": CNAME, "PTR": PTR, "NS": NS}[record.type](label(data[0]))  # type: ignore[arg-type]
    return RR(label(record.name), getattr(QTYPE, record.type), ttl=record.ttl_s, rdata=rdata)


def _reply(query: Query, rcode: int, *, authoritative: bool, recursion: bool) -> Any:
    header = DNSHeader(
        id=query.message.header.id, qr=1, aa=int(authoritative), rd=query.message.header.rd, ra=int(recursion), rcode=rcode,
        bitmap=query.message.header.bitmap & 0x0110,  # RD and CD are given back
    )  # fmt: skip
    return DNSRecord(header, q=query.message.q)


def pack(query: Query, answer: Answer, limit: int, *, recursion: bool = False) -> bytes:
    """The reply in at most `limit` bytes: additional records go first; if answers must go too, TC says so."""
    reply = _reply(query, answer.rcode, authoritative=answer.authoritative, recursion=recursion)
    reply.rr = [_rr(r) for r in answer.answers]
    reply.auth = [_rr(r) for r in answer.authority]
    reply.ar = [_rr(r) for r in answer.additional]
    return _fit(reply, query, limit)


def _fit(reply: Any, query: Query, limit: int) -> bytes:
    option = [EDNS0(udp_len=MAX_UDP_SIZE, flags="do" if query.do else "")] if query.edns else []
    reply.ar = [*reply.ar, *option]
    raw = bytes(reply.pack())
    if len(raw) <= limit:
        return raw
    reply.ar = option
    raw = bytes(reply.pack())
    if len(raw) <= limit:
        return raw
    reply.header.tc = 1
    reply.auth = []
    everything = reply.rr
    fits, too_many = 0, len(everything)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        reply.rr = everything[:middle]
        if len(reply.pack()) <= limit:
            fits = middle
        else:
            too_many = middle
    reply.rr = everything[:fits]
    return bytes(reply.pack())


def question(query: Query, name: Name, kind: str) -> bytes:
    """The same query about something else. Raises ValueError for what is no name."""
    if any(not 0 < len(part) <= MAX_LABEL for part in name) or sum(len(part) + 1 for part in name) + 1 > MAX_NAME:
        raise ValueError(f"{'.'.join(name)} is not a name")
    header = DNSHeader(id=query.message.header.id, bitmap=query.message.header.bitmap & 0x0110)
    made = DNSRecord(header, q=DNSQuestion(label(name), QTYPE.reverse.get(kind) or int(kind.removeprefix("TYPE"))))
    if query.edns:
        made.add_ar(EDNS0(udp_len=query.udp_size, flags="do" if query.do else ""))
    return bytes(made.pack())


def restored(raw: bytes, query: Query, undo: Sequence[Callable[[Any], None]], limit: int) -> bytes:
    """The reply to a question that stood for `query`'s, as a reply to that one. `undo` is applied to each record, last first."""
    try:
        reply = DNSRecord.parse(raw)
        reply.header.id = query.message.header.id
        reply.questions = query.message.questions
        reply.ar = [rr for rr in reply.ar if rr.rtype != QTYPE.OPT]
        for rr in (*reply.auth, *reply.rr, *reply.ar):
            for change in reversed(undo):
                change(rr)
        return _fit(reply, query, limit)
    except Exception:  # dnslib lets many kinds through: what another server said, or a name that became too long
        return pack(query, Answer(records.SERVFAIL, authoritative=False), limit)


def records_of(raw: bytes) -> tuple[int, list[Any]]:
    """A reply's rcode, and its answer section's records as they are. SERVFAIL where it cannot be read."""
    try:
        reply = DNSRecord.parse(raw)
    except Exception:  # as above
        return records.SERVFAIL, []
    return reply.header.rcode, list(reply.rr)


def chained(query: Query, answer: Answer, further: Sequence[Any], limit: int, *, recursion: bool) -> bytes:
    """A chain of CNAMEs and what another answer says of its end."""
    reply = _reply(query, answer.rcode, authoritative=answer.authoritative, recursion=recursion)
    reply.rr = [*(_rr(r) for r in answer.answers), *further]
    return _fit(reply, query, limit)


class Responder:
    """Bytes to bytes over one view, remembering answers until the view changes."""

    def __init__(self, view: View, shuffle: Shuffle, *, recursion: bool = False) -> None:
        self.view = view
        self._shuffle = shuffle
        self.recursion = recursion
        self._cache: dict[tuple[bytes, bool], tuple[bytes, str, str]] = {}
        self._cache_of: tuple[int, bool] = (-1, False)

    def cached(self, data: bytes, *, tcp: bool) -> tuple[bytes, str, str] | None:
        """(the reply to the same query as before, with this one's id; its type; its zone), if nothing has changed since."""
        if self._cache_of != (self.view.generation, self.view.synced):
            self._cache.clear()
            self._cache_of = (self.view.generation, self.view.synced)
        known = self._cache.get((data[2:], tcp))
        return None if known is None else (data[:2] + known[0], known[1], known[2])

    def keep(self, data: bytes, raw: bytes, kind: str, zone: str, *, tcp: bool) -> None:
        """For next time. Not if the order is to differ then."""
        if int.from_bytes(raw[6:8]) < 2 and len(self._cache) < CACHED_ANSWERS:
            self._cache[data[2:], tcp] = raw[2:], kind, zone

    def answer(self, query: Query) -> Answer:
        """Records in the order they are sent: addresses shuffled, a CNAME before what it leads to."""
        answer = records.resolve(query.question, self.view)
        if len(answer.answers) > 1:
            chain = [r for r in answer.answers if r.type == "CNAME"]
            rest = [r for r in answer.answers if r.type != "CNAME"]
            self._shuffle(rest)
            answer.answers = chain + rest
        return answer
