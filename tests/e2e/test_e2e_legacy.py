"""A cluster on legacy iptables: libiptc, a witness of its own, reads from the kernel the very rules that were meant.

What was meant is told twice: by kube-proxy's own code as a ChainSet, and by this test in its own words."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import EXAMPLES, NAME, ask, becomes, components, get, netns, nsk8s, pods, until
from e2e_monitor import network_state

from nsk8s.net import chainset
from nsk8s.nodenetwork import plan
from nsk8s.proxy.iptables import IptablesProxier
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.rules import Context, LocalDetector

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
NODES = ("control-plane", "node1", "node2", "node3")
READ = """
import os, sys
if "netdev_max_backlog" in os.listdir("/proc/sys/net/core"):
    sys.exit("the machine's own namespace: reading would load its tables")
import iptc, json
table = sys.argv[1]
print(json.dumps({chain: iptc.easy.dump_chain(table, chain) for chain in iptc.easy.get_chains(table)}))
"""
Chains = dict[str, list[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    pytest.importorskip("iptc", reason="python-iptables is not installed")
    nsk8s("down", "-q", ok=False)
    before = network_state()
    try:
        nsk8s("up", "-q", "--iptables", "legacy")
        nsk8s("apply", "-f", str(EXAMPLES / "hello.yaml"))
        until("three ready pods", lambda: len(pods()) == 3)
        becomes("three endpoints", lambda: len(endpoints()), 3)
        yield
    finally:
        nsk8s("down", "-q", ok=False)
    after = network_state()
    assert after["legacy iptables table"] == before["legacy iptables table"], "the root namespace's tables were loaded"


def endpoints() -> list[dict[str, Any]]:
    """The Service's ready ones, as the API has them."""
    slices = get("endpointslices", "-l", "kubernetes.io/service-name=hello")["items"]
    return [e for each in slices for e in each.get("endpoints") or [] if e["conditions"]["ready"]]


# ── four accounts of the same rules, in one spelling ─────────────────────────────────────────────────────────────────────


def dump(node: str, table: str) -> dict[str, list[dict[str, Any]]]:
    """What libiptc finds in a node's kernel, counters included; read in a process of its own."""
    done = nsk8s("enter", node, "--", sys.executable, "-c", READ, table)
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def by_libiptc(node: str, table: str) -> Chains:
    return {chain: [chainset.canonical(_text(rule)) for rule in rules] for chain, rules in dump(node, table).items()}


def _text(rule: dict[str, Any]) -> str:
    """python-iptables' dictionary of a rule as the rule's words."""
    words = []
    target = rule.pop("target")
    rule.pop("counters")
    for key, flag in (("src", "-s"), ("dst", "-d"), ("protocol", "-p"), ("in-interface", "-i"), ("out-interface", "-o")):
        if key in rule:
            value = rule.pop(key)
            words.append(f"! {flag} {value[1:]}" if value.startswith("!") else f"{flag} {value}")
    for match, options in rule.items():
        words.append(f"-m {match}")
        words += [_option(name, value) for name, value in options.items()]
    if isinstance(target, str):
        return " ".join([*words, f"-j {target}"])
    ((name, options),) = target.items()
    return " ".join([*words, f"-j {name}", *(_option(n, v) for n, v in options.items())])


def _option(name: str, value: Any) -> str:
    values = list(value) if isinstance(value, list) else [value]
    negated = "! " if values[0] == "!" else ""
    text = " ".join(chainset.quote(v) for v in (values[1:] if negated else values) if v)
    return f"{negated}--{name} {text}".strip()


def by_iptables_save(node: str, table: str) -> Chains:
    saved = nsk8s("enter", node, "--", "iptables-legacy-save", "-t", table).stdout
    return {name: [chainset.canonical(r) for r in chain.rules] for name, chain in chainset.parse(saved).tables[table].items()}


class Recorder:
    """Where kube-proxy's rules go, instead of a kernel."""

    version, variant, ipv6, has_random_fully = (1, 8, 9), "legacy", False, True

    def __init__(self) -> None:
        self.held = chainset.ChainSet()

    async def save(self, table: str = "") -> str:
        return ""

    async def restore(self, text: str | Iterable[str]) -> None:
        self.held = chainset.apply(self.held, "".join(text))


def by_kube_proxy(node: str, table: str) -> Chains:
    """The ChainSet that kube-proxy's code makes of what the API holds now; with node-network's part, where it has one."""
    recorder = Recorder()
    context = Context(detector=LocalDetector.by_cidr("10.244.0.0/16"))
    proxier = IptablesProxier(recorder, context, node, NodePortAddresses(()), Metrics())  # type: ignore[arg-type]
    proxier._clean_conntrack = lambda: None  # type: ignore[method-assign]
    for service in get("services", "-A")["items"]:
        if service["spec"]["clusterIP"] != "None":
            proxier.service_changed(None, service)
    for each in get("endpointslices", "-A")["items"]:
        proxier.slice_changed(None, each)
    assert asyncio.run(proxier.sync())
    found = {n: list(c.rules) for n, c in recorder.held.tables[table].items()}
    if table == "nat":
        found[plan.MASQ_CHAIN] = masquerade()
        found["POSTROUTING"].append(plan.MASQ_JUMP.rule)
    return {name: [chainset.canonical(r) for r in rules] for name, rules in found.items()}


