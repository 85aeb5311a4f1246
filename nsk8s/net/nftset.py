"""One nftables table as an immutable value: render, apply a transaction, compare. Pure.

The spelling is that of `nft -f` scripts as knftables writes them ("add rule ip kube-proxy services …"), so that a dump reads like
upstream's golden tests and can be loaded as it stands. kube-proxy's nftables mode makes such text, the kernel loads it, `apply`
does what the kernel would (refusing what it would refuse), and `nsk8s.net.nfttrace` walks packets through the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

Rules = tuple[str, ...]


class Refused(ValueError):
    """What the kernel would not do: the whole transaction has no effect."""


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain's rules in order. `base` is a base chain's "type … hook … priority …" and empty for the others."""

    rules: Rules = ()
    base: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class NftSet:
    """A set or (`is_map`) a verdict map. `spec` is what stands in its braces: type, flags, timeout."""

    spec: str
    is_map: bool = False
    comment: str = ""

    @property
    def kind(self) -> str:
        return "map" if self.is_map else "set"


Elements = Mapping[str, str]
"""Key ("10.96.0.1 . tcp . 80") → verdict; an empty verdict in sets. A comment stands after the key, as nft wants it."""


@dataclass(frozen=True)
class NftTable:
    """A table. Two are equal when chains, rules, sets and elements are."""

    family: str = "ip"
    name: str = "kube-proxy"
    comment: str = ""
    chains: Mapping[str, NftChain] = field(default_factory=dict)
    sets: Mapping[str, NftSet] = field(default_factory=dict)
    elements: Mapping[str, Elements] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.family} {self.name}"

    def rules(self, chain: str) -> Rules:
        """The rules of a chain; none when there is no such chain."""
        found = self.chains.get(chain)
        return found.rules if found else ()

    def verdict(self, of: str, key: str) -> str | None:
        """What a map says of a key (without its comment); None when the key is not there."""
        return next((v for k, v in self.elements.get(of, {}).items() if plain_key(k) == key), None)


COMMENT_MAX = 128
"""nft refuses a script with a longer comment; a Service's namespace, name and port may have 143 characters."""


def said(comment: str) -> str:
    """` comment "…"`, or nothing. nft has no way to quote a quote."""
    return f' comment "{comment[:COMMENT_MAX].replace(chr(34), chr(39))}"' if comment else ""


def plain_key(key: str) -> str:
    """An element's key without its comment."""
    return key.partition(" comment ")[0]


# ── single lines ────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_table(where: str, comment: str = "") -> str:
    return f"add table {where}" + (f" {{{said(comment)} ; }}" if comment else "")


def add_chain(where: str, name: str, chain: NftChain) -> str:
    inside = " ;".join(filter(None, (f" {chain.base}" if chain.base else "", said(chain.comment))))
    return f"add chain {where} {name}" + (f" {{{inside} ; }}" if inside else "")


def add_set(where: str, name: str, held: NftSet) -> str:
    return f"add {held.kind} {where} {name} {{ {held.spec} ;{said(held.comment)}{' ;' if held.comment else ''} }}"


def add_element(where: str, to: str, key: str, verdict: str) -> str:
    return f"add element {where} {to} {{ {key}{f' : {verdict}' if verdict else ''} }}"


def render(table: NftTable) -> str:
    """The script that makes this table from nothing: what is pointed to comes before what points."""
    where = table.where
    lines = [add_table(where, table.comment)]
    lines += [add_set(where, n, s) for n, s in sorted(table.sets.items())]
    lines += [add_chain(where, n, c) for n, c in sorted(table.chains.items())]
    lines += [f"add rule {where} {n} {rule}" for n, c in sorted(table.chains.items()) for rule in c.rules]
    lines += [add_element(where, n, k, v) for n, held in sorted(table.elements.items()) for k, v in sorted(held.items())]
    return "\n".join(lines) + "\n"


