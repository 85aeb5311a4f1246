"""JSON Patch and JSON merge patch."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api.patch import json_patch, merge_patch
from nsk8s.errors import BadRequest, Invalid, RequestEntityTooLarge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab~/", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("document", "operations", "wanted"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/1", "value": 9}], {"a": [1, 9, 2]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": [1, 2]}, [{"op": "remove", "path": "/a/0"}], {"a": [2]}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": {"x": 1}}], {"a": {"x": 1}}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
        ({"a": {"x": 1}}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a/b": 1, "~": 2}, [{"op": "test", "path": "/a~1b", "value": 1}, {"op": "remove", "path": "/~0"}], {"a/b": 1}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"z": 1}}], {"z": 1}),
        ({"a": 1}, [{"op": "test", "path": "/gone", "value": None}], {"a": 1}),
    ],
)
def test_operations(document: Any, operations: list[Any], wanted: Any) -> None:
    assert json_patch(document, operations) == wanted


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/x"},
        {"op": "replace", "path": "/x", "value": 1},
        {"op": "test", "path": "/a", "value": 2},
        {"op": "test", "path": "/t", "value": 1},
        {"op": "add", "path": "/x/y", "value": 1},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "add", "path": "/l/x", "value": 1},
        {"op": "add", "path": "/a/b", "value": 1},
        {"op": "move", "from": "/o", "path": "/o/p"},
        {"op": "remove", "path": ""},
    ],
)
def test_what_does_not_apply_is_invalid(operation: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        json_patch({"a": 1, "l": [1], "t": True, "o": {}}, [operation])


@pytest.mark.parametrize(
    "operation",
    [{"op": "jump", "path": "/a"}, {"op": "add", "value": 1}, {"op": "add", "path": "a", "value": 1}, "add",
     {"op": "add", "path": "/a"}, {"op": "move", "path": "/a"}, {"path": "/a"}],
)  # fmt: skip
def test_malformed_is_a_bad_request(operation: Any) -> None:
    with pytest.raises(BadRequest):
        json_patch({"a": 1}, [operation])


def test_limits() -> None:
    with pytest.raises(RequestEntityTooLarge):
        json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)
    doubling = [{"op": "copy", "from": "/a", "path": f"/a/{i}"} for i in range(40)]
    with pytest.raises(Invalid, match="copies more than"):
        json_patch({"a": {"x": "y" * 1000}}, doubling)


def test_the_patch_document_is_not_shared() -> None:
    value = {"x": [1]}
    out = json_patch({}, [{"op": "add", "path": "/a", "value": value}])
    out["a"]["x"].append(2)
    assert value == {"x": [1]}


@given(JSON, st.lists(st.fixed_dictionaries({
    "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
    "path": st.sampled_from(["", "/a", "/b", "/a/0", "/a/-", "/a/b", "/~0", "/a/-1"]),
}, optional={"from": st.sampled_from(["/a", "/b", ""]), "value": JSON}), max_size=4))  # fmt: skip
def test_no_patch_crashes(document: Any, operations: list[Any]) -> None:
    with contextlib.suppress(Invalid, BadRequest):
        json_patch(copy.deepcopy(document), operations)


@pytest.mark.parametrize(
    ("target", "patch", "wanted"),
    [  # the table of RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, wanted: Any) -> None:
    assert merge_patch(target, patch) == wanted


@given(JSON, JSON)
def test_merging_twice_is_merging_once(target: Any, patch: Any) -> None:
    once = merge_patch(copy.deepcopy(target), patch)
    assert merge_patch(copy.deepcopy(once), patch) == once
