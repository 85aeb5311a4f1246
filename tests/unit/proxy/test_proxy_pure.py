"""The pure parts below the rules: names, services, endpoints, decision, conntrack, configuration, chain sets, runner."""

from __future__ import annotations

import asyncio
import os
from collections import namedtuple
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from proxy_rules_kit import Kit, ep, service, slice_of

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import ipvsprobe, modules
from nsk8s.net import chainset, podnet
from nsk8s.net.chainset import Chain, ChainSet
from nsk8s.net.trace import Host, Packet, trace
from nsk8s.nodenetwork import plan
from nsk8s.nodenetwork.agent import masquerade_text
from nsk8s.nodenetwork.cnifiles import write_whole
from nsk8s.proxy import config, configfile, names
from nsk8s.proxy.addresses import parse_cidr, parse_ip
from nsk8s.proxy.cleanup import removal
from nsk8s.proxy.conntrack import Serving
from nsk8s.proxy.decision import decide
from nsk8s.proxy.endpoints import Ports, of_service, of_slice
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.nodefacts import NodeFacts, detector
from nsk8s.proxy.runner import BoundedFrequencyRunner
from nsk8s.proxy.services import PortName, service_ports


def test_chain_names_are_upstreams() -> None:
    assert names.service_hash(names.port_name("ns1", "svc1", "p80"), "tcp") == "XPGD46QRK7WJZT7O"
    assert names.endpoint_chain("ns1/svc1:p80", "tcp", "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert names.service_hash(names.port_name("default", "kubernetes", "https"), "tcp") == "NPX46M4PTMTKRN6Y"
    assert names.service_hash(names.port_name("kube-system", "kube-dns", "dns"), "udp") == "TCOU7JCQXEZGVUNU"


def only(obj: dict):
    return next(iter(service_ports(obj).values()))


def test_services_that_are_not_ours() -> None:
    assert not service_ports(service("h", "None"))
    assert not service_ports(service("h", ""))
    assert not service_ports(service("h", "10.96.0.1", type="ExternalName"))
    other = service("h", "10.96.0.1")
    other["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "x"}
    assert not service_ports(other)
    assert not service_ports(service("h", "10.96.0.1"), ipv6=True)


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_leading_zeros_are_decimal_and_rules_are_canonical(mode: str) -> None:
    """Objects from before today's validation are served as upstream serves them."""
    old = service(
        "s", "10.96.0.041", type="LoadBalancer", vips=("1.2.3.004",), externalIPs=["192.168.099.022"],
        loadBalancerSourceRanges=["203.0.113.000/025"],
    )  # fmt: skip
    new = service(
        "s", "10.96.0.41", type="LoadBalancer", vips=("1.2.3.4",), externalIPs=["192.168.99.22"],
        loadBalancerSourceRanges=["203.0.113.0/25"],
    )  # fmt: skip
    dumps = []
    for one, ip in ((old, "10.244.01.009"), (new, "10.244.1.9")):
        kit = Kit(mode=mode).put(one, slice_of("s", ep(ip, "node1")))
        kit.sync()
        dumps.append(kit.dump())
    assert dumps[0] == dumps[1]
    assert "203.0.113.0/25" in dumps[0]


@pytest.mark.parametrize(
    ("text", "ip", "cidr"),
    [
        ("10.0.0.1", "10.0.0.1", None),
        (" 010.0.00.1 ", "10.0.0.1", None),
        ("::ffff:10.0.0.1", "10.0.0.1", None),  # IPv4 in IPv6's clothes
        ("FD00::0001", "fd00::1", None),
        ("fe80::1%eth0", None, None),
        ("256.0.0.1", None, None),
        ("10.0.0.1/08", None, "10.0.0.0/8"),
        ("fd00::1/64", None, "fd00::/64"),
        ("10.0.0.0/33", None, None),
        ("10.0.0.0/255.0.0.0", None, None),
        ("10.0.0.0/", None, None),
        (None, None, None),
    ],
)
def test_addresses_are_read_as_upstream_does(text: str | None, ip: str | None, cidr: str | None) -> None:
    assert parse_ip(text) == (ip and ip_address(ip))
    assert parse_cidr(text) == (cidr and ip_network(cidr))


def test_addresses_are_filtered_by_family_and_mode() -> None:
    obj = service("s", "10.96.0.1", type="LoadBalancer", externalIPs=["1.2.3.4", "fd00::1", "nonsense"],
                  loadBalancerSourceRanges=[" 10.0.0.0/8 ", "fd00::/8", "x"])  # fmt: skip
    ingress = [{"ip": "5.6.7.8", "ipMode": "VIP"}, {"ip": "5.6.7.9", "ipMode": "Proxy"}, {"hostname": "h"}]
    obj["status"]["loadBalancer"]["ingress"] = ingress
    port = only(obj)
    assert (port.external_ips, port.vips, port.source_ranges) == (("1.2.3.4",), ("5.6.7.8",), ("10.0.0.0/8",))


def test_health_check_port_needs_load_balancer_and_local() -> None:
    assert only(service("s", "10.96.0.1", type="LoadBalancer", healthCheckNodePort=32000)).health_check_node_port == 0
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    assert only(service("s", "10.96.0.1", type="LoadBalancer", **local)).health_check_node_port == 32000
    assert only(service("s", "10.96.0.1", type="NodePort", **local)).health_check_node_port == 0


def test_external_policy_counts_only_where_something_is_exposed() -> None:
    assert not only(service("s", "10.96.0.1", externalTrafficPolicy="Local")).external_local
    assert only(service("s", "10.96.0.1", externalTrafficPolicy="Local", externalIPs=["1.2.3.4"])).external_local


def endpoints_of(slices: list[dict], node: str) -> Ports:
    return of_service([said for each in slices if (said := of_slice(each, node)) is not None])


def test_endpoints_are_sorted_as_text_and_deduplicated_with_the_local_one() -> None:
    one = slice_of("s", ep("10.0.0.9"), ep("10.0.0.10"), ep("10.0.0.9", "node1"), {"addresses": []}, ep("bad"))
    two = slice_of("s", ep("10.0.0.10", "node1"))
    (found,) = endpoints_of([one, two], "node1").values()
    assert [(str(e), e.local) for e in found] == [("10.0.0.10:80", True), ("10.0.0.9:80", True)]


def test_conditions_that_are_missing_mean_ready() -> None:
    (found,) = endpoints_of([slice_of("s", {"addresses": ["10.0.0.1"]})], "node1").values()
    assert (found[0].ready, found[0].serving, found[0].terminating, found[0].local) == (True, True, False, False)


def test_slice_ports_without_name_or_number_are_skipped() -> None:
    nameless, numberless = slice_of("s", ep("10.0.0.1")), slice_of("s", ep("10.0.0.1"))
    nameless["ports"][0]["name"] = None
    numberless["ports"][0]["port"] = None
    assert endpoints_of([nameless, numberless, {**slice_of("s", ep("10.0.0.1")), "addressType": "FQDN"}], "node1") == {}


def chosen(*endpoints: dict, zone: str = "z1", **spec: object) -> tuple[list[str], list[str], bool]:
    found = next(iter(endpoints_of([slice_of("s", *endpoints)], "node1").values()), ())
    made = decide(only(service("s", "10.96.0.1", **spec)), found, "node1", zone)
    return [e.ip for e in made.cluster], [e.ip for e in made.local], made.usable


def test_hints() -> None:
    here, there = ep("10.0.0.1", zones=("z1",)), ep("10.0.0.2", zones=("z2",))
    assert chosen(here, there)[0] == ["10.0.0.1"]
    assert chosen(here, there, zone="z3")[0] == ["10.0.0.1", "10.0.0.2"], "no endpoint for this zone: hints are off"
    assert chosen(here, there, ep("10.0.0.3"))[0] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "one without a hint turns them off"
    gone = ep("10.0.0.4", ready=False)
    assert chosen(here, there, gone)[0] == ["10.0.0.1"], "only ready endpoints are asked"
    same_node = ep("10.0.0.5", zones=("z1",), nodes=("node1",))
    other_node = ep("10.0.0.6", zones=("z1",), nodes=("node2",))
    assert chosen(same_node, other_node)[0] == ["10.0.0.5"]


def test_fallback_to_draining_endpoints_is_separate_for_cluster_and_local() -> None:
    draining = {"ready": False, "serving": True, "terminating": True}
    remote, local = ep("10.0.0.1"), ep("10.0.0.2", "node1", **draining)
    spec = {"type": "NodePort", "externalTrafficPolicy": "Local"}
    service_spec = chosen(remote, local, **spec)
    assert service_spec == (["10.0.0.1"], [], True), "nothing is exposed yet: Local is not used"
    found = next(iter(endpoints_of([slice_of("s", remote, local)], "node1").values()))
    made = decide(only(service("s", "10.96.0.1", node_port=30000, **spec)), found, "node1", "")
    assert ([e.ip for e in made.cluster], [e.ip for e in made.local]) == (["10.0.0.1"], ["10.0.0.2"])
    assert [e.ip for e in made.reachable] == ["10.0.0.1", "10.0.0.2"]
    assert chosen(ep("10.0.0.3", ready=False, serving=True, terminating=False)) == ([], [], False), "serving alone is never used"


Flow = namedtuple("Flow", "dst dport reply_src reply_sport")


def test_which_udp_flows_are_stale() -> None:
    udp = PortName("ns", "s", "p80", "UDP")
    services = {**service_ports(service("s", "10.96.0.1", protocol="UDP", node_port=30053, type="NodePort")),
                **service_ports(service("t", "10.96.0.2"))}  # fmt: skip
    found = endpoints_of([slice_of("s", ep("10.0.0.1"), ep("10.0.0.2", ready=False, serving=True, terminating=True),
                                   ep("10.0.0.3", ready=False, serving=False), protocol="UDP")], "n")  # fmt: skip
    kept = [Flow("10.96.0.1", 80, "10.0.0.1", 80), Flow("10.96.0.1", 80, "10.0.0.2", 80), Flow("10.96.0.1", 81, "9.9.9.9", 81),
            Flow("10.96.0.2", 80, "9.9.9.9", 80), Flow("192.168.1.1", 30053, "10.0.0.1", 80),
            Flow("8.8.8.8", 53, "8.8.8.8", 53)]  # fmt: skip
    cut = [Flow("10.96.0.1", 80, "10.0.0.3", 80), Flow("10.96.0.1", 80, "10.0.0.1", 81), Flow("10.96.0.1", 80, "10.96.0.1", 80),
           Flow("192.168.1.1", 30053, "10.0.0.9", 80)]  # fmt: skip
    assert Serving(services, found).stale(kept + cut) == cut
    assert Serving(services, found).ports == {80, 30053}
    without = Serving(services, {udp: ()})
    assert (without.stale(cut), without.ports) == ([], frozenset()), "without a serving endpoint nothing is cut"


DOCUMENT = {"apiVersion": configfile.API_VERSION, "kind": "KubeProxyConfiguration"}


def test_configuration_defaults_and_fields() -> None:
    plain = configfile.from_document(DOCUMENT)
    assert (plain.min_sync_period_s, plain.sync_period_s, plain.masquerade_bit) == (1.0, 30.0, 14)
    full = configfile.from_document({
        **DOCUMENT, "mode": "", "clusterCIDR": "10.1.0.0/16,fd00::/56", "nodePortAddresses": ["primary"],
        "iptables": {"syncPeriod": "1m30s", "minSyncPeriod": "0s", "masqueradeAll": True, "masqueradeBit": 3},
        "conntrack": {"maxPerCore": 1, "tcpEstablishedTimeout": None}, "detectLocalMode": "NodeCIDR",
    })  # fmt: skip
    assert (full.sync_period_s, full.min_sync_period_s, full.masquerade_all, full.masquerade_bit) == (90.0, 1.0, True, 3), "zero is upstream's word for not said"
    assert full.mode == "iptables"
    assert "nf_conntrack_max" in full.warnings[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mod": "iptables"}, "unknown field 'mod'"),
        ({"iptables": {"syncperiod": "1s"}}, "unknown field iptables.syncperiod"),
        ({"kind": "Pod"}, "not KubeProxyConfiguration"),
        ({"mode": "ipvs", "ipvs": {"scheduler": "magic"}}, "ipvs.scheduler: 'magic' is none of rr, wrr"),
        ({"mode": "ipvs", "ipvs": {"excludeCIDRs": ["all"]}}, "ipvs.excludeCIDRs"),
        ({"mode": "ipvs", "ipvs": {"syncPeriod": "1s", "minSyncPeriod": "2s"}}, "ipvs.minSyncPeriod"),
        ({"mode": "ipvs", "ipvs": {"strictARP": "yes"}}, "ipvs.strictARP"),
        ({"mode": "kernelspace"}, "mode: kernelspace is not supported"),
        ({"mode": "userspace", "portRange": "9-5"}, "portRange"),
        ({"mode": "userspace", "udpIdleTimeout": "-1s"}, "udpIdleTimeout"),
        ({"mode": "nftables", "nftables": {"masqueradeBit": 40}}, "nftables.masqueradeBit"),
        ({"mode": "magic"}, "is not a proxy mode"),
        ({"clusterCIDR": "10.0.0.0/99"}, "clusterCIDR"),
        ({"clusterCIDR": "10.0.0.0/16,10.1.0.0/16"}, "clusterCIDR.*valid DualStack CIDR"),
        ({"bindAddress": "everywhere"}, "bindAddress"),
        ({"iptables": {"syncPeriod": "soon"}}, "iptables.syncPeriod"),
        ({"iptables": {"masqueradeBit": 32}}, "iptables.masqueradeBit"),
        ({"iptables": {"masqueradeBit": "14"}}, "iptables.masqueradeBit"),
        ({"iptables": []}, "iptables: must be an object"),
        ({"nodePortAddresses": ["primary", "10.0.0.0/8"]}, "primary"),
        ({"metricsBindAddress": "localhost"}, "metricsBindAddress"),
        ({"detectLocalMode": "BridgeInterface"}, "detectLocal.bridgeInterface"),
        ({"detectLocalMode": "Magic"}, "detectLocalMode"),
    ],
)  # fmt: skip
def test_bad_configuration_is_refused_by_name(change: dict, said: str) -> None:
    with pytest.raises(config.ConfigError, match=said):
        configfile.from_document({**DOCUMENT, **change})


def test_the_file_counts_and_flags_fill_what_it_leaves_out(tmp_path, capsys: pytest.CaptureFixture) -> None:
    from nsk8s.proxy.main import main

    path = tmp_path / "c.yaml"
    path.write_text("kind: KubeProxyConfiguration\napiVersion: nothing/v1\n")
    assert main(["--config", str(path)]) == 1
    assert "is not KubeProxyConfiguration" in capsys.readouterr().err
    assert main(["--proxy-mode", "kernelspace"]) == 1
    assert "kernelspace is not supported" in capsys.readouterr().err
    assert main(["--proxy-mode", "ipvs", "--ipvs-scheduler", "magic"]) == 1
    assert "ipvs.scheduler: 'magic' is none of rr" in capsys.readouterr().err
    assert main(["--no-such-flag"]) == 2


def test_local_traffic_detection() -> None:
    facts = NodeFacts(pod_cidrs=("10.1.3.0/24", "fd00:3::/64"))
    base = {**DOCUMENT, "clusterCIDR": "10.1.0.0/16"}
    assert detector(configfile.from_document(base), facts, False).is_not_local == "! -s 10.1.0.0/16"
    assert not detector(configfile.from_document(base), facts, True)
    node_cidr = configfile.from_document({**base, "detectLocalMode": "NodeCIDR"})
    assert detector(node_cidr, facts, True).is_local == "-s fd00:3::/64"
    prefix = {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "veth"}}
    by_prefix = detector(configfile.from_document({**base, **prefix}), facts, False)
    assert (by_prefix.is_local, by_prefix.nft("ip")) == ("-i veth+", 'iifname "veth*"')
    bridge = {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "ip"}}
    named_as_a_keyword = detector(configfile.from_document({**base, **bridge}), facts, False)
    assert named_as_a_keyword.nft("ip", negated=True) == 'iifname != "ip"'


