"""The core group: Services and Endpoints. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import IntOrString, Model, field, int32
from nsk8s.api.models.core_reference import ObjectReference
from nsk8s.api.models.meta import Condition, ObjectMeta

SERVICE_TYPE = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
SERVICE_AFFINITY = ("ClientIP", "None")
SERVICE_EXTERNAL_TRAFFIC_POLICY = ("Cluster", "Local")
IP_FAMILY = ("IPv4", "IPv6", "")
IP_FAMILY_POLICY = ("SingleStack", "PreferDualStack", "RequireDualStack")
SERVICE_INTERNAL_TRAFFIC_POLICY = ("Cluster", "Local")
PROTOCOL = ("TCP", "UDP", "SCTP")


class SessionAffinityConfig(Model):
    clientIP: ClientIPConfig = field(1)


class ClientIPConfig(Model):
    timeoutSeconds: int32 | None = field(1)


class ServiceStatus(Model):
    loadBalancer: LoadBalancerStatus = field(1)
    conditions: list[Condition] = field(2, merge_key="type", list_type="map", list_keys=("type",))


class LoadBalancerStatus(Model):
    ingress: list[LoadBalancerIngress] = field(1, list_type="atomic")


class LoadBalancerIngress(Model):
    ip: str = field(1)
    hostname: str = field(2)
    ipMode: str | None = field(3)
    ports: list[PortStatus] = field(4, list_type="atomic")


class ServiceSpec(Model):
    """What a Service shall be."""

    ports: list[ServicePort] = field(
        1, "The ports of the Service.", merge_key="port", list_type="map", list_keys=("port", "protocol",)
    )
    selector: dict[str, str] = field(
        2, "Labels of the pods behind it; without one, endpoints are made by hand.", list_type="atomic"
    )
    clusterIP: str = field(3, "The Service's address; None makes it headless.")
    clusterIPs: list[str] = field(18, "The Service's addresses, at most one per family.", list_type="atomic")
    type: str = field(4, "Who can reach it, and how.", enum=SERVICE_TYPE)
    externalIPs: list[str] = field(
        5, "Addresses, led to the nodes by others, that also reach the Service.", list_type="atomic"
    )
    sessionAffinity: str = field(7, "ClientIP sends a client to the same pod each time.", enum=SERVICE_AFFINITY)
    loadBalancerIP: str = field(8)
    loadBalancerSourceRanges: list[str] = field(9, "Clients that the load balancer lets in.", list_type="atomic")
    externalName: str = field(10, "The DNS name that a Service of type ExternalName stands for.")
    externalTrafficPolicy: str = field(
        11, "Local keeps the client's address and uses only pods of the node that received the packet.",
        enum=SERVICE_EXTERNAL_TRAFFIC_POLICY
    )
    healthCheckNodePort: int32 = field(12, "Where load balancers ask whether a node has pods.")
    publishNotReadyAddresses: bool = field(13, "Publish pods in DNS even if they are not ready.")
    sessionAffinityConfig: SessionAffinityConfig = field(14, "How long the affinity lasts.")
    ipFamilies: list[str] = field(19, "The families of the addresses.", list_type="atomic", enum=IP_FAMILY)
    ipFamilyPolicy: str | None = field(17, "Whether the Service has one family or two.", enum=IP_FAMILY_POLICY)
    allocateLoadBalancerNodePorts: bool | None = field(20, "Whether a LoadBalancer gets node ports.")
    loadBalancerClass: str | None = field(21, "Which load balancer implementation is meant.")
    internalTrafficPolicy: str | None = field(
        22, "Local uses only pods of the client's node.", enum=SERVICE_INTERNAL_TRAFFIC_POLICY
    )
    trafficDistribution: str | None = field(23, "PreferClose prefers endpoints near the client.")


class ServicePort(Model):
    """A port of a Service, and where it leads."""

    name: str = field(1, "Needed if there are several ports; unique in the Service.")
    protocol: str = field(2, "TCP, UDP or SCTP.", default="TCP", enum=PROTOCOL)
    appProtocol: str | None = field(6, "What is spoken on the port, as a hint.")
    port: int32 = field(3, "The port of the Service.", required=True)
    targetPort: IntOrString = field(4, "The pods' port: a number or a container port's name; default: `port`.")
    nodePort: int32 = field(5, "The port on every node that leads here.")


class Service(Model):
    """A stable name and address for a changing set of pods, and how traffic to it is spread."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: ServiceSpec = field(2, "What is wanted.")
    status: ServiceStatus = field(3, "What is known; written by controllers.")


class Endpoints(Model):
    """The addresses behind a Service; EndpointSlices hold the same in pieces."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    subsets: list[EndpointSubset] = field(2, list_type="atomic")


class EndpointSubset(Model):
    addresses: list[EndpointAddress] = field(1, list_type="atomic")
    notReadyAddresses: list[EndpointAddress] = field(2, list_type="atomic")
    ports: list[EndpointPort] = field(3, list_type="atomic")


class EndpointAddress(Model, atomic=True):
    ip: str = field(1, required=True)
    hostname: str = field(3)
    nodeName: str | None = field(4)
    targetRef: ObjectReference = field(2)


class EndpointPort(Model, atomic=True):
    name: str = field(1)
    port: int32 = field(2, required=True)
    protocol: str = field(3, enum=PROTOCOL)
    appProtocol: str | None = field(4)


class PortStatus(Model):
    port: int32 = field(1, required=True)
    protocol: str = field(2, required=True, enum=PROTOCOL)
    error: str | None = field(3)
