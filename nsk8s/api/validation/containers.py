"""Containers: ports, environment, resources, probes, hooks. Pure. Upstream: validateContainers and what it calls."""

from __future__ import annotations

from typing import Any

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.validation.common import NON_NEGATIVE, Causes, quantity
from nsk8s.api.validation.volumes import check_mounts

PROTOCOLS = ("TCP", "UDP", "SCTP")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_STANDARD = ("cpu", "memory", "ephemeral-storage")
_FIELD_PATHS = frozenset(
    ("metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations", "spec.nodeName",
     "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
)  # fmt: skip
_RESOURCE_FIELDS = ("limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu",
                    "requests.ephemeral-storage", "requests.memory")  # fmt: skip


def check_containers(
    causes: Causes, path: str, containers: list[Object], volumes: set[str], seen: set[str], *, kind: str = ""
) -> None:
    """`kind` is "" or "init" or "ephemeral"; `seen` are the names taken so far in the pod."""
    for i, container in enumerate(containers):
        at = f"{path}[{i}]"
        name = container.get("name", "")
        if not name:
            causes.required(f"{at}.name")
        else:
            causes.problems(f"{at}.name", name, names.label_problems(name))
            if name in seen:
                causes.duplicate(f"{at}.name", name)
            seen.add(name)
        _check_container(causes, at, container, volumes, kind)


def _check_container(causes: Causes, at: str, container: Object, volumes: set[str], kind: str) -> None:
    image = container.get("image", "")
    if not image:
        causes.required(f"{at}.image")
    elif image != image.strip():
        causes.invalid(f"{at}.image", image, "must not have leading or trailing whitespace")
    if container.get("imagePullPolicy") not in _PULL_POLICIES:
        causes.choice(f"{at}.imagePullPolicy", container.get("imagePullPolicy"), _PULL_POLICIES)
    if container.get("terminationMessagePolicy") not in ("File", "FallbackToLogsOnError"):
        causes.choice(f"{at}.terminationMessagePolicy", container.get("terminationMessagePolicy"),
                      ("FallbackToLogsOnError", "File"))  # fmt: skip
    check_ports(causes, f"{at}.ports", container.get("ports") or [])
    _check_env(causes, at, container)
    check_mounts(causes, f"{at}.volumeMounts", container.get("volumeMounts") or [], volumes)
    check_resources(causes, f"{at}.resources", container.get("resources") or {})
    policy = container.get("restartPolicy")
    sidecar = kind == "init" and policy == "Always"
    if policy is not None and not sidecar:
        if kind == "init":
            causes.unsupported(f"{at}.restartPolicy", policy, ("Always",))
        else:
            causes.forbidden(f"{at}.restartPolicy", "may not be set for non-init containers")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe) is None:
            continue
        if kind == "ephemeral":
            causes.forbidden(f"{at}.{probe}", "cannot be set for an Ephemeral Container")
        elif kind == "init" and not sidecar:
            causes.forbidden(f"{at}.{probe}", "may not be set for init containers without restartPolicy=Always")
        else:
            _check_probe(causes, f"{at}.{probe}", container[probe], once=probe != "readinessProbe")
    if container.get("lifecycle") is not None:
        if kind == "ephemeral":
            causes.forbidden(f"{at}.lifecycle", "cannot be set for an Ephemeral Container")
        elif kind == "init" and not sidecar:
            causes.forbidden(f"{at}.lifecycle", "may not be set for init containers without restartPolicy=Always")
        for hook in ("postStart", "preStop"):
            if container["lifecycle"].get(hook) is not None:
                _check_handler(causes, f"{at}.lifecycle.{hook}", container["lifecycle"][hook])
    _check_security(causes, f"{at}.securityContext", container.get("securityContext") or {})


