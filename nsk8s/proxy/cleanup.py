"""Taking a mode's rules away: `--cleanup`, and the other mode's after a switch. Upstream: pkg/proxy/*/cleanup.go.

Touches: iptables, nft, IPVS, ip sets, kube-ipvs0, conntrack, one sysctl.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import iptables, nft
from nsk8s.kernel.iptables import IptablesError
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.net import chainset
from nsk8s.net.ipvs import DEVICE
from nsk8s.proxy import nftrules, rules, sysctls
from nsk8s.proxy.names import (
    IPVS_FILTER,
    IPVS_LOAD_BALANCER,
    IPVS_NODE_PORT,
    IPVS_OUT_FILTER,
    IPVS_SOURCE_RANGES,
    SERVICE_PREFIXES,
    USERSPACE_CHAINS,
)

log = logging.getLogger("proxy")

IPTABLES, IPVS, USERSPACE = "iptables", "ipvs", "userspace"
"""The modes that write iptables rules."""
_ALL = (IPTABLES, IPVS, USERSPACE)
_IN_NAT_AND_FILTER = {IPTABLES: {rules.SERVICES, rules.NODEPORTS}, IPVS: {IPVS_NODE_PORT}, USERSPACE: USERSPACE_CHAINS}
_IN_NAT = {IPTABLES: {rules.POSTROUTING}, IPVS: {rules.SERVICES, rules.POSTROUTING, IPVS_LOAD_BALANCER}, USERSPACE: set[str]()}
_IN_FILTER = {
    IPTABLES: {rules.EXTERNAL_SERVICES, rules.FORWARD, rules.PROXY_FIREWALL},
    IPVS: {rules.FORWARD, rules.PROXY_FIREWALL, IPVS_SOURCE_RANGES, IPVS_FILTER, IPVS_OUT_FILTER},
    USERSPACE: set[str](),
}
_KUBELETS = {IPTABLES: {("nat", rules.MARK_MASQ), ("filter", rules.FIREWALL)}, IPVS: {("nat", rules.MARK_MASQ)}}
"""kubelet makes these too: with its canary there, they stay."""


def _chains(mode: str, with_kubelets: bool) -> set[tuple[str, str]]:
    """(table, chain) of a mode, but for those that belong to one service port each."""
    found = {("nat", n) for n in (*_IN_NAT_AND_FILTER[mode], *_IN_NAT[mode])}
    found |= {("filter", n) for n in (*_IN_NAT_AND_FILTER[mode], *_IN_FILTER[mode])}
    if mode == IPTABLES:
        found |= {(table, rules.CANARY) for table in rules.CANARY_TABLES}
    return found | (_KUBELETS.get(mode, set()) if with_kubelets else set())


def _jumps(mode: str) -> set[tuple[str, str, str]]:
    """(table, hook, canonical rule) of a mode whose chains may be another's, too."""
    if mode == IPVS:
        from nsk8s.proxy import ipvsrules  # its code costs other modes nothing

        made = ipvsrules.jumps()
    else:
        made = rules.jumps() if mode == IPTABLES else []
    return {(j.table, j.hook, chainset.canonical(j.rule)) for j in made}


def removal(saved: str, modes: Collection[str] = _ALL, keep: str = "") -> str:
    """Restore text (--noflush) that takes these modes' jumps and chains out of what iptables-save printed, or nothing. Pure.

    What the mode `keep` has, too, stays.
    """
    have = chainset.parse(saved)
    kubelet_runs = any("KUBE-KUBELET-CANARY" in chains for chains in have.tables.values())
    doomed = {c for mode in modes for c in _chains(mode, not kubelet_runs)} - (_chains(keep, True) if keep else set())
    shared = _chains(keep, False) if keep else set()
    old_jumps = {j for mode in modes for j in _jumps(mode)} - _jumps(keep) if keep else set()
    prefixes = SERVICE_PREFIXES if IPTABLES in modes else ()
    out = []
    for table, chains in have.tables.items():
        gone = [n for n in chains if (table, n) in doomed or (prefixes and table == "nat" and n.startswith(prefixes))]
        unhook = [
            f"-D {hook} {rule}"
            for hook, chain in chains.items()
            if hook not in gone
            for rule in chain.rules
            if chainset.target(rule) in gone
            or ((table, chainset.target(rule)) in shared and (table, hook, chainset.canonical(rule)) in old_jumps)
        ]
        if gone or unhook:
            lines = [f"*{table}", *(f":{n} - [0:0]" for n in gone), *unhook, *(f"-X {n}" for n in gone), "COMMIT\n"]
            out.append("\n".join(lines))
    return "".join(out)


async def clean_up_all(variant: str) -> None:
    """`--cleanup`: remove every rule and chain that kube-proxy makes, in both families and every mode."""
    iptables.detect(variant)  # a variant that is not installed is an error when it was asked for
    await _clean_iptables((variant,) if variant != "auto" else ("nft", "legacy"), _ALL)
    await _clean_nftables()
    if _had_ipvs():
        _clean_ipvs()


async def clean_up_other_modes(mode: str, seen: Collection[str] = (), variant: str = "") -> None:
    """Remove what kube-proxy wrote in another mode; what fails is logged, for it does not hinder this mode.

    `seen`: the modes whose rules the iptables proxier met among its own, in the `variant` of iptables that it uses.
    """
    try:
        others = set(_ALL) - {mode} if mode != IPTABLES else {*seen}
        had_ipvs = mode != IPVS and _had_ipvs()
        if had_ipvs:
            others.add(IPVS)
        if mode != "nftables":
            await _clean_nftables()
        if others:
            await _clean_iptables(("nft", "legacy"), others, {variant: mode} if mode in _ALL else {})
        if had_ipvs:
            _clean_ipvs()
    except Nsk8sError as e:
        log.error("rules of another mode may be left: %s", e)


async def _clean_iptables(
    variants: tuple[str, ...], modes: Collection[str], keep: Mapping[str, str] | None = None
) -> None:
    """`keep`: variant → the mode that is at work there."""
    for variant in variants:
        for ipv6 in (False, True):
            if variant == "legacy" and not iptables.has_legacy_tables(ipv6=ipv6):
                continue  # asking iptables-legacy-save would load them
            try:
                used = iptables.detect(variant, ipv6=ipv6)
            except IptablesError:
                continue
            text = removal(await used.save(), modes, (keep or {}).get(variant, ""))
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


def _had_ipvs() -> bool:
    with Rtnl() as links:
        return links.link_get(DEVICE) is not None


def _clean_ipvs() -> None:
    from nsk8s.proxy import ipvscleanup

    ipvscleanup.clean_up()
    log.info("removed virtual servers, %s and sets", DEVICE)
