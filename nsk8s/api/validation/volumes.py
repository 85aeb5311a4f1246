"""Volumes of pods, their mounts, and claims. Pure. Upstream: ValidateVolumes, ValidateVolumeMounts."""

from __future__ import annotations

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.validation.common import Causes, quantity

ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
_HOST_PATH_TYPES = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
_PROPAGATION = ("None", "HostToContainer", "Bidirectional")


def check_volumes(causes: Causes, path: str, volumes: list[Object]) -> set[str]:
    """Adds what is wrong; returns the names that mounts may use."""
    known: set[str] = set()
    for i, volume in enumerate(volumes):
        at = f"{path}[{i}]"
        name = volume.get("name", "")
        if not name:
            causes.required(f"{at}.name")
        else:
            causes.problems(f"{at}.name", name, names.label_problems(name))
            if name in known:
                causes.duplicate(f"{at}.name", name)
            known.add(name)
        _check_source(causes, at, volume)
    return known


def _check_source(causes: Causes, at: str, volume: Object) -> None:
    sources = [k for k in volume if k != "name"]
    if not sources:
        causes.required(at, "must specify a volume type")
    for extra in sources[1:]:
        causes.forbidden(f"{at}.{extra}", "may not specify more than 1 volume type")
    if not sources:
        return
    source, body = sources[0], volume[sources[0]]
    at = f"{at}.{source}"
    match source:
        case "hostPath":
            if not body.get("path"):
                causes.required(f"{at}.path")
            elif ".." in body["path"].split("/"):
                causes.invalid(f"{at}.path", body["path"], "must not contain '..'")
            if body.get("type", "") not in _HOST_PATH_TYPES:
                causes.unsupported(f"{at}.type", body["type"], _HOST_PATH_TYPES)
        case "emptyDir":
            limit = body.get("sizeLimit")
            if limit is not None and quantity(limit).value < 0:
                causes.forbidden(f"{at}.sizeLimit", "SizeLimit field must be a valid resource quantity")
        case "configMap":
            if not body.get("name"):
                causes.required(f"{at}.name")
            _check_items(causes, at, body)
        case "secret":
            if not body.get("secretName"):
                causes.required(f"{at}.secretName")
            _check_items(causes, at, body)
        case "persistentVolumeClaim":
            if not body.get("claimName"):
                causes.required(f"{at}.claimName")
        case "downwardAPI":
            _check_mode(causes, f"{at}.defaultMode", body.get("defaultMode"))
            for i, item in enumerate(body.get("items") or []):
                _check_relative(causes, f"{at}.items[{i}].path", item.get("path", ""))
        case "projected":
            _check_mode(causes, f"{at}.defaultMode", body.get("defaultMode"))
            for i, one in enumerate(body.get("sources") or []):
                _check_projection(causes, f"{at}.sources[{i}]", one)
        case "nfs":
            for key in ("server", "path"):
                if not body.get(key):
                    causes.required(f"{at}.{key}")
        case "csi":
            if not body.get("driver"):
                causes.required(f"{at}.driver")


def _check_projection(causes: Causes, at: str, projection: Object) -> None:
    if len(projection) > 1:
        for extra in list(projection)[1:]:
            causes.forbidden(f"{at}.{extra}", "may not specify more than 1 volume type")
    for key in ("configMap", "secret"):
        if key in projection:
            if not projection[key].get("name"):
                causes.required(f"{at}.{key}.name")
            _check_items(causes, f"{at}.{key}", projection[key])
    token = projection.get("serviceAccountToken")
    if token is not None:
        seconds = token.get("expirationSeconds", 3600)
        if seconds < 600:
            causes.invalid(f"{at}.serviceAccountToken.expirationSeconds", seconds,
                           "may not specify a duration less than 10 minutes")  # fmt: skip
        if not token.get("path"):
            causes.required(f"{at}.serviceAccountToken.path")


def _check_items(causes: Causes, at: str, body: Object) -> None:
    _check_mode(causes, f"{at}.defaultMode", body.get("defaultMode"))
    for i, item in enumerate(body.get("items") or []):
        if not item.get("key"):
            causes.required(f"{at}.items[{i}].key")
        if not item.get("path"):
            causes.required(f"{at}.items[{i}].path")
        else:
            _check_relative(causes, f"{at}.items[{i}].path", item["path"])
        _check_mode(causes, f"{at}.items[{i}].mode", item.get("mode"))


def _check_mode(causes: Causes, at: str, mode: int | None) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        causes.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive")


def _check_relative(causes: Causes, at: str, path: str) -> None:
    if path.startswith("/"):
        causes.invalid(at, path, "must be a relative path")
    if ".." in path.split("/"):
        causes.invalid(at, path, "must not contain '..'")


def check_mounts(causes: Causes, path: str, mounts: list[Object], volumes: set[str]) -> None:
    seen: set[str] = set()
    for i, mount in enumerate(mounts):
        at = f"{path}[{i}]"
        if not mount.get("name"):
            causes.required(f"{at}.name")
        elif mount["name"] not in volumes:
            causes.not_found(f"{at}.name", mount["name"])
        target = mount.get("mountPath", "")
        if not target:
            causes.required(f"{at}.mountPath")
        elif target in seen:
            causes.invalid(f"{at}.mountPath", target, "must be unique")
        seen.add(target)
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                _check_relative(causes, f"{at}.{key}", mount[key])
        if mount.get("subPath") and mount.get("subPathExpr"):
            causes.invalid(f"{at}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive")
        if mount.get("mountPropagation") and mount["mountPropagation"] not in _PROPAGATION:
            causes.unsupported(f"{at}.mountPropagation", mount["mountPropagation"], _PROPAGATION)


def check_claim_spec(causes: Causes, path: str, spec: Object) -> None:
    """A PersistentVolumeClaimSpec."""
    modes = spec.get("accessModes") or []
    if not modes:
        causes.required(f"{path}.accessModes", "at least 1 access mode is required")
    for mode in modes:
        if mode not in ACCESS_MODES:
            causes.unsupported(f"{path}.accessModes", mode, ACCESS_MODES)
    storage = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if storage is None:
        causes.required(f"{path}.resources[storage]")
    elif quantity(storage).value <= 0:
        causes.invalid(f"{path}.resources[storage]", storage, "must be greater than zero")
    name = spec.get("storageClassName")
    if name:
        causes.problems(f"{path}.storageClassName", name, names.subdomain_problems(name))
    if spec.get("volumeMode") not in (None, "Filesystem", "Block"):
        causes.unsupported(f"{path}.volumeMode", spec["volumeMode"], ("Block", "Filesystem"))
