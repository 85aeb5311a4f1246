"""discovery, networking, coordination, storage, scheduling, apiextensions. Pure. Upstream: pkg/apis/*/validation."""

from __future__ import annotations

import ipaddress
import re

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import IMMUTABLE, Causes, check_labels, check_selector, named
from nsk8s.api.validation.containers import PROTOCOLS


def validate_endpoint_slice(obj: Object) -> list[Cause]:
    causes = named(obj)
    family = obj.get("addressType", "")
    causes.choice("addressType", family, ("IPv4", "IPv6", "FQDN"))
    endpoints, ports = obj.get("endpoints") or [], obj.get("ports") or []
    if len(endpoints) > 1000:
        causes.too_many("endpoints", len(endpoints), 1000)
    for i, endpoint in enumerate(endpoints):
        at = f"endpoints[{i}]"
        addresses = endpoint.get("addresses") or []
        if not addresses:
            causes.required(f"{at}.addresses", "must contain at least 1 address")
        elif len(addresses) > 100:
            causes.too_many(f"{at}.addresses", len(addresses), 100)
        for j, address in enumerate(addresses):
            _check_address(causes, f"{at}.addresses[{j}]", address, family)
        if endpoint.get("hostname"):
            causes.problems(f"{at}.hostname", endpoint["hostname"], names.label_problems(endpoint["hostname"]))
        if endpoint.get("nodeName"):
            causes.problems(f"{at}.nodeName", endpoint["nodeName"], names.subdomain_problems(endpoint["nodeName"]))
        check_labels(causes, f"{at}.deprecatedTopology", endpoint.get("deprecatedTopology"))
    if len(ports) > 100:
        causes.too_many("ports", len(ports), 100)
    seen: set[str] = set()
    for i, port in enumerate(ports):
        name = port.get("name") or ""
        if name:
            causes.problems(f"ports[{i}].name", name, names.label_problems(name))
        if name in seen:
            causes.duplicate(f"ports[{i}].name", name)
        seen.add(name)
        causes.choice(f"ports[{i}].protocol", port.get("protocol"), PROTOCOLS)
        if port.get("port") is not None:
            causes.port(f"ports[{i}].port", port["port"])
    return causes


def _check_address(causes: Causes, at: str, address: str, family: str) -> None:
    if family == "FQDN":
        causes.problems(at, address, names.subdomain_problems(address))
        return
    problems = names.ip_problems(address)
    causes.problems(at, address, problems)
    if not problems and family in ("IPv4", "IPv6") and ipaddress.ip_address(address).version != int(family[-1]):
        causes.invalid(at, address, f"must be an {family} address")


def validate_endpoint_slice_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    causes.immutable("addressType", new.get("addressType"), old.get("addressType"))
    return causes


