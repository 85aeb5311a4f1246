"""Tables of the small groups: discovery, networking, coordination, rbac, storage, scheduling, apiextensions. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsk8s.api.meta import Object
from nsk8s.api.printers.common import (
    NONE,
    age_of,
    first_three,
    name_of,
    printer,
    selector_text,
    spec_of,
    status_of,
)
from nsk8s.api.printers.core import ingress_addresses


def _endpoint_slice(obj: Object, now: datetime) -> list[Any]:
    ports = [str(p["port"]) if p.get("port") is not None else "*" for p in obj.get("ports") or []]
    addresses = [a for e in obj.get("endpoints") or [] for a in e.get("addresses") or []]
    return [
        name_of(obj),
        obj.get("addressType", ""),
        first_three(ports, "<unset>"),
        first_three(addresses, "<unset>"),
        age_of(obj, now),
    ]


def _ingress(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    hosts = [r["host"] for r in spec.get("rules") or [] if r.get("host")]
    return [
        name_of(obj),
        spec.get("ingressClassName") or NONE,
        first_three(hosts, "*"),
        ",".join(ingress_addresses(status_of(obj).get("loadBalancer"))),
        "80, 443" if spec.get("tls") else "80",
        age_of(obj, now),
    ]


def _ingress_class(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    ref = spec.get("parameters")
    parameters = NONE
    if ref:
        group = f".{ref['apiGroup']}" if ref.get("apiGroup") else ""
        parameters = f"{ref.get('kind', '')}{group}/{ref.get('name', '')}"
    return [name_of(obj), spec.get("controller", ""), parameters, age_of(obj, now)]


def _service_cidr(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), ",".join(spec_of(obj).get("cidrs") or []), age_of(obj, now)]


def _ip_address(obj: Object, now: datetime) -> list[Any]:
    ref = spec_of(obj).get("parentRef")
    if not ref:
        return [name_of(obj), NONE, age_of(obj, now)]
    resource = f"{ref.get('resource', '')}.{ref['group']}" if ref.get("group") else ref.get("resource", "")
    return [name_of(obj), "/".join(p for p in (resource, ref.get("namespace"), ref.get("name")) if p), age_of(obj, now)]


def _network_policy(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), selector_text(spec_of(obj).get("podSelector") or {}), age_of(obj, now)]


def _lease(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), spec_of(obj).get("holderIdentity", ""), age_of(obj, now)]


def _role(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), obj["metadata"].get("creationTimestamp", "")]


def _role_binding(obj: Object, now: datetime) -> list[Any]:
    ref = obj.get("roleRef") or {}
    users, groups, accounts = [], [], []
    for subject in obj.get("subjects") or []:
        match subject.get("kind"):
            case "User":
                users.append(subject.get("name", ""))
            case "Group":
                groups.append(subject.get("name", ""))
            case "ServiceAccount":
                accounts.append(f"{subject.get('namespace', '')}/{subject.get('name', '')}")
    return [
        name_of(obj),
        f"{ref.get('kind', '')}/{ref.get('name', '')}",
        age_of(obj, now),
        ", ".join(users),
        ", ".join(groups),
        ", ".join(accounts),
    ]


def _storage_class(obj: Object, now: datetime) -> list[Any]:
    default = (obj["metadata"].get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true"
    return [
        name_of(obj) + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        bool(obj.get("allowVolumeExpansion")),
        age_of(obj, now),
    ]


def _priority_class(obj: Object, now: datetime) -> list[Any]:
    return [
        name_of(obj),
        obj.get("value", 0),
        bool(obj.get("globalDefault")),
        age_of(obj, now),
        obj.get("preemptionPolicy", ""),
    ]


def _custom_resource_definition(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), obj["metadata"].get("creationTimestamp", "")]


ENDPOINT_SLICE = printer("Name | AddressType | Ports | Endpoints | Age", _endpoint_slice)
INGRESS = printer("Name | Class | Hosts | Address | Ports | Age", _ingress)
INGRESS_CLASS = printer("Name | Controller | Parameters | Age", _ingress_class)
SERVICE_CIDR = printer("Name | CIDRs | Age", _service_cidr)
IP_ADDRESS = printer("Name | ParentRef | Age", _ip_address)
NETWORK_POLICY = printer("Name | Pod-Selector | Age", _network_policy)
LEASE = printer("Name | Holder | Age", _lease)
ROLE = printer("Name | Created At:date", _role)
ROLE_BINDING = printer("Name | Role | Age | *Users | *Groups | *ServiceAccounts", _role_binding)
STORAGE_CLASS = printer(
    "Name | Provisioner | ReclaimPolicy | VolumeBindingMode | AllowVolumeExpansion | Age", _storage_class
)
PRIORITY_CLASS = printer(
    "Name | Value:integer | Global-Default:boolean | Age | PreemptionPolicy", _priority_class
)
CUSTOM_RESOURCE_DEFINITION = printer("Name | Created At:date", _custom_resource_definition)
