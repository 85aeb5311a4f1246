"""iptables rules as immutable values: render, parse, compare. Pure.

A rule is the text that follows `-A CHAIN` ("-s 10.244.1.4 -j KUBE-MARK-MASQ"), a chain a tuple of rules, a `ChainSet` the
chains of each table. kube-proxy and node-network make such values, the kernel loads what `render_restore` makes of them,
`parse` reads `iptables-save` or restore text back into one, and `nsk8s.net.trace` walks packets through it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network

Rules = tuple[str, ...]

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain's rules in order. `policy` is ACCEPT or DROP for a built-in chain and empty for the others."""

    rules: Rules = ()
    policy: str = ""


Table = Mapping[str, Chain]


@dataclass(frozen=True)
class ChainSet:
    """Table name → chain name → chain. Two are equal when every rule's text and order is."""

    tables: Mapping[str, Table] = field(default_factory=dict)

    def chain(self, table: str, name: str) -> Chain | None:
        return self.tables.get(table, {}).get(name)

    def rules(self, table: str, name: str) -> Rules:
        """The rules of a chain; none when there is no such chain."""
        chain = self.chain(table, name)
        return chain.rules if chain else ()

    def only(self, prefixes: tuple[str, ...]) -> ChainSet:
        """The chains whose name starts with one of `prefixes`; tables without any are left out."""
        kept = {t: {n: c for n, c in chains.items() if n.startswith(prefixes)} for t, chains in self.tables.items()}
        return ChainSet({t: chains for t, chains in kept.items() if chains})


@dataclass(frozen=True, slots=True)
class Jump:
    """A rule that must stand in a built-in chain: `rule` ends with `-j TARGET`."""

    table: str
    hook: str
    rule: str


_PLAIN = re.compile(r"[\w\-./:]+")


def quote(text: str) -> str:
    """A comment as iptables-save prints it: in double quotes when it holds anything but plain characters."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache(maxsize=4096)
def words(rule: str) -> tuple[str, ...]:
    """The words of a rule, quotes removed (iptables-save also escapes apostrophes, which a shell would not undo)."""
    return tuple(shlex.split(rule.replace("\\'", "'"))) if '"' in rule or "\\" in rule else tuple(rule.split())


def target(rule: str) -> str:
    """What a rule jumps to; empty for a rule that only counts."""
    parts = words(rule)
    for flag in ("-j", "-g"):
        if flag in parts:
            return parts[parts.index(flag) + 1]
    return ""


def render(chains: ChainSet) -> str:
    """iptables-restore text (no counters) for every table: chain lines first, then the rules."""
    return "".join(render_table(name, table) for name, table in chains.tables.items())


def render_table(
    name: str, table: Table, *, delete: Iterable[str] = (), insert: Sequence[Jump] = (), append: Sequence[Jump] = ()
) -> str:
    """One table's section. `delete`: chains that are flushed and removed; `insert`: rules put on top of their hooks, in order;
    `append`: rules put at their hooks' ends.

    With `iptables-restore --noflush`, naming a chain empties it and what is not named stays.
    """
    gone = list(delete)
    head = f"*{name}\n{chain_lines(table)}{chain_lines(dict.fromkeys(gone, Chain()))}"
    return head + rule_lines(table) + end_lines(name, delete=gone, insert=insert, append=append)


def chain_lines(table: Table) -> str:
    """The lines that name chains: naming one empties it."""
    return "".join([f":{name} {chain.policy or '-'} [0:0]\n" for name, chain in table.items()])


def rule_lines(table: Table) -> str:
    return "".join([f"-A {name} {rule}\n" for name, chain in table.items() for rule in chain.rules])


def end_lines(
    name: str, *, delete: Iterable[str] = (), insert: Sequence[Jump] = (), append: Sequence[Jump] = ()
) -> str:
    """What ends a table's section: see `render_table`."""
    lines = [f"-X {chain}" for chain in delete]
    lines += [f"-I {jump.hook} 1 {jump.rule}" for jump in insert if jump.table == name]
    lines += [f"-A {jump.hook} {jump.rule}" for jump in append if jump.table == name]
    lines.append("COMMIT\n")
    return "\n".join(lines)


