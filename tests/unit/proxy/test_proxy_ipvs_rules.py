"""ipvs mode beside the table: what changes write, graceful termination, several Services that want the same, the tree of a Service."""

from __future__ import annotations

import asyncio

import pytest
from proxy_rules_kit import CONTEXT, Kit, ep, service, slice_of

from nsk8s.cli.rules import _faces
from nsk8s.net import chainset, ipvs, ipvstree
from nsk8s.net.ipvs import Address, Balance, Changes, Counts, Entry, Real, Server, SetType
from nsk8s.proxy.cleanup import IPTABLES, IPVS, removal
from nsk8s.proxy.ipvs import Settings, depart
from nsk8s.proxy.ipvsledger import Ledger
from nsk8s.proxy.ipvsrules import own_servers, sets
from nsk8s.proxy.preview import preview
from nsk8s.proxy.rules import Context
from nsk8s.proxy.services import PortName

WEB = Server("tcp", "10.96.0.9", 80)
A, B = Real(WEB, "10.244.1.2", 80), Real(WEB, "10.244.1.3", 80)


def kit(**more: object) -> Kit:
    return Kit(mode="ipvs", **more)  # type: ignore[arg-type]


def web(*endpoints: str, **spec: object) -> tuple[dict, dict]:
    return service("web", WEB.ip, **spec), slice_of("web", *(ep(e) for e in endpoints))


def reals(made: Kit) -> dict[Real, object]:
    return {i: v for i, v in made.ipvs.held.items() if isinstance(i, Real) and i.server == WEB}


# ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_writes_what_differs_and_the_rules_stay() -> None:
    made = kit().put(*web("10.244.1.2"))
    assert "KUBE-CLUSTER-IP" in made.sync()
    made.put(slice_of("web", ep("10.244.1.2"), ep("10.244.1.3")))
    made.ipvs.puts.clear()
    assert made.sync() == "", "the rules are the same for one endpoint and for two"
    assert made.ipvs.puts == [{B: 1}]
    made.put(service("dns", "10.96.0.10", number=53, protocol="UDP", node_port=30053, type="NodePort"))
    text = made.sync()
    assert "KUBE-NODE-PORT-UDP" in text, "a set that was empty has an entry"
    assert "KUBE-FORWARD" not in text, "chains that did not change are left alone"
    made.delete("Service", "dns")
    made.sync()
    assert not [i for i in made.ipvs.held if "10.96.0.10" in map(str, i) or "30053" in map(str, i)]


def test_after_a_failed_write_all_is_written_again() -> None:
    made = kit().put(*web("10.244.1.2"))
    made.sync()
    made.put(slice_of("web", ep("10.244.1.3")))
    made.ipvs.fail_next = True
    made.sync(ok=False)
    made.ipvs.held.pop(WEB)
    made.sync()
    assert reals(made) == {B: 1}
    assert made.ipvs.held[WEB] == Balance("rr")


def test_a_restart_finds_what_is_there() -> None:
    first = kit().put(*web("10.244.1.2"))
    first.sync()
    second = kit().put(*web("10.244.1.3"))
    second.ipvs.held = {**first.ipvs.held, Server("tcp", "10.96.0.77", 80): Balance("rr"), Address("10.96.0.77"): None}
    second.iptables.held = first.held
    second.sync()
    fresh = kit().put(*web("10.244.1.3"))
    fresh.sync()
    assert second.ipvs.held == fresh.ipvs.held
    assert second.held == fresh.held


def test_virtual_servers_of_others_stay() -> None:
    from ipaddress import ip_network

    other, mine = Server("tcp", "192.0.2.7", 80), Server("tcp", "10.96.0.77", 80)
    made = kit(settings=Settings("lc", (ip_network("192.0.2.0/24"),))).put(*web("10.244.1.2"))
    made.ipvs.held = {other: Balance("wlc"), Real(other, "192.0.2.8", 80): 5, mine: Balance("rr")}
    made.sync()
    assert made.ipvs.held[other] == Balance("wlc")
    assert Real(other, "192.0.2.8", 80) in made.ipvs.held
    assert mine not in made.ipvs.held
    assert made.ipvs.held[WEB] == Balance("lc")


