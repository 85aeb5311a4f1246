"""The iptables rules of one Service as a tree, each with its counters and a sentence: what `nsk8s rules` prints. Pure.

Read from `iptables-save -c`, not from what kube-proxy meant: a rule that somebody else put there, or took away, shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nsk8s.net.chainset import ChainSet, target, words

USERSPACE = ("KUBE-PORTALS-", "KUBE-NODEPORT-")
"""What the names of userspace mode's chains begin with."""
PER_SERVICE = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
_LINE = re.compile(r"\[(\d+):(\d+)\] -A (\S+) ?(.*)")
_PORT = re.compile(r"(?:masquerade traffic for )?([^/ ]+/[^: ]+)(?::([^ ]+))?")


@dataclass(frozen=True)
class Rule:
    """One rule as the kernel holds it."""

    table: str
    chain: str
    text: str
    packets: int | None
    bytes: int

    @property
    def target(self) -> str:
        return target(self.text)

    @property
    def comment(self) -> str:
        return self.option("--comment")

    def option(self, name: str) -> str:
        """The word after `name`; empty when the rule has no such option."""
        parts = words(self.text)
        return parts[parts.index(name) + 1] if name in parts[:-1] else ""

    def negated(self, name: str) -> bool:
        parts = words(self.text)
        return name in parts and parts.index(name) > 0 and parts[parts.index(name) - 1] == "!"


@dataclass(frozen=True)
class Branch:
    """A rule of the tree, and the rules of the chain it jumps to, when that chain belongs to the Service.

    `label` is what is drawn; `inside` says that it stands in the Service's own chain; `packets` is None where none are counted.
    """

    label: str
    sentence: str
    inside: bool
    detail: Mapping[str, Any]
    packets: int | None = None
    below: tuple[Branch, ...] = ()


@dataclass
class Counted:
    """`iptables-save -c`: (table, chain) → rules in order."""

    chains: dict[tuple[str, str], list[Rule]] = field(default_factory=dict)


def read(text: str) -> Counted:
    """Lines that are no rules are passed over."""
    counted, table = Counted(), ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif (match := _LINE.match(line)) is not None:
            packets, size, chain, rule = match.groups()
            counted.chains.setdefault((table, chain), []).append(Rule(table, chain, rule, int(packets), int(size)))
    return counted


def of(chains: ChainSet) -> Counted:
    """The same from rules as a value, for rules that are in no kernel: nothing is counted."""
    counted = Counted()
    for table, held in chains.tables.items():
        for name, chain in held.items():
            counted.chains[table, name] = [Rule(table, name, text, None, 0) for text in chain.rules]
    return counted


def service_of(rule: Rule) -> tuple[str, str]:
    """(namespace/name, port name) that a rule's comment names; empty strings for none."""
    match = _PORT.match(rule.comment)
    return (match[1], match[2] or "") if match else ("", "")


def services(counted: Counted) -> dict[str, list[Rule]]:
    """namespace/name → the rules by which packets enter the Service's own chains, or are refused. Sorted by name."""
    found: dict[str, list[Rule]] = {}
    for rule in _entries(counted):
        name, _ = service_of(rule)
        if name:
            found.setdefault(name, []).append(rule)
    return dict(sorted(found.items()))


def _entries(counted: Counted) -> Iterator[Rule]:
    """The rules outside the Services' own chains."""
    for (_, chain), rules in counted.chains.items():
        if not chain.startswith(PER_SERVICE):
            yield from rules


def tree(counted: Counted, service: str, pods: Mapping[str, str]) -> list[Branch]:
    """The Service's rules from every place where packets enter them; `pods` maps an endpoint's address to its name.

    A chain that is reached twice is written out the first time only.
    """
    own = (rule for rule in _entries(counted) if service in rule.text and service_of(rule)[0] == service)
    entries = sorted(own, key=lambda rule: rule.chain == "KUBE-NODEPORTS")
    shown: set[tuple[str, str]] = set()
    return [_branch(counted, rule, pods, 1.0, shown) for rule in entries]


def _branch(counted: Counted, rule: Rule, pods: Mapping[str, str], share: float, shown: set[tuple[str, str]]) -> Branch:
    words_for = sentence(rule, pods, share)
    key = rule.table, rule.target
    below: list[Branch] = []
    if key in shown:
        words_for += " (written out above)"
    elif rule.target.startswith(PER_SERVICE):
        shown.add(key)
        below = _chain(counted, key, pods, shown)
    detail = {"table": rule.table, "chain": rule.chain, "rule": rule.text, "target": rule.target, "bytes": rule.bytes}
    return Branch(short(rule), words_for, rule.chain.startswith(PER_SERVICE), detail, rule.packets, tuple(below))


def _chain(counted: Counted, key: tuple[str, str], pods: Mapping[str, str], shown: set[tuple[str, str]]) -> list[Branch]:
    below = []
    left = 1.0
    for inner in counted.chains.get(key, []):
        chance = float(inner.option("--probability") or 1.0)
        is_choice = inner.target.startswith("KUBE-SEP-") and "recent" not in words(inner.text)
        below.append(_branch(counted, inner, pods, left * chance if is_choice else 1.0, shown))
        if is_choice:
            left *= 1 - chance
    return below


