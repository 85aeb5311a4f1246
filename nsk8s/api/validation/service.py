"""Services and Endpoints. Pure. Upstream: ValidateService, ValidateServiceUpdate, ValidateEndpoints."""

from __future__ import annotations

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import IMMUTABLE, Causes, check_labels, named
from nsk8s.api.validation.containers import PROTOCOLS, check_port_number_or_name

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
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
    if kind != "LoadBalancer" and spec.get("loadBalancerClass"):
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
    addresses = spec.get("clusterIPs") or []
    single = spec.get("clusterIP", "")
    for i, address in enumerate(addresses):
        if address == "None":
            if i:
                causes.invalid(f"spec.clusterIPs[{i}]", "None", "may not be set to 'None' with other addresses")
        else:
            causes.problems(f"spec.clusterIPs[{i}]", address, names.ip_problems(address))
    if addresses and addresses[0] != single:
        causes.invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    if not addresses and single and single != "None":
        causes.problems("spec.clusterIPs[0]", single, names.ip_problems(single))
    for i, address in enumerate(spec.get("externalIPs") or []):
        at = f"spec.externalIPs[{i}]"
        problems = names.ip_problems(address)
        causes.problems(at, address, problems)
        if not problems:
            _check_reachable(causes, at, address)
    families = spec.get("ipFamilies") or []
    for i, family in enumerate(families):
        if family not in ("IPv4", "IPv6"):
            causes.unsupported(f"spec.ipFamilies[{i}]", family, ("IPv4", "IPv6"))
        elif family in families[:i]:
            causes.duplicate(f"spec.ipFamilies[{i}]", family)
    policy = spec.get("ipFamilyPolicy")
    if policy is not None and policy not in ("SingleStack", "PreferDualStack", "RequireDualStack"):
        causes.invalid("spec.ipFamilyPolicy", policy, 'service is invalid: supported values: "PreferDualStack", '
                       '"RequireDualStack", "SingleStack"')  # fmt: skip


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
    """A cluster address, once given, stays (unless the Service becomes or was an ExternalName)."""
    causes = Causes()
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return causes
    have, wanted = before.get("clusterIPs") or [], spec.get("clusterIPs") or []
    if have and wanted and have[0] != wanted[0]:
        causes.invalid("spec.clusterIPs[0]", wanted, "may not change once set")
    if before.get("clusterIP") and spec.get("clusterIP") != before["clusterIP"]:
        causes.invalid("spec.clusterIP", spec.get("clusterIP", ""), IMMUTABLE)
    if have and not wanted and before.get("clusterIP"):
        causes.invalid("spec.clusterIPs[0]", wanted, "primary clusterIP can not be unset")
    check, checked = spec.get("healthCheckNodePort"), before.get("healthCheckNodePort")
    if check and checked and check != checked:
        causes.invalid("spec.healthCheckNodePort", check, "field is immutable")
    if before.get("ipFamilies") and spec.get("ipFamilies") and before["ipFamilies"][0] != spec["ipFamilies"][0]:
        causes.invalid("spec.ipFamilies[0]", spec["ipFamilies"][0], "may not change once set")
    return causes


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
