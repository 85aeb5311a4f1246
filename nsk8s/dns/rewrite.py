"""Asking something else than the client asked, and telling it as if nothing had happened. Pure.

Upstream: CoreDNS' plugin/rewrite; the fields name, type and ttl. Names are texts in lower case with a dot at their end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dnslib import QTYPE, DNSLabel

MATCHES = ("exact", "prefix", "suffix", "substring", "regex")
MAX_TTL_S = 2**31 - 1
_TARGET = {"CNAME": "label", "PTR": "label", "NS": "label", "DNAME": "label", "MX": "label", "SRV": "target", "SOA": "mname"}
"""The name in a record's data that `answer value` and `answer auto` change."""

Undo = Callable[[Any], None]
"""Changes one resource record (dnslib's RR) of the reply."""


@dataclass(frozen=True)
class Pattern:
    """How a name is found and what is put in its place."""

    how: str
    wanted: str
    instead: str = ""

    def apply(self, name: str) -> str | None:
        """The new name, or None if `name` does not match."""
        if self.how == "regex":
            found = re.search(self.wanted, name)
            if found is None:
                return None
            groups = (found.group(0), *found.groups(default=""))
            return re.sub(r"\{(\d+)\}", lambda m: groups[int(m[1])] if int(m[1]) < len(groups) else m[0], self.instead)
        if self.how == "exact":
            return self.instead if name == self.wanted else None
        if self.how == "prefix":
            return self.instead + name[len(self.wanted) :] if name.startswith(self.wanted) else None
        if self.how == "suffix":
            return name[: len(name) - len(self.wanted)] + self.instead if name.endswith(self.wanted) else None
        return name.replace(self.wanted, self.instead) if self.wanted in name else None


@dataclass(frozen=True)
class Rule:
    field: str
    """name, type, ttl"""
    pattern: Pattern
    goes_on: bool = False
    """`continue`: the next rule has its turn, too."""
    auto: bool = False
    answers: tuple[tuple[str, Pattern], ...] = ()
    """(name or value, what becomes of it in the reply)"""
    ttl_s: tuple[int, int] = (0, MAX_TTL_S)


@dataclass
class Rewritten:
    name: str
    type: str
    undo: list[Undo]


def pattern(how: str, wanted: str, instead: str) -> Pattern:
    """Raises ValueError with the reason."""
    if how == "regex":
        if len(wanted) > 10000:
            raise ValueError("regex pattern too long")
        try:
            groups = re.compile(wanted).groups
        except re.error as e:
            raise ValueError(f"invalid regex matching pattern: {wanted}: {e}") from None
        if any(int(n) > groups for n in re.findall(r"\{(\d+)\}", instead)):
            raise ValueError(f"({instead}) uses more subexpressions than its matching pattern ({wanted})")
        return Pattern(how, wanted, _normal(instead))
    if how not in MATCHES:
        raise ValueError(f"name rule supports only exact, prefix, suffix, substring, and regex name matching, received: {how}")
    dotted = how in ("exact", "suffix")
    return Pattern(how, _normal(wanted, dotted=dotted), _normal(instead, dotted=dotted))


def rule(words: Sequence[str], body: Sequence[Sequence[str]]) -> Rule:
    """Of the words behind `rewrite`, and the lines of its block. Raises ValueError with the reason."""
    words = [*words, *(word for line in body for word in line)]
    goes_on = words[:1] == ["continue"]
    if words[:1] in (["continue"], ["stop"]):
        words = words[1:]
    if len(words) < 3:
        raise ValueError("too few arguments")
    kind, *rest = words
    if kind == "type" and len(rest) == 2:
        for wrong in (t for t in rest if t.upper() not in QTYPE.reverse):
            raise ValueError(f"invalid type {wrong!r}")
        return Rule(kind, Pattern("exact", rest[0].upper(), rest[1].upper()), goes_on)
    if kind == "ttl" and len(rest) in (2, 3):
        how, wanted, seconds = rest if len(rest) == 3 else ("exact", *rest)
        return Rule(kind, pattern(how, wanted, ""), goes_on, ttl_s=_ttl_range(seconds))
    if kind != "name":
        raise ValueError(f"'{' '.join(words)}' is not supported by nsk8s' DNS (name, type and ttl are)")
    if len(rest) == 2:
        return Rule(kind, pattern("exact", *rest), goes_on)
    how, wanted, instead, *options = rest
    auto, answers = _answers(options)
    return Rule(kind, pattern(how.lower(), wanted, instead), goes_on, auto, answers)


