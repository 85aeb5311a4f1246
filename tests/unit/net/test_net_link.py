"""A cable's settings: tc's units, what fits together, what is kept."""

from __future__ import annotations

import pytest

from nsk8s import link
from nsk8s.config import ClusterConfig
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import tcmsg
from nsk8s.link import LinkSettings
from nsk8s.net import topology


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (link.bits_per_second, "10mbit", 10_000_000),
        (link.bits_per_second, "1.5Gbit", 1_500_000_000),
        (link.bits_per_second, "100kbps", 800_000),
        (link.bits_per_second, "1mibit", 1_048_576),
        (link.bits_per_second, "64000", 64_000),
        (link.size_bytes, "32kb", 32_768),
        (link.size_bytes, "32kbit", 4_096),
        (link.size_bytes, "1500", 1_500),
        (link.microseconds, "20ms", 20_000),
        (link.microseconds, "1.5s", 1_500_000),
        (link.percent, "0.5%", 0.5),
    ],
)
def test_units_are_those_of_tc(read: object, text: str, value: float) -> None:
    assert read(text) == value  # type: ignore[operator]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"rate": "fast"}, "rate: 'fast' is not like 10mbit"),
        ({"rate": "-1mbit"}, "rate: '-1mbit' is not like 10mbit"),
        ({"rate": "9" * 400}, "' is not like 10mbit"),
        ({"rate": "1bit"}, "rate: '1bit' is no rate of a link"),
        ({"delay": "20"}, "delay: '20' is not like 20ms"),
        ({"delay": "2000s"}, "delay: '2000s' is more than a minute"),
        ({"loss": "101%"}, "loss: '101%' is more than all"),
        ({"burst": "32kb"}, "burst makes no sense without a rate"),
        ({"jitter": "1ms"}, "jitter makes no sense without a delay"),
        ({"mtu": 60}, "mtu: 60 is not between 68 and 65535"),
        ({"rate": "1gbit", "burst": "1kb"}, "burst: 1kb never lets a packet of 1500 bytes through"),
        ({"rate": "1gbit", "burst": "100gb"}, "burst: 100gb is more than a bucket holds"),
    ],
)
def test_what_makes_no_sense_is_named(document: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        link.from_document(document)


def test_changes_add_up_and_none_takes_away() -> None:
    one = LinkSettings().changed(rate="10mbit", burst="64kb").changed(offload=False).changed(mtu=1400)
    assert one.document() == {"rate": "10mbit", "burst": "64kb", "mtu": 1400, "offload": False}
    assert one.words() == "rate 10mbit, burst 64kb, mtu 1400, offload off"
    assert link.from_document(one.document()) == one
    assert one.changed(rate="none", offload=True).document() == {"mtu": 1400, "offload": True}
    assert LinkSettings().changed(down=True).changed(down=False).document() == {}


def test_a_bucket_lets_ten_milliseconds_through_at_once() -> None:
    assert link.burst_bytes(LinkSettings(rate="100mbit")) == 125_000
    assert link.burst_bytes(LinkSettings(rate="1mbit")) == link.MIN_BURST


def test_requests_are_those_of_tc() -> None:
    """`strace -xx tc qdisc replace dev lo root handle 2: netem limit 10000 delay 20ms 5ms loss 1%` sends this."""
    kind, flags, body = tcmsg.netem_set(1, tcmsg.Netem(20_000, 5_000, 1.0))
    assert (kind, flags) == (tcmsg.RTM_NEWQDISC, 0x500)
    assert body.hex() == (
        "00000000" "01000000" "00000200" "ffffffff" "00000000"
        "0a000100" "6e6574656d000000"
        "1c000200" "b4c40400" "10270000" "295c8f02" "00000000" "00000000" "2d310100"
    )  # fmt: skip
    assert tcmsg.place(tcmsg.tbf_set(7, tcmsg.tbf(8_000_000, 131_072), below_netem=True)[2]) == (7, 0x10000, 0x20001)


def test_racks_are_switches_with_subnets_of_their_own() -> None:
    config = ClusterConfig.model_validate({
        "racks": [{"name": "a", "subnet": "10.1.0.0/24"}, {"name": "b", "subnet": "10.2.0.0/24"}],
        "nodes": [{"name": "n1"}, {"name": "n2", "rack": "b"}],
    })  # fmt: skip
    from nsk8s.cluster.state import free_ip, new_state

    nodes = new_state(config, 6443).nodes
    assert [(n.name, n.ip, n.rack) for n in nodes] == [
        ("control-plane", "10.1.0.10", "a"), ("n1", "10.1.0.11", "a"), ("n2", "10.2.0.12", "b"),
    ]  # fmt: skip
    assert [str(free_ip(config, nodes, r)) for r in ("", "b")] == ["10.1.0.13", "10.2.0.13"]
    machines, cables = topology.infrastructure(config)
    assert [m.name for m in machines] == ["switch", "switch-b", "router", "client"]
    assert [(c.a.name, *c.a.addresses, c.b.machine) for c in cables if c.a.machine == "router"] == [
        ("eth0", "10.1.0.1/24", "switch"), ("eth2", "10.2.0.1/24", "switch-b"), ("eth1", "203.0.113.1/24", "client"),
    ]  # fmt: skip
    assert topology.node(config, "n2", "b").gateways == ("10.2.0.1",)
    assert topology.node_cable(config, "n2", config.rack("b").subnet[12], "b").b.machine == "switch-b"
    with pytest.raises(Nsk8sError, match="there is no rack 'c'"):
        config.rack("c")


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"racks": [{"name": "a", "subnet": "10.1.0.0/24"}], "nodes": [{"name": "n", "rack": "b"}]}, "n is in rack b, there are a"),
        ({"nodes": [{"name": "n", "rack": "b"}]}, "n is in rack b, there are no racks"),
        ({"racks": [{"name": "a", "subnet": "10.1.0.0/24"}] * 2}, "a name is used twice"),
        ({"racks": [{"name": "a", "subnet": "10.1.0.0/24"}], "subnets": {"nodes": "10.3.0.0/24"}}, "is not subnets.nodes"),
        ({"racks": [{"name": "a", "subnet": "10.1.0.0/24"}, {"name": "b", "subnet": "10.244.3.0/24"}]}, "rack b .* and subnets.pods"),
        ({"racks": [{"name": "a", "subnet": "10.1.0.0/24"}, {"name": "b", "subnet": "10.1.0.0/25"}]}, "rack b .* and rack a"),
        ({"racks": [{"name": "a", "subnet": "10.1.0.0/24"}, {"name": "b", "subnet": "10.2.0.0/28"}], "nodes": 5}, "rack b .* too small"),
        (
            {"racks": [{"name": "a", "subnet": "10.1.0.0/24"}, {"name": "b", "subnet": "10.2.0.0/24"}], "loadBalancer": {"mode": "l2"}},
            "l2 needs nodes on one switch",
        ),
        ({"nodes": [{"name": "n", "link": {"rate": "quick"}}]}, "rate: 'quick' is not like 10mbit"),
    ],
)
def test_racks_that_make_no_sense_are_refused(document: dict[str, object], says: str) -> None:
    from nsk8s import config

    with pytest.raises(Nsk8sError, match=says):
        config.parse(document, "cluster.yaml")