def check_ports(causes: Causes, path: str, ports: list[Object]) -> None:
    seen: set[str] = set()
    for i, port in enumerate(ports):
        at = f"{path}[{i}]"
        name = port.get("name", "")
        if name:
            problems = names.port_name_problems(name)
            causes.problems(f"{at}.name", name, problems)
            if not problems:
                if name in seen:
                    causes.duplicate(f"{at}.name", name)
                seen.add(name)
        if not port.get("containerPort"):
            causes.required(f"{at}.containerPort")
        else:
            causes.port(f"{at}.containerPort", port["containerPort"])
        if port.get("hostPort"):
            causes.port(f"{at}.hostPort", port["hostPort"])
        if port.get("hostIP"):
            causes.problems(f"{at}.hostIP", port["hostIP"], names.ip_problems(port["hostIP"]))
        causes.choice(f"{at}.protocol", port.get("protocol", ""), PROTOCOLS)


def check_host_ports(causes: Causes, path: str, containers: list[Object], *, host_network: bool) -> None:
    """One host port serves one container port only, and on the host's network both are the same."""
    taken: set[str] = set()
    for i, container in enumerate(containers):
        for j, port in enumerate(container.get("ports") or []):
            at = f"{path}[{i}].ports[{j}]"
            host_port = port.get("hostPort")
            if host_network and host_port != port.get("containerPort"):
                causes.invalid(f"{at}.containerPort", port.get("containerPort"),
                               "must match `hostPort` when `hostNetwork` is true")  # fmt: skip
            if not host_port:
                continue
            key = f"{port.get('protocol', '')}/{port.get('hostIP', '')}/{host_port}"
            if key in taken:
                causes.duplicate(f"{at}.hostPort", key)
            taken.add(key)


