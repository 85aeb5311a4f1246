"""Which pods stand behind a Service, as endpoints of slices and as subsets of the classic Endpoints. Pure.

Upstream: k8s.io/endpointslice (utils.go, reconciler.go), pkg/controller/endpoint, pkg/api/v1/endpoints.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import orjson

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.controllers.context import SERVICE_NAME_LABEL
from nsk8s.controllers.pods import is_ready, is_terminal

HEADLESS_LABEL = "service.kubernetes.io/headless"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
CONTROLLER_NAME = "endpointslice-controller.k8s.io"
MIRROR_NAME = "endpointslicemirroring-controller.k8s.io"
MAX_PER_SLICE = 100
MAX_ADDRESSES = 1000
"""Upstream cuts the classic Endpoints off there and says so in an annotation."""
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
ZONE_LABEL = "topology.kubernetes.io/zone"

Ports = tuple[tuple[str, str, int, str], ...]
"""(name, protocol, port, appProtocol), sorted: what decides which slice an endpoint can be in."""
Desired = dict[tuple[str, Ports], list[Object]]
"""(addressType, ports) → endpoints."""


def is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def families(service: Object) -> list[str]:
    """The address types a service wants slices of."""
    wanted = service["spec"].get("ipFamilies")
    if not wanted:
        cluster_ip = service["spec"].get("clusterIP") or ""
        wanted = ["IPv6" if ":" in cluster_ip else "IPv4"]
    return list(wanted)


def pod_addresses(pod: Object, address_type: str) -> list[str]:
    status = pod.get("status") or {}
    texts = [p.get("ip") for p in status.get("podIPs") or []] or [status.get("podIP")]
    return [t for t in texts if t and ("IPv6" if ":" in t else "IPv4") == address_type]


def port_number(pod: Object, port: Object) -> int | None:
    """The number a service port means in this pod: its targetPort, or the container port of that name; None if unknown."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    containers = [*(pod["spec"].get("containers") or [])]
    containers += [c for c in pod["spec"].get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    for container in containers:
        for candidate in container.get("ports") or []:
            same = (candidate.get("protocol") or "TCP") == (port.get("protocol") or "TCP")
            if candidate.get("name") == target and same:
                return int(candidate["containerPort"])
    return int(target) if str(target).isdigit() else None


def pod_ports(service: Object, pod: Object) -> Ports:
    found = []
    for port in service["spec"].get("ports") or []:
        number = port_number(pod, port)
        if number is not None:
            found.append((port.get("name") or "", port.get("protocol") or "TCP", number, port.get("appProtocol") or ""))
    return tuple(sorted(found))


def belongs(pod: Object, *, terminating_too: bool) -> bool:
    """Whether a selected pod is an endpoint at all: it has an address, has not ended, and (unless asked for) is not going."""
    status = pod.get("status") or {}
    if is_terminal(pod) or not (status.get("podIP") or status.get("podIPs")):
        return False
    return terminating_too or not meta.is_deleting(pod)


def _target(pod: Object) -> Object:
    return {"kind": "Pod", "namespace": meta.namespace(pod), "name": meta.name(pod), "uid": meta.uid(pod)}


def _hostname(pod: Object, service: Object) -> str:
    spec = pod["spec"]
    if spec.get("hostname") and spec.get("subdomain") == meta.name(service):
        return str(spec["hostname"])
    return ""


def endpoint(service: Object, pod: Object, addresses: Sequence[str], node_labels: Mapping[str, str]) -> Object:
    """A discovery/v1 Endpoint for one pod."""
    serving, terminating = is_ready(pod), meta.is_deleting(pod)
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    made: Object = {
        "addresses": list(addresses),
        "conditions": {
            "ready": publish or (serving and not terminating), "serving": serving, "terminating": terminating,
        },
        "targetRef": _target(pod),
    }  # fmt: skip
    if hostname := _hostname(pod, service):
        made["hostname"] = hostname
    if node := pod["spec"].get("nodeName"):
        made["nodeName"] = node
    if zone := node_labels.get(ZONE_LABEL):
        made["zone"] = zone
    if made["conditions"]["ready"] and (hinted := _hints(service["spec"].get("trafficDistribution"), node or "", zone or "")):
        made["hints"] = hinted
    return made


def _hints(distribution: str | None, node: str, zone: str) -> Object:
    """Who should prefer an endpoint there (upstream: endpointslice/trafficdist); PreferSameNode falls back to the zone."""
    hinted: Object = {}
    if distribution == "PreferSameNode" and node:
        hinted["forNodes"] = [{"name": node}]
    if distribution in ("PreferClose", "PreferSameZone", "PreferSameNode") and zone:
        hinted["forZones"] = [{"name": zone}]
    return hinted


def desired(service: Object, pods: Iterable[Object], node_labels: Callable[[str], Mapping[str, str]]) -> Desired:
    """The endpoints that `service` should have, by address type and ports."""
    wanted: Desired = {}
    selected = [p for p in pods if belongs(p, terminating_too=True)]
    for address_type in families(service):
        for pod in selected:
            addresses = pod_addresses(pod, address_type)
            ports = pod_ports(service, pod)
            if not addresses or (not ports and service["spec"].get("ports")):
                continue
            labels = node_labels(pod["spec"].get("nodeName") or "")
            wanted.setdefault((address_type, ports), []).append(endpoint(service, pod, addresses[:1], labels))
        if not any(kind == address_type for kind, _ in wanted):
            wanted[address_type, ()] = []  # upstream's placeholder: an empty slice says "no endpoints"
    return wanted


def slice_labels(service: Object, managed_by: str) -> dict[str, str]:
    labels = {k: v for k, v in meta.labels(service).items() if k != HEADLESS_LABEL}
    if is_headless(service):
        labels[HEADLESS_LABEL] = ""
    return {**labels, SERVICE_NAME_LABEL: meta.name(service), MANAGED_BY_LABEL: managed_by}


@dataclass
class Changes:
    """What to write so that a service's slices are as desired."""

    create: list[Object] = field(default_factory=list)
    update: list[Object] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)