def test_both_families_have_a_detector_and_an_address() -> None:
    both = configfile.from_document({**DOCUMENT, "clusterCIDR": "10.1.0.0/16, fd00:1::/56"})
    facts = NodeFacts.of({"metadata": {"name": "n"}, "status": {"addresses": [
        {"type": "Hostname", "address": "n"}, {"type": "ExternalIP", "address": "2001:db8::1"},
        {"type": "InternalIP", "address": "192.168.0.1"}, {"type": "InternalIP", "address": "fd00::1"},
    ]}})  # fmt: skip
    assert [detector(both, facts, v).is_local for v in (False, True)] == ["-s 10.1.0.0/16", "-s fd00:1::/56"]
    assert [facts.ip(v) for v in (False, True)] == ["192.168.0.1", "fd00::1"]
    assert (facts.has(False), facts.has(True)) == (True, True)
    nothing, only6 = NodeFacts(), NodeFacts(ips=("fd00::1",))
    assert [f.has(v) for f in (nothing, only6) for v in (False, True)] == [True, False, False, True]


def test_an_ipv6_bind_address() -> None:
    six = configfile.from_document({**DOCUMENT, "bindAddress": "::"})
    assert (six.healthz_bind_address, six.metrics_bind_address) == ("[::]:10256", "[::1]:10249")
    own = configfile.from_document({**DOCUMENT, "bindAddress": "fd00::7", "healthzBindAddress": "0.0.0.0:10256"})
    assert own.healthz_bind_address == "0.0.0.0:10256", "what is said stays"
    assert NodeFacts.of(None, own.bind_address).ip(True) == "fd00::7"
    for node in (None, {"metadata": {"name": "n"}}):  # not there yet, or without addresses
        assert [NodeFacts.of(node, bind).has(v6) for bind in ("0.0.0.0", "::") for v6 in (False, True)] == [True, False, False, True]