def masquerade() -> list[str]:
    inside = ["192.168.56.0/24", "10.96.0.0/16"]
    return list(plan.masquerade(["10.244.0.0/16"], inside, ipv6=False, random_fully=True).rules("nat", plan.MASQ_CHAIN))


def name_hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16]


def meant() -> Chains:
    """Table nat as Services and EndpointSlices ask for it, written down from upstream's documents and not with kube-proxy's code."""
    chains: Chains = {
        "PREROUTING": ['-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'],
        "OUTPUT": ['-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'],
        "POSTROUTING": ['-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING', plan.MASQ_JUMP.rule],
        "INPUT": [], "KUBE-PROXY-CANARY": [], "KUBE-SERVICES": [], "KUBE-NODEPORTS": [],
        "KUBE-MARK-MASQ": ["-j MARK --or-mark 0x4000"],
        "KUBE-POSTROUTING": [
            "-m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-j MARK --xor-mark 0x4000",
            '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
        ],
        plan.MASQ_CHAIN: masquerade(),
    }  # fmt: skip
    slices = get("endpointslices", "-A")["items"]
    for service in get("services", "-A")["items"]:
        namespace, name, ip = service["metadata"]["namespace"], service["metadata"]["name"], service["spec"]["clusterIP"]
        for port in service["spec"]["ports"]:
            _add_port(chains, f"{namespace}/{name}:{port['name']}", ip, port, [
                f"{address}:{p['port']}"
                for s in slices
                if s["metadata"]["namespace"] == namespace and s["metadata"]["labels"]["kubernetes.io/service-name"] == name
                for p in s.get("ports") or [] if p["name"] == port["name"]
                for e in s.get("endpoints") or [] if e["conditions"]["ready"]
                for address in e["addresses"]
            ])  # fmt: skip
    chains["KUBE-SERVICES"].append(
        '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" '
        "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
    )
    return {name: [chainset.canonical(r) for r in rules] for name, rules in chains.items()}


def _add_port(chains: Chains, name: str, ip: str, port: dict[str, Any], endpoints: list[str]) -> None:
    if not endpoints:
        return  # filter rejects
    protocol = port["protocol"].lower()
    svc, ext = (f"KUBE-{kind}-{name_hash(name + protocol)}" for kind in ("SVC", "EXT"))
    to_ip = f'-d {ip} -p {protocol} -m {protocol} --dport {port["port"]} -m comment --comment "{name} cluster IP"'
    chains["KUBE-SERVICES"].append(f"{to_ip} -j {svc}")
    chains[svc] = [f"{to_ip} ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ"]
    if port.get("nodePort"):
        chains["KUBE-NODEPORTS"].append(f"-p {protocol} -m comment --comment {name} --dport {port['nodePort']} -j {ext}")
        note = f"masquerade traffic for {name} external destinations"
        chains[ext] = [f'-m comment --comment "{note}" -j KUBE-MARK-MASQ', f"-j {svc}"]
    for i, endpoint in enumerate(sorted(endpoints)):
        sep = f"KUBE-SEP-{name_hash(name + protocol + endpoint)}"
        left = len(endpoints) - i
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        chains[svc].append(f'-m comment --comment "{name} -> {endpoint}" {chance}-j {sep}')
        chains[sep] = [
            f"-s {endpoint.rpartition(':')[0]} -m comment --comment {name} -j KUBE-MARK-MASQ",
            f"-p {protocol} -m comment --comment {name} -m {protocol} -j DNAT --to-destination {endpoint}",
        ]


def ordered(chains: Chains) -> Chains:
    """Where order means nothing it goes: in hooks (who inserts first), and among KUBE-SERVICES but for its last rule."""
    free = {"PREROUTING", "OUTPUT", "POSTROUTING", "KUBE-NODEPORTS"}
    out = {n: sorted(r) if n in free else r for n, r in chains.items()}
    services = chains["KUBE-SERVICES"]
    return {**out, "KUBE-SERVICES": [*sorted(services[:-1]), services[-1]]}


# ── the tests ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("node", NODES)
def test_the_kernel_holds_the_rules_that_were_meant(cluster: None, node: str) -> None:
    # Meant is asked each time: pods that are ready come into their EndpointSlices a moment later.
    wanted = until(
        f"{node}'s rules are those of the API", lambda: (now := ordered(meant())) == ordered(by_iptables_save(node, "nat")) and now
    )
    assert ordered(by_libiptc(node, "nat")) == wanted
    assert ordered(by_kube_proxy(node, "nat")) == wanted
    assert by_libiptc(node, "filter") == by_iptables_save(node, "filter") == by_kube_proxy(node, "filter")


