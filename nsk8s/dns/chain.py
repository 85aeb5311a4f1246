"""A query's way through its server block's plugins, in CoreDNS' order: any, rewrite, hosts, kubernetes, forward.

Upstream: CoreDNS' core/dnsserver and plugin.cfg. A plugin that asks nobody answers at once; only forwarding makes a future.
Touches: what `forward` and `hosts` touch, clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nsk8s.dns import hosts, records, wire
from nsk8s.dns.forward import Forwarder
from nsk8s.dns.records import Answer, Name
from nsk8s.dns.settings import Block
from nsk8s.dns.wire import MAX_TCP_SIZE, Query, Responder

if TYPE_CHECKING:
    from nsk8s.dns.cache import ReplyCache
    from nsk8s.dns.rewrite import Rewritten

Reply = bytes | asyncio.Future[bytes]
MAX_DEPTH = 8
"""How often an answer may lead to another question: a CNAME that leaves the cluster, and back through a rewrite."""
_ANY_TTL_S = 8482
_ROOT_SOA = ("a.root-servers.nsk8s", "hostmaster.root-servers.nsk8s", 1, 7200, 1800, 86400, 5)


def lower(name: Name) -> Name:
    return tuple(label.lower() for label in name)


def is_within(name: Name, zone: Name) -> bool:
    return name[len(name) - len(zone) :] == zone


@dataclass
class Asked:
    """A query on its way."""

    query: Query
    data: bytes
    """Its bytes."""
    tcp: bool
    limit: int
    """The largest reply."""
    depth: int = 0
    plugin: str = ""
    """Which plugin answered; filled in on the way."""


def asked(query: Query, data: bytes, *, tcp: bool, depth: int = 0) -> Asked:
    return Asked(query, data, tcp, MAX_TCP_SIZE if tcp else query.udp_size, depth)


class Chain:
    """One server block, ready to be asked."""

    def __init__(self, block: Block, responder: Responder, elsewhere: Callable[[Asked], Reply]) -> None:
        """`elsewhere` asks the block that a name belongs to."""
        self.block = block
        self.zones = [records.labels(zone) for zone in block.zones]
        self._responder = responder
        self._elsewhere = elsewhere
        self._hosts = hosts.HostsFile(block.hosts) if block.hosts else None
        self._cache = self._new_cache()
        # The longest zone that fits is the one that counts.
        forward = [(records.labels(zone), Forwarder(servers)) for zone, servers in block.forward]
        self._forwarders = sorted(forward, key=lambda f: -len(f[0]))
        self._fallthrough = [records.labels(zone) for zone in responder.view.options.fallthrough]

    def _new_cache(self) -> ReplyCache | None:
        if self.block.cache is None or not self.block.forward:
            return None
        from nsk8s.dns.cache import ReplyCache

        return ReplyCache(self.block.cache)

    def ask(self, a: Asked) -> Reply:
        if self.block.bufsize and not a.tcp:
            a.limit = min(a.limit, self.block.bufsize)
        if a.depth > MAX_DEPTH:
            return self._pack(a, Answer(records.SERVFAIL, authoritative=False))
        name, kind = a.query.question
        if kind == "ANY" and self.block.refuses_any:
            a.plugin = "any"
            told = records.Record(name, "HINFO", ("ANY obsoleted", "See RFC 8482"), _ANY_TTL_S)
            return self._pack(a, Answer(answers=[told], authoritative=False))
        if self.block.rewrites:
            from nsk8s.dns import rewrite

            instead = rewrite.rewrite(self.block.rewrites, ".".join(lower(name)) + ".", kind)
            if instead is not None:
                return self._rewritten(a, instead)
        return self._plugins(a)

    def _pack(self, a: Asked, answer: Answer) -> bytes:
        return wire.pack(a.query, answer, a.limit, recursion=self._responder.recursion)

    def _rewritten(self, a: Asked, instead: Rewritten) -> Reply:
        try:
            data = wire.question(a.query, records.labels(instead.name), instead.type)
        except ValueError:
            return self._pack(a, Answer(records.SERVFAIL, authoritative=False))
        other = Asked(wire.parse(data), data, a.tcp, MAX_TCP_SIZE, a.depth)
        reply = self._plugins(other)
        a.plugin = other.plugin
        return then(reply, lambda raw: wire.restored(raw, a.query, instead.undo, a.limit))

    def _plugins(self, a: Asked) -> Reply:
        name = lower(a.query.question.name)
        if self._hosts is not None and self.block.hosts is not None:
            found = hosts.lookup(a.query.question, name, self._hosts.table(time.monotonic()), self.block.hosts)
            if found is not None:
                a.plugin = "hosts"
                return self._pack(a, found)
        forwarder = next((f for zone, f in self._forwarders if is_within(name, zone)), None)
        if self.block.kubernetes and records.zone_of(name, self._responder.view) is not None:
            answer = self._responder.answer(a.query)
            falls = answer.rcode == records.NXDOMAIN and any(is_within(name, zone) for zone in self._fallthrough)
            if forwarder is None or not falls:
                a.plugin = "kubernetes"
                return self._finished(a, answer)
        if forwarder is not None:
            key = (name, a.query.question.type, a.query.do)
            kept = self._cache.get(key, time.monotonic()) if self._cache else None
            if kept is not None:
                from nsk8s.dns.cache import older

                a.plugin = "cache"
                return wire.restored(kept[0], a.query, [older(kept[1])], a.limit)
            a.plugin = "forward"
            return asyncio.ensure_future(self._forwarded(forwarder, a, key))
        return self._pack(a, self._nobody(name))

    def _nobody(self, name: Name) -> Answer:
        """What no plugin takes. A block for every name is the whole world of a closed cluster: the name does not exist there,
        unless it is a name that leads to the cluster's zones."""
        if () not in self.zones:
            return Answer(records.REFUSED, authoritative=False)
        leads = any(is_within(zone, name) for zone in self._responder.view.zones)
        return Answer(records.NOERROR if leads else records.NXDOMAIN, authority=[records.Record((), "SOA", _root_soa(), 5)])

    def _finished(self, a: Asked, answer: Answer) -> Reply:
        """With what a chain of CNAMEs leads to outside the cluster: whatever that is, the chain is an answer, as in CoreDNS."""
        if answer.unresolved is None:
            return self._pack(a, answer)
        try:
            data = wire.question(a.query, answer.unresolved, a.query.question.type)
        except ValueError:
            return self._pack(a, answer)
        reply = self._elsewhere(Asked(wire.parse(data), data, a.tcp, MAX_TCP_SIZE, a.depth + 1))

        def chained(raw: bytes) -> bytes:
            rcode, further = wire.records_of(raw)
            if rcode == records.SERVFAIL:
                return self._pack(a, Answer(records.SERVFAIL, authoritative=False))
            return wire.chained(a.query, answer, further, a.limit, recursion=self._responder.recursion)

        return then(reply, chained)

    async def _forwarded(self, forwarder: Forwarder, a: Asked, key: tuple[Name, str, bool]) -> bytes:
        raw = await forwarder.ask(a.data, tcp=a.tcp)
        if raw is not None and self._cache is not None:
            self._cache.put(key, raw, time.monotonic())
        return raw if raw is not None else self._pack(a, Answer(records.SERVFAIL, authoritative=False))


def _root_soa() -> tuple[object, ...]:
    return (records.labels(_ROOT_SOA[0]), records.labels(_ROOT_SOA[1]), *_ROOT_SOA[2:])


def then(reply: Reply, change: Callable[[bytes], bytes]) -> Reply:
    """`change` of the reply, now or when it is there."""
    if isinstance(reply, bytes):
        return change(reply)

    async def later(reply: asyncio.Future[bytes]) -> bytes:
        return change(await reply)

    return asyncio.ensure_future(later(reply))


def chain_for(chains: Sequence[Chain], name: Name) -> tuple[Chain, Name] | None:
    """The server block with the longest zone that `name` (lower case) is in, and that zone."""
    fitting = [(len(zone), at, zone) for at, chain in enumerate(chains) for zone in chain.zones if is_within(name, zone)]
    if not fitting:
        return None
    _, at, zone = max(fitting, key=lambda f: f[0])
    return chains[at], zone