def test_node_port_addresses_setting() -> None:
    assert NodePortAddresses([]).match_all
    assert NodePortAddresses(["0.0.0.0/0"]).match_all
    assert NodePortAddresses(["fd00::/8"]).match_all, "no CIDR of this family"
    some = NodePortAddresses(["10.0.0.0/8"])
    assert not some.match_all
    assert not some.contains_loopback
    assert NodePortAddresses(["127.0.0.0/8"]).contains_loopback
    assert NodePortAddresses(["127.0.0.1/32"]).contains_loopback
    assert NodePortAddresses(["126.0.0.0/7"]).contains_loopback
    assert some.select(["10.1.1.1", "192.168.0.1", "fd00::1", "10.1.1.1"]) == ["10.1.1.1"]
    assert NodePortAddresses(["primary"], node_ips=["10.9.9.9"]).select(["10.1.1.1", "10.9.9.9"]) == ["10.9.9.9"]


# ── chain sets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ours", "kernels"),
    [
        ("-m tcp -p tcp -d 10.0.0.1 --dport 80 -j X", "-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j X"),
        ("-j MARK --or-mark 0x4000", "-j MARK --set-xmark 0x4000/0x4000"),
        ("-j MARK --xor-mark 0x4000", "-j MARK --set-xmark 0x4000/0x0"),
        ("-m statistic --mode random --probability 0.3333333333 -j X",
         "-m statistic --mode random --probability 0.33333333349 -j X"),
        ("-p udp -j REJECT", "-p udp -j REJECT --reject-with icmp-port-unreachable"),
        ("-m recent --name A --rcheck --seconds 10 --reap -j X",
         "-m recent --rcheck --seconds 10 --reap --name A --mask 255.255.255.255 --rsource -j X"),
        ("! -s 10.0.0.0/8 -m comment --comment a/b:c -j X", '-m comment --comment "a/b:c" ! -s 10.0.0.0/8 -j X'),
    ],
)  # fmt: skip
def test_the_kernels_spelling_is_ours(ours: str, kernels: str) -> None:
    assert chainset.canonical(ours) == chainset.canonical(kernels)


