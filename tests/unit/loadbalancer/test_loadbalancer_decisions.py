"""Addresses, nodes, routes and ARP of load balancers: what is decided, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from nsk8s.config import parse
from nsk8s.errors import Nsk8sError
from nsk8s.loadbalancer import arp, ndp, nodes, router, services
from nsk8s.loadbalancer.pool import NoAddress, Pool

POOL = Pool(IPv4Network("10.100.0.0/29"))


def service(name: str = "web", ip: str = "", *, policy: str = "Cluster", **spec: Any) -> dict[str, Any]:
    status = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}} if ip else {"loadBalancer": {}}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy, **spec},
        "status": status,
    }


def node(name: str, ip: str, ready: bool = True, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, **metadata},
        "spec": {},
        "status": {
            "addresses": [{"type": "InternalIP", "address": ip}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def slice_(*endpoints: tuple[str, dict[str, bool]], kind: str = "IPv4") -> dict[str, Any]:
    return {
        "metadata": {"name": "s", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": kind,
        "endpoints": [{"nodeName": n, "addresses": ["10.244.1.2"], "conditions": c} for n, c in endpoints],
    }


READY = {"ready": True, "serving": True, "terminating": False}
DRAINING = {"ready": False, "serving": True, "terminating": True}


@pytest.mark.parametrize(
    ("cidr", "expected"),
    [("10.0.0.0/29", [f"10.0.0.{i}" for i in range(1, 7)]), ("10.0.0.4/31", ["10.0.0.4", "10.0.0.5"]), ("10.0.0.9/32", ["10.0.0.9"])],
)
def test_a_pool_hands_out_each_of_its_addresses_once(cidr: str, expected: list[str]) -> None:
    pool, taken = Pool(IPv4Network(cidr)), set[str]()
    for ip in expected:
        assert ip in pool
        assert pool.first_free(taken.__contains__) == ip
        taken.add(ip)
    with pytest.raises(NoAddress, match=f"no address of the pool {cidr} is free"):
        pool.first_free(taken.__contains__)


@pytest.mark.parametrize("ip", ["10.100.0.0", "10.100.0.7", "10.100.1.1", "10.100.0", "fd00::1", "", "x"])
def test_what_is_not_in_the_pool(ip: str) -> None:
    assert ip not in POOL


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"loadBalancerClass": "nsk8s.dev/lb"}, True),
        ({"loadBalancerClass": "metallb.io/metallb"}, False),
        ({"type": "NodePort"}, False),
        ({"type": "ExternalName"}, False),
    ],
)
def test_which_services_are_served(changes: dict[str, Any], wanted: bool) -> None:
    assert services.wants(service(**changes)) is wanted
    dying = service(**changes)
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not services.wants(dying)


@pytest.mark.parametrize(
    ("kind", "class_", "finalizer", "deleting", "expected"),
    [
        ("LoadBalancer", None, True, False, False),
        ("LoadBalancer", None, True, True, True),
        ("ClusterIP", None, True, False, True),
        ("ClusterIP", None, False, False, False),
        ("LoadBalancer", None, False, True, False),
        ("LoadBalancer", "other.io/lb", True, False, False),
    ],
)
def test_when_a_load_balancer_is_taken_away(kind: str, class_: str | None, finalizer: bool, deleting: bool, expected: bool) -> None:
    s = service(type=kind, loadBalancerClass=class_)
    if finalizer:
        s["metadata"]["finalizers"] = [services.FINALIZER]
    if deleting:
        s["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert services.needs_cleanup(s) is expected


def test_the_address_of_a_service() -> None:
    nobody = {}.get
    assert services.choose(service(), POOL, nobody) == ["10.100.0.1"]
    assert services.choose(service(), POOL, {"10.100.0.1": "default/other"}.get) == ["10.100.0.2"]
    assert services.choose(service(ip="10.100.0.5"), POOL, nobody) == ["10.100.0.5"], "kept"
    assert services.choose(service(ip="10.100.0.5"), POOL, {"10.100.0.5": "default/other"}.get) == ["10.100.0.1"], "a double one is not"
    assert services.choose(service(ip="192.0.2.1"), POOL, nobody) == ["10.100.0.1"], "nor one of another pool"
    assert services.choose(service(ip="10.100.0.5", loadBalancerIP="10.100.0.3"), POOL, nobody) == ["10.100.0.3"]
    assert services.choose(service(loadBalancerIP="10.100.0.3"), POOL, {"10.100.0.3": "default/web"}.get) == ["10.100.0.3"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"loadBalancerIP": "192.0.2.7"}, "192.0.2.7 is not in the pool 10.100.0.0/29"),
        ({"loadBalancerIP": "10.100.0.3"}, "10.100.0.3 is in use by default/other"),
        ({"ipFamilies": ["IPv6"]}, "the pool 10.100.0.0/29 has no IPv6 address"),
    ],
)
def test_why_a_service_gets_no_address(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(NoAddress, match=why):
        services.choose(service(**spec), POOL, {"10.100.0.3": "default/other"}.get)


@pytest.mark.parametrize(
    ("mine", "other", "why"),
    [
        ({}, {}, ""),
        ({"key": "", "said": ""}, {}, "does not share it"),
        ({"said": "other"}, {}, "does not share it"),
        ({"key": "nsk8s.dev/allow-shared-ip"}, {"key": "metallb.universe.tf/allow-shared-ip"}, ""),
        ({}, {"ports": [{"port": 80}]}, "has port 80/tcp, too"),
        ({"ports": [{"port": 80, "protocol": "UDP"}]}, {"ports": [{"port": 80}]}, ""),
        ({"ports": [{"port": 1}, {"port": 80}]}, {"ports": [{"port": 80}, {"port": 1, "protocol": "TCP"}]}, "has port 1/tcp, 80/tcp, too"),
        ({"policy": "Local"}, {}, "another externalTrafficPolicy"),
        ({"policy": "Local"}, {"policy": "Local"}, ""),
        ({"policy": "Local", "selector": {"app": "b"}}, {"policy": "Local"}, "under Local another selector"),
        ({"policy": "Local", "selector": None}, {"policy": "Local", "selector": None}, "under Local another selector"),
        ({"selector": {"app": "b"}}, {}, ""),
    ],
)
def test_who_may_share_an_address(mine: dict[str, Any], other: dict[str, Any], why: str) -> None:
    def sharing(key: str = "metallb.io/allow-shared-ip", said: str = "web", **spec: Any) -> services.Sharing:
        s = service(**{"selector": {"app": "a"}, **spec})
        s["metadata"]["annotations"] = {key: said}
        return services.Sharing.of(s)

    one, two = sharing(**{"ports": [{"port": 80}], **mine}), sharing(**{"ports": [{"port": 81}], **other})
    for hindrance in (one.hindrance(two), two.hindrance(one)):
        assert bool(hindrance) == bool(why)
        assert why in hindrance


BOTH = Pool(IPv4Network("10.100.0.0/29"), IPv6Network("fd00:100::/125"))


def test_an_address_of_each_family() -> None:
    nobody = {}.get
    dual = {"ipFamilies": ["IPv6", "IPv4"]}
    assert services.choose(service(**dual), BOTH, nobody) == ["fd00:100::1", "10.100.0.1"]
    assert services.choose(service(ip="10.100.0.4", **dual), BOTH, nobody) == ["fd00:100::1", "10.100.0.4"], "it gained one"
    assert services.choose(service(ip="fd00:100::3"), BOTH, nobody) == ["10.100.0.1"], "the one of a family it lost goes"
    assert services.choose(service(ipFamilies=["IPv6"], loadBalancerIP="FD00:100::0:5"), BOTH, nobody) == ["fd00:100::5"]
    assert services.choose(service(**dual), POOL, nobody) == ["10.100.0.1"], "as far as the pool goes"
    with pytest.raises(NoAddress, match="not of the Service's families"):
        services.choose(service(loadBalancerIP="fd00:100::5"), BOTH, nobody)
    with pytest.raises(NoAddress, match=r"no address of the pool fd00:100::/125 is free \(6 are in use\)"):
        services.choose(service(**dual), BOTH, lambda ip: "default/other" if ":" in ip else None)
    assert services.status(["10.100.0.1", "fd00:100::1"]) == {
        "ingress": [{"ip": "10.100.0.1", "ipMode": "VIP"}, {"ip": "fd00:100::1", "ipMode": "VIP"}]
    }
    with pytest.raises(ValueError, match="different IP families"):
        Pool(IPv4Network("10.100.0.0/29"), IPv4Network("10.101.0.0/29"))


def test_which_nodes_take_traffic() -> None:
    autoscaled = node("n4", "10.0.0.4")
    autoscaled["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
    cordoned = node("n6", "10.0.0.6")
    cordoned["spec"] = {"unschedulable": True, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}
    everyone = [
        node("n2", "10.0.0.2"), node("n1", "10.0.0.1"), node("n3", "10.0.0.3", ready=False), autoscaled, cordoned,
        node("n5", "10.0.0.5", labels={nodes.EXCLUDE_LABEL: ""}),
        node("n7", "10.0.0.7", deletionTimestamp="2026-01-01T00:00:00Z"), {"metadata": {"name": "n8"}},
    ]  # fmt: skip
    assert nodes.gateways(everyone) == {"n1": "10.0.0.1", "n2": "10.0.0.2", "n6": "10.0.0.6"}


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([("n1", READY), ("n2", {"ready": False})], {"n1"}),
        ([("n1", {}), ("", READY)], {"n1"}),
        ([("n1", READY), ("n2", DRAINING)], {"n1"}),
        ([("n2", DRAINING), ("n3", {"ready": False, "serving": False, "terminating": True})], {"n2"}),
        ([], set()),
    ],
)
def test_the_nodes_with_an_endpoint(endpoints: list[tuple[str, dict[str, bool]]], expected: set[str]) -> None:
    assert nodes.with_endpoint([slice_(*endpoints), slice_(("n9", READY), kind="FQDN")]) == expected


def test_the_routers_routes() -> None:
    usable = {"IPv4": {"n1": "10.0.0.1", "n2": "10.0.0.2"}, "IPv6": {"n1": "fd00::1", "n2": "fd00::2"}}
    wanted = [
        (service("a", "10.100.0.1"), [slice_(("n1", READY))]),
        (service("b", "10.100.0.2", policy="Local"), [slice_(("n2", READY), ("n3", READY))]),
        (service("c", "10.100.0.3", policy="Local"), []),
        (service("d", "10.100.0.4", policy="Local", loadBalancerClass="other/lb"), [slice_(("n1", READY))]),
        (service("e", policy="Local"), [slice_(("n1", READY))]),
    ]
    assert nodes.wanted_routes(POOL, usable, wanted) == {
        "10.100.0.0/29": ("10.0.0.1", "10.0.0.2"),
        "10.100.0.2/32": ("10.0.0.2",),
        "10.100.0.3/32": (),
    }
    assert nodes.wanted_routes(POOL, {"IPv4": {}}, wanted)["10.100.0.0/29"] == ()
    six = service("f", "fd00:100::4", policy="Local", ipFamilies=["IPv6"])
    wanted = [(six, [slice_(("n1", READY)), slice_(("n2", READY), kind="IPv6")])]
    assert nodes.wanted_routes(BOTH, usable, wanted) == {
        "10.100.0.0/29": ("10.0.0.1", "10.0.0.2"), "fd00:100::/125": ("fd00::1", "fd00::2"), "fd00:100::4/128": ("fd00::2",),
    }  # fmt: skip


def test_changes_of_routes() -> None:
    have = {"10.100.0.0/16": ("a", "b"), "10.100.0.2/32": ("a",), "10.100.0.3/32": ("b",)}
    want = {"10.100.0.0/16": ("a",), "10.100.0.3/32": ("b",), "10.100.0.4/32": ()}
    assert router.changes(have, want) == ({"10.100.0.0/16": ("a",), "10.100.0.4/32": ()}, ["10.100.0.2/32"])
    assert router.changes(want, want) == ({}, [])


def test_one_node_announces_and_few_addresses_move() -> None:
    ips = [f"10.100.{i}.{j}" for i in range(4) for j in range(100)]
    before = {ip: nodes.announcer(ip, ["n1", "n2", "n3"]) for ip in ips}
    assert before == {ip: nodes.announcer(ip, ["n3", "n1", "n2"]) for ip in ips}, "whatever the order"
    assert {n: 80 < sum(v == n for v in before.values()) < 190 for n in ("n1", "n2", "n3")} == dict.fromkeys(("n1", "n2", "n3"), True)
    after = {ip: nodes.announcer(ip, ["n1", "n2"]) for ip in ips}
    assert all(after[ip] == before[ip] for ip in ips if before[ip] != "n3")
    assert nodes.announcer("10.100.0.1", []) is None


def test_arp_packets() -> None:
    mac, asker = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    request = arp.frame(arp.BROADCAST, arp.Arp(arp.REQUEST, asker, "192.168.56.1", b"\0" * 6, "10.100.0.1"))
    assert request.hex() == (
        "ffffffffffff" "020000000002" "0806" "0001" "0800" "06" "04" "0001"
        "020000000002" "c0a83801" "000000000000" "0a640001"
    )  # fmt: skip
    asked = arp.parse(request + bytes(18))
    assert asked is not None
    reply = arp.answer(asked, "10.100.0.1", mac)
    assert reply[:12] == asker + mac
    assert arp.parse(reply) == arp.Arp(arp.REPLY, mac, "10.100.0.1", asker, "192.168.56.1")
    for frame, operation in zip(arp.gratuitous("10.100.0.1", mac), (arp.REQUEST, arp.REPLY), strict=True):
        assert arp.parse(frame) == arp.Arp(operation, mac, "10.100.0.1", arp.BROADCAST, "10.100.0.1")
    for rubbish in (b"", request[:41], request.replace(b"\x08\x06", b"\x08\x00"), b"\0" * 60):
        assert arp.parse(rubbish) is None


def test_neighbour_discovery_packets() -> None:
    mac, asker, vip = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x09", "fd00:10:100::1"
    asked = ndp.Solicitation(asker, "fd00:192:168:56::1", vip)
    question = ndp.solicitation(asked, b"\x33\x33\xff\0\0\x01", ndp.group(vip))
    assert ndp.parse(question) == asked
    assert ndp.parse(question + bytes(6)) == asked, "an Ethernet card's padding"
    answer = ndp.answer(asked, vip, mac)
    assert answer.hex(" ", -4) == (  # to the asker, from the address; solicited and override; its link address
        "02000000 00090200 00000001 86dd6000 00000020 3afffd00 00100100 00000000 00000000 0001fd00 01920168 00560000 00000000 "
        f"00018800 {answer[56:58].hex()}6000 0000fd00 00100100 00000000 00000000 00010201 02000000 0001"
    )
    for frame in (answer, ndp.unsolicited(vip, mac), ndp.answer(replace(asked, sender_ip="::"), vip, mac)):
        assert ndp.checksum(frame[22:38], frame[38:54], frame[54:]) == 0
    everybody = ndp.unsolicited(vip, mac)
    assert (everybody[:6].hex(), everybody[38:54].hex()) == ("333300000001", "ff02" + "0" * 27 + "1")
    assert everybody[58:62].hex() == "20000000", "override, and not an answer"
    assert ndp.answer(replace(asked, sender_ip="::"), vip, mac) == everybody, "who looks for a duplicate has no address"
    hops = question[:21] + b"\x40" + question[22:]
    for rubbish in (b"", question[:80], hops, question[:-1] + b"\0", question.replace(b"\x86\xdd", b"\x08\0"), answer, bytes(90)):
        assert ndp.parse(rubbish) is None
    assert ndp.group("fd00:10:100::1:abcd:ef01") == "ff02::1:ffcd:ef01"


@pytest.mark.parametrize(
    ("document", "mode"),
    [({}, "ecmp"), ({"loadBalancer": {"mode": "l2"}}, "l2"), ({"loadBalancer": {"mode": False}}, "off")],
)
def test_the_mode_in_cluster_yaml(document: dict[str, Any], mode: str) -> None:
    config = parse(document, "x")
    assert config.load_balancer.mode == mode
    assert config.load_balancer_pools == ([] if mode == "off" else ["10.100.0.0/16"])
    both = parse({**document, "network": {"ipFamilies": ["IPv6", "IPv4"]}}, "x").load_balancer_pools
    assert both == ([] if mode == "off" else ["fd00:10:100::/112", "10.100.0.0/16"])
    six = parse({**document, "network": {"ipFamilies": ["IPv6"]}}, "x").load_balancer_pools
    assert six == ([] if mode == "off" else ["fd00:10:100::/112"])


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"loadBalancer": {"pool": "10.96.5.0/24"}}, r"loadBalancer.pool \(10.96.5.0/24\) and subnets.services \(10.96.0.0/16\) overlap"),
        ({"loadBalancer": {"mode": "bgp"}}, "loadBalancer.mode: .*'ecmp', 'l2' or 'off'"),
        ({"loadBalancer": {"mod": "l2"}}, "loadBalancer.mod: there is no such setting, did you mean mode"),
    ],
)
def test_mistakes_in_cluster_yaml(document: dict[str, Any], why: str) -> None:
    with pytest.raises(Nsk8sError, match=why):
        parse(document, "x")
    parse({"loadBalancer": {"mode": "off", "pool": "10.96.5.0/24"}}, "x")