def test_the_comparison_can_fail(cluster: None) -> None:
    wanted = ordered(meant())
    proxy = components()["node2/kube-proxy"]["pid"]
    os.kill(proxy, signal.SIGSTOP)  # or it might mend it first
    try:
        saved = nsk8s("enter", "node2", "--", "iptables-legacy-save", "-t", "nat").stdout
        (rule,) = chainset.parse(saved).rules("nat", "KUBE-NODEPORTS")
        for verb in ("-D", "-A"):
            done = nsk8s("enter", "node2", "--", "sh", "-c", f"iptables-legacy -w -t nat {verb} KUBE-NODEPORTS {rule}")
            assert done.stderr == ""
            assert (ordered(by_libiptc("node2", "nat")) == wanted) == (verb == "-A")
    finally:
        os.kill(proxy, signal.SIGCONT)


def test_packets_go_through_these_rules(cluster: None) -> None:
    """Every new connection counts once in one KUBE-SEP chain's DNAT rule of the node where the client is."""
    ip = get("service/hello")["spec"]["clusterIP"]
    by_node = {p["spec"]["nodeName"]: p for p in pods()}

    def dnats(node: str) -> int:
        return sum(
            rule["counters"][0]
            for chain, rules in dump(node, "nat").items() if chain.startswith("KUBE-SEP-")
            for rule in rules
            if rule.get("comment", {}).get("comment") == "default/hello:http" and "DNAT" in rule["target"]
        )  # fmt: skip

    def counted() -> dict[str, int]:
        before = {node: dnats(node) for node in ("node1", "node3")}
        for _ in range(5):
            answer = ask((f"pod/{by_node['node1']['metadata']['name']}",), f"http://{ip}/")
            assert answer["client"].rpartition(":")[0] in {by_node["node1"]["status"]["podIP"], "10.244.1.1"}, "as it is, or hairpin"
        for _ in range(3):
            assert ask(("client",), "http://192.168.56.13:30080/")["client"].rpartition(":")[0] in {"192.168.56.13", "10.244.3.1"}
        return {node: dnats(node) - before[node] for node in before}

    # Once more when a probe failed and came back meanwhile: chains that are written anew begin at 0.
    becomes("each counts once", counted, {"node1": 5, "node3": 3})


def test_pods_reach_the_outside_as_their_node(cluster: None) -> None:
    pod = next(p for p in pods() if p["spec"]["nodeName"] == "node2")
    chain = [r for r in dump("node2", "nat")[plan.MASQ_CHAIN] if isinstance(r["target"], dict)]
    assert [list(r["target"]) for r in chain] == [["MASQUERADE"]]
    nsk8s("enter", f"pod/{pod['metadata']['name']}", "--", "bash", "-c", "echo > /dev/udp/203.0.113.10/9")
    (after,) = [r for r in dump("node2", "nat")[plan.MASQ_CHAIN] if isinstance(r["target"], dict)]
    assert after["counters"][0] == chain[0]["counters"][0] + 1


def test_only_one_variant_is_used(cluster: None) -> None:
    status = json.loads(nsk8s("status", "-o", "json").stdout)
    assert status["iptables"] == "legacy"
    for node in NODES:
        assert netns(node, "nft", "list", "ruleset").stdout == "", f"{node} holds nftables rules besides"
        tables = netns(node, "cat", "/proc/net/ip_tables_names").stdout.split()
        assert {"nat", "filter"} <= set(tables), node
    for machine in ("router", "client", "switch"):
        assert netns(machine, "cat", "/proc/net/ip_tables_names").stdout == ""
    log = Path(f"/var/lib/nsk8s/{NAME}/logs/node1/kube-proxy.log").read_text()
    assert re.search(r"iptables [\d.]+ \(legacy\)", log)


def test_rules_follow_to_one_endpoint_and_to_none(cluster: None) -> None:
    ip = get("service/hello")["spec"]["clusterIP"]
    nsk8s("scale", "deployment/hello", "--replicas", "1")
    becomes("one endpoint", lambda: (len(pods()), len(endpoints())), (1, 1))
    wanted = ordered(meant())
    becomes("its rules", lambda: ordered(by_iptables_save("node3", "nat")), wanted)
    assert ordered(by_libiptc("node3", "nat")) == wanted
    nsk8s("scale", "deployment/hello", "--replicas", "0")
    rule = chainset.canonical(
        f'-d {ip}/32 -p tcp -m comment --comment "default/hello:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable'
    )
    until("a reject", lambda: rule in by_libiptc("node3", "filter")["KUBE-SERVICES"])
    becomes("nothing else", lambda: ordered(by_libiptc("node3", "nat")), ordered(meant()))
    refused = netns("node3", "curl", "-s", "-m", "5", f"http://{ip}/")
    assert refused.returncode == 7, "refused at once, not timed out"
