"""Every kind, whole: well-typed but odd objects go through default, validate, update and the table without a crash."""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from nsk8s.api.decode import decode
from nsk8s.api.kinds import BUILTIN, builtin
from nsk8s.api.kinds.others import TOKEN_REQUEST
from nsk8s.api.models.base import SCALARS, Field, Model
from nsk8s.api.scheme import Kind, Scheme

NOW = datetime(2026, 1, 2, tzinfo=UTC)
_VALUES: dict[str, list[Any]] = {
    "str": ["", "x", "A_", "10.0.0.1", "a/b", "*.a", "é", "-", "25%", "Always", "RollingUpdate", "None", "http"],
    "bool": [True, False],
    "int32": [-1, 0, 1, 80, 70000, 2**31 - 1],
    "int64": [-1, 0, 1, 2**63 - 1],
    "float64": [0.5],
    "Bytes": ["", "YQ=="],
    "Time": ["2026-01-01T00:00:00Z", "1999-01-01T00:00:00Z"],
    "MicroTime": ["2026-01-01T00:00:00.000001Z"],
    "Quantity": ["0", "-1", "1Gi", "100m"],
    "IntOrString": [-1, 0, 80, "", "http", "25%", "300%", "%", "x%"],
    "Raw": [{}, {"a": [1]}, "x", 1],
}