@pytest.mark.parametrize("other", ["-s 10.0.0.0/8 -j X", "! -s 10.0.0.0/9 -j X", "! -s 10.0.0.0/8 -j Y", "! -d 10.0.0.0/8 -j X"])
def test_what_differs_stays_different(other: str) -> None:
    assert chainset.canonical("! -s 10.0.0.0/8 -j X") != chainset.canonical(other)


def test_parse_is_the_inverse_of_render() -> None:
    text = Kit().put(service("s", "10.96.0.1"), slice_of("s", ep("10.0.0.1"))).sync()
    value = chainset.apply(ChainSet(), text)
    assert chainset.parse(chainset.render(value)) == value
    with pytest.raises(ValueError, match="line 2"):
        chainset.parse("*nat\nnonsense\n")


def test_diff_touches_only_what_differs_and_what_is_ours() -> None:
    have = ChainSet({"nat": {"K-A": Chain(("-j ACCEPT",)), "K-B": Chain(("-j DROP",)), "X": Chain(("-j K-A",))}})
    want = ChainSet({"nat": {"K-A": Chain(("-j ACCEPT",)), "K-C": Chain(("-j K-A",))}})
    text = chainset.diff(have, want, ("K-",))
    assert text == "*nat\n:K-C - [0:0]\n:K-B - [0:0]\n-A K-C -j K-A\n-X K-B\nCOMMIT\n"
    assert chainset.diff(chainset.apply(have, text), want, ("K-",)) == ""


