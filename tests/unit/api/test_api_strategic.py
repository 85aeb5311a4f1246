"""Strategic merge patch, with the patches that kubectl really sends."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nsk8s.api.models.apps import Deployment
from nsk8s.api.models.core import ServiceAccount
from nsk8s.api.models.core_node import Node
from nsk8s.api.models.core_service import Service
from nsk8s.api.patch import strategic_merge_patch
from nsk8s.errors import BadRequest


def deployment(*containers: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "x", "labels": {"a": "b"}, "finalizers": ["one", "two"]},
        "spec": {
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {"containers": [dict(c) for c in containers]}},
        },
    }


def patched(obj: dict[str, Any], spec: dict[str, Any]) -> list[dict[str, Any]]:
    out = strategic_merge_patch(obj, {"spec": {"template": {"spec": spec}}}, Deployment)
    return list(out["spec"]["template"]["spec"].get("containers", []))


A, B, C = {"name": "a", "image": "1"}, {"name": "b", "image": "1"}, {"name": "c", "image": "1"}


def test_items_merge_by_name_and_new_ones_come_first() -> None:
    assert patched(deployment(A, B), {"containers": [{"name": "b", "image": "2"}, C]}) == [
        A,
        {"name": "b", "image": "2"},
        C,
    ]
    assert patched(deployment(A), {"containers": [C]}) == [C, A]


def test_set_image_with_element_order() -> None:
    patch = {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "9"}]}
    assert patched(deployment(A, B), patch) == [B, {"name": "a", "image": "9"}]


def test_order_keeps_the_servers_own_items_in_place() -> None:
    patch = {"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}]}
    assert [c["name"] for c in patched(deployment(A, B, C), patch)] == ["a", "b", "c"]
    patch = {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}
    assert [c["name"] for c in patched(deployment(A, B, C), patch)] == ["b", "c", "a"]


def test_delete_directive() -> None:
    assert patched(deployment(A, B), {"containers": [{"name": "a", "$patch": "delete"}]}) == [B]
    assert patched(deployment(A, B), {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}],
        "containers": [C, {"name": "a", "$patch": "delete"}]}) == [B, C]  # fmt: skip


def test_replace_directives() -> None:
    assert patched(deployment(A, B), {"containers": [{"$patch": "replace"}, C]}) == [C]
    out = strategic_merge_patch(deployment(A), {"metadata": {"labels": {"$patch": "replace", "z": "1"}}}, Deployment)
    assert out["metadata"]["labels"] == {"z": "1"}
    out = strategic_merge_patch(deployment(A), {"metadata": {"labels": {"$patch": "delete"}}}, Deployment)
    assert out["metadata"]["labels"] == {}


def test_nothing_of_the_directives_remains_in_new_parts() -> None:
    out = strategic_merge_patch({}, {"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "a", "command": None, "$patch": "merge"} | {"env": [{"$patch": "replace"}]}],
    }}}}, Deployment)  # fmt: skip
    assert out == {"spec": {"template": {"spec": {"containers": [{"name": "a", "env": []}]}}}}


def test_retain_keys() -> None:
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge_patch(deployment(A), patch, Deployment)["spec"]["strategy"] == {"type": "Recreate"}
    with pytest.raises(BadRequest, match="retainKeys"):
        strategic_merge_patch(deployment(A), {"spec": {"strategy": {"$retainKeys": ["x"], "type": "R"}}}, Deployment)


def test_null_deletes_and_unknown_null_is_nothing() -> None:
    out = strategic_merge_patch(deployment(A), {"metadata": {"labels": {"a": None, "q": None}}, "zz": None}, Deployment)
    assert out["metadata"]["labels"] == {}
    assert "zz" not in out


def test_primitive_lists() -> None:
    out = strategic_merge_patch(deployment(A), {"metadata": {"finalizers": ["three", "one"]}}, Deployment)
    assert sorted(out["metadata"]["finalizers"]) == ["one", "three", "two"]
    out = strategic_merge_patch(
        deployment(A), {"metadata": {"$deleteFromPrimitiveList/finalizers": ["one"]}}, Deployment
    )
    assert out["metadata"]["finalizers"] == ["two"]


def test_lists_without_a_merge_key_are_replaced() -> None:
    have = {"spec": {"template": {"spec": {"containers": [{"name": "a", "command": ["x", "y"]}]}}}}
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "a", "command": ["z"]}]}}}}
    out = strategic_merge_patch(have, patch, Deployment)
    assert out["spec"]["template"]["spec"]["containers"][0]["command"] == ["z"]
    taints = {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}
    out = strategic_merge_patch(taints, {"spec": {"taints": [{"key": "b", "effect": "NoExecute"}]}}, Node)
    assert out["spec"]["taints"] == [{"key": "b", "effect": "NoExecute"}]


def test_merge_keys_of_other_kinds() -> None:
    ports = {"spec": {"ports": [{"port": 80, "name": "http"}]}}
    out = strategic_merge_patch(ports, {"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}, Service)
    assert out["spec"]["ports"] == [{"port": 80, "name": "http", "nodePort": 30080}]
    out = strategic_merge_patch({"secrets": [{"name": "a"}]}, {"secrets": [{"name": "b"}]}, ServiceAccount)
    assert out["secrets"] == [{"name": "b"}, {"name": "a"}]
    conditions = {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "False"}]}}
    out = strategic_merge_patch(conditions, {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, Node)
    assert {c["type"]: c["status"] for c in out["status"]["conditions"]} == {"Ready": "Unknown", "Disk": "False"}


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [{"image": "1"}]},
        {"containers": ["a"]},
        {"containers": [{"$patch": "explode", "name": "a"}]},
        {"$setElementOrder/containers": "x"},
        {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]},
        {"$retainKeys": "x"},
        {"$deleteFromPrimitiveList/containers": 1},
        {"$patch": "no"},
        {"tolerations": [[1]], "containers": [[[1]]]},
    ],
)
def test_nonsense_is_a_bad_request(spec: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        patched(deployment(A, B), spec)


def test_a_patch_can_be_used_again() -> None:
    patch = {"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [A]}}}}
    before = copy.deepcopy(patch)
    first = strategic_merge_patch({}, patch, Deployment)
    first["spec"]["template"]["spec"]["containers"][0]["image"] = "changed"
    assert patch == before