def _identity(e: Object) -> tuple[str, ...]:
    target = e.get("targetRef") or {}
    return (target.get("uid") or "", *e["addresses"])


def plan_slices(
    service: Object, existing: Sequence[Object], wanted: Desired, owner: Object, managed_by: str = CONTROLLER_NAME,
    most: int = MAX_PER_SLICE, annotations: dict[str, str] | None = None,
) -> Changes:  # fmt: skip
    """The fewest writes from `existing` slices to the `wanted` endpoints; at most `most` a slice. With `annotations`, they have
    those and no others."""
    changes = Changes()
    by_key: dict[tuple[str, Ports], list[Object]] = {}
    for s in existing:
        by_key.setdefault((s["addressType"], _slice_ports(s)), []).append(s)
    labels = slice_labels(service, managed_by)
    for key, endpoints in wanted.items():
        slices = by_key.pop(key, [])
        _plan_group(changes, key, slices, endpoints, service, labels, owner, most)
        if annotations is not None:
            going = {meta.name(s) for s in (*changes.update, *changes.delete)}
            changes.update += [s for s in slices if meta.name(s) not in going and meta.annotations(s) != annotations]
    spare = [s for slices in by_key.values() for s in slices]
    # A slice that is to go and one that is to come: write one, not two.
    while spare and changes.create:
        old = next((s for s in spare if s["addressType"] == changes.create[-1]["addressType"]), None)
        if old is None:
            break
        spare.remove(old)
        new = changes.create.pop()
        changes.update.append({
            **old, "metadata": {**old["metadata"], "labels": labels}, "endpoints": new["endpoints"], "ports": new["ports"],
        })  # fmt: skip
    changes.delete += spare
    if annotations is not None:
        for s in changes.create:
            s["metadata"]["annotations"] = annotations
        changes.update = [{**s, "metadata": {**s["metadata"], "annotations": annotations}} for s in changes.update]
    return changes


def _slice_ports(s: Object) -> Ports:
    return tuple(sorted(
        (p.get("name") or "", p.get("protocol") or "TCP", int(p.get("port") or 0), p.get("appProtocol") or "")
        for p in s.get("ports") or []
    ))  # fmt: skip


def _plan_group(
    changes: Changes, key: tuple[str, Ports], slices: list[Object], endpoints: list[Object], service: Object,
    labels: dict[str, str], owner: Object, most: int,
) -> None:  # fmt: skip
    address_type, ports = key
    left = {_identity(e): e for e in endpoints}
    kept: list[tuple[Object, list[Object]]] = []
    for s in slices:
        mine = [left.pop(i) for e in s.get("endpoints") or [] if (i := _identity(e)) in left]
        kept.append((s, mine))
    rest = list(left.values())
    if rest:
        # Slices that are written anyhow are filled first; then the fullest that takes all the rest; then new ones.
        for s, mine in kept:
            if mine != (s.get("endpoints") or []) and mine:
                _fill(mine, rest, most)
        while rest:
            fitting = [mine for _, mine in kept if len(mine) + len(rest) <= most]
            if not fitting:
                break
            _fill(max(fitting, key=len), rest, most)
    for s, mine in kept:
        if not mine and not (not endpoints and s is kept[0][0]):
            changes.delete.append(s)
        elif mine != (s.get("endpoints") or []) or meta.labels(s) != labels:
            changes.update.append({**s, "metadata": {**s["metadata"], "labels": labels}, "endpoints": mine})
    while rest or (not endpoints and not kept):
        batch, rest = rest[:most], rest[most:]
        changes.create.append(_new_slice(service, address_type, ports, batch, labels, owner))
        if not rest:
            break


