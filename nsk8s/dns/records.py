"""From a question to its answer: the Kubernetes DNS specification 1.1, in the shape CoreDNS' kubernetes plugin gives it. Pure.

Names are tuples of labels, without the root. A name that has no records but exists (or has names below it) gives NODATA,
any other NXDOMAIN, both with the zone's SOA. https://github.com/kubernetes/dns/blob/master/docs/specification.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from nsk8s.dns.view import NO_PORT, Endpoint, Port, Service, Slice, View, is_address

Name = tuple[str, ...]

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

TTL_S = 5
DNS_VERSION = "1.1.0"
DNS_VERSION_TTL_S = 28800
MAX_CNAMES = 10
MAX_SOA_TTL_S = 300


class Question(NamedTuple):
    name: Name
    """As the client spelt it: answers repeat the spelling, lookups ignore it."""
    type: str
    """`A`, `SRV` … or `TYPE65` for one without a name here."""


class Record(NamedTuple):
    name: Name
    type: str
    data: tuple[object, ...]
    """A, AAAA, TXT: (text,); HINFO: (text, text); CNAME, PTR, NS: (Name,); SRV: (priority, weight, port, Name);
    SOA: (Name, Name, serial, …)."""
    ttl_s: int = TTL_S


@dataclass
class Answer:
    rcode: int = NOERROR
    answers: list[Record] = field(default_factory=list)
    authority: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)
    authoritative: bool = True
    unresolved: Name | None = None
    """The chain of CNAMEs leaves the cluster here; a server that forwards may go on from it."""


class _Target(NamedTuple):
    """One thing a name stands for: an address (with the name and port an SRV record shows), or another name."""

    name: Name
    address: str = ""
    port: int = NO_PORT
    cname: str = ""


def labels(text: str) -> Name:
    """`a.b.` → ("a", "b"); the root and the empty text → ()."""
    return tuple(text.strip(".").split(".")) if text.strip(".") else ()


def address_type(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def zone_of(name: Name, view: View) -> Name | None:
    """The zone this server answers for that `name` (lower case) is in."""
    return next((zone for zone in view.zones if name[-len(zone) :] == zone), None)


def soa(zone: Name, view: View) -> Record:
    """Negative answers may be kept as long as any other record."""
    data = (("ns", "dns", *zone), ("hostmaster", *zone), view.serial, 7200, 1800, 86400, view.options.ttl_s)
    return Record(zone, "SOA", data, min(view.options.ttl_s, MAX_SOA_TTL_S))


def resolve(question: Question, view: View) -> Answer:
    """The whole answer, order of addresses as stored (the server shuffles)."""
    name = tuple(label.lower() for label in question.name)
    zone = zone_of(name, view)
    if zone is None or question.type in ("AXFR", "IXFR"):
        return Answer(REFUSED, authoritative=False)
    if not view.synced:
        return Answer(SERVFAIL, authoritative=False)
    answer = _reverse(question, name, zone, view) if zone in view.reverse_zones else _forward(question, name, view)
    if view.options.ttl_s != TTL_S:
        for section in (answer.answers, answer.additional):
            section[:] = [r._replace(ttl_s=view.options.ttl_s) if r.ttl_s == TTL_S and r.type != "SOA" else r for r in section]
    if answer.rcode == NXDOMAIN or (not answer.answers and answer.rcode == NOERROR):
        answer.authority = [soa(zone, view)]
    if question.name[-len(zone) :] != zone:
        _spell(answer, zone, question.name[-len(zone) :])
    return answer


def _spell(answer: Answer, zone: Name, spelling: Name) -> None:
    """Write the zone as the client does wherever the answer leads back into it, as CoreDNS (0x20: draft-vixie-dnsext-dns0x20)."""

    def again(value: object) -> object:
        inside = isinstance(value, tuple) and value[-len(zone) :] == zone
        return (*value[: -len(zone)], *spelling) if inside else value  # type: ignore[index]

    for section in (answer.answers, answer.authority, answer.additional):
        for at, record in enumerate(section):
            if record.type not in ("PTR", "CNAME"):
                name = again(record.name)
                section[at] = record._replace(name=name, data=tuple(map(again, record.data)))  # type: ignore[arg-type]


# --- the cluster's domain


def _forward(question: Question, name: Name, view: View) -> Answer:
    relative = name[: -len(view.domain)]
    if not relative and question.type == "SOA":
        return Answer(answers=[soa(view.domain, view)._replace(name=question.name)])
    if not relative and question.type == "NS":
        return _name_servers(question, view)
    if relative == ("dns-version",) and question.type == "TXT":
        return Answer(answers=[Record(question.name, "TXT", (DNS_VERSION,), DNS_VERSION_TTL_S)])
    targets = _lookup(relative, view)
    if targets is None:
        return Answer(NXDOMAIN)
    if targets and targets[0].cname:
        return _external_name(question, targets[0].cname, view)
    answer = Answer()
    _fill(answer, question.name, question.type, targets)
    return answer


def _external_name(question: Question, target: str, view: View) -> Answer:
    """A CNAME, followed inside the cluster. As CoreDNS: one that leads to nothing there, or in a circle, is no answer; other
    types than addresses have none (an external name has no ports to tell)."""
    owner, chain = question.name, [Record(question.name, "CNAME", (labels(target),))]
    if question.type == "CNAME":
        return Answer(answers=chain)
    if question.type not in ("A", "AAAA"):
        return Answer()
    while len(chain) <= MAX_CNAMES:
        owner = labels(target)
        name = tuple(label.lower() for label in owner)
        if name[-len(view.domain) :] != view.domain:
            return Answer(answers=chain, unresolved=owner)
        targets = _lookup(name[: -len(view.domain)], view)
        if not targets:
            break
        if not targets[0].cname:
            answer = Answer(answers=list(chain))
            _fill(answer, owner, question.type, targets)
            return answer if len(answer.answers) > len(chain) else Answer()
        target = targets[0].cname
        chain.append(Record(owner, "CNAME", (labels(target),)))
    return Answer()


def _fill(answer: Answer, owner: Name, kind: str, targets: Sequence[_Target]) -> None:
    """Put the records of type `kind` that `targets` make into the answer."""
    if kind in ("A", "AAAA"):
        addresses = dict.fromkeys(t.address for t in targets if address_type(t.address) == kind)
        answer.answers += [Record(owner, kind, (address,)) for address in addresses]
    elif kind == "SRV":
        weight = max(1, 100 // max(1, len(targets)))
        shown = [t for t in targets if t.port != NO_PORT]
        hosts = dict.fromkeys((t.name, t.port) for t in shown)
        answer.answers += [Record(owner, "SRV", (0, weight, port, host)) for host, port in hosts]
        extra = dict.fromkeys((t.name, t.address) for t in shown)
        answer.additional += [Record(host, address_type(address), (address,)) for host, address in extra]


def _name_servers(question: Question, view: View) -> Answer:
    targets = _own_targets(view)
    return Answer(
        answers=[Record(question.name, "NS", (name,)) for name in dict.fromkeys(t.name for t in targets)],
        additional=[Record(t.name, address_type(t.address), (t.address,)) for t in targets],
    )


def _own_targets(view: View) -> list[_Target]:
    """The service this server is an endpoint of; outside any service, its own addresses under ns.dns."""
    targets = []
    for local in view.local_addresses:
        for piece in view.slices_with(local):
            service = view.service(piece.namespace, piece.service)
            if service is not None and service.addresses:
                name = (service.name, service.namespace, "svc", *view.domain)
                targets += [_Target(name, address) for address in service.addresses]
    if not targets:
        targets = [_Target(("ns", "dns", *view.domain), address) for address in view.local_addresses]
    return list(dict.fromkeys(targets))


def _lookup(relative: Name, view: View) -> list[_Target] | None:
    """What a name below the cluster's domain stands for: None if it does not exist, [] if it only has names below it."""
    if not relative or relative in (("dns-version",), ("dns",)):
        return []
    if relative == ("ns", "dns"):
        return [t._replace(name=(*relative, *view.domain)) for t in _own_targets(view)]
    if relative[-1] not in ("svc", "pod"):
        return None
    if len(relative) == 1:
        return []
    *rest, namespace, kind = relative
    if namespace not in view.namespaces or (kind == "pod" and view.options.pods == "disabled"):
        return None
    if not rest:
        return []
    if kind == "pod":
        return _pod(rest, namespace, view)
    return _service(rest, namespace, view)


