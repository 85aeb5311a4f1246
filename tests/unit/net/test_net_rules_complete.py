"""`nsk8s rules` of every Service of the table, together, tell every rule that kube-proxy writes for Services; and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nsk8s.net import nftruletree, nftset, ruletree

GOLDEN = Path(__file__).parents[2] / "golden"
GENERAL = re.compile(r"KUBE-(MARK-|POSTROUTING|FORWARD|FIREWALL|PROXY-CANARY)")
"""What is there for all Services."""


def told(branches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for b in branches for one in (b, *told(b["rules"]))]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_iptables(family: str) -> None:
    text = re.sub(r"^-A", "[0:0] -A", (GOLDEN / f"proxy_iptables_{family}.txt").read_text(), flags=re.M)
    counted = ruletree.read(text)
    found = [
        rule for name in ruletree.services(counted) for rule in told([ruletree.as_json(b) for b in ruletree.tree(counted, name, {})])
    ]
    every = {
        (table, chain, rule.text)
        for (table, chain), rules in counted.chains.items()
        for rule in rules
        if chain.startswith("KUBE-") and not GENERAL.match(chain) and not rule.text.endswith("-j KUBE-NODEPORTS")
    }
    assert len(every) > 100
    assert {(r["table"], r["chain"], r["rule"]) for r in found} == every
    assert [r for r in found if not r["meaning"]] == []


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_nftables(family: str) -> None:
    table = nftset.apply(None, (GOLDEN / f"proxy_nftables_{family}.txt").read_text())
    assert table is not None
    listing = nftruletree.of(table)
    found = [
        rule for name in nftruletree.services(listing) for rule in told([ruletree.as_json(b) for b in nftruletree.tree(listing, name, {})])
    ]
    own = {c for c in listing.chains if re.match(r"(service|external|local|firewall|endpoint)-[A-Z0-9]{8}-", c)}
    assert len(own) > 50
    assert {r["chain"] for r in found if not r["chain"].startswith("@")} == own
    assert sum(r["chain"].startswith("@") for r in found) == len(listing.elements)
    assert [r for r in found if not r["meaning"]] == []
