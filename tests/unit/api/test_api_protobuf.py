"""Protobuf bodies as kubectl 1.32 and later sends them; messages are put together by hand here."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api import protobuf
from nsk8s.errors import BadRequest


def varint(n: int) -> bytes:
    n &= 2**64 - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes((*out, n))


def text(number: int, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def num(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def body(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + text(1, text(1, api_version) + text(2, kind)) + text(2, raw) + text(3, "") + text(4, "")


def decoded(api_version: str, kind: str, raw: bytes) -> dict[str, Any]:
    obj = protobuf.decode(body(api_version, kind, raw))
    assert (obj.pop("apiVersion"), obj.pop("kind")) == (api_version, kind)
    return obj


def meta(name: str) -> bytes:
    """As kubectl sends it: zero values and an empty time included."""
    return text(1, name) + text(2, "") + text(3, "") + text(4, "") + text(5, "") + text(6, "") + num(7, 0) + text(8, b"")


def entry(key: str, value: str | bytes) -> bytes:
    return text(1, key) + text(2, value)


def test_deployment() -> None:
    container = text(1, "web") + text(2, "nginx") + text(6, text(1, "") + num(2, 0) + num(3, 80) + text(4, "") + text(5, "")) \
        + text(8, b"") + text(13, "") + num(16, 0)  # fmt: skip
    template = text(1, meta("") + text(11, entry("app", "web"))) + text(2, text(2, container) + text(3, "") + num(11, 0))
    spec = num(1, 2) + text(2, text(1, entry("app", "web"))) + text(3, template) + text(4, text(1, "")) + num(5, 0) + num(7, 0)
    assert decoded("apps/v1", "Deployment", text(1, meta("web")) + text(2, spec) + text(3, num(1, 0))) == {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "web", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {}}]},
            },
            "strategy": {},
        },
        "status": {},
    }  # fmt: skip


def test_pointers_keep_zero_and_negative_numbers() -> None:
    spec = num(1, 0)
    assert decoded("apps/v1", "Deployment", text(2, spec))["spec"] == {"replicas": 0}
    assert decoded("scheduling.k8s.io/v1", "PriorityClass", num(2, -5))["value"] == -5


def test_inlined_structures_are_spread_out() -> None:
    volume = text(1, "v") + text(2, text(19, text(1, text(1, "cm")) + num(3, 420)))
    get = text(2, text(1, "/x") + text(2, num(1, 1) + num(2, 0) + text(3, "http")))
    container = text(1, "c") + text(10, text(1, get) + num(2, 0))
    obj = decoded("v1", "Pod", text(2, text(1, volume) + text(2, container)))
    assert obj["spec"] == {
        "volumes": [{"name": "v", "configMap": {"name": "cm", "defaultMode": 420}}],
        "containers": [{"name": "c", "livenessProbe": {"httpGet": {"path": "/x", "port": "http"}}}],
    }


def test_bytes_quantities_times_and_lists_in_maps() -> None:
    assert decoded("v1", "Secret", text(2, entry("k", b"\xff\x00")))["data"] == {"k": "/wA="}
    quota = text(2, text(1, text(1, "cpu") + text(2, text(1, "500m"))))
    assert decoded("v1", "ResourceQuota", quota)["spec"] == {"hard": {"cpu": "500m"}}
    created = text(1, text(1, "x") + text(8, num(1, 1767225600)))
    assert decoded("v1", "Namespace", created)["metadata"] == {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}
    review = text(2, text(5, entry("groups", text(1, "a") + text(1, "b"))) + text(6, "u"))
    obj = decoded("authorization.k8s.io/v1", "SubjectAccessReview", review)
    assert obj["spec"]["uid"] == "u"
    assert obj["spec"]["extra"] == {"groups": ["a", "b"]}


def test_int_or_string() -> None:
    port = num(3, 80) + text(4, num(1, 0) + num(2, 8080) + text(3, "")) + num(5, 0)
    assert decoded("v1", "Service", text(2, text(1, port)))["spec"]["ports"] == [{"port": 80, "targetPort": 8080}]


def test_kinds_that_only_travel() -> None:
    spec = text(2, text(1, "aud") + num(4, 3600))
    assert decoded("authentication.k8s.io/v1", "TokenRequest", spec)["spec"] == {
        "audiences": ["aud"], "expirationSeconds": 3600}  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", b"k8s\x00", b"k8s\x00\xff", body("v1", "Nothing", b""), body("", "Pod", b""),
        body("v1", "Pod", b"\x0a\xff"), body("v1", "Pod", b"\x0b"), body("v1", "Pod", num(1, 5)),
        body("v1", "Pod", text(1, text(1, b"\xff\xfe"))), body("v1", "Pod", b"\xff" * 12),
        b"k8s\x00" + text(1, text(1, "v1") + text(2, "Pod")) + text(3, "gzip"),
        body("v1", "Namespace", text(1, text(8, num(1, 2**62)))),
    ],
)  # fmt: skip
def test_malformed_bodies_are_bad_requests(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        protobuf.decode(raw)


@given(st.binary(max_size=60), st.sampled_from([("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Secret")]))
def test_no_bytes_crash(raw: bytes, kind: tuple[str, str]) -> None:
    with contextlib.suppress(BadRequest):
        protobuf.decode(body(*kind, raw))