def _pod(rest: Sequence[str], namespace: str, view: View) -> list[_Target] | None:
    """`1-2-3-4.ns.pod`: echoed without asking whether the pod exists (`pods insecure`, kubeadm's default), or if it does."""
    if len(rest) != 1:
        return None
    label = rest[0]
    address = label.replace("-", "." if label.count("-") == 3 and "--" not in label else ":")
    if not is_address(address):
        return None
    if view.options.pods == "verified" and not view.has_pod(namespace, str(ip_address(address))):
        return None
    return [_Target((label, namespace, "pod", *view.domain), str(ip_address(address)))]


def _service(rest: Sequence[str], namespace: str, view: View) -> list[_Target] | None:
    """`svc`, `endpoint.svc`, `_port._protocol.svc` in a namespace."""
    if len(rest) > 3:
        return None
    *prefix, service_name = rest
    service = view.service(namespace, service_name)
    if service is None:
        return None
    base = (service.name, service.namespace, "svc", *view.domain)
    if service.external_name:
        if prefix or is_address(service.external_name):
            return None
        return [_Target(base, cname=service.external_name)]
    if len(prefix) == 2:
        port, protocol = (label.removeprefix("_") for label in prefix)
        return _targets(service, base, view, port=port, protocol=protocol) or None
    if len(prefix) == 1:
        found = _endpoint_targets(view.slices(namespace, service_name), base, label=prefix[0])
        if not found and prefix[0].startswith("_") and _targets(service, base, view, protocol=prefix[0][1:]):
            return []  # `_tcp.svc`: nothing itself, but `_port._tcp.svc` is below it
        return found or None
    return _targets(service, base, view) or None


