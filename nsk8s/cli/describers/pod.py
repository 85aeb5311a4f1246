"""Pods and pod templates: containers, probes, environment, volumes, tolerations. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsk8s.api import meta
from nsk8s.api.duration import age
from nsk8s.api.meta import Object
from nsk8s.cli.describers import volumes
from nsk8s.cli.describers.resources import container_resource
from nsk8s.cli.describers.text import Text, annotation_lines, date, or_none, pairs


def pod(out: Text, obj: Object, now: datetime) -> None:
    """Everything but the events."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    if spec.get("priority") is not None:
        out.line(0, "Priority:", spec["priority"])
    for title, value in (
        ("Priority Class Name", spec.get("priorityClassName")),
        ("Runtime Class Name", spec.get("runtimeClassName")),
        ("Service Account", spec.get("serviceAccountName")),
    ):
        if value:
            out.line(0, f"{title}:", value)
    out.line(0, "Node:", f"{spec['nodeName']}/{status.get('hostIP', '')}" if spec.get("nodeName") else "<none>")
    if status.get("startTime"):
        out.line(0, "Start Time:", date(status["startTime"]))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    if meta.is_deleting(obj) and status.get("reason") != "NodeLost":
        out.line(0, "Status:", f"Terminating (lasts {age(obj['metadata']['deletionTimestamp'], now)})")
        out.line(0, "Termination Grace Period:", f"{obj['metadata'].get('deletionGracePeriodSeconds', 0)}s")
    else:
        out.line(0, "Status:", status.get("phase", ""))
    for title in ("reason", "message"):
        if status.get(title):
            out.line(0, f"{title.title()}:", status[title])
    _seccomp(out, 0, spec.get("securityContext"))
    out.line(0, "IP:", status.get("podIP", ""))
    ips = [i.get("ip", "") for i in status.get("podIPs") or []]
    out.line(0, "IPs:", *([] if ips else ["<none>"]))
    for ip in ips:
        out.line(1, "IP:", ip)
    owner = meta.controller_of(obj)
    if owner:
        out.line(0, "Controlled By:", f"{owner['kind']}/{owner['name']}")
    if status.get("nominatedNodeName"):
        out.line(0, "NominatedNodeName:", status["nominatedNodeName"])
    if spec.get("initContainers"):
        containers(out, "Init Containers", spec["initContainers"], status.get("initContainerStatuses"), obj)
    containers(out, "Containers", spec.get("containers") or [], status.get("containerStatuses"), obj)
    if spec.get("ephemeralContainers"):
        containers(out, "Ephemeral Containers", spec["ephemeralContainers"], status.get("ephemeralContainerStatuses"), obj)
    conditions = status.get("conditions") or []
    if spec.get("readinessGates"):
        out.line(0, "Readiness Gates:")
        out.line(1, "Type", "Status")
        for gate in spec["readinessGates"]:
            found = next((c["status"] for c in conditions if c["type"] == gate["conditionType"]), "<none>")
            out.line(1, f"{gate['conditionType']} ", f"{found} ")
    if conditions:
        out.line(0, "Conditions:")
        out.line(1, "Type", "Status")
        for c in conditions:
            out.line(1, f"{c['type']} ", f"{c['status']} ")
    volumes.volumes(out, spec.get("volumes") or [], "")
    out.line(0, "QoS Class:", status.get("qosClass", ""))
    pairs(out, "Node-Selectors", spec.get("nodeSelector"))
    tolerations(out, spec.get("tolerations") or [])
    _spread(out, spec.get("topologySpreadConstraints") or [])


def template(out: Text, obj: Object) -> None:
    """A workload's pod template."""
    metadata, spec = obj.get("metadata") or {}, obj.get("spec") or {}
    out.line(0, "Pod Template:")
    pairs(out, "Labels", metadata.get("labels"), "  ")
    if metadata.get("annotations"):
        annotation_lines(out, metadata["annotations"], "  ")
    if spec.get("serviceAccountName"):
        out.line(0, "  Service Account:", spec["serviceAccountName"])
    if spec.get("initContainers"):
        containers(out, "Init Containers", spec["initContainers"], None, None, "  ")
    containers(out, "Containers", spec.get("containers") or [], None, None, "  ")
    volumes.volumes(out, spec.get("volumes") or [], "  ")
    _spread(out, spec.get("topologySpreadConstraints") or [], "  ")
    if spec.get("priorityClassName"):
        out.line(0, "  Priority Class Name:", spec["priorityClassName"])
    pairs(out, "Node-Selectors", spec.get("nodeSelector"), "  ")
    tolerations(out, spec.get("tolerations") or [], "  ")


