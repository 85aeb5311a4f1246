"""The nftables rules of one Service as a tree, with a sentence for each: `nsk8s rules` for kube-proxy in nftables mode. Pure.

Read from `nft list table`. Rules carry no counters there, as upstream writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nsk8s.net.nftset import NftTable
from nsk8s.net.ruletree import Branch

_VERDICT = re.compile(r"^(?P<key>.*?)(?: comment \"(?P<comment>[^\"]*)\")? : (?P<verdict>.+)$")
_COMMENT = re.compile(r' comment "[^"]*"$')
_JUMP = re.compile(r"\b(?:goto|jump) (\S+)$")
_CHOICES = re.compile(r"^(?P<match>.*?)\s*numgen random mod (?P<of>\d+) vmap \{ (?P<verdicts>.*) \}$")
_SERVICE = re.compile(r"^(?:service|external|local|firewall)-[A-Z0-9]{8}-(?P<service>[^/]+/[^/]+)/[^/]+/.*$")
_ENDPOINT = re.compile(r"^endpoint-[A-Z0-9]{8}-.*__(?P<ip>[^/]+)/(?P<port>\d+)$")
MAPS = ("firewall-ips", "service-ips", "no-endpoint-services", "service-nodeports", "no-endpoint-nodeports")
"""Where packets enter the chains of a Service, in the order a packet meets them."""


@dataclass(frozen=True)
class Element:
    """One entry of a verdict map: `10.96.0.1 . tcp . 443` → `goto service-…`."""

    map: str
    key: str
    verdict: str
    service: str


@dataclass
class Listing:
    """`nft list table`: chain → rules in order, and the elements of the maps that packets are looked up in."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    elements: list[Element] = field(default_factory=list)


def read(text: str) -> Listing:
    """What is neither a chain's rule nor an element of `MAPS` is passed over."""
    listing = Listing()
    kind, name, pending = "", "", ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.endswith("{") and line.split(" ")[0] in ("chain", "map", "set", "table"):
            kind, name = line.split(" ")[:2]
            if kind == "chain":
                listing.chains[name] = []
        elif line == "}":
            kind = ""
        elif kind == "map" and (pending or line.startswith("elements = {")):
            pending += " " + line
            if line.endswith("}"):
                inside = pending.partition("{")[2].rpartition("}")[0]
                listing.elements += [e for e in (_element(name, part) for part in inside.split(",")) if e is not None]
                pending = ""
        elif kind == "chain" and line and not line.startswith(("type ", "comment ")):
            listing.chains[name].append(line)
    return listing


def of(table: NftTable) -> Listing:
    """The same from a table as a value, for rules that are in no kernel."""
    listing = Listing({name: list(chain.rules) for name, chain in table.chains.items()})
    for name, held in table.elements.items():
        listing.elements += [e for e in (_element(name, f"{key} : {verdict}") for key, verdict in held.items()) if e is not None]
    return listing


def _element(name: str, text: str) -> Element | None:
    match = _VERDICT.match(text.strip())
    if match is None or name not in MAPS:
        return None
    jump = _JUMP.search(match["verdict"])
    owner = _SERVICE.match(jump[1]) if jump else None
    # A Service without endpoints has no chain: the comment says whose the element is.
    said = (match["comment"] or "").partition(":")[0]
    return Element(name, match["key"].strip(), match["verdict"], owner["service"] if owner else said)


def services(listing: Listing) -> dict[str, list[Element]]:
    """namespace/name → the elements by which packets enter the Service's chains, or are refused. Sorted by name."""
    found: dict[str, list[Element]] = {}
    for element in sorted(listing.elements, key=lambda e: MAPS.index(e.map)):
        if element.service:
            found.setdefault(element.service, []).append(element)
    return dict(sorted(found.items()))


def tree(listing: Listing, service: str, pods: Mapping[str, str]) -> list[Branch]:
    """The Service's rules from every map that leads to them; `pods` maps an endpoint's address to its name.

    A chain that is reached twice is written out the first time only.
    """
    shown: set[str] = set()
    out = []
    for e in services(listing).get(service, []):
        meaning, below = _follow(listing, e.verdict, _entry(e), pods, shown)
        out.append(_branch(f"@{e.map}", f"{e.key} : {e.verdict}", meaning, below))
    return out


