"""Services and Endpoints. Pure. Upstream: ValidateService, ValidateServiceUpdate, ValidateEndpoints."""

from __future__ import annotations

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import Causes, check_labels, named
from nsk8s.api.validation.containers import PROTOCOLS, check_port_number_or_name

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
IP_FAMILIES = ("IPv4", "IPv6")
IP_FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
_POLICIES = ("Cluster", "Local")
_AFFINITIES = ("ClientIP", "None")
_MAX_AFFINITY_SECONDS = 86400


def validate_service(obj: Object) -> list[Cause]:
    causes = named(obj, names.dns1035_problems)
    spec = obj.get("spec") or {}
    kind, ports = spec.get("type", ""), spec.get("ports") or []
    headless = spec.get("clusterIP") == "None"
    causes.choice("spec.type", kind, TYPES)
    if not ports and not headless and kind != "ExternalName":
        causes.required("spec.ports")
    _check_type(causes, spec, kind, ports, headless=headless)
    _check_ports(causes, kind, ports)
    check_labels(causes, "spec.selector", spec.get("selector"))
    _check_affinity(causes, spec)
    _check_addresses(causes, spec)
    _check_policies(causes, spec, kind)
    return causes


def _check_type(causes: Causes, spec: Object, kind: str, ports: list[Object], *, headless: bool) -> None:
    if kind == "ExternalName":
        name = spec.get("externalName", "").removesuffix(".")
        if name:
            causes.problems("spec.externalName", name, names.subdomain_problems(name))
        else:
            causes.required("spec.externalName")
        if spec.get("clusterIP"):
            causes.forbidden("spec.clusterIPs[0]", "may not be set when `type` is 'ExternalName'")
    elif kind in ("NodePort", "LoadBalancer") and headless:
        causes.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "LoadBalancer":
        for i, port in enumerate(ports):
            if port.get("port") == 10250:
                causes.invalid(f"spec.ports[{i}]", 10250,
                               "may not expose port 10250 externally since it is used by kubelet")  # fmt: skip
        for i, source in enumerate(spec.get("loadBalancerSourceRanges") or []):
            causes.problems(f"spec.loadBalancerSourceRanges[{i}]", source.strip(), names.cidr_problems(source.strip()))
    elif spec.get("loadBalancerSourceRanges"):
        causes.forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
    if kind == "LoadBalancer" and spec.get("loadBalancerClass") is not None:
        name = spec["loadBalancerClass"]
        causes.problems("spec.loadBalancerClass", name, names.qualified_name_problems(name))
    elif spec.get("loadBalancerClass"):
        causes.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'")
    if kind != "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not None:
        causes.forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'")


def _check_ports(causes: Causes, kind: str, ports: list[Object]) -> None:
    seen_names: set[str] = set()
    seen_ports: set[tuple[str, int]] = set()
    seen_node_ports: set[tuple[str, int]] = set()
    for i, port in enumerate(ports):
        at = f"spec.ports[{i}]"
        name, number, protocol = port.get("name", ""), port.get("port", 0), port.get("protocol", "")
        if not name and len(ports) > 1:
            causes.required(f"{at}.name")
        elif name:
            causes.problems(f"{at}.name", name, names.label_problems(name))
            if name in seen_names:
                causes.duplicate(f"{at}.name", name)
            seen_names.add(name)
        causes.port(f"{at}.port", number)
        causes.choice(f"{at}.protocol", protocol, PROTOCOLS)
        target = port.get("targetPort", 0)
        check_port_number_or_name(causes, f"{at}.targetPort", target)
        if (protocol, number) in seen_ports:
            causes.duplicate(at, {k: v for k, v in port.items() if k in ("port", "protocol")})
        seen_ports.add((protocol, number))
        node_port = port.get("nodePort", 0)
        if node_port and kind not in ("NodePort", "LoadBalancer"):
            causes.forbidden(f"{at}.nodePort", f"may not be used when `type` is '{kind}'")
        elif node_port:
            if (protocol, node_port) in seen_node_ports:
                causes.duplicate(f"{at}.nodePort", node_port)
            seen_node_ports.add((protocol, node_port))


