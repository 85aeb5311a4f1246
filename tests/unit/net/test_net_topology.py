"""The machines of a cluster and their cables, as values."""

from __future__ import annotations

from nsk8s.net.topology import Port


def test_a_port_with_an_ipv4_address_has_a_card_of_its_own() -> None:
    assert Port("node1", "eth0", ("192.168.56.11/24",)).mac == "02:00:c0:a8:38:0b"
    assert Port("switch", "node1", master="lan0").mac == ""