def test_cleanup_keeps_what_is_kubelets() -> None:
    kit = Kit().put(service("s", "10.96.0.1"), slice_of("s", ep("10.0.0.1")))
    kit.sync()
    after = chainset.apply(kit.held, "")
    assert removal(chainset.render(after))
    kubelets = chainset.apply(kit.held, "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n")
    text = removal(chainset.render(kubelets))
    assert "-X KUBE-SERVICES" in text
    assert "-X KUBE-MARK-MASQ" not in text
    assert "KUBE-FIREWALL" not in text
    assert removal("") == ""


# ── the runner ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_runner_runs_at_once_and_collapses_what_comes_meanwhile() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()
    ran = asyncio.Event()

    async def run() -> bool:
        times.append(loop.time())
        ran.set()
        return True

    runner = BoundedFrequencyRunner(run, min_interval_s=0.1, retry_s=9, max_interval_s=9)
    task = asyncio.create_task(runner.loop())
    start = loop.time()
    runner.request()
    await ran.wait()
    assert times[0] - start < 0.05
    ran.clear()
    for _ in range(5):
        runner.request()
    await ran.wait()
    assert times[1] - times[0] >= 0.1
    ran.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ran.wait()
    task.cancel()
    assert len(times) == 2


async def test_the_runner_repeats_what_failed() -> None:
    results = [False, RuntimeError("x"), True]
    done = asyncio.Event()

    async def run() -> bool:
        result = results.pop(0)
        if not results:
            done.set()
        if isinstance(result, Exception):
            raise result
        return result

    runner = BoundedFrequencyRunner(run, min_interval_s=0, retry_s=0.01, max_interval_s=9)
    task = asyncio.create_task(runner.loop())
    runner.request()
    async with asyncio.timeout(2):
        await done.wait()
    task.cancel()


