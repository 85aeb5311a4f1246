"""Where a packet goes in ipvs mode: the walk of `trace`, with the virtual servers between its hooks. Pure.

The kernel's IPVS hangs on INPUT, behind the filter (packets that arrive), and on OUTPUT, between nat and filter (the host's
own). What it sends on to a real server passes OUTPUT once more and POSTROUTING; one on the host itself is simply delivered to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nsk8s.net.chainset import ChainSet
from nsk8s.net.ipvs import Items, Server, addresses_of, entries_of, reals_of
from nsk8s.net.trace import ACCEPT, DROP, REJECT, Branches, Host, Packet, Verdict, address_of, passing, through


def outcomes(chains: ChainSet, items: Items, packet: Packet, host: Host) -> dict[Verdict, float]:
    """Every possible verdict with its chance; a virtual server's real ones have the same chance, by their weights.

    Of `host` only what is not in `items` is asked: the node's own addresses, and the names of sets, which may be empty.
    """
    sets = {**dict.fromkeys(host.sets, ()), **host.sets, **entries_of(items)}
    host = replace(host, addresses=host.addresses | {*addresses_of(items)}, sets=sets)
    return _Walk(chains, items, host).outcomes(packet)


class _Walk:
    def __init__(self, chains: ChainSet, items: Items, host: Host) -> None:
        self.chains, self.host = chains, host
        self.reals = reals_of(items)

    def outcomes(self, packet: Packet) -> dict[Verdict, float]:
        found: dict[Verdict, float] = {}
        walk = self._arriving if packet.interface else self._own
        for chance, last, action in walk(packet):
            verdict = Verdict(ACCEPT, address_of(last), last.masqueraded) if action == ACCEPT else Verdict(action)
            found[verdict] = found.get(verdict, 0.0) + chance
        return found

    def _arriving(self, packet: Packet) -> Branches:
        for chance, routed, _ in passing(self.chains, "nat", "PREROUTING", packet, self.host):
            if not self.host.is_local(routed.dst):
                yield from through(self.chains, ["FORWARD", "POSTROUTING"], chance, routed, self.host)
                continue
            for part, let_in, action in passing(self.chains, "filter", "INPUT", routed, self.host):
                if action in (DROP, REJECT):
                    yield chance * part, let_in, action
                    continue
                for share, moved, verdict in self._balanced(let_in):
                    if verdict != "sent on" or self.host.is_local(moved.dst):
                        yield chance * part * share, moved, ACCEPT if verdict == "sent on" else verdict
                    else:
                        yield from through(self.chains, ["OUTPUT", "POSTROUTING"], chance * part * share, moved, self.host)

    def _own(self, packet: Packet) -> Branches:
        for chance, marked, _ in passing(self.chains, "nat", "OUTPUT", packet, self.host):
            for share, moved, verdict in self._balanced(marked):
                if verdict == REJECT:
                    yield chance * share, moved, verdict
                    continue
                last = ["INPUT"] if self.host.is_local(moved.dst) else []
                yield from through(self.chains, ["OUTPUT", "POSTROUTING", *last], chance * share, moved, self.host)

    def _balanced(self, packet: Packet) -> Iterator[tuple[float, Packet, str]]:
        """`sent on` to a real server; REJECT where there is none; ACCEPT where there is no virtual server."""
        server = Server(packet.protocol, packet.dst, packet.dport)
        if server not in self.reals:
            yield 1.0, packet, ACCEPT
            return
        weights = {real: weight for real, weight in self.reals[server].items() if weight}
        if not weights:
            yield 1.0, packet, REJECT
        for real, weight in weights.items():
            moved = replace(packet, dst=real.ip, dport=real.port, virtual=(server.protocol, server.ip, server.port))
            yield weight / sum(weights.values()), moved, "sent on"
