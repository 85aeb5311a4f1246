"""Server-side apply: who owns what, conflicts, what goes when it is no longer applied."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api.kinds import builtin
from nsk8s.api.patch.apply import apply, entries_of, track_update
from nsk8s.api.patch.fieldset import from_fields_v1, shown, to_fields_v1
from nsk8s.api.scheme import Kind
from nsk8s.errors import BadRequest, Conflict

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEPLOYMENT = builtin("apps", "Deployment")


def config(**spec: Any) -> dict[str, Any]:
    container = {"name": "a", "image": "1", "ports": [{"containerPort": 80}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x", "namespace": "d", "labels": {"l": "1"}},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [container]}},
            **spec,
        },
    }


def book(obj: dict[str, Any]) -> dict[str, Any]:
    return {f"{e['manager']}/{e['operation']}": e["fieldsV1"] for e in obj["metadata"].get("managedFields", [])}


def updated(obj: dict[str, Any], manager: str, **spec: Any) -> dict[str, Any]:
    new = copy.deepcopy(obj)
    for key, value in spec.items():
        if value is None:
            new["spec"].pop(key, None)
        else:
            new["spec"][key] = value
    track_update(DEPLOYMENT, obj, new, manager, NOW)
    return new


def test_create_owns_exactly_what_was_applied() -> None:
    obj = apply(DEPLOYMENT, None, config(replicas=1), "kubectl", NOW)
    assert book(obj) == {
        "kubectl/Apply": {
            "f:metadata": {"f:labels": {"f:l": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {"f:app": {}}},
                    "f:spec": {
                        "f:containers": {
                            'k:{"name":"a"}': {
                                ".": {},
                                "f:name": {},
                                "f:image": {},
                                "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
                            }
                        }
                    },
                },
            },
        }
    }
    assert obj["metadata"]["managedFields"][0]["time"] == "2026-01-01T00:00:00Z"


def test_conflict_in_upstreams_words() -> None:
    obj = updated(apply(DEPLOYMENT, None, config(replicas=1), "kubectl", NOW), "scaler", replicas=5)
    assert book(obj)["scaler/Update"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in book(obj)["kubectl/Apply"]["f:spec"]
    with pytest.raises(Conflict) as e:
        apply(DEPLOYMENT, obj, config(replicas=1), "kubectl", NOW)
    assert e.value.message == 'Apply failed with 1 conflict: conflict with "scaler" using apps/v1: .spec.replicas'
    assert e.value.details["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "scaler" using apps/v1',
            "field": ".spec.replicas",
        }
    ]


def test_conflicts_of_several_managers() -> None:
    first = apply(DEPLOYMENT, None, config(replicas=1, paused=True), "one", NOW)
    both = config(replicas=2)
    both["spec"]["template"]["spec"]["containers"][0]["image"] = "2"
    with pytest.raises(Conflict) as e:
        apply(DEPLOYMENT, first, both, "two", NOW)
    assert e.value.message == (
        'Apply failed with 2 conflicts: conflicts with "one":\n- .spec.replicas\n'
        '- .spec.template.spec.containers[name="a"].image'
    )


def test_force_takes_over() -> None:
    obj = updated(apply(DEPLOYMENT, None, config(replicas=1), "kubectl", NOW), "scaler", replicas=5)
    out = apply(DEPLOYMENT, obj, config(replicas=1), "kubectl", NOW, force=True)
    assert out["spec"]["replicas"] == 1
    assert set(book(out)) == {"kubectl/Apply"}


def test_the_same_value_is_shared() -> None:
    obj = apply(DEPLOYMENT, None, config(replicas=2), "one", NOW)
    obj = apply(DEPLOYMENT, obj, config(replicas=2), "two", NOW)
    assert {e.manager for e in entries_of(obj) if ("f:spec", "f:replicas") in e.fields} == {"one", "two"}
    obj = apply(DEPLOYMENT, obj, config(), "one", NOW)
    assert obj["spec"]["replicas"] == 2, "the other one still wants it"
    obj = apply(DEPLOYMENT, obj, config(), "two", NOW)
    assert "replicas" not in obj["spec"]


def test_what_is_no_longer_applied_goes_with_what_hangs_on_it() -> None:
    obj = apply(DEPLOYMENT, None, config(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3}}), "k", NOW)
    assert DEPLOYMENT.strategy.default
    DEPLOYMENT.strategy.default(obj)
    assert obj["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 3, "maxUnavailable": "25%"}
    out = apply(DEPLOYMENT, obj, config(), "k", NOW)
    assert "strategy" not in out["spec"], "defaults that nobody owns go with the structure"
    assert out["spec"]["progressDeadlineSeconds"] == 600


def test_list_items_come_and_go_by_key() -> None:
    two = config()
    two["spec"]["template"]["spec"]["containers"].append({"name": "b", "image": "1"})
    obj = apply(DEPLOYMENT, None, two, "k", NOW)
    out = apply(DEPLOYMENT, obj, config(), "k", NOW)
    assert [c["name"] for c in out["spec"]["template"]["spec"]["containers"]] == ["a"]


def test_an_item_somebody_else_uses_stays_and_keeps_its_key() -> None:
    two = config()
    two["spec"]["template"]["spec"]["containers"].append({"name": "b", "image": "1", "tty": True})
    obj = apply(DEPLOYMENT, None, two, "k", NOW)
    new = copy.deepcopy(obj)
    new["spec"]["template"]["spec"]["containers"][1]["image"] = "2"
    track_update(DEPLOYMENT, obj, new, "setter", NOW)
    out = apply(DEPLOYMENT, new, config(), "k", NOW)
    assert out["spec"]["template"]["spec"]["containers"][1] == {"name": "b", "image": "2"}


def test_atomic_parts_are_owned_whole() -> None:
    obj = apply(DEPLOYMENT, None, config(), "k", NOW)
    other = config()
    other["spec"]["selector"] = {"matchLabels": {"app": "x", "b": "c"}}
    with pytest.raises(Conflict, match=r"\.spec\.selector"):
        apply(DEPLOYMENT, obj, other, "o", NOW)


def test_applying_again_changes_nothing_not_even_the_time() -> None:
    obj = apply(DEPLOYMENT, None, config(replicas=1), "k", NOW)
    assert apply(DEPLOYMENT, obj, config(replicas=1), "k", NOW + timedelta(days=1)) == obj


def test_refused_configurations() -> None:
    owned = config()
    owned["metadata"]["managedFields"] = [{"manager": "x"}]
    with pytest.raises(BadRequest, match="managedFields must be nil"):
        apply(DEPLOYMENT, None, owned, "k", NOW)
    twice = config()
    twice["spec"]["template"]["spec"]["containers"] *= 2
    with pytest.raises(BadRequest, match="duplicate entries for key"):
        apply(DEPLOYMENT, None, twice, "k", NOW)
    nameless = config()
    nameless["spec"]["template"]["spec"]["containers"] = [{"image": "1"}]
    with pytest.raises(BadRequest, match="omits key field"):
        apply(DEPLOYMENT, None, nameless, "k", NOW)


def test_status_and_spec_are_booked_apart() -> None:
    obj = apply(DEPLOYMENT, None, config(), "k", NOW)
    new = copy.deepcopy(obj)
    new["status"] = {"replicas": 1}
    new["metadata"]["labels"]["x"] = "y"
    track_update(DEPLOYMENT, obj, new, "controller", NOW, subresource="status")
    entry = next(e for e in new["metadata"]["managedFields"] if e["manager"] == "controller")
    assert entry["subresource"] == "status"
    assert entry["fieldsV1"] == {"f:status": {".": {}, "f:replicas": {}}}


def test_removed_fields_have_no_owner_and_many_updaters_are_folded() -> None:
    obj = apply(DEPLOYMENT, None, config(), "k", NOW)
    for i in range(14):
        obj = updated(obj, f"m{i}", **{f"x{i}": i})
    managers = [e["manager"] for e in obj["metadata"]["managedFields"] if e["operation"] == "Update"]
    assert len(managers) == 10
    assert "ancient-changes" in managers
    obj = updated(obj, "last", x13=None)
    assert "m13" not in [e["manager"] for e in obj["metadata"]["managedFields"]]


def test_an_emptied_book_starts_again() -> None:
    obj = apply(DEPLOYMENT, None, config(replicas=1), "k", NOW)
    new = copy.deepcopy(obj)
    new["metadata"]["managedFields"] = [{}]
    track_update(DEPLOYMENT, obj, new, "o", NOW)
    assert "managedFields" not in new["metadata"]


def test_custom_resources_follow_their_schema() -> None:
    items = {"type": "object", "properties": {"id": {"type": "string"}, "v": {"type": "integer"}}}
    keyed = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"], "items": items}
    plain = {"type": "array", "items": {"type": "string"}}
    unique = {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}
    spec = {"type": "object", "properties": {"keyed": keyed, "plain": plain, "unique": unique}}
    kind = Kind("g.io", "v1", "K", "ks", True, schema={"type": "object", "properties": {"spec": spec}})
    one = apply(kind, None, {"metadata": {"name": "n"}, "spec": {
        "keyed": [{"id": "a", "v": 1}], "plain": ["x"], "unique": ["p"]}}, "one", NOW)  # fmt: skip
    two = apply(kind, one, {"metadata": {"name": "n"}, "spec": {"keyed": [{"id": "b"}], "unique": ["q"]}}, "two", NOW)
    assert two["spec"] == {"keyed": [{"id": "a", "v": 1}, {"id": "b"}], "plain": ["x"], "unique": ["p", "q"]}
    with pytest.raises(Conflict, match=r"\.spec\.plain"):
        apply(kind, two, {"metadata": {"name": "n"}, "spec": {"plain": ["y"]}}, "two", NOW)


PATHS = st.frozensets(
    st.lists(st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"']), min_size=1, max_size=4).map(tuple), max_size=6
)


@given(PATHS)
def test_fields_v1_round_trip(paths: frozenset[tuple[str, ...]]) -> None:
    assert from_fields_v1(to_fields_v1(paths)) == paths


def test_paths_as_text() -> None:
    path = ("f:spec", 'k:{"containerPort":80,"protocol":"TCP"}', 'v:"x"')
    assert shown(path) == '.spec[containerPort=80,protocol="TCP"][="x"]'


def test_an_atomic_value_without_its_defaults_is_no_conflict() -> None:
    kind = DEPLOYMENT

    def deployment(path: str) -> dict[str, Any]:
        reference = {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": path}}}
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "env": [reference]}]}}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
                "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}  # fmt: skip

    live = deployment("metadata.name")
    assert kind.strategy.default is not None
    kind.strategy.default(live)
    track_update(kind, None, live, "client-side", NOW)
    apply(kind, live, deployment("metadata.name"), "me", NOW)
    with pytest.raises(Conflict, match="fieldRef"):
        apply(kind, live, deployment("metadata.uid"), "me", NOW)