def _seccomp(out: Text, level: int, context: Object | None) -> None:
    profile = (context or {}).get("seccompProfile")
    if profile:
        out.line(level, "SeccompProfile:", profile.get("type", ""))
        if profile.get("type") == "Localhost":
            out.line(level, "LocalhostProfile:", profile.get("localhostProfile", ""))


def containers(
    out: Text, title: str, specs: list[Object], statuses: list[Object] | None, owner: Object | None, indent: str = ""
) -> None:
    """`owner` is the pod, for its environment's values; None in a template, which has no statuses either."""
    known = {s["name"]: s for s in statuses or []}
    out.line(0, f"{indent}{title}:{'' if specs else ' <none>'}")
    for c in specs:
        status = known.get(c["name"])
        out.line(1, f"{' ' if indent else ''}{c['name']}:")
        if status is not None:
            out.line(2, "Container ID:", status.get("containerID", ""))
        out.line(2, "Image:", c.get("image", ""))
        if status is not None:
            out.line(2, "Image ID:", status.get("imageID", ""))
        ports = ", ".join(f"{p.get('containerPort', 0)}/{p.get('protocol', '')}" for p in c.get("ports") or [])
        host_ports = ", ".join(f"{p.get('hostPort', 0)}/{p.get('protocol', '')}" for p in c.get("ports") or [])
        out.line(2, "Ports:" if "," in ports else "Port:", or_none(ports))
        out.line(2, "Host Ports:" if "," in host_ports else "Host Port:", or_none(host_ports))
        _seccomp(out, 2, c.get("securityContext"))
        for key in ("command", "args"):
            if c.get(key):
                out.line(2, f"{key.title()}:")
                for word in c[key]:
                    for part in word.split("\n"):
                        out.line(3, part)
        if status is not None:
            _state(out, "State", status.get("state") or {})
            if (status.get("lastState") or {}).get("terminated"):
                _state(out, "Last State", status["lastState"])
            out.line(2, "Ready:", "True" if status.get("ready") else "False")
            out.line(2, "Restart Count:", status.get("restartCount", 0))
        for key in ("limits", "requests"):
            values = (c.get("resources") or {}).get(key)
            if values:
                out.line(2, f"{key.title()}:")
                for name in sorted(values):
                    out.line(3, f"{name}:", values[name])
        for key in ("liveness", "readiness", "startup"):
            if c.get(f"{key}Probe"):
                out.line(2, f"{key.title()}:", probe(c[f"{key}Probe"]))
        _environment_from(out, c)
        _environment(out, c, owner)
        _mounts(out, c)


def _state(out: Text, title: str, state: Object) -> None:
    if state.get("running") is not None:
        out.line(2, f"{title}:", "Running")
        out.line(2, "  Started:", date(state["running"].get("startedAt")))
    elif state.get("terminated") is not None:
        ended = state["terminated"]
        out.line(2, f"{title}:", "Terminated")
        for key in ("reason", "message"):
            if ended.get(key):
                out.line(2, f"  {key.title()}:", ended[key])
        out.line(2, "  Exit Code:", ended.get("exitCode", 0))
        if ended.get("signal"):
            out.line(2, "  Signal:", ended["signal"])
        out.line(2, "  Started:", date(ended.get("startedAt")))
        out.line(2, "  Finished:", date(ended.get("finishedAt")))
    else:
        out.line(2, f"{title}:", "Waiting")
        reason = (state.get("waiting") or {}).get("reason")
        if reason:
            out.line(2, "  Reason:", reason)


def probe(p: Object) -> str:
    """`http-get http://:8080/healthz delay=0s timeout=1s period=1s #success=1 #failure=3`."""
    attributes = (
        f"delay={p.get('initialDelaySeconds', 0)}s timeout={p.get('timeoutSeconds', 0)}s period={p.get('periodSeconds', 0)}s "
        f"#success={p.get('successThreshold', 0)} #failure={p.get('failureThreshold', 0)}"
    )
    if "exec" in p:
        return f"exec [{' '.join(p['exec'].get('command') or [])}] {attributes}"
    if "httpGet" in p:
        get = p["httpGet"]
        host, port = get.get("host", ""), get.get("port", "")
        where = f"[{host}]" if ":" in host else host
        path = get.get("path", "")
        slash = "" if path.startswith("/") or not path else "/"
        return f"http-get {get.get('scheme', '').lower()}://{where}:{port}{slash}{path} {attributes}"
    if "tcpSocket" in p:
        return f"tcp-socket {p['tcpSocket'].get('host', '')}:{p['tcpSocket'].get('port', '')} {attributes}"
    if "grpc" in p:
        return f"grpc <pid>:{p['grpc'].get('port', 0)} {p['grpc'].get('service') or ''} {attributes}"
    return f"unknown {attributes}"