def validate_ingress(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    rules, default = spec.get("rules") or [], spec.get("defaultBackend")
    if not rules and default is None:
        causes.invalid("spec", rules, "either `defaultBackend` or `rules` must be specified")
    if default is not None:
        _check_backend(causes, "spec.defaultBackend", default)
    for i, rule in enumerate(rules):
        at = f"spec.rules[{i}]"
        host = rule.get("host", "")
        if host:
            if not names.ip_problems(host):
                causes.invalid(f"{at}.host", host, "must be a DNS name, not an IP address")
            elif "*" in host:
                causes.problems(f"{at}.host", host, names.wildcard_subdomain_problems(host))
            else:
                causes.problems(f"{at}.host", host, names.subdomain_problems(host))
        if rule.get("http") is None:
            continue
        paths = rule["http"].get("paths") or []
        if not paths:
            causes.required(f"{at}.http.paths")
        for j, path in enumerate(paths):
            _check_path(causes, f"{at}.http.paths[{j}]", path)
    name = spec.get("ingressClassName")
    if name is not None:
        causes.problems("spec.ingressClassName", name, names.subdomain_problems(name))
    for i, tls in enumerate(spec.get("tls") or []):
        for j, host in enumerate(tls.get("hosts") or []):
            check = names.wildcard_subdomain_problems if "*" in host else names.subdomain_problems
            causes.problems(f"spec.tls[{i}].hosts[{j}]", host, check(host))
    return causes


def _check_path(causes: Causes, at: str, path: Object) -> None:
    kind, text = path.get("pathType"), path.get("path", "")
    if kind is None:
        causes.required(f"{at}.pathType", "pathType must be specified")
    elif kind not in ("Exact", "Prefix", "ImplementationSpecific"):
        causes.unsupported(f"{at}.pathType", kind, ("Exact", "ImplementationSpecific", "Prefix"))
    elif kind != "ImplementationSpecific" or text:
        if not text.startswith("/"):
            causes.invalid(f"{at}.path", text, "must be an absolute path")
        elif kind != "ImplementationSpecific":
            for sequence in ("//", "/./", "/../", "%2f", "%2F"):
                if sequence in text:
                    causes.invalid(f"{at}.path", text, f"must not contain '{sequence}'")
            for suffix in ("/..", "/."):
                if text.endswith(suffix):
                    causes.invalid(f"{at}.path", text, f"cannot end with '{suffix}'")
    _check_backend(causes, f"{at}.backend", path.get("backend") or {})


def _check_backend(causes: Causes, at: str, backend: Object) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        causes.invalid(at, "", "cannot set both resource and service backends")
        return
    if resource is not None:
        for key in ("kind", "name"):
            if not resource.get(key):
                causes.required(f"{at}.resource.{key}")
        return
    if service is None:
        causes.required(at, "resource or service backend is required")
        return
    name, port = service.get("name", ""), service.get("port") or {}
    if not name:
        causes.required(f"{at}.service.name")
    else:
        causes.problems(f"{at}.service.name", name, names.dns1035_problems(name))
    if port.get("name") and port.get("number"):
        causes.invalid(f"{at}.service.port", "", "cannot set both port name & port number")
    elif port.get("name"):
        causes.problems(f"{at}.service.port.name", port["name"], names.port_name_problems(port["name"]))
    elif port.get("number"):
        causes.port(f"{at}.service.port.number", port["number"])
    else:
        causes.required(f"{at}.service.port", "port name or number is required")


def validate_ingress_class(obj: Object) -> list[Cause]:
    causes = named(obj)
    controller = (obj.get("spec") or {}).get("controller", "")
    if not controller:
        causes.required("spec.controller")
    elif "/" not in controller:
        causes.invalid("spec.controller", controller, "must be a domain-prefixed path (such as \"acme.io/foo\")")
    return causes


def validate_ingress_class_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    causes.immutable("spec.controller", (new.get("spec") or {}).get("controller"),
                     (old.get("spec") or {}).get("controller"))  # fmt: skip
    return causes


def validate_service_cidr(obj: Object) -> list[Cause]:
    causes = named(obj)
    cidrs = (obj.get("spec") or {}).get("cidrs") or []
    if not cidrs:
        causes.required("spec.cidrs", "at least one CIDR required")
    elif len(cidrs) > 2:
        causes.invalid("spec.cidrs", cidrs, "may only hold up to 2 values")
    elif len(cidrs) == 2 and (":" in cidrs[0]) == (":" in cidrs[1]):
        example = "i.e 192.168.0.0/24 and 2001:db8::/64"
        causes.invalid("spec.cidrs", cidrs, f"may specify no more than one IP for each IP family, {example}")
    else:
        for i, cidr in enumerate(cidrs):
            problems = names.canonical_cidr_problems(cidr)
            causes.problems(f"spec.cidrs[{i}]", cidr, problems)
            if not problems and ":" in cidr and int(cidr.rpartition("/")[2]) < SHORTEST_SERVICE_PREFIX6:
                causes.invalid(f"spec.cidrs[{i}]", cidr, f"the prefix must be /{SHORTEST_SERVICE_PREFIX6} or longer")
    return causes


SHORTEST_SERVICE_PREFIX6 = 64
"""Upstream takes such a ServiceCIDR and never allocates from it, which its log tells."""


def validate_service_cidr_update(new: Object, old: Object) -> list[Cause]:
    """Nothing may change, but a single range may gain one of the other family."""
    causes = Causes()
    after, before = ((o.get("spec") or {}).get("cidrs") or [] for o in (new, old))
    if not (len(before) == 1 and len(after) == 2 and after[:1] == before):
        causes.immutable("spec.cidrs", after, before)
    return causes


def validate_ip_address(obj: Object) -> list[Cause]:
    causes = named(obj, names.canonical_ip_problems)
    ref = (obj.get("spec") or {}).get("parentRef")
    if not ref:
        causes.required("spec.parentRef")
        return causes
    if ref.get("group"):
        causes.problems("spec.parentRef.group", ref["group"], names.subdomain_problems(ref["group"]))
    for key in ("resource", "name"):
        if not ref.get(key):
            causes.required(f"spec.parentRef.{key}")
    for key in ("resource", "name", "namespace"):
        if ref.get(key):
            causes.problems(f"spec.parentRef.{key}", ref[key], names.path_segment_problems(ref[key]))
    return causes


def validate_ip_address_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    causes.immutable("spec.parentRef", (new.get("spec") or {}).get("parentRef"), (old.get("spec") or {}).get("parentRef"))
    return causes


def validate_network_policy(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    check_selector(causes, "spec.podSelector", spec.get("podSelector") or {})
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or []):
            at = f"spec.{direction}[{i}]"
            for j, port in enumerate(rule.get("ports") or []):
                _check_policy_port(causes, f"{at}.ports[{j}]", port)
            for j, peer in enumerate(rule.get(peers) or []):
                _check_peer(causes, f"{at}.{peers}[{j}]", peer)
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        causes.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
    for i, one in enumerate(types):
        if one not in ("Ingress", "Egress"):
            causes.unsupported(f"spec.policyTypes[{i}]", one, ("Egress", "Ingress"))
    return causes


def _check_policy_port(causes: Causes, at: str, port: Object) -> None:
    if port.get("protocol") not in PROTOCOLS:
        causes.unsupported(f"{at}.protocol", port.get("protocol"), PROTOCOLS)
    number, end = port.get("port"), port.get("endPort")
    if isinstance(number, int):
        causes.port(f"{at}.port", number)
        if end is not None and end < number:
            causes.invalid(f"{at}.endPort", end, "must be greater than or equal to `port`")
    elif isinstance(number, str):
        causes.problems(f"{at}.port", number, names.port_name_problems(number))
        if end is not None:
            causes.invalid(f"{at}.endPort", end, "may not be specified when `port` is non-numeric")
    elif end is not None:
        causes.invalid(f"{at}.endPort", end, "may not be specified when `port` is not specified")
    if end is not None:
        causes.port(f"{at}.endPort", end)


def _check_peer(causes: Causes, at: str, peer: Object) -> None:
    if not peer:
        causes.required(at, "must specify a peer")
    if "ipBlock" in peer and len(peer) > 1:
        causes.forbidden(at, "may not specify both ipBlock and another peer")
    for key in ("podSelector", "namespaceSelector"):
        check_selector(causes, f"{at}.{key}", peer.get(key))
    block = peer.get("ipBlock")
    if block is None:
        return
    cidr = block.get("cidr", "")
    if not cidr:
        causes.required(f"{at}.ipBlock.cidr")
        return
    problems = names.cidr_problems(cidr)
    causes.problems(f"{at}.ipBlock.cidr", cidr, problems)
    for i, hole in enumerate(block.get("except") or []):
        where = f"{at}.ipBlock.except[{i}]"
        wrong = names.cidr_problems(hole)
        causes.problems(where, hole, wrong)
        if problems or wrong:
            continue
        outer, inner = ipaddress.ip_network(cidr, strict=False), ipaddress.ip_network(hole, strict=False)
        if outer.version != inner.version or outer == inner or not _contains(cidr, hole):
            causes.invalid(where, hole, f"must be a strict subset of `cidr`: {cidr}")


def _contains(outer: str, inner: str) -> bool:
    big, small = ipaddress.ip_network(outer, strict=False), ipaddress.ip_network(inner, strict=False)
    return big.prefixlen < small.prefixlen and small.network_address in big


def validate_lease(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        causes.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    causes.non_negative("spec.leaseTransitions", spec.get("leaseTransitions"))
    return causes


def validate_storage_class(obj: Object) -> list[Cause]:
    causes = named(obj)
    provisioner = obj.get("provisioner", "")
    if not provisioner:
        causes.required("provisioner", provisioner)
    else:
        causes.problems("provisioner", provisioner, names.qualified_name_problems(provisioner.lower()))
    if obj.get("reclaimPolicy") not in ("Delete", "Retain"):
        causes.unsupported("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"))
    causes.choice("volumeBindingMode", obj.get("volumeBindingMode"), ("Immediate", "WaitForFirstConsumer"))
    return causes


def validate_storage_class_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        causes.forbidden("parameters", "updates to parameters are forbidden.")
    if new.get("provisioner") != old.get("provisioner"):
        causes.forbidden("provisioner", "updates to provisioner are forbidden.")
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        causes.forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden.")
    causes.immutable("volumeBindingMode", new.get("volumeBindingMode"), old.get("volumeBindingMode"))
    return causes


_HIGHEST_USER_PRIORITY = 1_000_000_000
_SYSTEM_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def validate_priority_class(obj: Object) -> list[Cause]:
    causes = named(obj)
    name, value = str(obj["metadata"].get("name", "")), obj.get("value", 0)
    if name.startswith("system-"):
        if _SYSTEM_PRIORITIES.get(name) != value:
            causes.forbidden("metadata.name", "priority class names with 'system-' prefix are reserved for system use only. "
                             f"error: {name} is not a known system priority class")  # fmt: skip
    elif value > _HIGHEST_USER_PRIORITY:
        causes.forbidden("value", f"maximum allowed value of a user defined priority is {_HIGHEST_USER_PRIORITY}")
    if obj.get("preemptionPolicy") not in ("PreemptLowerPriority", "Never"):
        causes.unsupported("preemptionPolicy", obj.get("preemptionPolicy"), ("Never", "PreemptLowerPriority"))
    return causes


def validate_priority_class_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    if new.get("value", 0) != old.get("value", 0):
        causes.forbidden("value", "may not be changed in an update.")
    if new.get("preemptionPolicy") != old.get("preemptionPolicy"):
        causes.invalid("preemptionPolicy", new.get("preemptionPolicy"), IMMUTABLE)
    return causes


_VERSION_NAME = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")


def validate_custom_resource_definition(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    group, kinds, versions = spec.get("group", ""), spec.get("names") or {}, spec.get("versions") or []
    wanted = f"{kinds.get('plural', '')}.{group}"
    name = str(obj["metadata"].get("name", ""))
    if name != wanted:
        causes.invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
    if not group:
        causes.required("spec.group")
    else:
        causes.problems("spec.group", group, names.subdomain_problems(group))
        if "." not in group:
            causes.invalid("spec.group", group, "should be a domain with at least one dot")
    causes.choice("spec.scope", spec.get("scope", ""), ("Cluster", "Namespaced"))
    _check_crd_names(causes, "spec.names", kinds)
    if not versions:
        causes.required("spec.versions", "must specify at least one version")
    stored, seen = 0, set()
    for i, version in enumerate(versions):
        at = f"spec.versions[{i}]"
        text = version.get("name", "")
        if not _VERSION_NAME.fullmatch(text):
            causes.invalid(f"{at}.name", text, names.DNS1035_LABEL_MESSAGE)
        if text in seen:
            causes.invalid("spec.versions", text, "must contain unique version names")
        seen.add(text)
        stored += bool(version.get("storage"))
        _check_crd_schema(causes, f"{at}.schema", version.get("schema"))
        for j, column in enumerate(version.get("additionalPrinterColumns") or []):
            _check_crd_column(causes, f"{at}.additionalPrinterColumns[{j}]", column)
    if versions and stored != 1:
        causes.invalid("spec.versions", [v.get("name", "") for v in versions],
                       "must have exactly one version marked as storage version")  # fmt: skip
    if (spec.get("conversion") or {}).get("strategy") == "Webhook":
        causes.unsupported("spec.conversion.strategy", "Webhook", ("None",))
    return causes


def _check_crd_names(causes: Causes, at: str, kinds: Object) -> None:
    for key in ("plural", "singular"):
        if kinds.get(key):
            causes.problems(f"{at}.{key}", kinds[key], names.dns1035_problems(kinds[key]))
        elif key == "plural":
            causes.required(f"{at}.plural")
    for key in ("kind", "listKind"):
        if kinds.get(key):
            causes.problems(f"{at}.{key}", kinds[key], names.dns1035_problems(kinds[key].lower()))
        else:
            causes.required(f"{at}.{key}")
    if kinds.get("kind") and kinds.get("kind") == kinds.get("listKind"):
        causes.invalid(f"{at}.listKind", kinds["listKind"], "kind and listKind may not be the same")
    for i, short in enumerate(kinds.get("shortNames") or []):
        causes.problems(f"{at}.shortNames[{i}]", short, names.dns1035_problems(short))


def _check_crd_schema(causes: Causes, at: str, schema: Object | None) -> None:
    root = (schema or {}).get("openAPIV3Schema")
    if root is None:
        causes.required(f"{at}.openAPIV3Schema", "schemas are required")
    elif root.get("type") != "object":
        if not root.get("type"):
            causes.required(f"{at}.openAPIV3Schema.type", "must not be empty at the root")
        else:
            causes.invalid(f"{at}.openAPIV3Schema.type", root["type"], "must be object at the root")


def _check_crd_column(causes: Causes, at: str, column: Object) -> None:
    if not column.get("name"):
        causes.required(f"{at}.name")
    if column.get("type") not in ("integer", "number", "string", "boolean", "date"):
        causes.unsupported(f"{at}.type", column.get("type", ""), ("integer", "number", "string", "boolean", "date"))
    path = column.get("jsonPath", "")
    if not path:
        causes.required(f"{at}.JSONPath")
    elif not path.startswith("."):
        causes.invalid(f"{at}.JSONPath", path, "must be a simple json path starting with .")


def validate_custom_resource_definition_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    for key in ("group", "scope"):
        causes.immutable(f"spec.{key}", spec.get(key), before.get(key))
    for key in ("kind", "plural"):
        causes.immutable(f"spec.names.{key}", (spec.get("names") or {}).get(key), (before.get("names") or {}).get(key))
    return causes