def _check_env(causes: Causes, at: str, container: Object) -> None:
    for i, variable in enumerate(container.get("env") or []):
        where = f"{at}.env[{i}]"
        name = variable.get("name", "")
        if not name:
            causes.required(f"{where}.name")
        else:
            causes.problems(f"{where}.name", name, names.env_name_problems(name))
        source = variable.get("valueFrom")
        if source is not None:
            _check_value_from(causes, f"{where}.valueFrom", source, variable.get("value", ""))
    for i, source in enumerate(container.get("envFrom") or []):
        where = f"{at}.envFrom[{i}]"
        prefix = source.get("prefix", "")
        if prefix:
            causes.problems(f"{where}.prefix", prefix, names.env_name_problems(prefix))
        present = [k for k in ("configMapRef", "secretRef") if k in source]
        if not present:
            causes.invalid(where, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(present) > 1:
            causes.invalid(where, "", "may not have more than one field specified at a time")
        for key in present:
            if not source[key].get("name"):
                causes.required(f"{where}.{key}.name")


def _check_value_from(causes: Causes, at: str, source: Object, value: str) -> None:
    if not source:
        causes.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`")
    elif value:
        causes.invalid(at, "", "may not be specified when `value` is not empty")
    elif len(source) > 1:
        causes.invalid(at, "", "may not have more than one field specified at a time")
    for key in ("configMapKeyRef", "secretKeyRef"):
        reference = source.get(key)
        if reference is not None:
            if not reference.get("name"):
                causes.required(f"{at}.{key}.name")
            if not reference.get("key"):
                causes.required(f"{at}.{key}.key")
            else:
                causes.problems(f"{at}.{key}.key", reference["key"], names.config_key_problems(reference["key"]))
    if source.get("fieldRef") is not None:
        check_field_ref(causes, f"{at}.fieldRef", source["fieldRef"])
    if source.get("resourceFieldRef") is not None:
        resource = source["resourceFieldRef"].get("resource", "")
        if not resource:
            causes.required(f"{at}.resourceFieldRef.resource")
        elif resource not in _RESOURCE_FIELDS and "hugepages-" not in resource:
            causes.unsupported(f"{at}.resourceFieldRef.resource", resource, _RESOURCE_FIELDS)


def check_field_ref(causes: Causes, at: str, reference: Object) -> None:
    field = reference.get("fieldPath", "")
    if not field:
        causes.required(f"{at}.fieldPath")
        return
    base, bracket, subscript = field.partition("['")
    if bracket and base in ("metadata.labels", "metadata.annotations") and subscript.endswith("']"):
        causes.problems(at, field, names.qualified_name_problems(subscript[:-2]))
    elif field not in _FIELD_PATHS:
        causes.invalid(f"{at}.fieldPath", field, f"error converting fieldPath: field label not supported: {field}")
    elif field in ("metadata.labels", "metadata.annotations"):
        causes.unsupported(f"{at}.fieldPath", field, _FIELD_PATHS - {"metadata.labels", "metadata.annotations"})


def check_resources(causes: Causes, path: str, resources: Object) -> None:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for part, amounts in (("limits", limits), ("requests", requests)):
        for name, text in amounts.items():
            at = f"{path}.{part}[{name}]"
            _check_resource_name(causes, f"{path}.{part}", name)
            amount = quantity(text)
            if amount.value < 0:
                causes.invalid(at, text, NON_NEGATIVE)
            if "/" in name and amount.value.denominator != 1:
                causes.invalid(at, text, "must be an integer")
    for name, text in requests.items():
        if name not in limits:
            continue
        if "/" in name and quantity(text) != quantity(limits[name]):
            causes.invalid(f"{path}.requests", text, f"must be equal to {name} limit of {limits[name]}")
        elif quantity(text) > quantity(limits[name]):
            causes.invalid(f"{path}.requests", text, f"must be less than or equal to {name} limit of {limits[name]}")
    for name in limits:
        if "/" in name and requests and name not in requests:
            causes.required(f"{path}.limits", f"Request must be set for non overcommitable resource {name}")


def _check_resource_name(causes: Causes, at: str, name: str) -> None:
    problems = names.qualified_name_problems(name)
    causes.problems(at, name, problems)
    if problems or "/" in name:
        return
    if name not in _STANDARD and not name.startswith("hugepages-"):
        causes.invalid(at, name, "must be a standard resource type or fully qualified")
        causes.invalid(at, name, "must be a standard resource for containers")


def _check_probe(causes: Causes, at: str, probe: Object, *, once: bool) -> None:
    _check_handler(causes, at, probe)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        causes.non_negative(f"{at}.{key}", probe.get(key))
    if once and probe.get("successThreshold", 1) != 1:
        causes.invalid(f"{at}.successThreshold", probe["successThreshold"], "must be 1")
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        causes.invalid(f"{at}.terminationGracePeriodSeconds", grace, "must be greater than 0")


def _check_handler(causes: Causes, at: str, handler: Object) -> None:
    present = [k for k in ("exec", "httpGet", "tcpSocket", "grpc", "sleep") if k in handler]
    if not present:
        causes.required(at, "must specify a handler type")
    for extra in present[1:]:
        causes.forbidden(f"{at}.{extra}", "may not specify more than 1 handler type")
    if not present:
        return
    action: Any = handler[present[0]]
    at = f"{at}.{present[0]}"
    match present[0]:
        case "exec":
            if not action.get("command"):
                causes.required(f"{at}.command")
        case "httpGet":
            if not action.get("path"):
                causes.required(f"{at}.path")
            check_port_number_or_name(causes, f"{at}.port", action.get("port", 0))
            if action.get("scheme") not in ("HTTP", "HTTPS"):
                causes.unsupported(f"{at}.scheme", action.get("scheme", ""), ("HTTP", "HTTPS"))
        case "tcpSocket":
            check_port_number_or_name(causes, f"{at}.port", action.get("port", 0))
        case "grpc":
            causes.port(f"{at}.port", action.get("port", 0))


def check_port_number_or_name(causes: Causes, at: str, port: int | str) -> None:
    if isinstance(port, int):
        causes.port(at, port)
    else:
        causes.problems(at, port, names.port_name_problems(port))


def _check_security(causes: Causes, at: str, context: Object) -> None:
    for key in ("runAsUser", "runAsGroup"):
        value = context.get(key)
        if value is not None and not 0 <= value <= 2**31 - 1:
            causes.invalid(f"{at}.{key}", value, "must be between 0 and 2147483647, inclusive")
    if context.get("procMount") not in (None, "Default", "Unmasked"):
        causes.unsupported(f"{at}.procMount", context["procMount"], ("Default", "Unmasked"))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            causes.invalid_as(at, "{}", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or []):
            causes.invalid_as(
                at, "{}", "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            )
