"""A pod's volumes. Pure."""

from __future__ import annotations

from nsk8s.api.meta import Object
from nsk8s.cli.describers.text import Text, go

KINDS = {
    "hostPath": "HostPath (bare host directory volume)",
    "emptyDir": "EmptyDir (a temporary directory that shares a pod's lifetime)",
    "secret": "Secret (a volume populated by a Secret)",
    "configMap": "ConfigMap (a volume populated by a ConfigMap)",
    "downwardAPI": "DownwardAPI (a volume populated by information about the pod)",
    "projected": "Projected (a volume that contains injected data from multiple sources)",
    "persistentVolumeClaim": "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
}


def volumes(out: Text, values: list[Object], indent: str) -> None:
    if not values:
        out.line(0, f"{indent}Volumes:", "<none>")
        return
    out.line(0, f"{indent}Volumes:")
    for v in values:
        out.line(1, f"{' ' if indent else ''}{v['name']}:")
        kind = next((k for k in KINDS if k in v), None)
        if kind is None:
            out.line(1, "<unknown>")
            continue
        out.line(2, "Type:", KINDS[kind])
        _details(out, kind, v[kind] or {})


def _details(out: Text, kind: str, v: Object) -> None:
    if kind == "hostPath":
        out.line(2, "Path:", v.get("path", ""))
        out.line(2, "HostPathType:", v.get("type", "<none>"))
    elif kind == "emptyDir":
        out.line(2, "Medium:", v.get("medium", ""))
        out.line(2, "SizeLimit:", v.get("sizeLimit", "<unset>"))
    elif kind == "secret":
        out.line(2, "SecretName:", v.get("secretName", ""))
        out.line(2, "Optional:", go(bool(v.get("optional"))))
    elif kind == "configMap":
        out.line(2, "Name:", v.get("name", ""))
        out.line(2, "Optional:", go(bool(v.get("optional"))))
    elif kind == "persistentVolumeClaim":
        out.line(2, "ClaimName:", v.get("claimName", ""))
        out.line(2, "ReadOnly:", go(bool(v.get("readOnly"))))
    elif kind == "downwardAPI":
        out.line(2, "Items:")
        for item in v.get("items") or []:
            source = (item.get("fieldRef") or {}).get("fieldPath") or (item.get("resourceFieldRef") or {}).get("resource", "")
            out.line(3, f"{source} -> {item.get('path', '')}")
    else:
        for source in v.get("sources") or []:
            _projected(out, source)


def _projected(out: Text, source: Object) -> None:
    if "secret" in source:
        out.line(2, "SecretName:", source["secret"].get("name", ""))
        out.line(2, "Optional:", go(bool(source["secret"].get("optional"))))
    elif "downwardAPI" in source:
        out.line(2, "DownwardAPI:", "true")
    elif "configMap" in source:
        out.line(2, "ConfigMapName:", source["configMap"].get("name", ""))
        out.line(2, "Optional:", go(bool(source["configMap"].get("optional"))))
    elif "serviceAccountToken" in source:
        out.line(2, "TokenExpirationSeconds:", source["serviceAccountToken"].get("expirationSeconds", 3600))
