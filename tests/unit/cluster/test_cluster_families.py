"""Which addresses a cluster has by its families: the plan, machines' cables and sysctls, components' flags."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from nsk8s import config
from nsk8s.cluster import lifecycle, machines, preflight, specs
from nsk8s.cluster.state import ClusterState, Paths, new_state
from nsk8s.config import ClusterConfig, same_number
from nsk8s.errors import Nsk8sError
from nsk8s.net import topology

DUAL = ClusterConfig.model_validate({"network": {"ipFamilies": ["IPv4", "IPv6"]}})
TURNED = ClusterConfig.model_validate({"network": {"ipFamilies": ["IPv6", "IPv4"]}})
PLAIN = ClusterConfig()


def flags(settings: ClusterConfig, component: str) -> list[str]:
    state = new_state(settings, 6443)
    found: list[str] = next(s["argv"] for s in specs.all_specs(Paths("x"), state) if s["name"] == component)
    return found


def test_an_ipv6_address_reads_like_the_ipv4_one() -> None:
    six = IPv6Network("fd00::/64")
    found = [str(same_number(IPv4Network(n)[i], IPv4Network(n), six)) for n, i in (("10.1.0.0/24", 11), ("10.1.0.0/22", 310))]
    assert found == ["fd00::11", "fd00::310"]
    assert DUAL.node_ips(IPv4Address("192.168.56.11")) == ["192.168.56.11", "fd00:192:168:56::11"]
    assert TURNED.node_ips(IPv4Address("192.168.56.11")) == ["fd00:192:168:56::11", "192.168.56.11"]
    assert PLAIN.node_ips(IPv4Address("192.168.56.11")) == ["192.168.56.11"]
    assert (DUAL.dns_ips, TURNED.kubernetes_ip, PLAIN.kubernetes_ip) == (["10.96.0.10", "fd00:10:96::a"], "fd00:10:96::1", "10.96.0.1")


def test_machines() -> None:
    node, plain = topology.node(DUAL, "node1"), topology.node(PLAIN, "node1")
    assert node.gateways == ("192.168.56.1", "fd00:192:168:56::1")
    cable = topology.node_cable(DUAL, "node1", IPv4Address("192.168.56.11"))
    assert cable.a.addresses == ("192.168.56.11/24", "fd00:192:168:56::11/64")
    key = "net/ipv6/conf/{}"
    assert (plain.sysctls[key.format("all/disable_ipv6")], node.sysctls[key.format("all/disable_ipv6")]) == ("1", "0")
    assert node.sysctls[key.format("default/accept_dad")] == node.sysctls[key.format("all/accept_ra")] == "0"
    found = {m.name: m for m in topology.infrastructure(DUAL)[0]}
    assert found["switch"].sysctls[key.format("all/disable_ipv6")] == "1", "a switch looks at no address"
    assert [found[m].sysctls.get(key.format("all/forwarding")) for m in ("router", "client")] == ["1", None]
    assert found["client"].gateways == ("203.0.113.1", "2001:db8:203::1")


def test_a_rack_has_the_next_network() -> None:
    racks = [{"name": "a", "subnet": "192.168.56.0/24"}, {"name": "b", "subnet": "192.168.57.0/24"}]
    document: dict[str, Any] = {"racks": racks, "nodes": [{"name": "n", "rack": "b"}], "network": {"ipFamilies": ["IPv4", "IPv6"]}}
    found = config.parse(document, "x")
    assert found.node_ips(IPv4Address("192.168.57.11")) == ["192.168.57.11", "fd00:192:168:57::11"]
    assert topology.node(found, "n", "b").gateways == ("192.168.57.1", "fd00:192:168:57::1")
    assert found.node_cidrs == ["192.168.56.0/24", "fd00:192:168:56::/64", "192.168.57.0/24", "fd00:192:168:57::/64"]
    with pytest.raises(Nsk8sError, match=r"rack b \(fd00:192:168:57::/64\) and subnets.pods6 .* overlap"):
        config.parse({**document, "subnets": {"pods6": "fd00:192:168:57::/64", "nodeMask6": 72}}, "x")


def test_components_are_told_in_upstreams_words() -> None:
    assert "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112" in flags(DUAL, "kube-apiserver")
    manager = flags(DUAL, "kube-controller-manager")
    assert {"--cluster-cidr=10.244.0.0/16,fd00:10:244::/56", "--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"} <= {*manager}
    assert "--node-cidr-mask-size=24" in flags(PLAIN, "kube-controller-manager")
    assert "--node-ip=192.168.56.10,fd00:192:168:56::10" in flags(DUAL, "kubelet")
    assert {"--bind-address=fd00:192:168:56::10", "--advertise-address=fd00:192:168:56::10"} <= {*flags(TURNED, "kube-apiserver")}
    assert "--to=[fd00:192:168:56::10]:6443" in flags(TURNED, "apiserver-forwarder")
    assert not [f for name in ("kube-apiserver", "kubelet", "node-network") for f in flags(PLAIN, name) if "fd00" in f]
    files = specs.node_files(DUAL)
    assert "clusterCIDR: 10.244.0.0/16,fd00:10:244::/56\n" in files["var/lib/kube-proxy/config.conf"]
    assert "clusterDNS:\n- 10.96.0.10\n- fd00:10:96::a\n" in files["var/lib/kubelet/config.yaml"]
    hosts = machines.hosts(DUAL, new_state(DUAL, 6443).nodes[1])
    assert hosts.endswith("192.168.56.11\tnode1\nfd00:192:168:56::11\tnode1\n")


@pytest.mark.parametrize("wanted", ["auto", "legacy"])
def test_no_component_inherits_the_iptables_of_ups_own_shell(wanted: str) -> None:
    """Or a cluster would be in a variant of which `status` and `rules` know nothing."""
    found = specs.all_specs(Paths("x"), new_state(ClusterConfig.model_validate({"iptables": wanted}), 6443))
    assert {s["env"]["NSK8S_IPTABLES"] for s in found if "env" in s} == {wanted}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"network": {"ipFamilies": []}}, "network.ipFamilies: List should have at least 1 item"),
        ({"network": {"ipFamilies": ["IPv4", "IPv4"]}}, "network.ipFamilies: IPv4 is there twice"),
        ({"network": {"ipFamilies": ["IPv5"]}}, "network.ipFamilies.0: Input should be 'IPv4' or 'IPv6', not 'IPv5'"),
        ({"network": {"ipFamilies": ["IPv6"]}, "loadBalancer": {"mode": "l2", "pool6": "fd00:10:96::/110"}},
         r"loadBalancer.pool6 \(fd00:10:96::/110\) and subnets.services6 \(fd00:10:96::/112\) overlap"),
        ({"network": {"ipFamilies": ["IPv4", "IPv6"]}, "loadBalancer": {"pool6": "fd00:10:96::/110"}},
         r"loadBalancer.pool6 \(fd00:10:96::/110\) and subnets.services6 \(fd00:10:96::/112\) overlap"),
        ({"subnets": {"pods6": "fd00:192:168::/56"}}, "subnets.nodes6 .* and subnets.pods6 .* overlap"),
        ({"subnets": {"pods6": "10.0.0.0/8"}}, "subnets.pods6: Input is not a valid IPv6 network"),
        ({"subnets": {"nodeMask6": 80}}, "subnets.nodeMask6 .* must be longer than subnets.pods6' /56, by 16 at most"),
        ({"subnets": {"services6": "fd00:10:96::/64"}}, "subnets.services6 must be between a /108 and a /124"),
        ({"subnets": {"outside6": "2001:db8::/112"}}, "need at least a /96"),
        ({"nodes": 5, "subnets": {"nodeMask6": 58}, "network": {"ipFamilies": ["IPv4", "IPv6"]}}, "subnets.pods6 has room for 4 nodes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(document: dict[str, Any], says: str) -> None:
    with pytest.raises(Nsk8sError, match=says):
        config.parse(document, "cluster.yaml")


def test_a_machine_without_ipv6_is_told_from_one_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(names: list[str]) -> list[tuple[str, str, str]]:
        return [(name, "it is switched off for the whole machine", "boot without ipv6.disable=1") for name in names]

    monkeypatch.setattr(preflight.probe, "optional_features", without)
    preflight.require_network(PLAIN)
    with pytest.raises(Nsk8sError, match=r"network.ipFamilies \['IPv4', 'IPv6'\]: this kernel cannot do IPv6: it is switched off") as e:
        preflight.require_network(DUAL)
    assert e.value.remedy == "boot without ipv6.disable=1"


def test_a_living_cluster_keeps_its_families() -> None:
    state = ClusterState(PLAIN.model_dump(mode="json", by_alias=True), 6443, [])
    with pytest.raises(Nsk8sError, match="exists with other settings \\(network\\)") as e:
        lifecycle._require_same(DUAL, state)
    assert "nsk8s down" in e.value.remedy