def sample(model: type[Model], rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """An object of the model with a random half of its fields."""
    out: dict[str, Any] = {}
    for name, f in model.fields().items():
        if rng.random() < (0.7 if depth < 3 else 0.25) and depth < 12:
            out[name] = value(f, rng, depth)
    return out


def value(f: Field, rng: random.Random, depth: int) -> Any:
    def one() -> Any:
        if f.model is not None:
            return sample(f.model, rng, depth + 1)
        if f.enum and rng.random() < 0.7:
            return rng.choice(f.enum)
        return copy.deepcopy(rng.choice(_VALUES[f.item]))

    if f.container == "list":
        return [one() for _ in range(rng.randrange(3))]
    if f.container == "map":
        return {rng.choice(["a", "A/B", "", "cpu", "storage"]): [one()] if f.nested else one() for _ in range(2)}
    return one()


def identifier(kind: Kind) -> str:
    return f"{kind.api_version}/{kind.kind}"


@pytest.mark.parametrize("kind", BUILTIN, ids=identifier)
def test_odd_objects_do_not_crash_anything(kind: Kind) -> None:
    rng = random.Random(identifier(kind))
    previous: dict[str, Any] | None = None
    for _ in range(40):
        data = sample(kind.model, rng)
        data["metadata"] = {"name": rng.choice(["x", "X", "", "a.b"]), "namespace": "d", **data.get("metadata", {})}
        obj, unknown = decode(kind, data)
        assert unknown == []
        obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
        strategy = kind.strategy
        if strategy.default:
            strategy.default(obj)
            once = copy.deepcopy(obj)
            strategy.default(obj)
            assert obj == once, "defaulting twice must change nothing"
            assert decode(kind, copy.deepcopy(obj))[1] == [], "defaults must be fields of the model"
        if strategy.validate:
            strategy.validate(obj)
        if previous is not None:
            new = copy.deepcopy(obj)
            if strategy.prepare_update:
                strategy.prepare_update(new, copy.deepcopy(previous))
            if strategy.validate_update:
                strategy.validate_update(new, previous)
        if strategy.graceful:
            assert strategy.graceful(obj) >= 0
        cells = kind.printer.cells(obj, NOW)
        assert len(cells) == len(kind.printer.columns)
        assert all(isinstance(c, str | int | bool) for c in cells)
        for get in kind.fields.values():
            assert isinstance(get(obj), str)
        previous = obj


@pytest.mark.parametrize("kind", BUILTIN, ids=identifier)
def test_an_empty_object_is_refused_or_accepted_but_never_a_crash(kind: Kind) -> None:
    obj, _ = decode(kind, {"metadata": {}})
    if kind.strategy.default:
        kind.strategy.default(obj)
    if kind.strategy.validate:
        kind.strategy.validate(obj)
    kind.printer.cells(obj, NOW)


def test_names_are_unique_and_complete() -> None:
    scheme = Scheme(BUILTIN)
    assert len(scheme.kinds()) == len(BUILTIN)
    for kind in (*BUILTIN, TOKEN_REQUEST):
        assert kind.plural == kind.plural.lower()
        assert kind.model is not None
        if "list" in kind.verbs and kind.strategy.has_status:
            assert any(s.name == "status" for s in kind.subresources), kind.kind
        if kind.strategy.has_status is False:
            assert not any(s.name == "status" for s in kind.subresources), kind.kind
    in_all = {k.plural for k in BUILTIN if "all" in k.categories}
    assert in_all == {"pods", "services", "replicationcontrollers", "deployments", "replicasets", "statefulsets",
                      "daemonsets", "jobs", "cronjobs", "horizontalpodautoscalers"}  # fmt: skip
    eviction = next(s for s in builtin("", "Pod").subresources if s.name == "eviction")
    assert (eviction.kind, eviction.group, eviction.version) == ("Eviction", "policy", "v1")


def reachable(model: type[Model], seen: set[type[Model]]) -> set[type[Model]]:
    if model not in seen:
        seen.add(model)
        for f in model.fields().values():
            if f.model is not None:
                reachable(f.model, seen)
    return seen


def test_models_are_consistent() -> None:
    models: set[type[Model]] = set()
    for kind in (*BUILTIN, TOKEN_REQUEST):
        reachable(kind.model, models)
    assert len(models) > 300
    for model in models:
        numbers = [f.number for f in model.own_fields() if f.number]
        assert len(numbers) == len(set(numbers)), f"{model.__name__} has a protobuf number twice"
        for name, f in model.fields().items():
            where = f"{model.__name__}.{name}"
            assert (f.item in SCALARS) != (f.model is not None), where
            if f.merge_key:
                assert f.container == "list", where
                assert f.model, where
                assert f.merge_key in f.model.fields(), where
            for key in f.list_keys:
                assert f.container == "list", where
                assert f.model, where
                assert key in f.model.fields(), where
            assert (f.list_type == "map") == bool(f.list_keys), where


def test_events_are_one_kind_in_two_groups() -> None:
    core, group = builtin("", "Event"), builtin("events.k8s.io", "Event")
    assert group.convert
    assert group.convert == core.convert
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "m", "count": 2,
             "involvedObject": {"kind": "Pod"}, "source": {"component": "c"}}  # fmt: skip
    new = group.convert(event, "events.k8s.io/v1")
    assert new == {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "m",
                   "deprecatedCount": 2, "regarding": {"kind": "Pod"}, "deprecatedSource": {"component": "c"}}  # fmt: skip
    assert decode(group, copy.deepcopy(new))[1] == []
    assert group.convert(new, "v1") == event
    assert group.convert(event, "v1") == event


@pytest.mark.parametrize(
    ("group", "kind", "status"),
    [
        ("apps", "Deployment", {}), ("apps", "ReplicaSet", {"replicas": 0}),
        ("apps", "StatefulSet", {"replicas": 0, "availableReplicas": 0}),
        ("apps", "DaemonSet", {"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
        ("batch", "CronJob", {}),
    ],
)  # fmt: skip
def test_a_workload_has_a_status_before_any_controller_saw_it(group: str, kind: str, status: dict[str, int]) -> None:
    """Whoever reads `.status.replicas` of what was created this moment finds upstream's 0."""
    default = next(k for k in BUILTIN if (k.group, k.kind) == (group, kind)).strategy.default
    assert default is not None
    new: dict[str, Any] = {"metadata": {"name": "x"}, "spec": {}}
    default(new)
    assert new["status"] == status
    seen = {"metadata": {"name": "x"}, "spec": {}, "status": {"replicas": 3}}
    default(seen)
    assert seen["status"] == status | {"replicas": 3}
