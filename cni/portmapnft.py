"""portmap's nftables backend. Touches: nftables (tables ip and ip6 cni_hostport). Upstream: portmap_nftables.go.

Tables, chains and comments are upstream's: a rule's comment is the container's id.
"""

from __future__ import annotations

from cni import nft
from cni.address import V4, V6, Subnet
from cni.errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.portmap import PortmapConf

_FAMILY = {V4: "ip", V6: "ip6"}
_ANYWHERE = {V4: "0.0.0.0/0", V6: "::/0"}
_PORTS, _OLD_PORTS, _ALL, _MASQ = "hostports", "hostip_hostports", "hostports_all", "masquerading"


def _table(family: int) -> str:
    return f"{_FAMILY[family]} cni_hostport"


def _structure(c: PortmapConf, family: int) -> list[str]:
    """Tables and chains that all containers share. Pure."""
    table = _table(family)
    conditions = "".join(f"{word} " for word in c.conditions[family])
    lines = [f'add table {table} {{ comment "CNI portmap plugin" ; }}']
    lines += [f"add chain {table} {chain}" for chain in (_PORTS, _OLD_PORTS, _ALL)]
    lines += [f"flush chain {table} {_ALL}", *(f"add rule {table} {_ALL} jump {chain}" for chain in (_OLD_PORTS, _PORTS))]
    for hook in ("prerouting", "output"):
        lines += [
            f"add chain {table} {hook} {{ type nat hook {hook} priority -100 ; }}",
            f"flush chain {table} {hook}",
            f"add rule {table} {hook} {conditions}fib daddr type local jump {_ALL}",
        ]
    if c.snat:
        lines.append(f"add chain {table} {_MASQ} {{ type nat hook postrouting priority 100 ; }}")
    return lines


def own_rules(c: PortmapConf, subnet: Subnet) -> list[str]:
    """`chain rule…` of one container. Pure."""
    ip, note = _FAMILY[subnet.family], nft.comment(c.container_id)
    rules = []
    for m in (m for m in c.mappings if m.serves(subnet.family)):
        target = f"{subnet.ip}:{m.container_port}" if subnet.family == V4 else f"[{subnet.ip}]:{m.container_port}"
        at = f"{ip} daddr {m.only_at} " if m.only_at else ""
        rules.append(f"{_PORTS} {at}{m.protocol} dport {m.host_port} dnat to {target}{note}")
    if c.snat:
        sources = [_ANYWHERE[subnet.family] if c.masq_all else str(subnet.ip)]
        if subnet.family == V4 and not c.masq_all:
            sources.append("127.0.0.1")
        rules += [f"{_MASQ} {ip} saddr {source} {ip} daddr {subnet.ip} masquerade{note}" for source in sources]
    return rules


def forward(env: Mapping[str, str], c: PortmapConf, subnet: Subnet) -> None:
    """Raises CniError; nothing half done. Rules that a killed ADD of this container left are replaced."""

    def lines() -> list[str]:
        rules = [f"add rule {_table(subnet.family)} {rule}" for rule in own_rules(c, subnet)]
        return [*_structure(c, subnet.family), *_removal(env, subnet.family, c.container_id), *rules]

    nft.change(env, lines, "unable to set up nftables rules for port mappings")


def _removal(env: Mapping[str, str], family: int, container_id: str) -> list[str]:
    found = []
    for chain in (_PORTS, _OLD_PORTS, _MASQ):
        found += nft.deletions(env, _table(family), chain, lambda note: note == container_id)
    return found


def unforward(env: Mapping[str, str], container_id: str) -> None:
    """Succeeds when nothing is there. Raises CniError."""
    if not nft.available(env):
        return
    for family in (V4, V6):
        nft.change(env, lambda family=family: _removal(env, family, container_id), "error deleting nftables rules")  # type: ignore[misc]


def check(env: Mapping[str, str], c: PortmapConf, subnet: Subnet) -> None:
    """Raises CniError when rules are missing."""
    wanted = [rule.split(" ", 1)[0] for rule in own_rules(c, subnet)]
    for chain in (_PORTS, _MASQ):
        have = sum(note == c.container_id for _, note in nft.rules(env, _table(subnet.family), chain))
        if have < wanted.count(chain):
            raise CniError(f'missing hostport rules in "{chain}" chain')
