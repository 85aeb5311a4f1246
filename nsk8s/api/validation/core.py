"""The core group but Pods, Services and controllers. Pure. Upstream: pkg/apis/core/validation."""

from __future__ import annotations

import base64
import json

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import IMMUTABLE, NON_NEGATIVE, Causes, named, quantity
from nsk8s.api.validation.pod import TAINT_EFFECTS, check_node_selector
from nsk8s.api.validation.volumes import ACCESS_MODES, check_claim_spec

MAX_DATA_BYTES = 1024 * 1024
"""What a ConfigMap or Secret may hold. Upstream: MaxSecretSize."""


def validate_namespace(obj: Object) -> list[Cause]:
    causes = named(obj, names.label_problems)
    for i, finalizer in enumerate((obj.get("spec") or {}).get("finalizers") or []):
        causes.problems(f"spec.finalizers[{i}]", finalizer, names.qualified_name_problems(finalizer))
        if "/" not in finalizer and finalizer not in ("kubernetes", "orphan", "foregroundDeletion"):
            causes.invalid(f"spec.finalizers[{i}]", finalizer,
                           "name is neither a standard finalizer name nor is it fully qualified")  # fmt: skip
    return causes


def validate_node(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    seen: set[tuple[str, str]] = set()
    for i, taint in enumerate(spec.get("taints") or []):
        at = f"spec.taints[{i}]"
        key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect", "")
        causes.problems(f"{at}.key", key, names.qualified_name_problems(key))
        causes.problems(f"{at}.value", value, names.label_value_problems(value))
        causes.choice(f"{at}.effect", effect, TAINT_EFFECTS)
        if (key, effect) in seen:
            causes.duplicate(at, taint)
        seen.add((key, effect))
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    for i, cidr in enumerate(cidrs):
        causes.problems(f"spec.podCIDRs[{i}]", cidr, names.cidr_problems(cidr))
    if len(cidrs) > 2 or (len(cidrs) == 2 and (":" in cidrs[0]) == (":" in cidrs[1])):
        causes.invalid("spec.podCIDRs", cidrs, "may specify no more than one CIDR for each IP family")
    for part in ("capacity", "allocatable"):
        for name, amount in (status.get(part) or {}).items():
            if quantity(amount).value < 0:
                causes.invalid(f"status.{part}[{name}]", amount, NON_NEGATIVE)
    return causes


def validate_node_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if before.get("podCIDRs") and spec.get("podCIDRs") != before["podCIDRs"]:
        causes.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid")
    if before.get("providerID") and spec.get("providerID") != before["providerID"]:
        causes.forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')
    return causes


def _check_size(causes: Causes, path: str, total: int) -> None:
    if total > MAX_DATA_BYTES:
        causes.too_long(path, MAX_DATA_BYTES)


def validate_config_map(obj: Object) -> list[Cause]:
    causes = named(obj)
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    total = 0
    for part, values in (("data", data), ("binaryData", binary)):
        for key, value in values.items():
            causes.problems(f"{part}[{key}]", key, names.config_key_problems(key))
            total += len(value.encode()) if part == "data" else len(value) * 3 // 4
    for key in data:
        if key in binary:
            causes.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
    _check_size(causes, "", total)
    return causes


def validate_config_map_update(new: Object, old: Object) -> list[Cause]:
    return _immutable_data(new, old, ("data", "binaryData"))


def _immutable_data(new: Object, old: Object, parts: tuple[str, ...]) -> Causes:
    causes = Causes()
    if old.get("immutable"):
        if not new.get("immutable"):
            causes.forbidden("immutable", "field is immutable when `immutable` is set")
        for part in parts:
            if (new.get(part) or {}) != (old.get(part) or {}):
                causes.forbidden(part, "field is immutable when `immutable` is set")
    return causes


_REQUIRED_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def validate_secret(obj: Object) -> list[Cause]:
    causes = named(obj)
    data = obj.get("data") or {}
    for key in data:
        causes.problems(f"data[{key}]", key, names.config_key_problems(key))
    _check_size(causes, "data", sum(len(v) * 3 // 4 for v in data.values()))
    kind = obj.get("type", "")
    for key in _REQUIRED_KEYS.get(kind, ()):
        if key not in data:
            causes.required(f"data[{key}]")
        elif key.startswith(".docker"):
            try:
                json.loads(base64.b64decode(data[key]))
            except ValueError:
                causes.invalid(f"data[{key}]", "<secret contents redacted>", "invalid character in JSON")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & set(data):
        causes.required("data[username]")
        causes.required("data[password]")
    annotations = obj["metadata"].get("annotations") or {}
    if kind == "kubernetes.io/service-account-token" and not annotations.get("kubernetes.io/service-account.name"):
        causes.required("metadata.annotations[kubernetes.io/service-account.name]")
    return causes


def validate_secret_update(new: Object, old: Object) -> list[Cause]:
    causes = _immutable_data(new, old, ("data",))
    if new.get("type") != old.get("type"):
        causes.invalid("type", new.get("type", ""), IMMUTABLE)
    return causes


def validate_service_account(obj: Object) -> list[Cause]:
    return named(obj)


def validate_event(obj: Object) -> list[Cause]:
    """An Event in either group's spelling."""
    causes = Causes()
    reference = obj.get("involvedObject") or obj.get("regarding") or {}
    namespace = reference.get("namespace", "")
    own = obj["metadata"].get("namespace", "")
    path = "regarding" if "regarding" in obj else "involvedObject"
    if (namespace and namespace != own) or (not namespace and own not in ("default", "kube-system")):
        causes.invalid(f"{path}.namespace", namespace, "does not match event.namespace")
    if obj.get("apiVersion") == "events.k8s.io/v1":
        if not obj.get("eventTime"):
            causes.required("eventTime")
        for key in ("reportingController", "reportingInstance", "reason", "action"):
            if not obj.get(key):
                causes.required(key)
        if obj.get("type") not in ("Normal", "Warning"):
            causes.invalid("type", obj.get("type", ""), "has invalid value: " + str(obj.get("type", "")))
    return causes


def validate_persistent_volume(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    modes = spec.get("accessModes") or []
    if not modes:
        causes.required("spec.accessModes")
    for mode in modes:
        if mode not in ACCESS_MODES:
            causes.unsupported("spec.accessModes", mode, ACCESS_MODES)
    capacity = spec.get("capacity") or {}
    if not capacity:
        causes.required("spec.capacity")
    elif set(capacity) != {"storage"}:
        causes.unsupported("spec.capacity", sorted(capacity), ("storage",))
    elif quantity(capacity["storage"]).value <= 0:
        causes.invalid("spec.capacity[storage]", capacity["storage"], "must be greater than zero")
    known = ("Retain", "Recycle", "Delete")
    if spec.get("persistentVolumeReclaimPolicy") not in known:
        causes.unsupported("spec.persistentVolumeReclaimPolicy", spec.get("persistentVolumeReclaimPolicy", ""), known)
    sources = [s for s in ("hostPath", "local", "nfs", "csi", "iscsi", "fc", "rbd", "cephfs", "glusterfs", "azureDisk",
                           "awsElasticBlockStore", "gcePersistentDisk", "azureFile", "cinder", "flexVolume", "flocker",
                           "photonPersistentDisk", "portworxVolume", "quobyte", "scaleIO", "storageos",
                           "vsphereVolume") if s in spec]  # fmt: skip
    if not sources:
        causes.required("spec", "must specify a volume type")
    for extra in sources[1:]:
        causes.forbidden(f"spec.{extra}", "may not specify more than 1 volume type")
    required = (spec.get("nodeAffinity") or {}).get("required")
    if required is not None:
        check_node_selector(causes, "spec.nodeAffinity.required", required)
    elif "local" in spec:
        causes.required("spec.nodeAffinity", "Local volume requires node affinity")
    return causes


def validate_persistent_volume_claim(obj: Object) -> list[Cause]:
    causes = named(obj)
    check_claim_spec(causes, "spec", obj.get("spec") or {})
    return causes


def validate_persistent_volume_claim_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    spec, before = new.get("spec") or {}, old.get("spec") or {}

    def fixed(s: Object) -> Object:
        out = {k: v for k, v in s.items() if k not in ("resources", "volumeAttributesClassName")}
        if not before.get("volumeName"):
            out.pop("volumeName", None)
        return out

    def size(s: Object) -> str:
        return str(((s.get("resources") or {}).get("requests") or {}).get("storage", "0"))

    if fixed(spec) != fixed(before):
        causes.forbidden("spec", "spec is immutable after creation except resources.requests and "
                         "volumeAttributesClassName for bound claims")  # fmt: skip
    elif quantity(size(spec)) < quantity(size(before)):
        causes.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")
    elif size(spec) != size(before) and (old.get("status") or {}).get("phase") != "Bound":
        causes.forbidden("spec", "spec is immutable after creation except resources.requests and "
                         "volumeAttributesClassName for bound claims")  # fmt: skip
    return causes


def validate_resource_quota(obj: Object) -> list[Cause]:
    causes = named(obj)
    for name, amount in ((obj.get("spec") or {}).get("hard") or {}).items():
        causes.problems(f"spec.hard[{name}]", name, names.qualified_name_problems(name))
        if quantity(amount).value < 0:
            causes.invalid(f"spec.hard[{name}]", amount, NON_NEGATIVE)
    return causes


def validate_limit_range(obj: Object) -> list[Cause]:
    causes = named(obj)
    for i, item in enumerate((obj.get("spec") or {}).get("limits") or []):
        at = f"spec.limits[{i}]"
        if not item.get("type"):
            causes.required(f"{at}.type")
        if item.get("type") == "Pod":
            for key in ("default", "defaultRequest"):
                if item.get(key):
                    causes.forbidden(f"{at}.{key}", "may not be specified when `type` is 'Pod'")
        _check_order(causes, at, item)
    return causes


def _check_order(causes: Causes, at: str, item: Object) -> None:
    order = ("min", "defaultRequest", "default", "max")
    texts = {"min": "min value", "defaultRequest": "default request value", "default": "default value", "max": "max value"}
    for low_index, low in enumerate(order):
        for high in order[low_index + 1 :]:
            for name, amount in (item.get(low) or {}).items():
                bound = (item.get(high) or {}).get(name)
                if bound is not None and quantity(amount) > quantity(bound):
                    causes.invalid(f"{at}.{low}[{name}]", amount,
                                   f"{texts[low]} {amount} is greater than {texts[high]} {bound}")  # fmt: skip


def validate_binding(obj: Object) -> list[Cause]:
    causes = Causes()
    target = obj.get("target") or {}
    if target.get("kind", "") not in ("", "Node"):
        causes.unsupported("target.kind", target["kind"], ("Node", "<empty>"))
    if not target.get("name"):
        causes.required("target.name")
    return causes