def _check_affinity(causes: Causes, spec: Object) -> None:
    affinity, config = spec.get("sessionAffinity", ""), spec.get("sessionAffinityConfig")
    causes.choice("spec.sessionAffinity", affinity, _AFFINITIES)
    if affinity == "ClientIP":
        seconds = ((config or {}).get("clientIP") or {}).get("timeoutSeconds")
        at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        if seconds is None:
            causes.required(at)
        elif not 0 < seconds <= _MAX_AFFINITY_SECONDS:
            causes.invalid(at, seconds, f"must be greater than 0 and less than {_MAX_AFFINITY_SECONDS}")
    elif affinity == "None" and config is not None:
        causes.forbidden("spec.sessionAffinityConfig", "must not be set when session affinity is None")


def _check_addresses(causes: Causes, spec: Object) -> None:
    _check_families(causes, spec)
    _check_cluster_ips(causes, spec)
    for i, address in enumerate(spec.get("externalIPs") or []):
        at = f"spec.externalIPs[{i}]"
        problems = names.ip_problems(address)
        causes.problems(at, address, problems)
        if not problems:
            _check_reachable(causes, at, address)


def _check_families(causes: Causes, spec: Object) -> None:
    families = spec.get("ipFamilies") or []
    for i, family in enumerate(families):
        if family not in IP_FAMILIES:
            causes.unsupported(f"spec.ipFamilies[{i}]", family, IP_FAMILIES)
        if family in families[:i]:
            causes.duplicate(f"spec.ipFamilies[{i}]", family)
    policy = spec.get("ipFamilyPolicy")
    if policy is not None and policy not in IP_FAMILY_POLICIES:
        causes.unsupported("spec.ipFamilyPolicy", policy, IP_FAMILY_POLICIES)


def _check_cluster_ips(causes: Causes, spec: Object) -> None:
    """At most one of each family, in the order of ipFamilies, the first also as clusterIP. Not for ExternalName.

    Upstream: ValidateServiceClusterIPsRelatedFields.
    """
    if spec.get("type") == "ExternalName":
        return
    families, addresses, single = spec.get("ipFamilies") or [], spec.get("clusterIPs") or [], spec.get("clusterIP") or ""
    if addresses and not single:
        causes.invalid("spec.clusterIPs", addresses, "must be empty when `clusterIP` is not specified")
    elif addresses and addresses[0] != single:
        causes.invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    # A client that knows clusterIP only: the server fills clusterIPs in.
    addresses = addresses or ([single] if single else [])
    count = len(causes)
    for i, address in enumerate(addresses):
        if i or address != "None":
            causes.problems(f"spec.clusterIPs[{i}]", address, names.ip_problems(address))
        elif len(addresses) > 1:
            causes.invalid("spec.clusterIPs", addresses, "'None' must be the first and only value")
    readable = len(causes) == count
    if len(addresses) > 2:
        causes.invalid("spec.clusterIPs", addresses, "may only hold up to 2 values")
    if not readable or addresses == ["None"]:
        return
    if len(addresses) > 1 and len({":" in a for a in addresses}) == 1:
        causes.invalid("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")
    for i, (address, family) in enumerate(zip(addresses, families, strict=False)):
        if family in IP_FAMILIES and (":" in address) != (family == "IPv6"):
            causes.invalid(f"spec.clusterIPs[{i}]", address, f"expected an {family} value as indicated by `ipFamilies[{i}]`")


