"""Golden rule sets: everything that kube-proxy writes for the table of services (tests/proxy_table.py), as literal text.

After a wanted change, write them anew with NSK8S_WRITE_GOLDEN=1 and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from proxy_table import CASES, POD_CIDR, node_object, objects
from test_proxy_table_traced import kit

from nsk8s.net import chainset, nftset
from nsk8s.proxy.preview import preview

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("mode", ["iptables", "nftables", "userspace", "ipvs"])
def test_the_whole_rule_set(mode: str, ipv6: bool) -> None:
    path = GOLDEN / f"proxy_{mode}_{'ipv6' if ipv6 else 'ipv4'}.txt"
    dump = kit(mode, ipv6).dump()
    if os.environ.get("NSK8S_WRITE_GOLDEN"):
        path.write_text(dump)
    assert dump == path.read_text()


@pytest.mark.parametrize("mode", ["iptables", "nftables", "userspace"])
def test_rules_that_are_only_shown_are_those_that_are_written(mode: str) -> None:
    """`nsk8s rules --mode`."""
    made = [o for index, each in enumerate(CASES, 1) for o in objects(index, each)]
    services, slices = ([o for o in made if o["kind"] == kind] for kind in ("Service", "EndpointSlice"))
    shown = preview(mode, services, slices, node_object(), cluster_cidr=POD_CIDR)
    text = nftset.render(shown.nftables) if shown.nftables else chainset.render(shown.iptables or chainset.ChainSet())
    assert text == (GOLDEN / f"proxy_{mode}_ipv4.txt").read_text()


def test_names_are_upstreams() -> None:
    """Taken from upstream's own golden tests: one hash that is wrong would be wrong everywhere."""
    from nsk8s.proxy import names

    assert names.nft_base("ns1/svc1/tcp/p80") == "ULMVA6XW-ns1/svc1/tcp/p80"
    assert names.nft_base("ns1/svc1/tcp/p80__10.180.0.1/80") == "5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"
    assert names.nft_base("ns5/svc5/tcp/p80__10.180.0.3/80") == "GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80"
    longest = names.nft_base("x" * 300)
    assert len(longest) == 240
    assert longest.endswith("...")
