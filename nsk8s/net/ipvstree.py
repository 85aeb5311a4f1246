"""One Service in ipvs mode as a tree, with a sentence for each part: `nsk8s rules` for kube-proxy in ipvs mode. Pure.

Read from the kernel's tables, which know no names: whose a virtual server is, its address and port tell (`Face`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nsk8s.net.ipvs import (
    DEVICE,
    Address,
    Balance,
    Counts,
    Items,
    Real,
    Server,
    addresses_of,
    described,
    entries_of,
    matches,
    reals_of,
    set_name,
)
from nsk8s.net.ruletree import Branch


class Face(NamedTuple):
    """Where a Service is to be had. `ip` is empty for a node port: then it is each of the node's addresses."""

    kind: str
    protocol: str
    ip: str
    port: int


@dataclass(frozen=True)
class Listing:
    """What the kernel holds in one family, and what it counts of real servers; None for a state that is in no kernel."""

    items: Items
    counts: Mapping[Real, Counts] | None = None
    ipv6: bool = False


_SETS = {
    "KUBE-CLUSTER-IP": "who is no pod is marked for masquerade: the answer must come back by this node",
    "KUBE-EXTERNAL-IP": "marked for masquerade: the endpoint will see this node's address, and answer by it",
    "KUBE-EXTERNAL-IP-LOCAL": "not marked: the endpoint sees who asks (externalTrafficPolicy Local)",
    "KUBE-LOAD-BALANCER": "marked for masquerade in chain KUBE-LOAD-BALANCER, unless KUBE-LOAD-BALANCER-LOCAL has it, too",
    "KUBE-LOAD-BALANCER-LOCAL": "not marked: the endpoint sees who asks (externalTrafficPolicy Local)",
    "KUBE-LOAD-BALANCER-FW": "only for who is in KUBE-LOAD-BALANCER-SOURCE-CIDR or -IP; the others' packets are dropped",
    "KUBE-NODE-PORT-TCP": "marked for masquerade, unless KUBE-NODE-PORT-LOCAL-TCP has it, too",
    "KUBE-NODE-PORT-UDP": "marked for masquerade, unless KUBE-NODE-PORT-LOCAL-UDP has it, too",
    "KUBE-NODE-PORT-SCTP-HASH": "marked for masquerade, unless KUBE-NODE-PORT-LOCAL-SCTP-HASH has it, too",
    "KUBE-NODE-PORT-LOCAL-TCP": "not marked: the endpoint sees who asks (externalTrafficPolicy Local)",
    "KUBE-NODE-PORT-LOCAL-UDP": "not marked: the endpoint sees who asks (externalTrafficPolicy Local)",
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH": "not marked: the endpoint sees who asks (externalTrafficPolicy Local)",
}
_SOURCES = ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-LOAD-BALANCER-SOURCE-IP")
_LOOP_BACK = "KUBE-LOOP-BACK"
_SCHEDULERS = {
    "rr": "each in turn", "wrr": "each in turn, by weight", "lc": "who has the fewest connections",
    "wlc": "who has the fewest connections for its weight", "sh": "by the client's address", "dh": "by the address that is asked",
    "sed": "where it will be served soonest", "nq": "an idle one, else where it will be served soonest",
    "lblc": "by the address that is asked, while it is not overloaded",
    "lblcr": "one of a group for the address that is asked", "mh": "by the client's address (Maglev)",
}  # fmt: skip


def servers(listing: Listing, faces: Sequence[Face]) -> Iterator[tuple[Face, Server]]:
    """The virtual servers of a Service, in the order of its faces."""
    held = list(reals_of(listing.items))
    for face in faces:
        for server in held:
            is_here = server.ip == face.ip if face.ip else Address(server.ip) not in listing.items
            if is_here and (server.protocol, server.port) == (face.protocol, face.port):
                yield face, server


def overview(listing: Listing, faces: Sequence[Face]) -> list[dict[str, Any]]:
    """A line for each virtual server of a Service."""
    reals = reals_of(listing.items)
    lines = []
    for _, server in servers(listing, faces):
        mine = reals[server]
        line: dict[str, Any] = {
            "destination": server.ip, "port": f"{server.port}/{server.protocol}",
            "target": f"{_balance(listing, server).scheduler}: " + (", ".join(map(str, mine)) or "no real server"),
        }  # fmt: skip
        if listing.counts is not None:
            line["connections"] = sum(listing.counts[r].total for r in mine if r in listing.counts)
        lines.append(line)
    return lines


