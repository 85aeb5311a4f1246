"""portmap: ports of the node that lead to a container (hostPort). Upstream: plugins/meta/portmap.

Touches: iptables or nftables (`portmapnft`), route_localnet of the interface towards the container, UDP conntrack entries.
Chains, comments and rules are upstream's.  A port is reached from outside, from the node by any of its addresses (127.0.0.1
too), and from the container itself; outside clients keep their address.
"""

from __future__ import annotations

import sys

from cni import conf, errors, nft, portmapnft, skel
from cni.address import V4, V6, Subnet, parse_ip, parse_subnet
from cni.errors import CniError
from cni.interface import write_sysctl
from cni.iptables import Shared, Tables, after, available, chain_name, nat_backend, quoted
from cni.result import optional_previous_result, render
from nsk8s.kernel.rtnl import Rtnl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cni.address import IP
    from cni.skel import Args

DNAT, SETMARK, MASQ = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"
_PORTS_A_RULE = 15
_COMMENT_MAX = 255
_ANYWHERE = {V4: "0.0.0.0/0", V6: "::/0"}


class PortMapping:
    """One port: host (address or None, port) → container port."""

    __slots__ = ("container_port", "host_ip", "host_port", "protocol")

    def __init__(self, obj: Mapping[str, Any]) -> None:
        """Raises CniError."""
        self.host_port = conf.number(obj, "hostPort")
        self.container_port = conf.number(obj, "containerPort")
        self.protocol = conf.text(obj, "protocol").lower()
        for what, port in (("container", self.container_port), ("host", self.host_port)):
            if not 0 < port < 65536:
                raise CniError(f"Invalid {what} port number: {port}")
        if self.protocol not in ("tcp", "udp", "sctp"):
            raise CniError(f"Invalid protocol of port {self.host_port}: {self.protocol!r}")
        written = conf.text(obj, "hostIP")
        try:
            self.host_ip: IP | None = parse_ip(written) if written else None
        except ValueError as e:
            raise CniError(f"Invalid hostIP of port {self.host_port}: {e}") from None

    def serves(self, family: int) -> bool:
        return self.host_ip is None or self.host_ip.family == family

    @property
    def only_at(self) -> str:
        """The one address it is for; empty when it is all of them."""
        return str(self.host_ip) if self.host_ip is not None and self.host_ip.number else ""


class PortmapConf:
    """The plugin's own keys, checked; the container's addresses from prevResult."""

    __slots__ = (
        "addresses", "backend", "conditions", "container_id", "mappings", "mark", "masq_all", "name", "set_mark_chain", "snat",
    )  # fmt: skip

    def __init__(self, args: Args, previous: Mapping[str, Any] | None) -> None:
        """Raises CniError."""
        c = args.conf
        self.name = args.name
        self.container_id = args.container_id
        self.mappings = [PortMapping(obj) for obj in conf.objects(conf.section(c, "runtimeConfig"), "portMappings")]
        self.snat = conf.flag(c, "snat") if conf.lookup(c, "snat") is not None else True
        self.masq_all = conf.flag(c, "masqAll")
        self.set_mark_chain = conf.text(c, "externalSetMarkChain")
        if self.set_mark_chain and conf.lookup(c, "markMasqBit") is not None:
            raise CniError("Cannot specify externalSetMarkChain and markMasqBit")
        bit = conf.number(c, "markMasqBit", 13)
        if not 0 <= bit <= 31:
            raise CniError("MasqMarkBit must be between 0 and 31")
        self.mark = 1 << bit
        self.conditions = {V4: conf.texts(c, "conditionsV4"), V6: conf.texts(c, "conditionsV6")}
        self.backend = nat_backend(args.env, conf.text(c, "backend"), "backend")
        self._refuse_other_backends_options()
        self.addresses = _addresses(previous, args.ifname) if previous is not None else {}

    def _refuse_other_backends_options(self) -> None:
        def written_for(words: Sequence[str]) -> str:
            # An iptables condition begins with a hyphen or an exclamation mark, and no nftables one does.
            return "" if not words or not words[0] else "iptables" if words[0][0] in "-!" else "nftables"

        owners = {"conditionsV4": written_for(self.conditions[V4]), "conditionsV6": written_for(self.conditions[V6])}
        owners["externalSetMarkChain"] = "iptables" if self.set_mark_chain else ""
        wrong = [key for key, backend in owners.items() if backend not in ("", self.backend)]
        if wrong:
            other = "nftables" if self.backend == "iptables" else "iptables"
            raise CniError(
                f"{self.backend} backend was requested but configuration contains {other}-specific options [{' '.join(wrong)}]"
            )


