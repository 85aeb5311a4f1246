"""Service, Endpoints, EndpointSlice. Pure."""

from __future__ import annotations

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.cli.describers.generic import header
from nsk8s.cli.describers.text import Text, annotation_lines, or_none, or_unset, pairs, selector

SHOWN = 3
"""Endpoints listed before `+ N more...`."""


def service(out: Text, obj: Object, slices: list[Object]) -> None:
    """Everything but the events."""
    spec = obj.get("spec") or {}
    header(out, obj)
    out.line(0, "Selector:", selector(spec.get("selector")))
    out.line(0, "Type:", spec.get("type", ""))
    if spec.get("ipFamilyPolicy"):
        out.line(0, "IP Family Policy:", spec["ipFamilyPolicy"])
    out.line(0, "IP Families:", ",".join(spec.get("ipFamilies") or []) or "<none>")
    out.line(0, "IP:", spec.get("clusterIP", ""))
    out.line(0, "IPs:", ",".join(spec.get("clusterIPs") or []) or "<none>")
    for title, value in (
        ("External IPs", ",".join(spec.get("externalIPs") or [])),
        ("Desired LoadBalancer IP", spec.get("loadBalancerIP")),
        ("External Name", spec.get("externalName")),
    ):
        if value:
            out.line(0, f"{title}:", value)
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    if ingress:
        out.line(0, "LoadBalancer Ingress:", ", ".join(_ingress(i) for i in ingress))
    for p in spec.get("ports") or []:
        name = or_unset(p.get("name"))
        protocol = p.get("protocol", "")
        out.line(0, "Port:", name, f"{p.get('port', 0)}/{protocol}")
        out.line(0, "TargetPort:", f"{p.get('targetPort', 0)}/{protocol}")
        if p.get("nodePort"):
            out.line(0, "NodePort:", name, f"{p['nodePort']}/{protocol}")
        out.line(0, "Endpoints:", endpoints_of(slices, p.get("name", "")))
    out.line(0, "Session Affinity:", spec.get("sessionAffinity", ""))
    for title, key in (
        ("External Traffic Policy", "externalTrafficPolicy"),
        ("Internal Traffic Policy", "internalTrafficPolicy"),
        ("Traffic Distribution", "trafficDistribution"),
        ("HealthCheck NodePort", "healthCheckNodePort"),
    ):
        if spec.get(key):
            out.line(0, f"{title}:", spec[key])
    if spec.get("loadBalancerSourceRanges"):
        out.line(0, "LoadBalancer Source Ranges:", ",".join(spec["loadBalancerSourceRanges"]))


def _ingress(i: Object) -> str:
    if i.get("ip"):
        return str(i["ip"]) + (f" ({i['ipMode']})" if i.get("ipMode") else "")
    return str(i.get("hostname", ""))


def endpoints_of(slices: list[Object], port_name: str) -> str:
    """The ready addresses of one port, the first three of them."""
    found = []
    for s in slices:
        ports = [p for p in s.get("ports") or [] if (p.get("name") or "") == port_name and p.get("port") is not None]
        for p in ports:
            for e in s.get("endpoints") or []:
                if (e.get("conditions") or {}).get("ready", True):
                    found += [f"[{a}]:{p['port']}" if ":" in a else f"{a}:{p['port']}" for a in e.get("addresses") or []]
    if not found:
        return ""
    more = f" + {len(found) - SHOWN} more..." if len(found) > SHOWN else ""
    return ",".join(found[:SHOWN]) + more


def endpoints(out: Text, obj: Object) -> None:
    header(out, obj)
    out.line(0, "Subsets:")
    for subset in obj.get("subsets") or []:
        for title, key in (("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")):
            out.line(1, f"{title}:", or_none(",".join(a.get("ip", "") for a in subset.get(key) or [])))
        if subset.get("ports"):
            out.line(1, "Ports:")
            _ports(out, subset["ports"], 2)
        out.line(0, "")


def _ports(out: Text, ports: list[Object], level: int) -> None:
    out.line(level, "Name", "Port", "Protocol")
    out.line(level, "----", "----", "--------")
    for p in ports:
        out.line(level, or_unset(p.get("name")), or_unset(p.get("port")), p.get("protocol", ""))


def endpoint_slice(out: Text, obj: Object) -> None:
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    out.line(0, "AddressType:", obj.get("addressType", ""))
    if obj.get("ports"):
        out.line(0, "Ports:")
        _ports(out, obj["ports"], 1)
    else:
        out.line(0, "Ports: <unset>")
    if not obj.get("endpoints"):
        out.line(0, "Endpoints: <none>")
        return
    out.line(0, "Endpoints:")
    for e in obj["endpoints"]:
        out.line(1, "- Addresses:", ", ".join(e.get("addresses") or []) or "<none>")
        ready = (e.get("conditions") or {}).get("ready")
        out.line(2, "Conditions:")
        out.line(3, "Ready:", "<unset>" if ready is None else str(ready).lower())
        out.line(2, "Hostname:", or_unset(e.get("hostname")))
        target = e.get("targetRef")
        if target:
            out.line(2, "TargetRef:", f"{target.get('kind', '')}/{target.get('name', '')}")
        out.line(2, "NodeName:", or_unset(e.get("nodeName")))
        out.line(2, "Zone:", or_unset(e.get("zone")))