def test_an_address_that_another_link_has_is_not_bound_again() -> None:
    made = kit(node_addresses=("192.168.56.11", "192.0.2.5")).put(*web("10.244.1.2", externalIPs=["192.0.2.5", "192.0.2.6"]))
    made.sync()
    assert ipvs.addresses_of(made.ipvs.held) == ["10.96.0.9", "192.0.2.6"]
    assert Server("tcp", "192.0.2.5", 80) in made.ipvs.held


def test_node_ports_follow_the_nodes_addresses() -> None:
    made = kit(addresses=("192.168.56.0/24",), node_addresses=("192.168.56.11", "10.244.1.1"))
    made.put(*web("10.244.1.2", node_port=30080, type="NodePort")).sync()
    served = lambda: {i.ip for i in made.ipvs.held if isinstance(i, Server) and i.port == 30080}  # noqa: E731
    assert served() == {"192.168.56.11"}
    made.ipvs.own.append("192.168.56.99")
    assert not asyncio.run(made.proxier.is_intact())
    made.proxier.force_full_sync()
    made.sync()
    assert served() == {"192.168.56.11", "192.168.56.99"}


@pytest.mark.parametrize("damage", ["nothing", "a real server", "an entry", "an address", "a weight", "a rule", "a jump", "another's"])
def test_what_somebody_changed_is_noticed(damage: str) -> None:
    made = kit().put(*web("10.244.1.2"))
    made.sync()
    held = made.ipvs.held
    match damage:
        case "a real server":
            del held[A]
        case "an entry":
            del held[Entry("KUBE-CLUSTER-IP", "10.96.0.9,tcp:80")]
        case "an address":
            del held[Address("10.96.0.9")]
        case "a weight":
            held[A] = 7
        case "another's":
            held[Server("tcp", "10.96.0.50", 80)] = Balance("rr")
        case "a rule" | "a jump":
            tables = {t: dict(chains) for t, chains in made.held.tables.items()}
            tables["nat"]["KUBE-MARK-MASQ" if damage == "a rule" else "PREROUTING"] = chainset.Chain((), "")
            made.iptables.held = chainset.ChainSet(tables)
    assert asyncio.run(made.proxier.is_intact()) == (damage == "nothing")


# ── graceful termination ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_real_server_with_connections_drains() -> None:
    made = kit().put(*web("10.244.1.2", "10.244.1.3"))
    made.sync()
    made.ipvs.connections[A] = 3
    made.put(slice_of("web", ep("10.244.1.3")))
    made.sync()
    assert reals(made) == {A: 0, B: 1}
    assert made.proxier.wants_another_s == 60
    made.sync()
    assert reals(made) == {A: 0, B: 1}, "it still has connections"
    made.ipvs.connections[A] = 0
    made.sync()
    assert reals(made) == {B: 1}
    assert made.proxier.wants_another_s == 0


def test_who_comes_back_while_it_drains_serves_again() -> None:
    made = kit().put(*web("10.244.1.2", "10.244.1.3"))
    made.sync()
    made.ipvs.connections[A] = 1
    made.put(slice_of("web", ep("10.244.1.3"))).sync()
    made.put(slice_of("web", ep("10.244.1.2"), ep("10.244.1.3"))).sync()
    assert reals(made) == {A: 1, B: 1}
    assert made.proxier.wants_another_s == 0


def test_a_restarted_proxy_goes_on_draining() -> None:
    old = kit().put(*web("10.244.1.2", "10.244.1.3"))
    old.sync()
    new = kit().put(*web("10.244.1.3"))
    new.ipvs.held = {**old.ipvs.held, A: 0}
    new.ipvs.connections[A] = 1
    new.sync()
    assert reals(new) == {A: 0, B: 1}
    new.ipvs.connections.clear()
    new.sync()
    assert reals(new) == {B: 1}


