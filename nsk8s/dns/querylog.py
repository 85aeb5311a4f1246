"""The plugin log's lines. Pure. Upstream: CoreDNS' plugin/log, plugin/pkg/replacer."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from nsk8s.dns.metrics import RCODES
from nsk8s.dns.records import Name, labels
from nsk8s.dns.settings import LogRule

_FLAGS = (
    (0x8000, "qr"), (0x0400, "aa"), (0x0200, "tc"), (0x0100, "rd"), (0x0080, "ra"), (0x0040, "z"), (0x0020, "ad"), (0x0010, "cd"),
)  # fmt: skip


@dataclass(frozen=True)
class Exchange:
    """A query and its reply."""

    remote: str
    port: int
    query: bytes
    reply: bytes
    name: Name
    type: str
    tcp: bool
    do: bool
    bufsize: int
    seconds: float

    @property
    def rcode(self) -> int:
        return self.reply[3] & 0xF

    def kind(self) -> str:
        """success, denial, error"""
        if self.rcode == 3 or (self.rcode == 0 and struct.unpack_from("!H", self.reply, 6)[0] == 0):
            return "denial"
        return "error" if self.rcode else "success"


def line(exchange: Exchange, rules: tuple[LogRule, ...]) -> str:
    """What the first rule for this name says of it; empty if that is nothing."""
    name = tuple(label.lower() for label in exchange.name)
    for rule in rules:
        zone = labels(rule.zone)
        if name[len(name) - len(zone) :] == zone:
            if not {"all", exchange.kind()} & rule.classes:
                return ""
            return "[INFO] " + re.sub(r"\{([^}]*)\}", lambda m: _value(m[1], exchange), rule.format)
    return ""


def _value(what: str, of: Exchange) -> str:
    ident, flags = struct.unpack_from("!HH", of.reply)
    known: dict[str, object] = {
        "remote": f"[{of.remote}]" if ":" in of.remote else of.remote,
        "port": of.port,
        ">id": ident,
        "type": of.type,
        "class": "IN",
        "name": ".".join(of.name) + ".",
        "proto": "tcp" if of.tcp else "udp",
        "size": len(of.query),
        ">do": str(of.do).lower(),
        ">bufsize": of.bufsize,
        "rcode": RCODES.get(of.rcode, str(of.rcode)),
        ">rflags": ",".join(name for bit, name in _FLAGS if flags & bit),
        "rsize": len(of.reply),
        "duration": f"{of.seconds:.9f}s",
        ">opcode": flags >> 11 & 0xF,
        "/log/class": of.kind(),
    }
    return str(known.get(what, "-"))
