"""Where a packet goes under a set of rules: a walk through iptables' hooks, with the chance of each outcome. Pure.

It predicts the first packet of a connection (conntrack state NEW) on one host, through the tables nat and filter, for every match
and target that kube-proxy and node-network write. What it does not know it refuses (ValueError) rather than guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network

from nsk8s.net import ipvs
from nsk8s.net.chainset import ChainSet, words

ACCEPT, DROP, REJECT = "ACCEPT", "DROP", "REJECT"


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it enters the host by `interface`; an empty interface means that the host itself sends it.

    `out` is the interface it leaves by, for rules that ask.
    """

    src: str
    dst: str
    dport: int
    protocol: str = "tcp"
    interface: str = ""
    state: str = "NEW"
    mark: int = 0
    dnat: bool = False
    masqueraded: bool = False
    out: str = ""
    virtual: tuple[str, str, int] | None = None
    """The virtual server (protocol, address, port) that took it."""


@dataclass(frozen=True, slots=True)
class Host:
    """What rules ask about the host: its own addresses, and which (recent list, client) pairs it remembers."""

    addresses: frozenset[str] = frozenset()
    remembered: frozenset[tuple[str, str]] = frozenset()
    on_interface: Mapping[str, str] = field(default_factory=dict)
    """An interface's own address, which REDIRECT takes."""
    bridges: frozenset[str] = frozenset()
    sets: Mapping[str, Collection[str]] = field(default_factory=dict)
    """IP sets by name, entries as `ipset list` prints them."""

    def address_on(self, packet: Packet) -> str:
        """Raises ValueError for an interface whose address is not known."""
        if not packet.interface:
            return "::1" if ":" in packet.dst else "127.0.0.1"
        if packet.interface not in self.on_interface:
            raise ValueError(f"REDIRECT: the address of {packet.interface} is not known")
        return self.on_interface[packet.interface]

    def is_local(self, address: str) -> bool:
        return address in self.addresses or ip_address(address).is_loopback


@dataclass(frozen=True, slots=True)
class Verdict:
    """ACCEPT, DROP or REJECT; where the packet goes in the end, and whether it takes the host's own address for source."""

    action: str
    to: str = ""
    masq: bool = False


Branches = Iterable[tuple[float, Packet, str]]
"""(chance, packet as it is then, verdict; empty when the chain was left without one)."""


def outcomes(chains: ChainSet, packet: Packet, host: Host) -> dict[Verdict, float]:
    """Every possible verdict with its chance; they add up to 1."""
    found: dict[Verdict, float] = {}
    # The host's own packets to itself pass OUTPUT and POSTROUTING, then INPUT: nat is asked once a connection.
    for chance, moved, _ in passing(chains, "nat", "PREROUTING" if packet.interface else "OUTPUT", packet, host):
        if packet.interface:
            hooks = ["INPUT"] if host.is_local(moved.dst) else ["FORWARD", "POSTROUTING"]
        else:
            hooks = ["OUTPUT", "POSTROUTING"] + (["INPUT"] if host.is_local(moved.dst) else [])
        for last_chance, last, action in through(chains, hooks, chance, moved, host):
            verdict = Verdict(action)
            if action == ACCEPT:
                verdict = Verdict(ACCEPT, address_of(last), last.masqueraded)
            found[verdict] = found.get(verdict, 0.0) + last_chance
    return found


def trace(chains: ChainSet, packet: Packet, host: Host) -> Verdict:
    """The verdict, where there is only one. Raises ValueError when chance decides."""
    found = outcomes(chains, packet, host)
    if len(found) != 1:
        raise ValueError(f"chance decides between {found}")
    return next(iter(found))


def address_of(packet: Packet) -> str:
    return f"[{packet.dst}]:{packet.dport}" if ":" in packet.dst else f"{packet.dst}:{packet.dport}"