def _answers(words: Sequence[str]) -> tuple[bool, tuple[tuple[str, Pattern], ...]]:
    """`answer auto`, `answer name FROM TO`, `answer value FROM TO`; only the first needs the word answer."""
    if words and words[0] != "answer":
        raise ValueError("exceeded the number of arguments for a non-answer rule")
    auto, found, left = False, [], list(words)
    while left:
        if left[0] == "answer":
            left = left[1:]
        if left[:1] == ["auto"]:
            auto, left = True, left[1:]
        elif left[:1] in (["name"], ["value"]) and len(left) >= 3:
            found.append((left[0], pattern("regex", left[1], left[2])))
            left = left[3:]
        else:
            raise ValueError(f"invalid answer rule '{' '.join(left)}'")
    if auto and any(what == "name" for what, _ in found):
        raise ValueError("auto name answer rule cannot be combined with explicit name answer rules")
    return auto, tuple(found)


def _ttl_range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d*)(-?)(\d*)", text)
    if found is None or not (found[1] or found[3]):
        raise ValueError(f"invalid ttl {text!r}")
    low = int(found[1] or 0)
    high = int(found[3] or MAX_TTL_S) if found[2] else low
    if not low <= high <= MAX_TTL_S:
        raise ValueError(f"invalid ttl {text!r}")
    return low, high


def _normal(name: str, *, dotted: bool = False) -> str:
    name = name.lower()
    return name + "." if dotted and not name.endswith(".") else name


def rewrite(rules: Sequence[Rule], name: str, kind: str) -> Rewritten | None:
    """What is asked in the place of `name` (lower case, dot at the end) and `kind`; None if no rule matches."""
    found: Rewritten | None = None
    for rule in rules:
        asked, asked_type = (found.name, found.type) if found else (name, kind)
        undo: list[Undo] = []
        if rule.field == "type":
            if asked_type != rule.pattern.wanted:
                continue
            asked_type = rule.pattern.instead
        else:
            instead = rule.pattern.apply(asked)
            if instead is None:
                continue
            if rule.field == "ttl":
                undo = [_ttl(*rule.ttl_s)]
            else:
                undo, asked = _undo(rule, asked, instead), _dot(instead)
        found = Rewritten(asked, asked_type, [*(found.undo if found else ()), *undo])
        if not rule.goes_on:
            break
    return found


def _dot(name: str) -> str:
    return name if name.endswith(".") else name + "."


def _undo(rule: Rule, asked: str, instead: str) -> list[Undo]:
    made: list[Undo] = []
    if rule.pattern.how == "exact" or (rule.auto and rule.pattern.how != "suffix"):
        below = re.compile(rf"(^|\.){re.escape(_dot(instead))}$")
        made = _both(lambda n: below.sub(lambda m: m[1] + asked, n))
    elif rule.auto:
        back = Pattern("suffix", rule.pattern.instead, rule.pattern.wanted)
        made = _both(lambda n: back.apply(n) or n)
    for what, each in rule.answers:
        made.append((_name if what == "name" else _value)(lambda n, p=each: p.apply(n) or n))  # type: ignore[misc]
    return made


def _both(change: Callable[[str], str]) -> list[Undo]:
    return [_name(change), _value(change)]


def _name(change: Callable[[str], str]) -> Undo:
    def undo(rr: Any) -> None:
        rr.set_rname(_changed(rr.rname, change))

    return undo


def _value(change: Callable[[str], str]) -> Undo:
    def undo(rr: Any) -> None:
        attribute = _TARGET.get(QTYPE[rr.rtype])
        if attribute:
            setattr(rr.rdata, attribute, _changed(getattr(rr.rdata, attribute), change))

    return undo


def _changed(label: Any, change: Callable[[str], str]) -> Any:
    """A label as it is where nothing is changed (its spelling is the client's), else the new one."""
    was = b".".join(label.label).decode("latin-1") + "."
    now = change(was.lower())
    return label if now == was.lower() else DNSLabel(tuple(part.encode("latin-1") for part in now.strip(".").split(".")))


def _ttl(low: int, high: int) -> Undo:
    def undo(rr: Any) -> None:
        if QTYPE[rr.rtype] != "OPT":
            rr.ttl = min(max(rr.ttl, low), high)

    return undo