def _branch(chain: str, text: str, meaning: str, below: tuple[Branch, ...]) -> Branch:
    inside = not chain.startswith("@")
    return Branch(text if inside else f"{chain} {text}", meaning, inside, {"chain": chain, "rule": text}, None, below)


def _follow(
    listing: Listing, text: str, meaning: str, pods: Mapping[str, str], shown: set[str]
) -> tuple[str, tuple[Branch, ...]]:
    """(sentence, rules below) of something that may end in a jump to a Service's or endpoint's chain."""
    jump = _JUMP.search(text)
    name = jump[1] if jump else ""
    if not (_SERVICE.match(name) or _ENDPOINT.match(name)):
        return meaning, ()
    if name in shown:
        return f"{meaning} (written out above)", ()
    shown.add(name)
    return meaning, tuple(b for rule in listing.chains.get(name, []) for b in _rule(listing, name, rule, pods, shown))


def _rule(listing: Listing, chain: str, rule: str, pods: Mapping[str, str], shown: set[str]) -> Iterator[Branch]:
    rule = _COMMENT.sub("", rule)
    choices = _CHOICES.match(rule)
    if choices is None:
        meaning, below = _follow(listing, rule, sentence(chain, rule, pods), pods, shown)
        yield _branch(chain, rule, meaning, below)
        return
    number = int(choices["of"])
    share = "the only endpoint" if number == 1 else f"chosen for {1 / number:.0%} of new connections"
    drawn = []
    for verdict in map(str.strip, choices["verdicts"].split(",")):
        meaning, below = _follow(listing, verdict.partition(" : ")[2], share, pods, shown)
        drawn.append(_branch(chain, verdict, meaning, below))
    text = f"{choices['match']} numgen random mod {number} vmap".strip()
    yield _branch(chain, text, "a die is thrown for each new connection", tuple(drawn))


def _entry(element: Element) -> str:
    parts = element.key.split(" . ")
    to = f"{parts[0]} port {parts[2]}/{parts[1]}" if len(parts) == 3 else f"port {parts[1]}/{parts[0]} of the node itself"
    if element.map.startswith("no-endpoint"):
        refused = "dropped without an answer" if element.verdict.startswith("drop") else "answered with an ICMP port-unreachable"
        return f"to {to}: {refused}, as there is no endpoint"
    if element.map == "firewall-ips":
        return f"to {to}: only from the source ranges below"
    if "goto external-" in element.verdict:
        return f"to {to}: as from outside the cluster"
    only = "goto local-" in element.verdict
    return f"to {to}: " + ("endpoints on this node only (traffic policy Local)" if only else "one of the endpoints")


def sentence(chain: str, rule: str, pods: Mapping[str, str]) -> str:
    """What one rule does, in words."""
    if " dnat to " in f" {rule}":
        address = rule.rpartition(" ")[2]
        who = pods.get(address.rpartition(":")[0].strip("[]"), "")
        return f"rewrites the destination to {address}" + (f" ({who})" if who else "")
    if rule.startswith("update @affinity"):
        return "remembers the client, so that it comes here again (session affinity)"
    if "@affinity-" in rule:
        return "a client that is remembered goes to the endpoint it had (session affinity)"
    if rule.endswith("jump mark-for-masquerade"):
        if _ENDPOINT.match(chain):
            own = rule.split("saddr ")[1].split()[0]  # the chain's name has an IPv6 address with dots
            return f"marked for masquerade when {own} is its own client: the answer must come back this way (hairpin)"
        if "saddr !=" in rule:
            pods_range = rule.split("saddr != ")[1].split()[0]
            return f"marked for masquerade when the client is not a pod ({pods_range}): the answer must come back by this node"
        if "fib saddr type local" in rule:
            return "marked for masquerade when the client is this node itself"
        return "marked for masquerade: the endpoint will see this node's address, and answer by it"
    if "goto local-" in rule:
        return "to endpoints on this node only (traffic policy Local)"
    if "goto service-" in rule:
        if "fib saddr type local" in rule:
            return "when the client is this node itself: to one of all endpoints"
        source = rule.partition("saddr ")[2].partition(" ")[0]
        return (f"when the client is a pod ({source}): " if source else "") + "to one of all endpoints"
    if rule.endswith("drop"):
        ranges = rule.partition("saddr != {")[2].partition("}")[0].strip()
        return "drops the packet without an answer" + (f", unless it comes from {ranges}" if ranges else "")
    return ""
