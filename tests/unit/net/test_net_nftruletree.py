"""`nsk8s rules` in nftables mode: what is read from `nft list table`, the tree, the sentences."""

from __future__ import annotations

from nsk8s.net import nftruletree, ruletree

LISTING = """table ip kube-proxy {
    comment "rules for kube-proxy"
    set cluster-ips {
        type ipv4_addr
        elements = { 10.96.0.1, 10.96.135.28 }
    }
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        comment "ClusterIP, ExternalIP and LoadBalancer IP traffic"
        elements = { 10.96.135.28 . tcp . 80 : goto service-2M73P36B-default/hello/tcp/http,
                 10.96.9.9 . tcp . 80 : goto service-AAAAAAAA-default/sticky/tcp/ }
    }
    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { tcp . 30080 : goto external-2M73P36B-default/hello/tcp/http }
    }
    map no-endpoint-services {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.7.7 . tcp . 80 comment "default/empty:http" : goto reject-chain,
                 10.96.7.8 . tcp . 80 comment "default/away" : drop }
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
    chain external-2M73P36B-default/hello/tcp/http {
        jump mark-for-masquerade
        goto service-2M73P36B-default/hello/tcp/http
    }
    chain service-2M73P36B-default/hello/tcp/http {
        ip daddr 10.96.135.28 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        numgen random mod 2 vmap { 0 : goto endpoint-HLXENMUC-default/hello/tcp/http__10.244.1.3/8080, 1 : goto endpoint-6QTHIKH4-default/hello/tcp/http__10.244.2.2/8080 }
    }
    chain endpoint-HLXENMUC-default/hello/tcp/http__10.244.1.3/8080 {
        ip saddr 10.244.1.3 jump mark-for-masquerade
        meta l4proto tcp dnat to 10.244.1.3:8080
    }
    chain endpoint-6QTHIKH4-default/hello/tcp/http__10.244.2.2/8080 {
        ip saddr 10.244.2.2 jump mark-for-masquerade
        meta l4proto tcp dnat to 10.244.2.2:8080
    }
    chain service-AAAAAAAA-default/sticky/tcp/ {
        ip saddr @affinity-BBBBBBBB-default/sticky/tcp/__10.244.1.3/8080 goto endpoint-BBBBBBBB-default/sticky/tcp/__10.244.1.3/8080
        numgen random mod 1 vmap { 0 : goto endpoint-BBBBBBBB-default/sticky/tcp/__10.244.1.3/8080 }
    }
    chain endpoint-BBBBBBBB-default/sticky/tcp/__10.244.1.3/8080 {
        ip saddr 10.244.1.3 jump mark-for-masquerade
        update @affinity-BBBBBBBB-default/sticky/tcp/__10.244.1.3/8080 { ip saddr }
        meta l4proto tcp dnat to 10.244.1.3:8080
    }
}
"""

DRAWN = """\
@service-ips 10.96.135.28 . tcp . 80 : goto service-2M73P36B-default/hello/tcp/http
  # to 10.96.135.28 port 80/tcp: one of the endpoints
├ ip daddr 10.96.135.28 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
  # marked for masquerade when the client is not a pod (10.244.0.0/16): the answer must come back by this node
└ numgen random mod 2 vmap
  # a die is thrown for each new connection
  ├ 0 : goto endpoint-HLXENMUC-default/hello/tcp/http__10.244.1.3/8080
  # chosen for 50% of new connections
  │ ├ ip saddr 10.244.1.3 jump mark-for-masquerade
  # marked for masquerade when 10.244.1.3 is its own client: the answer must come back this way (hairpin)
  │ └ meta l4proto tcp dnat to 10.244.1.3:8080
  # rewrites the destination to 10.244.1.3:8080 (pod web-1 on node1)
  └ 1 : goto endpoint-6QTHIKH4-default/hello/tcp/http__10.244.2.2/8080
  # chosen for 50% of new connections
    ├ ip saddr 10.244.2.2 jump mark-for-masquerade
  # marked for masquerade when 10.244.2.2 is its own client: the answer must come back this way (hairpin)
    └ meta l4proto tcp dnat to 10.244.2.2:8080
  # rewrites the destination to 10.244.2.2:8080
@service-nodeports tcp . 30080 : goto external-2M73P36B-default/hello/tcp/http
  # to port 30080/tcp of the node itself: as from outside the cluster
├ jump mark-for-masquerade
  # marked for masquerade: the endpoint will see this node's address, and answer by it
└ goto service-2M73P36B-default/hello/tcp/http
  # to one of all endpoints (written out above)
"""