def through(chains: ChainSet, hooks: list[str], chance: float, packet: Packet, host: Host) -> Branches:
    """The filter hooks, and nat's POSTROUTING, one after the other; a DROP or REJECT ends the way."""
    if not hooks:
        yield chance, packet, ACCEPT
        return
    table = "nat" if hooks[0] == "POSTROUTING" else "filter"
    for part, moved, action in passing(chains, table, hooks[0], packet, host):
        if action in (DROP, REJECT):
            yield chance * part, moved, action
        else:
            yield from through(chains, hooks[1:], chance * part, moved, host)


def passing(chains: ChainSet, table: str, hook: str, packet: Packet, host: Host) -> Branches:
    """A built-in chain: leaving it without a verdict is its policy."""
    chain = chains.chain(table, hook)
    policy = chain.policy if chain is not None and chain.policy else ACCEPT
    for chance, moved, action in _walk(chains, table, hook, packet, host):
        yield chance, moved, action or policy


def _walk(chains: ChainSet, table: str, name: str, packet: Packet, host: Host) -> Branches:
    done: list[tuple[float, Packet, str]] = []
    going: list[tuple[float, Packet]] = [(1.0, packet)]
    for rule in chains.rules(table, name):
        going_on: list[tuple[float, Packet]] = []
        matches, target, options = _parse(rule)
        for chance, now in going:
            hit = 1.0
            for option, value, wanted in matches:
                hit *= _match(option, value, wanted, now, host)
            if hit < 1:
                going_on.append((chance * (1 - hit), now))
            if hit <= 0:
                continue
            for part, moved, action in _take(chains, table, target, options, now, host):
                (done.append((chance * hit * part, moved, action)) if action else going_on.append((chance * hit * part, moved)))
        going = going_on
    return [*((c, p, a if a != "RETURN" else "") for c, p, a in done), *((c, p, "") for c, p in going)]


def _take(chains: ChainSet, table: str, target: str, options: Mapping[str, str], packet: Packet, host: Host) -> Branches:
    """What a rule's target does to a packet that matched; an empty verdict goes on with the next rule."""
    if target in (ACCEPT, DROP, REJECT, "RETURN", ""):
        return [(1.0, packet, target)]
    if target == "MARK":
        return [(1.0, replace(packet, mark=_marked(packet.mark, options)), "")]
    if target == "DNAT":
        ip, _, port = options["--to-destination"].rpartition(":")
        return [(1.0, replace(packet, dst=ip.strip("[]"), dport=int(port), dnat=True), ACCEPT)]
    if target == "REDIRECT":
        return [(1.0, replace(packet, dst=host.address_on(packet), dport=int(options["--to-ports"]), dnat=True), ACCEPT)]
    if target == "MASQUERADE":
        return [(1.0, replace(packet, masqueraded=True), ACCEPT)]
    if chains.chain(table, target) is None:
        raise ValueError(f"{table}: no chain and no known target {target!r}")
    return _walk(chains, table, target, packet, host)


def _marked(mark: int, options: Mapping[str, str]) -> int:
    for option, value in options.items():
        first, _, second = value.partition("/")
        match option:
            case "--or-mark":
                return mark | int(first, 0)
            case "--xor-mark":
                return mark ^ int(first, 0)
            case "--set-xmark":
                return (mark & ~int(second or "0xffffffff", 0)) ^ int(first, 0)
    raise ValueError(f"MARK with {dict(options)}")


