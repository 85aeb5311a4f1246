"""networking.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import IntOrString, Model, field, int32
from nsk8s.api.models.core_reference import TypedLocalObjectReference
from nsk8s.api.models.meta import Condition, LabelSelector, ObjectMeta

POLICY_TYPE = ("Ingress", "Egress")
PROTOCOL = ("TCP", "UDP", "SCTP")


class NetworkPolicy(Model):
    """What traffic the pods it selects may receive and send."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: NetworkPolicySpec = field(2, "What is wanted.")


class NetworkPolicySpec(Model):
    podSelector: LabelSelector = field(1, "The pods it is about; empty means all of the namespace.", required=True)
    ingress: list[NetworkPolicyIngressRule] = field(
        2, "What may come in; nothing else may, if the policy is about Ingress.", list_type="atomic"
    )
    egress: list[NetworkPolicyEgressRule] = field(
        3, "What may go out; nothing else may, if the policy is about Egress.", list_type="atomic"
    )
    policyTypes: list[str] = field(4, "Ingress, Egress or both.", list_type="atomic", enum=POLICY_TYPE)


class NetworkPolicyIngressRule(Model):
    ports: list[NetworkPolicyPort] = field(1, list_type="atomic")
    from_: list[NetworkPolicyPeer] = field(2, list_type="atomic", name="from")


class NetworkPolicyEgressRule(Model):
    ports: list[NetworkPolicyPort] = field(1, list_type="atomic")
    to: list[NetworkPolicyPeer] = field(2, list_type="atomic")


class NetworkPolicyPort(Model):
    protocol: str | None = field(1, enum=PROTOCOL)
    port: IntOrString = field(2)
    endPort: int32 | None = field(3)


class IPBlock(Model):
    cidr: str = field(1, required=True)
    except_: list[str] = field(2, list_type="atomic", name="except")


class NetworkPolicyPeer(Model):
    podSelector: LabelSelector = field(1)
    namespaceSelector: LabelSelector = field(2)
    ipBlock: IPBlock = field(3)


class Ingress(Model):
    """Rules that lead HTTP requests from outside to Services."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: IngressSpec = field(2, "What is wanted.")
    status: IngressStatus = field(3, "What is known; written by controllers.")


class IngressSpec(Model):
    ingressClassName: str | None = field(4, "Which controller is meant.")
    defaultBackend: IngressBackend = field(1, "Where requests go that no rule is about.")
    tls: list[IngressTLS] = field(2, "Certificates by host.", list_type="atomic")
    rules: list[IngressRule] = field(3, "Hosts and paths, and where they lead.", list_type="atomic")


class IngressTLS(Model):
    hosts: list[str] = field(1, list_type="atomic")
    secretName: str = field(2)


class IngressStatus(Model):
    loadBalancer: IngressLoadBalancerStatus = field(1)


class IngressLoadBalancerStatus(Model):
    ingress: list[IngressLoadBalancerIngress] = field(1, list_type="atomic")


class IngressLoadBalancerIngress(Model):
    ip: str = field(1)
    hostname: str = field(2)
    ports: list[IngressPortStatus] = field(4, list_type="atomic")


class IngressPortStatus(Model):
    port: int32 = field(1, required=True)
    protocol: str = field(2, required=True, enum=PROTOCOL)
    error: str | None = field(3)


class IngressRule(Model):
    host: str = field(1)
    ingressRuleValue: IngressRuleValue = field(2, inline=True)


class IngressRuleValue(Model):
    http: HTTPIngressRuleValue = field(1)


class HTTPIngressRuleValue(Model):
    paths: list[HTTPIngressPath] = field(1, required=True, list_type="atomic")


class HTTPIngressPath(Model):
    path: str = field(1)
    pathType: str | None = field(3, required=True)
    backend: IngressBackend = field(2, required=True)


class IngressBackend(Model):
    service: IngressServiceBackend = field(4)
    resource: TypedLocalObjectReference = field(3)


class IngressServiceBackend(Model):
    name: str = field(1, required=True)
    port: ServiceBackendPort = field(2)


class ServiceBackendPort(Model, atomic=True):
    name: str = field(1)
    number: int32 = field(2)


class IngressClass(Model):
    """A kind of ingress controller."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: IngressClassSpec = field(2, "What is wanted.")


class IngressClassSpec(Model):
    controller: str = field(1)
    parameters: IngressClassParametersReference = field(2)


class IngressClassParametersReference(Model):
    apiGroup: str | None = field(1)
    kind: str = field(2, required=True)
    name: str = field(3, required=True)
    scope: str | None = field(4)
    namespace: str | None = field(5)


class ServiceCIDR(Model):
    """A range from which ClusterIPs come."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: ServiceCIDRSpec = field(2, "What is wanted.")
    status: ServiceCIDRStatus = field(3, "What is known; written by controllers.")


class ServiceCIDRSpec(Model):
    cidrs: list[str] = field(1, "One range a family.", list_type="atomic")


class ServiceCIDRStatus(Model):
    conditions: list[Condition] = field(1, merge_key="type", list_type="map", list_keys=("type",))


class IPAddress(Model):
    """One IP address, of a Service or of whatever else it refers to. Its name is the address."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: IPAddressSpec = field(2, "What is wanted.")


class IPAddressSpec(Model):
    parentRef: ParentReference = field(1, "What has the address.", required=True)


class ParentReference(Model):
    group: str | None = field(1, "Its API group; empty for the core.")
    resource: str = field(2, "Its resource (services).", required=True)
    namespace: str | None = field(3, "Its namespace.")
    name: str = field(4, "Its name.", required=True)
