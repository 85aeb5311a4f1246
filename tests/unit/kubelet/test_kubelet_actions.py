"""compute_pod_actions against what upstream's computePodActions does."""

from __future__ import annotations

import pytest
from kubelet_objects import box, dead, pod, ran, runtime, spec

from nsk8s.kubelet.actions import Actions, compute_pod_actions
from nsk8s.kubelet.podruntime import CREATED, UNKNOWN, garbage

SIDE = spec("side", restartPolicy="Always")


def act(p, r, probes=None) -> Actions:
    return compute_pod_actions(p, r, probes or {})


def test_a_new_pod_gets_a_sandbox_and_its_containers():
    assert act(pod(spec("a"), spec("b")), runtime(boxes=())) == Actions(
        kill_pod=True, create_sandbox=True, attempt=0, to_start=[0, 1]
    )


def test_a_new_pod_with_init_containers_starts_with_the_first():
    actions = act(pod(init=(spec("i"), spec("j"))), runtime(boxes=()))
    assert (actions.init_to_start, actions.to_start) == ([0], [])


def test_a_running_pod_wants_nothing():
    assert not act(pod(), runtime(ran()))


@pytest.mark.parametrize("boxes", [(box(0, ready=False),), (box(0, ip=""),), (box(1), box(0))])
def test_a_sandbox_that_is_dead_double_or_without_address_is_remade(boxes):
    actions = act(pod(), runtime(dead(), boxes=boxes))
    assert actions.kill_pod
    assert actions.create_sandbox
    assert actions.attempt == boxes[0].attempt + 1
    assert actions.sandbox_id == boxes[0].id
    assert actions.to_start == [0]


def test_a_pod_in_the_hosts_network_needs_no_address():
    assert not act(pod(hostNetwork=True), runtime(ran(), boxes=(box(ip=""),)))


def test_what_must_not_run_again_gets_no_new_sandbox():
    actions = act(pod(restartPolicy="Never"), runtime(dead(), boxes=(box(ready=False),)))
    assert actions.kill_pod
    assert not actions.create_sandbox
    assert act(pod(restartPolicy="Never"), runtime(boxes=(box(ready=False),))).create_sandbox, "nothing has run yet"
    succeeded = act(pod(restartPolicy="OnFailure"), runtime(dead(), boxes=(box(ready=False),)))
    assert not succeeded.create_sandbox
    failed = act(pod(restartPolicy="OnFailure"), runtime(dead(code=1), boxes=(box(ready=False),)))
    assert failed.to_start == [0]


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Never", 0, False),
     ("Never", 1, False)],
)  # fmt: skip
def test_restart_policy(policy, code, again):
    actions = act(pod(restartPolicy=policy), runtime(dead(code=code)))
    assert actions.to_start == ([0] if again else [])
    assert actions.kill_pod is not again


def test_only_the_container_that_ended_is_restarted():
    actions = act(pod(spec("a"), spec("b")), runtime(ran("a"), dead("b", 1)))
    assert (actions.to_start, actions.to_kill, actions.kill_pod) == ([1], [], False)


def test_created_and_unknown_containers_are_started_again_whatever_the_policy():
    assert act(pod(restartPolicy="Never"), runtime(ran(state=CREATED))).to_start == [0]
    actions = act(pod(), runtime(ran(state=UNKNOWN)))
    assert actions.to_start == [0]
    assert actions.to_kill[0].container.state == UNKNOWN


def test_another_image_restarts_the_container_even_with_never():
    changed = spec()
    changed["image"] = "app:2"
    actions = act(pod(changed, restartPolicy="Never"), runtime(ran()))
    assert actions.to_start == [0]
    assert actions.to_kill[0].message == "Container main definition changed, will be restarted"


@pytest.mark.parametrize("kind", ["liveness", "startup"])
def test_a_failed_probe_kills_and_the_policy_decides_over_the_restart(kind):
    actions = act(pod(), runtime(ran()), {(kind, "main-0"): False})
    assert actions.to_kill[0].message == f"Container main failed {kind} probe, will be restarted"
    assert actions.to_start == [0]
    never = act(pod(restartPolicy="Never"), runtime(ran()), {(kind, "main-0"): False})
    assert never.to_kill[0].message == f"Container main failed {kind} probe"
    assert never.to_start == []
    assert never.kill_pod, "nothing is left to run"
    assert not act(pod(), runtime(ran()), {(kind, "main-9"): False}), "another container's result"


