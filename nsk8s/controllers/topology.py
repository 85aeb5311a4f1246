"""Topology aware routing: hints that share a Service's endpoints out to the zones, as their nodes' CPUs are. Pure.

Asked for by the annotation service.kubernetes.io/topology-mode: Auto, which goes before trafficDistribution. Upstream:
k8s.io/endpointslice/topologycache. Unlike there nothing is remembered: the same endpoints have the same hints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity

ZONE_LABEL = "topology.kubernetes.io/zone"
ANNOTATIONS = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode")
ENABLED_MESSAGE = "Topology Aware Hints has been enabled"
REMOVED_MESSAGE = "Topology Aware Hints configuration was removed"
OVERLOAD = 0.2
"""By how much more than its share an endpoint may get."""
_EXCLUDED = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")


def wants_hints(service: Object) -> bool:
    notes = meta.annotations(service)
    value = next((notes[a] for a in ANNOTATIONS if a in notes), "")
    return value in ("Auto", "auto")


def capacity(node: Object) -> tuple[str, int] | None:
    """(zone, CPU in thousandths) of a node that counts; empty and 0 for what it does not tell. Control planes do not count."""
    if any(label in meta.labels(node) for label in _EXCLUDED) or not meta.is_condition_true(node, "Ready"):
        return None
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return meta.labels(node).get(ZONE_LABEL, ""), Quantity.parse(allocatable.get("cpu", 0)).milli


def shares(nodes: Iterable[Object]) -> dict[str, float]:
    """Zone → its part of the CPUs; empty when a node does not tell, or there is one zone only."""
    by_zone: dict[str, int] = {}
    for node in nodes:
        found = capacity(node)
        if found is None:
            continue
        zone, cpu = found
        if not zone or not cpu:
            return {}
        by_zone[zone] = by_zone.get(zone, 0) + cpu
    total = sum(by_zone.values())
    return {zone: by_zone[zone] / total for zone in sorted(by_zone)} if len(by_zone) > 1 else {}


def add_hints(endpoints: Sequence[Object], by_zone: Mapping[str, float], address_type: str) -> str:
    """Hint each ready endpoint of one address type to a zone, mostly its own. Returns why that cannot be; none is hinted then."""
    ready = [e for e in endpoints if e["conditions"]["ready"]]
    desired, problem = _desired(len(ready), by_zone)
    if not problem and any(not e.get("zone") for e in ready):
        problem = "One or more endpoints do not have a zone specified"
    for endpoint in endpoints:
        endpoint.pop("hints", None)
    if problem:
        return f"{problem}, addressType: {address_type}"
    have: dict[str, int] = {}
    for endpoint in ready:
        endpoint["hints"] = {"forZones": [{"name": endpoint["zone"]}]}
        have[endpoint["zone"]] = have.get(endpoint["zone"], 0) + 1
    giving, receiving = _moves(desired, have)
    for endpoint in ready:
        zone = endpoint["zone"]
        if giving.get(zone) and receiving:
            taker = next(iter(receiving))
            endpoint["hints"] = {"forZones": [{"name": taker}]}
            giving[zone] -= 1
            receiving[taker] -= 1
            if not receiving[taker]:
                del receiving[taker]
    return ""


def _desired(count: int, by_zone: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Zone → how many endpoints it should have; or why there is no such share."""
    if not by_zone:
        return {}, "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
    numbers = f"({count} endpoints, {len(by_zone)} zones)"
    if len(by_zone) > count:
        return {}, f"Insufficient number of endpoints {numbers}"
    desired, left = {}, count
    for zone, share in by_zone.items():
        least = ceil(share * count / (1 + OVERLOAD))
        desired[zone] = max(share * count, float(least))
        left -= least
    if left < 0:
        return {}, f"Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {numbers}"
    return desired, ""


def _moves(desired: Mapping[str, float], have: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """(how many each zone gives away, how many each receives): whole endpoints, the greatest needs first."""
    surplus = {z: have.get(z, 0) - want for z, want in desired.items() if have.get(z, 0) > want}
    need = {z: want - have.get(z, 0) for z, want in desired.items() if have.get(z, 0) < want}
    giving: dict[str, int] = {}
    receiving: dict[str, int] = {}
    while surplus and need:
        giver, taker = max(surplus, key=surplus.__getitem__), max(need, key=need.__getitem__)
        over, under = surplus[giver], need[taker]
        if (over < 1 and under < 1) or over < 0.5 or under < 0.5:
            break
        giving[giver] = giving.get(giver, 0) + 1
        receiving[taker] = receiving.get(taker, 0) + 1
        surplus[giver] -= 1
        need[taker] -= 1
    return giving, receiving
