"""A container's environment: literals with $(VAR), references, downward API, services. Pure.

Upstream: kubelet_pods.go makeEnvironmentVariables, third_party/forked/golang/expansion, kubelet/envvars.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.errors import Nsk8sError

GetObject = Callable[[str, str], Object | None]
"""("configmaps" | "secrets", name) → the object, or None when it does not exist."""


class ConfigError(Nsk8sError):
    """The container cannot be configured: reason CreateContainerConfigError."""


class ServicePort(NamedTuple):
    name: str
    port: int
    protocol: str


class ServiceInfo(NamedTuple):
    """What of a Service goes into environment variables."""

    namespace: str
    name: str
    cluster_ip: str
    ports: tuple[ServicePort, ...]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where known and left alone where not; `$$` is one `$`."""
    out: list[str] = []
    at = 0
    while at < len(text):
        dollar = text.find("$", at)
        if dollar < 0 or dollar + 1 >= len(text):
            out.append(text[at:])
            break
        out.append(text[at:dollar])
        following = text[dollar + 1]
        if following == "$":
            out.append("$")
            at = dollar + 2
        elif following == "(":
            end = text.find(")", dollar + 2)
            if end < 0:
                out.append("$(")
                at = dollar + 2
                continue
            name = text[dollar + 2 : end]
            out.append(variables.get(name, f"$({name})"))
            at = end + 1
        else:
            out.append("$" + following)
            at = dollar + 2
    return "".join(out)


def service_info(service: Object) -> ServiceInfo | None:
    """None for a Service without cluster IP: headless and ExternalName ones have no variables."""
    spec = service.get("spec") or {}
    ip = spec.get("clusterIP") or ""
    if not ip or ip == "None":
        return None
    ports = tuple(ServicePort(p.get("name") or "", int(p["port"]), p.get("protocol") or "TCP") for p in spec.get("ports") or [])
    return ServiceInfo(meta.namespace(service), meta.name(service), ip, ports)


def visible_services(services: Iterable[ServiceInfo], namespace: str, links: bool) -> list[ServiceInfo]:
    """`kubernetes` of the default namespace always, the pod's own namespace's with enableServiceLinks."""
    master = [s for s in services if s.namespace == "default" and s.name == "kubernetes"]
    own = {s.name: s for s in services if s.namespace == namespace} if links else {}
    for service in master:
        own.setdefault(service.name, service)
    return [own[name] for name in sorted(own)]


