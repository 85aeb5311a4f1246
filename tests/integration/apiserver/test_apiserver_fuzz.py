"""No request makes the server answer 5xx, whatever is in its path, query, headers or body; and it says why in a Status."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import apiserver_fuzz as fuzz
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

TOO_NEW = "Too large resource version"
"""The one 504 that upstream gives to a request too: clients know it by its cause and list again."""

Seeds = st.integers(0, 2**32)
QUICK = settings(max_examples=800, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def target(apiserver_factory: Callable[..., Any]) -> tuple[Any, fuzz.Connection, fuzz.Kinds]:
    server = apiserver_factory()
    connection = fuzz.Connection(server.port, server.context())
    return server, connection, fuzz.Kinds(connection)


def check(target: tuple[Any, fuzz.Connection, fuzz.Kinds], request: tuple[str, str, bytes, dict[str, str]]) -> None:
    server, connection, _ = target
    code, raw = connection.ask(*request)
    assert code < 500 or TOO_NEW in raw.decode(), f"{request}: {code} {raw[:500]!r}\n{server.log()[-3000:]}"
    if code >= 400 and request[0] != "HEAD" and raw.startswith(b"{"):
        status = json.loads(raw)
        assert (status["kind"], status["code"]) == ("Status", code), request
        assert status["message"], request


@example(40017)
@given(Seeds)
@QUICK
def test_objects_that_were_right_before_some_of_it_was_changed(target: Any, seed: int) -> None:
    check(target, fuzz.nearly_valid(Random(seed)))


@given(Seeds)
@QUICK
def test_random_requests(target: Any, seed: int) -> None:
    check(target, fuzz.request(Random(seed), target[2]))


def test_it_serves_on_after_all_that(target: Any) -> None:
    assert target[1].ask("GET", "/readyz") == (200, b"ok")