def test_what_departs_how() -> None:
    udp = Server("udp", "10.96.0.9", 53)
    u = Real(udp, "10.244.1.2", 53)
    busy = {A: Counts(0, 1), B: Counts(0, 0), u: Counts(5, 5)}
    assert depart([A, B, u], busy).remove == (B, u), "UDP has no connections to wait for"
    assert depart([A, B, u], busy).draining == (A,)
    assert depart([WEB, A, B], busy).remove == (WEB,), "the real servers go with their virtual one"
    entry = Entry("KUBE-CLUSTER-IP", "x")
    assert depart([entry, Address("1.2.3.4")], {}).remove == (entry, Address("1.2.3.4"))


# ── who wants what ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_two_services_share_stays_with_the_second() -> None:
    made = kit().put(service("one", "10.96.0.1"), slice_of("one", ep("10.244.1.2", "node1")))
    made.put(service("two", "10.96.0.2"), slice_of("two", ep("10.244.1.2", "node1"))).sync()
    loop = Entry("KUBE-LOOP-BACK", "10.244.1.2,tcp:80,10.244.1.2")
    made.delete("Service", "one").sync()
    assert loop in made.ipvs.held
    made.delete("Service", "two").sync()
    assert loop not in made.ipvs.held


def test_a_virtual_server_that_two_services_ask_for_is_the_firsts() -> None:
    first, second = (PortName("ns", name, "", "TCP") for name in ("a", "b"))
    ledger = Ledger()
    ledger.set(second, {WEB: Balance("rr", 60), B: 1})
    assert ledger.wanted() == {WEB: Balance("rr", 60), B: 1}
    touched = ledger.set(first, {WEB: Balance("rr"), A: 1})
    assert touched >= {WEB, A, B}
    assert ledger.wanted() == {WEB: Balance("rr"), A: 1}
    assert ledger.set(first, {}) >= {WEB, A, B}
    assert ledger.wanted() == {WEB: Balance("rr", 60), B: 1}
    ledger.set(second, {})
    assert ledger.wanted() == {}
    assert ledger.filled() == frozenset()


def test_changes_are_those_of_the_items_asked_for() -> None:
    have, want = {A: 1, B: 1, WEB: Balance()}, {A: 0, WEB: Balance()}
    assert ipvs.changes(have, want) == Changes({A: 0}, (B,))
    assert ipvs.changes(have, want, [A]) == Changes({A: 0}, ())
    assert not ipvs.changes(have, have)


def test_a_rule_is_known_again_as_iptables_save_prints_it() -> None:
    """It prints the virtual server's protocol as a number, and in front."""
    written = "-s 198.51.100.18 -m ipvs --vaddr 198.51.100.18 --vproto sctp --vport 80 -j DROP"
    printed = "-s 198.51.100.18/32 -m ipvs --vproto 132 --vaddr 198.51.100.18 --vport 80 -j DROP"
    assert chainset.canonical(written) == chainset.canonical(printed)


def test_names_of_sets_fit_the_kernel() -> None:
    assert sets(True)["KUBE-6-LOAD-BALANCER-SOURCE-CID"] == SetType("hash:ip,port,net", "inet6")
    assert all(len(name) <= 31 for name in (*sets(True), *sets(False)))
    assert len({*sets(True), *sets(False)}) == 34


