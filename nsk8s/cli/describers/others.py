"""Namespace, ConfigMap, Secret, ServiceAccount, PriorityClass. Pure."""

from __future__ import annotations

import base64

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.cli.describers.generic import header
from nsk8s.cli.describers.text import Text, annotation_lines, go, pairs


def namespace(out: Text, obj: Object) -> None:
    out.line(0, "Name:", meta.name(obj))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    status = obj.get("status") or {}
    out.line(0, "Status:", status.get("phase", ""))
    if status.get("conditions"):
        out.line(0, "Conditions:")
        out.line(1, "Type", "Status", "LastTransitionTime", "Reason", "Message")
        out.line(1, "----", "------", "------------------", "------", "-------")
        from nsk8s.cli.describers.text import date

        for c in status["conditions"]:
            out.line(
                1, c["type"], c["status"], date(c.get("lastTransitionTime")), c.get("reason", ""), c.get("message", "")
            )  # fmt: skip
    out.line(0, "\nNo resource quota.")
    out.line(0, "\nNo LimitRange resource.")


def config_map(out: Text, obj: Object) -> None:
    header(out, obj)
    out.line(0, "\nData\n====")
    for key in sorted(obj.get("data") or {}):
        out.line(0, f"{key}:\n----\n{obj['data'][key]}\n")
    out.line(0, "\nBinaryData\n====")
    for key in sorted(obj.get("binaryData") or {}):
        out.line(0, f"{key}: {len(base64.b64decode(obj['binaryData'][key]))} bytes")
    out.line(0, "")


def secret(out: Text, obj: Object) -> None:
    header(out, obj)
    out.line(0, "\nType:", obj.get("type", ""))
    out.line(0, "\nData\n====")
    for key in sorted(obj.get("data") or {}):
        raw = base64.b64decode(obj["data"][key])
        token = obj.get("type") == "kubernetes.io/service-account-token" and key == "token"
        out.line(0, f"{key}:", raw.decode(errors="replace") if token else f"{len(raw)} bytes")


def service_account(out: Text, obj: Object, tokens: list[str]) -> None:
    header(out, obj)
    for title, values in (
        ("Image pull secrets", [s.get("name", "") for s in obj.get("imagePullSecrets") or []]),
        ("Mountable secrets", [s.get("name", "") for s in obj.get("secrets") or []]),
        ("Tokens", tokens),
    ):
        for i, value in enumerate(values or ["<none>"]):
            out.line(0, f"{title}:" if i == 0 else "", value)


def priority_class(out: Text, obj: Object) -> None:
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Value:", obj.get("value", 0))
    out.line(0, "GlobalDefault:", go(bool(obj.get("globalDefault"))))
    out.line(0, "PreemptionPolicy:", obj.get("preemptionPolicy", ""))
    out.line(0, "Description:", obj.get("description", ""))
    annotation_lines(out, meta.annotations(obj))
