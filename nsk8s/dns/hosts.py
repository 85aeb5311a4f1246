"""Names out of a hosts file and the Corefile. Touches: files (`HostsFile`); the table is pure. Upstream: CoreDNS' hosts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address

from nsk8s.dns.records import NOERROR, SERVFAIL, Answer, Name, Question, Record, address_type, labels, reverse_address
from nsk8s.dns.settings import Hosts


class Table:
    def __init__(self, lines: Iterable[str]) -> None:
        self._forward: dict[Name, list[str]] = {}
        self._reverse: dict[str, list[Name]] = {}
        for line in lines:
            address, *names = line.partition("#")[0].split() or [""]
            try:
                text = str(ip_address(address.partition("%")[0]))
            except ValueError:
                continue
            for name in map(labels, map(str.lower, names)):
                self._forward.setdefault(name, []).append(text)
                if name[:1] != ("*",):
                    self._reverse.setdefault(text, []).append(name)

    def addresses(self, name: Name) -> list[str]:
        return self._forward.get(name) or self._forward.get(("*", *name[1:]), [])

    def names(self, address: str) -> list[Name]:
        return self._reverse.get(address, [])


class HostsFile:
    """The table, read anew when the file has changed; one that is gone leaves what the Corefile says."""

    def __init__(self, settings: Hosts) -> None:
        self._settings = settings
        self._looked_at = float("-inf")
        self._stamp: tuple[int, int] | None = (0, 0)
        self._table = Table(())

    def table(self, now: float) -> Table:
        if now - self._looked_at >= (self._settings.reload_s or float("inf")):
            self._looked_at = now
            try:
                about = os.stat(self._settings.file)
                stamp: tuple[int, int] | None = (about.st_mtime_ns, about.st_size)
            except OSError:
                stamp = None
            if stamp != self._stamp:
                self._stamp = stamp
                self._table = Table([*self._settings.inline, *self._read()])
        return self._table

    def _read(self) -> list[str]:
        try:
            with open(self._settings.file, encoding="utf-8", errors="replace") as f:
                return f.read().splitlines()
        except OSError:
            return []


def lookup(question: Question, name: Name, table: Table, settings: Hosts) -> Answer | None:
    """None: the next plugin's turn. `name` is in lower case."""

    def within(zones: tuple[str, ...]) -> bool:
        return any(name[len(name) - len(zone) :] == zone for zone in map(labels, zones))

    if question.type == "PTR":
        address = reverse_address(name)
        found = table.names(address) if address and settings.reverse else []
        return Answer(answers=[Record(question.name, "PTR", (n,), settings.ttl_s) for n in found]) if found else None
    if not within(settings.zones):
        return None
    every = dict.fromkeys(table.addresses(name))
    if not every:
        return None if within(settings.fallthrough) else Answer(SERVFAIL, authoritative=False)
    shown = [Record(question.name, question.type, (a,), settings.ttl_s) for a in every if address_type(a) == question.type]
    return Answer(NOERROR, answers=shown)
