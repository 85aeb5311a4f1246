"""Pods and pod templates. Pure. Upstream: ValidatePodCreate, ValidatePodUpdate, ValidatePodSpec."""

from __future__ import annotations

import copy
import re
from typing import Any

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import (
    Causes,
    check_annotations,
    check_expression,
    check_labels,
    check_selector,
    named,
)
from nsk8s.api.validation.containers import check_containers, check_host_ports
from nsk8s.api.validation.volumes import check_volumes

_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_NODE_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_UPDATABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def validate_pod(pod: Object) -> list[Cause]:
    causes = named(pod)
    check_pod_spec(causes, "spec", pod.get("spec") or {})
    return causes


def validate_new_pod(pod: Object) -> list[Cause]:
    """Beyond validate_pod: what only a running pod may have."""
    causes = Causes()
    if (pod.get("spec") or {}).get("ephemeralContainers"):
        causes.forbidden("spec.ephemeralContainers", "cannot be set on create")
    return causes


def validate_pod_update(new: Object, old: Object) -> list[Cause]:
    """Only images, activeDeadlineSeconds, added tolerations (and scheduling gates taken away) may change."""
    causes = Causes()
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if spec == before:
        return causes
    for key in ("containers", "initContainers"):
        if len(spec.get(key) or []) != len(before.get(key) or []):
            causes.forbidden(f"spec.{key}", "pod updates may not add or remove containers")
    if causes:
        return causes
    _check_deadline(causes, spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"))
    if any(not _kept(t, spec.get("tolerations") or []) for t in before.get("tolerations") or []):
        causes.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
    gates = [g.get("name") for g in before.get("schedulingGates") or []]
    if any(g.get("name") not in gates for g in spec.get("schedulingGates") or []):
        causes.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate")
    if _without_updatable(spec, before) != before:
        causes.forbidden("spec", _UPDATABLE)
    return causes


def _kept(toleration: Object, tolerations: list[Object]) -> bool:
    bare = {k: v for k, v in toleration.items() if k != "tolerationSeconds"}
    return any(bare == {k: v for k, v in t.items() if k != "tolerationSeconds"} for t in tolerations)


def _check_deadline(causes: Causes, new: int | None, old: int | None) -> None:
    if new is None:
        if old is not None:
            causes.invalid("spec.activeDeadlineSeconds", new, "must not update from a positive integer to nil value")
    elif not 0 < new <= 2**31 - 1:
        causes.invalid("spec.activeDeadlineSeconds", new, "must be between 1 and 2147483647, inclusive")
    elif old is not None and new > old:
        causes.invalid("spec.activeDeadlineSeconds", new, f"must be less than or equal to previous value: {old}")


def _without_updatable(spec: Object, before: Object) -> Object:
    """`spec` with everything an update may change put back."""
    out = copy.deepcopy(spec)
    for key in ("containers", "initContainers"):
        for container, was in zip(out.get(key) or [], before.get(key) or [], strict=False):
            container["image"] = was.get("image", "")
    gated = bool(before.get("schedulingGates"))
    changeable = ["activeDeadlineSeconds", "tolerations", "schedulingGates"]
    if gated:
        changeable += ["nodeSelector", "affinity"]
    if before.get("terminationGracePeriodSeconds", 0) < 0 and out.get("terminationGracePeriodSeconds") == 1:
        changeable.append("terminationGracePeriodSeconds")
    for key in changeable:
        if key in before:
            out[key] = before[key]
        else:
            out.pop(key, None)
    return out


def validate_ephemeral_containers_update(new: Object, old: Object) -> list[Cause]:
    """For pods/ephemeralcontainers: containers may be added, none changed or removed."""
    causes = validate_pod(new)
    had = {c.get("name"): c for c in (old.get("spec") or {}).get("ephemeralContainers") or []}
    have = {c.get("name"): c for c in (new.get("spec") or {}).get("ephemeralContainers") or []}
    assert isinstance(causes, Causes)
    for name, container in had.items():
        if name not in have:
            causes.forbidden("spec.ephemeralContainers", f'existing ephemeral containers "{name}" may not be removed')
        elif have[name] != container:
            causes.forbidden("spec.ephemeralContainers", f'existing ephemeral containers "{name}" may not be changed')
    return causes


def check_template(causes: Causes, path: str, template: Object, restart_policies: tuple[str, ...] = ("Always",)) -> None:
    """A PodTemplateSpec of a workload that only allows these restart policies."""
    metadata = template.get("metadata") or {}
    check_labels(causes, f"{path}.metadata.labels", metadata.get("labels"))
    check_annotations(causes, f"{path}.metadata.annotations", metadata.get("annotations"))
    spec = template.get("spec") or {}
    check_pod_spec(causes, f"{path}.spec", spec)
    if spec.get("ephemeralContainers"):
        causes.forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")
    policy = spec.get("restartPolicy")
    if policy in _RESTART_POLICIES and policy not in restart_policies:
        causes.unsupported(f"{path}.spec.restartPolicy", policy, restart_policies)


def check_pod_spec(causes: Causes, path: str, spec: Object) -> None:
    volumes = check_volumes(causes, f"{path}.volumes", spec.get("volumes") or [])
    seen: set[str] = set()
    containers = spec.get("containers") or []
    if not containers:
        causes.required(f"{path}.containers")
    check_containers(causes, f"{path}.containers", containers, volumes, seen)
    check_containers(causes, f"{path}.initContainers", spec.get("initContainers") or [], volumes, seen, kind="init")
    check_containers(
        causes, f"{path}.ephemeralContainers", spec.get("ephemeralContainers") or [], volumes, seen, kind="ephemeral"
    )
    check_host_ports(causes, f"{path}.containers", containers, host_network=bool(spec.get("hostNetwork")))
    causes.choice(f"{path}.restartPolicy", spec.get("restartPolicy"), _RESTART_POLICIES)
    causes.choice(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS_POLICIES)
    _check_dns(causes, path, spec)
    _check_names(causes, path, spec)
    check_labels(causes, f"{path}.nodeSelector", spec.get("nodeSelector"))
    check_tolerations(causes, f"{path}.tolerations", spec.get("tolerations") or [])
    _check_affinity(causes, f"{path}.affinity", spec.get("affinity") or {})
    _check_spread(causes, f"{path}.topologySpreadConstraints", spec.get("topologySpreadConstraints") or [])
    for i, alias in enumerate(spec.get("hostAliases") or []):
        causes.problems(f"{path}.hostAliases[{i}].ip", alias.get("ip", ""), names.ip_problems(alias.get("ip", "")))
        for hostname in alias.get("hostnames") or []:
            causes.problems(f"{path}.hostAliases[{i}].hostnames", hostname, names.subdomain_problems(hostname))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= 2**31 - 1:
        causes.invalid(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    _check_security(causes, path, spec)


def _check_names(causes: Causes, path: str, spec: Object) -> None:
    for key, check in (
        ("nodeName", names.subdomain_problems),
        ("serviceAccountName", names.subdomain_problems),
        ("priorityClassName", names.subdomain_problems),
        ("runtimeClassName", names.subdomain_problems),
        ("hostname", names.label_problems),
        ("subdomain", names.label_problems),
    ):
        if spec.get(key):
            causes.problems(f"{path}.{key}", spec[key], check(spec[key]))
    if not spec.get("schedulerName"):
        causes.required(f"{path}.schedulerName")
    for i, gate in enumerate(spec.get("schedulingGates") or []):
        name = gate.get("name", "")
        causes.problems(f"{path}.schedulingGates[{i}]", name, names.qualified_name_problems(name))


def _check_dns(causes: Causes, path: str, spec: Object) -> None:
    config = spec.get("dnsConfig")
    servers = (config or {}).get("nameservers") or []
    at = f"{path}.dnsConfig"
    if spec.get("dnsPolicy") == "None":
        if config is None:
            causes.required(at, "must provide `dnsConfig` when `dnsPolicy` is None")
        elif not servers:
            causes.required(f"{at}.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None")
    if config is None:
        return
    if len(servers) > 3:
        causes.invalid(f"{at}.nameservers", servers, "must not have more than 3 nameservers")
    for i, server in enumerate(servers):
        causes.problems(f"{at}.nameservers[{i}]", server, names.ip_problems(server))
    searches = config.get("searches") or []
    if len(searches) > 32:
        causes.invalid(f"{at}.searches", searches, "must not have more than 32 search paths")
    for i, search in enumerate(searches):
        if search != ".":
            bare = search.removesuffix(".").replace("_", "-")
            causes.problems(f"{at}.searches[{i}]", search, names.subdomain_problems(bare))
    for i, option in enumerate(config.get("options") or []):
        if not option.get("name"):
            causes.required(f"{at}.options[{i}]", "must not be empty")


def check_tolerations(causes: Causes, path: str, tolerations: list[Object]) -> None:
    for i, toleration in enumerate(tolerations):
        at = f"{path}[{i}]"
        key, operator = toleration.get("key", ""), toleration.get("operator", "")
        effect, value = toleration.get("effect", ""), toleration.get("value", "")
        if key:
            causes.problems(f"{at}.key", key, names.qualified_name_problems(key))
        elif operator != "Exists":
            causes.invalid(f"{at}.operator", operator, "operator must be Exists when `key` is empty, which means "
                           '"match all values and all keys"')  # fmt: skip
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            causes.invalid(f"{at}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
        if operator in ("", "Equal"):
            causes.problems(f"{at}.operator", value, names.label_value_problems(value))
        elif operator == "Exists":
            if value:
                causes.invalid(f"{at}.operator", value, "value must be empty when `operator` is 'Exists'")
        else:
            causes.unsupported(f"{at}.operator", operator, ("Equal", "Exists"))
        if effect and effect not in TAINT_EFFECTS:
            causes.unsupported(f"{at}.effect", effect, TAINT_EFFECTS)


def _check_affinity(causes: Causes, path: str, affinity: Object) -> None:
    node = affinity.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        check_node_selector(causes, f"{path}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution", required)
    for i, term in enumerate(node.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        at = f"{path}.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[{i}]"
        _check_weight(causes, at, term)
        _check_node_term(causes, f"{at}.preference", term.get("preference") or {})
    for kind in ("podAffinity", "podAntiAffinity"):
        one = affinity.get(kind) or {}
        for i, term in enumerate(one.get("requiredDuringSchedulingIgnoredDuringExecution") or []):
            _check_pod_term(causes, f"{path}.{kind}.requiredDuringSchedulingIgnoredDuringExecution[{i}]", term)
        for i, term in enumerate(one.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
            at = f"{path}.{kind}.preferredDuringSchedulingIgnoredDuringExecution[{i}]"
            _check_weight(causes, at, term)
            _check_pod_term(causes, f"{at}.podAffinityTerm", term.get("podAffinityTerm") or {})


def _check_weight(causes: Causes, at: str, term: Object) -> None:
    weight = term.get("weight", 0)
    if not 1 <= weight <= 100:
        causes.invalid(f"{at}.weight", weight, "must be in the range 1-100")


def check_node_selector(causes: Causes, path: str, selector: Object) -> None:
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        causes.required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
    for i, term in enumerate(terms):
        _check_node_term(causes, f"{path}.nodeSelectorTerms[{i}]", term)


def _check_node_term(causes: Causes, path: str, term: Object) -> None:
    for key in ("matchExpressions", "matchFields"):
        for i, expression in enumerate(term.get(key) or []):
            check_expression(causes, f"{path}.{key}[{i}]", expression, _NODE_OPERATORS)


def _check_pod_term(causes: Causes, path: str, term: Object) -> None:
    check_selector(causes, f"{path}.labelSelector", term.get("labelSelector"))
    check_selector(causes, f"{path}.namespaceSelector", term.get("namespaceSelector"))
    key = term.get("topologyKey", "")
    if not key:
        causes.required(f"{path}.topologyKey", "can not be empty")
    else:
        causes.problems(f"{path}.topologyKey", key, names.qualified_name_problems(key))


def _check_spread(causes: Causes, path: str, constraints: list[Object]) -> None:
    for i, constraint in enumerate(constraints):
        at = f"{path}[{i}]"
        if constraint.get("maxSkew", 0) <= 0:
            causes.invalid(f"{at}.maxSkew", constraint.get("maxSkew", 0), "must be greater than zero")
        if not constraint.get("topologyKey"):
            causes.required(f"{at}.topologyKey", "can not be empty")
        causes.choice(f"{at}.whenUnsatisfiable", constraint.get("whenUnsatisfiable"), ("DoNotSchedule", "ScheduleAnyway"))
        check_selector(causes, f"{at}.labelSelector", constraint.get("labelSelector"))


_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")


def _check_security(causes: Causes, path: str, spec: Object) -> None:
    context: dict[str, Any] = spec.get("securityContext") or {}
    at = f"{path}.securityContext"
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        value = context.get(key)
        if value is not None and not 0 <= value <= 2**31 - 1:
            causes.invalid(f"{at}.{key}", value, "must be between 0 and 2147483647, inclusive")
    seen: set[str] = set()
    for i, sysctl in enumerate(context.get("sysctls") or []):
        name = sysctl.get("name", "")
        if not name:
            causes.required(f"{at}.sysctls[{i}].name")
        elif len(name) > 253 or not _SYSCTL.fullmatch(name):
            wanted = f"must have at most 253 characters and match regex ^{_SYSCTL.pattern}$"
            causes.invalid(f"{at}.sysctls[{i}].name", name, wanted)
        elif name in seen:
            causes.duplicate(f"{at}.sysctls[{i}].name", name)
        dotted = name.replace("/", ".")
        if spec.get("hostNetwork") and dotted.startswith("net."):
            causes.invalid(f"{at}.sysctls[{i}].name", name, "may not be specified when 'hostNetwork' is true")
        elif spec.get("hostIPC") and (dotted.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")) or dotted == "kernel.sem"):
            causes.invalid(f"{at}.sysctls[{i}].name", name, "may not be specified when 'hostIPC' is true")
        seen.add(name)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        causes.invalid(f"{path}.shareProcessNamespace", True, "ShareProcessNamespace and HostPID cannot both be enabled")
