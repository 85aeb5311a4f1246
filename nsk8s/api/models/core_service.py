"""Models of core_service. Pure."""

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
    ports: list[ServicePort] = field(1, merge_key="port", list_type="map", list_keys=("port", "protocol",))
    selector: dict[str, str] = field(2, list_type="atomic")
    clusterIP: str = field(3)
    clusterIPs: list[str] = field(18, list_type="atomic")
    type: str = field(4, enum=SERVICE_TYPE)
    externalIPs: list[str] = field(5, list_type="atomic")
    sessionAffinity: str = field(7, enum=SERVICE_AFFINITY)
    loadBalancerIP: str = field(8)
    loadBalancerSourceRanges: list[str] = field(9, list_type="atomic")
    externalName: str = field(10)
    externalTrafficPolicy: str = field(11, enum=SERVICE_EXTERNAL_TRAFFIC_POLICY)
    healthCheckNodePort: int32 = field(12)
    publishNotReadyAddresses: bool = field(13)
    sessionAffinityConfig: SessionAffinityConfig = field(14)
    ipFamilies: list[str] = field(19, list_type="atomic", enum=IP_FAMILY)
    ipFamilyPolicy: str | None = field(17, enum=IP_FAMILY_POLICY)
    allocateLoadBalancerNodePorts: bool | None = field(20)
    loadBalancerClass: str | None = field(21)
    internalTrafficPolicy: str | None = field(22, enum=SERVICE_INTERNAL_TRAFFIC_POLICY)
    trafficDistribution: str | None = field(23)


class ServicePort(Model):
    name: str = field(1)
    protocol: str = field(2, default="TCP", enum=PROTOCOL)
    appProtocol: str | None = field(6)
    port: int32 = field(3, required=True)
    targetPort: IntOrString = field(4)
    nodePort: int32 = field(5)


class Service(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
    spec: ServiceSpec = field(2)
    status: ServiceStatus = field(3)


class Endpoints(Model):
    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1)
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
