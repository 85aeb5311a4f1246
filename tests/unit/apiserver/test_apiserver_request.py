"""Paths and queries become what upstream's RequestInfo says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.apiserver.request import parse
from nsk8s.errors import BadRequest

CASES = [
    ("GET", "/api/v1/pods", ("list", "", "v1", "", "pods", "", "")),
    ("GET", "/api/v1/pods?watch=true", ("watch", "", "v1", "", "pods", "", "")),
    ("GET", "/api/v1/pods?watch=0", ("list", "", "v1", "", "pods", "", "")),
    ("GET", "/api/v1/watch/namespaces/a/pods", ("watch", "", "v1", "a", "pods", "", "")),
    ("GET", "/api/v1/namespaces/a/pods/b", ("get", "", "v1", "a", "pods", "b", "")),
    ("GET", "/api/v1/namespaces/a/pods/b/log", ("get", "", "v1", "a", "pods", "b", "log")),
    ("POST", "/apis/apps/v1/namespaces/a/deployments", ("create", "apps", "v1", "a", "deployments", "", "")),
    ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", ("patch", "apps", "v1", "a", "deployments", "d", "scale")),
    ("DELETE", "/api/v1/namespaces/a/pods", ("deletecollection", "", "v1", "a", "pods", "", "")),
    ("DELETE", "/api/v1/namespaces/a", ("delete", "", "v1", "a", "namespaces", "a", "")),
    ("GET", "/api/v1/namespaces/a/status", ("get", "", "v1", "a", "namespaces", "a", "status")),
    ("PUT", "/api/v1/namespaces/a/finalize", ("update", "", "v1", "a", "namespaces", "a", "finalize")),
    ("GET", "/api/v1/nodes/n/proxy/metrics", ("get", "", "v1", "", "nodes", "n", "proxy")),
]


@pytest.mark.parametrize(("method", "target", "wanted"), CASES)
def test_resource_requests(method: str, target: str, wanted: tuple[str, ...]) -> None:
    info = parse(method, target)
    assert info.is_resource
    assert (info.verb, info.group, info.version, info.namespace, info.resource, info.name, info.subresource) == wanted


@pytest.mark.parametrize("target", ["/", "/api", "/apis/apps/v1", "/version", "/api/v1/namespaces/../nodes", "/api/v1/%2e%2e/x"])
def test_other_requests_are_about_their_path(target: str) -> None:
    info = parse("GET", target)
    assert (info.is_resource, info.verb) == (False, "get")


@pytest.mark.parametrize("target", ["/api/v1/pods/%00", "/api/v1/%ff", "/api?a=%ff", "/api?" + "a=1&" * 2000])
def test_what_nobody_should_send(target: str) -> None:
    with pytest.raises(BadRequest):
        parse("GET", target)


@given(st.text(st.characters(codec="ascii"), max_size=80))
def test_any_target_is_read_or_refused(text: str) -> None:
    try:
        info = parse("GET", "/" + text)
        info.number("limit"), info.flag("watch")
    except BadRequest:
        return
    assert not info.is_resource or info.resource