# ── node-network's plan ─────────────────────────────────────────────────────────────────────────────────────────────────


def node(name: str, ip: str, cidr: str = "") -> dict:
    addresses = [{"type": "InternalIP", "address": ip}]
    return {"metadata": {"name": name}, "spec": {"podCIDR": cidr}, "status": {"addresses": addresses}}


def test_one_route_for_each_other_node() -> None:
    nodes = [node("n1", "1.1.1.1", "10.1.1.0/24"), node("n2", "1.1.1.2", "10.1.2.0/24"), node("n3", "1.1.1.3"),
             node("n4", "fd00::4", "10.1.4.0/24"), node("n5", "1.1.1.5", "nonsense")]  # fmt: skip
    assert podnet.routes(nodes, "n1") == {"10.1.2.0/24": "1.1.1.2"}


@pytest.mark.parametrize(
    ("src", "dst", "masq"),
    [
        ("10.1.1.5", "10.1.2.5", False), ("10.1.1.5", "192.168.56.12", False), ("10.1.1.5", "10.96.0.1", False),
        ("10.1.1.5", "203.0.113.10", True), ("192.168.56.11", "203.0.113.10", False), ("10.1.1.5", "224.0.0.251", False),
    ],
)  # fmt: skip
def test_only_what_leaves_the_cluster_is_masqueraded(src: str, dst: str, masq: bool) -> None:
    want = plan.masquerade(["10.1.0.0/16"], ["192.168.56.0/24", "10.96.0.0/16"], ipv6=False, random_fully=True)
    held = chainset.apply(ChainSet(), masquerade_text(ChainSet(), want))
    assert trace(held, Packet(src, dst, 80, interface="cni0"), Host()).masq == masq
    assert masquerade_text(held, want) == "", "nothing to do the second time"
    flushed = ChainSet({"nat": {**held.tables["nat"], "POSTROUTING": Chain((), "ACCEPT")}})
    assert chainset.apply(flushed, masquerade_text(flushed, want)) == held


