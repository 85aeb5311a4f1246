"""OpenAPI documents: what kubectl looks for is there, and every reference leads somewhere."""

from __future__ import annotations

import json
import re

import pytest

from nsk8s.api.kinds import BUILTIN
from nsk8s.api.openapi import document
from nsk8s.api.scheme import Kind

GROUP_VERSIONS = sorted({k.api_version for k in BUILTIN})


@pytest.mark.parametrize("api_version", GROUP_VERSIONS)
def test_documents(api_version: str) -> None:
    kinds = [k for k in BUILTIN if k.api_version == api_version]
    doc = document(kinds)
    schemas = doc["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(doc))) <= set(schemas)
    for kind in kinds:
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        assert any(gvk in s.get("x-kubernetes-group-version-kind", []) for s in schemas.values())
        if "patch" not in kind.verbs:
            continue
        patches = [p["patch"] for p in doc["paths"].values() if p.get("patch", {}).get("x-kubernetes-group-version-kind") == gvk]
        assert len(patches) == 1
        assert "fieldValidation" in [p["name"] for p in patches[0]["parameters"]]
        assert "application/strategic-merge-patch+json" in patches[0]["requestBody"]["content"]


def test_merge_keys_list_types_and_required_fields() -> None:
    schemas = document([k for k in BUILTIN if k.api_version == "v1"])["components"]["schemas"]
    spec = schemas["io.k8s.api.core.v1.PodSpec"]
    containers = spec["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-patch-strategy"] == "merge"
    assert containers["x-kubernetes-list-type"] == "map"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert spec["required"] == ["containers"]
    assert spec["properties"]["volumes"]["x-kubernetes-patch-strategy"] == "merge,retainKeys"
    assert schemas["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"] == "atomic"
    assert schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"] == "TCP"


def test_custom_kinds_do_not_offer_strategic_merge() -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "description": "What is wanted."}}}
    kind = Kind("shop.example.com", "v1", "Order", "orders", True, schema=schema)
    doc = document([kind])
    assert doc["components"]["schemas"]["com.example.shop.v1.Order"]["properties"]["spec"]["description"] == "What is wanted."
    patch = doc["paths"]["/apis/shop.example.com/v1/namespaces/{namespace}/orders/{name}"]["patch"]
    assert set(patch["requestBody"]["content"]) == {
        "application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}  # fmt: skip
    assert list(schema["properties"]) == ["spec"], "the CRD's schema is not changed"
