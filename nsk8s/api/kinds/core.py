"""The kinds of the core group and of events.k8s.io. Pure. Upstream: pkg/registry/core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from nsk8s.api.defaults import core as defaults
from nsk8s.api.defaults.pod import default_pod
from nsk8s.api.kinds.common import scale, status
from nsk8s.api.kinds.events import convert_event
from nsk8s.api.meta import Object
from nsk8s.api.models import core as models
from nsk8s.api.models import events as events_models
from nsk8s.api.models.core_node import Node
from nsk8s.api.models.core_pod import Pod, PodTemplate
from nsk8s.api.models.core_service import Endpoints, Service
from nsk8s.api.models.core_volume import PersistentVolume, PersistentVolumeClaim
from nsk8s.api.printers import core as printers
from nsk8s.api.printers.pod import POD
from nsk8s.api.printers.workloads import REPLICA_SET
from nsk8s.api.scheme import Kind, Strategy, Subresource
from nsk8s.api.validation import core as validation
from nsk8s.api.validation import pod as pod_validation
from nsk8s.api.validation import service as service_validation
from nsk8s.api.validation import workloads as workload_validation


def at(path: str) -> Callable[[Object], str]:
    """A field selector's getter: the value at a dotted path as text; booleans in lower case, absent as empty."""
    parts = path.split(".")

    def get(obj: Object) -> str:
        value: object = obj
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool):
            return str(value).lower()
        return "" if value is None else str(value)

    return get


def flag(path: str) -> Callable[[Object], str]:
    """Like `at`, for a boolean whose absence means false."""
    get = at(path)
    return lambda obj: get(obj) or "false"


def fields(*paths: str) -> Mapping[str, Callable[[Object], str]]:
    return {path: at(path) for path in paths}


def _pod_ip(obj: Object) -> str:
    found = (obj.get("status") or {}).get("podIPs") or []
    return str(found[0].get("ip", "")) if found else at("status.podIP")(obj)


