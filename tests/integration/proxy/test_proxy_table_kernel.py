"""The table of services × sources (tests/proxy_table.py) as real packets: the kernel does what the table says.

Together with the tracer's test of the same table: kernel, tracer and expectation agree, in every mode and both families.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
from proxy_table import (
    CASES,
    CLIENT,
    GATEWAY,
    NODE,
    PODS,
    SECOND_ADDRESS,
    SECOND_TARGET_PORT,
    SOURCES,
    TARGET_PORT,
    UNALLOCATED,
    Flow,
    addresses,
    flows,
    node_object,
    objects,
    of_family,
    six,
)  # fmt: skip
from proxy_world import FakeApi, Prober, World, eventually

from nsk8s.kernel.modules import has_ip_vs

pytestmark = pytest.mark.root

MODES = {
    "nftables": ("--proxy-mode", "nftables"),
    "iptables-nft": ("--iptables", "nft"),
    "iptables-legacy": ("--iptables", "legacy"),
    "userspace": ("--proxy-mode", "userspace", "--iptables", "nft"),
    # scripts/vm has a kernel for it; test_proxy_ipvs.py says so where this one has none.
    **({"ipvs": ("--proxy-mode", "ipvs", "--iptables", "nft")} if has_ip_vs() else {}),
}
STICKY_TRIES = 12
PATIENCE_S = 0.9
"""What is dropped costs this much, once a family."""
Answers = dict[Flow, set[str]]
Kernel = tuple[str, Answers, list[Counter[str]]]
DRAWS, FEW, MANY = 900, 200, 402
"""Three endpoints, 300 each. All modes' dice together, if they are fair, leave these bounds once in 10¹⁰ runs; a half and two
quarters would be 450 and 225."""
SILENCE = {"DROP", "PASS", "r lost"}


@pytest.fixture(scope="module", params=list(MODES))
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """(mode, what became of every flow of the table, in the table's words; how often each of three endpoints was drawn)."""
    mode = request.param
    with World() as world, FakeApi(world.names["node"]) as api:
        world.sh("node", f"ip addr add {SECOND_ADDRESS}/24 dev eth0; "
                 f"ip addr add {six(SECOND_ADDRESS)}/64 dev eth0 nodad preferred_lft 0")  # never the source  # fmt: skip
        for route in ("10.96.0.0/16", "198.51.100.0/24"):
            world.sh("node2", f"ip route add {route} via {NODE}")
        for route in ("fd00:10:96::/96", "2001:db8:51::/64"):
            world.sh("node2", f"ip -6 route add {route} via {six(NODE)}")
        api.put(node_object())
        for index, each in enumerate(CASES, 1):
            api.put(*objects(index, each))
        for pod in ("a", "b", "r", "node"):
            world.answerer(pod, pod, TARGET_PORT, SECOND_TARGET_PORT)
        world.proxy(api, tmp_path_factory.mktemp("proxy"), *MODES[mode], clusters="10.244.0.0/16,fd00:10:244::/48")
        eventually(lambda: is_written(world, mode))
        yield mode, observe(world, mode.partition("-")[0]), draw(world)


def is_written(world: World, mode: str) -> bool:
    """Whether the last sync, IPv6's, is done."""
    if mode == "ipvs":
        held = world.sh("node", "ip -6 -o address show dev kube-ipvs0 2>/dev/null || true")
        return all(f"{six(addresses(index).cluster)}/128 " in held for index, _ in enumerate(CASES, 1))
    if mode == "nftables":
        return "node-hints" in world.sh("node", "nft list map ip6 kube-proxy service-ips 2>/dev/null || true")
    save = f"ip6tables-{'legacy' if mode == 'iptables-legacy' else 'nft'}-save -t nat"
    return "node-hints" in world.sh("node", f"[ ! -e /proc/net/ip6_tables_names ] || {save}")


def observe(world: World, mode: str) -> Answers:
    """Send the whole table's packets at once, each family in one go. Where silence is not what is expected, it is asked again with
    patience: whoever answers may be held up."""
    probers = {name: world.prober(name) for name in ("a", "b", "r", "node", "node2", "outside")}
    watches = [world.prober("outside"), world.prober("r")]
    for watch in watches:
        watch.begin(watch="eth0")
        assert watch.result() == "watching"
    eventually(lambda: all(warm(probers, v) for v in (False, True)))
    found: Answers = {}
    for ipv6 in (False, True):
        wanted = [f for f in flows(ipv6) for _ in range(STICKY_TRIES if f.sticky else 1)]
        answers = ask_all(probers, wanted, ipv6)
        slow = {f: None for f, answer, _ in answers if answer == "timeout" and not set(f.expected(mode).split("|")) <= SILENCE}
        again = [f for f in slow for _ in range(STICKY_TRIES if f.sticky else 1)]
        answers = [a for a in answers if a[0] not in slow] + (ask_all(probers, again, ipv6, 5) if again else [])
        for watch in watches:
            watch.begin(seen=True)
        arrived = {tuple(p) for watch in watches for p in watch.result()}
        for flow, answer, sport in answers:
            found.setdefault(flow, set()).add(in_the_tables_words(flow, answer, sport, arrived, ipv6))
    return found


def draw(world: World) -> list[Counter[str]]:
    """Many connections to the service with three endpoints, in each family: who answered how often."""
    prober = world.prober("b")
    found = []
    for ipv6 in (False, True):
        flow = next(f for f in flows(ipv6) if f.case == "three" and f.source == "b")
        prober.begin(ask=[["tcp", flow.address, flow.port, ""]] * DRAWS, timeout_s=20)
        found.append(Counter(answer.split()[0] for answer, _ in prober.result()))
    return found


def warm(probers: dict[str, Prober], ipv6: bool) -> bool:
    """Whether every machine reaches every pod: neighbours are then resolved, and no first packet is lost."""
    for name, prober in probers.items():
        pods = [NODE] if name == "outside" else PODS.values()  # it knows no way to pods
        prober.begin(ask=[["tcp", of_family(ip, ipv6), TARGET_PORT, ""] for ip in pods], timeout_s=0.3)
    answers = [answer for prober in probers.values() for answer, _ in prober.result()]
    return "timeout" not in answers


SOURCE_PORTS = itertools.cycle(range(11_000, 30_000))
"""No two questions have the same: what arrived somewhere is known by it. No node port, and none that the kernel chooses."""


def ask_all(
    probers: dict[str, Prober], wanted: list[Flow], ipv6: bool, patience_s: float = PATIENCE_S
) -> list[tuple[Flow, str, int]]:
    by_machine: dict[str, list[Flow]] = {}
    for flow in wanted:
        by_machine.setdefault("outside" if flow.source == "client" else flow.source, []).append(flow)
    for machine, mine in by_machine.items():
        order = [
            [f.protocol, f.address, f.port, of_family(CLIENT, ipv6) if f.source == "client" else "", next(SOURCE_PORTS)] for f in mine
        ]
        probers[machine].begin(ask=order, timeout_s=patience_s)
    return [
        (flow, answer, sport)
        for machine, mine in by_machine.items()
        for flow, (answer, sport) in zip(mine, probers[machine].result(), strict=True)
    ]


def in_the_tables_words(flow: Flow, answer: str, sport: int, arrived: set[tuple[object, ...]], ipv6: bool) -> str:
    number = {"tcp": 6, "udp": 17, "sctp": 132}[flow.protocol]
    source = of_family(SOURCES[flow.source], ipv6)
    if answer == "timeout":
        if (number, flow.address, flow.port, sport) in {a[:4] for a in arrived}:
            return "PASS"
        # By its source, too: a masqueraded flow has any source port, and the node's address.
        lost = flow.source != "node" and (number, of_family(PODS["r"], ipv6), TARGET_PORT, sport, source) in arrived
        return "r lost" if lost else "DROP"
    if answer == "closed":
        return "CLOSED"
    if answer == "reject":
        return "REJECT"
    own = (*(of_family(a, ipv6) for a in (NODE, SECOND_ADDRESS)), "127.0.0.1", "::1")
    if answer == "refused":  # a reset, not an ICMP message
        return "PASS" if flow.address in own else "a reset"
    pod, _, client = answer.partition(" ")
    if pod == "node":
        return "node"
    nodes_own = {of_family(GATEWAY, ipv6), *own}
    if client == source and flow.source != "node":
        return pod
    if client == flow.address and client not in own:
        return f"{pod} vip"
    return f"{pod} masq" if client in nodes_own else f"{pod} sees {client}"


@pytest.mark.parametrize("flow", [*flows(), *flows(True)], ids=lambda f: f"{f.case}-{f.source}-{f.address}-{f.port}-{f.protocol}")
def test_packets_go_where_the_table_says(kernel: Kernel, flow: Flow) -> None:
    mode, answers, _ = kernel
    if flow.address in (UNALLOCATED, six(UNALLOCATED)) and flow.source == "outside":
        pytest.skip("it comes straight back to who sent it")
    seen = answers[flow]
    allowed = flow.expected(mode.partition("-")[0]).split("|")
    if flow.sticky:
        assert len(seen) == 1, f"one client was sent to {seen}"
    assert seen <= set(allowed)


def test_the_dice_are_fair(kernel: Kernel) -> None:
    _, _, drawn = kernel
    for counted in drawn:
        assert set(counted) == {"a", "b", "r"}
        assert all(FEW < n < MANY for n in counted.values()), counted
