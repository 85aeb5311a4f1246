"""Kinds of one's own: served, shown, checked and removed at run time, by the real kubectl."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


def definition(group: str) -> str:
    return f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: widgets.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {{status: {{}}, scale: {{specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}}}
    additionalPrinterColumns:
    - {{name: Size, type: integer, jsonPath: .spec.size}}
    - {{name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {{type: integer, minimum: 1, maximum: 9}}
              color: {{type: string, enum: [red, green], default: red}}
              replicas: {{type: integer}}
          status:
            type: object
            x-kubernetes-preserve-unknown-fields: true
  - name: v1beta1
    served: true
    storage: false
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


def widget(group: str, name: str, **spec: Any) -> str:
    return json.dumps({"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})


def test_a_definition_becomes_a_kind(kubectl: Kubectl, api: Any) -> None:
    group = f"g{os.urandom(4).hex()}.example.com"
    kubectl("create", "-f", "-", stdin=definition(group))
    kubectl("wait", "--for=condition=Established", f"crd/widgets.{group}", "--timeout=30s")
    assert kubectl("apply", "-f", "-", stdin=widget(group, "a", size=3)).stdout == f"widget.{group}/a created\n"
    assert kubectl("apply", "-f", "-", stdin=widget(group, "a", size=4)).stdout == f"widget.{group}/a configured\n"
    kubectl("apply", "--server-side", "--field-manager=x", "-f", "-", stdin=widget(group, "b", size=5))
    made = json.loads(kubectl("get", f"wd.{group}", "a", "-o", "json").stdout)
    assert made["spec"] == {"size": 4, "color": "red"}
    assert made["metadata"]["generation"] == 2
    merge = {"Content-Type": "application/merge-patch+json"}
    path = f"/apis/{group}/v1/namespaces/{kubectl.namespace}/widgets"  # type: ignore[attr-defined]
    status = {"status": {"replicas": 2, "conditions": [{"type": "Ready", "status": "True"}]}}
    assert api.request("PATCH", f"{path}/a/status", status, headers=merge).code == 200
    table = [line.split() for line in kubectl("get", f"widgets.{group}").stdout.splitlines()]
    assert table == [["NAME", "SIZE", "READY"], ["a", "4", "True"], ["b", "5"]]
    kubectl("scale", f"widgets.{group}", "a", "--replicas=7")
    assert api.request("GET", f"{path}/a/scale").json()["spec"] == {"replicas": 7}
    assert "KIND:       Widget" in kubectl("explain", f"widgets.{group}.spec.size").stdout
    other = api.request("GET", path.replace("/v1/", "/v1beta1/") + "/a").json()
    assert other["apiVersion"] == f"{group}/v1beta1"

    wrong = kubectl("create", "-f", "-", stdin=widget(group, "c", size=10), check=False).stderr
    assert "spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9" in wrong
    wrong = kubectl("create", "-f", "-", stdin=widget(group, "c", size=1, color="blue"), check=False).stderr
    assert 'spec.color: Unsupported value: "blue": supported values: "red", "green"' in wrong
    wrong = kubectl("create", "-f", "-", stdin=widget(group, "c"), check=False).stderr
    assert "spec.size: Required value" in wrong
    wrong = kubectl("create", "-f", "-", stdin=widget(group, "c", size=1, shape="round"), check=False).stderr
    assert 'unknown field "spec.shape"' in wrong
    strategic = kubectl("patch", f"widgets.{group}", "a", "-p", '{"spec": {"size": 5}}', check=False)
    assert "415" in strategic.stderr or "UnsupportedMediaType" in strategic.stderr or "unknown format" in strategic.stderr

    kubectl("delete", "crd", f"widgets.{group}", "--timeout=30s")
    assert api.request("GET", path).code == 404
    kubectl("create", "-f", "-", stdin=definition(group))
    kubectl("wait", "--for=condition=Established", f"crd/widgets.{group}", "--timeout=30s")
    assert api.request("GET", path).json()["items"] == []


def test_kinds_are_there_again_after_a_restart(apiserver_factory: Callable[..., Any]) -> None:
    api = apiserver_factory()
    yaml = {"Content-Type": "application/yaml"}
    made = api.request(
        "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition("r.example.com").encode(), headers=yaml
    )
    assert made.code == 201, made.body
    path = "/apis/r.example.com/v1/namespaces/default/widgets"
    assert api.request("POST", path, {"metadata": {"name": "w"}, "spec": {"size": 2}}).code == 201
    api.stop()
    api.start()
    assert [o["metadata"]["name"] for o in api.request("GET", path).json()["items"]] == ["w"]
