"""discovery.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field, int32
from nsk8s.api.models.core_reference import ObjectReference
from nsk8s.api.models.meta import ObjectMeta

PROTOCOL = ("TCP", "UDP", "SCTP")


class EndpointSlice(Model):
    """Some of the endpoints behind a Service."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    addressType: str = field(4, "IPv4, IPv6 or FQDN; cannot be changed.", required=True)
    endpoints: list[Endpoint] = field(2, "At most 1000 endpoints.", required=True, list_type="atomic")
    ports: list[EndpointPort] = field(3, "The ports that every endpoint here has.", list_type="atomic")


class Endpoint(Model):
    addresses: list[str] = field(1, required=True, list_type="set")
    conditions: EndpointConditions = field(2)
    hostname: str | None = field(3)
    targetRef: ObjectReference = field(4)
    deprecatedTopology: dict[str, str] = field(5)
    nodeName: str | None = field(6)
    zone: str | None = field(7)
    hints: EndpointHints = field(8)


class EndpointConditions(Model):
    ready: bool | None = field(1)
    serving: bool | None = field(2)
    terminating: bool | None = field(3)


class EndpointHints(Model):
    forZones: list[ForZone] = field(1, list_type="atomic")
    forNodes: list[ForNode] = field(2, list_type="atomic")


class ForZone(Model):
    name: str = field(1, required=True)


class ForNode(Model):
    name: str = field(1, required=True)


class EndpointPort(Model, atomic=True):
    name: str | None = field(1)
    protocol: str | None = field(2, enum=PROTOCOL)
    port: int32 | None = field(3)
    appProtocol: str | None = field(4)