def _matches(port: Port, name: str, protocol: str) -> bool:
    return (not name or port.name == name) and (not protocol or port.protocol == protocol)


def _targets(service: Service, base: Name, view: View, *, port: str = "", protocol: str = "") -> list[_Target]:
    if not service.addresses:
        return _endpoint_targets(view.slices(service.namespace, service.name), base, port=port, protocol=protocol)
    ports = [p for p in service.ports if _matches(p, port, protocol)]
    return [_Target(base, address, p.number) for p in ports for address in service.addresses]


def _endpoint_targets(
    slices: Iterable[Slice], base: Name, *, label: str = "", port: str = "", protocol: str = ""
) -> list[_Target]:
    return [
        _Target((endpoint.label, *base), endpoint.address, p.number)
        for piece in slices
        for p in piece.ports
        if _matches(p, port, protocol)
        for endpoint in piece.endpoints
        if not label or endpoint.label == label
    ]


# --- the reverse zones


def _reverse(question: Question, name: Name, zone: Name, view: View) -> Answer:
    """A service's own name if the address is a cluster IP, else the names of the endpoints that have it."""
    if name == zone:
        return Answer(answers=[soa(zone, view)._replace(name=question.name)] if question.type == "SOA" else [])
    address = reverse_address(name)
    names = _names_of(address, view) if address else []
    if not names:
        return Answer(NXDOMAIN)
    if question.type != "PTR":
        return Answer()
    return Answer(answers=[Record(question.name, "PTR", (n,)) for n in dict.fromkeys(names)])


def _names_of(address: str, view: View) -> list[Name]:
    service = view.service_at(address)
    if service is not None:
        return [(service.name, service.namespace, "svc", *view.domain)]

    def at_address(endpoint: Endpoint) -> bool:
        return endpoint.address == address

    return [
        (endpoint.label, piece.service, piece.namespace, "svc", *view.domain)
        for piece in view.slices_with(address)
        for endpoint in filter(at_address, piece.endpoints)
    ]


def reverse_address(name: Name) -> str:
    """`4.3.2.1.in-addr.arpa` → `1.2.3.4`, 32 nibbles of ip6.arpa likewise; empty if it is not a whole address."""
    parts = name[-3::-1]
    if name[-2:] == ("in-addr", "arpa"):
        text = ".".join(parts)
    elif len(parts) == 32 and all(len(p) == 1 for p in parts):
        text = ":".join("".join(parts[i : i + 4]) for i in range(0, 32, 4))
    else:
        return ""
    try:
        return str(ip_address(text))
    except ValueError:
        return ""