def _addresses(result: Mapping[str, Any], ifname: str) -> dict[int, Subnet]:
    """The first address of each family that is not known to be on another interface."""
    found: dict[int, Subnet] = {}
    interfaces = result["interfaces"]
    for ip in result["ips"]:
        index = ip.get("interface")
        if index is not None and 0 <= index < len(interfaces):
            interface = interfaces[index]
            if interface.get("name") != ifname or not interface.get("sandbox"):
                continue
        subnet = parse_subnet(ip["address"])
        found.setdefault(subnet.family, subnet)
    return found


# ── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


def add(args: Args) -> dict[str, Any]:
    previous = optional_previous_result(args.conf, args.version)
    c = PortmapConf(args, previous)
    if previous is None:
        raise CniError("must be called as chained plugin")
    if c.mappings:
        for family, subnet in sorted(c.addresses.items()):
            if c.backend == "nftables":
                portmapnft.forward(args.env, c, subnet)
            else:
                _forward(Tables(args.env, family), c, subnet)
            _forget_udp(c, family)
        if c.snat and V4 in c.addresses:
            _route_localnet(c.addresses[V4].ip)
    return render(previous, args.version)


def _route_localnet(ip: IP) -> None:
    """Let 127.0.0.1 leave by the interface towards the container. Raises CniError."""
    with Rtnl() as rt:
        try:
            link = rt.link_by_index(rt.route_get(str(ip)).index)
        except OSError:
            return  # no way to it: nothing can be let through
    if link is not None:
        write_sysctl(f"ipv4/conf/{link.name}/route_localnet", "1")


def _forget_udp(c: PortmapConf, family: int) -> None:
    """Drop conntrack's entries of our UDP ports: a client that kept sending would go on where it went before the rules were."""
    ports = {m.host_port for m in c.mappings if m.protocol == "udp"}
    if not ports:
        return
    from nsk8s.kernel.conntrack import Conntrack

    try:
        with Conntrack(ipv6=family == V6) as table:
            table.delete(f for f in table.flows() if f.dport in ports)
    except OSError as e:
        sys.stderr.write(f"failed to delete stale UDP conntrack entries: {e.strerror}\n")


def delete(args: Args) -> None:
    """Needs neither namespace nor prevResult; the shared chains stay."""
    c = PortmapConf(args, None)
    if not c.mappings:
        return
    if c.backend == "nftables":
        portmapnft.unforward(args.env, args.container_id)
        return
    chain = own_chain(c.name, c.container_id)
    for family in (V4, V6):
        tables = Tables(args.env, family)
        if tables.available:
            tables.commit("nat", _removal(tables, chain), "could not teardown dnat")


def check(args: Args) -> None:
    previous = optional_previous_result(args.conf, args.version)
    c = PortmapConf(args, previous)
    if previous is None:
        raise CniError("Required prevResult missing")
    for family, subnet in sorted(c.addresses.items()) if c.mappings else ():
        if c.backend == "nftables":
            portmapnft.check(args.env, c, subnet)
            continue
        wanted = [f"-C {line}" for line in own_rules(c, subnet)]
        problem = Tables(args.env, family).attempt("nat", wanted)
        if problem:
            raise CniError(f"could not check ipv{family} dnat: {problem}")


def gc(args: Args) -> None:
    """Remove the rules of this network's containers that are not in `cni.dev/valid-attachments` (nftables' rules do not
    say their network: those stay)."""
    valid = skel.valid_attachments(args)
    if valid is None or not available(args.env):
        return
    keep = {own_chain(args.name, container_id) for container_id, _ in valid}
    prefix = f'dnat name: "{args.name}" id: "'

    def stale(words: list[str]) -> str:
        chain = after(words, "-j")
        return chain if after(words, "--comment").startswith(prefix) and chain not in keep else ""

    for family in (V4, V6):
        tables = Tables(args.env, family)
        if tables.available:
            lines, chains = tables.remove_jumps("nat", DNAT, stale)
            lines += [f"{verb} {chain}" for chain in sorted(chains) for verb in ("-F", "-X")]
            tables.commit("nat", lines, "could not teardown dnat")