@lru_cache(maxsize=4096)
def _parse(rule: str) -> tuple[tuple[tuple[str, str, bool], ...], str, Mapping[str, str]]:
    """((option, value, wanted) …, target, the target's options) of a rule."""
    matches: list[tuple[str, str, bool]] = []
    options: dict[str, str] = {}
    target, parts, i, wanted = "", words(rule), 0, True
    while i < len(parts):
        word = parts[i]
        i += 1
        if word == "!":
            wanted = False
            continue
        value = ""
        if i < len(parts) and not parts[i].startswith("--") and parts[i] not in ("!", "-m", "-j", "-s", "-d", "-p", "-i", "-o"):
            value = parts[i]
            i += 1
        if word == "--match-set":
            value += " " + parts[i]
            i += 1
        if word == "-j":
            target = value
        elif target:
            options[word] = value
        elif word not in ("-m", "--comment"):
            matches.append((word, value, wanted))
        wanted = True
    recent = next((v for o, v, _ in matches if o == "--name"), "")
    return tuple((o, recent if o == "--rcheck" else v, w) for o, v, w in matches), target, options


_IGNORED = frozenset({"--mode", "--name", "--seconds", "--reap", "--set", "--mask", "--rsource", "--nfacct-name"})


def _match(option: str, value: str, wanted: bool, packet: Packet, host: Host) -> float:
    """The chance that one match says yes: 0 or 1, but for statistic."""
    if option == "--probability":
        return float(value)
    if option in _IGNORED:
        return 1.0
    test = _TESTS.get(option)
    if test is None:
        raise ValueError(f"a match that is not known: {option} {value}")
    return 1.0 if test(value, packet, host) == wanted else 0.0


def _has_mark(value: str, packet: Packet, host: Host) -> bool:
    mark, _, mask = value.partition("/")
    return packet.mark & int(mask or "0xffffffff", 0) == int(mark, 0)


def _has_state(value: str, packet: Packet, _: Host) -> bool:
    return bool(({packet.state} | ({"DNAT"} if packet.dnat else set())) & set(value.split(",")))


def _on_interface(value: str, packet: Packet, _: Host) -> bool:
    return packet.interface.startswith(value[:-1]) if value.endswith("+") else packet.interface == value


def _address_type(value: str, address: str, host: Host) -> bool:
    if value != "LOCAL":
        raise ValueError(f"address type {value} is not known")
    return host.is_local(address)


def _in_set(value: str, packet: Packet, host: Host) -> bool:
    """`NAME dst,dst,src`: each word is an address, but for the second, which is a port. A set of ports is asked by one word."""
    name, flags = value.split(" ")
    if name not in host.sets:
        raise ValueError(f"there is no set {name}")
    address, *rest = flags.split(",")
    ip = packet.dst if address == "dst" else packet.src
    if not rest:
        return ipvs.matches(host.sets[name], (ip,)) or str(packet.dport) in host.sets[name]
    if rest[0] != "dst":
        raise ValueError(f"source ports are not known: {value}")
    more = [packet.dst if word == "dst" else packet.src for word in rest[1:]]
    return ipvs.matches(host.sets[name], (ip, f"{packet.protocol}:{packet.dport}", *more))


def _virtual(which: int, value: str, packet: Packet) -> bool:
    return packet.virtual is not None and str(packet.virtual[which]) == value


_TESTS: Mapping[str, Callable[[str, Packet, Host], bool]] = {
    "-p": lambda v, p, _: p.protocol == v,
    "-s": lambda v, p, _: ip_address(p.src) in ip_network(v),
    "-d": lambda v, p, _: ip_address(p.dst) in ip_network(v),
    "--dport": lambda v, p, _: p.dport == int(v),
    "-i": _on_interface,
    "--mark": _has_mark,
    "--ctstate": _has_state,
    "--state": _has_state,
    "--physdev-is-in": lambda v, p, h: p.interface in h.bridges,
    "--dst-type": lambda v, p, h: _address_type(v, p.dst, h),
    "--src-type": lambda v, p, h: _address_type(v, p.src, h),
    "--rcheck": lambda v, p, h: (v, p.src) in h.remembered,
    "--match-set": _in_set,
    "--vproto": lambda v, p, _: _virtual(0, v, p),
    "--vaddr": lambda v, p, _: _virtual(1, v, p),
    "--vport": lambda v, p, _: _virtual(2, v, p),
}