def parse(text: str) -> ChainSet:
    """The chains in iptables-save output or iptables-restore input (counters dropped; -A, -I and -X are understood).

    Raises ValueError, naming the line, for anything else.
    """
    tables: dict[str, dict[str, Chain]] = {}
    rules: dict[str, list[str]] = {}
    policies: dict[str, str] = {}
    table = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):  # "[12:3456] -A …": counters of iptables-save -c
            line = line.partition("] ")[2]
        verb, _, rest = line.partition(" ")
        if line.startswith("*"):
            table, rules, policies = line[1:], {}, {}
        elif line.startswith(":"):
            policy = rest.split(" ", 1)[0]
            rules[verb[1:]] = []
            policies[verb[1:]] = "" if policy == "-" else policy
        elif verb == "-A":
            name, _, rule = rest.partition(" ")
            rules.setdefault(name, []).append(rule)
        elif verb == "-I":
            name, _, rule = rest.partition(" ")
            first, _, tail = rule.partition(" ")
            position, rule = (int(first), tail) if first.isdigit() else (1, rule)
            rules.setdefault(name, []).insert(position - 1, rule)
        elif verb == "-X":
            rules.pop(rest, None)
        elif line == "COMMIT":
            built_in = BUILT_IN.get(table, ())
            tables[table] = {
                n: Chain(tuple(r), policies.get(n) or ("ACCEPT" if n in built_in else "")) for n, r in rules.items()
            }
        else:
            raise ValueError(f"line {number}: not iptables-save text: {raw!r}")
    return ChainSet(tables)


def outline(text: str) -> ChainSet:
    """What `parse` reads, without the rules of Kubernetes' own chains: enough to find missing jumps and stale chains, quickly."""
    return parse("\n".join(line for line in text.splitlines() if not line.startswith("-A KUBE-")))


def apply(have: ChainSet, restore: str) -> ChainSet:
    """What the kernel holds after `iptables-restore --noflush` of this text."""
    tables = {t: dict(chains) for t, chains in have.tables.items()}
    inside: dict[str, Chain] = {}
    for line in restore.splitlines():
        if line.startswith("*"):
            inside = tables.setdefault(line[1:], {n: Chain((), "ACCEPT") for n in BUILT_IN.get(line[1:], ())})
        elif line.startswith(":"):
            name, policy = line[1:].split(" ")[:2]
            inside[name] = Chain((), "" if policy == "-" else policy)
        elif line.startswith("-A "):
            _, name, rule = line.split(" ", 2)
            inside[name] = Chain((*inside[name].rules, rule), inside[name].policy)
        elif line.startswith("-I "):
            _, name, position, rule = line.split(" ", 3)
            old, at = inside[name], int(position) - 1
            inside[name] = Chain((*old.rules[:at], rule, *old.rules[at:]), old.policy)
        elif line.startswith("-D "):
            _, name, rule = line.split(" ", 2)
            kept = list(inside[name].rules)
            kept.remove(rule)
            inside[name] = Chain(tuple(kept), inside[name].policy)
        elif line.startswith("-X "):
            del inside[line[3:]]
    return ChainSet(tables)


def diff(have: ChainSet, want: ChainSet, owned: tuple[str, ...]) -> str:
    """Restore text (--noflush) that turns `have` into `want`, as far as chains named with the prefixes `owned` go.

    Chains that are equal (canonically, so that iptables-save's spelling counts as ours) are left alone with their counters.
    Empty when nothing is to be done.
    """
    out = []
    for name in {**want.tables, **have.tables}:
        wanted, held = want.tables.get(name, {}), have.tables.get(name, {})
        changed = {
            n: c for n, c in wanted.items() if n not in held or canonical_rules(held[n].rules) != canonical_rules(c.rules)
        }
        gone = [n for n in held if n.startswith(owned) and n not in wanted]
        if changed or gone:
            out.append(render_table(name, changed, delete=gone))
    return "".join(out)