def _join(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def service_variables(services: Sequence[ServiceInfo]) -> dict[str, str]:
    """The docker-link style variables. Upstream: envvars.FromServices."""
    out: dict[str, str] = {}
    for service in services:
        if not service.ports:
            continue
        prefix = service.name.upper().replace("-", "_")
        first = service.ports[0]
        out[f"{prefix}_SERVICE_HOST"] = service.cluster_ip
        out[f"{prefix}_SERVICE_PORT"] = str(first.port)
        for port in service.ports:
            if port.name:
                out[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
        for i, port in enumerate(service.ports):
            url = f"{port.protocol.lower()}://{_join(service.cluster_ip, port.port)}"
            if i == 0:
                out[f"{prefix}_PORT"] = url
            key = f"{prefix}_PORT_{port.port}_{port.protocol.upper()}"
            out[key] = url
            out[f"{key}_PROTO"] = port.protocol.lower()
            out[f"{key}_PORT"] = str(port.port)
            out[f"{key}_ADDR"] = service.cluster_ip
    return out


_SUBSCRIPT = re.compile(r"metadata\.(annotations|labels)\['(.*)'\]")


def pod_field(pod: Object, path: str, runtime_fields: Mapping[str, str]) -> str:
    """The downward API's fieldRef. `runtime_fields` has what is known only now (status.podIP …). Raises ConfigError."""
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        return (meta.annotations if subscript[1] == "annotations" else meta.labels)(pod).get(subscript[2], "")
    if path in runtime_fields:
        return runtime_fields[path]
    if path in ("metadata.name", "metadata.namespace", "metadata.uid"):
        return str(pod["metadata"].get(path.partition(".")[2], ""))
    if path == "metadata.labels":
        return format_map(meta.labels(pod))
    if path == "metadata.annotations":
        return format_map(meta.annotations(pod))
    if path == "spec.nodeName":
        return str(pod["spec"].get("nodeName", ""))
    if path == "spec.serviceAccountName":
        return str(pod["spec"].get("serviceAccountName", ""))
    raise ConfigError(f"unsupported fieldPath: {path}")


def format_map(values: Mapping[str, str]) -> str:
    """Upstream's fieldpath.FormatMap: one `key="escaped value"` a line, sorted."""
    return "\n".join(f'{k}="{_escape(v)}"' for k, v in sorted(values.items()))


def _escape(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return text


def resource_field(pod: Object, ref: Mapping[str, Any], container: str, allocatable: Mapping[str, str]) -> str:
    """resourceFieldRef: a limit or request in units of the divisor, rounded up; a missing limit is the node's allocatable."""
    name = ref.get("containerName") or container
    spec = pod["spec"]
    found = next(
        (c for c in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])] if c["name"] == name), None
    )
    if found is None:
        raise ConfigError(f"container {name} not found")
    kind, _, resource = str(ref.get("resource", "")).partition(".")
    if kind not in ("limits", "requests") or not (
        resource in ("cpu", "memory", "ephemeral-storage") or resource.startswith("hugepages-")
    ):
        raise ConfigError(f"unsupported container resource : {ref.get('resource')}")
    amounts = (found.get("resources") or {}).get(kind) or {}
    value = amounts.get(resource) or (allocatable.get(resource, "0") if kind == "limits" else "0")
    divisor = Quantity.parse(ref.get("divisor") or "1")
    if not divisor:
        divisor = Quantity.parse("1")
    ratio = Quantity.parse(value).value / divisor.value
    return str(-(-ratio.numerator // ratio.denominator))


def _decode(kind: str, obj: Object, key: str) -> str | None:
    data = obj.get("data") or {}
    if key not in data:
        return None
    if kind == "configmaps":
        return str(data[key])
    try:
        return base64.b64decode(data[key]).decode("utf-8", "surrogateescape")
    except binascii.Error as e:
        raise ConfigError(f"secret key {key} is not base64") from e


def references(pod: Object) -> list[tuple[str, str]]:
    """The ("configmaps" | "secrets", name) that env and envFrom of any container mention."""
    found: dict[tuple[str, str], None] = {}
    spec = pod["spec"]
    for container in [
        *(spec.get("initContainers") or []), *(spec.get("containers") or []), *(spec.get("ephemeralContainers") or [])
    ]:  # fmt: skip
        for source in container.get("envFrom") or []:
            for field, kind in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
                if source.get(field):
                    found[kind, source[field].get("name", "")] = None
        for var in container.get("env") or []:
            value_from = var.get("valueFrom") or {}
            for field, kind in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
                if value_from.get(field):
                    found[kind, value_from[field].get("name", "")] = None
    return list(found)


def make_environment(
    pod: Object, container: Object, *, services: Sequence[ServiceInfo], get: GetObject,
    runtime_fields: Mapping[str, str], allocatable: Mapping[str, str],
) -> dict[str, str]:  # fmt: skip
    """name → value, in upstream's order of precedence: services < envFrom < env. Raises ConfigError."""
    links = pod["spec"].get("enableServiceLinks", True) is not False
    service_env = service_variables(visible_services(services, meta.namespace(pod), links))
    result: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix") or ""
        for field, kind, noun in (("configMapRef", "configmaps", "configmap"), ("secretRef", "secrets", "secret")):
            ref = source.get(field)
            if not ref:
                continue
            obj = get(kind, ref.get("name", ""))
            if obj is None:
                if ref.get("optional"):
                    continue
                raise ConfigError(f'{noun} "{ref.get("name", "")}" not found')
            for key in obj.get("data") or {}:
                value = _decode(kind, obj, key)
                if value is not None:
                    result[prefix + key] = value
    expanded: dict[str, str] = {}
    for var in container.get("env") or []:
        name = var["name"]
        value_from = var.get("valueFrom")
        if var.get("value") or not value_from:
            value = expand(var.get("value") or "", {**service_env, **result, **expanded})
        else:
            found = _referenced(pod, container, value_from, get, runtime_fields, allocatable)
            if found is None:
                continue
            value = found
        expanded[name] = value
        result[name] = value
    return {**{k: v for k, v in service_env.items() if k not in result}, **result}


def _referenced(
    pod: Object, container: Object, source: Mapping[str, Any], get: GetObject, runtime_fields: Mapping[str, str],
    allocatable: Mapping[str, str],
) -> str | None:  # fmt: skip
    """The value of a valueFrom; None for an optional reference to nothing."""
    if source.get("fieldRef"):
        return pod_field(pod, str(source["fieldRef"].get("fieldPath", "")), runtime_fields)
    if source.get("resourceFieldRef"):
        return resource_field(pod, source["resourceFieldRef"], container["name"], allocatable)
    for field, kind, noun in (("configMapKeyRef", "configmaps", "configmap"), ("secretKeyRef", "secrets", "secret")):
        ref = source.get(field)
        if not ref:
            continue
        obj = get(kind, ref.get("name", ""))
        if obj is None:
            if ref.get("optional"):
                return None
            raise ConfigError(f'{noun} "{ref.get("name", "")}" not found')
        value = _decode(kind, obj, ref["key"])
        if value is None and not ref.get("optional"):
            text = "ConfigMap" if kind == "configmaps" else "Secret"
            raise ConfigError(f"couldn't find key {ref['key']} in {text} {meta.namespace(pod)}/{ref.get('name', '')}")
        return value
    raise ConfigError("env variable has no known source in valueFrom")
