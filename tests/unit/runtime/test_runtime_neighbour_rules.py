"""When new pods' neighbours are entered by hand, and which."""

from __future__ import annotations

import pytest

from nsk8s.runtime.neighbours import CROWDED, is_crowded, link_ends

HEAD = "entries  allocs   destroys hash_grows\n"
RESULT = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "cni0", "mac": "0a:00:00:00:00:01"},
        {"name": "veth1", "mac": "0a:00:00:00:00:02"},
        {"name": "eth0", "mac": "0a:00:00:00:00:03", "sandbox": "/run/netns/a"},
    ],
    "ips": [
        {"address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 2},
        {"address": "fd00::7/64", "gateway": "fd00::1", "interface": 2},
    ],
}
ENDS = [
    {"bridge": "cni0", "gatewayMac": "0a:00:00:00:00:01", "gateway": "10.244.1.1", "podMac": "0a:00:00:00:00:03", "ip": "10.244.1.7"},
    {"bridge": "cni0", "gatewayMac": "0a:00:00:00:00:01", "gateway": "fd00::1", "podMac": "0a:00:00:00:00:03", "ip": "fd00::7"},
]


@pytest.mark.parametrize(
    ("text", "crowded"),
    [(f"{HEAD}{CROWDED:08x} 0 0 0\n", False), (f"{HEAD}{CROWDED + 1:08x} 0 0 0\n{0:08x} 1 1 1\n", True), (HEAD, False), ("", False)],
)
def test_the_table_is_crowded_from_half_of_its_usual_size(text: str, crowded: bool) -> None:
    assert is_crowded(text) is crowded


def test_both_ends_of_a_bridged_link() -> None:
    assert link_ends(RESULT, "eth0") == ENDS


@pytest.mark.parametrize(
    "change",
    [
        {"ips": [{"address": "10.244.1.7/24", "interface": 2}]},
        {"ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1"}]},
        {"ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 9}]},
        {"interfaces": [], "ips": []},
        {"interfaces": RESULT["interfaces"][2:], "ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 0}]},
    ],
)
def test_nothing_where_the_gateway_is_no_interface_of_the_node(change: dict[str, object]) -> None:
    assert link_ends({**RESULT, **change}, "eth0") == []
