"""Where a packet goes under an nftables table: a walk through its hooks, with the chance of each outcome. Pure.

The twin of `trace`, with the same packets, hosts and verdicts, for every expression that kube-proxy and network-policy write.
What it does not know it refuses (ValueError) rather than guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network

from nsk8s.net.nftset import NftTable, plain_key
from nsk8s.net.trace import ACCEPT, DROP, REJECT, Host, Packet, Verdict, address_of

Branches = Iterable[tuple[float, Packet, str]]
"""(chance, packet as it is then, verdict; empty when the chain was left without one)."""


def outcomes(table: NftTable, packet: Packet, host: Host) -> dict[Verdict, float]:
    """Every possible verdict with its chance; they add up to 1."""
    return _Walk(table, host).outcomes(packet)


def trace(table: NftTable, packet: Packet, host: Host) -> Verdict:
    """The verdict, where there is only one. Raises ValueError when chance decides."""
    found = outcomes(table, packet, host)
    if len(found) != 1:
        raise ValueError(f"chance decides between {found}")
    return next(iter(found))


class _Walk:
    def __init__(self, table: NftTable, host: Host) -> None:
        self.table, self.host = table, host
        self.hooks: dict[str, list[tuple[int, str]]] = {}
        for name, chain in table.chains.items():
            found = re.fullmatch(r"type \w+ hook (\w+) priority (-?\d+)", chain.base)
            if found:
                self.hooks.setdefault(found[1], []).append((int(found[2]), name))
        self.maps: dict[str, dict[str, str]] = {
            name: {plain_key(k): v for k, v in held.items()} for name, held in table.elements.items()
        }

    def outcomes(self, packet: Packet) -> dict[Verdict, float]:
        found: dict[Verdict, float] = {}
        for chance, last, action in self._hooks(["prerouting"] if packet.interface else ["output"], 1.0, packet, True):
            verdict = Verdict(action)
            if action == ACCEPT:
                verdict = Verdict(ACCEPT, address_of(last), last.masqueraded)
            found[verdict] = found.get(verdict, 0.0) + chance
        return found

    def _hooks(self, hooks: list[str], chance: float, packet: Packet, first: bool = False) -> Branches:
        """Base chains of a hook in the order of their priorities; only a drop or reject ends the way, an accept does not."""
        if not hooks:
            yield chance, packet, ACCEPT
            return
        for part, moved, action in self._hook(sorted(self.hooks.get(hooks[0], [])), packet):
            if action in (DROP, REJECT):
                yield chance * part, moved, action
                continue
            after = hooks[1:]
            if first and packet.interface:
                after = ["input"] if self.host.is_local(moved.dst) else ["forward", "postrouting"]
            elif first:
                after = ["postrouting"] + (["input"] if self.host.is_local(moved.dst) else [])
            yield from self._hooks(after, chance * part, moved)

    def _hook(self, chains: list[tuple[int, str]], packet: Packet) -> Branches:
        if not chains:
            yield 1.0, packet, ""
            return
        for chance, moved, action in self._chain(chains[0][1], packet):
            if action in (DROP, REJECT):
                yield chance, moved, action
            else:
                for part, last, verdict in self._hook(chains[1:], moved):
                    yield chance * part, last, verdict

    def _chain(self, name: str, packet: Packet) -> Branches:
        done: list[tuple[float, Packet, str]] = []
        going: list[tuple[float, Packet]] = [(1.0, packet)]
        if name not in self.table.chains:
            raise ValueError(f"no chain {name}")
        for rule in self.table.rules(name):
            going_on: list[tuple[float, Packet]] = []
            for chance, now in going:
                for part, moved, action in self._rule(_parse(rule), now):
                    (done.append((chance * part, moved, action)) if action else going_on.append((chance * part, moved)))
            going = going_on
        return [*((c, p, "" if a == "return" else a) for c, p, a in done), *((c, p, "") for c, p in going)]

    def _rule(self, parts: tuple[tuple[str, tuple[str, ...]], ...], packet: Packet) -> Branches:
        """Expressions from left to right: a match that fails leaves the rule, a statement changes the packet or decides."""
        for what, words in parts:
            match what:
                case "match":
                    if not self._matches(words, packet):
                        return [(1.0, packet, "")]
                case "mark":
                    packet = replace(packet, mark=_marked(packet.mark, *words))
                case "update":
                    continue
                case "vmap":
                    return self._verdict(self.maps[words[1]].get(self._key(words[0], packet), ""), packet)
                case "numgen":
                    share = 1 / int(words[0])
                    return [
                        (share * c, p, a)
                        for v in words[1:] for c, p, a in self._verdict(v, packet)
                    ]  # fmt: skip
                case "dnat":
                    ip, _, port = words[0].rpartition(":")
                    return [(1.0, replace(packet, dst=ip.strip("[]"), dport=int(port), dnat=True), ACCEPT)]
                case "masquerade":
                    return [(1.0, replace(packet, masqueraded=True), ACCEPT)]
                case "verdict":
                    return self._verdict(words[0], packet)
        return [(1.0, packet, "")]

    def _verdict(self, verdict: str, packet: Packet) -> Branches:
        if verdict in ("", "return"):
            return [(1.0, packet, verdict)]
        if verdict in ("accept", "drop", "reject"):
            return [(1.0, packet, verdict.upper())]
        how, _, to = verdict.partition(" ")
        if how not in ("jump", "goto"):
            raise ValueError(f"a verdict that is not known: {verdict}")
        # From a chain that was gone to, the way leads back to where the last jump came from: it returns.
        return [(c, p, a or ("return" if how == "goto" else "")) for c, p, a in self._chain(to, packet)]

    def _key(self, of: str, packet: Packet) -> str:
        family = "ip6" if ":" in packet.src else "ip"
        fields = {
            f"{family} saddr": packet.src, f"{family} daddr": packet.dst, "meta l4proto": packet.protocol,
            "th dport": str(packet.dport),
        }  # fmt: skip
        return " . ".join(fields.get(f.strip(), "none") for f in of.split(" . "))

    def _matches(self, words: tuple[str, ...], packet: Packet) -> bool:
        field, wanted, value = words
        match field:
            case "ip saddr" | "ip6 saddr" | "ip daddr" | "ip6 daddr":
                address = packet.src if "saddr" in field else packet.dst
                if (":" in address) != field.startswith("ip6"):
                    return False
                hit = self._is_in(address, value)
            case "meta l4proto":
                hit = packet.protocol == value
            case "key":
                of, _, held = value.partition(" @")
                hit = self._key(of, packet) in self.maps[held]
            case "th dport":
                first, _, last = value.partition("-")
                hit = int(first) <= packet.dport <= int(last or first)
            case "ct state":
                hit = packet.state.lower() in value.strip("{} ").split(", ")
            case "ct direction" if packet.state == "NEW":
                hit = value == "original"
            case "icmpv6 type" if packet.protocol != "icmpv6":
                hit = False
            case "fib saddr type":
                hit = self.host.is_local(packet.src)
            case "fib daddr type":
                hit = self.host.is_local(packet.dst)
            case "iifname" | "oifname":
                name, held = value.strip('"'), packet.interface if field == "iifname" else packet.out
                hit = held.startswith(name[:-1]) if name.endswith("*") else held == name
            case "mark and":
                mask, _, expected = value.partition(" ")
                hit = packet.mark & int(mask, 0) == int(expected, 0)
            case _:
                raise ValueError(f"a match that is not known: {field}")
        return hit == (wanted == "==")

    def _is_in(self, address: str, value: str) -> bool:
        if value.startswith("@"):
            held = self.maps[value[1:]]
            return address in held or (value[1:], address) in self.host.remembered
        return any(ip_address(address) in ip_network(v.strip()) for v in value.strip("{} ").split(","))


_MATCH = re.compile(
    r"(ip saddr|ip6 saddr|ip daddr|ip6 daddr|meta l4proto|ct state|ct direction|icmpv6 type|th dport|fib [sd]addr type|iifname"
    r"|oifname)( !=)? "
    r'(\{ [^}]* \}|@\S+|"[^"]*"|\S+) ?'
)
_MARK_IS = re.compile(r"mark and (\S+) == (\S+) ?")
_MARK_SET = re.compile(r"mark set mark (or|xor) (\S+) ?")
_FIELD = r"(?:ip6? [sd]addr|meta l4proto|th dport)"
_LOOKUP = re.compile(rf"({_FIELD}(?: \. {_FIELD})*) vmap @(\S+) ?")
_MEMBER = re.compile(rf"({_FIELD}(?: \. {_FIELD})+ @\S+) ?")
_NUMGEN = re.compile(r"numgen random mod (\d+) vmap \{ (.*) \} ?")
_DNAT = re.compile(r"dnat to (\S+) ?")
_UPDATE = re.compile(r"update @(\S+) \{ ip6? saddr \} ?")
_VERDICT = re.compile(r"((?:jump|goto) \S+|accept|drop|reject|return) ?")


@lru_cache(maxsize=4096)
def _parse(rule: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """((kind, its words) …) of a rule."""
    text = rule.partition(' comment "')[0].strip()
    parts: list[tuple[str, tuple[str, ...]]] = []
    while text:
        if found := _LOOKUP.match(text):
            parts.append(("vmap", (found[1], found[2])))
        elif found := _MEMBER.match(text):
            parts.append(("match", ("key", "==", found[1])))
        elif found := _MATCH.match(text):
            parts.append(("match", (found[1], "!=" if found[2] else "==", found[3])))
        elif found := _MARK_IS.match(text):
            parts.append(("match", ("mark and", "==", f"{found[1]} {found[2]}")))
        elif found := _MARK_SET.match(text):
            parts.append(("mark", (found[1], found[2])))
        elif found := _NUMGEN.match(text):
            choices = tuple(c.partition(" : ")[2].strip() for c in found[2].split(","))
            parts.append(("numgen", (found[1], *choices)))
        elif found := _DNAT.match(text):
            parts.append(("dnat", (found[1],)))
        elif found := _UPDATE.match(text):
            parts.append(("update", (found[1],)))
        elif text.startswith("masquerade"):
            parts.append(("masquerade", ()))
            break
        elif found := _VERDICT.match(text):
            parts.append(("verdict", (found[1],)))
        else:
            raise ValueError(f"an expression that is not known: {text!r} in {rule!r}")
        text = text[found.end() :]
    return tuple(parts)


def _marked(mark: int, how: str, value: str) -> int:
    return mark | int(value, 0) if how == "or" else mark ^ int(value, 0)


