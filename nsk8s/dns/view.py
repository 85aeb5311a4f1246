"""What the cluster's names are made from: services, their endpoints, namespaces, indexed for questions. Pure.

Fed by informers one object at a time, so a record is as new as the last watch event. It keeps of each object only what DNS needs.
Upstream: CoreDNS' plugin/kubernetes (object, controller).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from nsk8s.api.meta import Object
from nsk8s.dns.settings import REVERSE, Kubernetes

NO_PORT = -1
"""Stands for the missing port of a service or slice that declares none: it has addresses, but no SRV record."""

MAX_LABEL = 63
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
    """The endpoint's own DNS label: its hostname, its pod's name (`endpoint_pod_names`), or its address with dashes."""


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


def read_slice(obj: Object, *, pod_names: bool = False) -> Slice:
    """Unready endpoints are left out; a missing condition counts as ready, and publishNotReadyAddresses sets it."""
    fqdn = obj.get("addressType") == "FQDN"
    endpoints = [
        Endpoint(canonical(address), _label(entry, address, pod_names))
        for entry in ([] if fqdn else obj.get("endpoints") or [])
        if (entry.get("conditions") or {}).get("ready") is not False
        for address in entry.get("addresses") or []
    ]
    service = (obj["metadata"].get("labels") or {}).get(SERVICE_NAME_LABEL, "")
    return Slice(obj["metadata"]["namespace"], service, tuple(endpoints), _ports(obj.get("ports")))


def _label(entry: Object, address: str, pod_names: bool) -> str:
    hostname = str(entry.get("hostname") or "").lower()
    if not hostname and pod_names:
        pod = str((entry.get("targetRef") or {}).get("name") or "")
        hostname = pod if len(pod) <= MAX_LABEL else ""
    return hostname or address.replace(".", "-").replace(":", "-")


class View:
    """The cluster as DNS sees it. `generation` changes with every change of a record."""

    def __init__(self, options: Kubernetes | None = None, local_addresses: Iterable[str] = (), *, serial: int = 0) -> None:
        """`serial`: what the zone's SOA begins with."""
        self.options = options or Kubernetes()
        self.domain = tuple(self.options.domain.split("."))
        self.zones = [tuple(z.split(".")) for z in sorted(self.options.zones, key=len, reverse=True)]
        """Longest first."""
        self.reverse_zones = [z for z in self.zones if z[-2:] in {tuple(r.split(".")) for r in REVERSE}]
        self._only = self.options.namespaces
        self._serial = serial
        self._pods: dict[str, dict[tuple[str, str], None]] = {}
        self.local_addresses = tuple(canonical(a) for a in local_addresses)
        """The server's own addresses: the service that has one of them as an endpoint is the zone's name server."""
        self.synced = False
        self.generation = 0
        self.namespaces: set[str] = set()
        self._services: dict[ServiceKey, Service] = {}
        self._by_cluster_ip: dict[str, ServiceKey] = {}
        self._slices: dict[ServiceKey, dict[str, Slice]] = {}
        self._by_endpoint: dict[str, dict[tuple[str, str], Slice]] = {}

    @property
    def serial(self) -> int:
        return (self._serial + self.generation) & 0xFFFFFFFF

    # --- questions

    def has_pod(self, namespace: str, address: str) -> bool:
        return any(key[0] == namespace for key in self._pods.get(address, ()))

    def service(self, namespace: str, name: str) -> Service | None:
        found = self._services.get((namespace, name))
        if found is not None and self.options.ignore_empty and found.addresses and not self._has_endpoints(namespace, name):
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
        names = self.options.endpoint_pod_names
        was = read_slice(old, pod_names=names) if old is not None else None
        now = read_slice(new, pod_names=names) if new is not None else None
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

    def pod_changed(self, old: Object | None, new: Object | None) -> None:
        """Only with `pods verified`."""
        was, now = _pod_addresses(old), _pod_addresses(new)
        if was == now:
            return
        self.generation += 1
        meta = (new or old or {})["metadata"]
        key = (meta["namespace"], meta["name"])
        for address in was:
            holders = self._pods.get(address, {})
            holders.pop(key, None)
            if not holders:
                self._pods.pop(address, None)
        for address in now:
            self._pods.setdefault(address, {})[key] = None


def _pod_addresses(pod: Object | None) -> set[str]:
    """What of it other pods reach: nothing once it has ended."""
    status = (pod or {}).get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return set()
    every = [status.get("podIP"), *(entry.get("ip") for entry in status.get("podIPs") or [])]
    return {canonical(address) for address in every if address}
