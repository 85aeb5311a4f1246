"""Which IP families a Service gets, from its policy and what the cluster has. Pure.

Upstream: pkg/registry/core/service/storage (initIPFamilyFields).
"""

from __future__ import annotations

from collections.abc import Sequence

from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import shown

SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
_OTHER = {"IPv4": "IPv6", "IPv6": "IPv4"}


def family_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def settle(spec: Object, before: Object | None, available: Sequence[str]) -> list[Cause]:
    """Fill in ipFamilyPolicy and ipFamilies, and shorten clusterIPs to what the policy allows; or say what is wrong.

    The spec is validated: addresses and families are at most one of each, and go together.

    `before` is the old spec (None on create, also for what was an ExternalName), `available` the cluster's families, the
    default first. Not for ExternalName. Only an explicit policy changes between one and two families.
    """
    if before is not None and _is_settled(spec, before):
        return []
    headless = spec.get("clusterIP") == "None"
    selectorless = headless and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        kept = (before or {}).get("ipFamilyPolicy")
        spec["ipFamilyPolicy"] = kept or (REQUIRE if selectorless else SINGLE)
    causes = _shorten(spec, before) + _check_single(spec) + _infer(spec, available)
    if causes:
        return causes
    policy, families = spec["ipFamilyPolicy"], spec["ipFamilies"]
    if not selectorless:
        if policy == REQUIRE and len(available) < 2:
            causes.append(_policy(spec, "this cluster is not configured for dual-stack services"))
        for i, family in enumerate(families):
            if family not in available:
                causes.append(Cause(f"spec.ipFamilies[{i}]", f'Invalid value: "{family}": not configured on this cluster'))
        if causes:
            return causes
    if not families:
        families.append(available[0])
    if policy != SINGLE and len(families) == 1 and (selectorless or len(available) == 2):
        families.append(_OTHER[families[0]])
    return []


def _is_settled(spec: Object, before: Object) -> bool:
    """PreferDualStack that nobody touched: the cluster may have got or lost a family since, the Service stays as it is."""
    return bool(
        spec.get("ipFamilyPolicy") == before.get("ipFamilyPolicy") == PREFER
        and before.get("ipFamilies")
        and spec.get("ipFamilies") == before["ipFamilies"]
        and spec.get("clusterIPs") == before.get("clusterIPs")
        and spec.get("type") == before.get("type")
    )


def _policy(spec: Object, problem: str) -> Cause:
    return Cause("spec.ipFamilyPolicy", f'Invalid value: "{spec["ipFamilyPolicy"]}": {problem}')


def _shorten(spec: Object, before: Object | None) -> list[Cause]:
    """SingleStack with everything else unchanged clearly means: give the second up. Less than before means nothing else."""
    if before is None:
        return []
    fields = (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family"))
    causes = []
    for field, what in fields:
        have, had = spec.get(field) or [], before.get(field) or []
        if spec["ipFamilyPolicy"] == SINGLE:
            if have == had and len(have) > 1:
                spec[field] = have[:1]
        elif len(had) == 2 and len(have) == 1:
            causes.append(_policy(spec, f"must be 'SingleStack' to release the secondary {what}"))
    return causes


def _check_single(spec: Object) -> list[Cause]:
    if spec["ipFamilyPolicy"] != SINGLE:
        return []
    rule = "must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified"
    fields = (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families"))
    return [_policy(spec, rule.format(what)) for field, what in fields if len(spec.get(field) or []) == 2]


def _infer(spec: Object, available: Sequence[str]) -> list[Cause]:
    """The families of addresses that were asked for."""
    # A list of its own: what an update carries over is the cached object's.
    families = spec["ipFamilies"] = list(spec.get("ipFamilies") or ())
    causes = []
    for i, address in enumerate(spec.get("clusterIPs") or []):
        if address == "None":
            break
        if not address or i < len(families):
            continue
        if family_of(address) in available:
            families.append(family_of(address))
        else:
            problem = f"{family_of(address)} is not configured on this cluster"
            causes.append(Cause(f"spec.clusterIPs[{i}]", f"Invalid value: {shown(spec['clusterIPs'])}: {problem}"))
    return causes
