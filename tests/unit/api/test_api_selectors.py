"""Label and field selectors, in text and as objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api.kinds import builtin
from nsk8s.api.selectors import (
    EVERYTHING,
    NOTHING,
    from_label_selector,
    from_set,
    parse_fields,
    parse_labels,
)
from nsk8s.errors import BadRequest

LABELS = {"app": "web", "tier": "front", "n": "5", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=db", False),
        ("app!=db", True),
        ("missing!=x", True),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("app notin (db)", True),
        ("missing notin (a,b)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("missing", False),
        ("n>4", True),
        ("n<5", False),
        ("app>4", False),
        ("empty=", True),
        ("app=", False),
        ("empty in ()", True),
        (" app = web , tier in ( front ) ", True),
        ("example.com/x=y", False),
    ],
)
def test_text(text: str, matches: bool) -> None:
    assert parse_labels(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a in", "unable to parse requirement: found '', expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b,", "unable to parse requirement: found '', expected: identifier after ','"),
        ("=b", "unable to parse requirement: found '=', expected: identifier"),
        ("a=b=c", "unable to parse requirement: found '=', expected: ',' or 'end of string'"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(BadRequest) as e:
        parse_labels(text)
    assert e.value.message == message


@pytest.mark.parametrize("text", ["a>x", "-a=b", "a=b/c", "a/b/c=d", "a=" + "x" * 64, "!", "(", ",", "a=!b"])
def test_more_bad_text(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_labels(text)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_bad_request(text: str) -> None:
    try:
        selector = parse_labels(text)
    except BadRequest:
        return
    assert parse_labels(str(selector)).matches(LABELS) is selector.matches(LABELS)


def test_label_selector_objects() -> None:
    selector = from_label_selector(
        {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}]}
    )
    assert selector.matches(LABELS)
    assert str(selector) == "app=web,tier!=back"
    assert from_label_selector(None) == NOTHING
    assert not NOTHING.matches(LABELS)
    assert from_label_selector({}) == EVERYTHING
    assert from_set({"app": "db"}).matches(LABELS) is False


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Near"},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"key": "a", "operator": "Gt", "values": ["x"]},
    ],
)
def test_bad_expressions(expression: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        from_label_selector({"matchExpressions": [expression]})


def test_fields() -> None:
    selector = parse_fields("status.phase!=Failed,spec.nodeName=n1,metadata.namespace=")
    assert selector.matches({"spec.nodeName": "n1"})
    assert not selector.matches({"spec.nodeName": "n1", "status.phase": "Failed"})
    assert not selector.matches({"spec.nodeName": "n1", "metadata.namespace": "x"})
    assert selector.exact("spec.nodeName") == "n1"
    assert selector.exact("status.phase") is None
    assert parse_fields(r"a=x\,y\=z\\").requirements[0].value == r"x,y=z\\"[:-1]


@pytest.mark.parametrize("text", ["abc", "a=b=c", r"a=\q", "a=b,c"])
def test_bad_fields(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_fields(text)


def test_fields_of_a_kind() -> None:
    pods, config_maps = builtin("", "Pod"), builtin("", "ConfigMap")
    pod = {"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    selector = parse_fields("spec.nodeName=n1,metadata.name=p,spec.hostNetwork=false,status.podIP=")
    selector.check(pods)
    assert selector.matches_object(pods, pod)
    assert not parse_fields("status.phase!=Running").matches_object(pods, pod)
    with pytest.raises(BadRequest, match=r"field label not supported: spec\.foo"):
        parse_fields("spec.foo=1").check(pods)
    with pytest.raises(BadRequest, match='"type" is not a known field selector: only "metadata'):
        parse_fields("type=1").check(config_maps)
