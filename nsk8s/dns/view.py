"""What the cluster's names are made from: services, their endpoints, namespaces, indexed for questions. Pure.

Fed by informers one object at a time, so a record is as new as the last watch event. It keeps of each object only what DNS needs.
Upstream: CoreDNS' plugin/kubernetes (object, controller).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from nsk8s.api.meta import Object

NO_PORT = -1
"""Stands for the missing port of a service or slice that declares none: it has addresses, but no SRV record."""

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class Port(NamedTuple):
    """Name and protocol in lower case."""

    name: str
    protocol: str
    number: int


class Service(NamedTuple):
    namespace: str
    name: str
    addresses: tuple[str, ...]
    """Cluster IPs; empty for a headless or ExternalName service."""
    ports: tuple[Port, ...]
    external_name: str = ""


class Endpoint(NamedTuple):
    address: str
    label: str
    """The endpoint's own DNS label: its hostname, or its address with dashes."""


class Slice(NamedTuple):
    """The ready endpoints of one EndpointSlice; every endpoint has every port."""

    namespace: str
    service: str
    endpoints: tuple[Endpoint, ...]
    ports: tuple[Port, ...]


ServiceKey = tuple[str, str]
"""(namespace, name), lower case."""


def canonical(address: str) -> str:
    """One spelling for one IP address; what is not an address comes back unchanged."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _ports(entries: Iterable[Object] | None) -> tuple[Port, ...]:
    ports = tuple(
        Port(str(p.get("name") or "").lower(), str(p.get("protocol") or "TCP").lower(), int(p.get("port") or NO_PORT))
        for p in entries or ()
    )
    return ports or (Port("", "", NO_PORT),)


def read_service(obj: Object) -> Service:
    spec = obj.get("spec") or {}
    namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    ports = _ports(spec.get("ports"))
    if spec.get("type") == "ExternalName":
        return Service(namespace, name, (), ports, str(spec.get("externalName") or "").rstrip("."))
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP") or "None"]
    return Service(namespace, name, tuple(canonical(a) for a in addresses if a and a != "None"), ports)


def read_slice(obj: Object) -> Slice:
    """Unready endpoints are left out; a missing condition counts as ready, and publishNotReadyAddresses sets it."""
    fqdn = obj.get("addressType") == "FQDN"
    endpoints = [
        Endpoint(canonical(address), str(entry.get("hostname") or "").lower() or address.replace(".", "-").replace(":", "-"))
        for entry in ([] if fqdn else obj.get("endpoints") or [])
        if (entry.get("conditions") or {}).get("ready") is not False
        for address in (entry.get("addresses") or [])[:1]
    ]
    service = (obj["metadata"].get("labels") or {}).get(SERVICE_NAME_LABEL, "")
    return Slice(obj["metadata"]["namespace"], service, tuple(endpoints), _ports(obj.get("ports")))


class View:
    """The cluster as DNS sees it. `generation` changes with every change of a record."""

    def __init__(
        self, domain: str = "cluster.local", local_addresses: Iterable[str] = (), *,
        reverse: bool = True, pods: bool = True, ttl_s: int = 5, namespaces: frozenset[str] = frozenset(),
        ignore_empty: bool = False,
    ) -> None:  # fmt: skip
        """The settings are the Corefile's: `nsk8s.dns.corefile`."""
        self.has_reverse, self.has_pods, self.ttl_s, self.ignores_empty = reverse, pods, ttl_s, ignore_empty
        self._only = namespaces
        self.domain = tuple(domain.lower().strip(".").split("."))
        self.local_addresses = tuple(canonical(a) for a in local_addresses)
        """The server's own addresses: the service that has one of them as an endpoint is the zone's name server."""
        self.synced = False
        self.generation = 0
        self.namespaces: set[str] = set()
        self._services: dict[ServiceKey, Service] = {}
        self._by_cluster_ip: dict[str, ServiceKey] = {}
        self._slices: dict[ServiceKey, dict[str, Slice]] = {}
        self._by_endpoint: dict[str, dict[tuple[str, str], Slice]] = {}

    # --- questions

    def service(self, namespace: str, name: str) -> Service | None:
        found = self._services.get((namespace, name))
        if found is not None and self.ignores_empty and found.addresses and not self._has_endpoints(namespace, name):
            return None
        return found

    def _has_endpoints(self, namespace: str, name: str) -> bool:
        return any(piece.endpoints for piece in self._slices.get((namespace, name), {}).values())

    def slices(self, namespace: str, service: str) -> list[Slice]:
        return list(self._slices.get((namespace, service), {}).values())

    def service_at(self, cluster_ip: str) -> Service | None:
        key = self._by_cluster_ip.get(cluster_ip)
        return self._services.get(key) if key else None

    def slices_with(self, address: str) -> list[Slice]:
        """The slices that have a ready endpoint at `address`."""
        return list(self._by_endpoint.get(address, {}).values())

    # --- changes: (old, new) as informers report them

    def _is_hidden(self, namespace: str) -> bool:
        return bool(self._only) and namespace not in self._only

    def namespace_changed(self, old: Object | None, new: Object | None) -> None:
        if self._is_hidden((new or old or {})["metadata"]["name"]):
            return
        before = len(self.namespaces)
        if new is not None:
            self.namespaces.add(new["metadata"]["name"])
        elif old is not None:
            self.namespaces.discard(old["metadata"]["name"])
        self.generation += len(self.namespaces) != before

    def service_changed(self, old: Object | None, new: Object | None) -> None:
        if self._is_hidden((new or old or {})["metadata"]["namespace"]):
            return
        was = read_service(old) if old is not None else None
        now = read_service(new) if new is not None else None
        if was == now:
            return
        self.generation += 1
        if was is not None:
            key = (was.namespace, was.name)
            self._services.pop(key, None)
            for address in was.addresses:
                if self._by_cluster_ip.get(address) == key:
                    del self._by_cluster_ip[address]
        if now is not None:
            key = (now.namespace, now.name)
            self._services[key] = now
            for address in now.addresses:
                self._by_cluster_ip[address] = key

    def slice_changed(self, old: Object | None, new: Object | None) -> None:
        if self._is_hidden((new or old or {})["metadata"]["namespace"]):
            return
        was = read_slice(old) if old is not None else None
        now = read_slice(new) if new is not None else None
        if was == now:
            return
        self.generation += 1
        if was is not None and old is not None:
            name = old["metadata"]["name"]
            named = self._slices.get((was.namespace, was.service), {})
            named.pop(name, None)
            if not named:
                self._slices.pop((was.namespace, was.service), None)
            for endpoint in was.endpoints:
                holders = self._by_endpoint.get(endpoint.address, {})
                holders.pop((was.namespace, name), None)
                if not holders:
                    self._by_endpoint.pop(endpoint.address, None)
        if now is not None and new is not None and now.service:
            name = new["metadata"]["name"]
            self._slices.setdefault((now.namespace, now.service), {})[name] = now
            for endpoint in now.endpoints:
                self._by_endpoint.setdefault(endpoint.address, {})[now.namespace, name] = now
