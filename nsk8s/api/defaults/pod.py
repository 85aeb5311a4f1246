"""Defaults of a pod's spec, wherever it stands (Pod, templates). Pure. Upstream: pkg/apis/core/v1/defaults.go."""

from __future__ import annotations

from collections.abc import Iterator

from nsk8s.api.meta import Object

_DEFAULT_MODE = 0o644


def containers(spec: Object) -> Iterator[Object]:
    """Init, ordinary and ephemeral containers, in that order."""
    for key in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(key) or []


def default_pod(pod: Object) -> None:
    """A Pod: its spec, and requests that follow limits (templates do not get those)."""
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    for container in containers(spec):
        _requests_from_limits(container.get("resources"))
    spec.setdefault("enableServiceLinks", True)
    pod.setdefault("status", {}).setdefault("phase", "Pending")


def default_template(template: Object) -> None:
    """A PodTemplateSpec."""
    default_pod_spec(template.setdefault("spec", {}))


def default_pod_spec(spec: Object) -> None:
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("schedulerName", "default-scheduler")
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    if spec.get("hostNetwork"):
        _host_ports(spec)
    for container in containers(spec):
        _container(container)
    for volume in spec.get("volumes") or []:
        default_volume(volume)
    for constraint in spec.get("topologySpreadConstraints") or []:
        constraint.setdefault("whenUnsatisfiable", "DoNotSchedule")


def _host_ports(spec: Object) -> None:
    for key in ("containers", "initContainers"):
        for container in spec.get(key) or []:
            for port in container.get("ports") or []:
                if not port.get("hostPort") and port.get("containerPort"):
                    port["hostPort"] = port["containerPort"]


def image_tag(image: str) -> str:
    """The tag of an image reference, `latest` if it has neither tag nor digest, empty with a digest alone."""
    name, at, _ = image.partition("@")
    tail = name.rpartition("/")[2]
    tag = tail.partition(":")[2]
    return tag or ("" if at else "latest")


def _container(container: Object) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = "Always" if image_tag(container.get("image", "")) == "latest" else "IfNotPresent"
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or []:
        field = (variable.get("valueFrom") or {}).get("fieldRef")
        if field is not None:
            field.setdefault("apiVersion", "v1")
        _divisor(variable.get("valueFrom"))
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            _probe(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict) and hook.get("httpGet") is not None:
            _http_get(hook["httpGet"])


def _divisor(source: Object | None) -> None:
    reference = (source or {}).get("resourceFieldRef")
    if reference is not None:
        reference.setdefault("divisor", "0")


def _probe(probe: Object) -> None:
    probe.setdefault("timeoutSeconds", 1)
    probe.setdefault("periodSeconds", 10)
    probe.setdefault("successThreshold", 1)
    probe.setdefault("failureThreshold", 3)
    if probe.get("httpGet") is not None:
        _http_get(probe["httpGet"])
    if probe.get("grpc") is not None:
        probe["grpc"].setdefault("service", "")


def _http_get(action: Object) -> None:
    action.setdefault("path", "/")
    action.setdefault("scheme", "HTTP")


def _requests_from_limits(resources: Object | None) -> None:
    limits = (resources or {}).get("limits")
    if limits and resources is not None:
        requests = resources.setdefault("requests", {})
        for name, amount in limits.items():
            requests.setdefault(name, amount)


def default_volume(volume: Object) -> None:
    """One volume; a volume without any source becomes an emptyDir, as upstream makes it."""
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for key in ("secret", "configMap", "downwardAPI", "projected"):
        if volume.get(key) is not None:
            volume[key].setdefault("defaultMode", _DEFAULT_MODE)
    if volume.get("hostPath") is not None:
        volume["hostPath"].setdefault("type", "")
    _downward_items(volume.get("downwardAPI"))
    for source in (volume.get("projected") or {}).get("sources") or []:
        _downward_items(source.get("downwardAPI"))
        if source.get("serviceAccountToken") is not None:
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)
    if volume.get("iscsi") is not None:
        volume["iscsi"].setdefault("iscsiInterface", "default")
    claim = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
    if claim is not None:
        default_claim_spec(claim.setdefault("spec", {}))


def _downward_items(source: Object | None) -> None:
    for item in (source or {}).get("items") or []:
        if item.get("fieldRef") is not None:
            item["fieldRef"].setdefault("apiVersion", "v1")
        _divisor(item)


def default_claim_spec(spec: Object) -> None:
    """A PersistentVolumeClaimSpec."""
    spec.setdefault("volumeMode", "Filesystem")