def draw(service: str, pods: dict[str, str] | None = None) -> str:
    branches = nftruletree.tree(nftruletree.read(LISTING), service, pods or {})
    return "".join(f"{mark}{b.label}\n  # {b.sentence}\n" for b, mark, _ in ruletree.lines(branches))


def test_the_whole_tree_of_a_service() -> None:
    assert draw("default/hello", {"10.244.1.3": "pod web-1 on node1"}) == DRAWN


def test_only_services_with_elements_are_listed() -> None:
    assert {name: [e.map for e in found] for name, found in nftruletree.services(nftruletree.read(LISTING)).items()} == {
        "default/away": ["no-endpoint-services"],
        "default/empty": ["no-endpoint-services"],
        "default/hello": ["service-ips", "service-nodeports"],
        "default/sticky": ["service-ips"],
    }


def test_without_endpoints_packets_are_refused_or_dropped() -> None:
    assert "# to 10.96.7.7 port 80/tcp: answered with an ICMP port-unreachable, as there is no endpoint" in draw("default/empty")
    assert "# to 10.96.7.8 port 80/tcp: dropped without an answer, as there is no endpoint" in draw("default/away")


def test_affinity_has_sentences() -> None:
    drawn = draw("default/sticky")
    assert "# a client that is remembered goes to the endpoint it had (session affinity)" in drawn
    assert "# remembers the client, so that it comes here again (session affinity)" in drawn
    assert "# the only endpoint" in drawn


def test_json_holds_every_rule() -> None:
    (first, _) = (ruletree.as_json(b) for b in nftruletree.tree(nftruletree.read(LISTING), "default/hello", {}))
    assert first["chain"] == "@service-ips"
    assert "packets" not in first
    assert [r["rule"] for r in first["rules"][1]["rules"][0]["rules"]] == [
        "ip saddr 10.244.1.3 jump mark-for-masquerade", "meta l4proto tcp dnat to 10.244.1.3:8080",
    ]  # fmt: skip


def test_ipv6_endpoints_are_named_by_their_address() -> None:
    chain = "endpoint-IZVPP55O-default/web/tcp/__fd00.10.244.1..2/8080"
    hairpin = nftruletree.sentence(chain, "ip6 saddr fd00:10:244:1::2 jump mark-for-masquerade", {})
    assert hairpin.startswith("marked for masquerade when fd00:10:244:1::2 is its own client")
    target = nftruletree.sentence(chain, "meta l4proto tcp dnat to [fd00:10:244:1::2]:8080", {"fd00:10:244:1::2": "pod web on node1"})
    assert target == "rewrites the destination to [fd00:10:244:1::2]:8080 (pod web on node1)"


def test_ways_past_the_policy_and_source_ranges_say_whose_they_are() -> None:
    """As `nft list table` shows them, comments and all."""
    chain = "external-ABCDEFGH-default/web/tcp/"
    jump = "goto service-ABCDEFGH-default/web/tcp/"
    listing = nftruletree.Listing(
        {
            chain: [
                f'ip saddr 10.244.0.0/16 {jump} comment "short-circuit pod traffic"',
                'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
                f'fib saddr type local {jump} comment "short-circuit local traffic"',
            ],
            "firewall-ABCDEFGH-default/web/tcp/": ["ip saddr != { 203.0.113.0/24 } drop"],
            "service-ABCDEFGH-default/web/tcp/": ["numgen random mod 2 vmap { 0 : goto endpoint-A , 1 : goto endpoint-B }"],
        },
        [
            nftruletree.Element("firewall-ips", "10.100.0.1 . tcp . 80", "goto firewall-ABCDEFGH-default/web/tcp/", "default/web"),
            nftruletree.Element("service-ips", "10.100.0.1 . tcp . 80", f"goto {chain}", "default/web"),
        ],
    )
    said = {b.label: b.sentence for top in nftruletree.tree(listing, "default/web", {}) for b in (top, *top.below)}
    assert said[f"ip saddr 10.244.0.0/16 {jump}"] == "when the client is a pod (10.244.0.0/16): to one of all endpoints"
    assert said["fib saddr type local jump mark-for-masquerade"] == "marked for masquerade when the client is this node itself"
    assert said[f"fib saddr type local {jump}"] == "when the client is this node itself: to one of all endpoints (written out above)"
    assert said["ip saddr != { 203.0.113.0/24 } drop"] == "drops the packet without an answer, unless it comes from 203.0.113.0/24"
    (_, external) = nftruletree.tree(listing, "default/web", {})
    assert [b.label for b in external.below[0].below[0].below] == ["0 : goto endpoint-A", "1 : goto endpoint-B"]
