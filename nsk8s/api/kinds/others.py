"""The kinds of the small groups. Pure. Upstream: pkg/registry/{discovery,networking,coordination,rbac,storage,…}."""

from __future__ import annotations

from nsk8s.api.defaults import workloads as defaults
from nsk8s.api.kinds.common import status
from nsk8s.api.meta import Object
from nsk8s.api.models import (
    apiextensions,
    authentication,
    authorization,
    coordination,
    discovery,
    networking,
    rbac,
    scheduling,
    storage,
)
from nsk8s.api.printers import others as printers
from nsk8s.api.scheme import Kind, Strategy
from nsk8s.api.validation import others as validation
from nsk8s.api.validation import rbac as rbac_validation

_RBAC = "rbac.authorization.k8s.io"
_CREATE = ("create",)


def _create_network_policy(obj: Object) -> None:
    obj.pop("status", None)


def _review(group: str, kind: str, plural: str, model: type, *, namespaced: bool = False) -> Kind:
    """A kind that is only ever posted and answered: nothing is stored."""
    return Kind(
        group, "v1", kind, plural, namespaced, model, verbs=_CREATE,
        strategy=Strategy(has_status=False, has_generation=False),
    )  # fmt: skip


KINDS: tuple[Kind, ...] = (
    Kind(
        "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", True, discovery.EndpointSlice,
        strategy=Strategy(default=defaults.default_endpoint_slice, validate=validation.validate_endpoint_slice,
                          validate_update=validation.validate_endpoint_slice_update, has_status=False),
        printer=printers.ENDPOINT_SLICE,
    ),
    Kind(
        "networking.k8s.io", "v1", "Ingress", "ingresses", True, networking.Ingress, short_names=("ing",),
        subresources=(status("Ingress"),),
        strategy=Strategy(default=defaults.default_ingress, validate=validation.validate_ingress),
        printer=printers.INGRESS,
    ),
    Kind(
        "networking.k8s.io", "v1", "IngressClass", "ingressclasses", False, networking.IngressClass,
        strategy=Strategy(validate=validation.validate_ingress_class,
                          validate_update=validation.validate_ingress_class_update, has_status=False),
        printer=printers.INGRESS_CLASS,
    ),
    Kind(
        "networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", True, networking.NetworkPolicy,
        short_names=("netpol",),
        strategy=Strategy(default=defaults.default_network_policy, validate=validation.validate_network_policy,
                          prepare_create=_create_network_policy, has_status=False),
        printer=printers.NETWORK_POLICY,
    ),
    Kind(
        "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", False, networking.ServiceCIDR,
        subresources=(status("ServiceCIDR"),),
        strategy=Strategy(validate=validation.validate_service_cidr,
                          validate_update=validation.validate_service_cidr_update, has_generation=False),
        printer=printers.SERVICE_CIDR,
    ),
    Kind(
        "networking.k8s.io", "v1", "IPAddress", "ipaddresses", False, networking.IPAddress, short_names=("ip",),
        strategy=Strategy(validate=validation.validate_ip_address, validate_update=validation.validate_ip_address_update,
                          has_status=False, has_generation=False),
        printer=printers.IP_ADDRESS,
    ),
    Kind(
        "coordination.k8s.io", "v1", "Lease", "leases", True, coordination.Lease,
        strategy=Strategy(validate=validation.validate_lease, has_status=False, has_generation=False),
        printer=printers.LEASE,
    ),
    Kind(
        _RBAC, "v1", "Role", "roles", True, rbac.Role,
        strategy=Strategy(default=defaults.default_cluster_role, validate=rbac_validation.validate_role,
                          has_status=False, has_generation=False),
        printer=printers.ROLE,
    ),
    Kind(
        _RBAC, "v1", "RoleBinding", "rolebindings", True, rbac.RoleBinding,
        strategy=Strategy(default=defaults.default_role_binding, validate=rbac_validation.validate_role_binding,
                          validate_update=rbac_validation.validate_role_binding_update,
                          has_status=False, has_generation=False),
        printer=printers.ROLE_BINDING,
    ),
    Kind(
        _RBAC, "v1", "ClusterRole", "clusterroles", False, rbac.ClusterRole,
        strategy=Strategy(default=defaults.default_cluster_role, validate=rbac_validation.validate_cluster_role,
                          has_status=False, has_generation=False),
        printer=printers.ROLE,
    ),
    Kind(
        _RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", False, rbac.ClusterRoleBinding,
        strategy=Strategy(default=defaults.default_role_binding, validate=rbac_validation.validate_cluster_role_binding,
                          validate_update=rbac_validation.validate_role_binding_update,
                          has_status=False, has_generation=False),
        printer=printers.ROLE_BINDING,
    ),
    Kind(
        "storage.k8s.io", "v1", "StorageClass", "storageclasses", False, storage.StorageClass, short_names=("sc",),
        strategy=Strategy(default=defaults.default_storage_class, validate=validation.validate_storage_class,
                          validate_update=validation.validate_storage_class_update,
                          has_status=False, has_generation=False),
        printer=printers.STORAGE_CLASS,
    ),
    Kind(
        "scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", False, scheduling.PriorityClass,
        short_names=("pc",),
        strategy=Strategy(default=defaults.default_priority_class, validate=validation.validate_priority_class,
                          validate_update=validation.validate_priority_class_update, has_status=False),
        printer=printers.PRIORITY_CLASS,
    ),
    Kind(
        "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False,
        apiextensions.CustomResourceDefinition, short_names=("crd", "crds"), categories=("api-extensions",),
        subresources=(status("CustomResourceDefinition"),),
        strategy=Strategy(default=defaults.default_custom_resource_definition,
                          validate=validation.validate_custom_resource_definition,
                          validate_update=validation.validate_custom_resource_definition_update),
        printer=printers.CUSTOM_RESOURCE_DEFINITION,
    ),
    _review("authentication.k8s.io", "TokenReview", "tokenreviews", authentication.TokenReview),
    _review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", authentication.SelfSubjectReview),
    _review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", authorization.SubjectAccessReview),
    _review("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews",
            authorization.LocalSubjectAccessReview, namespaced=True),
    _review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews",
            authorization.SelfSubjectAccessReview),
    _review("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews",
            authorization.SelfSubjectRulesReview),
)  # fmt: skip

TOKEN_REQUEST = Kind(
    "authentication.k8s.io", "v1", "TokenRequest", "tokenrequests", True, authentication.TokenRequest, verbs=_CREATE,
    strategy=Strategy(has_status=False, has_generation=False),
)  # fmt: skip
"""The body of serviceaccounts/token; it has no resource of its own."""