def test_the_conflist_is_written_once(tmp_path) -> None:
    text = plan.conflist(["10.1.1.0/24"])
    assert write_whole(tmp_path / "d" / plan.CONFLIST, text)
    assert not write_whole(tmp_path / "d" / plan.CONFLIST, text)
    assert [p.name for p in (tmp_path / "d").iterdir()] == [plan.CONFLIST]


def test_switches_may_be_spelled_as_go_does() -> None:
    from nsk8s.proxy.main import _plain

    given = ["--masquerade-all=false", "--iptables-localhost-nodeports=true", "--cluster-cidr=10.0.0.0/8", "--cleanup"]
    assert [_plain(a) for a in given] == ["--no-masquerade-all", "--iptables-localhost-nodeports", *given[2:]]


def test_each_mode_reads_its_own_section_of_the_configuration() -> None:
    document = {
        "apiVersion": configfile.API_VERSION, "kind": "KubeProxyConfiguration", "mode": "nftables",
        "nftables": {"masqueradeAll": True, "masqueradeBit": 3, "syncPeriod": "40s", "minSyncPeriod": "2s"},
        "iptables": {"masqueradeBit": 9, "minSyncPeriod": "5s"},
    }  # fmt: skip
    found = configfile.from_document(document)
    assert (found.masquerade_all, found.masquerade_bit, found.sync_period_s, found.min_sync_period_s) == (True, 3, 40, 2)
    assert found.node_port_addresses == ("primary",), "upstream's default in this mode"
    found = configfile.from_document({**document, "mode": "iptables"})
    assert (found.masquerade_all, found.masquerade_bit, found.min_sync_period_s, found.node_port_addresses) == (False, 9, 5, ())
    kept = configfile.from_document({**document, "nodePortAddresses": ["0.0.0.0/0"]})
    assert kept.node_port_addresses == ("0.0.0.0/0",)


