"""The table of services × sources (tests/proxy_table.py): the tracer over the rule value says what the table says."""

from __future__ import annotations

import pytest
from proxy_rules_kit import Kit
from proxy_table import (
    CASES,
    GATEWAY,
    INTERFACES,
    NODE,
    POD_CIDR,
    PODS,
    SECOND_ADDRESS,
    SOURCES,
    ZONE,
    Flow,
    flows,
    objects,
    of_family,
    six,
)  # fmt: skip

from nsk8s.net import ipvs, trace
from nsk8s.net.trace import ACCEPT, Host, Packet
from nsk8s.proxy.rules import Context, LocalDetector


def kit(mode: str, ipv6: bool) -> Kit:
    context = Context(
        ipv6=ipv6, detector=LocalDetector.by_cidr(six(POD_CIDR) if ipv6 else POD_CIDR), node_ip=of_family(NODE, ipv6),
        localhost_node_ports=not ipv6 and mode == "iptables",
    )  # fmt: skip
    own = tuple(of_family(a, ipv6) for a in (NODE, GATEWAY, SECOND_ADDRESS))
    made = Kit(context, zone=ZONE, mode=mode, node_addresses=own)
    for index, each in enumerate(CASES, 1):
        made.put(*objects(index, each))
    made.sync()
    return made


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_in_userspace_mode_everything_that_is_served_goes_to_the_proxys_own_port(ipv6: bool) -> None:
    made = kit("userspace", ipv6)
    held = made.proxier._held  # type: ignore[attr-defined]
    ports = {(n.name, h.service.port, n.protocol.lower()): h.proxy.port for n, h in held.items()}
    node_ports = {(h.service.node_port, n.protocol.lower()): h.proxy.port for n, h in held.items() if h.service.node_port}
    own = [of_family(a, ipv6) for a in (NODE, GATEWAY)]
    host = Host(frozenset([*own, of_family(SECOND_ADDRESS, ipv6)]), on_interface={"eth0": own[0], "cni0": own[1]},
                bridges=frozenset({"cni0"}))  # fmt: skip
    for flow in flows(ipv6):
        verdict = trace.trace(made.held, packet(flow, ipv6), host)
        assert verdict.action == ACCEPT
        if flow.expected("userspace") == "PASS" or flow.case == "no service":
            assert verdict.to == trace.address_of(packet(flow, ipv6)), flow
        else:
            wanted = ports.get((flow.case, flow.port, flow.protocol)) or node_ports[flow.port, flow.protocol]
            taken_by = own[1] if INTERFACES[flow.source] == "cni0" else own[0]
            assert verdict.to == (f"[{taken_by}]:{wanted}" if ipv6 else f"{taken_by}:{wanted}"), flow


def packet(flow: Flow, ipv6: bool, own: tuple[str, ...] = ("127.0.0.1", "::1")) -> Packet:
    """The flow's first packet. To an address of its own a machine sends from that address."""
    source = of_family(SOURCES[flow.source], ipv6)
    if flow.source == "node" and flow.address in own:
        source = flow.address
    return Packet(source, flow.address, flow.port, flow.protocol, interface=INTERFACES[flow.source])


def predicted(made: Kit, flow: Flow, ipv6: bool) -> str:
    """The tracer's outcome in the table's words."""
    host = Host(frozenset(of_family(a, ipv6) for a in (NODE, GATEWAY, SECOND_ADDRESS)))
    names = {of_family(ip, ipv6): pod for pod, ip in PODS.items()}
    found = set()
    own = ("127.0.0.1", "::1", *(ipvs.addresses_of(made.ipvs.held) if made.mode == "ipvs" else ()))
    first = packet(flow, ipv6, own)
    shares = made.outcomes(first, host)
    assert sum(shares.values()) == pytest.approx(1)
    for verdict in shares:
        ip, _, port = verdict.to.rpartition(":")
        untouched = ip.strip("[]") == flow.address and int(port or 0) == flow.port
        if verdict.action != ACCEPT:
            found.add(verdict.action)
        elif untouched and flow.case != "no service":
            found.add("PASS")
        elif ip.strip("[]") not in names:
            found.add("PASS" if untouched else verdict.to)
        else:
            name = names[ip.strip("[]")]
            # What stays on the node is not masqueraded, or nobody could tell: the kernel leaves POSTROUTING's choice unseen.
            seen = "" if name == "node" else _seen(made.mode, flow, first, verdict, name)
            found.add("DROP" if flow.source == "node2" and seen == " lost" and not ipv6 else name + seen)
    return "|".join(sorted(found))


def _seen(mode: str, flow: Flow, first: Packet, verdict: trace.Verdict, pod: str) -> str:
    """Whom the pod sees: the node, the Service's own address; or whether its answer is lost, for it does not pass the node."""
    if verdict.masq:
        return " masq"
    if mode != "ipvs" or flow.case == "no service":
        return ""
    if flow.source == "node":
        return " vip" if first.src == flow.address and flow.address not in (NODE, six(NODE)) else " masq"
    return " lost" if pod == "r" and flow.source in ("outside", "client", "node2", "r") else ""


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
def test_the_tracer_agrees_with_the_table(mode: str, ipv6: bool) -> None:
    made = kit(mode, ipv6)
    seen = {f"{f.case}: {f.source} → {f.address} {f.port}/{f.protocol}": predicted(made, f, ipv6) for f in flows(ipv6)}
    assert seen == {f"{f.case}: {f.source} → {f.address} {f.port}/{f.protocol}": f.expected(mode) for f in flows(ipv6)}