def _environment_from(out: Text, c: Object) -> None:
    if not c.get("envFrom"):
        return
    out.line(2, "Environment Variables from:")
    for e in c["envFrom"]:
        kind, reference = ("ConfigMap", e["configMapRef"]) if "configMapRef" in e else ("Secret", e.get("secretRef") or {})
        with_prefix = f" with prefix '{e['prefix']}'" if e.get("prefix") else ""
        out.line(3, reference.get("name", ""), kind + with_prefix, f"Optional: {str(bool(reference.get('optional'))).lower()}")


def _environment(out: Text, c: Object, owner: Object | None) -> None:
    env = c.get("env") or []
    out.line(2, "Environment:", *([] if env else ["<none>"]))
    for e in env:
        source: dict[str, Any] | None = e.get("valueFrom")
        name = f"{e['name']}:"
        if not source:
            for i, part in enumerate((e.get("value") or "").split("\n")):
                out.line(3, name if i == 0 else "", part)
        elif "fieldRef" in source:
            field = source["fieldRef"]
            value = pod_field(owner, field.get("fieldPath", "")) if owner else ""
            out.line(3, name, f"{value} ({field.get('apiVersion', '')}:{field.get('fieldPath', '')})")
        elif "resourceFieldRef" in source:
            resource = source["resourceFieldRef"].get("resource", "")
            value = container_resource(owner, c, source["resourceFieldRef"])
            if resource.startswith("limits.") and value == "0":
                value = "node allocatable"
            out.line(3, name, f"{value} ({resource})")
        else:
            kind = "secretKeyRef" if "secretKeyRef" in source else "configMapKeyRef"
            ref = source.get(kind) or {}
            what = "in secret" if kind == "secretKeyRef" else "of config map"
            text = f"<set to the key '{ref.get('key', '')}' {what} '{ref.get('name', '')}'>"
            out.line(3, name, text, f"Optional: {str(bool(ref.get('optional'))).lower()}")


def pod_field(obj: Object, path: str) -> str:
    """The value of a downward API field, as far as kubectl knows it: of the metadata's fields, whole; "" for the rest."""
    value = obj["metadata"].get(path.removeprefix("metadata."))
    if path in ("metadata.labels", "metadata.annotations"):
        return "\n".join(f'{k}="{v}"' for k, v in sorted((value or {}).items()))
    return str(value or "") if path in ("metadata.name", "metadata.namespace", "metadata.uid") else ""


def _mounts(out: Text, c: Object) -> None:
    mounts = c.get("volumeMounts") or []
    out.line(2, "Mounts:", *([] if mounts else ["<none>"]))
    for m in sorted(mounts, key=lambda m: str(m.get("mountPath", ""))):
        flags = ["ro" if m.get("readOnly") else "rw"]
        if m.get("subPath"):
            flags.append(f'path="{m["subPath"]}"')
        out.line(3, f"{m.get('mountPath', '')} from {m.get('name', '')} ({','.join(flags)})")
    if c.get("volumeDevices"):
        out.line(2, "Devices:")
        for d in sorted(c["volumeDevices"], key=lambda d: str(d.get("devicePath", ""))):
            out.line(3, f"{d.get('devicePath', '')} from {d.get('name', '')}")


def tolerations(out: Text, values: list[Object], indent: str = "") -> None:
    if not values:
        out.line(0, f"{indent}Tolerations:", "<none>")
    for i, t in enumerate(sorted(values, key=lambda t: str(t.get("key", "")))):
        text = t.get("key") or ""
        text += f"={t['value']}" if t.get("value") else ""
        text += f":{t['effect']}" if t.get("effect") else ""
        if t.get("operator") == "Exists" and not t.get("value"):
            text += " op=Exists" if text else "op=Exists"
        if t.get("tolerationSeconds") is not None:
            text += f" for {t['tolerationSeconds']}s"
        out.line(0, f"{indent}Tolerations:" if i == 0 else indent, text)


def _spread(out: Text, constraints: list[Object], indent: str = "") -> None:
    from nsk8s.api.selectors import from_label_selector

    for i, c in enumerate(sorted(constraints, key=lambda c: str(c.get("topologyKey", "")))):
        text = f"{c.get('topologyKey', '')}:{c.get('whenUnsatisfiable', '')} when max skew {c.get('maxSkew', 0)} is exceeded"
        if c.get("labelSelector"):
            text += f" for selector {from_label_selector(c['labelSelector'])}"
        out.line(0, f"{indent}Topology Spread Constraints:" if i == 0 else indent, text)
