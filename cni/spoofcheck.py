"""macspoofchk: only frames from the container's own MAC come through its port. Upstream: plugins/pkg/link/spoofcheck.go.

Touches: nftables (table bridge nat). Names and comments are upstream's.
"""

from __future__ import annotations

from cni import nft
from cni.errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLE = "bridge nat"
_BASE = "PREROUTING"


def _names(container_id: str, ifname: str) -> tuple[str, str, str]:
    """(the interface's chain, the MAC's chain, the comment) of an attachment. Pure."""
    ref = f"{container_id}-{ifname}"
    return f"cni-br-iface-{ref}", f"cni-br-iface-{ref}-mac", f"macspoofchk-{ref}"


def setup(env: Mapping[str, str], port: str, mac: str, container_id: str, ifname: str) -> None:
    """Raises CniError; nothing half done."""
    interface, macs, note = _names(container_id, ifname)
    mark = nft.comment(note)

    def lines() -> list[str]:
        return [
            f"add table {_TABLE}",
            f"add chain {_TABLE} {_BASE} {{ type filter hook prerouting priority -300 ; policy accept ; }}",
            f"add chain {_TABLE} {interface}",
            f"add chain {_TABLE} {macs}",
            f"flush chain {_TABLE} {interface}",
            f"flush chain {_TABLE} {macs}",
            *nft.deletions(env, _TABLE, _BASE, lambda text: text == note),
            f'add rule {_TABLE} {_BASE} iifname "{port}" jump {interface}{mark}',
            f"add rule {_TABLE} {interface} jump {macs}{mark}",
            f"add rule {_TABLE} {macs} ether saddr {mac} return{mark}",
            f"add rule {_TABLE} {macs} drop{mark}",
        ]

    nft.change(env, lines, "failed to setup spoof-check")


def teardown(env: Mapping[str, str], container_id: str, ifname: str) -> None:
    """Succeeds when nothing is there. The table and its base chain stay. Raises CniError."""
    if not nft.available(env):
        return
    interface, macs, note = _names(container_id, ifname)

    def lines() -> list[str]:
        jumps = nft.deletions(env, _TABLE, _BASE, lambda text: text == note)
        if not jumps and not nft.rules(env, _TABLE, interface):
            return []
        # `add` first: a chain that is gone already must not fail the whole.
        return [
            *(f"add chain {_TABLE} {chain}" for chain in (interface, macs)), *jumps,
            *(f"{verb} chain {_TABLE} {chain}" for chain in (interface, macs) for verb in ("flush", "delete")),
        ]  # fmt: skip

    nft.change(env, lines, "failed to teardown spoof-check")


def check(env: Mapping[str, str], container_id: str, ifname: str) -> None:
    """Raises CniError when rules are missing."""
    interface, macs, note = _names(container_id, ifname)
    jump = any(text == note for _, text in nft.rules(env, _TABLE, _BASE))
    if not jump or len(nft.rules(env, _TABLE, interface)) != 1 or len(nft.rules(env, _TABLE, macs)) != 2:
        raise CniError(f"spoof-check rules of {container_id} {ifname} are missing from table {_TABLE}")
