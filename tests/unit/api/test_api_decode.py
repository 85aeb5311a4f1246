"""Decoding: types, unknown fields, nulls and zero values, canonical forms."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api.decode import decode, duplicate_fields, field_warnings, strict_error
from nsk8s.api.kinds import BUILTIN, builtin
from nsk8s.api.scheme import Kind
from nsk8s.errors import BadRequest

POD, DEPLOYMENT = builtin("", "Pod"), builtin("apps", "Deployment")


def pod(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}


def test_nulls_and_zero_values_vanish_but_pointers_keep_them() -> None:
    data = pod(
        hostNetwork=False, nodeName="", enableServiceLinks=False, terminationGracePeriodSeconds=0, priority=None,
        containers=[{"name": "c", "env": [{"name": "A", "value": ""}], "ports": [{"containerPort": 1, "hostPort": 0}],
                     "args": [], "resources": {}}],
        volumes=[{"name": "v", "emptyDir": {}}],
    )  # fmt: skip
    data["metadata"]["creationTimestamp"] = None
    data["status"] = {}
    out, unknown = decode(POD, data)
    assert unknown == []
    assert out["metadata"] == {"name": "x"}
    assert out["spec"] == {
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "env": [{"name": "A"}], "ports": [{"containerPort": 1}], "resources": {}}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }
    assert out["status"] == {}


def test_unknown_fields_are_named_and_dropped() -> None:
    data = pod(foo=1, containers=[{"name": "c", "bar": {"x": 1}}, {"name": "d"}], Containers=[])
    out, unknown = decode(POD, data)
    assert unknown == ["spec.foo", "spec.containers[0].bar", "spec.Containers"]
    assert out["spec"] == {"containers": [{"name": "c"}, {"name": "d"}]}
    assert strict_error(POD, unknown[:2], ["spec.a"]).message == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
        'duplicate field "spec.a", unknown field "spec.foo", unknown field "spec.containers[0].bar"'
    )
    assert field_warnings(["spec.foo"]) == ['unknown field "spec.foo"']


def test_duplicate_fields_are_named_with_their_path() -> None:
    text = b'{"a": 1, "spec": {"x": [{"n": 1, "n": 2}, {"n": 1}], "y": 1, "y": {"y": 1}}, "a": 2}'
    assert duplicate_fields(text) == ["a", "spec.y", "spec.x[0].n"]
    assert duplicate_fields('{"a": {"a": 1}}') == []
    assert duplicate_fields(b"{") == []
    assert duplicate_fields("[" * 100_000) == []


def test_canonical_forms() -> None:
    data = pod(containers=[{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}])
    data["metadata"]["creationTimestamp"] = "2026-01-01T02:00:00.5+02:00"
    out, _ = decode(POD, data)
    assert out["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
    assert out["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    lease = {"metadata": {}, "spec": {"renewTime": "2026-01-01T00:00:00.123456789Z"}}
    assert decode(builtin("coordination.k8s.io", "Lease"), lease)[0]["spec"]["renewTime"] == "2026-01-01T00:00:00.123456Z"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"containers": [{"name": 1}]},
         "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string"),
        ({"containers": {}}, "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"),
        ({"containers": ["x"]},
         "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container"),
        ({"priority": "x"}, "json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32"),
        ({"priority": 1.5}, "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32"),
        ({"priority": 2**40},
         f"json: cannot unmarshal number {2**40} into Go struct field PodSpec.spec.priority of type int32"),
        ({"hostNetwork": "yes"}, "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool"),
        ({"nodeSelector": {"a": 1}},
         "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type string"),
        ({"containers": [{"resources": {"limits": {"cpu": "x"}}}]},
         "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ],
)  # fmt: skip
def test_wrong_types_in_gos_words(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as e:
        decode(POD, pod(**spec))
    assert e.value.message == f'Pod in version "v1" cannot be handled as a Pod: {message}'


@pytest.mark.parametrize("data", [[], "x", None, 1, {"metadata": []}, {"spec": 1},
                                  {"metadata": {"creationTimestamp": "noon"}}, {"metadata": {"labels": {"a": {}}}}])  # fmt: skip
def test_more_wrong_types(data: Any) -> None:
    with pytest.raises(BadRequest):
        decode(POD, data)


def test_base64() -> None:
    secret = builtin("", "Secret")
    assert decode(secret, {"data": {"a": "YQ=="}})[0]["data"] == {"a": "YQ=="}
    with pytest.raises(BadRequest, match="illegal base64 data"):
        decode(secret, {"data": {"a": "a b"}})


def test_int_or_string_and_floats_that_are_whole() -> None:
    service = builtin("", "Service")
    out, _ = decode(service, {"spec": {"ports": [{"port": 80.0, "targetPort": "http"}, {"port": 1, "targetPort": 2}]}})
    assert out["spec"]["ports"] == [{"port": 80, "targetPort": "http"}, {"port": 1, "targetPort": 2}]
    with pytest.raises(BadRequest, match=r"of type intstr\.IntOrString"):
        decode(service, {"spec": {"ports": [{"port": 1, "targetPort": 1.5}]}})


def test_kinds_without_a_model_only_have_their_metadata_checked() -> None:
    kind = Kind("g.io", "v1", "K", "ks", True, schema={})
    out, unknown = decode(kind, {"spec": {"anything": None}, "metadata": {"name": "x", "odd": 1}})
    assert out == {"spec": {"anything": None}, "metadata": {"name": "x"}}
    assert unknown == ["metadata.odd"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["spec", "metadata", "status", "containers", "name", "template", "data", "env", "ports", "x"]),
        inner, max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@given(st.sampled_from(BUILTIN), st.dictionaries(st.sampled_from(["spec", "metadata", "status", "data"]), JSON))
def test_no_input_crashes_decoding_defaulting_or_validation(kind: Kind, data: dict[str, Any]) -> None:
    try:
        obj, _ = decode(kind, data)
    except BadRequest:
        return
    again, unknown = decode(kind, copy.deepcopy(obj))
    assert again == obj
    assert unknown == []
    strategy = kind.strategy
    for step in (strategy.default, strategy.prepare_create):
        if step:
            step(obj)
    if strategy.validate:
        strategy.validate(obj)


class Pairs(list[Any]):
    """An object as pairs: names may come twice."""


def written(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + " , ".join(f"{json.dumps(k)} : {written(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(v) for v in value) + "]"
    return json.dumps(value)


def has_twice(value: Any) -> bool:
    if isinstance(value, Pairs):
        last = dict(value)
        return len(last) < len(value) or any(has_twice(v) for v in last.values())
    return isinstance(value, list) and any(has_twice(v) for v in value)


@given(st.recursive(
    st.none() | st.integers(0, 9) | st.text('a":\\u0022 {}', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(st.text('ab" :', max_size=2), inner), max_size=4).map(Pairs), max_leaves=12,
))  # fmt: skip
def test_the_quick_look_for_duplicates_misses_none(value: Any) -> None:
    text = written(value)
    found = duplicate_fields(text)
    assert bool(found) is has_twice(value), text
