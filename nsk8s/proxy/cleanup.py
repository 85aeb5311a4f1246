"""Taking a mode's rules away: `--cleanup`, and the other mode's after a switch. Upstream: pkg/proxy/*/cleanup.go.

Touches: iptables, nft, one sysctl.
"""

from __future__ import annotations

import logging

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import iptables, nft
from nsk8s.kernel.iptables import IptablesError
from nsk8s.net import chainset
from nsk8s.proxy import nftrules, rules, sysctls
from nsk8s.proxy.names import SERVICE_PREFIXES, USERSPACE_CHAINS

log = logging.getLogger("proxy")

_SHARED = frozenset({
    rules.SERVICES, rules.EXTERNAL_SERVICES, rules.NODEPORTS, rules.FORWARD, rules.PROXY_FIREWALL, rules.POSTROUTING,
    rules.CANARY,
})  # fmt: skip
_KUBELETS = frozenset({rules.MARK_MASQ, rules.FIREWALL})
"""kubelet makes these too: with its canary there, they stay."""


IPTABLES, USERSPACE = "iptables", "userspace"
"""The modes whose rules are iptables rules."""


def removal(saved: str, modes: tuple[str, ...] = (IPTABLES, USERSPACE)) -> str:
    """Restore text (--noflush) that takes these modes' jumps and chains out of what iptables-save printed, or nothing. Pure."""
    have = chainset.parse(saved)
    kubelet_runs = any("KUBE-KUBELET-CANARY" in chains for chains in have.tables.values())
    doomed = USERSPACE_CHAINS if USERSPACE in modes else frozenset()
    prefixes: tuple[str, ...] = ()
    if IPTABLES in modes:
        doomed |= _SHARED if kubelet_runs else _SHARED | _KUBELETS
        prefixes = SERVICE_PREFIXES
    out = []
    for table, chains in have.tables.items():
        gone = [n for n in chains if n in doomed or (table == "nat" and n.startswith(prefixes))]
        unhook = [
            f"-D {hook} {rule}"
            for hook, chain in chains.items()
            if hook not in gone
            for rule in chain.rules
            if chainset.target(rule) in gone
        ]
        if gone:
            lines = [f"*{table}", *(f":{n} - [0:0]" for n in gone), *unhook, *(f"-X {n}" for n in gone), "COMMIT\n"]
            out.append("\n".join(lines))
    return "".join(out)


async def clean_up_all(variant: str) -> None:
    """`--cleanup`: remove every rule and chain that kube-proxy makes, in both families and every mode."""
    iptables.detect(variant)  # a variant that is not installed is an error when it was asked for
    await _clean_iptables((variant,) if variant != "auto" else ("nft", "legacy"))
    await _clean_nftables()


async def clean_up_other_modes(mode: str, *, saw_portals: bool = False) -> None:
    """Remove what kube-proxy wrote in another mode; what fails is logged, for it does not hinder this mode.

    `saw_portals`: the iptables proxier met userspace mode's rules; without that it need not look for them.
    """
    try:
        if mode == "nftables":
            await _clean_iptables(("nft", "legacy"))
            return
        await _clean_nftables()
        if mode == USERSPACE:
            await _clean_iptables(("nft", "legacy"), (IPTABLES,))
        elif saw_portals:
            await _clean_iptables(("nft", "legacy"), (USERSPACE,))
    except Nsk8sError as e:
        log.error("rules of another mode may be left: %s", e)


async def _clean_iptables(variants: tuple[str, ...], modes: tuple[str, ...] = (IPTABLES, USERSPACE)) -> None:
    for variant in variants:
        for ipv6 in (False, True):
            if variant == "legacy" and not iptables.has_legacy_tables(ipv6=ipv6):
                continue  # asking iptables-legacy-save would load them
            try:
                used = iptables.detect(variant, ipv6=ipv6)
            except IptablesError:
                continue
            text = removal(await used.save(), modes)
            if not text:
                continue
            await used.restore(text)
            log.info("removed kube-proxy's rules from %s", used.main)
            if f"-X {rules.FIREWALL}" in text and sysctls.read(sysctls.ROUTE_LOCALNET):
                # Without KUBE-FIREWALL it would let neighbours in to what listens on 127.0.0.1.
                sysctls.ensure(sysctls.ROUTE_LOCALNET, 0)


async def _clean_nftables() -> None:
    for family in ("ip", "ip6"):
        if nft.table_exists(family, nftrules.TABLE):
            await nft.detect().run(f"delete table {family} {nftrules.TABLE}\n")
            log.info("removed nftables table %s %s", family, nftrules.TABLE)