def missing_jumps(have: ChainSet, wanted: Sequence[Jump]) -> list[Jump]:
    """Those of `wanted` that stand nowhere in their hook, in order. Each is to be put on top, so the last ends up first."""
    present: dict[tuple[str, str], Collection[str]] = {}
    missing = []
    for jump in wanted:
        where = jump.table, jump.hook
        if where not in present:
            present[where] = canonical_rules(have.rules(*where))
        if canonical(jump.rule) not in present[where]:
            missing.append(jump)
    return missing


# ── one spelling for what means the same ────────────────────────────────────────────────────────────────────────────────

_SYNONYMS = {
    "--src": "-s", "--source": "-s", "--dst": "-d", "--destination": "-d", "--protocol": "-p", "--in-interface": "-i",
    "--out-interface": "-o", "--jump": "-j", "--goto": "-g", "--destination-port": "--dport", "--source-port": "--sport",
}  # fmt: skip
_NOISE = frozenset({"--rsource"})
_WHOLE_ADDRESS = ("255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")


def canonical_rules(rules: Iterable[str]) -> Rules:
    return tuple(canonical(r) for r in rules)


@lru_cache(maxsize=16384)
def canonical(rule: str) -> str:
    """One spelling for rules that mean the same to the kernel, whoever printed them.

    Order of matches, `/32`, mark spelling, rounding of probabilities, defaults that iptables-save adds and `-m PROTOCOL` go.
    """
    options: list[tuple[str, ...]] = []
    parts = words(rule)
    i, negated = 0, ""
    while i < len(parts):
        word = _SYNONYMS.get(parts[i], parts[i])
        i += 1
        if word == "!":
            negated = "! "
            continue
        values = []
        while i < len(parts) and (not parts[i].startswith("-") or len(parts[i]) == 1) and parts[i] != "!":
            values.append(parts[i])
            i += 1
        options.append((negated + word, *values))
        negated = ""
    return "; ".join(sorted(filter(None, (_canonical_option(o) for o in options))))


def _canonical_option(option: tuple[str, ...]) -> str:
    name, value = option[0], " ".join(option[1:])
    plain = name.removeprefix("! ")
    if plain == "-m" or plain in _NOISE or (plain == "--mask" and value in _WHOLE_ADDRESS):
        return ""
    if plain in ("-s", "-d"):
        value = str(ip_network(value, strict=False))
    elif plain == "--probability":
        value = f"{round(float(value) * 2**31) / 2**31:.8f}"
    elif plain in ("--or-mark", "--xor-mark", "--and-mark", "--set-mark", "--set-xmark"):
        name, value = "--set-xmark", "0x{:x}/0x{:x}".format(*_xmark(plain, value))
    elif plain == "--mark":
        mark, _, mask = value.partition("/")
        value = f"{int(mark, 0):#x}/{int(mask or '0xffffffff', 0):#x}"
    elif plain == "--vproto":
        value = {"6": "tcp", "17": "udp", "132": "sctp"}.get(value, value)
    elif plain == "--ctstate":
        value = ",".join(sorted(value.split(",")))
    elif plain == "--reject-with" and value in ("icmp-port-unreachable", "icmp6-port-unreachable"):
        return ""
    return f"{name} {value}".strip()


def _xmark(option: str, text: str) -> tuple[int, int]:
    """(value, mask) of MARK's --set-xmark form: mark = (mark & ~mask) ^ value."""
    first, _, second = text.partition("/")
    value, mask = int(first, 0), int(second or "0xffffffff", 0)
    match option:
        case "--or-mark":
            return value, value
        case "--xor-mark":
            return value, 0
        case "--and-mark":
            return 0, ~value & 0xFFFFFFFF
        case "--set-mark":
            return value, mask | value
    return value, mask
