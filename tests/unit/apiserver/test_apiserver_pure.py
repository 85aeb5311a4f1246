"""The server's pure decisions: deletion, negotiation, tokens, structural schemas, JSONPath, dial errors."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api.kinds import builtin
from nsk8s.apiserver import jsonpath, structural
from nsk8s.apiserver.content import Accept, check_depth, negotiate, parse_yaml
from nsk8s.apiserver.deletion import DeleteOptions, Verdict, decide_delete
from nsk8s.apiserver.discovery import aggregated_version
from nsk8s.apiserver.kubelet import go_dial_error
from nsk8s.apiserver.tokens import ServiceAccountTokens
from nsk8s.client import certs
from nsk8s.errors import BadRequest, NotAcceptable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POD, NAMESPACE, CONFIG_MAP = builtin("", "Pod"), builtin("", "Namespace"), builtin("", "ConfigMap")


def pod(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", **metadata}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}}


def verdict(kind: Any, obj: dict[str, Any], **options: Any) -> tuple[Verdict, dict[str, Any]]:
    what, new = decide_delete(kind, obj, DeleteOptions(**options), NOW)
    return what, new["metadata"]


def test_deletion_is_now_later_or_not_at_all() -> None:
    assert verdict(CONFIG_MAP, pod())[0] is Verdict.REMOVE
    what, metadata = verdict(POD, pod())
    assert (what, metadata["deletionTimestamp"], metadata["deletionGracePeriodSeconds"]) == (
        Verdict.MARK, "2026-01-01T00:00:30Z", 30)  # fmt: skip
    assert verdict(POD, pod(**metadata))[0] is Verdict.KEEP
    assert verdict(POD, pod(**metadata), grace_s=60)[0] is Verdict.KEEP
    what, shorter = verdict(POD, pod(**metadata), grace_s=5)
    assert (what, shorter["deletionTimestamp"], shorter["deletionGracePeriodSeconds"]) == (
        Verdict.MARK, "2026-01-01T00:00:05Z", 5)  # fmt: skip
    assert verdict(POD, pod(**metadata), grace_s=0)[0] is Verdict.REMOVE
    assert verdict(POD, {**pod(), "spec": {}})[0] is Verdict.REMOVE
    assert verdict(POD, {**pod(), "status": {"phase": "Succeeded"}})[0] is Verdict.REMOVE


def test_finalizers_and_propagation() -> None:
    what, metadata = verdict(CONFIG_MAP, pod(finalizers=["x/y"]))
    assert (what, metadata["deletionGracePeriodSeconds"]) == (Verdict.MARK, 0)
    assert verdict(CONFIG_MAP, pod(finalizers=["x/y"], **{k: metadata[k] for k in metadata if k[:8] == "deletion"}))[0] is Verdict.KEEP
    assert verdict(CONFIG_MAP, pod(), propagation="Foreground")[1]["finalizers"] == ["foregroundDeletion"]
    assert verdict(CONFIG_MAP, pod(), propagation="Orphan")[1]["finalizers"] == ["orphan"]
    assert verdict(CONFIG_MAP, pod(finalizers=["orphan"]), propagation="Background")[0] is Verdict.REMOVE
    space = {"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}}
    what, new = decide_delete(NAMESPACE, space, DeleteOptions(), NOW)
    assert (what, new["status"]["phase"]) == (Verdict.MARK, "Terminating")


def test_negotiation() -> None:
    table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io"
    assert negotiate(table) == Accept("Table", "v1")
    assert negotiate("application/vnd.kubernetes.protobuf,application/json") == Accept()
    assert negotiate("application/vnd.kubernetes.protobuf") == Accept()
    assert negotiate("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io") == Accept("PartialObjectMetadata", "v1")
    with pytest.raises(NotAcceptable):
        negotiate("text/html")
    with pytest.raises(NotAcceptable):
        negotiate("application/json;as=Table;v=v9;g=meta.k8s.io")
    assert aggregated_version("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json") == "v2"
    assert aggregated_version("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList") == "v2beta1"
    assert aggregated_version("application/json") == ""


def test_yaml_keeps_dates_as_text_and_refuses_bombs() -> None:
    assert parse_yaml(b"a: 2026-01-01\nb: yes\n1: x") == {"a": "2026-01-01", "b": True, "1": "x"}
    bomb = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n".encode() for i in range(9)
    )
    for bad in (bomb, b"a: 1\na: 2", b"? [a]\n: b", b"a: [", b"!!python/object:os.system {}"):
        with pytest.raises(BadRequest):
            parse_yaml(bad)
    with pytest.raises(BadRequest):
        check_depth({"a": {"a": {"a": {}}}}, 2)


def test_tokens_live_as_long_as_what_they_are_bound_to() -> None:
    account = {"metadata": {"name": "sa", "namespace": "ns", "uid": "u1"}}
    pod_object = {"metadata": {"name": "p", "namespace": "ns", "uid": "u2"}, "spec": {"nodeName": "n"}}
    node = {"metadata": {"name": "n", "uid": "u3"}}
    there: dict[tuple[str, str, str], Any] = {
        ("serviceaccounts", "ns", "sa"): account, ("pods", "ns", "p"): pod_object, ("nodes", "", "n"): node,
    }  # fmt: skip

    def lookup(*key: str) -> Any:
        return there.get(key)  # type: ignore[call-overload]

    key = certs.new_key()
    tokens = ServiceAccountTokens("https://issuer", key, [], lookup)
    token, expiry = tokens.issue(account, [], 600, ("Pod", pod_object))
    assert expiry > datetime.now(UTC).timestamp() + 590
    user = tokens.verify(token)
    assert user is not None
    assert (user.name, user.groups[1]) == ("system:serviceaccount:ns:sa", "system:serviceaccounts:ns")
    assert user.extra["authentication.kubernetes.io/node-name"] == ["n"]
    assert tokens.verify(token, ["other"]) is None
    assert ServiceAccountTokens("https://issuer", certs.new_key(), [], lookup).verify(token) is None
    assert ServiceAccountTokens("https://issuer", certs.new_key(), [certs.public_key(key)], lookup).verify(token) == user
    assert ServiceAccountTokens("https://elsewhere", key, [], lookup).verify(token) is None
    old, _ = tokens.issue(account, [], -1)
    assert tokens.verify(old) is None
    there["pods", "ns", "p"] = {**pod_object, "metadata": {**pod_object["metadata"], "uid": "another"}}
    assert tokens.verify(token) is None
    for junk in ("", "a.b.c", "e30.e30.e30", token + "A", "ü.ü.ü"):
        assert tokens.verify(junk) is None


SCHEMA = {
    "type": "object", "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}}}},
        "either": {"x-kubernetes-int-or-string": True},
    },
}  # fmt: skip


def test_structural_schemas_prune_fill_and_check() -> None:
    value = {"size": 1, "odd": 1, "free": {"b": 1}, "list": [{"a": "x", "z": 1}], "map": {"k": 1}, "metadata": {}}
    assert structural.prune(value, SCHEMA, top=True) == ["odd", "list[0].z"]
    structural.fill(value, SCHEMA)
    assert value == {"size": 1, "color": "red", "free": {"b": 1}, "list": [{"a": "x"}], "map": {"k": 1}, "metadata": {}}
    assert structural.check(value, SCHEMA) == []
    wrong = {"size": 0, "color": "grün", "list": [{"a": "y"}, 3], "map": {"k": "v"}, "either": []}
    assert [c.field for c in structural.check(wrong, SCHEMA)] == ["size", "color", "list[0].a", "list[1]", "map.k", "either"]
    assert structural.check({}, SCHEMA)[0].message == "Required value"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_structural_schemas_survive_any_json(value: Any) -> None:
    structural.prune(value, SCHEMA)
    structural.fill(value, SCHEMA)
    structural.check(value, SCHEMA)


def test_jsonpath() -> None:
    obj = {"spec": {"a": [1, 2], "x.y": "dotted"}, "status": {"conditions": [{"type": "A", "status": "1"}, {"type": "B", "status": "2"}]}}
    assert jsonpath.find(obj, ".spec.a[1]") == [2]
    assert jsonpath.find(obj, ".spec.a[*]") == [1, 2]
    assert jsonpath.find(obj, ".spec['x.y']") == ["dotted"]
    assert jsonpath.find(obj, r".spec.x\.y") == ["dotted"]
    assert jsonpath.find(obj, '.status.conditions[?(@.type=="B")].status') == ["2"]
    assert jsonpath.find(obj, "{.status.conditions[0].type}") == ["A"]
    assert jsonpath.find(obj, ".nothing.here") == []
    assert jsonpath.find(obj, "..all") == []


def test_dial_errors_are_gos() -> None:
    at = "192.168.56.12:10250"
    assert go_dial_error(OSError(errno.EHOSTUNREACH, ""), at) == f"dial tcp {at}: connect: no route to host"
    assert go_dial_error(ConnectionRefusedError(errno.ECONNREFUSED, ""), at) == f"dial tcp {at}: connect: connection refused"
    assert go_dial_error(TimeoutError(), at) == f"dial tcp {at}: i/o timeout"


def test_a_grace_counts_from_the_first_request() -> None:
    asked = NOW - timedelta(seconds=20)
    marked = pod(deletionTimestamp=(asked + timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%SZ"), deletionGracePeriodSeconds=30)
    assert verdict(POD, marked, grace_s=10)[1]["deletionTimestamp"] == "2025-12-31T23:59:50Z"