class Transaction:
    """The lines of a script, in an order in which the kernel accepts them whatever order they came in.

    What points goes before what is pointed to goes; what is pointed to comes before what points.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._table: list[str] = []
        self._chains: list[str] = []
        self._flushes: list[str] = []
        self._forget: list[str] = []
        self._remake: list[str] = []
        self._sets: list[str] = []
        self._rules: list[str] = []
        self._elements: list[str] = []
        self._remove: list[str] = []

    def table(self, comment: str) -> None:
        self._table.append(add_table(self.where, comment))

    def remake_chain(self, name: str) -> None:
        """Take a base chain away, so that it can come back at another hook."""
        self._remake += [f"{verb} chain {self.where} {name}" for verb in ("add", "flush", "delete")]

    def chain(self, name: str, chain: NftChain, *, is_new: bool) -> None:
        """A chain with these rules, whatever was in it."""
        if is_new or chain.base:
            self._chains.append(add_chain(self.where, name, chain))
        if not is_new:
            self.empty_chain(name)
        self._rules += [f"add rule {self.where} {name} {rule}" for rule in chain.rules]

    def empty_chain(self, name: str) -> None:
        self._flushes.append(f"flush chain {self.where} {name}")

    def delete_chain(self, name: str) -> None:
        """A chain without rules to which nothing points any more."""
        self._remove.append(f"delete chain {self.where} {name}")

    def set(self, name: str, held: NftSet) -> None:
        self._sets.append(add_set(self.where, name, held))

    def empty_set(self, name: str, *, is_map: bool) -> None:
        self._forget.append(f"flush {'map' if is_map else 'set'} {self.where} {name}")

    def delete_set(self, name: str) -> None:
        self._forget.append(f"delete set {self.where} {name}")

    def element(self, to: str, key: str, verdict: str, comment: str = "") -> None:
        self._elements.append(add_element(self.where, to, key + said(comment), verdict))

    def delete_element(self, of: str, key: str, verdict: str) -> None:
        self._forget.append(f"delete element {self.where} {of} {{ {key}{f' : {verdict}' if verdict else ''} }}")

    @property
    def lines(self) -> int:
        """How many lines about chains and rules there are so far."""
        return len(self._chains) + len(self._flushes) + len(self._rules)

    def render(self) -> str:
        """The script; empty when there is nothing to do."""
        parts = (
            self._table, self._remake, self._chains, self._flushes, self._forget, self._sets, self._rules, self._elements,
            self._remove,
        )  # fmt: skip
        lines = [line for part in parts for line in part]
        return "\n".join(lines) + "\n" if lines else ""


# ── what a transaction does ─────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=4096)
def targets(text: str) -> tuple[str, ...]:
    """The chains that a rule or verdict jumps or goes to."""
    words = text.replace(",", " ").replace("}", " ").split()
    return tuple(words[i + 1] for i, w in enumerate(words[:-1]) if w in ("jump", "goto"))


@lru_cache(maxsize=4096)
def named_sets(rule: str) -> tuple[str, ...]:
    """The sets and maps that a rule looks up or updates."""
    return tuple(w[1:] for w in rule.split() if w.startswith("@"))


def apply(have: NftTable | None, script: str) -> NftTable | None:
    """The table after `nft -f` of a script about it; None when it is gone. Raises Refused for what the kernel refuses."""
    work = _Work(have)
    for number, line in enumerate(script.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        try:
            work.line(line)
        except Refused as e:
            raise Refused(f"line {number}: {e}: {line}") from None
    return work.done()


class _Work:
    def __init__(self, have: NftTable | None) -> None:
        self.load(have)

    def load(self, have: NftTable | None) -> None:
        self.have = have
        self.chains = dict(have.chains) if have else {}
        self.sets = dict(have.sets) if have else {}
        self.elements = {n: dict(e) for n, e in have.elements.items()} if have else {}

    def line(self, line: str) -> None:
        verb, kind, family, name, *rest = line.split(" ", 4)
        tail = rest[0] if rest else ""
        if kind == "table":
            self._table(verb, family, name, tail)
            return
        if self.have is None:
            raise Refused("no such table")
        target, _, text = tail.partition(" ")
        method = getattr(self, f"_{verb}_{kind}", None)
        if method is None:
            raise Refused("not a line that is known")
        method(target, text)

    def _table(self, verb: str, family: str, name: str, tail: str) -> None:
        if verb == "delete":
            if self.have is None:
                raise Refused("no such table")
            self.load(None)
        elif verb == "add":
            if self.have is None:
                self.load(NftTable(family, name, _comment(tail)))
        else:
            raise Refused("not a line that is known")

    def _add_chain(self, name: str, text: str) -> None:
        inside = text.strip("{ };")
        base = inside.partition(" ; comment")[0].strip() if inside.startswith("type ") else ""
        old = self.chains.get(name)
        if old is None:
            self.chains[name] = NftChain((), base, _comment(text))
        elif base and old.base != base:
            raise Refused("a base chain's hook and priority cannot change")

    def _flush_chain(self, name: str, _: str) -> None:
        old = self._chain(name)
        self.chains[name] = NftChain((), old.base, old.comment)

    def _delete_chain(self, name: str, _: str) -> None:
        self._chain(name)
        if any(name in targets(r) for n, c in self.chains.items() if n != name for r in c.rules) or any(
            name in targets(v) for held in self.elements.values() for v in held.values()
        ):
            raise Refused("Device or resource busy")
        del self.chains[name]

    def _add_rule(self, name: str, rule: str) -> None:
        old = self._chain(name)
        for to in targets(rule):
            self._chain(to)
        for used in named_sets(rule):
            if used not in self.sets:
                raise Refused(f"no set {used}")
        self.chains[name] = NftChain((*old.rules, rule), old.base, old.comment)

    def _add_set(self, name: str, text: str) -> None:
        self._declare(name, text, False)

    def _add_map(self, name: str, text: str) -> None:
        self._declare(name, text, True)

    def _declare(self, name: str, text: str, is_map: bool) -> None:
        new = NftSet(text.strip("{ }").partition(" ; comment")[0].removesuffix(";").strip(), is_map, _comment(text))
        if self.sets.setdefault(name, new) != new:
            raise Refused("exists with other properties")
        self.elements.setdefault(name, {})

    def _flush_set(self, name: str, _: str) -> None:
        if name not in self.sets:
            raise Refused("no such set")
        self.elements[name] = {}

    _flush_map = _flush_set

    def _delete_set(self, name: str, _: str) -> None:
        if name not in self.sets:
            raise Refused("no such set")
        if any(name in named_sets(r) for c in self.chains.values() for r in c.rules):
            raise Refused("Device or resource busy")
        del self.sets[name], self.elements[name]

    _delete_map = _delete_set

    def _add_element(self, name: str, text: str) -> None:
        held, key, verdict = self._element(name, text)
        for to in targets(verdict):
            self._chain(to)
        same = next((k for k in held if plain_key(k) == plain_key(key)), None)
        if same is not None and held[same] != verdict:
            raise Refused("File exists")
        if same is None:
            held[key] = verdict

    def _delete_element(self, name: str, text: str) -> None:
        held, key, _ = self._element(name, text)
        same = next((k for k in held if plain_key(k) == plain_key(key)), None)
        if same is None:
            raise Refused("no such element")
        del held[same]

    def _element(self, name: str, text: str) -> tuple[dict[str, str], str, str]:
        if name not in self.sets:
            raise Refused("no such set")
        inside = text.strip().removeprefix("{").removesuffix("}").strip()
        if self.sets[name].is_map and " : " in inside:
            key, _, verdict = inside.rpartition(" : ")
            return self.elements[name], key.strip(), verdict.strip()
        return self.elements[name], inside, ""

    def _chain(self, name: str) -> NftChain:
        found = self.chains.get(name)
        if found is None:
            raise Refused(f"no chain {name}")
        return found

    def done(self) -> NftTable | None:
        have = self.have
        if have is None:
            return None
        return NftTable(have.family, have.name, have.comment, self.chains, self.sets, self.elements)


def _comment(text: str) -> str:
    return text.partition('comment "')[2].partition('"')[0]
