"""What node-network wants on a node, and what it does about what it finds there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nsk8s import config
from nsk8s.errors import Nsk8sError
from nsk8s.net import chainset, podnet
from nsk8s.nodenetwork import plan
from nsk8s.nodenetwork.agent import masquerade_text


def node(name: str, cidrs: list[str], *ips: str, **spec: Any) -> dict[str, Any]:
    addresses = [{"type": "Hostname", "address": name}, *({"type": "InternalIP", "address": ip} for ip in ips)]
    return {"metadata": {"name": name}, "spec": {"podCIDRs": cidrs, **spec}, "status": {"addresses": addresses}}


def test_routes_lead_to_every_other_node_that_has_both_an_address_and_a_subnet() -> None:
    nodes = [
        node("node1", ["10.244.1.0/24"], "192.168.56.11"),
        node("node2", ["10.244.2.0/24", "fd00:2::/64"], "192.168.56.12", "fd56::12"),
        node("node3", ["10.244.3.0/24", "fd00:3::/64"], "192.168.56.13"),  # no IPv6 address: no IPv6 route
        node("fresh", [], "192.168.56.14"),
        node("mute", ["10.244.5.0/24"]),
        node("odd", ["not-a-subnet"], "192.168.56.16"),
        {"metadata": {"name": "old"}, "spec": {"podCIDR": "10.244.7.0/24"},
         "status": {"addresses": [{"type": "InternalIP", "address": "192.168.56.17"}]}},
        {"metadata": {"name": "bare"}},
    ]  # fmt: skip
    assert podnet.routes(nodes, "node1") == {
        "10.244.2.0/24": "192.168.56.12", "fd00:2::/64": "fd56::12", "10.244.3.0/24": "192.168.56.13",
        "10.244.7.0/24": "192.168.56.17",
    }  # fmt: skip
    assert podnet.routes(nodes[:1], "node1") == {}


def test_the_conflist_of_a_dual_stack_node() -> None:
    assert json.loads(plan.conflist(["10.244.1.0/24", "fd00:1::/64"])) == {
        "cniVersion": "1.0.0",
        "name": "nsk8s",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": True, "isDefaultGateway": True, "hairpinMode": True, "ipMasq": False,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}], "dataDir": "/var/lib/cni/networks",
            },
        }, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }  # fmt: skip


WANTED = plan.masquerade(["10.244.0.0/16"], ["192.168.56.0/24", "10.96.0.0/16"], ipv6=False, random_fully=True)
RULES = """\
-A NSK8S-MASQ -m comment --comment "nsk8s: inside the cluster" -d 10.244.0.0/16 -j RETURN
-A NSK8S-MASQ -m comment --comment "nsk8s: inside the cluster" -d 192.168.56.0/24 -j RETURN
-A NSK8S-MASQ -m comment --comment "nsk8s: inside the cluster" -d 10.96.0.0/16 -j RETURN
-A NSK8S-MASQ -m comment --comment "nsk8s: inside the cluster" -d 224.0.0.0/4 -j RETURN
-A NSK8S-MASQ -s 10.244.0.0/16 -m comment --comment "nsk8s: out of the cluster" -j MASQUERADE --random-fully
""".splitlines()


def held(*lines: str) -> chainset.ChainSet:
    return chainset.outline("\n".join(["*nat", ":POSTROUTING ACCEPT [0:0]", *lines, "COMMIT", ""]))


def test_an_empty_table_gets_the_whole_chain_and_its_jump() -> None:
    text = masquerade_text(held(), WANTED)
    rules = [line for line in text.splitlines() if line.startswith("-A NSK8S-MASQ")]
    assert rules == RULES
    assert text.count("-j NSK8S-MASQ") == 1


def present(*, jump: bool, rules: int = 5) -> chainset.ChainSet:
    lines = [":NSK8S-MASQ - [0:0]", *RULES[:rules]]
    if jump:
        lines.append('-A POSTROUTING -m comment --comment "nsk8s: traffic that leaves the cluster" -j NSK8S-MASQ')
    return held(*lines)


def test_what_is_there_is_left_alone() -> None:
    assert masquerade_text(present(jump=True), WANTED) == ""


def test_what_somebody_took_away_is_put_back() -> None:
    assert masquerade_text(present(jump=False), WANTED).count("-j NSK8S-MASQ") == 1
    mended = masquerade_text(present(jump=True, rules=4), WANTED)
    assert "-j MASQUERADE --random-fully" in mended
    assert "POSTROUTING" not in mended, "the jump is there already"


def test_without_a_cidr_of_the_family_nothing_is_written() -> None:
    nothing = plan.masquerade(["10.244.0.0/16"], [], ipv6=True, random_fully=True)
    assert masquerade_text(held(), nothing) == ""


def test_a_grace_period_that_every_kubelet_would_miss_is_refused() -> None:
    with pytest.raises(Nsk8sError, match=r"nodeMonitorGracePeriod \(10\) must be longer than a quarter of timing.nodeLeaseDuration"):
        config.parse({"timing": {"nodeMonitorGracePeriod": 10}}, "cluster.yaml")
    assert config.parse({"timing": {"nodeMonitorGracePeriod": 4, "nodeLeaseDuration": 4}}, "x").timing.node_lease_duration == 4
