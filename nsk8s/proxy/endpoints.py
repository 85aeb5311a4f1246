"""Endpoints of service ports, gathered from EndpointSlices. Upstream: pkg/proxy/endpoint.go, endpointslicecache.go. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.proxy.addresses import parse_ip
from nsk8s.proxy.services import LABEL_SERVICE, PortName

TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


_NONE: frozenset[str] = frozenset()
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}", re.ASCII)
"""Canonical IPv4 text: what is nearly always there, told in a tenth of the time that parsing takes."""


class Endpoint(NamedTuple):
    """One address:port behind a service port, as seen from one node."""

    ip: str
    port: int
    local: bool = False
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: frozenset[str] = _NONE
    nodes: frozenset[str] = _NONE

    def __str__(self) -> str:
        return _text(self.ip, self.port)


def _text(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def service_of(endpoint_slice: Object) -> str:
    """`namespace/name` of the Service a slice belongs to; empty without the label."""
    name = meta.labels(endpoint_slice).get(LABEL_SERVICE, "")
    return f"{meta.namespace(endpoint_slice)}/{name}" if name else ""


Ports = dict[PortName, tuple[Endpoint, ...]]
"""The endpoints behind each port, sorted by their text "ip:port" (so .10 comes before .9, as upstream)."""


def of_slice(endpoint_slice: Object, node: str, ipv6: bool = False) -> Ports | None:
    """What one slice says; None for another family's, and for one that belongs to no Service.

    Only an endpoint's first address counts, only ports with a name pointer and a number.
    """
    service = meta.labels(endpoint_slice).get(LABEL_SERVICE, "")
    if not service or endpoint_slice.get("addressType") != ("IPv6" if ipv6 else "IPv4"):
        return None
    found: dict[PortName, dict[str, Endpoint]] = {}
    for port in endpoint_slice.get("ports") or []:
        if port.get("name") is None or not port.get("port"):
            continue
        key = PortName(meta.namespace(endpoint_slice), service, port["name"], port.get("protocol") or "TCP")
        each = [_endpoint(raw, int(port["port"]), node, ipv6) for raw in endpoint_slice.get("endpoints") or []]
        _take_in(found.setdefault(key, {}), filter(None, each))
    return _sorted(found)


def of_service(slices: Collection[Ports]) -> Ports:
    """The endpoints of one Service's ports. An address that stands in two slices is one endpoint, the local one if either is."""
    if len(slices) == 1:
        return next(iter(slices))
    found: dict[PortName, dict[str, Endpoint]] = {}
    for each in slices:
        for key, endpoints in each.items():
            _take_in(found.setdefault(key, {}), endpoints)
    return _sorted(found)


def _take_in(held: dict[str, Endpoint], endpoints: Iterable[Endpoint]) -> None:
    for endpoint in endpoints:
        text = _text(endpoint.ip, endpoint.port)
        if text not in held or endpoint.local:
            held[text] = endpoint


def _sorted(found: dict[PortName, dict[str, Endpoint]]) -> Ports:
    return {key: tuple([held[text] for text in sorted(held)]) for key, held in found.items()}


def _endpoint(raw: Object, port: int, node: str, ipv6: bool) -> Endpoint | None:
    addresses = raw.get("addresses") or []
    if not addresses:
        return None
    ip = addresses[0]
    if not (isinstance(ip, str) and _IPV4.fullmatch(ip) and not ipv6):
        address = parse_ip(ip)
        if address is None or (address.version == 6) != ipv6:
            return None
        ip = str(address)
    conditions = raw.get("conditions") or {}
    hints = raw.get("hints")
    ready, serving = conditions.get("ready"), conditions.get("serving")
    return Endpoint(  # in the order of the fields: names would double the time
        ip,
        port,
        bool(node) and raw.get("nodeName") == node,
        ready is None or bool(ready),
        serving is None or bool(serving),
        bool(conditions.get("terminating")),
        frozenset(z["name"] for z in hints.get("forZones") or [] if z.get("name")) if hints else _NONE,
        frozenset(n["name"] for n in hints.get("forNodes") or [] if n.get("name")) if hints else _NONE,
    )