def test_windows_mode_is_refused_in_words() -> None:
    with pytest.raises(config.ConfigError, match=r"mode: kernelspace is not supported: .+") as caught:
        config.Config(mode="kernelspace").validated()
    assert caught.value.remedy == "use iptables or nftables"


def test_ipvs_modes_own_settings() -> None:
    ipvs = {"syncPeriod": "40s", "minSyncPeriod": "2s", "scheduler": "lc", "excludeCIDRs": ["10.9.0.0/16"], "strictARP": True,
            "tcpTimeout": "1h", "tcpFinTimeout": "30s", "udpTimeout": "10s"}  # fmt: skip
    document = {**DOCUMENT, "mode": "ipvs", "ipvs": ipvs, "iptables": {"masqueradeAll": True, "syncPeriod": "9s"}}
    found = configfile.from_document(document)
    assert (found.sync_period_s, found.min_sync_period_s, found.ipvs_scheduler, found.ipvs_strict_arp) == (40, 2, "lc", True)
    assert (found.ipvs_tcp_timeout_s, found.ipvs_tcp_fin_timeout_s, found.ipvs_udp_timeout_s) == (3600, 30, 10)
    assert found.ipvs_exclude_cidrs == ("10.9.0.0/16",)
    assert found.masquerade_all, "as upstream, from the iptables section"
    assert configfile.from_document({**document, "mode": "iptables"}).sync_period_s == 9


def test_ipvs_is_refused_with_what_the_kernel_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not modules.has_ip_vs(tmp_path)
    listing = tmp_path / "lib/modules" / os.uname().release / "modules.dep"
    listing.parent.mkdir(parents=True)
    listing.write_text("kernel/net/netfilter/ipvs/ip_vs_rr.ko: kernel/x.ko\n")
    assert not modules.has_ip_vs(tmp_path)
    listing.write_text("kernel/net/netfilter/ipvs/ip_vs.ko: kernel/net/netfilter/nf_conntrack.ko\n")
    assert modules.has_ip_vs(tmp_path), "a module that could be loaded"
    listing.unlink()
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/ip_vs").touch()
    assert modules.has_ip_vs(tmp_path), "a module that is there"
    monkeypatch.setattr(modules, "has_ip_vs", lambda: False)
    with pytest.raises(Nsk8sError, match="mode: ipvs is not possible: this kernel has no ip_vs") as caught:
        ipvsprobe.require()
    assert "iptables or nftables" in caught.value.remedy
    monkeypatch.setattr(modules, "has_ip_vs", lambda: True)
    monkeypatch.setattr(modules, "load_for_ipvs", lambda scheduler: [])
    monkeypatch.setattr(ipvsprobe, "missing", lambda scheduler: ["xt_set (no such match)", "dummy (no)"])
    with pytest.raises(Nsk8sError, match=r"this kernel lacks xt_set \(no such match\), dummy \(no\)"):
        ipvsprobe.require()


def test_userspace_modes_own_settings() -> None:
    document = {**DOCUMENT, "mode": "userspace", "portRange": "20000+5", "udpIdleTimeout": "1s"}
    found = configfile.from_document(document)
    assert (found.mode, found.udp_idle_timeout_s, config.parse_port_range(found.port_range)) == ("userspace", 1.0, range(20000, 20006))
    assert configfile.from_document(DOCUMENT).udp_idle_timeout_s == 0.25
    assert "portRange has no effect" in configfile.from_document({**document, "mode": "iptables"}).warnings[0]
    assert [config.parse_port_range(t) for t in ("", "0-0", "7", "7-9")] == [range(0), range(0), range(7, 8), range(7, 10)]