def sentence(rule: Rule, pods: Mapping[str, str], share: float = 1.0) -> str:
    """What one rule does, in words. `share` is the part of new connections that a choice of endpoint gets."""
    to = rule.target
    if rule.chain.startswith(USERSPACE):
        return _portal(rule)
    if to == "DNAT":
        address = rule.option("--to-destination")
        who = pods.get(address.rpartition(":")[0].strip("[]"), "")
        return f"rewrites the destination to {address}" + (f" ({who})" if who else "")
    if to == "KUBE-MARK-MASQ":
        return _masquerade(rule)
    if to in ("REJECT", "DROP"):
        what = "answers with an ICMP port-unreachable" if to == "REJECT" else "drops the packet without an answer"
        return f"{what}: {rule.comment.partition(' ')[2] or 'no endpoint'}"
    if to.startswith("KUBE-SEP-"):
        if "recent" in words(rule.text):
            return f"a client seen in the last {rule.option('--seconds')} s goes to the endpoint it had (session affinity)"
        return f"chosen for {share:.0%} of new connections" if share < 0.995 else "the only endpoint"
    if to.startswith("KUBE-EXT-"):
        where = _where(rule) if rule.option("--dport") else f"from {rule.option('-s')}"
        return f"{where}: as from outside the cluster"
    if to.startswith("KUBE-FW-"):
        return f"{_where(rule)}: only from the source ranges below"
    if to.startswith("KUBE-SVL-"):
        return "to endpoints on this node only (traffic policy Local)"
    if to.startswith("KUBE-SVC-"):
        return f"{_where(rule)}: one of all endpoints" if rule.option("--dport") else f"{_who(rule)}to one of all endpoints"
    if to == "ACCEPT" and rule.comment.endswith("health check node port"):
        return f"lets in who asks port {rule.option('--dport')} whether this node has endpoints (the health check node port)"
    return rule.comment


def _portal(rule: Rule) -> str:
    if rule.target == "ACCEPT":
        return f"lets new connections in to port {rule.option('--dport')}, where kube-proxy waits for this Service's"
    port = rule.option("--to-ports") or rule.option("--to-destination").rpartition(":")[2]
    who = "this node itself sends" if rule.chain.endswith("-HOST") else "arrives here"
    return f"what {who} {_where(rule)}: into kube-proxy's own socket, port {port}; it takes turns among the ready endpoints"


def _where(rule: Rule) -> str:
    address, port, protocol = rule.option("-d").partition("/")[0], rule.option("--dport"), rule.option("-p")
    if not address:
        return f"to port {port}/{protocol} of the node itself"
    kind = rule.comment.partition(" ")[2]
    return f"to {address} port {port}/{protocol}" + (f", the {kind}" if kind else "")


def _who(rule: Rule) -> str:
    """Whose packets a way past the traffic policy is for."""
    if rule.option("-s"):
        return f"when the client is a pod ({rule.option('-s')}): "
    return "when the client is this node itself: " if "src-type" in rule.text else ""


def _masquerade(rule: Rule) -> str:
    source = rule.option("-s").partition("/")[0]
    if rule.chain.startswith("KUBE-SEP-"):
        return f"marked for masquerade when {source} is its own client: the answer must come back this way (hairpin)"
    if rule.negated("-s"):
        return f"marked for masquerade when the client is not a pod ({rule.option('-s')}): the answer must come back by this node"
    if "src-type" in rule.text:
        return "marked for masquerade when the client is this node itself"
    return "marked for masquerade: the endpoint will see this node's address, and answer by it"


def as_json(branch: Branch) -> dict[str, Any]:
    counted = {} if branch.packets is None else {"packets": branch.packets}
    return {**branch.detail, **counted, "meaning": branch.sentence, "rules": [as_json(b) for b in branch.below]}


def lines(branches: Sequence[Branch], indent: str = "") -> Iterator[tuple[Branch, str, str]]:
    """Each rule, depth first, with what is drawn in front of it and in front of a second line about it."""
    for branch in branches:
        last = branch is branches[-1]
        continued = indent + (("  " if last else "│ ") if branch.inside else "")
        yield branch, indent + (("└ " if last else "├ ") if branch.inside else ""), continued + ("│ " if branch.below else "  ")
        yield from lines(branch.below, continued)


def short(rule: Rule) -> str:
    """The rule without what says nothing to a reader (comment, names of match modules); one in a shared chain with its chain."""
    out: list[str] = []
    parts = iter(words(rule.text))
    for word in parts:
        if word in ("-m", "--mode", "--comment"):
            next(parts, "")
        elif word == "-j":
            out.append("→")
        elif word == "--probability":
            out.append(f"--probability {float(next(parts)):.4g}")
        elif word != "--random-fully":
            out.append(word.removesuffix("/32").removesuffix("/128"))
    out = out or ["(a comment, no more)"]
    return " ".join(out if rule.chain.startswith(PER_SERVICE) else [rule.chain, *out])