def test_a_running_cluster_does_not_overlook_another_rack_or_cable() -> None:
    from nsk8s import config
    from nsk8s.cluster import lifecycle
    from nsk8s.cluster.state import new_state

    racks = [{"name": "a", "subnet": "10.1.0.0/24"}, {"name": "b", "subnet": "10.2.0.0/24"}]

    def asked(*nodes: dict[str, object]) -> ClusterConfig:
        return config.parse({"racks": racks, "nodes": list(nodes)}, "cluster.yaml")

    made = asked({"name": "n1"}, {"name": "n2", "rack": "b", "link": {"rate": "1gbit"}})
    state = new_state(made, 6443)
    lifecycle._require_same(made, state)
    lifecycle._require_same(asked({"name": "n1", "rack": "a"}, {"name": "n2", "rack": "b", "link": {"rate": "1gbit"}}), state)
    lifecycle._require_same(asked({"name": "n1"}, {"name": "n2", "rack": "b"}), state)  # as `up --nodes 2`: nothing is said of cables
    plain = asked({"name": "n1"}, {"name": "n2", "rack": "b"})
    lifecycle._require_same(config.parse({"nodes": [{"name": "n1"}, {"name": "n2"}]}, "x"), new_state(plain, 6443))
    with pytest.raises(Nsk8sError, match="node n1 of cluster nsk8s stands in another rack"):
        lifecycle._require_same(asked({"name": "n1", "rack": "b"}, {"name": "n2", "rack": "b"}), state)
    with pytest.raises(Nsk8sError, match="node n2 of cluster nsk8s was made with another cable"):
        lifecycle._require_same(asked({"name": "n1"}, {"name": "n2", "rack": "b", "link": {"rate": "2gbit"}}), state)