def _fill(mine: list[Object], rest: list[Object], most: int) -> None:
    room = most - len(mine)
    mine += rest[:room]
    del rest[:room]


def _new_slice(
    service: Object, address_type: str, ports: Ports, endpoints: list[Object], labels: dict[str, str], owner: Object
) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{meta.name(service)}-",
            "namespace": meta.namespace(service),
            "labels": labels,
            "ownerReferences": [meta.owner_reference(owner)],
        },
        "addressType": address_type,
        "endpoints": endpoints,
        "ports": [
            {"name": name, "protocol": protocol, "port": port, **({"appProtocol": app} if app else {})}
            for name, protocol, port, app in ports
        ],
    }


def subsets(service: Object, pods: Iterable[Object]) -> tuple[list[Object], bool]:
    """subsets of the classic Endpoints, and whether addresses were cut off at 1,000."""
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    address_type = families(service)[0]
    groups: dict[Ports, tuple[list[Object], list[Object]]] = {}
    for pod in pods:
        if not belongs(pod, terminating_too=publish):
            continue
        addresses = pod_addresses(pod, address_type)
        ports = pod_ports(service, pod)
        if not addresses or (not ports and service["spec"].get("ports")):
            continue
        address: Object = {"ip": addresses[0], "targetRef": _target(pod)}
        if hostname := _hostname(pod, service):
            address["hostname"] = hostname
        if node := pod["spec"].get("nodeName"):
            address["nodeName"] = node
        ready, not_ready = groups.setdefault(ports, ([], []))
        (ready if publish or is_ready(pod) else not_ready).append(address)
    for pair in groups.values():
        for addresses_ in pair:
            addresses_.sort(key=_address_order)
    ordered = {ports: groups[ports] for ports in sorted(groups) if any(groups[ports])}
    over = _truncate(list(ordered.values()))
    return [_subset(ports, *pair) for ports, pair in ordered.items() if any(pair)], over


def _truncate(groups: list[tuple[list[Object], list[Object]]]) -> bool:
    """Cut to 1,000 addresses: those that are not ready first, and of the subsets each in proportion, rounded up."""
    ready, other = (sum(len(pair[which]) for pair in groups) for which in (0, 1))
    if ready + other <= MAX_ADDRESSES:
        return False
    which, total, most = (0, ready, MAX_ADDRESSES) if ready > MAX_ADDRESSES else (1, other, MAX_ADDRESSES - ready)
    room = most
    for pair in groups:
        share = min(math.ceil(len(pair[which]) * most / total), room)
        del pair[which][share:]
        room -= share
        if which == 0:
            pair[1].clear()
    return True


def _subset(ports: Ports, ready: list[Object], not_ready: list[Object]) -> Object:
    made: Object = {}
    if ready:
        made["addresses"] = ready
    if not_ready:
        made["notReadyAddresses"] = not_ready
    if ports:
        made["ports"] = [
            {**({"name": name} if name else {}), "port": port, "protocol": protocol, **({"appProtocol": app} if app else {})}
            for name, protocol, port, app in ports
        ]
    return made


def _address_order(address: Object) -> tuple[int, bytes]:
    return _number(address["ip"]), orjson.dumps(address.get("targetRef"), option=orjson.OPT_SORT_KEYS)


@lru_cache(maxsize=4096)
def _number(ip: str) -> int:
    return int(ipaddress.ip_address(ip))


def desired_from_subsets(found: Sequence[Object]) -> tuple[Desired, int]:
    """Slices that mirror hand-made Endpoints, and how many addresses were too many: at most 1,000 of a subset, the ready ones
    first."""
    wanted: Desired = {}
    skipped = 0
    for subset in found:
        ports: Ports = tuple(sorted(
            (p.get("name") or "", p.get("protocol") or "TCP", int(p["port"]), p.get("appProtocol") or "")
            for p in subset.get("ports") or []
        ))  # fmt: skip
        both = [(a, ready) for key, ready in (("addresses", True), ("notReadyAddresses", False)) for a in subset.get(key) or []]
        skipped += max(0, len(both) - MAX_ADDRESSES)
        for address, ready in both[:MAX_ADDRESSES]:
            made: Object = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
            made |= {k: address[k] for k in ("hostname", "nodeName", "targetRef") if address.get(k)}
            kind = "IPv6" if ":" in address["ip"] else "IPv4"
            wanted.setdefault((kind, ports), []).append(made)
    return wanted, skipped
