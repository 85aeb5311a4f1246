"""Environment variables: expansion, references, downward API, services."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubelet_objects import pod, spec

from nsk8s.kubelet.env import (
    ConfigError,
    expand,
    format_map,
    make_environment,
    pod_field,
    references,
    resource_field,
    service_info,
    service_variables,
    visible_services,
)

VARS = {"A": "1", "B": "two", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("$(A)", "1"), ("x$(A)y$(B)", "x1ytwo"), ("$(NONE)", "$(NONE)"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$", "$"),
        ("$A", "$A"), ("$(A", "$(A"), ("$()", "$()"), ("a$$b", "a$b"), ("$(EMPTY)x", "x"), ("$(A)$", "1$"), ("", ""),
    ],
)  # fmt: skip
def test_expansion_as_upstream(text, out):
    assert expand(text, VARS) == out


@given(st.text(alphabet="$()AB x", max_size=30))
def test_expansion_never_fails_and_leaves_plain_text_alone(text):
    out = expand(text, VARS)
    if "$" not in text:
        assert out == text


def service(name="web-app", namespace="default", ip="10.96.0.5", ports=(("http", 80, "TCP"), ("dns", 53, "UDP"))):
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "ports": [{"name": n, "port": p, "protocol": q} for n, p, q in ports]},
    }


def info(*args, **kwargs):
    found = service_info(service(*args, **kwargs))
    assert found
    return found


def test_service_variables():
    assert service_variables([info()]) == {
        "WEB_APP_SERVICE_HOST": "10.96.0.5",
        "WEB_APP_SERVICE_PORT": "80",
        "WEB_APP_SERVICE_PORT_HTTP": "80",
        "WEB_APP_SERVICE_PORT_DNS": "53",
        "WEB_APP_PORT": "tcp://10.96.0.5:80",
        "WEB_APP_PORT_80_TCP": "tcp://10.96.0.5:80",
        "WEB_APP_PORT_80_TCP_PROTO": "tcp",
        "WEB_APP_PORT_80_TCP_PORT": "80",
        "WEB_APP_PORT_80_TCP_ADDR": "10.96.0.5",
        "WEB_APP_PORT_53_UDP": "udp://10.96.0.5:53",
        "WEB_APP_PORT_53_UDP_PROTO": "udp",
        "WEB_APP_PORT_53_UDP_PORT": "53",
        "WEB_APP_PORT_53_UDP_ADDR": "10.96.0.5",
    }
    assert service_variables([info(ip="fd00::1")])["WEB_APP_PORT"] == "tcp://[fd00::1]:80"


def test_which_services_a_pod_sees():
    services = [info("kubernetes"), info("a", "team"), info("b", "other"), info("c")]
    assert [s.name for s in visible_services(services, "team", True)] == ["a", "kubernetes"]
    assert [s.name for s in visible_services(services, "team", False)] == ["kubernetes"]
    assert service_info(service(ip="None")) is None


def env(container, p=None, objects=None, services=(), fields=None):
    known = objects or {}
    return make_environment(
        p or pod(container), container, services=services, get=lambda kind, name: known.get((kind, name)),
        runtime_fields=fields or {}, allocatable={"cpu": "2", "memory": "1Gi"},
    )  # fmt: skip


def secret(**data):
    return {"data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}}


def test_precedence_services_then_env_from_then_env():
    container = spec(
        envFrom=[{"configMapRef": {"name": "c"}}, {"prefix": "P_", "secretRef": {"name": "s"}}],
        env=[{"name": "A", "value": "$(B)-$(P_K)-$(KUBERNETES_SERVICE_HOST)"}, {"name": "D", "value": "$(A)"},
             {"name": "B", "value": "late"}],
    )  # fmt: skip
    objects = {
        ("configmaps", "c"): {"data": {"A": "a", "B": "b", "KUBERNETES_SERVICE_PORT": "1"}},
        ("secrets", "s"): secret(K="k"),
    }
    result = env(container, objects=objects, services=[info("kubernetes", ports=(("https", 443, "TCP"),))])
    assert result["A"] == "b-k-10.96.0.5"
    assert result["D"] == "b-k-10.96.0.5"
    assert result["B"] == "late"
    assert result["P_K"] == "k"
    assert result["KUBERNETES_SERVICE_PORT"] == "1"
    assert result["KUBERNETES_PORT_443_TCP_PORT"] == "443"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ({"configMapKeyRef": {"name": "no", "key": "k"}}, 'configmap "no" not found'),
        ({"secretKeyRef": {"name": "no", "key": "k"}}, 'secret "no" not found'),
        ({"configMapKeyRef": {"name": "c", "key": "k"}}, "couldn't find key k in ConfigMap default/c"),
        ({"fieldRef": {"fieldPath": "spec.bogus"}}, "unsupported fieldPath: spec.bogus"),
    ],
)
def test_what_is_missing_is_said(variable, message):
    container = spec(env=[{"name": "X", "valueFrom": variable}])
    with pytest.raises(ConfigError) as e:
        env(container, objects={("configmaps", "c"): {"data": {}}})
    assert str(e.value) == message


def test_optional_references_leave_nothing():
    container = spec(
        env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}}],
        envFrom=[{"configMapRef": {"name": "no", "optional": True}}],
    )
    assert env(container) == {}
    assert references(pod(container)) == [("configmaps", "no"), ("secrets", "no")]


def test_downward_api():
    p = pod(meta={"labels": {"app": "web", "a/b": 'q"'}, "annotations": {"n": "l1\nl2"}}, serviceAccountName="sa")
    assert pod_field(p, "metadata.name", {}) == "p"
    assert pod_field(p, "metadata.labels['app']", {}) == "web"
    assert pod_field(p, "metadata.annotations['none']", {}) == ""
    assert pod_field(p, "metadata.labels", {}) == 'a/b="q\\""\napp="web"'
    assert format_map({"n": "l1\nl2"}) == 'n="l1\\nl2"'
    assert pod_field(p, "spec.serviceAccountName", {}) == "sa"
    assert pod_field(p, "status.podIP", {"status.podIP": "10.1.1.1"}) == "10.1.1.1"


def test_resource_fields():
    p = pod(spec(resources={"limits": {"memory": "100Mi"}, "requests": {"cpu": "1500m"}}))

    def value(resource, divisor=None):
        return resource_field(p, {"resource": resource, "divisor": divisor}, "main", {"cpu": "4"})

    assert value("limits.memory") == str(100 << 20)
    assert value("limits.memory", "1Mi") == "100"
    assert value("requests.cpu") == "2", "rounded up"
    assert value("requests.cpu", "1m") == "1500"
    assert value("limits.cpu") == "4", "without a limit the node's allocatable"
    with pytest.raises(ConfigError):
        value("limits.bogus")