def test_readiness_kills_nobody():
    assert not act(pod(), runtime(ran()), {("readiness", "main-0"): False})


def test_init_containers_run_one_after_the_other():
    p = pod(init=(spec("i"), spec("j")))
    assert act(p, runtime()).init_to_start == [0]
    assert not act(p, runtime(ran("i")))
    assert act(p, runtime(dead("i"))).init_to_start == [1]
    assert act(p, runtime(dead("i"), dead("j"))).to_start == [0]
    assert act(p, runtime(dead("j"))).to_start == [0], "the first has been collected already"
    assert not act(p, runtime(ran())), "initialized pods need no init containers, found or not"


def test_a_failed_init_container():
    assert act(pod(init=(spec("i"),)), runtime(dead("i", 1))).init_to_start == [0]
    never = act(pod(init=(spec("i"),), restartPolicy="Never"), runtime(dead("i", 1)))
    assert never.kill_pod
    assert never.init_to_start == []


def test_a_new_sandbox_is_initialized_afresh():
    p = pod(init=(spec("i"),))
    old = (dead("i"), dead("main", 137))
    assert act(p, runtime(*old, boxes=(box(1), box(0, ready=False)))).init_to_start == [0]


def test_a_sidecar_lets_the_next_begin_when_it_has_started():
    p = pod(init=(SIDE, spec("j")))
    assert act(p, runtime(ran("side"))).init_to_start == [1]
    probed = pod(init=({**SIDE, "startupProbe": {"exec": {}}}, spec("j")))
    assert act(probed, runtime(ran("side"))).init_to_start == []
    assert act(probed, runtime(ran("side")), {("startup", "side-0"): True}).init_to_start == [1]
    failed = act(probed, runtime(ran("side")), {("startup", "side-0"): False})
    assert failed.init_to_start == [0]
    assert failed.to_kill[0].reason == "FailedStartupProbe"


def test_a_sidecar_is_restarted_beside_running_containers():
    p = pod(init=(SIDE,), restartPolicy="Never")
    actions = act(p, runtime(dead("side", 1), ran()))
    assert (actions.init_to_start, actions.to_start) == ([0], [])
    assert act(p, runtime(ran())).init_to_start == [0], "its traces are gone"
    unhealthy = act(p, runtime(ran("side"), ran()), {("liveness", "side-0"): False})
    assert unhealthy.init_to_start == [0]
    assert unhealthy.to_kill[0].message == "Init container side failed liveness probe, will be restarted"


def test_a_pod_that_is_done_needs_no_sidecar():
    actions = act(pod(init=(SIDE,), restartPolicy="Never"), runtime(ran("side"), dead()))
    assert actions.kill_pod
    assert actions.init_to_start == []


def test_nothing_is_started_in_a_deleted_pod():
    gone = pod(meta={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert act(gone, runtime(dead(code=1))).to_start == []


def test_ephemeral_containers_start_once_and_without_waiting_for_initialization():
    p = pod(init=(spec("i"),), ephemeralContainers=[spec("debug")])
    assert act(p, runtime(ran("i"))).ephemeral_to_start == [0]
    assert act(p, runtime(ran("i"), dead("debug"))).ephemeral_to_start == []


def test_garbage_keeps_the_newest_and_one_before_it():
    r = runtime(ran(attempt=3), dead(attempt=2), dead(attempt=1), dead(attempt=0), boxes=(box(1), box(0, ready=False)))
    assert garbage(r) == (["main-1", "main-0"], [])
    moved = runtime(ran(attempt=3, sandbox=1), dead(attempt=2, sandbox=1), dead(attempt=1), boxes=(box(1), box(0, ready=False)))
    assert garbage(moved) == (["main-1"], ["box0"])
    previous = runtime(ran(attempt=1, sandbox=1), dead(attempt=0), boxes=(box(1), box(0, ready=False)))
    assert garbage(previous) == ([], []), "logs --previous needs the old sandbox's container"