def status(args: Args) -> None:
    c = PortmapConf(args, None)
    if not (nft.available(args.env) if c.backend == "nftables" else available(args.env)):
        raise CniError(f"{c.backend} is not installed", errors.PLUGIN_NOT_AVAILABLE)


# ── iptables ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def own_chain(network: str, container_id: str) -> str:
    return chain_name("CNI-DN-", network, container_id)


def shared_rules(c: PortmapConf) -> list[Shared]:
    """What every container with ports needs. Pure."""
    found = []
    if c.snat and not c.set_mark_chain:
        mark = f"{c.mark:#x}/{c.mark:#x}"
        found = [
            Shared(SETMARK, f'-m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark {mark}'),
            Shared(MASQ, f"-m mark --mark {mark} -j MASQUERADE"),
            # First: behind the masquerading rules of bridge and ptp it would never be reached.
            Shared("POSTROUTING", f'-m comment --comment "CNI portfwd requiring masquerade" -j {MASQ}', first=True),
        ]
    return found + [Shared(chain, f"-m addrtype --dst-type LOCAL -j {DNAT}") for chain in ("PREROUTING", "OUTPUT")]


def own_rules(c: PortmapConf, subnet: Subnet) -> list[str]:
    """The lines after -A: the container's chain, then the jumps to it. Pure."""
    chain, family = own_chain(c.name, c.container_id), subnet.family
    lines = []
    for m in (m for m in c.mappings if m.serves(family)):
        match = f"-p {m.protocol} --dport {m.host_port}" + (f" -d {m.only_at}" if m.only_at else "")
        if c.snat:
            sources = [_ANYWHERE[family] if c.masq_all else f"{subnet.network}/{subnet.length}"]
            if family == V4 and not c.masq_all:
                sources.append("127.0.0.1")
            lines += [f"{chain} {match} -s {source} -j {c.set_mark_chain or SETMARK}" for source in sources]
        target = f"{subnet.ip}:{m.container_port}" if family == V4 else f"[{subnet.ip}]:{m.container_port}"
        lines.append(f"{chain} {match} -j DNAT --to-destination {target}")
    note = f'dnat name: "{c.name}" id: "{c.container_id}"'
    if len(note) > _COMMENT_MAX:
        note = f"{note[: _COMMENT_MAX - 3]}..."
    conditions = "".join(f" {_word(w)}" for w in c.conditions[family])
    for protocol in sorted({m.protocol for m in c.mappings}):
        ports = [str(m.host_port) for m in c.mappings if m.protocol == protocol]
        for i in range(0, len(ports), _PORTS_A_RULE):
            some = ",".join(ports[i : i + _PORTS_A_RULE])
            match = f"-m comment --comment {quoted(note)} -m multiport -p {protocol} --destination-ports {some}"
            lines.append(f"{DNAT} {match}{conditions} -j {chain}")
    return lines


def _word(text: str) -> str:
    return quoted(text) if not text or any(c in ' "\\\n' for c in text) else text


def _forward(tables: Tables, c: PortmapConf, subnet: Subnet) -> None:
    chain = own_chain(c.name, c.container_id)
    lines = [f"-N {chain}", *(f"-A {line}" for line in own_rules(c, subnet))]

    def again() -> list[str]:
        return [*_removal(tables, chain), *lines]

    tables.ensure("nat", shared_rules(c), lines, "unable to setup DNAT", again, [DNAT])


def _removal(tables: Tables, chain: str) -> list[str]:
    """The lines that remove the container's chain and all jumps to it; none when it is not there."""
    lines, found = tables.remove_jumps("nat", DNAT, lambda words: chain if after(words, "-j") == chain else "")
    if not found and tables.rules("nat", chain) is None:
        return []
    return [*lines, f"-F {chain}", f"-X {chain}"]


PLUGIN = skel.Plugin("CNI plugin portmap (nsk8s)", add=add, delete=delete, check=check, gc=gc, status=status)


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
