"""Probes: thresholds, targets, requests and answers, pure."""

from __future__ import annotations

import pytest
from kubelet_objects import spec

from nsk8s.kubelet.probing import (
    HTTPTarget,
    Judge,
    http_target,
    parse_answer,
    quick_retries,
    render_request,
    resolve_port,
    timing,
)

PORTS = spec(ports=[{"name": "web", "containerPort": 8080}])


def run(judge, outcomes):
    return [(judge.observe(o == "+"), judge.settled) for o in outcomes]


def test_thresholds_count_consecutive_outcomes():
    judge = Judge(success_threshold=2, failure_threshold=3, settled=False)
    assert run(judge, "+-+") == [(False, False)] * 3
    assert run(judge, "+") == [(True, True)]
    assert run(judge, "--+--") == [(False, True)] * 5
    assert run(judge, "-") == [(True, False)]
    assert run(judge, "--") == [(False, False)] * 2


def test_the_first_result_is_no_change_of_what_was_assumed():
    assert run(Judge(1, 3, True), "+") == [(False, True)]
    assert run(Judge(1, 3, None), "+") == [(True, True)]


def test_defaults():
    assert timing({}) == (timing({"periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3}))
    assert timing({"periodSeconds": 0}).period_s == 10


def test_extra_tries_are_for_readiness_and_startup_only():
    assert quick_retries("liveness", {"httpGet": {}}) == ()
    assert quick_retries("readiness", {"httpGet": {}, "successThreshold": 2}) == ()
    assert sum(quick_retries("readiness", {"httpGet": {}})) < 1
    assert len(quick_retries("startup", {"exec": {"command": ["x"]}})) < len(quick_retries("startup", {"tcpSocket": {}}))


def test_ports():
    assert [resolve_port(PORTS, p) for p in (80, "81", "web")] == [80, 81, 8080]
    with pytest.raises(ValueError, match='couldn\'t find port: "nope" in container main'):
        resolve_port(PORTS, "nope")
    with pytest.raises(ValueError):
        resolve_port(PORTS, 70000)


def test_the_request():
    action = {"path": "health z", "port": "web", "httpHeaders": [{"name": "Host", "value": "a"}, {"name": "X", "value": "1"}]}
    target = http_target(action, PORTS, "10.1.1.1")
    assert target.url == "http://10.1.1.1:8080/health z"
    assert render_request(target) == (
        b"GET /health%20z HTTP/1.1\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nHost: a\r\nX: 1\r\nConnection: close\r\n\r\n"
    )
    assert http_target({"port": 1, "scheme": "HTTPS", "host": "fd00::1"}, PORTS, "x").url == "https://[fd00::1]:1/"
    assert b"Evil" not in render_request(HTTPTarget("http", "h", 1, "/", (("A", "b\r\nEvil: 1"),)))


def test_answers():
    answer = parse_answer(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\nbody")
    assert answer is not None
    assert (answer.status, answer.headers["location"], answer.body) == (302, "/x", b"body")
    assert parse_answer(b"SSH-2.0\r\n\r\n") is None
    assert parse_answer(b"") is None
