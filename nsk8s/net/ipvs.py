"""ipvs mode's state as values: virtual servers, real servers, set entries, addresses; as text, and as differences. Pure.

kube-proxy in ipvs mode writes few iptables rules, the same however many Services there are. What differs from Service to Service
is in tables of the kernel's: `ipvsadm -Ln` shows the virtual servers, `ipset list` the sets that the rules ask, `ip addr show
kube-ipvs0` the addresses that make the kernel take a packet for its own. Such a state is a mapping: `Item` → its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import NamedTuple

DEVICE = "kube-ipvs0"
"""The dummy link that holds every Service's addresses."""
SET_NAME_MAX = 31


class Address(NamedTuple):
    """An address on kube-ipvs0; it has no value."""

    ip: str


class Entry(NamedTuple):
    """An entry of a set, as `ipset list` prints it: "10.96.0.1,tcp:443", "30080"; it has no value."""

    set: str
    text: str


class Server(NamedTuple):
    """A virtual server; its value is a `Balance`. `protocol` is tcp, udp or sctp."""

    protocol: str
    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.protocol.upper()}  {endpoint(self.ip, self.port)}"


class Real(NamedTuple):
    """A real server behind a virtual one; its value is its weight (0: no new connections)."""

    server: Server
    ip: str
    port: int

    def __str__(self) -> str:
        return endpoint(self.ip, self.port)


@dataclass(frozen=True, slots=True)
class Balance:
    """How a virtual server shares connections out. `persistent_s`: how long a client keeps its real server, 0 for not at all."""

    scheduler: str = "rr"
    persistent_s: int = 0
    source_hash: bool = False
    """ipvsadm's mh-port: the scheduler mh hashes the client's port, too."""


Item = Address | Entry | Server | Real
Value = Balance | int | None
Items = Mapping[Item, Value]


class Counts(NamedTuple):
    """What the kernel counts of a real server: connections that are open, that are ending or silent, and all there ever were."""

    active: int
    inactive: int
    total: int = 0


@dataclass(frozen=True, slots=True)
class SetType:
    """How a set is made: its type, and family inet or inet6 (a bitmap has none)."""

    type: str
    family: str = "inet"


@dataclass(frozen=True, slots=True)
class Changes:
    """What turns one state into another: what is new or has another value, and what goes."""

    put: dict[Item, Value] = field(default_factory=dict)
    gone: tuple[Item, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.gone)


def changes(have: Items, want: Items, among: Iterable[Item] | None = None) -> Changes:
    """The difference, or that part of it which concerns the items `among`."""
    if among is None:
        put = {i: v for i, v in want.items() if i not in have or have[i] != v}
        return Changes(put, tuple(i for i in have if i not in want))
    touched = list(dict.fromkeys(among))
    put = {i: want[i] for i in touched if i in want and (i not in have or have[i] != want[i])}
    return Changes(put, tuple(i for i in touched if i in have and i not in want))


def set_name(name: str, ipv6: bool) -> str:
    """A set's name in a family: upstream's KUBE-6-…, cut to what the kernel takes."""
    return name.replace("KUBE-", "KUBE-6-", 1)[:SET_NAME_MAX] if ipv6 else name


def endpoint(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


# ── reading a state ─────────────────────────────────────────────────────────────────────────────────────────────────────


def reals_of(items: Items) -> dict[Server, dict[Real, int]]:
    """Virtual server → its real servers with their weights, each sorted."""
    found: dict[Server, dict[Real, int]] = {i: {} for i in sorted((i for i in items if isinstance(i, Server)), key=_by_address)}
    for item in sorted((i for i in items if isinstance(i, Real)), key=lambda r: (ip_address(r.ip), r.port)):
        weight = items[item]
        assert isinstance(weight, int)
        found.setdefault(item.server, {})[item] = weight
    return found


def entries_of(items: Items) -> dict[str, list[str]]:
    """Set → its entries, sorted."""
    found: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, Entry):
            found.setdefault(item.set, []).append(item.text)
    return {name: sorted(texts, key=_natural) for name, texts in sorted(found.items())}


def addresses_of(items: Items) -> list[str]:
    return sorted((i.ip for i in items if isinstance(i, Address)), key=ip_address)


def matches(entries: Iterable[str], wanted: tuple[str, ...]) -> bool:
    """Whether a set has an entry of these parts: "ADDRESS", "PROTOCOL:PORT" or "PORT". An entry's network holds its addresses."""
    text = ",".join(wanted)
    return any(e == text or ("/" in e and _in_network(e, wanted)) for e in entries)


def _in_network(entry: str, wanted: tuple[str, ...]) -> bool:
    *parts, network = entry.split(",")
    return tuple(parts) == wanted[:-1] and ip_address(wanted[-1]) in ip_network(network)


# ── as text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def render(items: Items, sets: Mapping[str, SetType] | None = None) -> str:
    """A state as a listing, much like ipvsadm's, ipset's and ip's own."""
    return "\n".join([*_device_lines(items), *_server_lines(items), *_set_lines(items, sets or {})]) + "\n"


def _device_lines(items: Items) -> Iterator[str]:
    yield f"# ip address show {DEVICE}"
    for ip in addresses_of(items):
        yield f"    inet6 {ip}/128" if ":" in ip else f"    inet {ip}/32"


def _server_lines(items: Items) -> Iterator[str]:
    yield "# ipvsadm -Ln"
    for server, reals in reals_of(items).items():
        balance = items[server]
        assert isinstance(balance, Balance)
        yield f"{server} {described(balance)}"
        for real, weight in reals.items():
            yield f"  -> {real} Masq {weight}"


def _set_lines(items: Items, sets: Mapping[str, SetType]) -> Iterator[str]:
    held = entries_of(items)
    for name in [*sets, *(n for n in held if n not in sets)]:
        kind = sets.get(name)
        said = f" ({kind.type}{'' if kind.type.startswith('bitmap') else ' family ' + kind.family})" if kind else ""
        yield f"# ipset list {name}{said}"
        for text in held.get(name, ()):
            yield f"{text}"


def described(balance: Balance) -> str:
    """In ipvsadm's words: "rr", "rr persistent 10800"."""
    persistent = f" persistent {balance.persistent_s}" if balance.persistent_s else ""
    return balance.scheduler + (" (mh-port)" if balance.source_hash else "") + persistent


def _by_address(server: Server) -> tuple[object, ...]:
    return ip_address(server.ip).version, ip_address(server.ip), server.port, server.protocol


def _natural(text: str) -> tuple[object, ...]:
    first, _, rest = text.partition(",")
    if first.isdigit():
        return 0, int(first), rest
    return 1, int(ip_address(first)), rest