# ── switching ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_mode_takes_the_others_rules_away_and_leaves_its_own() -> None:
    objects = service("web", WEB.ip, node_port=30080, type="NodePort"), slice_of("web", ep("10.244.1.2"))
    made = {mode: Kit(mode=mode).put(*objects) for mode in ("iptables", "ipvs")}
    for each in made.values():
        each.sync()
    for old, new in (("iptables", "ipvs"), ("ipvs", "iptables")):
        after = Kit(mode=new).put(*objects)
        after.iptables.held = made[old].held
        after.sync()
        assert after.proxier.seen == ({"ipvs"} if old == "ipvs" else set())
        text = removal(chainset.render(after.held), (IPTABLES if old == "iptables" else IPVS,), new)
        left = chainset.apply(after.held, text)
        fresh = made[new].held
        for table in ("nat", "filter"):
            assert {n: sorted(c.rules) for n, c in left.tables[table].items()} == {
                n: sorted(c.rules) for n, c in fresh.tables[table].items()
            }, (old, new, table)
        assert [n for n in left.tables.get("mangle", {}) if n.startswith("KUBE")] == (
            ["KUBE-PROXY-CANARY"] if new == "iptables" else []
        )
        everything = chainset.apply(after.held, removal(chainset.render(after.held)))
        assert not [n for chains in everything.tables.values() for n in chains if n.startswith("KUBE-")]


def test_only_kube_proxys_virtual_servers_are_taken_away() -> None:
    made = kit().put(*web("10.244.1.2", node_port=30080, type="NodePort"))
    made.sync()
    others = {Server("tcp", "192.168.56.11", 443): Balance("wlc"), Server("udp", "192.168.56.11", 30080): Balance("rr")}
    ours = own_servers({**made.ipvs.held, **others}, False)
    assert set(ours) == {WEB, Server("tcp", "192.168.56.11", 30080)}


# ── without a way to tell pods, and all masqueraded ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("context", "rule"),
    [
        (Context(node_ip="192.168.56.11"), "--match-set KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ"),
        (Context(masquerade_all=True), "--match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ"),
        (CONTEXT, "--match-set KUBE-CLUSTER-IP dst,dst ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ"),
    ],
)
def test_what_is_marked_at_cluster_ips(context: Context, rule: str) -> None:
    made = kit(context=context).put(*web("10.244.1.2"))
    assert rule in made.sync()


# ── shown ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tree_of_a_service() -> None:
    made = kit().put(*web("10.244.1.2", "10.244.1.3", node_port=30080, type="NodePort", sessionAffinity="ClientIP"))
    made.sync()
    made.ipvs.held[A] = 0
    faces = _faces(made.objects["Service", "web"], False)
    counts = {A: Counts(1, 2, 30), B: Counts(0, 0, 4)}
    listing = ipvstree.Listing(made.ipvs.held, counts)
    cluster, node = ipvstree.tree(listing, faces, {"10.244.1.3": "pod b on node1"})
    assert cluster.label == "TCP  10.96.0.9:80 rr persistent 10800"
    assert "kube-ipvs0 has" in cluster.sentence
    assert "session affinity" in cluster.sentence
    entry, drains, serves = cluster.below
    assert entry.label == "KUBE-CLUSTER-IP 10.96.0.9,tcp:80"
    assert "it drains" in drains.sentence
    assert drains.detail["connections"] == 30
    assert serves.sentence.startswith("pod b on node1; the only one")
    assert node.label.startswith("TCP  192.168.56.11:30080")
    assert node.below[0].label == "KUBE-NODE-PORT-TCP 30080"
    line = ipvstree.overview(listing, faces)[0]
    assert line == {"destination": "10.96.0.9", "port": "80/tcp", "target": "rr: 10.244.1.2:80, 10.244.1.3:80", "connections": 34}
    assert "connections" not in ipvstree.overview(ipvstree.Listing(made.ipvs.held), faces)[0]


def test_a_preview_is_what_is_written() -> None:
    node = {"metadata": {"name": "node1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.56.11"}]}}
    objects = web("10.244.1.2", node_port=30080, type="NodePort")
    made = kit().put(*objects)
    made.sync()
    shown = preview("ipvs", objects[:1], objects[1:], node, cluster_cidr="10.244.0.0/16")
    assert shown.ipvs == made.ipvs.held
    assert shown.iptables == made.held