def _check_reachable(causes: Causes, at: str, address: str) -> None:
    """Upstream: ValidateNonSpecialIP."""
    ip = names.address(address)
    if ip is None:
        return
    if ip.is_unspecified:
        causes.invalid(at, address, "may not be unspecified (0.0.0.0 or ::)")
    if ip.is_loopback:
        causes.invalid(at, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if ip.is_link_local:
        causes.invalid(at, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if ip.is_multicast:
        causes.invalid(at, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def _check_policies(causes: Causes, spec: Object, kind: str) -> None:
    external, internal = spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy")
    facing = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))
    if external is not None:
        if not facing:
            causes.invalid("spec.externalTrafficPolicy", external,
                           "may only be set for externally-accessible services")  # fmt: skip
        elif external not in _POLICIES:
            causes.unsupported("spec.externalTrafficPolicy", external, _POLICIES)
    if internal is not None and internal not in _POLICIES:
        causes.unsupported("spec.internalTrafficPolicy", internal, _POLICIES)
    node_port = spec.get("healthCheckNodePort")
    if node_port and not (kind == "LoadBalancer" and external == "Local"):
        causes.invalid("spec.healthCheckNodePort", node_port, "may only be set when `type` is 'LoadBalancer' and "
                       "`externalTrafficPolicy` is 'Local'")  # fmt: skip
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        causes.unsupported("spec.trafficDistribution", distribution, ("PreferClose", "PreferSameZone", "PreferSameNode"))


def validate_service_update(new: Object, old: Object) -> list[Cause]:
    """What a Service was given stays: only a second family comes and goes (unless it becomes or was an ExternalName).

    Upstream: validateUpgradeDowngradeClusterIPs, validateUpgradeDowngradeIPFamilies.
    """
    causes = Causes()
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if spec.get("type") == before.get("type") == "LoadBalancer":
        given = spec.get("loadBalancerClass")
        if given != before.get("loadBalancerClass"):
            causes.invalid("spec.loadBalancerClass", given, "may not change once set")
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return causes
    check, checked = spec.get("healthCheckNodePort"), before.get("healthCheckNodePort")
    if check and checked and check != checked:
        causes.invalid("spec.healthCheckNodePort", check, "field is immutable")
    headless, was_headless = (s.get("clusterIP") == "None" for s in (spec, before))
    if headless and was_headless:  # its families are free
        return causes
    _check_kept(causes, spec, before, "clusterIPs", "secondary clusterIP", "primary clusterIP can not be unset")
    if headless == was_headless:
        _check_kept(causes, spec, before, "ipFamilies", "secondary ipFamily", "primary ipFamily can not be unset")
    return causes


def _check_kept(causes: Causes, spec: Object, before: Object, field: str, secondary: str, unset: str) -> None:
    """The first of `field` stays, and so does the second, which may be added, and taken away by policy SingleStack."""
    have, wanted = before.get(field) or [], spec.get(field) or []
    if have and not wanted:
        causes.invalid(f"spec.{field}[0]", wanted, unset)
    for i, (kept, given) in enumerate(zip(have, wanted, strict=False)):
        if kept != given:
            causes.invalid(f"spec.{field}[{i if field == 'clusterIPs' else 0}]", wanted, "may not change once set")
    if len(have) > len(wanted) == 1 and spec.get("ipFamilyPolicy") != "SingleStack":
        problem = f"must be set to 'SingleStack' when releasing the {secondary}"
        causes.invalid("spec.ipFamilyPolicy", spec.get("ipFamilyPolicy"), problem)


def validate_endpoints(obj: Object) -> list[Cause]:
    causes = named(obj)
    for i, subset in enumerate(obj.get("subsets") or []):
        at = f"subsets[{i}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            causes.required(at, "must specify `addresses` or `notReadyAddresses`")
        for key in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(key) or []):
                _check_endpoint_address(causes, f"{at}.{key}[{j}]", address)
        ports = subset.get("ports") or []
        for j, port in enumerate(ports):
            where = f"{at}.ports[{j}]"
            if port.get("name"):
                causes.problems(f"{where}.name", port["name"], names.label_problems(port["name"]))
            elif len(ports) > 1:
                causes.required(f"{where}.name")
            causes.port(f"{where}.port", port.get("port", 0))
            causes.choice(f"{where}.protocol", port.get("protocol"), PROTOCOLS)
    return causes


def _check_endpoint_address(causes: Causes, at: str, address: Object) -> None:
    ip = address.get("ip", "")
    problems = names.ip_problems(ip)
    causes.problems(f"{at}.ip", ip, problems)
    if not problems:
        _check_reachable(causes, f"{at}.ip", ip)
    if address.get("hostname"):
        causes.problems(f"{at}.hostname", address["hostname"], names.label_problems(address["hostname"]))
    if address.get("nodeName"):
        causes.problems(f"{at}.nodeName", address["nodeName"], names.subdomain_problems(address["nodeName"]))