def tree(listing: Listing, faces: Sequence[Face], pods: Mapping[str, str]) -> list[Branch]:
    """A Service's virtual servers, each with its real servers and the entries of sets that speak of it."""
    return [_server(listing, face, server, pods) for face, server in servers(listing, faces)]


def _balance(listing: Listing, server: Server) -> Balance:
    balance = listing.items[server]
    assert isinstance(balance, Balance)
    return balance


def _server(listing: Listing, face: Face, server: Server, pods: Mapping[str, str]) -> Branch:
    reals, balance = reals_of(listing.items)[server], _balance(listing, server)
    said = f"a virtual server at {_where(listing, face, server)}: "
    if not any(reals.values()):
        said += "it has no real server, and answers with an ICMP port-unreachable"
    else:
        said += f"new connections go to {_SCHEDULERS.get(balance.scheduler, balance.scheduler)}"
    if balance.persistent_s:
        said += f"; a client keeps its real server for {balance.persistent_s} s (session affinity)"
    below = [*_entries(listing, server), *(_real(listing, r, w, reals, balance, pods) for r, w in reals.items())]
    detail = {"server": str(server), "scheduler": balance.scheduler, "persistent": balance.persistent_s, "kind": face.kind}
    return Branch(f"{server} {described(balance)}", said, False, detail, None, tuple(below))


def _where(listing: Listing, face: Face, server: Server) -> str:
    if not face.ip:
        return f"the node port, for {server.ip}"
    if server.ip in addresses_of(listing.items):
        return f"the {face.kind}, which {DEVICE} has"
    return f"the {face.kind}, which another link of the node has"


def _entries(listing: Listing, server: Server) -> Iterator[Branch]:
    held = entries_of(listing.items)
    for name, meaning in _SETS.items():
        ours = set_name(name, listing.ipv6)
        text = f"{server.ip},{server.protocol}:{server.port}"
        if name.startswith("KUBE-NODE-PORT"):
            if Address(server.ip) in listing.items or not _is_of(name, server.protocol):
                continue
            text = text if server.protocol == "sctp" else str(server.port)
        if text in held.get(ours, ()):
            yield _entry(ours, text, meaning)
    for name in _SOURCES:
        ours = set_name(name, listing.ipv6)
        for text in held.get(ours, ()):
            *at, source = text.split(",")
            if at == [server.ip, f"{server.protocol}:{server.port}"]:
                own = "the address itself, from which the node asks" if source == server.ip else source
                yield _entry(ours, text, f"a source range: {own}")


def _is_of(name: str, protocol: str) -> bool:
    return protocol.upper() in name.split("-")


def _entry(name: str, text: str, meaning: str) -> Branch:
    return Branch(f"{name} {text}", meaning, True, {"set": name, "entry": text})


def _real(
    listing: Listing, real: Real, weight: int, reals: Mapping[Real, int], balance: Balance, pods: Mapping[str, str]
) -> Branch:
    who = pods.get(real.ip, "")
    said = [who] if who else []
    if not weight:
        said.append("it drains: no new connections, and gone when the last one has ended")
    elif balance.scheduler in ("rr", "wrr"):
        share = weight / sum(reals.values()) if balance.scheduler == "wrr" else 1 / sum(1 for w in reals.values() if w)
        said.append("the only one" if share > 0.995 else f"{share:.0%} of new connections")
    detail: dict[str, Any] = {"real": str(real), "weight": weight}
    counts = (listing.counts or {}).get(real)
    if counts is not None:
        said.append(f"connections now: {counts.active} open, {counts.inactive} ending or silent")
        detail |= {"connections": counts.total, "active": counts.active, "inactive": counts.inactive}
    loop = set_name(_LOOP_BACK, listing.ipv6)
    parts = real.ip, f"{real.server.protocol}:{real.port}", real.ip
    below = []
    if matches(entries_of(listing.items).get(loop, ()), parts):
        meaning = "masqueraded when it is its own client: the answer must come back this way (hairpin)"
        below.append(_entry(loop, ",".join(parts), meaning))
    return Branch(f"→ {real} weight {weight}", "; ".join(said), True, detail, None, tuple(below))