def _pod_grace(pod: Object) -> int:
    """Seconds until a deleted pod goes; nothing waits for a pod that is on no node or has ended."""
    spec, phase = pod.get("spec") or {}, (pod.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    seconds = spec.get("terminationGracePeriodSeconds")
    return 30 if seconds is None else max(int(seconds), 1 if int(seconds) < 0 else 0)


def _create_pod(pod: Object) -> None:
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(pod)}


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort. Upstream: core/helper/qos.ComputePodQOS."""
    spec = pod.get("spec") or {}
    containers = (spec.get("initContainers") or []) + (spec.get("containers") or [])
    any_set, guaranteed = False, True
    for container in containers:
        resources = container.get("resources") or {}
        requests = {k: v for k, v in (resources.get("requests") or {}).items() if k in ("cpu", "memory") and v != "0"}
        limits = {k: v for k, v in (resources.get("limits") or {}).items() if k in ("cpu", "memory") and v != "0"}
        any_set = any_set or bool(requests or limits)
        if set(limits) != {"cpu", "memory"} or any(requests.get(k, v) != v for k, v in limits.items()):
            guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _cells_of_new_event(obj: Object, now: datetime) -> list[Any]:
    """Both groups show the same table."""
    return list(printers.EVENT.cells(convert_event(obj, "v1"), now))


_LOG = ("get",)
_CONNECT = ("create", "get")
_PROXY = ("create", "delete", "get", "patch", "update")

_EVENT_FIELDS = {
    **fields(
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
        "reportingComponent", "type",
    ),
    "source": lambda e: str((e.get("source") or {}).get("component") or e.get("reportingComponent") or ""),
}  # fmt: skip

_EVENT = Kind(
    "", "v1", "Event", "events", True, models.Event, short_names=("ev",),
    strategy=Strategy(validate=validation.validate_event, has_status=False, has_generation=False),
    printer=printers.EVENT, fields=_EVENT_FIELDS, convert=convert_event,
)  # fmt: skip

KINDS: tuple[Kind, ...] = (
    Kind(
        "", "v1", "Pod", "pods", True, Pod, short_names=("po",), categories=("all",),
        subresources=(
            status("Pod"),
            Subresource("attach", "PodAttachOptions", _CONNECT),
            Subresource("binding", "Binding", ("create",)),
            Subresource("ephemeralcontainers", "Pod", ("get", "patch", "update")),
            Subresource("eviction", "Eviction", ("create",), "policy", "v1"),
            Subresource("exec", "PodExecOptions", _CONNECT),
            Subresource("log", "Pod", _LOG),
            Subresource("portforward", "PodPortForwardOptions", _CONNECT),
            Subresource("proxy", "PodProxyOptions", _PROXY),
            Subresource("resize", "Pod", ("get", "patch", "update")),
        ),
        strategy=Strategy(
            default=default_pod, prepare_create=_create_pod, validate=pod_validation.validate_pod,
            validate_update=pod_validation.validate_pod_update, graceful=_pod_grace,
        ),
        printer=POD,
        fields={
            **fields("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
                     "status.phase", "status.nominatedNodeName"),
            "spec.hostNetwork": flag("spec.hostNetwork"),
            "status.podIP": _pod_ip,
        },
    ),
    Kind(
        "", "v1", "Node", "nodes", False, Node, short_names=("no",),
        subresources=(status("Node"), Subresource("proxy", "NodeProxyOptions", _PROXY)),
        strategy=Strategy(default=defaults.default_node, validate=validation.validate_node,
                          validate_update=validation.validate_node_update, has_generation=False),
        printer=printers.NODE,
        fields={"spec.unschedulable": flag("spec.unschedulable")},
    ),
    Kind(
        "", "v1", "Namespace", "namespaces", False, models.Namespace, short_names=("ns",),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        subresources=(status("Namespace"), Subresource("finalize", "Namespace", ("update",))),
        strategy=Strategy(default=defaults.default_namespace, prepare_create=defaults.create_namespace,
                          prepare_update=defaults.update_namespace,
                          validate=validation.validate_namespace, has_generation=False),
        printer=printers.NAMESPACE,
        fields=fields("status.phase"),
    ),
    Kind(
        "", "v1", "Service", "services", True, Service, short_names=("svc",), categories=("all",),
        subresources=(status("Service"), Subresource("proxy", "ServiceProxyOptions", _PROXY)),
        strategy=Strategy(default=defaults.default_service, prepare_update=defaults.update_service,
                          validate=service_validation.validate_service,
                          validate_update=service_validation.validate_service_update, has_generation=False),
        printer=printers.SERVICE,
        fields=fields("spec.clusterIP", "spec.type"),
    ),
    Kind(
        "", "v1", "Endpoints", "endpoints", True, Endpoints, short_names=("ep",),
        strategy=Strategy(default=defaults.default_endpoints, validate=service_validation.validate_endpoints,
                          has_status=False, has_generation=False),
        printer=printers.ENDPOINTS,
    ),
    _EVENT,
    Kind(
        "", "v1", "ConfigMap", "configmaps", True, models.ConfigMap, short_names=("cm",),
        strategy=Strategy(validate=validation.validate_config_map,
                          validate_update=validation.validate_config_map_update,
                          has_status=False, has_generation=False),
        printer=printers.CONFIG_MAP,
    ),
    Kind(
        "", "v1", "Secret", "secrets", True, models.Secret,
        strategy=Strategy(default=defaults.default_secret, validate=validation.validate_secret,
                          validate_update=validation.validate_secret_update, has_status=False, has_generation=False),
        printer=printers.SECRET,
        fields=fields("type"),
    ),
    Kind(
        "", "v1", "ServiceAccount", "serviceaccounts", True, models.ServiceAccount, short_names=("sa",),
        subresources=(
            Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1"),
        ),
        strategy=Strategy(validate=validation.validate_service_account, has_status=False, has_generation=False),
        printer=printers.SERVICE_ACCOUNT,
    ),
    Kind(
        "", "v1", "ReplicationController", "replicationcontrollers", True, models.ReplicationController,
        short_names=("rc",), categories=("all",),
        subresources=(status("ReplicationController"), scale()),
        strategy=Strategy(default=defaults.default_replication_controller,
                          validate=workload_validation.validate_replication_controller),
        printer=REPLICA_SET,
        fields={"status.replicas": lambda o: str((o.get("status") or {}).get("replicas", 0))},
    ),
    Kind(
        "", "v1", "PersistentVolume", "persistentvolumes", False, PersistentVolume, short_names=("pv",),
        subresources=(status("PersistentVolume"),),
        strategy=Strategy(default=defaults.default_persistent_volume,
                          validate=validation.validate_persistent_volume, has_generation=False),
        printer=printers.PERSISTENT_VOLUME,
    ),
    Kind(
        "", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", True, PersistentVolumeClaim,
        short_names=("pvc",), subresources=(status("PersistentVolumeClaim"),),
        strategy=Strategy(default=defaults.default_persistent_volume_claim,
                          validate=validation.validate_persistent_volume_claim,
                          validate_update=validation.validate_persistent_volume_claim_update, has_generation=False),
        printer=printers.PERSISTENT_VOLUME_CLAIM,
    ),
    Kind(
        "", "v1", "ResourceQuota", "resourcequotas", True, models.ResourceQuota, short_names=("quota",),
        subresources=(status("ResourceQuota"),),
        strategy=Strategy(validate=validation.validate_resource_quota, has_generation=False),
        printer=printers.RESOURCE_QUOTA,
    ),
    Kind(
        "", "v1", "LimitRange", "limitranges", True, models.LimitRange, short_names=("limits",),
        strategy=Strategy(default=defaults.default_limit_range, validate=validation.validate_limit_range,
                          has_status=False, has_generation=False),
        printer=printers.LIMIT_RANGE,
    ),
    Kind(
        "", "v1", "PodTemplate", "podtemplates", True, PodTemplate,
        strategy=Strategy(default=defaults.default_pod_template,
                          validate=workload_validation.validate_pod_template, has_status=False),
        printer=printers.POD_TEMPLATE,
    ),
    Kind(
        "", "v1", "Binding", "bindings", True, models.Binding, verbs=("create",),
        strategy=Strategy(validate=validation.validate_binding, has_status=False, has_generation=False),
    ),
    replace(
        _EVENT, group="events.k8s.io", model=events_models.Event, printer=replace(printers.EVENT, cells=_cells_of_new_event),
        fields={
            "reason": at("reason"), "reportingController": at("reportingController"), "type": at("type"),
            **{f"regarding.{part}": at(f"regarding.{part}")
               for part in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")},
        },
    ),
)  # fmt: skip
